"""LoRA: fine-tune a small detour around each matrix, and leave the matrix as it is.

y = W x + b + (alpha / r) B A x      Hu et al. 2021, "LoRA", arXiv 2106.09685, eq. 3

One idea: what a fine-tuning *adds* to a matrix needs few directions, fewer than the matrix has. So
the addition is written as a product of two thin matrices: A reads r numbers out of x, B writes them
back. Only A and B are trained. B starts at zero, so that at first nothing changes; at the end B A
is added to W, and the detour is gone. A bias b, where a matrix has one, stays as it is.

W may be in bfloat16 to save time and memory. A and B stay in float32: a step of training is smaller
than what bfloat16 can tell apart.

Read before: gpt.py. Left out: dropout on the detour, one rank per matrix, quantised W (QLoRA).
Letters: W (outputs, inputs), b (outputs,), A (r, inputs), B (outputs, r), r the rank,
x (..., inputs).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kittenllm import checks
from kittenllm.gpt import GPT, Linear


class LoRALinear(nn.Module):
    """A matrix and its bias, frozen, with a trainable detour of rank r around it.

    rank   r, 1 .. the smaller side of the matrix; usual 4 .. 64
    alpha  how loud the detour is; usual r .. 2r

    Raises: ValueError for a rank below 1 or above the matrix, or an alpha not above 0.
    """

    def __init__(
        self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        check_rank(rank, linear)
        checks.positive("alpha", alpha)
        noise = torch.randn(rank, inputs, generator=generator, device=generator.device)
        device, dtype = (
            linear.weight.device,
            torch.promote_types(linear.weight.dtype, torch.float32),
        )
        A = (noise / math.sqrt(inputs)).to(device, dtype)
        self.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self.bias = linear.bias  # or None
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        self.A = nn.Parameter(A)  # (r, inputs)
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=device, dtype=dtype))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        read = F.linear(x, self.A.to(x.dtype))  # (..., r) what the detour reads
        written = F.linear(read, self.B.to(x.dtype))  # (..., outputs) what it adds
        return F.linear(x, self.weight, self.bias) + self.scale * written

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One ordinary matrix that does the same: W + (alpha / r) B A, with the bias of before."""
        outputs, inputs = self.weight.shape
        linear = Linear(inputs, outputs, bias=self.bias is not None)
        added = self.scale * self.B @ self.A  # (outputs, inputs)
        linear.weight = nn.Parameter((self.weight + added).to(self.weight.dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone())
        return linear


def check_rank(rank: int, linear: nn.Linear) -> None:
    """Raises ValueError for a rank that this matrix cannot have."""
    checks.count("rank", rank)
    smaller_side = min(linear.weight.shape)
    if rank > smaller_side:
        raise ValueError(
            f"rank {rank} is above the matrix: {tuple(linear.weight.shape)} has at most rank "
            f"{smaller_side}; choose a smaller one, or train the matrix itself"
        )


def add_lora(gpt: GPT, *, rank: int, alpha: float, generator: torch.Generator) -> GPT:
    """Puts a detour around all attention and feed-forward matrices; freezes everything else.

    Changes `gpt` and returns it. Its logits are the same as before until something is trained.
    Raises: ValueError as LoRALinear does, before anything is changed; or if it has detours already.
    """
    if any(isinstance(module, LoRALinear) for module in gpt.modules()):
        raise ValueError("this model has detours already: merge them first")
    places = _matrices(gpt, nn.Linear)
    for parent, name in places:
        check_rank(rank, getattr(parent, name))
    checks.positive("alpha", alpha)
    gpt.requires_grad_(False)  # embeddings and norms
    for parent, name in places:
        linear = getattr(parent, name)
        setattr(parent, name, LoRALinear(linear, rank=rank, alpha=alpha, generator=generator))
    return gpt


def merge_lora(gpt: GPT) -> GPT:
    """Adds each detour to its matrix; what is left is an ordinary GPT, every weight trainable.

    Changes `gpt` and returns it. Raises: ValueError if there is no detour.
    """
    places = _matrices(gpt, LoRALinear)
    if not places:
        raise ValueError("this model has no detours to merge: call add_lora first")
    for parent, name in places:
        setattr(parent, name, getattr(parent, name).merged())
    return gpt.requires_grad_(True)


def trained_parameters(gpt: GPT) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in gpt.parameters() if parameter.requires_grad)


def _matrices(gpt: GPT, kind: type[nn.Module]) -> list[tuple[nn.Module, str]]:
    """Where the blocks keep their modules of this kind: (who holds it, under which name)."""
    return [
        (parent, name)
        for parent in gpt.layers.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
