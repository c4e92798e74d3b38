"""Grades one exercise in a process of its own: the package's tests, then a little training.

`python -m chapters.check` starts this file and reads the report: a line of JSON for everything that
happens, written at once, so that a crash or an endless loop leaves a trace of where it was.

Usage: python tests/grading.py REPORT FILE EXERCISE [RUNS]

With RUNS, a folder for the package's own quick runs, the tests are taken as passed and the
exercise's chapter is run.
"""

import faulthandler
import importlib
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import kittenllm  # noqa: F401 (before torch: see there)

# isort: split
import torch
from advice import advice_for

from chapters.check.curves import NotTheirFault, train_chapter
from chapters.check.substitute import FileError, load_file, substituted
from chapters.check.table import EXERCISES, ROOT, Exercise
from chapters.check.trainings import TRAININGS, Story
from kittenllm.runs.checkpoints import CheckpointError
from kittenllm.runs.memory import peak_memory_mb

MEMORY_GB = 3  # so much more than Python and torch themselves need
SHOWN_NUMBERS = 12  # a tensor with more than these is not written out
RESULTS = ("expected", "result", "loss", "gradient", "mask")  # not what a test worked *with*


class Report:
    """The file that the parent reads; one event per line."""

    def __init__(self, path: str):
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open until the end)

    def add(self, event: str, **details) -> None:
        try:
            self.file.write(json.dumps({"event": event, **details}) + "\n")
            self.file.flush()
        except OSError:
            os._exit(78)  # check.py knows this number: the disk is full


# ------------------------------------------------------------------------- values as text


def text_of(value) -> str | None:
    """A value in a few characters, or None if it has no short form."""
    if isinstance(value, torch.Tensor):
        if value.numel() > SHOWN_NUMBERS:
            return f"a tensor of shape {tuple(value.shape)}"
        return text_of(value.detach().tolist())
    if isinstance(value, bool) or value is None or isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 200 else None
    if isinstance(value, list | tuple) and len(value) <= SHOWN_NUMBERS:
        parts = [text_of(part) for part in value]
        return None if None in parts else "[" + ", ".join(parts) + "]"
    if type(value).__module__.startswith("_pytest."):  # pytest.approx
        return text_of(value.expected)
    return None


def difference(got, expected) -> dict[str, str]:
    """Expected and got as text; of two large tensors the first place where they differ."""
    tensors = isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor)
    if tensors and got.shape == expected.shape and got.numel() > SHOWN_NUMBERS:
        close = torch.isclose(got.double(), expected.double(), rtol=1e-5, equal_nan=True)
        places = (~close).nonzero()
        if len(places):
            place = tuple(places[0].tolist())
            got, expected = got[place], expected[place]
            where = ", ".join(map(str, place))
            return {"at": f"[{where}]", **difference(got, expected)}
    found = {"expected": text_of(expected), "got": text_of(got)}
    if found["expected"] == found["got"] and tensors:
        found = {"expected": f"{expected.dtype}", "got": f"{got.dtype}"}
    return {name: text for name, text in found.items() if text is not None}


# --------------------------------------------------------------------------- the failures


def describe(error: BaseException, file: Path, compared: tuple | None) -> dict:
    """What went wrong in words and numbers: no traceback."""
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(file)]
    told = {"kind": type(error).__name__, "message": first_lines(str(error))}
    if isinstance(error, SystemExit):
        told["kind"] = "exit"
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        told["kind"] = "memory"
    if own:  # it happened inside the student's function
        told["line"] = own[-1][1]
        told["code"] = source_line(file, own[-1][1])
        return told
    ours = [pair for pair in frames if Path(pair[0].f_code.co_filename).parent == ROOT / "tests"]
    if not ours:
        return told
    frame, line = ours[-1]
    told["test"] = f"tests/{Path(frame.f_code.co_filename).name}, line {line}"
    told["code"] = source_line(Path(frame.f_code.co_filename), line)
    told["with"] = settings_of(frame)
    asked = [f for f, _ in frames if f.f_code.co_name == "assert_close" and "actual" in f.f_locals]
    if asked:
        told |= difference(asked[-1].f_locals["actual"], asked[-1].f_locals["expected"])
        told["kind"] = "numbers"
    elif told["kind"] == "AssertionError" and compared is not None:
        operator, left, right = compared
        told |= difference(left, right) if operator == "==" else {}
        told["kind"] = "numbers" if operator == "==" else "statement"
        if operator != "==" and None not in (text_of(left), text_of(right)):
            told["got"], told["expected"] = text_of(left), f"{operator} {text_of(right)}"
            told["kind"] = "numbers"
    elif told["kind"] == "AssertionError":
        told["kind"] = "statement"
    return told


