"""PPO: the two clipped losses, and the loop of generate, score, update.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kittenllm import ppo
from kittenllm.forward import action_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import masked_mean
from kittenllm.optim import make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel, gae, ppo_policy_loss, ppo_value_loss, train_ppo
from kittenllm.sampling import generate

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

EPS = 0.2


# -------------------------------------------------------------------------- the policy loss


def one_token(function, ratio, advantage):
    """Loss and slope with respect to the log-prob, for one token with this ratio."""
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([[float(advantage)]], dtype=torch.float64)
    loss, _ = function(logprobs, old, advantages, torch.ones(1, 1).bool(), clip_eps=EPS)
    loss.backward()
    return loss.item(), logprobs.grad.item()


CLIP_CASES = [  # advantage, ratio, objective, slope of the objective by the ratio
    (+1, 0.5, 0.5, +1),
    (+1, 1.0, 1.0, +1),
    (+1, 1.5, 1.2, 0),  # a good token may grow only to 1 + eps
    (-1, 0.5, -0.8, 0),  # a bad one may shrink only to 1 - eps
    (-1, 1.0, -1.0, -1),
    (-1, 1.5, -1.5, -1),  # a bad one that grew is never excused
]


def check_clip(function):
    for advantage, ratio, objective, slope in CLIP_CASES:
        loss, gradient = one_token(function, ratio, advantage)
        assert loss == pytest.approx(-objective)
        assert gradient == pytest.approx(-slope * ratio)  # d ratio / d log p = ratio


def test_the_clip_by_hand():
    check_clip(ppo_policy_loss)


def test_wrong_clips_are_noticed():
    def with_reduction(reduce):
        def loss(logprobs, old_logprobs, advantages, mask, *, clip_eps):
            ratio = (logprobs - old_logprobs).exp()
            clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
            return -masked_mean(reduce(ratio, clipped, advantages), mask), {}

        return loss

    for wrong in (
        with_reduction(lambda r, c, a: torch.maximum(r * a, c * a)),  # the better of the two
        with_reduction(lambda r, c, a: c * a),  # no min: wrong ways are excused
        with_reduction(lambda r, c, a: torch.minimum(r, c) * a),  # inverted for negative advantages
        with_reduction(lambda r, c, a: r * a),  # no clip at all
        with_reduction(lambda r, c, a: -torch.minimum(r * a, c * a)),  # uphill is downhill
        with_reduction(lambda r, c, a: torch.minimum(a / r, a / c)),  # old / new
    ):
        with pytest.raises(AssertionError):
            check_clip(wrong)


def test_policy_loss_is_the_mean_over_all_tokens_and_metrics_count_right():
    old = torch.zeros(2, 3)
    ratio = torch.tensor([[1.0, 1.5, 1.1], [0.5, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantages = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 9.0, 9.0]])
    loss, metrics = ppo_policy_loss(ratio.log(), old, advantages, mask, clip_eps=EPS)
    assert_close(loss, torch.tensor(-(1.0 + 2 * 1.2 + 3 * 1.1 - 4 * 0.8) / 4))
    assert metrics["clip_fraction"] == 2 / 4
    k3 = [r - 1 - math.log(r) for r in (1.0, 1.5, 1.1, 0.5)]
    assert_close(metrics["approx_kl"], torch.tensor(sum(k3) / 4))


def test_at_the_old_policy_the_gradient_is_the_plain_policy_gradient():
    logprobs = torch.randn(3, 4, requires_grad=True)
    advantages, mask = torch.randn(3, 4), torch.rand(3, 4) < 0.7
    ppo_policy_loss(logprobs, logprobs, advantages, mask, clip_eps=EPS)[0].backward()
    assert_close(logprobs.grad, torch.where(mask, -advantages / mask.sum(), 0.0))


def test_old_logprobs_and_advantages_get_no_gradient():
    logprobs, old, advantages = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    loss, _ = ppo_policy_loss(logprobs, old, advantages, torch.ones(2, 3).bool(), clip_eps=EPS)
    loss.backward()
    assert logprobs.grad is not None and old.grad is None and advantages.grad is None


# --------------------------------------------------------------------------- the value loss

VALUE_CASES = [  # old value, value, return, loss * 2, slope of that by the value
    (0.0, 0.1, 1.0, 0.9**2, -1.8),  # inside the interval: a plain square
    (0.0, 0.5, 1.0, 0.8**2, 0.0),  # moved far in the right direction: the pull stops
    (0.0, -0.5, 1.0, 1.5**2, -3.0),  # moved far in the wrong direction: pulled back
    (0.0, 1.5, 1.0, 0.8**2, 0.0),
    (0.0, 3.0, 1.0, 2.0**2, 4.0),  # beyond the return: pulled back
]


def check_value_clip(function):
    for old, value, target, doubled, slope in VALUE_CASES:
        values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        others = [torch.tensor([[x]], dtype=torch.float64) for x in (old, target)]
        loss, _ = function(values, *others, torch.ones(1, 1).bool(), clip_eps=EPS)
        loss.backward()
        assert loss.item() == pytest.approx(doubled / 2)
        assert values.grad.item() == pytest.approx(slope / 2)


def test_the_value_clip_by_hand():
    check_value_clip(ppo_value_loss)


def test_wrong_value_losses_are_noticed():
    def with_reduction(reduce):
        def loss(values, old_values, returns, mask, *, clip_eps):
            clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
            squares = (values - returns).square(), (clipped - returns).square()
            return masked_mean(reduce(*squares), mask), {}

        return loss

    for wrong in (
        with_reduction(lambda plain, clipped: torch.maximum(plain, clipped)),  # without the 1/2
        with_reduction(lambda plain, clipped: 0.5 * torch.minimum(plain, clipped)),
        with_reduction(lambda plain, clipped: 0.5 * clipped),
        with_reduction(lambda plain, clipped: 0.5 * plain),
    ):
        with pytest.raises(AssertionError):
            check_value_clip(wrong)


def test_value_loss_is_the_mean_over_all_tokens():
    values = torch.tensor([[1.0, 2.0, 7.0], [3.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    zeros = torch.zeros(2, 3)
    loss, metrics = ppo_value_loss(values, values, zeros, mask, clip_eps=EPS)
    assert_close(loss, torch.tensor(0.5 * (1 + 4 + 9) / 3))
    assert metrics["clip_fraction"] == 0
    _, metrics = ppo_value_loss(values, zeros + 1, zeros, mask, clip_eps=EPS)
    assert_close(metrics["clip_fraction"], torch.tensor(2 / 3))


# ------------------------------------------------------------------------------- the loop

PROMPTS = [[3, 4, t] for t in range(5, 35)] + [[6, t] for t in range(5, 15)]


@pytest.fixture
def kittens(tiny_gpt):
    """Policy, reference and value model on fresh small weights."""

    def fresh():
        return GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)

    return fresh(), fresh(), ValueModel(fresh())


def low_tokens(rollout):
    """A score without any model: the share of the reply's tokens below 30."""
    low = (rollout.tokens[:, 1:] < 30) & rollout.response_mask
    return low.sum(dim=1) / rollout.response_mask.sum(dim=1)


