"""Grades your exercises: with the package's own tests, then with a little training, and at last by
running the chapter in its quick setting with your function in it.

You write in chapters/exercises/, or in a file of your own (--file). What you wrote runs in another
process: an endless loop or a crash there is reported, not suffered.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from chapters.check.school import print_class
from chapters.check.table import EXERCISES, ROOT, Exercise, exercise_called, is_stub
from chapters.check.text import Grade, hint_text, list_text, paragraph, report_text, summary_text
from chapters.common.terminal import make_output_forgiving
from kittenllm.door import Parser, path_argument

EXAMPLES = """
  python -m chapters.check --list        what there is to write
  python -m chapters.check dpo           is my dpo_loss right?
  python -m chapters.check dpo --hint    the next of three hints
  python -m chapters.check all           everything but the chapters, a line each
  python -m chapters.check FOLDER --csv  a class: a folder for each pupil, a table of all
"""
POLL_SECONDS = 0.1
START_SECONDS = 120  # until torch and pytest are loaded
CHAPTER_SECONDS = 300  # longest quick run of a chapter; most take 10
MEMORY_CODE = 77  # tests/grading.py ends with this code if it has grown too large
FULL_CODE = 78  # ... and with this one if it cannot write its report
MARK = "KITTENLLM_CHECK"  # in the environment of a worker and of all that it starts


# ------------------------------------------------------------------------ in another process


def grade(exercise: Exercise, file: Path, seconds: float, runs: Path | None = None) -> Grade:
    """Grade one function of a file; a single case may take so many seconds.

    With a folder for runs, a function that passes everything else is tried in its chapter.
    """
    found = Grade(exercise, file)
    try:
        if is_stub(file, exercise.function):
            found.state = "unwritten"
            return found
    except ValueError as error:
        found.state, found.message = "unusable", str(error)
        return found
    started = time.monotonic()
    try:
        examine(found, seconds)
        if runs is not None and found.state == "passed":
            say("running the chapter: the first time this takes up to a minute ...")
            examine(found, max(seconds, CHAPTER_SECONDS), runs.resolve())
    except OSError as error:  # no room or no right to write a temporary file
        found.state, found.message = "broken", str(error)
    found.seconds = time.monotonic() - started
    return found


def examine(found: Grade, seconds: float, *runs: Path) -> None:
    """Let another process look at the function, and fill the grade with what it reports."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report, complaints = Path(folder, "report.jsonl"), Path(folder, "stderr.txt")
        report.touch()
        with open(complaints, "wb") as stderr:
            arguments = [report, found.file, found.exercise.name, *runs]
            worker = start_worker(arguments, stderr, folder)
            try:
                stuck = wait(worker, report, seconds)
            finally:
                stop(worker, folder)
        text = complaints.read_text(encoding="utf-8", errors="replace")
        last_case, ended = read_report(found, report)
    if not ended:
        how = "stuck" if stuck else ended_how(worker.returncode, text)
        note_ending(found, last_case, how, text)


def say(what: str) -> None:
    """A line that the next one overwrites; nothing where nobody would see it."""
    if sys.stderr.isatty():
        print(f"{what:<70}", end="\r", file=sys.stderr, flush=True)