def first_lines(message: str) -> str:
    return "\n".join(message.strip().splitlines()[:4])[:400]


def source_line(path: Path, number: int) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[number - 1].strip() if number <= len(lines) else ""


def settings_of(frame) -> dict[str, str]:
    """Small numbers and words that the test worked with: `ratio = 1.5`."""
    found = {}
    for name, value in frame.f_locals.items():
        simple = isinstance(value, int | float | str | torch.dtype)
        small = isinstance(value, torch.Tensor) and value.numel() <= 6
        if (simple or small) and not name.startswith("@") and name not in RESULTS:
            text = text_of(value)
            if text is not None and len(text) <= 40:
                found[name] = text
    return dict(list(found.items())[:4])


def is_chosen(file: str, test: str, exercise: Exercise) -> bool:
    """Tests of the tests ("... is noticed") are left out: they need the right function."""
    patterns = [pattern for name, pattern in exercise.tests if name == file]
    noticed = re.search(r"(is|are)_noticed", test)
    return not noticed and any(re.search(pattern, test) for pattern in patterns)


def of_the_package_only(item) -> bool:
    """Marked tests ask for more than the stub states, such as the dtype of a metric."""
    return item.get_closest_marker("package_only") is not None


def said_of(exercise: Exercise, function: object) -> str | None:
    """What is typical about a function that failed, and that may do anything when called."""
    try:
        return advice_for(exercise.name, function)
    except BaseException:
        return None


class Recorder:
    """A pytest plugin: reports each test, and keeps what a failing comparison compared."""

    def __init__(self, report: Report, file: Path, exercise: Exercise, function: object):
        self.report, self.file, self.exercise = report, file, exercise
        self.function = function
        self.compared: tuple | None = None
        self.failed = 0

    def pytest_collection_modifyitems(self, items) -> None:
        """Only what guards this exercise; the cases that were worked out by hand come first."""
        chosen = [item for item in items if is_chosen(item.path.name, item.name, self.exercise)]
        items[:] = [item for item in chosen if not of_the_package_only(item)]
        items.sort(key=lambda item: "by_hand" not in item.name)

    def pytest_collection_finish(self, session) -> None:
        self.report.add("collected", count=len(session.items))

    def pytest_runtest_logstart(self, nodeid) -> None:
        self.compared = None
        self.report.add("case", name=nodeid)

    def pytest_assertrepr_compare(self, op, left, right) -> None:
        self.compared = (op, left, right)

    def note_unequal(self, equal):
        """torch.equal, but two tensors that differ are remembered as a comparison."""

        def remembering(a, b):
            same = equal(a, b)
            if not same:
                self.compared = ("==", a, b)
            return same

        return remembering

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        if call.excinfo is not None and call.excinfo.errisinstance(MemoryError):
            lift_memory_limit()  # or there is nothing left to report it with
        outcome = yield
        result = outcome.get_result()
        if call.excinfo is not None and result.failed:
            self.failed += 1
            told = describe(call.excinfo.value, self.file, self.compared)
            about = inspect.getdoc(item.function) if hasattr(item, "function") else None
            told |= {"about": about, "printed": result.capstdout[-600:]}
            if self.failed == 1 and told["kind"] not in ("memory", "exit"):
                told["advice"] = said_of(self.exercise, self.function)
            self.report.add("failed", name=item.nodeid, **told)
            if told["kind"] == "memory":
                item.session.shouldstop = "memory"
        elif result.when == "call" and result.passed:
            self.report.add("passed", name=item.nodeid)


# ------------------------------------------------------------------------------ the grader


