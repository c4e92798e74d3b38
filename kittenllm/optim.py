"""How the kitten learns from a gradient: Muon for matrices, AdamW for the rest.

One idea: AdamW treats a matrix as a bag of single numbers. Muon treats it as one thing that turns vectors into vectors, and makes
every direction of the update equally long (it replaces the update's singular values by about 1, with five steps of a
Newton-Schulz iteration). Small directions then learn as fast as large ones. On kittens of our size Muon needs about
half the tokens of AdamW for the same loss.

Papers: Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), its scale (Liu et al. 2025, "Muon is scalable for
LLM training", eq. 4: 0.2 * sqrt(max(rows, columns))), AdamW (Loshchilov and Hutter 2019). The trapezoid schedule: Hagele et al. 2024.

Read before: gpt.py. Left out: gradient clipping, parameter-wise learning rates, distributed optimizers.
"""

from torch import nn
from torch.optim import AdamW, Muon


class MuonAdamW:
    """Two optimizers that step together.

    `set_scale` multiplies both base learning rates; the schedule below gives the number.
    """

    def __init__(self, muon: Muon | None, adamw: AdamW | None) -> None:
        self.parts = {"muon": muon, "adamw": adamw}
        self.base_lrs = {
            name: [group["lr"] for group in part.param_groups]
            for name, part in self.parts.items()
            if part is not None
        }

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self.parts.values():
            if part is not None:
                part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for part in self.parts.values():
            if part is not None:
                part.step()

    def set_scale(self, scale: float) -> None:
        """Learning rates become scale times their base values; scale is 0 .. 1 as a rule."""
        if not scale >= 0:
            raise ValueError(f"the learning-rate scale must be 0 or more, got {scale}")
        for name, base_lrs in self.base_lrs.items():
            for group, base_lr in zip(self.parts[name].param_groups, base_lrs, strict=True):
                group["lr"] = scale * base_lr

    def state_dict(self) -> dict:
        """All that is needed to go on exactly as if nothing had stopped."""
        return {name: part.state_dict() for name, part in self.parts.items() if part is not None}

    def load_state_dict(self, state: dict) -> None:
        """Takes over a state of `state_dict`. Raises ValueError if it is of another model."""
        names = {name for name, part in self.parts.items() if part is not None}
        if names != set(state):
            raise ValueError(
                f"the state holds {sorted(state)}, this optimizer needs {sorted(names)}"
            )
        for name in names:
            self.parts[name].load_state_dict(state[name])


def make_optimizer(
    model: nn.Module, *, matrix_lr: float, other_lr: float, weight_decay: float = 0.0
) -> MuonAdamW:
    """Sorts the trainable parameters of a model: matrices of the blocks to Muon, all others to AdamW.

    matrix_lr     Muon's learning rate, 5e-3 for pretraining, 3e-4 .. 3e-3 afterwards
    other_lr      AdamW's, for embeddings, norms and heads
    weight_decay  pulls matrices of the blocks towards 0, for both kinds of rate; norms and embeddings stay free

    Raises ValueError if a rate is negative or nothing is trainable.
    """
    for name, value in (
        ("matrix_lr", matrix_lr),
        ("other_lr", other_lr),
        ("weight_decay", weight_decay),
    ):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_block = name.startswith("layers.") or ".layers." in name
        (matrices if in_block and parameter.ndim == 2 else others).append(parameter)
    if not matrices and not others:
        raise ValueError("the model has no trainable parameter")
    muon = adamw = None
    if matrices:
        muon = Muon(
            matrices,
            lr=matrix_lr,
            weight_decay=weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
    if others:
        adamw = AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return MuonAdamW(muon, adamw)


def learning_rate_scale(
    step: int, total_steps: int, *, warmup: float = 0.02, cooldown: float = 0.5, final: float = 0.0
) -> float:
    """The trapezoid: up in a straight line, level, down in a straight line.

    step      0 .. total_steps - 1, the step about to be taken
    warmup    fraction of all steps in which the rate climbs to 1
    cooldown  fraction of all steps, at the end, in which it falls towards `final`
    Returns a factor for the base learning rates, above 0 and at most 1 (if final <= 1).
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in 0 .. {total_steps - 1}, got {step}")
    if not (0 <= warmup and 0 <= cooldown and warmup + cooldown <= 1):
        raise ValueError(
            f"warmup ({warmup}) and cooldown ({cooldown}) are fractions, together at most 1"
        )
    warmup_steps = round(warmup * total_steps)
    cooldown_steps = round(cooldown * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    steps_left = total_steps - step
    if steps_left <= cooldown_steps:
        return final + (1 - final) * steps_left / (cooldown_steps + 1)
    return 1.0
