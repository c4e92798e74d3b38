"""The museum of silent bugs: every exhibit is a true change of the package, has a symptom that can
be seen, and is noticed by the package's tests."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chapters.ch3_ppo import token_credit
from chapters.check.__main__ import grade
from chapters.check.table import EXERCISES, Exercise
from chapters.museum import __main__ as museum
from chapters.museum.best import best_text, entered
from chapters.museum.exhibits import (
    Exhibit,
    bug_in_place,
    changed,
    difference_of_code,
    function_of,
    largest_gap,
    right_source,
    tells_apart,
    two_curves,
    wrong_file,
    wrong_lines,
    wrong_source,
)
from kittenllm import ppo

ROOT = Path(__file__).parent.parent
EXHIBITS = museum.EXHIBITS
NAMES = list(EXHIBITS)


# ------------------------------------------------------------------------------- the exhibits


def test_the_museum_is_worth_a_visit():
    assert len(EXHIBITS) == sum(len(hall) for hall in museum.HALLS.values()) >= 24
    for name, exhibit in EXHIBITS.items():
        assert name == exhibit.name and len(name) <= 16
        assert exhibit.story.count(". ") == 1 and exhibit.story.endswith(".")  # two sentences


@pytest.mark.parametrize("name", NAMES)
def test_the_change_fits_the_package(name):
    """The right lines stand in the function exactly once, or `changed` refuses."""
    exhibit = EXHIBITS[name]
    assert right_source(exhibit) != wrong_source(exhibit)
    assert 1 <= len(wrong_lines(exhibit)) <= 8
    ast.parse(wrong_file(exhibit))
    new_code = "\n".join(wrong for _, wrong in exhibit.changes)
    assert "eval" not in new_code and "exec" not in new_code


def test_a_museum_that_drifted_from_the_package_is_noticed():
    changes = (("a line that nobody wrote", ""), ("advantage", "credit"))
    for change in changes:
        exhibit = Exhibit("x", "", "kittenllm.ppo.gae", (change,), None, "", "", "", ())
        with pytest.raises(ValueError, match=r"stands \d+ times in kittenllm.ppo.gae"):
            changed(exhibit)


def test_lines_and_differences_by_hand():
    exhibit = EXHIBITS["too-sure"]
    (line,) = wrong_lines(exhibit)
    assert wrong_source(exhibit).splitlines()[line - 1].strip() == (
        "loss = -F.logsigmoid(margin.mean())"
    )
    assert difference_of_code(exhibit) == [
        "- loss = -F.logsigmoid(margin).mean()",
        "+ loss = -F.logsigmoid(margin.mean())",
    ]


def test_the_bug_is_everywhere_and_gone_afterwards():
    right = ppo.gae
    with bug_in_place(EXHIBITS["paid-to-ask"]):
        assert ppo.gae is not right and token_credit.gae is ppo.gae
    assert ppo.gae is right and token_credit.gae is right


# -------------------------------------------------------------------------------- the symptoms


@pytest.mark.parametrize("name", NAMES)
def test_the_symptom_can_be_seen(name):
    exhibit = EXHIBITS[name]
    right, wrong = two_curves(exhibit)
    assert tells_apart(right, wrong, least=exhibit.symptom.least)
    assert len(right) >= 5 and largest_gap(right, right) == 0


def test_small_differences_are_no_symptom():
    curve = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    noisy = [(0.0, 1.0), (1.0, 2.4), (2.0, 2.8)]
    assert not tells_apart(curve, curve, least=0.5)
    assert not tells_apart(curve, noisy, least=0.5)
    assert tells_apart(curve, noisy, least=0.3)
    assert tells_apart(curve, [*curve[:2], (2.0, float("nan"))], least=0.5)
    with pytest.raises(ValueError, match="least.*0"):
        tells_apart(curve, curve, least=0)
    with pytest.raises(ValueError, match="same places"):
        tells_apart(curve, curve[:2], least=0.5)


# ---------------------------------------------------------------------------- tests with teeth


@pytest.fixture(scope="module")
def inspection(tmp_path_factory) -> dict[str, dict[str, int]]:
    """What pytest says with each bug in place, all in one process of their own."""
    path = tmp_path_factory.mktemp("museum") / "report.json"
    command = [sys.executable, str(ROOT / "tests" / "museum_inspector.py"), str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_tests_pass_without_a_bug(inspection):
    assert inspection["no bug"] == {"all of them": 0}


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_notice_it(inspection, name):
    assert inspection[name] == {EXHIBITS[name].killed_by[0]: 1}


# --------------------------------------------------------------------------------- the program


def test_the_list_fits_a_narrow_terminal():
    lines = museum.listing(60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    for name, exhibit in EXHIBITS.items():
        assert any(name in line and exhibit.title in line for line in lines)


def test_an_exhibit_keeps_its_secret(tmp_path, capsys):
    assert museum.main(["paid-to-ask", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    exhibit = EXHIBITS["paid-to-ask"]
    assert "\n  1 def gae(\n" in shown and " advantages[:, t] = advantage\n" in shown
    assert exhibit.seen in " ".join(shown.split())
    assert "advantage, at place 0: right 0, wrong 0.857" in shown
    assert exhibit.answer not in " ".join(shown.split()) and "+ advantages" not in shown
    picture = tmp_path / "museum" / "paid-to-ask.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_answer_comes_with_a_key_or_a_flag(tmp_path, capsys, monkeypatch):
    exhibit = EXHIBITS["paid-to-ask"]
    assert museum.main(["paid-to-ask", "--answer", "--runs", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert exhibit.answer in shown and exhibit.story in shown
    assert "- advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)" in shown
    assert "+ advantages[:, t] = advantage" in shown

    shown_before = []

    def press_enter(question):
        shown_before.append(" ".join(capsys.readouterr().out.split()))
        return ""

    museum.show(exhibit, runs=tmp_path, answer=False, ask=press_enter)
    assert len(shown_before) == 1 and exhibit.answer not in shown_before[0]
    assert exhibit.answer in " ".join(capsys.readouterr().out.split())


def test_an_unknown_name_is_a_readable_error(capsys):
    assert museum.main(["no-such-bug"]) == 1
    message = capsys.readouterr().err
    assert "no-such-bug" in message and "never-stops" in message and "Traceback" not in message


def test_the_wrong_function_as_a_file(tmp_path, capsys):
    path = tmp_path / "wrong.py"
    assert museum.main(["no-brake", "--file", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text == wrong_file(EXHIBITS["no-brake"])
    assert 'REPLACES = {"kittenllm.ppo.ppo_policy_loss": ppo_policy_loss}' in text


# ------------------------------------------------------------------------------------ the hunt


class Hunter:
    """Types prepared answers; every question takes a minute."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.now = 0.0

    def ask(self, question):
        self.now += 60
        if not self.answers:
            raise EOFError
        answer = self.answers.pop(0)
        if answer is KeyboardInterrupt:
            raise KeyboardInterrupt
        return str(answer)

    def hunt(self, *names, minutes=15.0):
        order = [EXHIBITS[name] for name in names]
        return museum.hunt(order, minutes=minutes, ask=self.ask, clock=lambda: self.now)