def limit_memory() -> None:
    """More than MEMORY_GB is refused where the system can do it (Linux), or ends the process."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_GB * 10**9
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        return

    before = peak_memory_mb() or math.inf

    def watch() -> None:
        while (peak_memory_mb() or 0) < before + MEMORY_GB * 1000:
            time.sleep(0.1)
        os._exit(77)  # check.py knows this number

    threading.Thread(target=watch, daemon=True).start()


def lift_memory_limit() -> None:
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def end_with_parent() -> None:
    """A worker whose parent was killed ends too: an endless loop must not live on without it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wrong_shape(written: dict[str, object], exercise: Exercise) -> str | None:
    """What is wrong with the name or the parameters of the function, if anything is."""
    name = exercise.function
    theirs = written.get(name)
    ours = getattr(importlib.import_module(f"kittenllm.{exercise.module}"), name)
    if theirs is None or inspect.isclass(ours) != inspect.isclass(theirs):
        kind = "class" if inspect.isclass(ours) else "function"
        return f"the file does not define the {kind} {name}"
    methods = ("append", "keep") if inspect.isclass(ours) else ("",)
    for method in methods:
        right, given = (getattr(x, method, None) if method else x for x in (ours, theirs))
        of_package, of_file = parameters(right), parameters(given)
        if not callable(given) or plain_parameters(right) != plain_parameters(given):
            called = f"{name}.{method}" if method else name
            return f"{called} must take {of_package}, in this file it takes {of_file}"
    return None


def parameters(function: object) -> str:
    """(rewards, values, mask, *, gamma, lam): names and order, without types."""
    if not callable(function):
        return "nothing: it is missing"
    return str(inspect.Signature(plain_parameters(function)))


def plain_parameters(function: Callable) -> list[inspect.Parameter]:
    """Without types. Two are equal if their defaults are: 0 and 0.0, for example."""
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]


def grade(report: Report, file: Path, exercise: Exercise) -> None:
    report.add("case", name="loading")
    try:
        written = load_file(file)
    except FileError as error:
        report.add("unusable", message=str(error))
        return
    complaint = wrong_shape(written, exercise)
    if complaint:
        report.add("unusable", message=complaint)
        return
    recorder = Recorder(report, file, exercise, written[exercise.function])
    torch.equal = recorder.note_unequal(torch.equal)
    files = dict.fromkeys(str(ROOT / "tests" / name) for name, _ in exercise.tests)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--rootdir", str(ROOT)]
    options += ["-o", "addopts="]  # those of pyproject.toml are for the whole suite
    options += ["--implementation", f"{file}::{exercise.function}"]
    code = pytest.main([*files, *options], plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        report.add("interrupted")
    elif code == pytest.ExitCode.OK:
        function = load_file(file)[exercise.function]
        report.add("case", name="training")
        with substituted({exercise.qualified: function}):
            train(report, "training", file, TRAININGS[exercise.name])


def train(report: Report, name: str, file: Path, training: Callable[[], Story]) -> None:
    """Report what came of a training, whatever happens in it."""
    try:
        story, outcomes = training()
    except NotTheirFault as error:
        report.add("broken", message=first_lines(str(error)))
        return
    except BaseException as error:
        told = describe(error, file, None)
        if isinstance(error, OSError | CheckpointError) and "line" not in told:  # a full disk
            report.add("broken", message=told["message"])
        else:
            report.add("failed", name=name, **told)
        return
    numbers = [{**vars(outcome), "reached": outcome.reached} for outcome in outcomes]
    report.add("trained", name=name, story=story, outcomes=numbers)


def run_chapter_with(report: Report, file: Path, exercise: Exercise, runs: Path) -> None:
    """The chapter in its quick setting, with the function of the file."""
    report.add("case", name="the chapter")

    def tell(what: str) -> None:
        report.add("case", name=f"the chapter: {what}")

    function = load_file(file)[exercise.function]
    train(report, "chapter", file, lambda: train_chapter(exercise, function, runs, tell))


def main() -> None:
    report_path, file, name, *runs = sys.argv[1:]
    answers = os.fdopen(os.dup(2), "w")  # stderr, also while pytest captures what is printed
    faulthandler.enable(answers, all_threads=False)
    if hasattr(signal, "SIGUSR1"):  # check.py asks: where are you?
        faulthandler.register(signal.SIGUSR1, answers, all_threads=False)
    end_with_parent()
    limit_memory()
    report = Report(report_path)
    if runs:
        run_chapter_with(report, Path(file), EXERCISES[name], Path(runs[0]))
    else:
        grade(report, Path(file), EXERCISES[name])
    report.add("end")


if __name__ == "__main__":
    main()
