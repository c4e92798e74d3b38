"""Lets the tests look at the museum: runs tests with every bug in place, in one process.

`python tests/museum_inspector.py REPORT [--all]` writes a JSON file: exhibit -> tests -> exit code
of pytest, and under "no bug" the same without one. By default each exhibit meets the first test of
its `killed_by`; with --all it meets every test and test file named there.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from chapters.museum.__main__ import EXHIBITS  # noqa: E402
from chapters.museum.exhibits import bug_in_place  # noqa: E402

# Only the exit code counts: without rewritten asserts and cleaning up it takes half the time.
OPTIONS = ["-x", "-q", "--assert=plain", "--rootdir", str(ROOT)]
OPTIONS += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]


def exit_code(tests: list[str]) -> int:
    """0: all passed, 1: some failed, more: pytest did not get so far."""
    with contextlib.redirect_stdout(io.StringIO()):
        return int(pytest.main([*(str(ROOT / "tests" / name) for name in tests), *OPTIONS]))


def inspect(every_test: bool) -> dict[str, dict[str, int]]:
    tests_of = {
        name: exhibit.killed_by if every_test else exhibit.killed_by[:1]
        for name, exhibit in EXHIBITS.items()
    }
    without = sorted({test for tests in tests_of.values() for test in tests})
    report = {"no bug": {"all of them": exit_code(without)}}
    for name, exhibit in EXHIBITS.items():
        with bug_in_place(exhibit):
            report[name] = {test: exit_code([test]) for test in tests_of[name]}
    return report


if __name__ == "__main__":
    report_path = Path(sys.argv[1])
    report_path.write_text(json.dumps(inspect("--all" in sys.argv), indent=1), encoding="utf-8")
