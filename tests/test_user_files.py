"""A user's file that cannot be used costs nothing, and one that was used is not needed again.

What is read, checked and hashed is one opening of the file; only then is anything trained, moved or
made. Here every chapter that takes a file meets bad ones, pipes, and files that have gone.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from chapters.ch0_base import story as ch0_base
from chapters.ch1_sft import story as ch1_sft
from chapters.ch2_reward_model import story as ch2_reward_model
from chapters.ch3_ppo import story as ch3_ppo
from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.common.runner import chapter_main, ensure
from chapters.common.texts import KEPT_TEXT, kept_text
from chapters.rank import __main__ as rank
from chapters.report import life as report_life
from kittenllm.data_file import RecordError
from kittenllm.gpt import GPT
from kittenllm.runs.checkpoints import load_model, write_json_atomic
from kittenllm.runs.json_files import read_json
from kittenllm.runs.run import Run, file_digest
from kittenllm.scorer import new_reward_model, save_reward_model
from kittenllm.settings import Common

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFO")


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def chat(question: str, answer: str) -> dict:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def pair(prompt: str, chosen: str = "No.", rejected: str = "Yes.") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def problem(question: str, answer: str) -> dict:
    return {"question": question, "answer": f"so #### {answer}"}


LONG = "meow, " * 500
SECRETS = [chat("Hi!", "My password is fish"), chat("Hello!", "My password is milk")]
# (program, flag, content, complaint): what can be seen without a kitten
BAD = [
    (ch0_base, "--text", "", "the file is empty"),
    (ch0_base, "--text", "a cat sleeps. " * 5, "the text is too short"),
    (ch1_sft, "--chats", lines({"text": "Hi!"}), "no usable"),
    (ch1_sft, "--chats", lines(*SECRETS), "drops every conversation (secret 2)"),
    (ch2_reward_model, "--preferences", lines(pair("q", "a", "a")), "are equal"),
    (ch2_reward_model, "--preferences", lines(pair("q"), pair("q", "Hm.")), "about one prompt"),
    (ch4_preferences, "--preferences", lines(pair("q", "a", "a")), "are equal"),
    (ch5_reasoning, "--questions", lines(problem("1+1?", "two")), "is not a number"),
    (ch5_reasoning, "--questions", lines(problem("1+1?", "2")), "only one word problem"),
    (rank, "--pairs-file", lines(pair("q", "a", "a")), "are equal"),
    (rank, "--train-on", lines(pair("q", "a", "a")), "are equal"),
    (ch3_ppo, "--reward-model", "Once upon a time", "cut off, or not a checkpoint"),
]
# What only the kitten's tokenizer and context show.
TOO_LONG = [
    (ch1_sft, "--chats", lines(chat("Hi!", LONG)), "no conversation fits into the context"),
    (ch2_reward_model, "--preferences", lines(pair("q", LONG), pair("p", LONG)), "no pair fits"),
    (ch4_preferences, "--preferences", lines(pair("q", LONG)), "no pair fits"),
    (ch5_reasoning, "--questions", lines(*(problem(LONG + x, "2") for x in "ab")), "problems fit"),
]


def chapter_of(story) -> str:
    """chapters.ch1_sft.story is "ch1_sft"."""
    return story.__name__.split(".")[1]


def run_program(program, argv) -> int:
    """A story, or a program with a `main` of its own."""
    if hasattr(program, "main"):
        return program.main(argv)
    return chapter_main(chapter_of(program), argv=argv)


def named(case) -> str:
    return f"{chapter_of(case[0])}-{case[3]}"


def flags(runs: Path, *more) -> list[str]:
    return ["--quick", "--device", "cpu", "--runs", str(runs), *map(str, more)]


def everything_in(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def finish(runs: Path, *names: str) -> None:
    """Folders as other runs of these chapters leave them, with nothing trained."""
    for name in names:
        folder = runs / "quick" / name
        write_json_atomic(folder / "run.json", {"fingerprint": {"chapter": name}})
        write_json_atomic(folder / "summary.json", {"chapter": name, "model": "model.pt"})
        (folder / "model.pt").write_bytes(b"weeks of training")


@pytest.mark.parametrize("case", BAD, ids=named)
def test_a_bad_file_makes_and_trains_nothing(tmp_path, capsys, case):
    program, flag, content, complaint = case
    path = tmp_path / "file"
    path.write_text(content)
    assert run_program(program, flags(tmp_path / "runs", flag, path)) == 1
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and shown[0].startswith(f"error: {path}") and complaint in shown[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", BAD + TOO_LONG, ids=named)
def test_a_bad_file_leaves_every_finished_run_where_it_is(own_runs, tmp_path, capsys, case):
    program, flag, content, complaint = case
    finish(own_runs, "ch2_reward_model", "ch3_ppo", "ch4_preferences", "ch5_reasoning")
    before = everything_in(own_runs)
    path = tmp_path / "file"
    path.write_text(content)
    assert run_program(program, flags(own_runs, flag, path)) == 1
    assert complaint in capsys.readouterr().err
    assert everything_in(own_runs) == before


def test_a_chat_kitten_as_reward_model_moves_nothing(own_runs, tmp_path, capsys):
    finish(own_runs, "ch3_ppo")
    before = everything_in(own_runs)
    model = own_runs / "quick" / "ch1_sft" / "model.pt"
    assert chapter_main("ch3_ppo", argv=flags(own_runs, "--reward-model", model)) == 1
    assert "a chat model, not a reward model" in capsys.readouterr().err
    assert everything_in(own_runs) == before


def test_a_reward_model_of_another_tokenizer_moves_nothing(
    own_runs, tmp_path, capsys, town_tokenizer
):
    gpt, _, _ = load_model(own_runs / "quick" / "ch1_sft" / "model.pt")
    ids = {"stop_ids": (town_tokenizer.im_end_id, town_tokenizer.endoftext_id)}
    ids |= {"pad_id": town_tokenizer.pad_id, "vocab_size": town_tokenizer.vocab_size}
    other = GPT(replace(gpt.config, **ids))
    path = tmp_path / "other.pt"
    save_reward_model(path, new_reward_model(other), town_tokenizer)
    finish(own_runs, "ch3_ppo")
    before = everything_in(own_runs)
    assert chapter_main("ch3_ppo", argv=flags(own_runs, "--reward-model", path)) == 1
    assert "another tokenizer" in capsys.readouterr().err
    assert everything_in(own_runs) == before


# ------------------------------------------------------------------------------------------- pipes


class Opened(Exception):
    """The run folder is opened now: all that was to be read has been read."""


@needs_pipes
@pytest.mark.parametrize(
    "program, flag, content",
    [
        (ch4_preferences, "--preferences", lines(pair("q"), pair("p"))),
        (ch5_reasoning, "--questions", lines(*(problem(x, "2") for x in "abcde"))),
    ],
    ids=["ch4", "ch5"],
)
def test_a_pipe_is_read_once_before_the_folder_is_opened(
    own_runs, fill_pipe, count_opens, monkeypatch, program, flag, content
):
    seen = []

    def opened(run):
        seen.append(run.fingerprint["inputs"])
        raise Opened

    monkeypatch.setattr(Run, "open", opened)
    pipe = fill_pipe(content.encode())
    opens = count_opens(pipe)
    with pytest.raises(Opened):
        run_program(program, flags(own_runs, flag, pipe))
    assert opens == [str(pipe)]
    whole = own_runs / "whole"
    whole.write_text(content)
    assert file_digest(whole) in seen[0].values()


@needs_pipes
def test_a_journey_on_pipes_that_are_gone(tmp_path, fill_pipe, count_opens, capsys):
    """A base, a chat kitten and a reward model from three pipes; then nobody needs them again."""
    runs = tmp_path / "runs"
    book = "The cat sat on the mat and looked at the moon. " * 400
    chats = lines(*(chat(f"May I eat {x}?", f"No, {x} is bad.") for x in "abcdefghijkl"))
    pairs = lines(*(pair(f"May I eat {x}?") for x in "abcdefghijkl"))
    small = ["--train-tokens", 640, "--vocab-size", 380, "--row-length", 32]
    steps = [
        (ch0_base, ["--text", fill_pipe(book.encode(), "book"), *small]),
        (ch1_sft, ["--chats", fill_pipe(chats.encode(), "chats")]),
        (ch2_reward_model, ["--preferences", fill_pipe(pairs.encode(), "pairs")]),
    ]
    opens = {settings[1].name: count_opens(settings[1]) for _, settings in steps}
    for program, settings in steps:
        assert run_program(program, flags(runs, *settings)) == 0, capsys.readouterr().err
    assert {name: len(found) for name, found in opens.items()} == dict.fromkeys(opens, 1)
    assert (runs / "quick" / "ch0_base" / KEPT_TEXT).read_text() == book

    # The pipes are still there, and empty: whoever opened one now would wait for ever.
    before = everything_in(runs)
    capsys.readouterr()
    common = Common(runs=runs, quick=True)
    assert ensure("ch2_reward_model", common)["held_out_pairs"] == 1
    assert "can no longer be read" not in capsys.readouterr().out

    # Now they are gone. A later chapter takes what has finished, and so does the same command.
    for _, settings in steps:
        settings[1].unlink()
    summary = ensure("ch2_reward_model", common)
    shown = capsys.readouterr().out
    for name in ("book", "chats", "pairs"):
        assert f"{tmp_path / name} can no longer be read; taken as finished" in shown
    assert summary == read_json(runs / "quick" / "ch2_reward_model" / "summary.json")
    for program, settings in steps:
        assert run_program(program, flags(runs, *settings)) == 0
        shown = capsys.readouterr().out
        assert "can no longer be read" in shown and "finished earlier with these settings" in shown
    # Other settings need the file.
    assert chapter_main("ch1_sft", argv=flags(runs, *steps[1][1], "--epochs", 2)) == 1
    assert f"error: {tmp_path / 'chats'}: cannot be read" in capsys.readouterr().err
    assert everything_in(runs) == before


# ----------------------------------------------------------------------------- files that have gone


def test_a_file_that_has_changed_is_another_run(own_runs, tmp_path, monkeypatch):
    """A chapter's own command reads its file; only who stands on the chapter does not."""
    path = tmp_path / "chats.jsonl"
    path.write_text(lines(chat("Hi!", "Meow."), chat("Hello!", "Purr.")))
    digests = []

    def opened(run):
        digests.append(run.fingerprint["inputs"]["chats"])
        raise Opened

    monkeypatch.setattr(Run, "open", opened)
    for _ in range(2):
        with pytest.raises(Opened):
            chapter_main("ch1_sft", argv=flags(own_runs, "--chats", path))
        path.write_text(lines(chat("Hi!", "Meow."), chat("Hello!", "Hiss.")))
    assert digests[0] != digests[1] == file_digest(path)


