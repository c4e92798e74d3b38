"""Numbers that are exact where the mathematics is: equal values, infinities, short floats.

One idea: 0.1 minus the mean of equal 0.1s, 0 * inf and a bfloat16 sum of 300 ones are mistakes of
the arithmetic and not of the formula. Each right value below is worked out by hand.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from kittenllm.calibration import calibration_error
from kittenllm.dpo import DPOConfig, dpo_loss, ipo_loss, train_dpo
from kittenllm.forward import frozen_logprobs
from kittenllm.gpt import GPT, GPTConfig, KVCache
from kittenllm.grpo import GRPOConfig, group_advantages, grpo_loss, train_grpo
from kittenllm.logprobs import (
    all_equal,
    average,
    entropy,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_mean,
    sequence_logprobs,
    token_logprobs,
    weighted,
)
from kittenllm.optim import make_optimizer
from kittenllm.orpo import orpo_loss
from kittenllm.pairs import PreferencePair
from kittenllm.ppo import (
    PPOConfig,
    ValueModel,
    gae,
    kl_shaped_rewards,
    ppo_policy_loss,
    ppo_value_loss,
    train_ppo,
    whiten,
)
from kittenllm.reward_model import RewardModel, bradley_terry_loss, score_sequences
from kittenllm.rewards import explained_variance, score_by_rule
from kittenllm.sampling import Rollout, draw, generate, stream
from kittenllm.scorer import Scorer
from kittenllm.sft import sft_loss

NAN, INF = math.nan, math.inf
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHORT = [torch.bfloat16, torch.float16]


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def learnt(*values: float, dtype=torch.float32, rows: bool = True) -> torch.Tensor:
    """(1, n) of the action frame, or (n,), that gets a gradient."""
    tensor = torch.tensor([list(values)] if rows else list(values), dtype=dtype)
    return tensor.requires_grad_()


# --------------------------------------------------------------------------- equal is a rule


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [0.1, 0.7, -0.9, 1 / 3, 1.0, 0.0])
def test_equal_advantages_whiten_to_exactly_zero(dtype, value):
    for count in (1, 7, 100, 5120):
        advantages = torch.full((1, count), value, dtype=dtype)
        white = whiten(advantages, ones(1, count))
        assert white.dtype == dtype and torch.equal(white, torch.zeros_like(advantages))


def test_equal_but_for_the_last_digits_is_equal_and_a_little_more_is_not():
    mask = torch.tensor([[True, True, True, False]])
    sums = torch.tensor([[0.7, 0.1 + 0.6, (0.7 - 0.45) + 0.45, NAN]])
    assert all_equal(sums, mask) and torch.equal(whiten(sums, mask), torch.zeros(1, 4))
    close = torch.tensor([[0.7, 0.7, 0.70001, 5.0]])
    assert not all_equal(close, mask)
    assert_close(whiten(close, mask)[0, 2], torch.tensor(2**0.5), rtol=0.02, atol=0)
    neighbours = torch.tensor([[100.0, 101.0]], dtype=torch.bfloat16)  # 2 steps apart: not equal
    assert_close(whiten(neighbours, ones(1, 2)).float(), torch.tensor([[-1.0, 1.0]]))
    assert all_equal(sums, ~ones(1, 4))  # nothing is counted


@pytest.mark.parametrize("dtype", TYPES)
def test_equal_returns_leave_nothing_to_explain(dtype):
    returns = torch.full((1, 1000), 0.1, dtype=dtype)
    values = torch.linspace(-1, 1, 1000, dtype=torch.float64).to(dtype)[None]
    assert explained_variance(values, returns, ones(1, 1000)) == 0
    again = values + (0.7 - values)  # advantage + value: 0.7, but for rounding
    if dtype in (torch.float64, torch.float32):
        assert len(again.unique()) > 1 and explained_variance(values, again, ones(1, 1000)) == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_siblings_of_equal_worth_have_no_advantage(dtype):
    rewards = torch.full((7,), 0.7, dtype=dtype)
    assert torch.equal(group_advantages(rewards, group_size=7, eps=0.0), torch.zeros_like(rewards))


def test_a_scorer_does_not_blow_up_equal_scores():
    """1000.1 is no number of float32: the standard deviation of equal scores comes out as 6e-5."""

    def always(tokens, lengths):
        return torch.full((len(tokens),), 1000.1)

    assert always(torch.zeros(7, 1), None).std() > 1e-6
    rollout = Rollout(torch.zeros(7, 3).long(), ones(7, 2), torch.zeros(7, 2), ones(7))
    scorer = Scorer(always).standardised_on(rollout)
    assert scorer.std == 1.0 and scorer(rollout).abs().max() < 1e-3


# ------------------------------------------------------------------------ 0 switches a term off


@pytest.mark.parametrize("held", [INF, -INF, NAN])
def test_a_coefficient_of_zero_switches_its_term_off(held):
    terms = torch.tensor([1.0, held])
    assert torch.equal(weighted(0.0, terms), torch.zeros(2)) and weighted(2.0, terms)[0] == 2
    mask, ref = ones(1, 2), torch.tensor([[held, held]])
    rewards = kl_shaped_rewards(torch.tensor([3.0]), torch.zeros(1, 2), ref, mask, kl_coef=0)
    assert rewards.tolist() == [[0.0, 3.0]]
    logprobs, old = learnt(-1.0, -2.0), torch.tensor([[-1.0, -2.0]])
    loss, _ = grpo_loss(logprobs, old, torch.tensor([2.0]), mask, ref_logprobs=ref, kl_coef=0.0)
    loss.backward()
    assert loss == -2 and torch.equal(logprobs.grad, torch.tensor([[-1.0, -1.0]]))
    chosen, rejected = learnt(-1.0, -2.0, rows=False), learnt(-1.0, -abs(held), rows=False)
    loss, _ = orpo_loss(chosen, rejected, weight=0.0)
    loss.backward()
    assert loss == 1.5 and torch.equal(rejected.grad, torch.zeros(2))
    assert torch.equal(chosen.grad, torch.tensor([-0.5, -0.5]))


def test_gae_without_gamma_or_lam_looks_at_one_token():
    rewards, values = torch.tensor([[1.0, -INF]]), torch.tensor([[0.25, 0.5]])
    advantages, _ = gae(rewards, values, ones(1, 2), gamma=1.0, lam=0.0)
    assert advantages.tolist() == [[1.25, -INF]]
    advantages, _ = gae(rewards, torch.tensor([[0.25, INF]]), ones(1, 2), gamma=0.0, lam=1.0)
    assert advantages[0, 0] == 0.75


def test_an_impossible_rejected_reply_is_a_lesson_learnt():
    """log p(rejected) = -inf: the margin is infinite, the loss 0, and nothing pulls."""
    chosen, rejected = learnt(-1.0, rows=False), learnt(-INF, rows=False)
    zero = torch.zeros(1)
    for loss in (
        dpo_loss(chosen, rejected, zero, zero, beta=0.1)[0],
        bradley_terry_loss(chosen, rejected)[0],
        orpo_loss(chosen, rejected, weight=1.0)[0] + chosen.sum(),
    ):
        chosen.grad = rejected.grad = None
        loss.backward()
        assert loss == 0 and chosen.grad == 0 and rejected.grad == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_huge_margins_have_the_right_slope(dtype):
    """60,000 - (-60,000) is beyond float16. A wrong order costs the margin, a right one nothing."""
    low, high = learnt(-6e4, dtype=dtype, rows=False), learnt(6e4, dtype=dtype, rows=False)
    zero = torch.zeros(1, dtype=dtype)
    loss, _ = bradley_terry_loss(low, high)
    loss.backward()
    assert loss > 6e4 and low.grad == -1 and high.grad == 1
    low.grad = high.grad = None
    loss, metrics = dpo_loss(low, high, zero, zero, beta=0.25)
    loss.backward()
    assert_close(loss.double(), torch.tensor(3e4).double(), rtol=0.01, atol=0)
    assert low.grad == -0.25 and metrics["accuracy"] == 0
    low.grad = high.grad = None
    loss, _ = ipo_loss(low, high, zero, zero, beta=0.5)
    loss.backward()  # slope 2 (gap - 1)
    assert not low.grad.isnan() and low.grad < 0
    assert bradley_terry_loss(high, low)[0] == 0


# ------------------------------------------------------------------------------ overflow


@pytest.mark.parametrize("name", ["ppo", "grpo"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("log_ratio", [12.0, 100.0, 1000.0, INF])
@pytest.mark.parametrize("advantage, right", [(1.0, -1.2), (0.0, 0.0)])
def test_a_ratio_beyond_the_floats_has_the_clip_s_loss(name, dtype, log_ratio, advantage, right):
    logprobs, old = learnt(0.0, dtype=dtype), torch.tensor([[-log_ratio]], dtype=dtype)
    advantages = torch.tensor([[advantage]], dtype=dtype)
    if name == "ppo":
        loss, metrics = ppo_policy_loss(logprobs, old, advantages, ones(1, 1), clip_eps=0.2)
    else:
        loss, metrics = grpo_loss(logprobs, old, advantages[0], ones(1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(right, rel=4e-3) and logprobs.grad == 0
    assert metrics["clip_fraction"] == 1 and metrics["approx_kl"] > 0


def test_a_bad_token_that_grew_is_never_excused_however_far():
    logprobs, old = learnt(0.0), torch.tensor([[-100.0]])
    loss, _ = ppo_policy_loss(logprobs, old, torch.tensor([[-1.0]]), ones(1, 1), clip_eps=0.2)
    loss.backward()
    assert loss == INF and logprobs.grad == INF  # e^100 is too large for float32: inf, not NaN


def test_the_kl_of_models_that_are_worlds_apart_is_infinite():
    low, zero = torch.tensor([-INF, -1e3]), torch.zeros(2)
    assert kl_k3(low, zero).tolist() == [INF, INF]  # e^1000: the reference is that much likelier
    assert kl_k3(zero, low).tolist() == [INF, 999.0]  # e^-1000 - 1 + 1000
    assert kl_k2(zero, low).tolist() == [INF, 5e5]


@pytest.mark.parametrize("temperature", [1e-20, 1e-31, 1e-39, 1e-45, 1e-300])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_temperature_too_small_for_the_floats_is_greedy(temperature, sign):
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5]]) * sign
    token, logprob = draw(logits, temperature, torch.Generator().manual_seed(0))
    assert token.item() == logits.argmax() and logprob.isfinite().all()


def test_stream_and_generate_are_greedy_at_a_tiny_temperature(tiny_gpt):
    device = tiny_gpt.device
    cold = {"max_new_tokens": 8, "temperature": 1e-39}
    greedy = generate(tiny_gpt, [[5, 6]], max_new_tokens=8, temperature=0, generator=None)
    seeded = torch.Generator(device=device).manual_seed(0)
    rollout = generate(tiny_gpt, [[5, 6]], generator=seeded, **cold)
    assert torch.equal(rollout.tokens, greedy.tokens) and rollout.logprobs.isfinite().all()
    assert list(stream(tiny_gpt, [5, 6], generator=seeded, **cold)) == greedy.replies()[0]


# --------------------------------------------------------------------------- short floats


@pytest.mark.parametrize("dtype", SHORT)
def test_sums_run_wide(dtype):
    """4,096 times 1: bfloat16 alone stops counting at 256, float16 at 2,048."""
    count = 4096
    one, mask = torch.ones(1, count, dtype=dtype), ones(1, count)
    assert masked_mean(one, mask) == 1
    assert sequence_logprobs(-one, mask, reduce="sum") == -count
    for normalize, right in (("reply", 1), ("token", 1), ("constant", 1)):
        rows, row_mask = one.view(64, 64), ones(64, 64)
        mean = average(rows, row_mask, normalize=normalize, max_tokens=64)
        assert mean == right and mean.dtype == dtype
    zero = torch.zeros_like(one)
    advantages, returns = gae(one, zero, mask, gamma=1.0, lam=1.0)
    assert advantages[0, 0] == count and returns[0, 0] == count and returns.dtype == dtype
    assert group_advantages(torch.tensor([6e4, -6e4], dtype=dtype), group_size=2).isfinite().all()


@pytest.mark.parametrize("dtype", SHORT)
def test_small_differences_survive(dtype):
    """k3 of 1/64 is 1/8192: in 8 or 11 bits e^x - 1 - x is nothing but rounding."""
    p, ref = torch.tensor([-1 / 64], dtype=dtype), torch.zeros(1, dtype=dtype)
    exact = math.expm1(1 / 64) - 1 / 64
    assert kl_k3(p, ref).item() == pytest.approx(exact, rel=8e-3)
    rewards = kl_shaped_rewards(
        torch.zeros(1, dtype=dtype), p[None], ref[None], ones(1, 1), kl_coef=0.1
    )
    assert rewards.item() == pytest.approx(0.1 / 64, rel=8e-3) and rewards.dtype == dtype


@pytest.mark.parametrize("dtype", SHORT)
def test_the_dart_is_thrown_at_a_fine_line(dtype):
    """512 equal tokens: in bfloat16 the edges of the second half of the line fall together."""
    logits = torch.zeros(8_000, 512, dtype=dtype)
    tokens, logprobs = draw(logits, 1.0, torch.Generator().manual_seed(0))
    assert logprobs.dtype == torch.float32 and len(tokens.unique()) == 512
    assert_close(logprobs, torch.full((8_000,), -math.log(512)))


def frames(dtype):
    generator = torch.Generator().manual_seed(0)
    a, b, c = (-0.2 - torch.rand(3, 5, generator=generator) for _ in range(3))
    return [x.to(dtype) for x in (a, b, c)], torch.tensor(
        [[1] * 5, [0, 1, 1, 0, 0], [0] * 5]
    ).bool()


def loss_of(pair):
    return pair[0]


LOGITS = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(2))
PUBLIC = {  # of frames a, b, c (3, 5) and a mask; what is returned has their dtype
    "masked_mean": lambda a, b, c, m: masked_mean(a, m),
    "sum": lambda a, b, c, m: sequence_logprobs(a, m, reduce="sum"),
    "mean": lambda a, b, c, m: sequence_logprobs(a, m, reduce="mean"),
    "entropy": lambda a, b, c, m: entropy(LOGITS.to(a.dtype)),
    "k1": lambda a, b, c, m: kl_k1(a, b),
    "k2": lambda a, b, c, m: kl_k2(a, b),
    "k3": lambda a, b, c, m: kl_k3(a, b),
    "sft": lambda a, b, c, m: loss_of(sft_loss(LOGITS.to(a.dtype), TOKENS, TOKENS > 2)),
    "bradley-terry": lambda a, b, c, m: loss_of(bradley_terry_loss(a[0], b[0])),
    "shaped": lambda a, b, c, m: kl_shaped_rewards(c[:, 0], a, b, m, kl_coef=0.3),
    "gae": lambda a, b, c, m: torch.stack(gae(a, b, m, gamma=0.9, lam=0.8)),
    "policy": lambda a, b, c, m: loss_of(ppo_policy_loss(a, b, c, m, clip_eps=0.2)),
    "value": lambda a, b, c, m: loss_of(ppo_value_loss(a, b, c, m, clip_eps=0.2)),
    "dpo": lambda a, b, c, m: loss_of(
        dpo_loss(a[0], b[0], c[0], a[1], beta=0.3, label_smoothing=0.1)
    ),
    "ipo": lambda a, b, c, m: loss_of(ipo_loss(a[0], b[0], c[0], a[1], beta=0.3)),
    "orpo": lambda a, b, c, m: loss_of(orpo_loss(a[0], b[0], weight=0.5)),
    "advantages": lambda a, b, c, m: group_advantages(a[0], group_size=5),
    "grpo": lambda a, b, c, m: loss_of(
        grpo_loss(a, b, c[:, 0], m, ref_logprobs=c, kl_coef=0.1, normalize="reply")
    ),
    "whiten": lambda a, b, c, m: whiten(a, m),
    "explained": lambda a, b, c, m: explained_variance(a, b, m),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_takes_every_float_and_rounds_once(name, dtype):
    """The float64 result of the same inputs, rounded to the type given: half of its last digit."""
    given, mask = frames(dtype)
    result = PUBLIC[name](*given, mask)
    exact = PUBLIC[name](*(tensor.double() for tensor in given), mask)
    assert result.dtype == dtype and result.isfinite().all()
    digit = torch.finfo(dtype).eps
    if name in ("entropy", "sft"):  # their logits are rounded to the type first
        assert_close(result.double(), exact, rtol=4 * digit, atol=4 * digit)
    else:
        slack = 0.51 * digit if dtype in SHORT else 32 * digit
        assert_close(result.double(), exact, rtol=slack, atol=slack / 8)


# ------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("dtype", TYPES)
def test_a_model_of_every_type_reads_speaks_and_judges(dtype):
    config = GPTConfig(
        300, context_length=32, layers=2, channels=32, ffn_channels=32, stop_ids=(1,)
    )
    gpt = GPT(config, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert gpt.dtype == dtype
    prompts = [[5, 6, 7], [8], [9, 10]]
    greedy = generate(gpt, prompts, max_new_tokens=4, temperature=0, generator=None)
    assert list(stream(gpt, [8], max_new_tokens=4, temperature=0, generator=None))
    seeded = torch.Generator().manual_seed(0)
    rollout = generate(gpt, prompts, max_new_tokens=6, temperature=1.0, generator=seeded)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert rollout.logprobs.dtype == greedy.logprobs.dtype == wide
    assert token_logprobs(gpt(rollout.tokens), rollout.tokens).dtype == wide
    scored = frozen_logprobs(gpt, rollout.tokens, rollout.response_mask)
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01}.get(dtype, 1e-5)
    assert_close(scored, rollout.logprobs, atol=tolerance, rtol=0)
    values = ValueModel(gpt)(rollout.tokens, rollout.response_mask)
    assert values.dtype == dtype and not values.any()
    assert score_sequences(RewardModel(gpt), prompts).tolist() == [0, 0, 0]
    assert gpt.attention_weights(rollout.tokens, 1).isfinite().all()
    optimizer = make_optimizer(gpt, matrix_lr=1e-3, other_lr=1e-3)
    before = gpt.layers[0].mlp.up_proj.weight.clone()
    token_logprobs(gpt(rollout.tokens), rollout.tokens).mean().backward()
    optimizer.step()
    after = gpt.layers[0].mlp.up_proj.weight
    assert after.isfinite().all() and not torch.equal(after, before)


def test_a_cache_of_another_type_is_refused_by_name():
    gpt = GPT(GPTConfig(300, context_length=8, layers=1, channels=32, ffn_channels=32)).bfloat16()
    with pytest.raises(ValueError, match="float32.*bfloat16.*dtype=gpt.dtype"):
        gpt(torch.tensor([[5]]), cache=KVCache(gpt.config, 1, 4))


@pytest.mark.parametrize("dtype", TYPES)
def test_calibration_counts_beyond_what_a_short_float_can(dtype):
    """Half of 6,000 sure predictions of 0.75 come true: a gap of 0.25."""
    logit = math.log(3)
    right = torch.full((3000,), logit, dtype=dtype)
    chosen, rejected = torch.cat([right, -right]), torch.zeros(6000, dtype=dtype)
    assert calibration_error(chosen, rejected) == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(ValueError, match="predictions.*got 0"):
        calibration_error(chosen[:0], rejected[:0])


# ------------------------------------------------------------------ no number goes in


@pytest.mark.parametrize(
    "returned, message",
    [
        ((NAN, {}), "reward of reply 1 to prompt 7 must be a finite number, got nan"),
        ((-INF, {}), "reward of reply 1 to prompt 7.*-inf"),
        ((1e39, {}), "reward of reply 1 to prompt 7.*1e.39"),  # inf as float32
        ((None, {}), "reward of reply 1 to prompt 7.*None"),
        (("1.0", {}), "reward of reply 1 to prompt 7.*'1.0'"),
        (None, r"\(reward, parts\).*reply 1 to prompt 7 it returned None"),
        (0.5, r"\(reward, parts\).*reply 1 to prompt 7 it returned 0.5"),
        ((0.5, None), "dict.*reply 1 to prompt 7 they are None"),
        ((0.5, {"right": NAN}), "part 'right' of reply 1 to prompt 7.*nan"),
    ],
)
def test_a_rule_that_returns_no_number_is_named(returned, message):
    rollout = Rollout(torch.zeros(2, 3).long(), ones(2, 2), torch.zeros(2, 2), ones(2))
    answers = iter([(1.0, {"right": 1.0}), returned])
    with pytest.raises(ValueError, match=message):
        score_by_rule(rollout, [7], lambda *_: next(answers), group_size=2)


def optimizer_of(model):
    return make_optimizer(model, matrix_lr=1e-3, other_lr=1e-3)


def test_no_loop_blames_the_learning_rates_for_what_it_was_given(tiny_gpt):
    """NaN from a rule, a judge, a reference: a ValueError says whose it is, and no weight moves."""
    before = {name: weight.clone() for name, weight in tiny_gpt.state_dict().items()}
    seeded = torch.Generator(device=tiny_gpt.device).manual_seed(0)
    prompts = [[3, 4], [5]]
    broken = GPT(tiny_gpt.config).to(tiny_gpt.device)
    with torch.no_grad():
        broken.norm.weight.fill_(NAN)
    rule = train_grpo(
        tiny_gpt,
        prompts,
        lambda *_: (NAN, {}),
        config=GRPOConfig(prompts_per_step=2, group_size=2, max_new_tokens=3),
        optimizer=optimizer_of(tiny_gpt),
        generator=seeded,
    )
    value_model = ValueModel(GPT(tiny_gpt.config).to(tiny_gpt.device))
    two = {"optimizer": optimizer_of(tiny_gpt), "value_optimizer": optimizer_of(value_model)}
    config = PPOConfig(replies_per_step=2, max_new_tokens=3)

    def ppo(reference, score):
        models = (tiny_gpt, reference, value_model)
        return train_ppo(*models, prompts, score, config=config, generator=seeded, **two)

    pairs = [PreferencePair([3], [4, 1], [5, 1]), PreferencePair([3], [6, 1], [7, 1])]
    ref_logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -INF]])
    settings = {"optimizer": two["optimizer"], "generator": seeded}
    for loop, message in (
        (rule, "reward of reply 0 to prompt"),
        (ppo(tiny_gpt, lambda rollout: torch.tensor([0.5, NAN])), "score of reply 1.*nan"),
        (ppo(broken, lambda rollout: torch.zeros(2)), "the reference's log-probs of reply 0.*nan"),
        (
            train_dpo(tiny_gpt, pairs, ref_logprobs, config=DPOConfig(), **settings),
            "ref_logprobs of pair 1.*-inf",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            next(loop)
    assert all(torch.equal(before[name], value) for name, value in tiny_gpt.state_dict().items())
    with pytest.raises(ValueError, match="weights are no numbers"):
        generate(broken, prompts, max_new_tokens=3, temperature=1.0, generator=seeded)
    with pytest.raises(ValueError, match="weights are no numbers"):
        next(stream(broken, [3], max_new_tokens=3, temperature=0, generator=None))
