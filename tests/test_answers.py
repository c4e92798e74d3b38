"""The grader must not be wrong: right answers in any style pass, wrong ones fail with their hint.

The tests of an exercise are collected once, in this process, and then run with one answer after
another in the place of the package's function.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

from chapters import check_text
from chapters.exercise_table import EXERCISES
from chapters.substitute import substituted

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS)) if str(TESTS) not in sys.path else None

import advice  # noqa: E402
import answers  # noqa: E402
import grading  # noqa: E402
import mistakes  # noqa: E402


class Notes:
    """What the grader reports, kept in a list."""

    def __init__(self):
        self.events: list[dict] = []

    def add(self, event: str, **details) -> None:
        self.events.append({"event": event, **details})

    def all(self, event: str) -> list[dict]:
        return [one for one in self.events if one["event"] == event]


class Rounds(grading.Recorder):
    """Runs the chosen tests once for every answer; of a wrong one only until the first failure."""

    def __init__(self, exercise, functions: list, stop_early: bool):
        super().__init__(Notes(), Path(answers.__file__), exercise, None)
        self.functions, self.stop_early = functions, stop_early
        self.found: list[Notes] = []

    def pytest_runtestloop(self, session) -> bool:
        for function in self.functions:
            self.function, self.report, self.failed = function, Notes(), 0
            self.found.append(self.report)
            with substituted({self.exercise.qualified: function}):
                for item in session.items:
                    if hasattr(item, "_initrequest"):
                        item._initrequest()  # as new, also the second time
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                    if self.failed and self.stop_early:
                        break
        return True


def graded(name: str, functions: list, *, stop_early: bool = False) -> list[Notes]:
    """The reports about these answers."""
    exercise = EXERCISES[name]
    files = dict.fromkeys(str(TESTS / file) for file, _ in exercise.tests)
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler"]
    rounds = Rounds(exercise, functions, stop_early)
    equal, torch.equal = torch.equal, rounds.note_unequal(torch.equal)
    try:
        pytest.main([*files, *options, "--rootdir", str(ROOT)], plugins=[rounds])
    finally:
        torch.equal = equal
    assert len(rounds.found) == len(functions)
    return rounds.found


def shown(name: str, report: Notes) -> str:
    """What a reader sees, on one line."""
    grade = check_text.Grade(EXERCISES[name], Path("mine.py"), state="failed")
    grade.failures = report.all("failed")
    return " ".join(check_text.report_text(grade).split())


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass_in_any_style_and_wrong_ones_get_their_hint(name):
    right = answers.RIGHT[name]
    wrong = [(function, words) for of, function, words in answers.WRONG if of == name]
    assert len(right) >= 2 and len(wrong) >= 5
    reports = graded(name, right)
    for function, report in zip(right, reports, strict=True):
        failed = [(one["name"], one.get("message")) for one in report.all("failed")]
        assert not failed, function.__name__
        assert len(report.all("passed")) == len(report.all("case")) > 5
    reports = graded(name, [function for function, _ in wrong], stop_early=True)
    for (function, words), report in zip(wrong, reports, strict=True):
        assert report.all("failed"), f"{function.__name__} passes"
        assert words in shown(name, report).partition("Hint: ")[2], function.__name__


def test_there_are_many_wrong_answers_for_all_exercises():
    assert len(answers.WRONG) >= 60 and {name for name, *_ in answers.WRONG} == set(EXERCISES)


def test_a_flipped_sign_fails_many_tests():
    (report,) = graded("reward", [answers.flipped_sign])
    assert len(report.all("failed")) >= 9


@pytest.mark.parametrize("name", EXERCISES)
def test_no_mistake_is_right_or_looks_like_another(name):
    calls, seen = advice.examples()[name], []
    assert advice.advice_for(name, mistakes.RIGHT[name]) is None
    for mistake in mistakes.MISTAKES[name]:
        call = calls[mistake.example]
        right = advice.parts_of(name, mistakes.RIGHT[name], call)[mistake.part]
        assert right.isfinite().all()
        if mistake.wrong is None:
            continue
        given = advice.wrong_part(mistake, name, call)
        assert not advice.same(given, right), mistake.sentence
        for place, other, sentence in seen:
            if place == (mistake.example, mistake.part) and sentence != mistake.sentence:
                assert not advice.same(other, given), (sentence, mistake.sentence)
        seen.append(((mistake.example, mistake.part), given, mistake.sentence))


def test_every_named_hint_belongs_to_a_test_that_grades():
    graded_tests = set()
    for exercise in EXERCISES.values():
        for file, _ in exercise.tests:
            text = (TESTS / file).read_text(encoding="utf-8")
            graded_tests |= set(re.findall(r"def (test_\w+)", text))
    assert set(check_text.CASE_HINTS) <= graded_tests


def test_a_hint_is_not_guessed_from_a_word_in_a_name():
    failure = {"kind": "numbers", "name": "x.py::test_log_2_when_nothing_is_known[nan-empty]"}
    assert check_text.fitting_hint(failure) is None
    inside = {"kind": "NameError", "name": "x.py::test_inputs_are_never_changed[a]", "line": 3}
    assert check_text.fitting_hint(inside) is None