SMALL = PPOConfig(steps=4, replies_per_step=16, max_new_tokens=8, policy_lr=3e-3, value_lr=3e-3)


def run(models, optimizers, generator, start_step=0, stop_step=4, config=SMALL, score=low_tokens):
    steps = train_ppo(
        *models,
        PROMPTS,
        score,
        config=config,
        optimizer=optimizers[0],
        value_optimizer=optimizers[1],
        generator=generator,
        start_step=start_step,
    )
    return [next(steps) for _ in range(start_step, stop_step)]


def make_optimizers(models, config=SMALL):
    policy_rates = {"matrix_lr": config.policy_lr, "other_lr": config.policy_lr}
    value_rates = {"matrix_lr": config.value_lr, "other_lr": config.value_lr}
    return make_optimizer(models[0], **policy_rates), make_optimizer(models[2], **value_rates)


def seeded(models, seed=0):
    return torch.Generator(device=models[0].device).manual_seed(seed)


def test_the_first_ratio_is_1_with_the_recorded_logprobs(kittens, tiny_gpt):
    """Cache on, prompts of different length, rows that leave the batch."""
    models = (tiny_gpt, kittens[1], kittens[2])  # a policy with strong opinions
    numbers = run(models, make_optimizers(models), seeded(models), stop_step=2)
    assert all(n["ratio_error"] < 1e-4 for n in numbers)
    assert all(0 < n["ended"] < 1 for n in numbers)  # some rows did leave


