"""Checks name the wrong value, so that a message alone tells what to do."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kittenllm import checks
from kittenllm.dpo import dpo_loss, ipo_loss
from kittenllm.grpo import grpo_loss
from kittenllm.orpo import orpo_loss
from kittenllm.ppo import ppo_policy_loss, ppo_value_loss
from kittenllm.reward_model import bradley_terry_loss
from kittenllm.sft import sft_loss

PACKAGE = Path(checks.__file__).parent


def test_float_tensor():
    checks.floats("rewards", torch.zeros(3, dtype=torch.bfloat16), dims=1)
    with pytest.raises(ValueError, match="rewards.*torch.int64"):
        checks.floats("rewards", torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"rewards.*\(2, 1\)"):
        checks.floats("rewards", torch.zeros(2, 1), dims=1)
    with pytest.raises(ValueError, match=r"rewards.*list \[1.0\]"):
        checks.floats("rewards", [1.0])


def test_bool_mask():
    checks.bool_mask("mask", torch.ones(2, 3, dtype=torch.bool), (2, 3))
    with pytest.raises(ValueError, match="mask.*torch.float32"):
        checks.bool_mask("mask", torch.ones(2, 3), (2, 3))
    with pytest.raises(ValueError, match=r"mask.*\(2, 3\).*\(3, 2\)"):
        checks.bool_mask("mask", torch.ones(3, 2, dtype=torch.bool), (2, 3))


def test_same_shape_refuses_what_would_broadcast():
    with pytest.raises(ValueError, match=r"a and b.*\(3,\).*\(1,\)"):
        checks.same_shape("a", torch.zeros(3), "b", torch.zeros(1))


@pytest.mark.parametrize("wrong", [-1, 5, 99])
def test_token_ids_name_the_wrong_id(wrong):
    checks.token_ids("tokens", torch.tensor([0, 4]), 5)
    with pytest.raises(ValueError, match=f"tokens.*0 to 4, got {wrong}"):
        checks.token_ids("tokens", torch.tensor([0, wrong, 4]), 5)


def test_token_ids_refuse_floats_and_accept_none_at_all():
    checks.token_ids("tokens", torch.zeros(2, 0, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match="tokens.*torch.float32"):
        checks.token_ids("tokens", torch.tensor([1.0]), 5)
    with pytest.raises(ValueError, match="tokens.*torch.bool"):
        checks.token_ids("tokens", torch.tensor([True]), 5)


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), "0.1", None, True])
def test_positive(value):
    checks.positive("beta", 1e-9)
    checks.positive("beta", np.float32(0.1))
    with pytest.raises(ValueError, match="beta") as error:
        checks.positive("beta", value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -3, 1.0, "2", None, True])
def test_count(value):
    checks.count("steps", 1)
    checks.count("steps", np.int64(7))
    with pytest.raises(ValueError, match="steps") as error:
        checks.count("steps", value)
    assert repr(value) in str(error.value)


def test_between_knows_open_and_closed_ends():
    checks.between("lam", 0, 0, 1)
    checks.between("lam", 1.0, 0, 1)
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\], got 1.01"):
        checks.between("lam", 1.01, 0, 1)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 0.5\), got 0.5"):
        checks.between("label_smoothing", 0.5, 0, 0.5, include_high=False)
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\], got 0"):
        checks.between("p", 0, 0, 1, include_low=False)
    with pytest.raises(ValueError, match="lam.*nan"):
        checks.between("lam", float("nan"), 0, 1)


def test_one_of_lists_the_choices():
    with pytest.raises(ValueError, match="reduce must be one of sum, mean; got 'median'"):
        checks.one_of("reduce", "median", ("sum", "mean"))


def test_frames_and_rows():
    mask = torch.ones(2, 3, dtype=torch.bool)
    checks.frames(mask, values=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"mask \(beside values\).*\(2, 4\).*\(2, 3\)"):
        checks.frames(mask, values=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"values must have 2 dimension.*\(2,\)"):
        checks.frames(mask, values=torch.zeros(2))
    with pytest.raises(ValueError, match=r"values must hold real numbers.*int64"):
        checks.frames(mask, returns=torch.zeros(2, 3), values=torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match=r"mask \(beside values\) must be a bool mask.*float32"):
        checks.frames(mask.float(), values=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"mask \(beside values\).*\(2, 3\).*\(3,\)"):
        checks.frames(mask[0], values=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"mask \(beside values\) must be a tensor, got list"):
        checks.frames([True], values=torch.zeros(2, 3))
    checks.rows("scores", torch.zeros(2), mask)
    with pytest.raises(ValueError, match=r"scores.*\(2,\).*\(3,\)"):
        checks.rows("scores", torch.zeros(3), mask)


def test_pairs():
    checks.pairs(chosen=torch.zeros(3), rejected=torch.zeros(3))
    with pytest.raises(ValueError, match=r"rejected and chosen must have the same.*\(2,\).*\(3,\)"):
        checks.pairs(chosen=torch.zeros(3), rejected=torch.zeros(2))
    with pytest.raises(ValueError, match=r"chosen must have 1 dimension.*\(3, 1\)"):
        checks.pairs(chosen=torch.zeros(3, 1), rejected=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="rejected must hold real numbers.*int64"):
        checks.pairs(chosen=torch.zeros(3), rejected=torch.zeros(3).long())
    with pytest.raises(ValueError, match="number of pairs.*got 0"):
        checks.pairs(chosen=torch.zeros(0), rejected=torch.zeros(0))


# ---------------------------------------------------------- what a reader steps through


def stepped_lines(function, *arguments, **settings) -> Counter:
    """How many lines of each file of the package a debugger steps through in one call."""
    lines = Counter()

    def on_line(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if path.parent != PACKAGE:
            return None
        lines[path.name] += event == "line"
        return on_line

    earlier = sys.gettrace()
    sys.settrace(on_line)
    try:
        function(*arguments, **settings)
    finally:
        sys.settrace(earlier)
    return lines


def frame():
    return -torch.rand(2, 5)


MASK = torch.ones(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    "call",
    [
        partial(ppo_policy_loss, frame(), frame(), frame(), MASK, clip_eps=0.2),
        partial(ppo_value_loss, frame(), frame(), frame(), MASK, clip_eps=0.2),
        partial(grpo_loss, frame(), frame(), torch.randn(2), MASK),
        partial(sft_loss, torch.randn(2, 5, 7), torch.zeros(2, 5, dtype=torch.int64), MASK),
        partial(dpo_loss, *-torch.rand(4, 3), beta=0.1),
        partial(ipo_loss, *-torch.rand(4, 3), beta=0.1),
        partial(orpo_loss, *-torch.rand(2, 3), weight=2.0),
        partial(bradley_terry_loss, torch.randn(3), torch.randn(3)),
    ],
    ids=lambda call: call.func.__name__,
)
def test_at_most_a_third_of_the_lines_stepped_in_a_loss_are_checks(call):
    lines = stepped_lines(call)
    assert 0 < lines["checks.py"] <= lines.total() / 3, lines