def line_of(name):
    return min(wrong_lines(EXHIBITS[name]))


def test_points_of_the_hunt(capsys):
    right = line_of("too-sure")
    assert Hunter(right).hunt("too-sure") == (2, 1, 1)
    assert Hunter(1, right).hunt("too-sure") == (1, 1, 1)
    assert Hunter(1, 1).hunt("too-sure") == (0, 0, 1)
    assert Hunter("").hunt("too-sure") == (0, 0, 1)  # given up
    assert Hunter("what?", right).hunt("too-sure") == (2, 1, 1)  # no number: asked again
    assert EXHIBITS["too-sure"].answer in " ".join(capsys.readouterr().out.split())


def test_the_hunt_ends_politely(capsys):
    right = line_of("too-sure")
    assert Hunter(right, KeyboardInterrupt).hunt("too-sure", "no-brake") == (2, 1, 1)
    assert Hunter(right, "q").hunt("too-sure", "no-brake") == (2, 1, 1)
    assert Hunter(right).hunt("too-sure", "no-brake") == (2, 1, 1)  # the input ends


def test_the_bell_ends_the_hunt(capsys):
    right = line_of("too-sure")
    hunter = Hunter(right, right, right)
    assert hunter.hunt("too-sure", "too-sure", "too-sure", minutes=1.5) == (2, 1, 1)
    assert "this one does not count" in capsys.readouterr().out


