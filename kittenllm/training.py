"""The plumbing that all training loops share: which rows come next, and one optimizer step.

One idea: the order of the data is a *function* of (seed, position), so a run that was killed goes
on with exactly the rows it would have seen.

Read before: nothing. Left out: loading in worker processes; the data fits into memory.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from kittenllm import checks
from kittenllm.distributed import whole, world
from kittenllm.forward import rows_by_length

Part = TypeVar("Part", Tensor, list[int])  # the numbers of some rows, or of some pairs
BETWEEN_EPOCHS = 1_000_003  # large: the seeds 0, 1, 2, ... have no epoch in common


class Optimizer(Protocol):
    """What a training loop needs from an optimizer; `optim.make_optimizer` returns one."""

    def zero_grad(self) -> None: ...
    def step(self) -> None: ...
    def set_scale(self, scale: float) -> None: ...


def rows_between(count: int, start: int, stop: int, *, seed: int) -> Tensor:
    """Numbers start .. stop-1 of an endless shuffled list of the rows 0 .. count-1.

    The list is one shuffled epoch after the other: every row comes once before any comes twice.
    Epoch e is shuffled with a generator of its own, made from (seed, e). Returns (stop - start,)
    int64 on the CPU.

    Raises: ValueError for a count below 1 or a negative or reversed range.
    """
    checks.count("count", count)
    checks.count("start", start, low=0)
    checks.count("stop", stop, low=start)
    pieces = [torch.empty(0, dtype=torch.int64)]
    position = start
    while position < stop:
        epoch, first = divmod(position, count)
        own_seed = (seed + BETWEEN_EPOCHS * epoch) % 2**63  # torch takes seeds of 63 bits
        shuffle = torch.Generator().manual_seed(own_seed)
        order = torch.randperm(count, generator=shuffle)  # (count,)
        last = min(count, first + stop - position)
        pieces.append(order[first:last])
        position += last - first
    return torch.cat(pieces)


def rows_of_step(count: int, step: int, size: int, generator: torch.Generator) -> list[int]:
    """The `size` row numbers of one step: every row once before any comes twice, see above.

    Only the generator's seed is used, so the order does not depend on what else was drawn.
    """
    rows = rows_between(count, step * size, (step + 1) * size, seed=generator.initial_seed())
    return rows.tolist()


def own_rows(
    count: int, step: int, size: int, generator: torch.Generator
) -> tuple[list[int], torch.Generator]:
    """`rows_of_step`, and the dice for what is sampled for them: the generator itself.

    Under torchrun these are the rows of this process, equally many in each, and dice of its own.
    """
    rows = world().shard(rows_of_step(count, step, size, generator), equal=True)
    return rows, world().dice(generator)


def minibatches(
    count: int, epochs: int, parts: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Row numbers 0 .. count-1, shuffled anew for each epoch and cut into `parts` equal parts."""
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from order.chunk(parts)


def loss_shares(
    mask: Tensor,
    rows: Tensor,
    useful: Tensor,
    normalize: str,
    max_tokens: int,
) -> list[tuple[Tensor, float]]:
    """Cut the useful rows into small parts, each with its share of the loss over *all* the rows.

    If the rows left out add nothing, sum of share * loss(part) equals loss(rows), for the three
    ways of `logprobs.average`: "token" weighs a part by its tokens, the others by its rows.
    Under torchrun these are the rows of all processes, and each gets equally many parts.

    mask (B, T-1), rows and useful 1-D row numbers -> (row numbers of a part, share), at most
    `max_tokens` tokens in a part.
    """
    parts = rows_by_length(mask, useful, max_tokens=max_tokens)
    weight = world().weight(int(mask[rows].sum()) if normalize == "token" else len(rows))
    shares: list[tuple[Tensor, float]] = []
    for part in parts:
        if normalize == "token":
            shares.append((part, float(mask[part].sum() / mask[rows].sum()) * weight))
        else:
            shares.append((part, len(part) / len(rows) * weight))
    return as_many(shares, rows[:1])


def as_many(shares: list[tuple[Part, float]], filler: Part) -> list[tuple[Part, float]]:
    """As many parts as the process that has most: those added here count nothing."""
    return shares + [(filler, 0.0)] * (max(world().each(len(shares))) - len(shares))


class Means:
    """Running weighted means of named numbers.

    The names given at the start are always there, with 0 if nothing is added to them.
    """

    def __init__(self, *names: str):
        self.sums = dict.fromkeys(names, 0.0)
        self.weights = dict.fromkeys(names, 0.0)

    def add(self, numbers: Mapping[str, Tensor | float], *, weight: float = 1.0) -> None:
        """Add numbers, as plain ones: no gradient is kept alive."""
        for name, number in numbers.items():
            plain_number = torch.as_tensor(number).item()
            self.sums[name] = self.sums.get(name, 0.0) + weight * plain_number
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """The mean of each name, over what was added in all processes."""
        sums, weights = world().mean(self.sums), world().mean(self.weights)
        return {name: sums[name] / (weights[name] or 1.0) for name in sums}


def apply_gradients(model: nn.Module, optimizer: Optimizer, max_norm: float) -> float:
    """Shorten the gradient to at most `max_norm`, take one step, forget the gradient.

    Under torchrun the gradient is first averaged over the processes. Returns the length of the
    gradient before it was shortened.

    Raises: RuntimeError if the gradient holds NaN or infinity; the weights stay as they were.
    """
    world().average_gradients(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=True)
    optimizer.step()
    optimizer.zero_grad()
    return float(whole(norm))


class Stopwatch:
    """Seconds of the parts of a step: `lap("sampling")` books the time since the last lap."""

    def __init__(self):
        self.last = time.perf_counter()
        self.seconds: dict[str, float] = {"seconds": 0.0}

    def lap(self, part: str) -> None:
        """Book the time since the last lap under "seconds_<part>", and in the sum "seconds"."""
        now = time.perf_counter()
        self.seconds[f"seconds_{part}"] = now - self.last
        self.seconds["seconds"] += now - self.last
        self.last = now
