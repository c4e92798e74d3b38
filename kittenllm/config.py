"""A hyper-parameter is written once, in one line of a dataclass: name, default, help and limits.

    @dataclass(frozen=True)
    class PPOConfig:
        clip_eps: float = option(0.2, "eps of the ratio; usually 0.1 to 0.3", above=0)

        def __post_init__(self):
            check_options(self)

The limits are checked when a config is made, and settings.py makes the command line of a chapter
from the same lines.

Read before: nothing. Left out: the command line itself (settings.py).
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Sequence


def option(
    default,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    extra: bool = False,
):
    """A dataclass field: `steps: int = option(300, "optimizer steps", low=1)`.

    low and high are allowed themselves, above and below are not. An `extra` asks a chapter for
    something on top of its main run, and changes nothing in that run.
    """
    limits = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"help": help, "limits": limits, "choices": choices, "extra": extra}
    return dataclasses.field(default=default, metadata=metadata)


def nested(
    default=dataclasses.MISSING,
    *,
    prefix: str = "",
    hidden: str = "",
    extra: bool = False,
    **flags: str,
):
    """A config inside of a chapter's settings, with the values that the chapter wants.

    ipo: DPOConfig = nested(DPOConfig(loss="ipo", beta=0.05), prefix="ipo_", hidden="loss steps")

    Each of its fields is a flag of its own: --ipo-beta. `hidden` names those that are none;
    `flags` gives others a name of their own: `pairs_per_step="pairs_per_step"` has no prefix. Two
    fields of one flag get the same value.
    """
    metadata = {"prefix": prefix, "hidden": hidden.split(), "flags": flags, "extra": extra}
    return dataclasses.field(default=default, metadata=metadata)


def check_options(config) -> None:
    """Refuse values outside the limits.  Raises: ValueError with name, limits and value."""
    for field in dataclasses.fields(config):
        if "limits" in field.metadata:
            check_option(field.name, getattr(config, field.name), field)
    warmup, cooldown = getattr(config, "warmup", 0), getattr(config, "cooldown", 0)
    if warmup + cooldown > 1:
        raise ValueError(f"warmup and cooldown may be 1 together, got {warmup} and {cooldown}")


def check_option(name: str, value, field: dataclasses.Field) -> None:
    """The same for one value; `name` is what the user calls it.  Raises: ValueError."""
    kind = field.type
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # a number, or None
        if value is None:
            return
        (kind,) = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is tuple:
        kind, values = typing.get_args(kind)[0], value
    else:
        values = (value,)
    choices = field.metadata["choices"]
    for each in values:
        if kind in (int, float):
            _check_number(name, each, kind, field.metadata["limits"])
        elif choices is not None and each not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {each!r}")


def _check_number(name: str, value, kind: type, limits: dict) -> None:
    wanted = limits_text(limits)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int and not (number and isinstance(value, numbers.Integral)):
        whole = f"a whole number of {wanted}" if wanted else "a whole number"
        raise ValueError(f"{name} must be {whole}, got {value!r}")
    if not (number and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    wrong = (
        (limits["low"] is not None and value < limits["low"])
        or (limits["above"] is not None and value <= limits["above"])
        or (limits["high"] is not None and value > limits["high"])
        or (limits["below"] is not None and value >= limits["below"])
    )
    if wrong:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def limits_text(limits: dict) -> str:
    """ "at least 1", "above 0", "0 to 1" or "at least 0 and below 0.5"; "" without limits."""
    low, high = limits["low"], limits["high"]
    if low is not None and high is not None:
        return f"{low} to {high}"
    words = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    parts = [f"{words[key]} {limits[key]}" for key in words if limits[key] is not None]
    return " and ".join(parts)
