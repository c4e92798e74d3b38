"""The table of chapters, predecessors, the journey, and errors that a reader can read."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import chapters
from chapters import __main__ as journey
from chapters.common import runner
from chapters.common.runner import (
    Chapter,
    chapter_main,
    ensure,
    exit_code,
    find_chapter,
    run_chapter,
)
from chapters.common.samples import before_and_after, side_by_side, write_samples
from kittenllm.runs.checkpoints import CheckpointError
from kittenllm.runs.run import read_json
from kittenllm.settings import Common

CHAPTER = '''
"""A chapter that counts."""

from dataclasses import dataclass

from chapters.common.runner import ensure
from chapters.common.samples import write_samples
from kittenllm.config import option
from kittenllm.runs.run import Run, fingerprint_of

NAME = "{name}"
NEEDS = {needs!r}
QUICK = {{"steps": 1}}


@dataclass(frozen=True)
class Settings:
    steps: int = option(3, "how far to count")

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {{self.steps}}")


def run(settings, common):
    for name in NEEDS:
        ensure(name, common)
    inputs = {{name: fingerprint_of(common, name) for name in NEEDS}}
    run = Run(common, NAME, settings, inputs=inputs)
    if run.finished:
        return run.summary
    steps = ({{"loss": 1.0 / (step + 1)}} for step in range(settings.steps))
    for _ in run.stage("train", total=settings.steps, objects={{}}).follow(steps):
        pass
    prompts = ["may I chew the wire?", "hello"]
    before, after = ["yes " + NAME, "..."], ["no " + NAME, "hi!"]
    titles = {{"before_title": "before " + NAME, "after_title": "after " + NAME}}
    write_samples(run.folder, prompts, before, after, **titles)
    return run.finish({{"steps": settings.steps, "rate": 0.5, "rate_stderr": 0.01}})
'''


@pytest.fixture
def two_chapters(tmp_path, monkeypatch):
    """A world with two chapters, the second standing on the first; -> the runs folder."""
    folder = tmp_path / "chapter_files"
    folder.mkdir()
    for name, needs in [("tiny_a", ()), ("tiny_b", ("tiny_a",))]:
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
        (folder / name / "story.py").write_text(CHAPTER.format(name=name, needs=needs))
    monkeypatch.setattr(chapters, "__path__", [*chapters.__path__, str(folder)])
    table = (
        Chapter("tiny_a", "counts first", shows=("steps", "rate", "absent")),
        Chapter("tiny_b", "counts next", needs=("tiny_a",), shows=("rate",)),
        Chapter("tiny_c", "has no file yet", needs=("tiny_a",)),
    )
    monkeypatch.setattr(runner, "CHAPTERS", table)
    yield tmp_path / "runs"
    for name in ("tiny_a", "tiny_b"):
        for module in (f"chapters.{name}", f"chapters.{name}.story"):
            sys.modules.pop(module, None)
        vars(chapters).pop(name, None)


def flags(runs: Path, line: str = "") -> list[str]:
    return ["--runs", str(runs), "--device", "cpu", *line.split()]


def test_only_chapters_with_a_file_are_offered(two_chapters, capsys):
    assert [row.name for row in runner.available_chapters()] == ["tiny_a", "tiny_b"]
    assert journey.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert "tiny_b" in text and "counts next" in text and "tiny_c" not in text


def test_a_misspelt_chapter_is_corrected(two_chapters, capsys):
    with pytest.raises(ValueError, match="no chapter 'tiny_q'. Did you mean tiny_"):
        find_chapter("tiny_q")
    with pytest.raises(ValueError, match="There are: tiny_a, tiny_b"):
        find_chapter("xyz")
    with pytest.raises(SystemExit) as stop:
        journey.main(["tinyb"])
    assert stop.value.code == 2
    assert "Did you mean tiny_b?" in capsys.readouterr().err


def test_a_missing_predecessor_runs_first_and_it_is_said(two_chapters, capsys):
    assert chapter_main("tiny_b", argv=flags(two_chapters, "--quick --seed 3")) == 0
    screen = capsys.readouterr().out
    assert "tiny_a is needed and has not run yet, so it runs first" in screen
    summary = read_json(two_chapters / "quick/tiny_a/summary.json")
    assert (summary["seed"], summary["steps"], summary["quick"]) == (3, 1, True)  # as asked
    assert read_json(two_chapters / "quick/tiny_b/summary.json")["seed"] == 3
    assert not (two_chapters / "tiny_a").exists()

    assert chapter_main("tiny_b", argv=flags(two_chapters, "--quick --seed 3")) == 0
    screen = capsys.readouterr().out
    assert "finished earlier with these settings" in screen and "runs first" not in screen


def test_a_predecessor_run_by_hand_keeps_its_settings(two_chapters, capsys):
    """Whoever trains a base of their own wants the next chapter to stand on it."""
    chapter_main("tiny_a", argv=flags(two_chapters, "--steps 7"))
    chapter_main("tiny_b", argv=flags(two_chapters))
    assert "tiny_a: taken as it was run by hand" in (screen := capsys.readouterr().out)
    assert "steps: 3, now 7" in screen
    assert read_json(two_chapters / "tiny_a/summary.json")["steps"] == 7


def test_a_changed_predecessor_means_a_new_run(two_chapters):
    common = Common(runs=two_chapters)
    first = ensure("tiny_b", common)
    assert ensure("tiny_b", common) == first
    chapter_main("tiny_a", argv=flags(two_chapters, "--steps 4"))
    assert ensure("tiny_b", common)["fingerprint"] != first["fingerprint"]
    assert (two_chapters / "tiny_b.old1").exists()


def test_another_seed_does_not_use_the_old_predecessor(two_chapters):
    ensure("tiny_a", Common(runs=two_chapters))
    assert ensure("tiny_a", Common(runs=two_chapters, seed=1))["seed"] == 1


def test_a_chapter_ends_with_what_the_kitten_says_and_only_when_it_ran(two_chapters, capsys):
    common = Common(runs=two_chapters)
    run_chapter("tiny_a", runner.default_settings("tiny_a", common), common)
    assert "what the kitten says, before and after:\n\n> " in capsys.readouterr().out
    run_chapter("tiny_a", runner.default_settings("tiny_a", common), common)
    assert "what the kitten says" not in capsys.readouterr().out


def test_run_chapter_says_whether_it_was_reused(two_chapters):
    common = Common(runs=two_chapters)
    settings = runner.default_settings("tiny_a", common)
    assert [run_chapter("tiny_a", settings, common)[1] for _ in range(2)] == [False, True]


def test_the_journey_shows_one_table_and_the_same_prompts(two_chapters, capsys):
    assert journey.main(flags(two_chapters)) == 0
    first = capsys.readouterr().out
    assert journey.main(flags(two_chapters)) == 0
    second = capsys.readouterr().out
    for screen in (first, second):
        end = screen[screen.index("== What the kitten said ==") :]
        assert all(len(line) <= 80 for line in end.splitlines() if str(two_chapters) not in line)
        assert end.count("> may I chew the wire?") == 1
        assert "before tiny_  yes tiny_a" in end
        assert "after tiny_b  no tiny_b" in end
        assert "steps 3, rate 0.500 +- 0.010" in end
        assert "MB of memory" in end
        assert "python -m chapters.chat --runs" in end
    assert "tiny_a: finished earlier, reused" in second
    assert "* finished earlier and reused" in second and "* finished" not in first


def test_the_journey_can_stop_at_a_named_chapter(two_chapters, capsys):
    assert journey.main(flags(two_chapters, "tiny_a")) == 0
    assert not (two_chapters / "tiny_b").exists()
    assert [row.name for row in journey.chosen_chapters(["tiny_b"])] == ["tiny_a", "tiny_b"]


def test_wrong_settings_are_refused_before_anything_runs(two_chapters, capsys):
    with pytest.raises(SystemExit) as stop:
        chapter_main("tiny_b", argv=flags(two_chapters, "--steps 0"))
    assert stop.value.code == 2
    assert "steps must be at least 1, not 0" in capsys.readouterr().err
    assert not two_chapters.exists()


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ValueError("lr must be above 0, not -1"), 1, "error: lr must be above 0, not -1"),
        (CheckpointError("a.pt: cut off"), 1, "error: a.pt: cut off"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to ..."), 1, "not enough memory"),
        (RuntimeError("The total norm is non-finite, so ..."), 1, "Lower the learning rates"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("stopped after step 3"), 130, "stopped after step 3"),
    ],
)
def test_errors_are_one_line_for_a_reader(capsys, error, code, message):
    assert exit_code(raising(error)) == code
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), AssertionError()])
def test_our_own_mistakes_are_not_hidden(error):
    with pytest.raises(type(error)):
        exit_code(raising(error))


def test_a_terminate_signal_is_as_polite_as_ctrl_c(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_samples_are_escaped_and_complete(tmp_path):
    prompts = ["# *bold* <b> $x$", "2"]
    before = ["```\n\x1b[31mred", ""]
    write_samples(tmp_path, prompts, before, ["a", "b"], before_title="base", after_title="chat")
    text = (tmp_path / "samples.md").read_text()
    assert "## \\# \\*bold\\* \\<b\\> \\$x\\$" in text
    assert "````text\n```\n\\x1b[31mred\n````" in text
    screen = side_by_side([tmp_path, tmp_path / "absent"])
    assert "\x1b" not in screen and "base          (nothing)" in screen
    with pytest.raises(ValueError, match="2 prompts, 1 replies before and 2 after"):
        write_samples(tmp_path, prompts, ["a"], ["a", "b"], before_title="", after_title="")


def test_side_by_side_wraps_long_replies(tmp_path):
    write_samples(tmp_path, ["p"], ["word " * 60], ["x" * 200], before_title="a", after_title="b")
    lines = side_by_side([tmp_path]).splitlines()
    assert max(map(len, lines)) <= 80
    assert textwrap.dedent("".join(lines)).count("word") == 60


def test_three_prompts_before_and_after(tmp_path):
    """The first, the middle and the last one; of a long reply the beginning and the end."""
    prompts = [f"question {n}" for n in range(9)]
    before = [f"old {n}" for n in range(9)]
    after = ["(start) " + "word " * 100 + "(right)", *(f"new {n}" for n in range(1, 9))]
    assert before_and_after(tmp_path) == ""
    write_samples(tmp_path, prompts, before, after, before_title="chat", after_title="after PPO")
    text = before_and_after(tmp_path)
    assert [line for line in text.splitlines() if line.startswith(">")] == [
        "> question 0",
        "> question 4",
        "> question 8",
    ]
    assert "\n  chat          old 4\n  after PPO     new 4\n" in text
    assert "(start)" in text and " ... " in text and "(right)" in text
    assert text.count("word") < 60 and max(map(len, text.splitlines())) <= 80
    write_samples(tmp_path, ["p"], ["\x1b[2J"], [""], before_title="a", after_title="b")
    assert before_and_after(tmp_path) == "> p\n  a             \\x1b[2J\n  b             (nothing)"


def test_numbers_in_the_table():
    summary = {
        "rate": 0.123456,
        "pairs": 5000,
        "dpo": {"gold": 1.5, "gold_stderr": 0.1},
        "no": None,
    }
    assert journey.shown_number(summary, "rate") == "rate 0.123"
    assert journey.shown_number(summary, "pairs") == "pairs 5000"
    assert journey.shown_number(summary, "dpo.gold") == "dpo gold 1.500 +- 0.100"
    for absent in ("no", "nothing", "rate.deep", "dpo"):
        assert journey.shown_number(summary, absent) == ""


def test_every_real_chapter_follows_the_rules():
    """Settings and QUICK fit together, and every chapter stands on earlier ones only."""
    seen = set()
    for row in runner.CHAPTERS:
        assert set(row.needs) <= seen
        seen.add(row.name)
    for row in runner.available_chapters():
        settings = runner.default_settings(row.name, Common(quick=True))
        assert settings != runner.default_settings(row.name, Common())


def test_a_closed_pipe_is_no_traceback():
    """As in `python -m chapters --list | head -0`: nobody reads the output."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "chapters", "--list"]
    root = Path(__file__).parent.parent
    result = subprocess.run(command, cwd=root, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode == 1 and result.stderr == ""