@pytest.mark.parametrize("temperature", [0.9, 1.1])
def test_scoring_another_distribution_than_the_sampled_one_is_noticed(
    kittens, tiny_gpt, temperature, monkeypatch
):
    def another_temperature(gpt, prompts, **settings):
        return generate(gpt, prompts, **{**settings, "temperature": temperature})

    monkeypatch.setattr(ppo, "generate", another_temperature)
    models = (tiny_gpt, kittens[1], kittens[2])
    numbers = run(models, make_optimizers(models), seeded(models), stop_step=1)
    assert numbers[0]["ratio_error"] > 1e-2


def test_no_gradient_reaches_the_reference(kittens):
    before = copy.deepcopy(kittens[1].state_dict())
    run(kittens, make_optimizers(kittens), seeded(kittens), stop_step=2)
    assert all(parameter.grad is None for parameter in kittens[1].parameters())
    assert all(torch.equal(before[k], v) for k, v in kittens[1].state_dict().items())


def test_kl_starts_at_zero_and_everything_is_a_plain_number(kittens):
    numbers = run(kittens, make_optimizers(kittens), seeded(kittens), stop_step=2)
    assert abs(numbers[0]["kl"]) < 1e-4 and abs(numbers[1]["kl"]) > 1e-3
    assert numbers[0]["updates"] == 4
    assert abs(numbers[0]["entropy"] - math.log(61)) < 0.1
    assert all(isinstance(value, int | float) for n in numbers for value in n.values())
    assert all(math.isfinite(value) for n in numbers for value in n.values())
    for part in ("sampling", "scoring", "training"):
        assert 0 < numbers[0][f"seconds_{part}"] < numbers[0]["seconds"]


def test_ppo_learns_what_is_scored_and_a_kl_price_holds_it_back(kittens):
    config = replace(SMALL, steps=14, kl_coef=0.0, replies_per_step=24, no_end_penalty=0.0)
    config = replace(config, policy_lr=6e-3)
    free = run(kittens, make_optimizers(kittens, config), seeded(kittens), 0, 14, config)
    assert free[0]["score"] < 0.6 and free[-1]["score"] > 0.85
    reference = kittens[1]
    dear = (copy.deepcopy(reference), reference, ValueModel(copy.deepcopy(reference)))
    config = replace(config, kl_coef=1.0)
    held = run(dear, make_optimizers(dear, config), seeded(dear), 0, 14, config)
    assert held[-1]["kl"] < free[-1]["kl"] / 3


def test_the_value_model_learns_what_is_still_to_come(kittens):
    """Every reply scores 2, gamma is 1: the right guess before *every* token is 2."""
    config = replace(SMALL, kl_coef=0.0, no_end_penalty=0.0, value_clip_eps=10.0, steps=8)
    config = replace(config, value_lr=1e-2)

    def always_2(rollout):
        return torch.full((len(rollout.tokens),), 2.0, device=rollout.tokens.device)

    optimizers = make_optimizers(kittens, config)
    numbers = run(kittens, optimizers, seeded(kittens), 0, 8, config, always_2)
    assert numbers[-1]["value_loss"] < 0.1 * numbers[0]["value_loss"]
    rollout = generate(
        kittens[0], PROMPTS, max_new_tokens=8, temperature=1.0, generator=seeded(kittens)
    )
    values = kittens[2](rollout.tokens, rollout.response_mask)[rollout.response_mask]
    assert (values - 2).abs().mean() < 0.4


def test_a_reply_without_an_end_pays_the_penalty(kittens):
    config = replace(SMALL, max_new_tokens=3, no_end_penalty=2.0)
    nothing = run(
        kittens,
        make_optimizers(kittens),
        seeded(kittens),
        stop_step=1,
        config=config,
        score=lambda rollout: torch.zeros(len(rollout.tokens)),
    )
    assert nothing[0]["score"] == pytest.approx(-2.0 * (1 - nothing[0]["ended"]))
    assert nothing[0]["ended"] < 1


