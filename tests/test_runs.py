"""A run that was killed must end with the very numbers of a run that was not.

Half of this file really kills processes; the other half checks what decides whether a folder is
reused, continued or put aside.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kittenllm.gpt import GPT, GPTConfig
from kittenllm.runs import checkpoints
from kittenllm.runs.checkpoints import CheckpointError, load_model
from kittenllm.runs.json_files import DamagedFile
from kittenllm.runs.progress import Progress
from kittenllm.runs.run import Run, digest, file_digest, fingerprint_of
from kittenllm.settings import Common
from kittenllm.tokenizer import Tokenizer
from tests.resume_program import run_tiny

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    rates: tuple[float, ...] = (0.1, 0.2)


def counting(steps, start_step=0, generator=None):
    """A training that only rolls dice."""
    for step in range(start_step, steps):
        roll = torch.rand((), generator=generator).item() if generator is not None else 0.0
        yield {"step": step, "loss": roll}


def start_program(folder) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.resume_program", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, lines: int, process) -> None:
    """Wait until `path` exists and metrics.jsonl beside it has that many lines."""
    metrics = path.parent.parent / "metrics.jsonl"
    for _ in range(600):
        if path.exists() and metrics.exists() and metrics.read_text().count("\n") >= lines:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_kill_and_terminate_change_no_number(tmp_path):
    """SIGKILL in the first stage, SIGTERM in the second: same weights, same metrics, bit for
    bit."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start_program(killed)
    wait_for(killed / "tiny/resume/first.pt", 20, process)
    process.kill()
    process.communicate()

    process = start_program(killed)
    wait_for(killed / "tiny/resume/second.pt", 75, process)
    process.terminate()
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in message
    assert "Traceback" not in message

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the program: sums are added up in the same order
    try:
        resumed, resumed_gpt = run_tiny(killed)
        _, whole_gpt = run_tiny(whole)
    finally:
        torch.set_num_threads(threads)
    for name, weight in whole_gpt.state_dict().items():
        assert torch.equal(weight, resumed_gpt.state_dict()[name]), name
    lines = (killed / "tiny/metrics.jsonl").read_text()
    assert lines == (whole / "tiny/metrics.jsonl").read_text()
    assert lines.count("\n") == 120
    assert resumed.summary["seconds"] > resumed.summary["train_seconds"] > 1.2  # of all starts
    assert not (killed / "tiny/resume").exists()


def test_ctrl_c_stops_between_two_steps(tmp_path):
    """The step in which Ctrl-C arrives is finished, saved, and not done again."""
    generator = torch.Generator().manual_seed(0)
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    stage = run.stage("train", total=6, objects={"generator": generator})
    with pytest.raises(KeyboardInterrupt, match="after step 3 of 6"):
        for metrics in stage.follow(counting(6, generator=generator)):
            if metrics["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

    generator = torch.Generator().manual_seed(99)  # wrong dice: the saved ones replace them
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    stage = run.stage("train", total=6, objects={"generator": generator})
    assert stage.step == 3
    list(stage.follow(counting(6, stage.step, generator)))
    expected = list(counting(6, generator=torch.Generator().manual_seed(0)))
    assert [entry["loss"] for entry in run.history("train")] == [m["loss"] for m in expected]


def test_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    def stubborn():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield {"loss": 0.0}

    stage = Run(Common(runs=tmp_path), "chapter", Settings()).stage("train", total=1, objects={})
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="at once"):
        list(stage.follow(stubborn()))
    assert signal.getsignal(signal.SIGINT) is before


def test_state_is_saved_after_the_callers_turn(tmp_path):
    """What the caller adds to a step's metrics belongs to the step, also after a stop."""
    run = Run(Common(runs=tmp_path), "chapter", Settings(), save_every=0.0)
    stage = run.stage("train", total=2, objects={})
    for metrics in stage.follow(counting(2)):
        metrics["value"] = 10 * metrics["step"]
    assert [entry["value"] for entry in run.history()] == [0, 10]
    assert [entry["stage"] for entry in run.history()] == ["train", "train"]


def test_a_finished_stage_gives_its_objects_back_and_yields_nothing(tmp_path):
    layer = torch.nn.Linear(2, 2)
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    stage = run.stage("dpo", total=3, objects={"model": layer})
    list(stage.follow(counting(3)))
    run.stage("ipo", total=3, objects={"model": layer})

    again = torch.nn.Linear(2, 2)
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    stage = run.stage("dpo", total=3, objects={"model": again})
    assert stage.done and stage.step == 3
    assert torch.equal(again.weight, layer.weight)
    assert list(stage.follow(counting(3))) == []
    assert len(run.history("dpo")) == 3


