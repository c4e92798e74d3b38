"""Two processes that share a step learn what one process learns; alone, nothing is done at all."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.testing import assert_close

from kittenllm import settings
from kittenllm.batches import PackedRows
from kittenllm.distributed import World, part_of, put_together, whole, world
from tests.resume_program import run_tiny
from tests.two_processes import SHARDED, TRAININGS, dice, tiny_gpt, train

ROOT = Path(__file__).parent.parent
TWO = distributed.is_available() and distributed.is_gloo_available()
needs_gloo = pytest.mark.skipif(not TWO, reason="this torch has no gloo")


# ------------------------------------------------------------------------------------- alone


def test_without_torchrun_the_world_is_this_process():
    assert world() == World(rank=0, size=1, device=torch.device("cpu"))
    assert world().is_first and not distributed.is_initialized()


def test_alone_every_tool_gives_back_what_it_got():
    """The very same objects: not a digit of a training can change."""
    alone, gpt = World(), tiny_gpt()
    rows, loss, generator = [3, 1, 2], torch.tensor(0.3, requires_grad=True), dice(0)
    assert alone.shard(rows) is rows and alone.shard(rows, equal=True) is rows
    assert alone.dice(generator) is generator
    assert torch.equal(generator.get_state(), dice(0).get_state())
    averaged, metrics = alone.average(loss, {"accuracy": loss}, count=7)
    assert averaged is loss and metrics["accuracy"] is loss
    assert alone.weight(0) == alone.weight(7) == 1.0
    assert alone.each(7) == [7] and alone.mean({"a": 0.1, "b": 3}) == {"a": 0.1, "b": 3}
    gradient = gpt.norm.weight.grad = torch.ones(16)
    alone.average_gradients(gpt)
    assert gpt.norm.weight.grad is gradient and gpt.embed_tokens.weight.grad is None
    weight, kind = gpt.embed_tokens.weight, type(gpt)
    alone.split(gpt)
    with put_together(gpt):
        assert gpt.embed_tokens.weight is weight and type(gpt) is kind
    assert whole(weight) is weight and part_of(loss, weight) is loss


def test_shard_needs_torchrun(capsys):
    parser = settings.new_parser("")
    with pytest.raises(SystemExit):
        settings.read_common(parser, vars(parser.parse_args(["--shard"])))
    assert "--shard needs several processes" in capsys.readouterr().err


# ------------------------------------------------------------------------------- by hand


def test_every_row_belongs_to_one_process():
    rows = list(range(7))
    parts = [World(rank, 3).shard(rows) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    tokens = torch.arange(12).view(4, 3)
    packed = PackedRows(tokens, torch.zeros(4, 3, dtype=torch.bool), tokens)
    assert World(1, 2).shard(packed).tokens.tolist() == [[3, 4, 5], [9, 10, 11]]
    assert World(1, 2).shard(tokens).tolist() == [[3, 4, 5], [9, 10, 11]]


@pytest.mark.parametrize("rows, equal", [(1, False), (3, True)])
def test_rows_that_do_not_reach_are_refused(rows, equal):
    with pytest.raises(ValueError, match=f"a step has {rows} rows .* for 2 processes; give"):
        World(0, 2).shard(list(range(rows)), equal=equal)


def test_a_mean_over_more_tokens_weighs_more(monkeypatch):
    """The means 1.0 over 3 tokens and 5.0 over 1 token are 2.0 over all four."""
    monkeypatch.setattr(World, "each", lambda self, number: [3, 1])
    weights = World(0, 2).weight(3), World(1, 2).weight(1)
    assert weights == (1.5, 0.5)
    assert (weights[0] * 1.0 + weights[1] * 5.0) / 2 == (3 * 1.0 + 1 * 5.0) / 4 == 2.0


def test_the_averaged_loss_has_the_value_of_all_and_the_gradient_of_one(monkeypatch):
    others = {"count": 1, "": 1 * 5.0, "hits": 1 * 0.0}  # of the process with one token
    monkeypatch.setattr(
        World, "mean", lambda self, mine: {k: (mine[k] + others[k]) / 2 for k in mine}
    )
    x = torch.tensor(1.0, requires_grad=True)
    loss, metrics = World(0, 2).average(x * 1.0, {"hits": torch.tensor(1.0)}, count=3)
    loss.backward()
    assert loss.item() == 2.0 and metrics["hits"].item() == 0.75
    assert x.grad.item() == 1.5  # its weight; the average of the gradients halves it


def test_a_number_that_one_process_lacks_is_the_mean_of_the_others(monkeypatch):
    monkeypatch.setattr(World, "each", lambda self, mine: [mine, {"a": 3.0}])
    assert World(0, 2).mean({"a": 1.0, "b": 5.0}) == {"a": 2.0, "b": 5.0}


def test_each_process_has_dice_of_its_own_and_the_common_ones_move_alike():
    common = [dice(0), dice(0)]
    own = [World(rank, 2).dice(common[rank]) for rank in range(2)]
    first, second = (torch.rand(8, generator=generator) for generator in own)
    assert (first != second).all()
    assert torch.equal(common[0].get_state(), common[1].get_state())
    assert not torch.equal(common[0].get_state(), dice(0).get_state())  # another draw next time


# --------------------------------------------------------------------------- two processes


def start(*arguments) -> list[subprocess.Popen]:
    """Two processes of `python -m tests.two_processes`, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.two_processes", *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict]:
    """What came out of all trainings in process 0 and in process 1."""
    path = tmp_path_factory.mktemp("two") / "results"
    processes = start("trainings", path)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(f"{path}{rank}", weights_only=True) for rank in range(2)]


