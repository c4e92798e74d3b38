"""How the kitten learns from a gradient: Muon for matrices, AdamW for the rest.

One idea: AdamW treats a matrix as a bag of single numbers. Muon treats it as one thing that turns
vectors into vectors, and makes every direction of the update equally strong: it replaces the
update's singular values by about 1. What is rare in the data then learns as fast as what is
common.

Papers: Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/); its scale (Liu et al.
2025, "Muon is scalable for LLM training", eq. 4); AdamW (Loshchilov and Hutter 2019); the schedule
(Hagele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations").

torch.optim.Muon does the same, and a test holds the two together. It multiplies in bfloat16, one
matrix at a time: good on a GPU, but twenty times slower than float32 on a processor that has no
bfloat16 instructions, as most laptops. This one multiplies all matrices of one shape at once.

Read before: gpt.py. Left out: gradient clipping (see training.py).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from kittenllm import checks
from kittenllm.distributed import part_of, whole, world


def orthogonalize(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Makes all singular values of each matrix about 1 and keeps its directions.

    Newton-Schulz: X <- aX + bXX'X + c(XX')^2 X. It moves every singular value s, on its own, to
    as + bs^3 + cs^5; repeated, all of 0.01 .. 1 end between about 0.7 and 1.2. (Jordan et al. 2024)

    matrices (n, rows, columns) float -> the same shape. Zero matrices stay zero.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan's: they lift small s fast and keep large s near 1
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # XX' is smaller when X is wide
    length = x.norm(dim=(1, 2), keepdim=True)  # (n, 1, 1) at least the largest singular value
    x = x / length.clamp(min=1e-7)  # now all s are at most 1; a zero matrix divides by 1e-7
    for _ in range(steps):
        square = x @ x.mT  # XX'
        mix = torch.baddbmm(square, square, square, beta=b, alpha=c)  # bXX' + c(XX')^2
        x = torch.baddbmm(x, mix, x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum, orthogonalised, for matrices only.

    M <- momentum * M + (1 - momentum) * gradient
    W <- W - lr * (weight_decay * W + 0.2 sqrt(max(rows, columns)) * orthogonalize(M))

    where M is looked at one step ahead (Nesterov). The factor 0.2 sqrt(..) makes an update about as
    large as AdamW's, so that AdamW's learning rates fit.

    Raises: ValueError for anything not 2-D.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for matrix in self.param_groups[0]["params"]:
            if matrix.ndim != 2:
                raise ValueError(f"Muon is for matrices, got the shape {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's also takes a loss to compute again
        """Moves every matrix that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    same_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in same_shape.items():
                ahead = [self.momentum(matrix, group["momentum"]) for matrix in matrices]
                directions = orthogonalize(whole(torch.stack(ahead)))  # (n, rows, columns)
                size = group["lr"] * 0.2 * math.sqrt(max(shape))
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(part_of(direction, matrix), alpha=-size)

    def momentum(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Mixes the gradient into the running mean and returns the mean one step ahead."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None  # `step` leaves the others out
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
        mean = state["mean"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


class MuonAdamW:
    """Two optimizers that step together. `set_scale` multiplies both base learning rates."""

    def __init__(self, muon: Muon | None, adamw: AdamW | None) -> None:
        parts = {"muon": muon, "adamw": adamw}
        self.parts: dict[str, Optimizer] = {n: p for n, p in parts.items() if p is not None}
        self.base_lrs = {name: part.param_groups[0]["lr"] for name, part in self.parts.items()}

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for part in self.parts.values():
            part.step()

    def set_scale(self, scale: float) -> None:
        """Learning rates become scale times their base values.

        Raises: ValueError for a scale below 0.
        """
        checks.number("scale", scale)
        if scale < 0:
            raise ValueError(f"scale must be 0 or above, got {scale}")
        for name, part in self.parts.items():
            part.param_groups[0]["lr"] = scale * self.base_lrs[name]

    def state_dict(self) -> dict[str, dict]:
        """All that is needed to go on exactly as if nothing had stopped."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Takes over what `state_dict` gave.

        Raises: ValueError if it is of another model.
        """
        if set(state) != set(self.parts):
            needed = sorted(self.parts)
            raise ValueError(f"the state holds {sorted(state)}, this optimizer needs {needed}")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def make_optimizer(
    model: nn.Module, *, matrix_lr: float | None, other_lr: float, weight_decay: float = 0.0
) -> MuonAdamW:
    """Sorts the trainable parameters: matrices inside the blocks to Muon, all others to AdamW.

    matrix_lr     Muon's learning rate; 3e-3 .. 5e-3 for pretraining, 3e-4 .. 1e-3 for RL; None: no
                  Muon, AdamW moves the matrices too
    other_lr      AdamW's, for embeddings, norms and heads; 6e-3 for pretraining
    weight_decay  pulls Muon's matrices towards 0, by lr * weight_decay per step; the rest is free

    Under torchrun with --shard the model is cut into parts first: `distributed.World.split`.

    Raises: ValueError if a number is negative or if nothing is trainable.
    """
    rates = {} if matrix_lr is None else {"matrix_lr": matrix_lr}
    for name, value in {**rates, "other_lr": other_lr, "weight_decay": weight_decay}.items():
        checks.number(name, value)
        if value < 0:
            raise ValueError(f"{name} must be 0 or above, got {value}")
    world().split(model)
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        for_muon = matrix_lr is not None and "layers." in name and parameter.ndim == 2
        (matrices if for_muon else others).append(parameter)
    if not matrices and not others:
        raise ValueError("the model has no trainable parameter: set requires_grad on some")
    muon = Muon(matrices, lr=matrix_lr or 0.0, weight_decay=weight_decay) if matrices else None
    betas = (0.9, 0.95)  # forgets old gradients sooner than the usual 0.999: our runs are short
    adamw = AdamW(others, lr=other_lr, betas=betas, weight_decay=0.0) if others else None
    return MuonAdamW(muon, adamw)


def learning_rate_scale(
    step: int,
    total_steps: int,
    *,
    warmup: float = 0.02,
    cooldown: float = 0.5,
    final: float = 0.0,
) -> float:
    """The trapezoid: a straight line up, level, a straight line down.

    step      0 .. total_steps - 1, the step about to be taken
    warmup    fraction of the steps in which the rate climbs to 1
    cooldown  fraction of the steps, at the end, in which it falls towards `final`
    Returns the factor for `set_scale`. It is never 0 in warm-up, and reaches `final` one step after
    the last, so that no step is wasted.

    Raises: ValueError if the numbers do not fit together.
    """
    checks.count("total_steps", total_steps)
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in 0 .. {total_steps - 1}, got {step}")
    checks.between("warmup", warmup, 0, 1)
    checks.between("cooldown", cooldown, 0, 1)
    if warmup + cooldown > 1:
        raise ValueError(f"warmup ({warmup}) and cooldown ({cooldown}) must not exceed 1 together")
    warmup_steps = warmup * total_steps
    cooldown_steps = cooldown * total_steps
    if step + 1 < warmup_steps:
        return (step + 1) / warmup_steps
    steps_left = total_steps - step
    if steps_left < cooldown_steps:
        return final + (1 - final) * steps_left / cooldown_steps
    return 1.0
