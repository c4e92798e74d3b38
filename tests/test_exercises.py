"""The exercises: every stub fits to its function, and the check survives what is handed to it."""

import csv
import importlib
import inspect
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from chapters.ch3_ppo import token_credit
from chapters.check import __main__ as check
from chapters.check import substitute
from chapters.check import text as check_text
from chapters.check.curves import (
    CURVES,
    compare,
    needed_by,
    program_digest,
    train_chapter,
)
from chapters.check.hints import HINTS
from chapters.check.hints_zh import HINTS_ZH
from chapters.check.substitute import FileError, load_file, substituted
from chapters.check.table import EXERCISES, FOLDER, is_stub
from chapters.check.trainings import TRAININGS
from chapters.common.terminal import columns
from kittenllm import ppo, sft

ROOT = Path(__file__).parent.parent
TO_WRITE = (
    "pick_logprobs masked_mean token_logprobs sft_loss encode_chat bradley_terry_loss gae "
    "ppo_policy_loss dpo_loss ipo_loss orpo_loss group_advantages grpo_loss KVCache mixed_reward"
)

names = pytest.mark.parametrize("name", EXERCISES)


def packages_own(exercise):
    module = importlib.import_module(f"kittenllm.{exercise.module}")
    return getattr(module, exercise.function)


# ------------------------------------------------------------------------------- the stubs


def test_every_function_of_the_contract_has_an_exercise():
    assert {exercise.function for exercise in EXERCISES.values()} == set(TO_WRITE.split())
    assert set(HINTS) == set(HINTS_ZH) == set(TRAININGS) == set(CURVES) == set(EXERCISES)


def written_in_the_stub(exercise):
    return load_file(exercise.stub)[exercise.function]


@names
def test_a_stub_has_the_signature_of_the_package_and_a_docstring(name):
    exercise = EXERCISES[name]
    stub, ours = written_in_the_stub(exercise), packages_own(exercise)
    pairs = [(stub, ours)]
    if inspect.isclass(ours):
        pairs = [(getattr(stub, method), getattr(ours, method)) for method in ("append", "keep")]
    for theirs, right in pairs:
        given, wanted = inspect.signature(theirs), inspect.signature(right)
        assert list(given.parameters) == list(wanted.parameters)
        for ours_parameter, parameter in zip(
            wanted.parameters.values(), given.parameters.values(), strict=True
        ):
            assert parameter.kind == ours_parameter.kind
            assert parameter.default == ours_parameter.default
        assert len(inspect.getdoc(theirs).splitlines()) >= 5


@pytest.fixture
def unwritten(request) -> str:
    """The name of an exercise that nobody has written yet in chapters/exercises/."""
    exercise = EXERCISES[request.param]
    if not is_stub(exercise.stub, exercise.function):
        pytest.skip(
            f"you have written {exercise.function}: python -m chapters.check {request.param}"
        )
    return request.param


each_unwritten = pytest.mark.parametrize("unwritten", EXERCISES, indirect=True)


@names
def test_the_package_is_no_stub(name):
    exercise = EXERCISES[name]
    assert not is_stub(exercise.solution, exercise.function)


def test_pytest_does_not_take_an_exercise_for_a_test():
    assert not list(FOLDER.rglob("test_*.py")) + list(FOLDER.rglob("*_test.py"))


@names
def test_the_tests_of_an_exercise_exist(name):
    """Each pattern finds tests in its file (parametrised names are checked by the matrix below)."""
    for file, pattern in EXERCISES[name].tests:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        tests = re.findall(r"def (test_\w+)", text)
        if file != "test_contract.py":
            for word in pattern.replace(r"\[dpo\]", "dpo").replace(r"\[ipo\]", "ipo").split("|"):
                assert any(re.search(word, test) for test in tests), word


# --------------------------------------------------------------------------- what one reads


def run_check(capsys, *arguments) -> tuple[int, str]:
    code = check.main([str(argument) for argument in arguments])
    text = capsys.readouterr().out
    assert all(len(line) <= 60 for line in text.splitlines()), text
    assert "Traceback" not in text and "\x1b" not in text
    return code, text


@each_unwritten
def test_an_unwritten_exercise_fails_readably(unwritten, capsys):
    code, text = run_check(capsys, unwritten)
    assert code == 1
    assert "still to be written" in text and EXERCISES[unwritten].file in text