def test_the_hunt_has_a_seed(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        museum, "hunt", lambda order, **settings: seen.append([e.name for e in order]) or (0, 0, 0)
    )
    for seed in ("1", "1", "2"):
        assert museum.main(["--hunt", "--seed", seed, "--minutes", "3"]) == 0
    assert seen[0] == seen[1] != seen[2]
    assert sorted(seen[0]) == sorted(NAMES)
    with pytest.raises(SystemExit):
        museum.main(["--hunt", "--minutes", "0"])
    assert "must be above 0" in capsys.readouterr().err


def test_the_table_of_the_best_by_hand(tmp_path):
    path = tmp_path / "museum" / "hunt.json"
    assert best_text(entered(path, "anna", 15, (0, 0, 0))) == "" and not path.exists()
    entered(path, "anna", 15, (3, 2, 4))
    entered(path, "ben", 15, (5, 3, 3))
    entered(path, "fast", 2, (9, 5, 5))
    best = entered(path, "cleo", 15, (3, 2, 2))
    assert [hunt["name"] for hunt in best] == ["ben", "anna", "cleo"]
    text = best_text(best)
    assert "best hunts of 15 minutes" in text and "fast" not in text
    assert "  1  ben" in text and "5 points  3 of 3 bugs" in text
    for _ in range(20):
        best = entered(path, "x\x1b[2J", 15, (1, 1, 1))
    assert len(best_text(best).splitlines()) == 11 and "\x1b" not in best_text(best)


def test_a_damaged_table_is_named_and_kept(tmp_path, capsys):
    path = tmp_path / "museum" / "hunt.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ValueError, match="hunt.json"):
        entered(path, "anna", 15, (3, 2, 4))
    assert path.read_text() == "{"
    path.write_text('{"hunts": [5, {"name": "ben"}, {"name": 3, "points": 1}]}')
    assert [hunt["name"] for hunt in entered(path, "anna", 15, (3, 2, 4))] == ["anna"]


def test_a_hunt_is_entered_under_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(museum, "hunt", lambda order, **settings: (4, 2, 3))
    flags = ["--hunt", "--minutes", "7", "--name", "pair 3", "--runs", str(tmp_path)]
    assert museum.main(flags) == 0
    assert "  1  pair 3" in capsys.readouterr().out
    (hunt,) = json.loads((tmp_path / "museum" / "hunt.json").read_text())["hunts"]
    assert hunt == {"name": "pair 3", "minutes": 7.0, "points": 4, "found": 2, "seen": 3}


# -------------------------------------------------------------------------------- as an exercise


def exercises_of_exhibits() -> dict[str, Exercise]:
    """Exhibit -> the exercise in which its function is written by hand."""
    by_function = {exercise.qualified: exercise for exercise in EXERCISES.values()}
    places = {name: function_of(exhibit.target)[1] for name, exhibit in EXHIBITS.items()}
    return {name: by_function[place] for name, place in places.items() if place in by_function}


def test_every_exercise_has_its_bug():
    assert {exercise.name for exercise in exercises_of_exhibits().values()} == set(EXERCISES)


@pytest.mark.parametrize("name", ["too-sure"])
def test_a_bug_is_no_solution(name, tmp_path):
    """One for all: with a bug the exercise is not done."""
    path = tmp_path / "written.py"
    path.write_text(wrong_file(EXHIBITS[name]), encoding="utf-8")
    found = grade(exercises_of_exhibits()[name], path, 120)
    assert found.state == "failed"
    names = [failure["name"] for failure in found.failures]
    assert any(EXHIBITS[name].killed_by[0] in failed for failed in names)