def test_a_base_of_an_earlier_version_kept_no_text(tmp_path):
    """Then the file itself is read, and must still be there."""
    path = tmp_path / "book.txt"
    path.write_text("Once upon a time")
    assert kept_text(tmp_path / "ch0_base", str(path)).text == "Once upon a time"
    path.unlink()
    with pytest.raises(RecordError, match="book.txt: cannot be read"):
        kept_text(tmp_path / "ch0_base", str(path))


@needs_pipes
def test_the_report_does_not_wait_for_a_pipe(tmp_path, fill_pipe, monkeypatch):
    """A kitten's replies are shown also when its conversations are gone."""
    pipe = fill_pipe(b"")
    stage = SimpleNamespace(
        state="finished",
        folder=tmp_path,
        summary={"model": "model.pt", "fingerprint": "f"},
        value=lambda key: str(pipe),
    )
    monkeypatch.setattr(report_life, "load_model", lambda path: (None, None, {}))
    monkeypatch.setattr(report_life, "answers_of", lambda gpt, tokenizer, bare: [{"text": "meow"}])
    monkeypatch.setattr(report_life, "exam_of", lambda *about: [])
    content, notes = report_life.ask_everyone(tmp_path, {"ch1_sft": stage})
    assert content["kittens"]["ch1_sft"]["replies"] == [{"text": "meow"}]
    assert content["mask"] is None
    [note] = notes
    assert f"cannot be shown: {pipe}: there is no such file any more" in note