def test_all_of_a_file_with_a_single_stub(capsys, tmp_path):
    file = hand_in(tmp_path, "def gae(rewards):\n    raise NotImplementedError('later')")
    code, text = run_check(capsys, "all", "--file", file)
    assert code == 1 and f"0 of {len(EXERCISES)} done" in text
    assert text.count("to be written") == 1 and text.count("cannot be used") == len(EXERCISES) - 1
    code, text = run_check(capsys, "ppo", "--file", file)
    assert code == 1 and "mine.py does not define ppo_policy_loss" in text


@names
def test_hints_unfold_one_at_a_time(name, capsys, tmp_path):
    seen = []
    for number in (1, 2, 3):
        code, text = run_check(capsys, name, "--hint", "--runs", tmp_path)
        assert code == 0 and f"hint {number} of 3" in text
        seen.append(text)
    assert len(set(seen)) == 3
    assert run_check(capsys, name, "--hint", "--runs", tmp_path)[1] == seen[2]
    assert run_check(capsys, name, "--hint", 2, "--runs", tmp_path)[1] == seen[1]


@names
def test_the_hints_in_chinese(name, capsys, tmp_path):
    """Three as well, in 60 columns, with the same code in the third."""
    for number in (1, 2, 3):
        assert check.main([name, "--hint", "--language", "zh", "--runs", str(tmp_path)]) == 0
        text = capsys.readouterr().out
        assert f"第 {number} 个提示" in text and len(re.findall(r"[\u4e00-\u9fff]", text)) > 12
        assert max(map(columns, text.splitlines())) <= 60
    code = [re.findall(r"\w+ = [\w.(]+", hints[name][2]) for hints in (HINTS, HINTS_ZH)]
    assert set(code[0]) == set(code[1])


def test_a_folded_hint_stays_folded_and_a_broken_note_is_no_crash(capsys, tmp_path):
    assert "still folded" in run_check(capsys, "gae", "--hint", 2, "--runs", tmp_path)[1]
    (tmp_path / "hints.json").write_text("[broken")
    assert "hint 1 of 3" in run_check(capsys, "gae", "--hint", "--runs", tmp_path)[1]
    (tmp_path / "file").write_text("")
    text = run_check(capsys, "gae", "--hint", "--runs", tmp_path / "file")[1]
    assert "hint 1 of 3" in text and "cannot be written" in text


def test_the_list_names_every_exercise(capsys):
    code, text = run_check(capsys, "--list")
    assert code == 0
    assert all(name in text and EXERCISES[name].function in text for name in EXERCISES)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dpoo"], "did you mean dpo"),
        (["elephant"], "--list"),
        ([], "which exercise"),
        (["all", "--hint"], "--hint needs one"),
        (["gae", "--hint", "4"], "1 to 3"),
        (["gae", "--file", "x.py", "--solution"], "not allowed"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as error:
        check.main(arguments)
    assert error.value.code == 2 and words in capsys.readouterr().err


def test_the_check_opens_without_torch():
    """Lists and hints come at once: nothing heavy is imported for them."""
    code = "import sys, chapters.check; sys.exit('torch' in sys.modules or 'pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ----------------------------------------------------------------------------- a whole class


def test_a_class_is_graded_as_a_table(tmp_path, monkeypatch, capsys):
    """Two pupils and a stray file; what is still a stub is not run."""
    stubs = {exercise.file: exercise.stub.read_text() for exercise in EXERCISES.values()}
    for pupil in ("=anna", "ben"):
        (tmp_path / pupil).mkdir()
        for file, text in stubs.items():
            (tmp_path / pupil / file).write_text(text)
    (tmp_path / "ben" / "dpo.py").write_text("def (")
    (tmp_path / "list.txt").touch()
    graded = []

    def grade(exercise, file, seconds):
        graded.append((file.parent.name, exercise.name, seconds))
        found = check_text.Grade(exercise, file, "unwritten")
        if exercise.name == "gae":
            found.state, found.tests, found.passed = "failed", 10, 3
        if exercise.name == "reward":
            found.state = "passed"
        if exercise.name == "dpo" and file.parent.name == "ben":
            found.state = "unusable"
        return found

    monkeypatch.setattr(check, "grade", grade)
    assert check.main([str(tmp_path), "--csv", "--seconds", "7"]) == 0
    head, anna, ben = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["pupil", *EXERCISES, "done"]
    assert len(graded) == 2 * len(EXERCISES) and {seconds for *_, seconds in graded} == {7}
    cells = dict(zip(head, ben, strict=True))
    assert (cells["gae"], cells["reward"], cells["sft"], cells["dpo"], cells["done"]) == (
        "3 of 10",
        "passed",
        "",
        "cannot be read",
        "1",
    )
    assert anna[0] == "'=anna"  # no formula for a spreadsheet


def test_a_real_pupil_is_graded(tmp_path, capsys):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "reward_model.py").write_text("def (")
    assert check.main([str(tmp_path), "--csv"]) == 0
    head, anna = csv.reader(io.StringIO(capsys.readouterr().out))
    cells = dict(zip(head, anna, strict=True))
    assert cells["reward"] == "cannot be read" and cells["dpo"] == "" and cells["done"] == "0"