def start_worker(arguments: list, stderr, folder: str) -> subprocess.Popen:
    """tests/grading.py on the CPU, without settings and plugins of the reader's own pytest.

    Its temporary files go into `folder`, whose name marks all that it starts.
    """
    environment = {
        **os.environ,
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder),
        MARK: folder,
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
        "CUDA_VISIBLE_DEVICES": "",
    }
    grader = ROOT / "tests" / "grading.py"
    return subprocess.Popen(
        [sys.executable, str(grader), *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,  # a group of its own: what it starts ends with it
    )


def wait(worker: subprocess.Popen, report: Path, seconds: float) -> bool:
    """Wait for the end; True if a single case took longer than `seconds`.

    Time is counted in small steps while this program is awake: a laptop that slept for an hour in
    between has failed nobody.
    """
    waited, size = 0.0, 0
    while True:
        try:
            worker.wait(POLL_SECONDS)
            return False
        except subprocess.TimeoutExpired:
            waited += POLL_SECONDS
        if report.stat().st_size != size:  # something was reported: the next case has begun
            waited, size = 0.0, report.stat().st_size
        if waited > (seconds if size else START_SECONDS):
            if hasattr(signal, "SIGUSR1"):  # the worker then writes to stderr where it is
                worker.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
            return True


def stop(worker: subprocess.Popen, folder: str) -> None:
    """End the worker and everything that it has started, in other sessions too (on Linux)."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended already
            os.killpg(worker.pid, signal.SIGKILL)
    else:
        worker.kill()
    worker.wait()
    looks_without = 0
    for _ in range(20):  # what was just being started shows its environment a moment later
        left = marked_processes(folder)
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        looks_without = 0 if left else looks_without + 1
        if looks_without == 3:
            break
        time.sleep(0.03)


def marked_processes(folder: str) -> list[int]:
    """Numbers of the living processes that have the folder as their mark; Linux only."""
    wanted, found = os.fsencode(f"{MARK}={folder}"), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


# --------------------------------------------------------------------------- what it reported


def read_report(found: Grade, report: Path) -> tuple[str | None, bool]:
    """Fill the grade. Returns the last case that began, and whether the report is complete."""
    last_case = None
    for line in report.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # half a line: the process ended while it wrote
            break
        kind = event.pop("event")
        if kind == "case":
            last_case = event["name"]
        elif kind == "collected":
            found.tests = event["count"]
        elif kind == "passed":
            found.passed += 1
        elif kind == "failed":
            found.failures.append(event)
        elif kind == "unusable":
            found.state, found.message = "unusable", event["message"]
        elif kind == "broken":
            found.state, found.message = "broken", event["message"]
        elif kind == "trained":
            found.stories[event["name"]] = event["story"], event["outcomes"]
        elif kind == "interrupted" and not found.failures:
            found.failures.append({"kind": "exit", "name": last_case})
            found.cut_short = True
        elif kind == "end":
            if not found.message:
                found.judge()
            return last_case, True
    return last_case, False


def ended_how(code: int, complaints: str) -> str:
    """What an exit code and stderr say about a process that ended before its time."""
    killed = -code == getattr(signal, "SIGKILL", None)  # as systems do that have no memory left
    if code == FULL_CODE:
        return "full"
    if code == MEMORY_CODE or killed or "MemoryError" in complaints:
        return "memory"
    return "exit" if code >= 0 else "crash"


def note_ending(found: Grade, last_case: str | None, how: str, complaints: str) -> None:
    """The process did not come to its end: the student's doing, or ours if nothing had begun."""
    if how == "full":
        found.state = "broken"
        found.message = f"the report cannot be written to {tempfile.gettempdir()}: is it full?"
        return
    if last_case is None:
        found.state, found.message = "broken", complaints.strip()[-400:] or how
        return
    place = re.search(rf'File "{re.escape(str(found.file))}", line (\d+)', complaints)
    failure = {"kind": how, "name": last_case, "line": int(place[1]) if place else None}
    found.failures.insert(0, failure)
    found.state, found.cut_short = "failed", True


# ----------------------------------------------------------------------------------- the hints


def next_hint(exercise: Exercise, runs: Path, wanted: int, language: str = "en") -> str:
    """Unfold the next hint (wanted = 0), or show one again that was unfolded before.

    How many are unfolded is kept in <runs>/hints.json.
    """
    path = runs / "hints.json"
    try:
        seen = dict(json.loads(path.read_text(encoding="utf-8")))
        unfolded = int(seen.get(exercise.name, 0))
    except (OSError, ValueError, TypeError):
        seen, unfolded = {}, 0
    if wanted > unfolded:
        return f"Hint {wanted} is still folded: --hint shows the next one, number {unfolded + 1}."
    number = wanted or min(3, unfolded + 1)
    seen[exercise.name] = max(number, unfolded)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seen) + "\n", encoding="utf-8")
    except OSError as error:
        note = paragraph(f"{path} cannot be written ({error.strerror}): next time it is this one.")
        return f"{hint_text(exercise, number, language)}\n\n{note}"
    return hint_text(exercise, number, language)


