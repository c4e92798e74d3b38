"""ORPO: log-odds that keep their digits, the loss by hand, and training without a reference.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import math
from functools import partial

import pytest
import torch

from kittenllm.gpt import GPT
from kittenllm.optim import make_optimizer
from kittenllm.orpo import ORPOConfig, log1mexp, log_odds, orpo_loss, train_orpo
from kittenllm.pairs import PreferencePair

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

RANGE = [-1e-6, -1e-4, -0.01, -0.5, -math.log(2), -0.7, -1.0, -5.0, -16.0, -40.0]


def exact_log1mexp(x: float) -> float:
    """In float64, with the branch that is exact there."""
    return math.log(-math.expm1(x)) if x > -0.6931 else math.log1p(-math.exp(x))


# ------------------------------------------------------------------------------- numerics


def check_log1mexp(function):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        x = torch.tensor(RANGE, dtype=dtype, requires_grad=True)
        exact = torch.tensor([exact_log1mexp(v) for v in x.tolist()], dtype=dtype)
        result = function(x)
        assert_close(result, exact, rtol=tolerance, atol=0)
        result.sum().backward()
        slope = torch.tensor([1 / -math.expm1(-v) for v in x.tolist()], dtype=dtype)
        assert_close(x.grad, slope, rtol=10 * tolerance, atol=0)  # d/dx = -e^x / (1 - e^x)


def test_log1mexp_keeps_its_digits_over_the_whole_range():
    check_log1mexp(log1mexp)


def test_wrong_log1mexps_are_noticed():
    def plain(x):
        return (1 - x.exp()).log()

    def only_log1p(x):
        return torch.log1p(-x.exp())

    def only_expm1(x):
        return (-torch.expm1(x)).log()

    for wrong in (plain, only_log1p, only_expm1):
        with pytest.raises(AssertionError):
            check_log1mexp(wrong)


def test_log_odds_by_hand():
    p = torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64)
    assert_close(log_odds(p.log()), (p / (1 - p)).log())
    assert log_odds(torch.tensor([0.5]).log()).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_and_right_from_almost_0_to_minus_40(dtype):
    for chosen in RANGE:
        for rejected in RANGE:
            a = torch.tensor([chosen], dtype=dtype, requires_grad=True)
            b = torch.tensor([rejected], dtype=dtype, requires_grad=True)
            loss, _ = orpo_loss(a, b, weight=2.0)
            loss.backward()
            x, y = a.item(), b.item()  # as the dtype holds them
            margin = (x - exact_log1mexp(x)) - (y - exact_log1mexp(y))
            surprise = max(-margin, 0) + math.log1p(math.exp(-abs(margin)))
            assert loss.item() == pytest.approx(-x + 2 * surprise, rel=1e-5, abs=1e-6)
            assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_a_reply_that_is_certain_stays_finite():
    for value in (0.0, -1e-12, 1e-7):  # rounding can give these
        a = torch.tensor([value], requires_grad=True)
        b = torch.tensor([-1.0], requires_grad=True)
        for first, second in ((a, b), (b, a)):
            loss, _ = orpo_loss(first, second, weight=1.0)
            loss.backward()
            assert torch.isfinite(loss)
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_gradients_equal_finite_differences():
    chosen = torch.tensor([-0.01, -0.7, -3.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-2.0, -0.69, -0.1], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda c, r: orpo_loss(c, r, weight=0.7)[0], (chosen, rejected), eps=1e-7, atol=1e-6
    )


# -------------------------------------------------------------------------------- the loss


def check_orpo(function):
    """p(chosen) = 1/2 and 1/5, p(rejected) = 1/5 and 1/2: odds 1 and 1/4."""
    chosen = torch.tensor([0.5, 0.2], dtype=torch.float64).log()
    rejected = torch.tensor([0.2, 0.5], dtype=torch.float64).log()
    loss, _ = function(chosen, rejected, weight=0.3)
    nll = -(math.log(0.5) + math.log(0.2)) / 2
    odds_loss = -(math.log(4 / 5) + math.log(1 / 5)) / 2  # sigmoid(log 4) = 4/5
    assert loss.item() == pytest.approx(nll + 0.3 * odds_loss)
    loss, _ = function(chosen[:1], rejected[:1], weight=0.3)
    assert loss.item() == pytest.approx(math.log(2) + 0.3 * math.log(5 / 4))


def test_orpo_by_hand():
    check_orpo(orpo_loss)


def test_wrong_orpos_are_noticed():
    def ratio_instead_of_odds(c, r, *, weight):
        return -c.mean() - weight * torch.nn.functional.logsigmoid(c - r).mean(), {}

    def no_sft_part(c, r, *, weight):
        return orpo_loss(c, r, weight=weight)[0] + c.mean(), {}

    def swapped(c, r, *, weight):
        return orpo_loss(r, c, weight=weight)

    def sft_on_both(c, r, *, weight):
        return orpo_loss(c, r, weight=weight)[0] - r.mean(), {}

    def weight_on_the_wrong_part(c, r, *, weight):
        loss, metrics = orpo_loss(c, r, weight=1.0)
        return loss - (1 - weight) * metrics["nll"], {}

    for wrong in (
        ratio_instead_of_odds,
        no_sft_part,
        swapped,
        sft_on_both,
        weight_on_the_wrong_part,
    ):
        with pytest.raises(AssertionError):
            check_orpo(wrong)


def test_metrics_by_hand():
    chosen, rejected = torch.tensor([0.5, 0.2]).log(), torch.tensor([0.2, 0.2]).log()
    _, metrics = orpo_loss(chosen, rejected, weight=1.0)
    assert_close(metrics["nll"], torch.tensor((math.log(2) + math.log(5)) / 2))
    assert_close(metrics["margin"], torch.tensor(math.log(4) / 2))
    assert metrics["accuracy"] == 0.75  # one right, one tie
    assert_close(metrics["rejected_logprob"], torch.tensor(math.log(0.2)))


def test_weight_0_is_plain_sft():
    chosen = torch.tensor([-1.0, -2.0], requires_grad=True)
    rejected = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, _ = orpo_loss(chosen, rejected, weight=0.0)
    loss.backward()
    assert loss == 1.5 and (rejected.grad is None or (rejected.grad == 0).all())


def test_chosen_goes_up_and_rejected_goes_down():
    chosen = torch.tensor([-1.0], requires_grad=True)
    rejected = torch.tensor([-1.0], requires_grad=True)
    orpo_loss(chosen, rejected, weight=1.0)[0].backward()
    assert chosen.grad < 0 < rejected.grad


@pytest.mark.parametrize(
    "chosen, weight, message",
    [([0.5], 1.0, "chosen_logprobs.*0.5"), ([-0.5], -1.0, "weight.*-1.0")],
)
def test_wrong_values_are_named(chosen, weight, message):
    with pytest.raises(ValueError, match=message):
        orpo_loss(torch.tensor(chosen), torch.tensor([-1.0]), weight=weight)


# ---------------------------------------------------------------------------- the training


def make_pairs(count):
    generator = torch.Generator().manual_seed(count)
    pairs = []
    for i in range(count):
        prompt = torch.randint(3, 40, (2 + i % 3,), generator=generator).tolist()
        words = torch.randint(3, 40, (1 + i % 4,), generator=generator).tolist()
        pairs.append(PreferencePair(prompt, words + [50, 50, 1], words + [40, 1]))
    return pairs


def train(policy, optimizer, start_step, stop_step, steps=20):
    made = train_orpo(
        policy,
        make_pairs(80),
        config=ORPOConfig(steps=steps, pairs_per_step=16),
        optimizer=optimizer,
        generator=torch.Generator().manual_seed(0),
        start_step=start_step,
    )
    return [next(made) for _ in range(start_step, stop_step)]


def test_learns_the_preference_and_the_chosen_text(tiny_gpt):
    policy = GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)
    optimizer = make_optimizer(policy, matrix_lr=5e-3, other_lr=5e-3)
    numbers = train(policy, optimizer, 0, 20)
    assert numbers[0]["nll"] == pytest.approx(math.log(61), abs=0.3)  # the mean, not the sum
    assert numbers[-1]["accuracy"] == 1.0 and numbers[-1]["nll"] < 3.2
    assert numbers[-1]["chosen_logprob"] > numbers[0]["chosen_logprob"]
    assert all(isinstance(value, int | float) for n in numbers for value in n.values())


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_the_loop_uses_its_weight(tiny_gpt, weight):
    steps = train_orpo(
        tiny_gpt,
        make_pairs(16),
        config=ORPOConfig(weight=weight, pairs_per_step=16),
        optimizer=make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-3),
        generator=torch.Generator().manual_seed(0),
    )
    first = next(steps)
    assert first["odds_loss"] > 0.1
    assert first["loss"] == pytest.approx(first["nll"] + weight * first["odds_loss"], rel=1e-5)


def test_a_resumed_run_is_bit_equal(tiny_gpt):
    whole, halves = copy.deepcopy(tiny_gpt), copy.deepcopy(tiny_gpt)
    rates = {"matrix_lr": 1e-3, "other_lr": 1e-3}
    train(whole, make_optimizer(whole, **rates), 0, 6, steps=6)
    optimizer = make_optimizer(halves, **rates)
    train(halves, optimizer, 0, 4, steps=6)
    train(halves, optimizer, 4, 6, steps=6)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("field, value", [("weight", -0.1), ("steps", 0), ("cooldown", 1.2)])
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        ORPOConfig(**{field: value})
