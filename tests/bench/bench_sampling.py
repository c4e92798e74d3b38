"""What dropping finished rows from the batch is worth.

    python tests/bench/bench_sampling.py

256 replies with lengths drawn uniformly from 16 .. 128, once with finished rows leaving the batch
and once with a static batch. The lengths are forced, so both do the same work. A batch that loses
nothing else can be at most 128 / 72 = 1.78 times as fast. Also the seconds for 512 replies of 43
tokens, as in a step of reinforcement learning. The two ways take turns, and each gets the time of
its best round, since other programs only ever make a round slower.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch

from kittenllm import sampling  # noqa: E402
from kittenllm.gpt import GPT, SIZES, GPTConfig  # noqa: E402

FILL_HOLES = sampling.fill_holes


def keep_all(growing: torch.Tensor, count: int) -> torch.Tensor:
    """A static batch: every row stays where it is, which costs no copy."""
    return torch.arange(len(growing), device=growing.device)


def seconds(
    gpt: GPT, lengths: torch.Tensor, prompts: list[list[int]], *, drop_finished: bool
) -> float:
    """The time for replies of these lengths, whatever their tokens."""
    generator = torch.Generator(device=gpt.device).manual_seed(0)
    lengths = lengths.to(gpt.device)
    longest = int(lengths.max())
    sampling.stop_rule = lambda gpt, ids: lambda tokens, rows, step: lengths[rows] == step + 1
    sampling.fill_holes = FILL_HOLES if drop_finished else keep_all
    started = time.perf_counter()
    rollout = sampling.generate(
        gpt, prompts, max_new_tokens=longest, temperature=1.0, generator=generator
    )
    took = time.perf_counter() - started
    assert torch.equal(rollout.response_mask.sum(dim=1), lengths)
    return took


def compare(
    gpt: GPT, rows: int, low: int, high: int, rounds: int, generator: torch.Generator
) -> tuple[float, float]:
    """The best seconds with and without dropping, for reply lengths uniform in low .. high."""
    lengths = torch.randint(low, high + 1, (rows,), generator=generator)
    prompt_lengths = torch.randint(8, 25, (rows,), generator=generator)
    prompts = [[5] * length for length in prompt_lengths.tolist()]
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for drop_finished, list_of_times in times.items():
            list_of_times.append(seconds(gpt, lengths, prompts, drop_finished=drop_finished))
    dropping, static = min(times[True]), min(times[False])
    print(
        f"{rows} replies of {low} .. {high} tokens: {dropping:.2f} s with dropping, "
        f"{static:.2f} s static, {static / dropping:.2f} times as fast, "
        f"{int(lengths.sum()) / dropping:,.0f} tokens/s"
    )
    return dropping, static


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    gpt = GPT(GPTConfig(**SIZES[arguments.size])).to(arguments.device)
    generator = torch.Generator().manual_seed(0)
    compare(gpt, 512, 10, 76, arguments.rounds, generator)
    dropping, static = compare(gpt, 256, 16, 128, arguments.rounds, generator)
    print("at least 1.5 times as fast:", "yes" if static >= 1.5 * dropping else "NO")


if __name__ == "__main__":
    main()
