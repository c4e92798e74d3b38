"""Checks of arguments: a caller's mistake becomes a ValueError that names the value.

One idea: a loss that gets a wrong shape or dtype often still returns a number, only a wrong one.
So every public function checks its inputs first, with the small functions below.

Read before: nothing. Left out: checks of values inside float tensors (NaN is allowed where a mask
hides it).
"""

import math
import numbers
from collections.abc import Sequence

import torch

INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_tensor(name: str, tensor: torch.Tensor, *, dims: int | None = None) -> None:
    """Refuse anything that is not a tensor, or not one with `dims` dimensions.

    Raises: ValueError.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__} {tensor!r}")
    if dims is not None and tensor.dim() != dims:
        shape = tuple(tensor.shape)
        raise ValueError(f"{name} must have {dims} dimension(s), got shape {shape}")


def check_float_tensor(name: str, tensor: torch.Tensor, *, dims: int | None = None) -> None:
    """Refuse a tensor that does not hold real numbers, for example integers by mistake.

    Raises: ValueError.
    """
    check_tensor(name, tensor, dims=dims)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must hold real numbers (float), got dtype {tensor.dtype}")


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse NaN and infinity; `name` and the number of the row say where: "score of reply", 7.

    Raises: ValueError.
    """
    check_float_tensor(name, tensor)
    wrong = (~tensor.isfinite()).nonzero()
    if len(wrong) > 0:
        value = tensor[tuple(wrong[0])].item()
        raise ValueError(f"{name} {int(wrong[0, 0])} must be a finite number, got {value}")


def check_bool_mask(name: str, mask: torch.Tensor, shape: Sequence[int]) -> None:
    """Refuse a mask that is not bool or not of the given shape.

    Raises: ValueError.
    """
    check_tensor(name, mask)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a bool mask, got dtype {mask.dtype}; use mask.bool()")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}")


def check_same_shape(name_a: str, a: torch.Tensor, name_b: str, b: torch.Tensor) -> None:
    """Refuse two tensors of different shapes, which would silently broadcast.

    Raises: ValueError.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_token_dtype(name: str, tokens: torch.Tensor) -> None:
    """Refuse token ids that are not whole numbers.

    Raises: ValueError.
    """
    check_tensor(name, tokens)
    if tokens.dtype not in INTEGER_DTYPES:
        raise ValueError(f"{name} must hold integer token ids, got dtype {tokens.dtype}")


def check_token_ids(name: str, tokens: torch.Tensor, vocab_size: int) -> None:
    """Refuse token ids outside 0 .. vocab_size - 1.

    Raises: ValueError.
    """
    check_token_dtype(name, tokens)
    if tokens.numel() == 0:
        return
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{name} must hold token ids from 0 to {vocab_size - 1}, got {wrong}")


def check_number(name: str, value: float) -> None:
    """Refuse anything that is not a finite number.

    Raises: ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0.

    Raises: ValueError.
    """
    check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")


def check_count(name: str, value: int, *, low: int = 1) -> None:
    """Refuse a count that is not a whole number of at least `low`.

    Raises: ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def check_between(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    include_low: bool = True,
    include_high: bool = True,
) -> None:
    """Refuse a number outside the interval from `low` to `high`.

    Raises: ValueError.
    """
    check_number(name, value)
    above = value >= low if include_low else value > low
    below = value <= high if include_high else value < high
    if not (above and below):
        left = "[" if include_low else "("
        right = "]" if include_high else ")"
        raise ValueError(f"{name} must be in {left}{low}, {high}{right}, got {value!r}")


def check_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices.

    Raises: ValueError.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def check_frames(frames: dict[str, torch.Tensor], mask: torch.Tensor) -> None:
    """Refuse per-token tensors that are not float (B, T-1), or a mask that is not bool like them.

    Raises: ValueError.
    """
    for name, frame in frames.items():
        check_float_tensor(name, frame, dims=2)
        check_bool_mask(f"mask (beside {name})", mask, frame.shape)


def check_rows(name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
    """Refuse anything but one real number per row of the mask: float (B,).

    Raises: ValueError.
    """
    check_float_tensor(name, values, dims=1)
    if len(values) != len(mask):
        raise ValueError(f"{name} must have shape ({len(mask)},), got {tuple(values.shape)}")


def check_settings(
    settings: object,
    *,
    counts: str = "",
    above_zero: str = "",
    not_negative: str = "",
    shares: str = "",
) -> None:
    """Check many fields of a settings dataclass; each kind is a string of names with spaces.

    counts are whole numbers of at least 1, shares lie in 0 .. 1.

    Raises: ValueError naming the field and its value.
    """
    for name in counts.split():
        check_count(name, getattr(settings, name))
    for name in above_zero.split():
        check_positive(name, getattr(settings, name))
    for name in not_negative.split():
        check_between(name, getattr(settings, name), 0, float("inf"))
    for name in shares.split():
        check_between(name, getattr(settings, name), 0, 1)
    warmup, cooldown = getattr(settings, "warmup", 0), getattr(settings, "cooldown", 0)
    if warmup + cooldown > 1:
        raise ValueError(f"warmup and cooldown may be 1 together, got {warmup} and {cooldown}")