def test_metrics_are_cut_back_to_the_saved_step(tmp_path):
    """Lines newer than the state, and half a line, go; lines of other stages stay."""
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    list(run.stage("first", total=2, objects={}).follow(counting(2)))
    stage = run.stage("second", total=5, objects={})
    for _ in zip(range(4), stage.follow(counting(5)), strict=False):
        stage._save()  # after 0, 1, 2 and 3 finished steps
    run.log("second", 3, {"loss": 1.0})  # finished, but the kill came before the next save
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"stage": "second", "st')
    run.stage("second", total=5, objects={})
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(e["stage"], e["step"]) for e in entries] == [
        ("first", 0), ("first", 1), ("second", 0), ("second", 1), ("second", 2)
    ]  # fmt: skip


def test_a_line_without_a_number_that_is_needed_is_left_out_and_said(tmp_path, capsys):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    rows = ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": None}, {"a": 3, "b": 4})
    for step, numbers in enumerate(rows):
        run.log("train", step, numbers)
    assert len(run.history("train")) == len(run.history("train", "a")) == 4
    assert capsys.readouterr().err == ""
    assert [entry["step"] for entry in run.history("train", "a", "b")] == [0, 3]
    run.history("train", "a", "b")
    assert capsys.readouterr().err.count("note: 2 lines") == 1  # said once
    with pytest.raises(DamagedFile, match="no line of train with 'c'"):
        run.history("train", "a", "c")
    assert run.history("another", "a") == []


def test_the_last_line_must_hold_what_is_asked_for(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    run.log("train", 0, {"a": 1, "b": 2})
    run.log("train", 1, {"a": None})  # not a number, as a loss that has become NaN
    assert run.last_entry("train", "a")["step"] == 1
    with pytest.raises(DamagedFile, match="the last line of train has no 'b'"):
        run.last_entry("train", "a", "b")


def test_a_training_that_starts_at_the_wrong_step_is_refused(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings(), save_every=0.0)
    list(zip(range(2), run.stage("train", total=5, objects={}).follow(counting(5)), strict=False))
    stage = Run(Common(runs=tmp_path), "chapter", Settings()).stage("train", total=5, objects={})
    assert stage.step == 1  # the second step was never handed back
    with pytest.raises(ValueError, match="start_step=stage.step"):
        list(stage.follow(counting(5)))


def test_pythons_dice_are_restored(tmp_path):
    dice = random.Random(5)
    dice.gauss(0, 1)  # leaves a second number in store
    stage = Run(Common(runs=tmp_path), "c", Settings()).stage("s", total=1, objects={"dice": dice})
    list(stage.follow(counting(1)))
    expected = [dice.gauss(0, 1), dice.random()]
    other = random.Random(6)
    Run(Common(runs=tmp_path), "c", Settings()).stage("s", total=1, objects={"dice": other})
    assert [other.gauss(0, 1), other.random()] == expected


def test_once_remembers_until_the_run_is_finished(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"accuracy": 0.5, "pairs": [(1, 2)], "nothing": float("nan")}

    for _ in range(2):
        run = Run(Common(runs=tmp_path), "chapter", Settings())
        value = run.once("before", measure)
        assert value == {"accuracy": 0.5, "pairs": [[1, 2]], "nothing": None}  # as after a restart
    assert len(calls) == 1


def test_finished_runs_are_reused_on_any_device(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings(), inputs={"data": "abc"})
    with run.timing("eval"):
        time.sleep(0.01)
    summary = run.finish({"accuracy": 0.75, "bad": float("inf")})
    common_keys = {"seed", "seconds", "train_seconds", "eval_seconds", "peak_rss_mb", "config"}
    assert common_keys < summary.keys()
    assert summary["eval_seconds"] >= 0.01 and summary["bad"] is None
    assert summary["config"] == {"steps": 3, "rates": [0.1, 0.2]}
    common = Common(runs=tmp_path, device=torch.device("meta"))
    again = Run(common, "chapter", Settings(), inputs={"data": "abc"})
    assert again.finished and again.summary == summary
    assert fingerprint_of(common, "chapter") == summary["fingerprint"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"settings": Settings(steps=4)}, "steps: 3, now 4"),
        ({"seed": 1}, "seed: 0, now 1"),
        ({"size": "medium"}, "size: small, now medium"),
        ({"inputs": {"data": "new"}}, "data: abc, now new"),
        ({"device": torch.device("meta")}, "device: cpu, now meta"),  # other random numbers
    ],
)
def test_another_run_is_put_aside_never_mixed(tmp_path, capsys, change, words):
    settings = {"settings": Settings(), "seed": 0, "inputs": {"data": "abc"}, "size": "small"}

    def open_run(settings, inputs, **common):
        return Run(Common(runs=tmp_path, **common), "chapter", settings, inputs=inputs)

    run = open_run(**settings)
    list(run.stage("train", total=3, objects={}).follow(counting(3)))
    run = open_run(**{**settings, **change})
    assert words in capsys.readouterr().out
    assert run.stage("train", total=3, objects={}).step == 0
    assert run.history() == []
    assert (tmp_path / "chapter.old1/resume/train.pt").exists()
    list(run.stage("train", total=3, objects={}).follow(counting(3)))
    open_run(**settings)
    assert (tmp_path / "chapter.old2/resume/train.pt").exists()  # and nothing is deleted


