"""Options: one line of a dataclass holds name, default, help and limits."""

from dataclasses import dataclass, fields

import pytest

from kittenllm.config import check_option, check_options, limits_text, option


@dataclass(frozen=True)
class Config:
    steps: int = option(3, "steps", low=1)
    rows: int = option(3, "rows", low=2, high=9)
    beta: float = option(0.1, "beta", above=0)
    smoothing: float = option(0.0, "smoothing", low=0, below=0.5)
    free: float = option(-2.0, "no limits")
    high: float | None = option(None, "the same upwards", above=0)
    betas: tuple[float, ...] = option((0.1,), "several", above=0)
    loss: str = option("dpo", "loss", choices=("dpo", "ipo"))
    warmup: float = option(0.1, "rises", low=0, high=1)
    cooldown: float = option(0.5, "falls", low=0, high=1)

    def __post_init__(self):
        check_options(self)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("steps", 1.5, "steps must be a whole number of at least 1, got 1.5"),
        ("steps", True, "steps must be a whole number of at least 1, got True"),
        ("rows", 1, "rows must be 2 to 9, got 1"),
        ("rows", 10, "rows must be 2 to 9, got 10"),
        ("beta", 0, "beta must be above 0, got 0"),
        ("beta", float("nan"), "beta must be a finite number, got nan"),
        ("beta", "x", "beta must be a finite number, got 'x'"),
        ("beta", True, "beta must be a finite number, got True"),
        ("smoothing", 0.5, "smoothing must be at least 0 and below 0.5, got 0.5"),
        ("smoothing", -0.1, "smoothing must be at least 0 and below 0.5, got -0.1"),
        ("high", 0.0, "high must be above 0, got 0.0"),
        ("betas", (0.1, -1.0), "betas must be above 0, got -1.0"),
        ("loss", "kto", "loss must be one of dpo, ipo; got 'kto'"),
        ("warmup", 1.5, "warmup must be 0 to 1, got 1.5"),
        ("cooldown", 0.95, "warmup and cooldown may be 1 together, got 0.1 and 0.95"),
    ],
)
def test_a_value_outside_the_limits_is_one_line(field, value, message):
    with pytest.raises(ValueError) as refusal:
        Config(**{field: value})
    assert str(refusal.value) == message


def test_values_at_the_limits_are_fine():
    Config(steps=1, rows=2, smoothing=0, free=1e9, high=None, betas=(), warmup=0, cooldown=1)
    Config(rows=9, beta=1e-30, smoothing=0.49, high=0.2)


def test_a_value_can_be_checked_under_another_name():
    field = next(field for field in fields(Config) if field.name == "beta")
    with pytest.raises(ValueError, match="^ipo_beta must be above 0, got -1$"):
        check_option("ipo_beta", -1, field)


def test_limits_in_words():
    limits = {field.name: field.metadata["limits"] for field in fields(Config)}
    assert limits_text(limits["rows"]) == "2 to 9"
    assert limits_text(limits["smoothing"]) == "at least 0 and below 0.5"
    assert limits_text(limits["free"]) == ""
