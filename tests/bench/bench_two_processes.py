"""GRPO in two processes of one thread against one process of two threads.

    python tests/bench/bench_two_processes.py

Rounds of 32 prompts x 16 replies of 10 .. 76 tokens, as in bench_grpo.py: lengths and rewards hang
on the prompt and on the place in its group, so both ways do the same work. Each measurement is a
start of its own, one plainly and one by torchrun; they take turns, and the medians are compared.
Let nothing else run meanwhile. With --runs RUNS the result goes to
RUNS/two_processes/summary.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch

from kittenllm import grpo, sampling  # noqa: E402
from kittenllm.distributed import world  # noqa: E402
from kittenllm.gpt import GPT, SIZES, GPTConfig  # noqa: E402
from kittenllm.grpo import GRPOConfig  # noqa: E402
from kittenllm.optim import make_optimizer  # noqa: E402
from kittenllm.runs.summaries import write_summary  # noqa: E402

PROMPTS, GROUP, PROMPT_TOKENS = 32, 16, 15
SHORTEST, LONGEST = 10, 76
FACTOR = 1.2
ONE, TWO = "one process of two threads", "two processes of one thread"


def lengths_of(prompts: list[list[int]]) -> torch.Tensor:
    """How many tokens each reply has: drawn from the prompt and the place in the group."""
    lengths = []
    for place, prompt in enumerate(prompts):
        dice = torch.Generator().manual_seed(1000 * sum(prompt) + place % GROUP)
        lengths.append(int(torch.randint(SHORTEST, LONGEST + 1, (), generator=dice)))
    return torch.tensor(lengths)


def replies(gpt: GPT, prompts: list[list[int]], **settings) -> sampling.Rollout:
    """`generate`, but each reply ends at its own length."""
    lengths = lengths_of(prompts)
    sampling.stop_rule = lambda gpt, ids: lambda tokens, rows, step: lengths[rows] == step + 1
    return sampling.generate(gpt, prompts, **settings)


def seconds_of(steps: int, count: int) -> float:
    """The mean time of a round with so many prompts; the first one is not counted."""
    gpt = GPT(GPTConfig(**SIZES["small"]))
    prompts = [[10 + (7 * p + 3 * t) % 1000 for t in range(PROMPT_TOKENS)] for p in range(count)]
    grpo.generate = replies
    training = grpo.train_grpo(
        gpt,
        prompts,
        lambda number, reply, ended: (float(number % 3 > 0 and len(reply) % 3 == 0), {}),
        config=GRPOConfig(
            steps=steps + 1, prompts_per_step=count, group_size=GROUP, max_new_tokens=LONGEST
        ),
        optimizer=make_optimizer(gpt, matrix_lr=5e-4, other_lr=5e-4),
        generator=torch.Generator().manual_seed(0),
    )
    next(training)
    world().wait()
    started = time.perf_counter()
    for _ in training:
        pass
    world().wait()
    return (time.perf_counter() - started) / steps


def measure(way: str, steps: int, count: int) -> float:
    """Start the work in one way."""
    threads = "2" if way == ONE else "1"
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *(starter if way == TWO else []), __file__]
    result = subprocess.run(
        [*command, "--work", "--steps", str(steps), "--prompts", str(count)],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(result.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="counted steps in one round")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="an even number")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where the result is written")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        took = seconds_of(arguments.steps, arguments.prompts)
        if world().is_first:
            print(took)
        return
    seconds: dict[str, list[float]] = {ONE: [], TWO: []}
    for number in range(arguments.rounds):
        for way in (ONE, TWO) if number % 2 == 0 else (TWO, ONE):
            seconds[way].append(measure(way, arguments.steps, arguments.prompts))
            print(f"  {way}: {seconds[way][-1]:.3f} s", file=sys.stderr, flush=True)
    one, two = (statistics.median(seconds[way]) for way in (ONE, TWO))
    print(f"a round of GRPO: {ONE} {one:.3f} s, {TWO} {two:.3f} s, {one / two:.2f} times as fast")
    print(f"at least {FACTOR} times:", "yes" if one >= FACTOR * two else "NO")
    if arguments.runs:
        numbers = {"round_s": one, "round_s_two_processes": two, "gain": one / two}
        summary = {**numbers, "config": {"model": "a small kitten"}, "threads": 2}
        write_summary(arguments.runs / "two_processes" / "summary.json", summary)


if __name__ == "__main__":
    main()