def test_a_new_package_version_runs_again(tmp_path, monkeypatch):
    Run(Common(runs=tmp_path), "chapter", Settings()).finish({})
    monkeypatch.setattr("kittenllm.__version__", "99.0")
    assert not Run(Common(runs=tmp_path), "chapter", Settings()).finished


def test_a_finished_run_whose_model_was_deleted_runs_again(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    gpt = GPT(GPTConfig(tokenizer.vocab_size, layers=1, channels=32, ffn_channels=32))
    run.finish({}, model=(gpt, tokenizer), extra={"head": torch.ones(2)})
    _, _, extra = load_model(run.folder / "model.pt")
    assert torch.equal(extra["head"], torch.ones(2))
    assert Run(Common(runs=tmp_path), "chapter", Settings()).finished
    (run.folder / "model.pt").unlink()
    assert not Run(Common(runs=tmp_path), "chapter", Settings()).finished


def test_full_disk_is_a_warning_while_training_and_an_error_at_the_end(
    tmp_path, monkeypatch, capsys
):
    run = Run(Common(runs=tmp_path), "chapter", Settings(), save_every=0.0)
    stage = run.stage("train", total=3, objects={})
    real_open, real_fsync = open, os.fsync

    def full_open(path, mode="r", **options):
        if "a" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, mode, **options)

    def full_fsync(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full_open)
    monkeypatch.setattr(checkpoints.os, "fsync", full_fsync)
    list(stage.follow(counting(3)))
    warnings = capsys.readouterr().err
    assert warnings.count("metrics.jsonl not saved") == 1
    assert warnings.count("resume state not saved") == 1
    with pytest.raises((CheckpointError, OSError)):
        run.finish({})
    assert not (run.folder / "summary.json").exists()

    monkeypatch.setattr("builtins.open", real_open)
    monkeypatch.setattr(checkpoints.os, "fsync", real_fsync)
    run.finish({})
    assert [entry["step"] for entry in run.history()] == [0, 1, 2]  # nothing was lost
    assert not list(run.folder.glob("**/*.tmp"))


def test_two_programs_never_share_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    run = Run(Common(runs=tmp_path), "tiny", Settings())
    process = start_program(tmp_path)
    _, message = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "another program is running this chapter" in message
    del run


def test_unusable_runs_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="--runs"):
        Run(Common(runs=tmp_path / "file"), "chapter", Settings())


def test_clear_errors_for_misuse(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    with pytest.raises(ValueError, match="'a list' is a list"):
        run.stage("train", total=1, objects={"a list": []})
    with pytest.raises(ValueError, match="letters"):
        run.stage("../train", total=1, objects={})
    with pytest.raises(ValueError, match="seed"):
        run.finish({"seed": 1})
    with pytest.raises(CheckpointError, match="has not finished"):
        fingerprint_of(Common(runs=tmp_path), "ch9_nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_digest(tmp_path / "nothing.txt")


def test_a_state_of_another_program_is_a_clear_error(tmp_path):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    objects = {"model": torch.nn.Linear(2, 2)}
    list(run.stage("train", total=1, objects=objects).follow(counting(1)))
    with pytest.raises(CheckpointError, match="Delete"):
        run.stage("train", total=1, objects={"model": torch.nn.Linear(3, 3)})


def test_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_progress_is_readable_in_a_pipe(tmp_path, capsys):
    run = Run(Common(runs=tmp_path), "chapter", Settings())
    list(run.stage("train", total=3, objects={}).follow(counting(3), show=("loss", "absent")))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "chapter train: 1 of 3 steps, 0 s, loss 0"
    assert lines[-1] == "chapter train: 3 of 3 steps, 0 s, loss 0"


def test_the_time_to_go_by_hand(monkeypatch, capsys):
    """The first step takes 50 s and does not count, the others 2 s: 97 of them are left."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("train", 0, 100)
    for seconds in (50.0, 2.0, 2.0):
        now += seconds
        progress.update({"loss": 1.0}, ("loss",))
    assert progress.to_go() == "about 3 min to go, "  # 194 s
    for _ in range(90):
        now += 2.0
        progress.update({"loss": 1.0}, ("loss",))
    assert progress.to_go() == "about 14 s to go, "
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 1 of 100 steps, 50 s, loss 1"  # nothing is known yet
    assert "to go, loss 1" in lines[1]
    resumed = Progress("train", 60, 100)
    resumed.update({"loss": 1.0}, ("loss",))
    now += 4.0
    resumed.update({"loss": 1.0}, ("loss",))
    assert resumed.to_go() == "about 3 min to go, "  # 38 steps of 4 s, whatever came before


def test_progress_keeps_numbers_that_come_only_now_and_then(capsys):
    progress = Progress("train", 0, 2)
    progress.update({"loss": 2.0, "val_loss": 3.0}, ("loss", "val_loss"))
    progress.update({"loss": 1.0, "val_loss": None}, ("loss", "val_loss"))
    progress.close()
    assert capsys.readouterr().err.splitlines()[-1].endswith("loss 1, val_loss 3")
