"""Watch one call of a function: every tensor and number that it gives a name to, as it appears.

Nothing is computed again. Python tells a tracing function (sys.settrace, the door that debuggers
use) before each line and at the return of a function; there its local variables are looked at, and
what is new or has changed is copied. So the list is what really ran.

Used by __main__.py. Left out: what happens inside functions that the watched one calls.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """A local variable got a value, or the tensor in it was changed in place."""

    name: str
    value: Tensor | float  # a detached copy
    line: int  # of the file; 0 for an argument of the function
    turn: int | None = None  # the loop variable `t` at that time, if the function has one


@dataclass(frozen=True)
class Recording:
    """One watched call."""

    function: str  # of a method with its class: "RewardModel.forward"
    file: Path
    result: object
    assignments: list[Assignment] = field(repr=False)
    statements: dict[int, str] = field(repr=False)  # line -> the statement that stands there

    @property
    def tensor_names(self) -> set[str]:
        """All local variables that ever held a tensor."""
        return {a.name for a in self.assignments if isinstance(a.value, Tensor)}

    @property
    def names(self) -> set[str]:
        """All local variables that ever held a tensor or a number."""
        return {a.name for a in self.assignments}

    def last(self, name: str):
        """The last value of a local variable, None if there is no such variable."""
        values = [a.value for a in self.assignments if a.name == name]
        return values[-1] if values else None

    def in_order(self) -> list[list[Assignment]]:
        """The assignments as they came; the turns of a loop over one line stand together."""
        first_seen: dict[tuple[str, int], int] = {}
        for place, assignment in enumerate(self.assignments):
            first_seen.setdefault((assignment.name, assignment.line), place)
        key = lambda a: first_seen[a.name, a.line]  # noqa: E731
        return [list(turns) for _, turns in groupby(sorted(self.assignments, key=key), key)]


def record(function: Callable, *arguments, **settings) -> Recording:
    """Call `function(*arguments, **settings)` and watch its local variables.

    A debugger's or coverage tool's own tracing is put back afterwards, also after an error.
    """
    inner = inspect.unwrap(function)  # under @torch.no_grad()
    watcher = _Watcher(inner.__code__)
    earlier = sys.gettrace()
    sys.settrace(watcher.on_call)
    try:
        result = function(*arguments, **settings)
    finally:
        sys.settrace(earlier)
    statements = statements_of(inner)
    assignments = [
        Assignment(a.name, a.value, statement_line(statements, a.line), a.turn)
        for a in watcher.assignments
    ]
    texts = {line: text for line, (_, text) in statements.items()}
    return Recording(inner.__qualname__, Path(inspect.getfile(inner)), result, assignments, texts)


class _Watcher:
    """The tracing function: it compares the local variables with those of the line before."""

    def __init__(self, code):
        self.code = code
        self.assignments: list[Assignment] = []
        self.seen: dict[str, tuple] = {}
        self.alive: list = []  # a freed tensor's id could be given to the next one
        self.line = 0  # the line that has just run

    def on_call(self, frame, event, argument):
        return self.on_line if frame.f_code is self.code else None

    def on_line(self, frame, event, argument):
        if event in ("line", "return"):
            self.look(frame.f_locals)
            self.line = frame.f_lineno
        return self.on_line

    def look(self, variables: dict) -> None:
        turn = variables.get("t")
        for name, value in variables.items():
            if isinstance(value, Tensor):
                state = (id(value), value._version)  # the version counts changes in place
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                state = (value,)
            else:
                continue
            if self.seen.get(name) == state:
                continue
            self.seen[name] = state
            self.alive.append(value)
            copied = value.detach().clone() if isinstance(value, Tensor) else value
            self.assignments.append(Assignment(name, copied, self.line, turn))


def statements_of(function: Callable) -> dict[int, tuple[int, str]]:
    """First line of each statement of a function -> (its last line, its text without comments)."""
    source, start = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    found = {}
    for node in ast.walk(tree.body[0]):
        if isinstance(node, ast.stmt) and node is not tree.body[0]:
            line = node.lineno + start - 1
            text = ast.unparse(node).splitlines()[0]
            found[line] = (node.end_lineno + start - 1, text)
    return found


def statement_line(statements: dict[int, tuple[int, str]], line: int) -> int:
    """The first line of the statement that holds this line: a call may span several."""
    around = [first for first, (last, _) in statements.items() if first <= line <= last]
    return max(around, default=0)


def plain(values: dict[str, Tensor]) -> dict[str, float]:
    """Metrics as plain numbers."""
    return {name: float(value) for name, value in values.items() if torch.is_tensor(value)}