def test_a_folder_without_pupils_is_named(tmp_path, capsys):
    assert check.main([str(tmp_path), "--csv"]) == 1
    assert "no folder in it holds an exercise" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check.main(["dpo", "--csv"])
    assert "--csv grades a folder" in capsys.readouterr().err


# ------------------------------------------------------------------------ what is handed in


def hand_in(tmp_path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


REWARD = """
    import os, sys
    import torch

    def bradley_terry_loss(chosen_rewards, rejected_rewards):
        {}
        return 2 * loss, {{}}
"""


def test_the_package_passes_through_the_same_door(capsys):
    code, text = run_check(capsys, "reward", "--solution", "--no-chapter")
    assert code == 0, text
    assert "PASSED" in text and "NOT" not in text
    assert "kittenllm/reward_model.py" in text and "judged rightly 0.5 -> 1" in text
    assert "chapter" not in text


@pytest.fixture
def kept_runs(own_runs) -> Path:
    """A runs folder in which `check` finds the quick runs of the first two chapters."""
    (own_runs / "check" / program_digest()).mkdir(parents=True)
    (own_runs / "quick").rename(own_runs / "check" / program_digest() / "quick")
    return own_runs


def test_the_chapter_is_run_with_a_function_that_passed(capsys, kept_runs):
    code, text = run_check(capsys, "sft", "--solution", "--runs", kept_runs)
    assert code == 0, text
    assert "ch1_sft in its quick setting" in text
    assert "chat_loss: largest distance from the package's curve" in " ".join(text.split())


def test_a_wrong_function_leaves_the_curve_of_the_chapter(kept_runs):
    right_loss = sft.sft_loss

    def without_mask(logits, tokens, loss_mask):
        return right_loss(logits, tokens, torch.ones_like(loss_mask))

    told: list[str] = []
    _, (outcome,) = train_chapter(EXERCISES["sft"], without_mask, kept_runs, told.append)
    assert not outcome.reached and outcome.after > outcome.goal > 0
    assert told[-1] == "ch1_sft, with your sft_loss"
    assert sft.sft_loss is right_loss


def test_two_curves_are_compared_by_hand():
    (same,) = compare("loss", [3.0, 2.0, 1.0], [3.0, 2.05, 1.0])  # 0.05 of a height of 2
    assert same.after == pytest.approx(0.05) and same.goal == pytest.approx(0.1) and same.reached
    (other,) = compare("loss", [3.0, 2.2, 1.0], [3.0, 2.05, 1.0])
    assert not other.reached
    (shorter,) = compare("loss", [3.0, 2.05], [3.0, 2.05, 1.0])
    assert not shorter.reached
    (nothing,) = compare("loss", [3.0, math.nan, 1.0], [3.0, 2.0, 1.0])
    assert not nothing.reached


def test_the_chapters_before_a_chapter_come_in_order():
    assert needed_by("ch0_base") == []
    assert needed_by("ch3_ppo") == ["ch0_base", "ch1_sft", "ch2_reward_model"]


def test_a_wrong_result_is_shown_in_numbers(capsys, tmp_path):
    line = "print('here'); loss = -(chosen_rewards - rejected_rewards).sigmoid().log().mean()"
    code, text = run_check(capsys, "reward", "--file", hand_in(tmp_path, REWARD.format(line)))
    assert code == 1 and "NOT PASSED" in text and "Hint: " in text
    assert "First case that fails: bradley terry by hand" in text
    assert "expected  0.65185" in text and "got       1.3037" in text
    assert "printed   here" in text
    passed = int(text.split("tests")[1].split(" of ")[0])
    assert 0 < passed < 10


@pytest.mark.parametrize(
    "line, words",
    [
        ("os._exit(0)", "ended the program"),
        ("while True: pass", "did not come to an end"),
    ],
)
def test_a_crash_and_an_endless_loop_are_reported(line, words, capsys, tmp_path):
    file = hand_in(tmp_path, REWARD.format(line))
    code, text = run_check(capsys, "reward", "--seconds", 4, "--file", file)
    assert code == 1 and words in text and "bradley terry by hand" in text
    if line.startswith("while") and os.name == "posix":
        assert "6 of mine.py" in text  # the line it was in


DEEP = "def gae():\n    return {}{}"


@pytest.mark.parametrize(
    "text, words",
    [
        ("x = 1\ndef gae(:\n    pass", "line 2"),
        ("def gae(a)\n    return a", "line 1"),
        (DEEP.format("-" * 100_000, "1"), "nested too deeply"),
        (DEEP.format("a", ".b" * 100_000), "nested too deeply"),
        (DEEP.format("lambda: " * 50_000, "1"), "nested too deeply"),
        (DEEP.format("(" * 100_000, ""), "too many nested parentheses"),
        ("def gae():\n    pass\0", "null byte"),
    ],
    ids=["no name", "no colon", "minus", "dots", "lambdas", "brackets", "null"],
)
def test_files_that_are_no_python(text, words, capsys, tmp_path):
    code, said = run_check(capsys, "gae", "--file", hand_in(tmp_path, text))
    assert code == 1 and "cannot be used" in said and words in said
    assert "No such file" in run_check(capsys, "gae", "--file", tmp_path / "none.py")[1]
    assert "is not a file" in run_check(capsys, "gae", "--file", tmp_path)[1]


# A worker that reports one case and then does what it is told, without torch: quick to start.
WORKER = """
import json, os, subprocess, sys, tempfile, time

with open(sys.argv[1], "a") as report:
    report.write(json.dumps({"event": "case", "name": "a"}) + "\\n")
tempfile.mkdtemp()
code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
file = os.path.join(os.path.dirname(sys.argv[2]), "number")
subprocess.Popen([sys.executable, "-c", code, file], start_new_session=True)
time.sleep(60)
"""


@pytest.fixture
def restless_worker(tmp_path, monkeypatch):
    """A project whose grader starts a process in a session of its own and does not end."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "grading.py").write_text(WORKER)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check.tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems show no environments")
@pytest.mark.parametrize("ending", ["too long", "terminated"])
def test_nothing_is_left_of_a_worker(ending, restless_worker, capsys):
    file = hand_in(restless_worker, "def gae(rewards): pass")
    number = restless_worker / "number"
    if ending == "terminated":

        def terminate():
            while not (number.exists() and number.read_text()):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=terminate).start()
        assert check.main(["gae", "--file", str(file), "--seconds", "30"]) == 130
        assert "stopped" in capsys.readouterr().err
    else:
        assert (
            "did not come to an end" in run_check(capsys, "gae", "--file", file, "--seconds", 1)[1]
        )
    assert not is_alive(int(number.read_text()))
    assert list((restless_worker / "temporary").iterdir()) == []


def test_a_run_folder_that_cannot_be_used_is_not_the_readers_fault(grading, tmp_path):
    class Notes(list):
        def add(self, event, **details):
            self.append((event, details))

    (tmp_path / "runs").write_text("in the way")
    notes = Notes()
    grading.run_chapter_with(notes, EXERCISES["gae"].solution, EXERCISES["gae"], tmp_path / "runs")
    assert notes[-1][0] == "broken" and "cannot be used as a run folder" in notes[-1][1]["message"]

    def full_disk():
        raise OSError(28, "No space left on device")

    grading.train(notes, "chapter", tmp_path / "mine.py", full_disk)
    assert notes[-1] == ("broken", {"message": "[Errno 28] No space left on device"})

    def theirs():
        return load_file(hand_in(tmp_path, "def f(): open('no such file')"))["f"]()

    grading.train(notes, "chapter", tmp_path / "mine.py", theirs)
    assert notes[-1][0] == "failed" and notes[-1][1]["line"] == 1


def test_what_is_not_the_readers_fault_stays_so_to_the_end(tmp_path):
    report = tmp_path / "report"
    events = [{"event": "case", "name": "the chapter"}, {"event": "broken", "message": "locked"}]
    report.write_text("".join(json.dumps(event) + "\n" for event in [*events, {"event": "end"}]))
    grade = check_text.Grade(EXERCISES["gae"], Path("mine.py"), "passed", tests=3, passed=3)
    check.read_report(grade, report)
    text = check_text.report_text(grade)
    assert grade.state == "broken" and "not your fault" in text and "locked" in text
    assert "3 of 3 passed" in text and "Hint" not in text and "NOT PASSED" not in text
    check.note_ending(grade, "a", check.ended_how(check.FULL_CODE, ""), "")
    assert grade.state == "broken" and "is it full?" in grade.message


@pytest.fixture
def grading(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    return importlib.import_module("grading")


def failing(grading, function, *arguments, compared=None, file=Path("nothing.py")):
    """How the grader describes what this call raises."""
    try:
        function(*arguments)
    except BaseException as error:
        return grading.describe(error, file, compared)
    raise AssertionError("nothing was raised")


def test_failures_become_words_and_numbers(grading, tmp_path):
    file = hand_in(
        tmp_path,
        """
        import sys
        def leave(x): sys.exit(3)
        def broken(x): return x + undefined_name
        def greedy(x): return [0] * 10**18
        """,
    )
    mine = load_file(file)
    for name, kind in (("leave", "exit"), ("broken", "NameError"), ("greedy", "memory")):
        told = failing(grading, mine[name], 1, file=file)
        assert told["kind"] == kind and told["code"].startswith("def")
    assert failing(grading, mine["broken"], 1, file=file)["line"] == 4

    right, wrong = torch.arange(20.0).view(4, 5), torch.arange(20.0).view(4, 5)
    wrong[2, 3] = -1
    assert grading.difference(wrong, right) == {"at": "[2, 3]", "expected": "13", "got": "-1"}
    assert grading.difference(0.5, pytest.approx(0.25)) == {"expected": "0.25", "got": "0.5"}
    same = torch.ones(2), torch.ones(2, dtype=torch.float64)
    assert grading.difference(*same) == {"expected": "torch.float64", "got": "torch.float32"}

    def tested(ratio):
        torch.testing.assert_close(torch.tensor(ratio), torch.tensor(1.5))

    told = failing(grading, tested, 0.5)
    assert told["kind"] == "numbers" and told["with"] == {"ratio": "0.5"}
    assert (told["expected"], told["got"]) == ("1.5", "0.5")
    assert told["test"].startswith("tests/test_exercises.py, line")


def test_a_wrong_signature_is_named(grading, tmp_path):
    text = "def gae(rewards, values, mask, lam, gamma):\n    return rewards, values"
    complaint = grading.wrong_shape(load_file(hand_in(tmp_path, text)), EXERCISES["gae"])
    assert "(rewards, values, mask, *, gamma, lam)" in complaint
    assert "(rewards, values, mask, lam, gamma)" in complaint
    same = "def gae(rewards: list, values, mask, *, gamma, lam) -> tuple: pass"
    assert grading.wrong_shape(load_file(hand_in(tmp_path, same)), EXERCISES["gae"]) is None
    four = "chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs"
    text = f"def dpo_loss({four}, *, beta, label_smoothing=0): pass"  # 0 and 0.0 are one number
    assert grading.wrong_shape(load_file(hand_in(tmp_path, text)), EXERCISES["dpo"]) is None
    assert "does not define the function dpo_loss" in grading.wrong_shape({}, EXERCISES["dpo"])
    for exercise in EXERCISES.values():
        assert grading.wrong_shape(load_file(exercise.stub), exercise) is None


def test_a_half_written_report_is_read_to_its_last_whole_line(tmp_path):
    report = tmp_path / "report"
    events = [{"event": "case", "name": "a"}, {"event": "passed", "name": "a"}]
    report.write_text("\n".join(map(json.dumps, events)) + '\n{"event": "ca')
    found = check_text.Grade(EXERCISES["gae"], Path("mine.py"))
    assert check.read_report(found, report) == ("a", False)
    assert found.passed == 1


def test_what_a_student_prints_plays_no_tricks_on_the_terminal():
    grade = check_text.Grade(EXERCISES["gae"], Path("mine.py"), state="failed")
    grade.failures = [{"kind": "ValueError", "name": "a", "message": "\x1b[2J!", "line": 3}]
    assert "\x1b" not in check_text.report_text(grade)


# -------------------------------------------------------------------------- the substitution


def other_gae(rewards, values, mask, *, gamma, lam):
    return "other"


def test_a_function_is_replaced_wherever_it_was_imported_and_put_back():
    right = ppo.gae
    assert token_credit.gae is right
    with substituted({"kittenllm.ppo.gae": other_gae}):
        assert token_credit.gae is ppo.gae is other_gae
        assert sys.modules["test_credit"].gae is other_gae if "test_credit" in sys.modules else True
    assert token_credit.gae is ppo.gae is right


def test_everything_is_put_back_after_an_error():
    right = ppo.gae
    with pytest.raises(KeyError), substituted({"kittenllm.ppo.gae": other_gae}):
        raise KeyError
    assert token_credit.gae is ppo.gae is right
    with pytest.raises(ValueError, match="kittenllm.ppo.nothing"):
        substituted({"kittenllm.ppo.gae": other_gae, "kittenllm.ppo.nothing": 1}).__enter__()
    assert ppo.gae is right


def test_methods_and_numbers_are_replaced_in_their_place_only():
    with substituted(
        {"kittenllm.gpt.KVCache.keep": other_gae, "chapters.check.__main__.MEMORY_CODE": 5}
    ):
        assert importlib.import_module("kittenllm.gpt").KVCache.keep is other_gae
        assert check.MEMORY_CODE == 5
    assert check.MEMORY_CODE == 77


def test_the_file_of_a_replacement_keeps_the_right_function(tmp_path):
    """A wrong version may call the right one: no endless recursion."""
    path = hand_in(
        tmp_path,
        """
        from kittenllm.ppo import gae as right
        def gae(rewards, values, mask, *, gamma, lam):
            advantages, returns = right(rewards, values, mask, gamma=gamma, lam=lam)
            return 2 * advantages, returns
        """,
    )
    mine = load_file(path)["gae"]
    inputs = torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with substituted({"kittenllm.ppo.gae": mine}):
        assert ppo.gae(*inputs, gamma=1.0, lam=1.0)[0].tolist() == [[4.0, 2.0]]


def test_a_module_that_is_loaded_meanwhile_gets_the_right_function_in_the_end():
    name = "chapters.ch3_ppo.token_credit"
    before = sys.modules.pop(name, None)
    try:
        with substituted({"kittenllm.ppo.gae": other_gae}):
            module = importlib.import_module(name)
        held = [value for value in vars(module).values() if value is other_gae]
        assert not held
    finally:
        if before is not None:
            sys.modules[name] = before


@pytest.mark.parametrize(
    "text, words",
    [
        ("x = (", "line 1"),
        ("a = 1\nb = a / 0", "line 2: ZeroDivisionError"),
        ("import sys\nsys.exit()", "line 2: the file ends the program"),
        ("import no_such_thing", "ModuleNotFoundError"),
    ],
)
def test_files_that_cannot_be_loaded(text, words, tmp_path):
    with pytest.raises(FileError, match=words):
        load_file(hand_in(tmp_path, text))
    with pytest.raises(FileError, match="there is no file"):
        load_file(tmp_path / "none.py")


def test_a_file_that_changed_is_read_anew(tmp_path):
    """Same size, same second: cached bytecode would give the old value."""
    assert load_file(hand_in(tmp_path, "x = 1"))["x"] == 1
    assert load_file(hand_in(tmp_path, "x = 2"))["x"] == 2
    assert all(name.startswith(substitute.PRIVATE) for name in sys.modules if "_mine" in name)