# ------------------------------------------------------------------------------- command line


def written() -> dict[str, bool]:
    """Of each exercise: is there something to grade in chapters/exercises/?"""
    found = {}
    for name, exercise in EXERCISES.items():
        try:
            found[name] = not is_stub(exercise.stub, exercise.function)
        except ValueError:  # a file in the middle of being written
            found[name] = True
    return found


def new_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m chapters.check",
        description=__doc__,
        epilog=f"examples:{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", nargs="?", help="an exercise, all, or with --csv the folder of a class")
    add("--list", action="store_true", help="list the exercises and stop")
    add("--csv", action="store_true", help="grade the pupils' folders in FOLDER, as a CSV table")
    add("--hint", nargs="?", type=int, const=0, metavar="N", help="the next hint, or hint N again")
    add("--language", choices=("en", "zh"), default="en", help="of the hints: en or zh")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--file", type=path_argument, help="grade this file, not your exercise")
    source.add_argument("--solution", action="store_true", help="grade the package's own function")
    add("--seconds", type=float, default=30.0, help="longest time for one case (default 30)")
    add("--no-chapter", action="store_true", help="tests and the little training only, as for all")
    runs = "where to note the hints you have seen, and to keep quick runs (default: runs)"
    add("--runs", type=path_argument, default=Path("runs"), help=runs)
    return parser


def check(argv=None) -> int:
    parser = new_parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        print(list_text(written()))
        return 0
    if not (ROOT / "tests").is_dir():
        parser.error("an installed copy has no tests to grade with: run it in the project's folder")
    if arguments.name is None:
        parser.error("which exercise? --list shows them all")
    if arguments.csv:
        folder = Path(arguments.name)
        if not folder.is_dir():
            parser.error(f"--csv grades a folder, and {folder} is none")
        seconds = arguments.seconds
        return print_class(folder, lambda exercise, file: grade(exercise, file, seconds), say)
    try:
        wanted = list(EXERCISES.values())
        if arguments.name != "all":
            wanted = [exercise_called(arguments.name)]
    except ValueError as error:
        parser.error(str(error))
    if arguments.hint is not None:
        if arguments.name == "all" or not 0 <= arguments.hint <= 3:
            parser.error("--hint needs one exercise, and N from 1 to 3")
        print(next_hint(wanted[0], arguments.runs, arguments.hint, arguments.language))
        return 0
    grades = []
    for exercise in wanted:
        file = exercise.solution if arguments.solution else arguments.file or exercise.stub
        say(f"checking {exercise.name} ...")
        runs = arguments.runs if len(wanted) == 1 and not arguments.no_chapter else None
        grades.append(grade(exercise, file.resolve(), arguments.seconds, runs))
        grades[-1].language = arguments.language
        say("")
        text = report_text if len(wanted) == 1 else summary_text
        print(text(grades[-1]), flush=True)
    done = sum(one.state == "passed" for one in grades)
    if len(wanted) > 1:
        print(f"\n{done} of {len(grades)} done")
    return 0 if done == len(grades) else 1


@contextlib.contextmanager
def terminate_is_ctrl_c() -> Iterator[None]:
    """While this is open, a terminate or hang-up signal ends the worker and the files as well."""

    def stop_here(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    wanted = [n for n in numbers if n is not None and signal.getsignal(n) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, stop_here) for number in wanted}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler or signal.SIG_DFL)


def main(argv=None) -> int:
    make_output_forgiving()
    try:
        with terminate_is_ctrl_c():
            return check(argv)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