@needs_gloo
@pytest.mark.parametrize(
    "name, sharded",
    [*((name, False) for name in TRAININGS), *((name, True) for name in SHARDED)],
)
def test_two_processes_learn_what_one_learns(of_two, name, sharded):
    """Same global batch, 20 steps: losses, gradients and weights to 1e-5, and so every metric."""
    numbers, weights = train(name)
    for rank in range(2):
        numbers_of_two, weights_of_two = of_two[rank][name, sharded]
        assert len(numbers_of_two) == len(numbers) == 20
        for one, two in zip(numbers, numbers_of_two, strict=True):
            assert one.keys() == two.keys()
            apart = {key for key in one if "second" in key} | {"entropy"}  # of a process's tokens
            for key in one.keys() - apart:
                assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-5), key
        assert_close(weights_of_two, weights, rtol=1e-5, atol=1e-5)
    start_weights = tiny_gpt().state_dict()
    moved = max(float((weights[name] - start_weights[name]).abs().max()) for name in weights)
    assert moved > 1e-2  # a thousand times the tolerance


@needs_gloo
@pytest.mark.parametrize("sharded", [False, True])
def test_both_processes_have_the_same_weights_to_the_last_bit(of_two, sharded):
    for name in SHARDED:
        first, second = (results[name, sharded][1] for results in of_two)
        assert all(torch.equal(first[key], second[key]) for key in first), name


@needs_gloo
@pytest.mark.parametrize("sharded", [False, True])
def test_real_sampling_goes_through_and_every_process_sees_the_mean_reward(of_two, sharded):
    first, second = (results["sampled", sharded] for results in of_two)
    assert first == second and len(set(first)) > 1


@needs_gloo
@pytest.mark.parametrize("sharded", [False, True])
def test_a_state_is_saved_whole_and_restored_in_parts(of_two, sharded):
    for results in of_two:
        assert len(results["restored", sharded]) > 20 and all(results["restored", sharded])


def wait_for_steps(folder: Path, steps: int, processes) -> None:
    metrics, saved = folder / "tiny/metrics.jsonl", list(folder.glob("tiny/resume/*.pt"))
    deadline = time.monotonic() + 300
    while not (saved and metrics.exists() and metrics.read_text().count("\n") >= steps):
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.05)
        saved = list(folder.glob("tiny/resume/*.pt"))


@needs_gloo
def test_a_signal_to_one_stops_both_and_a_lost_one_ends_both(tmp_path):
    """Ctrl-C in one process, then a kill; what is left goes on alone, and no number changes."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    processes = start("run", together)
    wait_for_steps(together, 10, processes)
    processes[1].send_signal(signal.SIGINT)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 130]
    assert "".join(errors).count("the same command goes on from there") == 1, errors

    processes = start("run", together)
    wait_for_steps(together, 75, processes)
    processes[1].kill()
    _, error = processes[0].communicate(timeout=300)
    processes[1].communicate()
    assert processes[0].returncode == 1 and "Traceback" not in error
    assert error.count("error: another process was lost") == 1, error

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (run, gpt), (whole_run, other) = run_tiny(together), run_tiny(alone)
    finally:
        torch.set_num_threads(threads)
    assert run.summary["last_loss"] == whole_run.summary["last_loss"]
    assert all(torch.equal(a, b) for a, b in zip(gpt.parameters(), other.parameters(), strict=True))
    lines = [(r.folder / "metrics.jsonl").read_text().splitlines() for r in (run, whole_run)]
    assert lines[0] == lines[1]
