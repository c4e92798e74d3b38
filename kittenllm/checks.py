"""Checks of arguments: a caller's mistake becomes a ValueError that names the value.

One idea: a loss that gets a wrong shape or dtype often still returns a number, only a wrong one.
So every public function checks its inputs first: `checks.floats("rewards", rewards, dims=1)`. When
all is well a check is a line or two, short to step through in a debugger; what exactly is wrong is
found out only afterwards. Every function here raises ValueError.

Read before: nothing. Left out: checks of values inside float tensors (NaN is allowed where a mask
hides it), except `finite`.
"""

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


# ------------------------------------------------------------------------------- one tensor


def tensor(name: str, x: Tensor, *, dims: int | None = None) -> None:
    """Refuse anything that is not a tensor, or not one with `dims` dimensions."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(x).__name__} {x!r}")
    if dims is not None and x.dim() != dims:
        raise ValueError(f"{name} must have {dims} dimension(s), got shape {tuple(x.shape)}")


def floats(name: str, x: Tensor, *, dims: int | None = None) -> None:
    """Refuse a tensor that does not hold real numbers, for example integers by mistake."""
    if not (isinstance(x, Tensor) and x.is_floating_point() and dims in (None, x.dim())):
        tensor(name, x, dims=dims)
        raise ValueError(f"{name} must hold real numbers (float), got dtype {x.dtype}")


def finite(name: str, x: Tensor) -> None:
    """Refuse NaN and infinity; `name` and the number of the row say where: "score of reply", 7."""
    floats(name, x)
    wrong = (~x.isfinite()).nonzero()
    if len(wrong) > 0:
        value = x[tuple(wrong[0])].item()
        raise ValueError(f"{name} {int(wrong[0, 0])} must be a finite number, got {value}")


def bool_mask(name: str, mask: Tensor, shape: Sequence[int]) -> None:
    """Refuse a mask that is not bool or not of the given shape."""
    if not (isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == tuple(shape)):
        tensor(name, mask)
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} must be a bool mask, got dtype {mask.dtype}; use mask.bool()")
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(mask.shape)}")


def token_dtype(name: str, tokens: Tensor) -> None:
    """Refuse token ids that are not whole numbers."""
    if not (isinstance(tokens, Tensor) and tokens.dtype in INTEGER_DTYPES):
        tensor(name, tokens)
        raise ValueError(f"{name} must hold integer token ids, got dtype {tokens.dtype}")


def token_ids(name: str, tokens: Tensor, vocab_size: int) -> None:
    """Refuse token ids outside 0 .. vocab_size - 1."""
    token_dtype(name, tokens)
    if tokens.numel() > 0 and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        lowest, highest = int(tokens.min()), int(tokens.max())
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{name} must hold token ids from 0 to {vocab_size - 1}, got {wrong}")


# --------------------------------------------------------------------- tensors that fit together


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Refuse two tensors of different shapes, which would silently broadcast."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def frames(mask: Tensor, **named: Tensor) -> None:
    """Refuse per-token tensors that are not float (B, T-1), or a mask that is not bool like them.

    checks.frames(mask, values=values, returns=returns)
    """
    good = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim() == 2
    for name, x in named.items():
        if not (good and isinstance(x, Tensor) and x.is_floating_point() and x.shape == mask.shape):
            floats(name, x, dims=2)  # this line or the next one says what is wrong
            bool_mask(f"mask (beside {name})", mask, x.shape)


def rows(name: str, values: Tensor, mask: Tensor) -> None:
    """Refuse anything but one real number per row of the mask: float (B,)."""
    floats(name, values, dims=1)
    if len(values) != len(mask):
        raise ValueError(f"{name} must have shape ({len(mask)},), got {tuple(values.shape)}")


def pairs(**named: Tensor) -> None:
    """Refuse anything but float tensors (P,) of the same shape, one number per pair, P at least 1.

    checks.pairs(chosen_logprobs=chosen_logprobs, rejected_logprobs=rejected_logprobs)
    """
    first_name, first = next(iter(named.items()))
    ok = isinstance(first, Tensor) and first.dim() == 1 and len(first) > 0
    for name, x in named.items():
        if not (ok and isinstance(x, Tensor) and x.is_floating_point() and x.shape == first.shape):
            floats(name, x, dims=1)  # one of these lines says what is wrong
            same_shape(name, x, first_name, first)
            count("number of pairs", len(first))


# ------------------------------------------------------------------------------ plain values


def number(name: str, value: float) -> None:
    """Refuse anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        number(name, value)
        raise ValueError(f"{name} must be above 0, got {value!r}")


def count(name: str, value: object, *, low: int = 1) -> None:
    """Refuse a count that is not a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def between(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    include_low: bool = True,
    include_high: bool = True,
) -> None:
    """Refuse a number outside the interval from `low` to `high`."""
    number(name, value)
    at_an_end = (include_low and value == low) or (include_high and value == high)
    if not (low < value < high or at_an_end):
        left = "[" if include_low else "("
        right = "]" if include_high else ")"
        raise ValueError(f"{name} must be in {left}{low}, {high}{right}, got {value!r}")


def flags(**named: object) -> None:
    """Refuse anything but True and False: checks.flags(tied=tied, qkv_bias=qkv_bias)."""
    for name, value in named.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
