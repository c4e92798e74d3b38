"""What an exhibit is, and how the wrong version of a function is made from the right one.

One idea: a bug is a small *change* of the right function. An exhibit holds only that change, so it
cannot drift away from the package: the wrong function is built from the package's own source, and
if the changed lines are no longer there, a test says so.

The wrong function becomes a small file of its own, with the imports it needs. The same file can be
given to `python -m chapters.check` or to `python -m pytest --implementation`.

Read before: ../substitute.py. Left out: bugs that need more than one function.
"""

import ast
import difflib
import inspect
import math
import pkgutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from chapters.check.substitute import load_file, substituted

Points = list[tuple[float, float]]  # a curve: (x, y), (x, y), ...


@dataclass(frozen=True)
class Symptom:
    """A small experiment that shows the bug: run once with the right function, once with the
    wrong one."""

    run: Callable[[], Points]
    x: str  # what the curve is drawn over
    y: str  # what it shows
    least: float  # somewhere the two curves are at least so far apart


@dataclass(frozen=True)
class Exhibit:
    """One silent bug."""

    name: str
    title: str  # one line, gives nothing away
    target: str  # the right function, "kittenllm.ppo.gae" or "kittenllm.gpt.KVCache.keep"
    changes: tuple[tuple[str, str], ...]  # (right lines, wrong lines)
    symptom: Symptom
    seen: str  # what one can see, before the answer
    answer: str  # what is wrong
    story: str  # where it was seen, and why nobody notices
    killed_by: tuple[str, ...]  # tests that fail with the wrong function
    exercise: str | None = None  # the exercise in which the function is written by hand


# ----------------------------------------------------------------- from the right to the wrong code


def function_of(target: str) -> tuple[object, str]:
    """The object that an exhibit replaces, and its qualified name: a method's whole class.

    Raises: ValueError for a name that does not exist.
    """
    try:
        owner = pkgutil.resolve_name(target.rpartition(".")[0])
        function = pkgutil.resolve_name(target)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is nothing called {target}") from error
    if isinstance(owner, ModuleType):
        return function, target
    return owner, target.rpartition(".")[0]


@cache
def raw_source(target: str) -> str:
    """The right function as it stands in its file, decorators and indentation included."""
    return inspect.getsource(pkgutil.resolve_name(target))


def right_source(exhibit: Exhibit) -> str:
    """The right function, without indentation."""
    return textwrap.dedent(raw_source(exhibit.target))


def changed(exhibit: Exhibit) -> str:
    """The wrong function with the indentation of the right one.

    Raises: ValueError if the lines to be changed do not stand there exactly once.
    """
    source = raw_source(exhibit.target)
    for right, wrong in exhibit.changes:
        count = source.count(right)
        if count != 1:
            raise ValueError(f"{exhibit.name}: {right!r} stands {count} times in {exhibit.target}")
        source = source.replace(right, wrong)
    return source


def wrong_source(exhibit: Exhibit) -> str:
    """The wrong function, without indentation: what the visitor sees."""
    return textwrap.dedent(changed(exhibit))


def wrong_lines(exhibit: Exhibit) -> set[int]:
    """Numbers of the changed lines in `wrong_source`, from 1. Every change leaves a line behind."""
    right, wrong = (s.splitlines() for s in (right_source(exhibit), wrong_source(exhibit)))
    lines: set[int] = set()
    for kind, _, _, first, last in difflib.SequenceMatcher(a=right, b=wrong).get_opcodes():
        if kind != "equal":
            lines |= set(range(first + 1, last + 1))
    return lines


def difference_of_code(exhibit: Exhibit) -> list[str]:
    """The changed lines: "- " how it must be, "+ " how it stands in the museum."""
    right, wrong = (s.splitlines() for s in (right_source(exhibit), wrong_source(exhibit)))
    diff = difflib.unified_diff(right, wrong, lineterm="", n=0)
    return [
        f"{line[0]} {line[1:].strip()}"
        for line in diff
        if not line.startswith(("---", "+++", "@@"))
    ]


def wrong_file(exhibit: Exhibit) -> str:
    """The text of a Python file with the wrong function, ready to stand in for the right one."""
    original, qualified = function_of(exhibit.target)
    home = sys.modules[original.__module__]
    source = raw_source(qualified).replace(raw_source(exhibit.target), changed(exhibit))
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    needed = sorted(name for name in names if name in vars(home) and name != original.__name__)
    imports = "".join(f"    {name},\n" for name in needed)
    return (
        f'"""A wrong version of {exhibit.target}. Where is the mistake?"""\n\n'
        f"from {home.__name__} import (\n{imports})\n\n\n{source}\n\n"
        f'REPLACES = {{"{qualified}": {original.__name__}}}\n'
    )


@contextmanager
def bug_in_place(exhibit: Exhibit) -> Iterator[None]:
    """While this is open, the whole package uses the wrong function."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{exhibit.name.replace('-', '_')}.py"
        path.write_text(wrong_file(exhibit), encoding="utf-8")
        replaces = load_file(path)["REPLACES"]
        with substituted(replaces):
            yield


# -------------------------------------------------------------------------------- the two curves


@cache
def right_curve(run: Callable[[], Points]) -> tuple[tuple[float, float], ...]:
    """The experiment with the right function; several exhibits share one."""
    return tuple(run())


def two_curves(exhibit: Exhibit) -> tuple[Points, Points]:
    """The symptom with the right function and with the wrong one."""
    right = list(right_curve(exhibit.symptom.run))
    with bug_in_place(exhibit):
        wrong = exhibit.symptom.run()
    return right, wrong


def tells_apart(right: Points, wrong: Points, *, least: float) -> bool:
    """Whether the curves are at least `least` apart somewhere. NaN is apart from everything.

    Raises: ValueError for curves over different places, or `least` not above 0: with a tolerance
    of nothing every two curves would be "different", and with a huge one every two the same.
    """
    if [x for x, _ in right] != [x for x, _ in wrong]:
        raise ValueError("the two curves must be drawn over the same places")
    if not 0 < least < math.inf:
        raise ValueError(f"least must be above 0 and finite, got {least}")
    return largest_gap(right, wrong) >= least


def largest_gap(right: Points, wrong: Points) -> float:
    """The largest distance between two curves, infinite where one of them is not a number."""
    gaps = [abs(a - b) for (_, a), (_, b) in zip(right, wrong, strict=True)]
    return max(gap if math.isfinite(gap) else math.inf for gap in gaps)
