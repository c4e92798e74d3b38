"""The grader must not be wrong: right answers in any style pass, wrong ones fail with their hint.

The tests of an exercise are collected once, in this process, and then run with one answer after
another in the place of the package's function.
"""

import ast
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from chapters.check import text as check_text
from chapters.check.hints_zh import HINTS_ZH
from chapters.check.substitute import substituted
from chapters.check.table import EXERCISES

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


# Whole replies and models, again for every answer: the check does it, here it takes too long.
SLOW = "recorded|greedy|layout|drop|take_nothing|cost_nothing|stream|add_up_to_grpo_loss"


class Rounds(grading.Recorder):
    """Runs the tests of each exercise once for every answer to it.

    A wrong answer goes on to its first failure only; what is in `WHOLE` runs to the end.
    """

    WHOLE = [answers.flipped_sign, *sum(answers.RIGHT.values(), [])]

    def __init__(self):
        super().__init__(Notes(), Path(answers.__file__), None, None)
        self.found: dict[object, Notes] = {}

    def pytest_collection_modifyitems(self, items) -> None:
        items.sort(key=lambda item: "by_hand" not in item.name)

    def pytest_runtestloop(self, session) -> bool:
        for name, self.exercise in EXERCISES.items():
            items = [item for item in session.items if self.is_run(item)]
            wrong = [function for of, function, _ in answers.WRONG if of == name]
            for function in answers.RIGHT[name] + wrong:
                self.run(items, function)
        return True

    def is_run(self, item) -> bool:
        chosen = grading.is_chosen(item.path.name, item.name, self.exercise)
        left_out = grading.of_the_package_only(item) or re.search(SLOW, item.name)
        return chosen and not left_out

    def run(self, items: list, function: object) -> None:
        self.function, self.report, self.failed = function, Notes(), 0
        self.found[function] = self.report
        with substituted({self.exercise.qualified: function}):
            for item in items:
                if hasattr(item, "_initrequest"):
                    item._initrequest()  # as new, also the second time
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self.failed and function not in self.WHOLE:
                    break


@pytest.fixture(scope="module")
def reports() -> dict[object, Notes]:
    """What the grader reports about every answer."""
    files = {str(TESTS / file) for exercise in EXERCISES.values() for file, _ in exercise.tests}
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler"]
    rounds = Rounds()
    equal, torch.equal = torch.equal, rounds.note_unequal(torch.equal)
    try:
        pytest.main([*sorted(files), *options, "--rootdir", str(ROOT)], plugins=[rounds])
    finally:
        torch.equal = equal
    return rounds.found


def shown(name: str, report: Notes) -> str:
    """What a reader sees, on one line."""
    grade = check_text.Grade(EXERCISES[name], Path("mine.py"), state="failed")
    grade.failures = report.all("failed")
    return " ".join(check_text.report_text(grade).split())


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass_in_any_style(name, reports):
    assert len(answers.RIGHT[name]) >= 2
    for function in answers.RIGHT[name]:
        report = reports[function]
        assert not [(one["name"], one.get("message")) for one in report.all("failed")]
        assert len(report.all("passed")) == len(report.all("case")) > 5


@pytest.mark.parametrize("name", EXERCISES)
def test_wrong_answers_fail_with_their_hint(name, reports):
    wrong = [(function, words) for of, function, words in answers.WRONG if of == name]
    assert len(wrong) >= 5
    for function, words in wrong:
        assert reports[function].all("failed"), f"{function.__name__} passes"
        hint = shown(name, reports[function]).partition("Hint: ")[2]
        assert words in hint, function.__name__


def said_about_the_form() -> set[str]:
    """What the functions of advice.py return as text, with {} for what is filled in."""
    functions = (advice.wrong_form, advice.wrong_loss, advice.changed_input)
    functions += (advice.leaking_gradient, advice.float64_trouble)
    found = set()
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            value = node.value if isinstance(node, ast.Return) else None
            if isinstance(value, ast.JoinedStr):
                pieces = [p.value if isinstance(p, ast.Constant) else "{}" for p in value.values]
                found.add("".join(pieces))
            elif isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.add(value.value)
    return found


def test_every_sentence_has_its_chinese():
    """advice_zh.json knows what mistakes.py, advice.py and text.py say, and nothing else."""
    path = ROOT / "chapters" / "check" / "advice_zh.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    said = {one.sentence for of in mistakes.MISTAKES.values() for one in of}
    said |= {*check_text.CASE_HINTS.values(), *(text for _, text in check_text.MESSAGE_HINTS)}
    assert len(said_about_the_form()) >= 20
    assert said | said_about_the_form() == set(known)
    for english, chinese in known.items():
        assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) >= 5, english
        assert english.count("{}") == chinese.count("{}"), english
        numbers = [re.findall(r"\d+", text) for text in (english, chinese)]
        assert set(numbers[0]) <= set(numbers[1]) | {"0", "1", "2"}, english


def test_names_and_shapes_are_carried_over():
    told = check_text.in_language("The metric kl has shape (4, 5): take its mean.", "zh")
    assert told == "指标 kl 的形状是 (4, 5)：取平均。"
    told = check_text.in_language("The result must have shape (2,), it has (2, 1).", "zh")
    assert told == "结果的形状应当是 (2,)，现在是 (2, 1)。"
    assert check_text.in_language("Nobody says this.", "zh") == "Nobody says this."


@pytest.mark.parametrize("name", EXERCISES)
def test_wrong_answers_get_the_same_hint_in_chinese(name, reports):
    """The Chinese of the sentence that the English hint is; of the exercise's first hint, where
    nothing typical was found."""
    for of, function, _ in answers.WRONG:
        if of != name:
            continue
        hints = {}
        for language in ("en", "zh"):
            grade = check_text.Grade(EXERCISES[name], Path("mine.py"), state="failed")
            grade.failures, grade.language = reports[function].all("failed"), language
            report = check_text.report_text(grade).partition("Hint: ")[2]
            hints[language] = "".join(report.partition("python -m")[0].split())
        advice_found = check_text.fitting_hint(grade.failures[0])
        chinese = check_text.in_language(advice_found, "zh") if advice_found else HINTS_ZH[name][0]
        assert re.search(r"[\u4e00-\u9fff]", chinese), f"{function.__name__}: {advice_found}"
        assert hints["zh"].startswith("".join(chinese.split())), function.__name__
        assert not re.search(r"[\u4e00-\u9fff]", hints["en"])


def test_there_are_many_wrong_answers():
    assert len(answers.WRONG) >= 75


def test_a_flipped_sign_fails_many_tests(reports):
    report = reports[answers.flipped_sign]
    assert len(report.all("failed")) >= 9 > len(report.all("case")) / 2


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
