"""Checks name the wrong value, so that a message alone tells what to do."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kittenllm import checks


def test_float_tensor():
    checks.check_float_tensor("rewards", torch.zeros(3, dtype=torch.bfloat16), dims=1)
    with pytest.raises(ValueError, match="rewards.*torch.int64"):
        checks.check_float_tensor("rewards", torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"rewards.*\(2, 1\)"):
        checks.check_float_tensor("rewards", torch.zeros(2, 1), dims=1)
    with pytest.raises(ValueError, match=r"rewards.*list \[1.0\]"):
        checks.check_float_tensor("rewards", [1.0])


def test_bool_mask():
    checks.check_bool_mask("mask", torch.ones(2, 3, dtype=torch.bool), (2, 3))
    with pytest.raises(ValueError, match="mask.*torch.float32"):
        checks.check_bool_mask("mask", torch.ones(2, 3), (2, 3))
    with pytest.raises(ValueError, match=r"mask.*\(2, 3\).*\(3, 2\)"):
        checks.check_bool_mask("mask", torch.ones(3, 2, dtype=torch.bool), (2, 3))


def test_same_shape_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"a and b.*\(3,\).*\(1,\)"):
        checks.check_same_shape("a", torch.zeros(3), "b", torch.zeros(1))


@pytest.mark.parametrize("wrong", [-1, 5, 99])
def test_token_ids_name_the_wrong_id(wrong):
    checks.check_token_ids("tokens", torch.tensor([0, 4]), 5)
    with pytest.raises(ValueError, match=f"tokens.*0 to 4, got {wrong}"):
        checks.check_token_ids("tokens", torch.tensor([0, wrong, 4]), 5)


def test_token_ids_refuse_floats_and_accept_none_at_all():
    checks.check_token_ids("tokens", torch.zeros(2, 0, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match="tokens.*torch.float32"):
        checks.check_token_ids("tokens", torch.tensor([1.0]), 5)
    with pytest.raises(ValueError, match="tokens.*torch.bool"):
        checks.check_token_ids("tokens", torch.tensor([True]), 5)


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), "0.1", None, True])
def test_positive(value):
    checks.check_positive("beta", 1e-9)
    checks.check_positive("beta", np.float32(0.1))
    with pytest.raises(ValueError, match="beta") as error:
        checks.check_positive("beta", value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -3, 1.0, "2", None, True])
def test_count(value):
    checks.check_count("steps", 1)
    checks.check_count("steps", np.int64(7))
    with pytest.raises(ValueError, match="steps") as error:
        checks.check_count("steps", value)
    assert repr(value) in str(error.value)


def test_between_knows_open_and_closed_ends():
    checks.check_between("lam", 0, 0, 1)
    checks.check_between("lam", 1.0, 0, 1)
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\], got 1.01"):
        checks.check_between("lam", 1.01, 0, 1)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 0.5\), got 0.5"):
        checks.check_between("label_smoothing", 0.5, 0, 0.5, include_high=False)
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\], got 0"):
        checks.check_between("p", 0, 0, 1, include_low=False)
    with pytest.raises(ValueError, match="lam.*nan"):
        checks.check_between("lam", float("nan"), 0, 1)


def test_one_of_lists_the_choices():
    with pytest.raises(ValueError, match="reduce must be one of sum, mean; got 'median'"):
        checks.check_one_of("reduce", "median", ("sum", "mean"))


def test_frames_and_rows():
    mask = torch.ones(2, 3, dtype=torch.bool)
    checks.check_frames({"values": torch.zeros(2, 3)}, mask)
    with pytest.raises(ValueError, match=r"mask \(beside values\).*\(2, 4\).*\(2, 3\)"):
        checks.check_frames({"values": torch.zeros(2, 4)}, mask)
    checks.check_rows("scores", torch.zeros(2), mask)
    with pytest.raises(ValueError, match=r"scores.*\(2,\).*\(3,\)"):
        checks.check_rows("scores", torch.zeros(3), mask)


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    beta: float = 0.1
    kl_coef: float = 0.0
    warmup: float = 0.1
    cooldown: float = 0.5

    def __post_init__(self):
        checks.check_settings(
            self,
            counts="steps",
            above_zero="beta",
            not_negative="kl_coef",
            shares="warmup cooldown",
        )


@pytest.mark.parametrize(
    "field, value",
    [("steps", 0), ("beta", 0.0), ("kl_coef", -0.1), ("warmup", 1.5), ("cooldown", 0.95)],
)
def test_settings_name_field_and_value(field, value):
    Settings()
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        Settings(**{field: value})
