"""What a short spin of torch's threads costs on a quiet computer, and gains on a busy one.

    python tests/bench/bench_spinning.py

Compares what `kittenllm/__init__.py` sets (GOMP_SPINCOUNT) with libgomp's own default, by steps of
chapter 0 and by a round of GRPO (that of bench_grpo.py: 512 replies). First alone, so let nothing
else run meanwhile; then beside four busy loops (`python -c "while True: pass"`). OpenMP reads its
setting once, so every measurement is a process of its own. The two settings take turns, the first
place too, and the medians are compared. Only where torch uses GNU's OpenMP does this say anything.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

MOST_LOST = 0.05  # of a quiet computer's speed
FACTOR = 8.0  # at least so many times as fast on a busy one
BUSY_LOOPS = 4
WORKS = ("chapter 0", "GRPO")
SETTINGS = ("default", "ours")


def measure(work: str, setting: str, steps: int, threads: int) -> float:
    """Seconds of one step, in a process of its own; the first step is not counted if there are
    more."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["OMP_NUM_THREADS"] = str(threads)
    command = [
        sys.executable,
        __file__,
        "--work",
        work,
        "--setting",
        setting,
        "--steps",
        str(steps),
    ]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(result.stdout)


def seconds_of(work: str, setting: str, steps: int) -> float:
    """The measurement itself."""
    if setting == "default":
        import torch  # noqa: F401 (before the package: libgomp has read its own default by now)
    one_step = chapter_0() if work == "chapter 0" else grpo()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        one_step()
        seconds.append(time.perf_counter() - started)
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def chapter_0():
    """A function that does one step of chapter 0's training."""
    import kittenllm.gpt as model  # the package comes before torch
    from kittenllm.batches import TokenStream
    from kittenllm.optim import make_optimizer
    from kittenllm.pretrain import PretrainConfig, train_pretrain

    # isort: split
    import torch

    config = PretrainConfig(steps=1000)
    gpt = model.GPT(model.GPTConfig(**model.SIZES["small"]))
    optimizer = make_optimizer(gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    dice = torch.Generator().manual_seed(0)
    text = torch.randint(0, 1000, (200_000,), generator=dice)
    training = train_pretrain(
        gpt, TokenStream(text), config=config, optimizer=optimizer, generator=dice
    )
    return lambda: next(training)


def grpo():
    """A function that does one round of GRPO."""
    import bench_grpo

    from kittenllm.gpt import GPT, SIZES, GPTConfig

    work = bench_grpo.Work(GPT(GPTConfig(**SIZES["small"])))
    return lambda: bench_grpo.our_step(work)


@contextmanager
def busy(loops: int):
    """While this is open, so many other programs want the processor."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # they must end with us
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def compare(work: str, rounds: int, steps: int, threads: int) -> float:
    """How many times as fast our setting is as the default."""
    seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    for number in range(rounds):
        for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
            seconds[setting].append(measure(work, setting, steps, threads))
            print(f"  {work}, {setting}: {seconds[setting][-1]:.3f} s", file=sys.stderr, flush=True)
    default, ours = (statistics.median(seconds[setting]) for setting in SETTINGS)
    print(
        f"{work}, median of {rounds}: default {default:.3f} s, ours {ours:.3f} s, "
        f"{default / ours:.2f} times as fast",
        flush=True,
    )
    return default / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="alone")
    parser.add_argument("--busy-rounds", type=int, default=3, help="beside the busy loops")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--steps", type=int, default=20, help="of chapter 0 in a measurement, alone"
    )
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(seconds_of(arguments.work, arguments.setting, arguments.steps))
        return
    print(f"alone, {arguments.threads} threads:")
    steps = {"chapter 0": arguments.steps, "GRPO": 2}
    alone = [compare(work, arguments.rounds, steps[work], arguments.threads) for work in WORKS]
    print(f"beside {BUSY_LOOPS} busy loops:")
    steps = {"chapter 0": 3, "GRPO": 1}
    with busy(BUSY_LOOPS):
        beside = [
            compare(work, arguments.busy_rounds, steps[work], arguments.threads) for work in WORKS
        ]
    kept = min(alone) >= 1 / (1 + MOST_LOST)
    print(f"alone at most {MOST_LOST:.0%} slower: {'yes' if kept else 'NO'}")
    won = beside[0] >= FACTOR
    print(f"chapter 0 beside them at least {FACTOR:g} times as fast: {'yes' if won else 'NO'}")


if __name__ == "__main__":
    main()