def test_the_round_stops_early_when_the_policy_has_gone_too_far(kittens):
    config = replace(SMALL, target_kl=1e-7, epochs=3)
    numbers = run(kittens, make_optimizers(kittens), seeded(kittens), stop_step=1, config=config)
    assert numbers[0]["updates"] == 1


def test_whitening_is_a_setting(kittens):
    """One small step with scores times 1000: with whitening nothing changes."""
    policies = {}
    for white in (True, False):
        for scale in (1, 1000):
            models = tuple(copy.deepcopy(model) for model in kittens)
            config = replace(SMALL, epochs=1, minibatches=1, whiten_advantages=white, kl_coef=0.0)
            config = replace(config, no_end_penalty=0.0, max_grad_norm=1e9)
            optimizers = (torch_sgd(models[0]), torch_sgd(models[2]))
            generator = seeded(models)
            run(models, optimizers, generator, 0, 1, config, lambda r, s=scale: s * low_tokens(r))
            policies[white, scale] = models[0].embed_tokens.weight.detach()
    assert_close(policies[True, 1], policies[True, 1000], atol=1e-5, rtol=0)
    assert (policies[False, 1] - policies[False, 1000]).abs().max() > 1e-3


class torch_sgd:
    """The plainest optimizer: a gradient ten times larger is a step ten times larger."""

    def __init__(self, model):
        self.sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        self.step, self.zero_grad = self.sgd.step, self.sgd.zero_grad

    def set_scale(self, scale):
        pass


def test_a_resumed_run_is_bit_equal(kittens):
    whole = tuple(copy.deepcopy(model) for model in kittens)
    run(whole, make_optimizers(whole), seeded(whole, 5))

    halves = tuple(copy.deepcopy(model) for model in kittens)
    optimizers, generator = make_optimizers(halves), seeded(halves, 5)
    run(halves, optimizers, generator, 0, 2)
    states = copy.deepcopy([o.state_dict() for o in optimizers])
    optimizers, saved = make_optimizers(halves), generator.get_state()
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    generator = torch.Generator(device=halves[0].device)
    generator.set_state(saved)
    run(halves, optimizers, generator, 2, 4)
    for i in (0, 2):
        for a, b in zip(whole[i].parameters(), halves[i].parameters(), strict=True):
            assert torch.equal(a, b)


def test_update_moves_tokens_the_way_their_advantage_points(kittens, monkeypatch):
    """After a small step, log-probs rose where the advantage is positive: the credit arrives."""
    policy, _, _ = kittens
    rollout = generate(
        policy, PROMPTS, max_new_tokens=8, temperature=1.0, generator=seeded(kittens)
    )
    mask = rollout.response_mask
    advantages = []

    def keep_advantages(*tensors, gamma, lam):
        advantages.append(gae(*tensors, gamma=gamma, lam=lam)[0])
        return gae(*tensors, gamma=gamma, lam=lam)

    monkeypatch.setattr(ppo, "gae", keep_advantages)
    monkeypatch.setattr(ppo, "generate", lambda *_, **__: rollout)
    config = replace(SMALL, epochs=1, minibatches=1, kl_coef=0.0, lam=1.0, no_end_penalty=0.0)
    config = replace(config, whiten_advantages=False)
    score = lambda rollout: low_tokens(rollout) - 0.5  # noqa: E731
    run(kittens, make_optimizers(kittens), seeded(kittens), 0, 1, config, score)
    change = action_logprobs(policy, rollout.tokens, mask).detach() - rollout.logprobs
    (credit,) = advantages
    agreement = (change * credit)[mask].mean()
    assert agreement > 0 and (change[mask] * credit[mask] > 0).float().mean() > 0.6


@pytest.mark.parametrize(
    "field, value",
    [
        ("clip_eps", 0),
        ("lam", 1.1),
        ("gamma", -0.1),
        ("kl_coef", -1.0),
        ("epochs", 0),
        ("steps", 1.5),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        PPOConfig(**{field: value})
