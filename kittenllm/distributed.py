"""More than one process: each takes its rows of a step, and all take the same step.

    torchrun --nproc-per-node 2 -m chapters.ch0_base

starts the program twice. Both processes build the same batch from the same seed, each reads its own
rows of it, the gradients are averaged, and so both have the same weights after every step: those of
one process that reads all rows. Without torchrun nothing of this happens. In GRPO every process
samples replies to its own prompts with dice of its own, so the number of processes changes them.

A mean over n tokens weighs n. Process r has the mean of its n_r tokens, and

    mean over all = sum_r n_r mean_r / sum_r n_r = mean over processes of (n_r / mean n) mean_r

so a loss is multiplied by its weight, n_r / mean n. Then the plain average of the gradients is
right.

With `--shard` every process keeps only a part of each weight, its gradient and its optimizer state,
and the layers are put together one at a time, when they are read (FSDP: Zhao et al. 2023, arXiv
2304.11277; torch calls its second version `fully_shard`). All processes must then go through the
model equally often.

Read before: nothing. Left out: torch's DistributedDataParallel, which sends gradients while others
are still computed (Li et al. 2020, arXiv 2006.15704). It wants one `forward` and one `backward` in
a step; GRPO takes several, another number in each process, and samples in between.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass
class World:
    """All processes that train together, as one of them sees it: `rank` 0 .. size-1 is its number.

    device  where this process computes: a GPU of its own if there is one
    sharded  --shard was given
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    sharded: bool = False

    @property
    def is_first(self) -> bool:
        """The first process writes and prints; the others are quiet."""
        return self.rank == 0

    def shard(self, rows: Any, *, equal: bool = False) -> Any:
        """This process's rows of a batch: every size-th. A list, a tensor, or packed rows.

        Raises: ValueError for fewer rows than processes, or, if `equal`, for unequal parts.
        """
        if self.size == 1:
            return rows
        count = len(rows)
        if count < self.size or (equal and count % self.size):
            wanted = "a multiple of" if equal else "at least"
            raise ValueError(
                f"a step has {count} rows (pairs, prompts) for {self.size} processes; give "
                f"{wanted} {self.size}, or start another number of processes"
            )
        return rows[self.rank :: self.size]

    def each(self, value: Any) -> list[Any]:
        """This value in every process, in the order of the ranks; all must ask together."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.each(0)

    def weight(self, count: float) -> float:
        """What the mean over `count` things of this process weighs: count / mean count, or 1."""
        total = sum(self.each(count))
        return count * self.size / total if self.size > 1 and total > 0 else 1.0

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number's mean over the processes that have one of this name."""
        if self.size == 1:
            return dict(numbers)
        values: dict[str, list[float]] = {}
        for its_numbers in self.each(dict(numbers)):
            for name, number in its_numbers.items():
                values.setdefault(name, []).append(float(number))
        return {name: sum(parts) / len(parts) for name, parts in values.items()}

    def average(
        self, loss: Tensor, metrics: Mapping[str, Tensor], *, count: float | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss and metrics that are means over `count` tokens (rows, pairs) of this process.

        Returns them as means over those of all processes. The gradient of the loss is only this
        process's part; `average_gradients` adds those of the others.
        """
        if self.size == 1:
            return loss, dict(metrics)
        count = float(count)
        parts = {name: count * number.item() for name, number in {"": loss, **metrics}.items()}
        sums = self.mean({"count": count, **parts})
        mean_count = sums.pop("count") or 1.0  # nobody has anything: all is 0
        means = {name: loss.new_tensor(total / mean_count) for name, total in sums.items()}
        loss = count / mean_count * loss
        loss = loss + (means.pop("") - loss.detach())  # the value of all, the gradient of this one
        return loss, means

    def average_gradients(self, model: nn.Module) -> None:
        """Make every gradient its mean over the processes; one that is missing counts as 0."""
        if self.size == 1 or is_sharded(model):  # which has averaged them already
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        numbers = torch.cat([gradient.flatten() for gradient in gradients])  # one message, not many
        distributed.all_reduce(numbers)
        means = numbers.div_(self.size).split([p.numel() for p in trained])
        for p, mean in zip(trained, means, strict=True):
            p.grad = mean.view_as(p).to(p.dtype)

    def dice(self, generator: torch.Generator) -> torch.Generator:
        """Dice for what each process draws for itself. The common ones move on alike in all."""
        if self.size == 1:
            return generator
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        return torch.Generator(generator.device).manual_seed(int(seed) + self.rank)

    def split(self, model: nn.Module) -> None:
        """With --shard: keep only a part of a GPT here. Call it before the optimizer is made."""
        if not self.sharded or self.size == 1 or is_sharded(model) or not hasattr(model, "layers"):
            return
        from torch.distributed import fsdp  # slow to load, and seldom needed

        gpt: Any = model
        mesh = distributed.init_device_mesh(gpt.device.type, (self.size,))
        for module in (*gpt.layers, gpt):
            fsdp.fully_shard(module, mesh=mesh)
        fsdp.register_fsdp_forward_method(gpt, "hidden")


@cache
def world() -> World:
    """The processes that torchrun has started; without torchrun, this one alone.

    Raises: ValueError if this torch cannot work with several processes.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        return World()
    rank, size, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", here) if here < torch.cuda.device_count() else World.device
    if size == 1:
        return World(device=device)
    if not distributed.is_available():
        raise ValueError("this torch has no torch.distributed; start the program without torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo for the CPU, nccl for a GPU. No hurry: torchrun itself ends all when a process is lost.
    distributed.init_process_group(timeout=timedelta(days=1))
    return World(rank, size, device)


# ------------------------------------------------------------------------------ parts of a weight


def is_sharded(model: nn.Module) -> bool:
    """Does this process hold only a part of the model?"""
    return world().sharded and hasattr(model, "unshard")


def whole(tensor: Tensor) -> Tensor:
    """A weight, or something of its shape, put together from all processes; others as they are."""
    return tensor.full_tensor() if world().sharded and hasattr(tensor, "full_tensor") else tensor


def part_of(tensor: Tensor, like: Any) -> Tensor:
    """This process's part of a whole tensor, cut as `like` is; all of it if that is not cut."""
    if not world().sharded or not hasattr(like, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, tensor = like.device_mesh, tensor.to(like.device)
    return distribute_tensor(tensor, mesh, like.placements, src_data_rank=None)


@contextmanager
def put_together(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights: to sample, or to look into a layer."""
    parts: list[Any] = [m for m in model.modules() if is_sharded(m)] if world().sharded else []
    for module in parts:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in parts:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()
