"""GRPO: the loss and its three averages, skipping what teaches nothing, and the loop.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import itertools
import math
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch

from kittenllm import grpo
from kittenllm.forward import action_logprobs
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig, group_advantages, grpo_loss, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.ppo import ppo_policy_loss
from kittenllm.sampling import generate
from kittenllm.training import rows_of_step

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

# -------------------------------------------------------------------------------- the loss


def one_token(function, ratio, advantage, **settings):
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([float(advantage)], dtype=torch.float64)
    loss, _ = function(logprobs, old, advantages, torch.ones(1, 1).bool(), **settings)
    loss.backward()
    return loss.item(), logprobs.grad.item()


def check_clip(function):
    for advantage, ratio, objective, slope in (
        (+1, 0.5, 0.5, +1),
        (+1, 1.0, 1.0, +1),
        (+1, 1.25, 1.25, +1),  # the upper end is further away: 1 + 0.3
        (+1, 1.5, 1.3, 0),  # a good reply may grow only to 1 + clip_eps_high
        (-1, 0.5, -0.9, 0),  # a bad one may shrink only to 1 - clip_eps
        (-1, 0.95, -0.95, -1),
        (-1, 1.5, -1.5, -1),  # a bad one that grew is never excused
    ):
        loss, gradient = one_token(function, ratio, advantage, clip_eps=0.1, clip_eps_high=0.3)
        assert loss == pytest.approx(-objective)
        assert gradient == pytest.approx(-slope * ratio)


def test_the_asymmetric_clip_by_hand():
    check_clip(grpo_loss)


def test_wrong_clips_are_noticed():
    def ends_swapped(*tensors, clip_eps, clip_eps_high):
        return grpo_loss(*tensors, clip_eps=clip_eps_high, clip_eps_high=clip_eps)

    def symmetric(*tensors, clip_eps, clip_eps_high):
        return grpo_loss(*tensors, clip_eps=clip_eps)

    def inverted(logprobs, old, advantages, mask, *, clip_eps, clip_eps_high):
        ratio = (logprobs - old).exp()
        clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps_high)
        return -(torch.minimum(ratio, clipped) * advantages[:, None]).mean(), {}

    for wrong in (ends_swapped, symmetric, inverted):
        with pytest.raises(AssertionError):
            check_clip(wrong)


NAN = float("nan")


def check_averages(function):
    """At the old policy a token's loss is minus its reply's advantage; 1, 3 and 0 tokens."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    logprobs = torch.where(mask, -1.0, NAN)
    advantages = torch.tensor([4.0, -1.0, 100.0])
    for normalize, expected in (
        ("reply", -(4 - 1 + 0) / 3),  # mean of each reply, then of all 3 replies
        ("token", -(4 - 3) / 4),  # mean over 4 tokens
        ("constant", -(4 - 3) / (3 * 10)),
    ):
        loss, _ = function(logprobs, logprobs, advantages, mask, normalize=normalize, max_tokens=10)
        assert_close(loss, torch.tensor(expected))


def test_three_averages_by_hand():
    check_averages(grpo_loss)


def test_wrong_averages_are_noticed():
    def empty_replies_not_counted(logprobs, old, advantages, mask, *, normalize, max_tokens):
        some = mask.any(dim=1)
        rows = logprobs[some], old[some], advantages[some], mask[some]
        return grpo_loss(*rows, normalize=normalize, max_tokens=max_tokens)

    def one_for_another(chosen):
        def loss(logprobs, old, advantages, mask, *, normalize, max_tokens):
            return grpo_loss(
                logprobs, old, advantages, mask, normalize=chosen, max_tokens=max_tokens
            )

        return loss

    for wrong in (empty_replies_not_counted, *map(one_for_another, ("reply", "token", "constant"))):
        with pytest.raises(AssertionError):
            check_averages(wrong)


def random_batch(seed=0, rows=6, width=7):
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, width, generator=generator, dtype=torch.float64)
    logprobs = old + 0.3 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    ref = old + 0.3 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, width, generator=generator) < 0.7
    return logprobs, old, advantages, mask, ref


def test_token_average_without_kl_is_ppo_with_one_advantage_per_reply():
    logprobs, old, advantages, mask, _ = random_batch()
    logprobs.requires_grad_()
    ours, metrics = grpo_loss(logprobs, old, advantages, mask, clip_eps=0.2, normalize="token")
    per_token = advantages[:, None].expand_as(old)
    theirs, ppo_metrics = ppo_policy_loss(logprobs, old, per_token, mask, clip_eps=0.2)
    assert_close(ours, theirs)
    (a,), (b,) = torch.autograd.grad(ours, logprobs), torch.autograd.grad(theirs, logprobs)
    assert_close(a, b)
    for name in ("clip_fraction", "approx_kl"):
        assert_close(metrics[name], ppo_metrics[name])


def test_constant_without_std_is_dr_grpo():
    """Sum over tokens of ratio * (reward - mean of the group), over N times a constant."""
    logprobs, old, _, mask, _ = random_batch()
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0], dtype=torch.float64)
    advantages = group_advantages(rewards, group_size=3, normalize_std=False)
    loss, _ = grpo_loss(logprobs, old, advantages, mask, normalize="constant", max_tokens=20)
    total = 0.0
    for i in range(6):
        group = rewards[3 * (i // 3) : 3 * (i // 3) + 3]
        advantage = (rewards[i] - group.mean()).item()
        for t in range(7):
            if mask[i, t]:
                ratio = math.exp(logprobs[i, t] - old[i, t])
                total += min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert loss.item() == pytest.approx(-total / (6 * 20))


def test_the_kl_term_is_k3_to_the_reference():
    logprobs, old, advantages, mask, ref = random_batch()
    plain, without = grpo_loss(logprobs, old, advantages, mask, normalize="token")
    loss, metrics = grpo_loss(
        logprobs, old, advantages, mask, ref_logprobs=ref, kl_coef=0.5, normalize="token"
    )
    r = (ref - logprobs).exp()
    k3 = (r - 1 - r.log())[mask].mean()
    assert_close(metrics["kl"], k3)
    assert_close(loss, plain + 0.5 * k3)
    upside_down = ((1 / r) - 1 + r.log())[mask].mean()
    assert (k3 - upside_down).abs() > 1e-3
    assert without["kl"] == 0


def test_at_the_reference_the_kl_term_has_no_gradient_and_beyond_it_pulls_back():
    ref = torch.full((1, 1), -1.0, dtype=torch.float64)
    zero, mask = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1).bool()
    for shift, sign in ((-0.5, -1), (0.0, 0), (0.5, +1)):
        logprobs = (ref + shift).requires_grad_()
        settings = {"ref_logprobs": ref, "kl_coef": 1.0}
        grpo_loss(logprobs, logprobs, zero, mask, **settings)[0].backward()
        assert logprobs.grad.sign().item() == sign  # the loss falls towards the reference


def test_only_the_policy_gets_a_gradient():
    logprobs, old, advantages, mask, ref = random_batch()
    tensors = [t.requires_grad_() for t in (logprobs, old, advantages, ref)]
    loss, _ = grpo_loss(logprobs, old, advantages, mask, ref_logprobs=ref, kl_coef=0.1)
    loss.backward()
    assert [t.grad is not None for t in tensors] == [True, False, False, False]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"normalize": "sentence"}, "sentence"),
        ({"normalize": "constant"}, "max_tokens.*None"),
        ({"clip_eps": 0.0}, "clip_eps.*0.0"),
        ({"clip_eps_high": -0.2}, "clip_eps_high.*-0.2"),
        ({"kl_coef": 0.1}, "kl_coef 0.1 needs ref_logprobs"),
        ({"kl_coef": -0.1}, "kl_coef.*-0.1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    logprobs, old, advantages, mask, _ = random_batch()
    with pytest.raises(ValueError, match=message):
        grpo_loss(logprobs, old, advantages, mask, **settings)


def test_one_advantage_per_reply():
    logprobs, old, advantages, mask, _ = random_batch()
    with pytest.raises(ValueError, match=r"advantages.*\(6,\).*\(5,\)"):
        grpo_loss(logprobs, old, advantages[:5], mask)
    with pytest.raises(ValueError, match="advantages.*1 dimension"):
        grpo_loss(logprobs, old, advantages[:, None].expand_as(old), mask)


# ------------------------------------------------- the gradient, exact over a tiny task


@pytest.mark.parametrize("group_size", [2, 3])
def test_the_expected_gradient_is_the_policy_gradient(group_size):
    """One token, three replies with rewards 1, 0, 0.3. All groups that can be drawn, weighted with
    their probability, give (1 - 1/G) times the gradient of the mean reward: the mean of the group
    holds the reply itself, which costs one part in G."""
    rewards = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    logits = torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    (true_gradient,) = torch.autograd.grad((logprobs.exp() * rewards).sum(), logits)

    expected_loss = 0.0
    for drawn in itertools.product(range(3), repeat=group_size):
        drawn = torch.tensor(drawn)
        advantages = group_advantages(rewards[drawn], group_size=group_size, normalize_std=False)
        sampled = logits.log_softmax(0)[drawn][:, None]  # (G, 1)
        loss, _ = grpo_loss(
            sampled, sampled, advantages, torch.ones_like(sampled).bool(), normalize="token"
        )
        expected_loss = expected_loss + sampled.detach().sum().exp() * loss
    (gradient,) = torch.autograd.grad(expected_loss, logits)
    assert_close(-gradient, (1 - 1 / group_size) * true_gradient)
    assert true_gradient.abs().max() > 0.1


# ------------------------------------------------------------------------------- skipping

PROMPTS = [[3, 4, t] for t in range(5, 25)] + [[6, t] for t in range(5, 15)]
SMALL = GRPOConfig(
    steps=4,
    prompts_per_step=4,
    group_size=4,
    max_new_tokens=10,
    normalize_std=True,
    matrix_lr=3e-3,
    other_lr=5e-4,
    cooldown=0.0,
)


class Recorder:
    """An optimizer that takes no step and keeps the gradients."""

    def __init__(self, model):
        self.model, self.gradients = model, []

    def step(self):
        self.gradients.append([p.grad.clone() for p in self.model.parameters()])

    def zero_grad(self):
        self.model.zero_grad(set_to_none=True)

    def set_scale(self, scale):
        pass


def signals(rows, size):
    """Rewards by hand: every second group has no variance."""
    rewards = torch.zeros(rows)
    for group in range(0, rows // size, 2):
        rewards[group * size + group % size] = 1.0
    return rewards


def one_round(gpt, rollout, rewards, config, optimizer, reference=None, kl_coefs=None):
    """Steps 2 and 3 of the loop, on this rollout and these rewards: the numbers of the round."""
    config = replace(config, prompts_per_step=len(rewards) // config.group_size)
    worth = iter(rewards.tolist())
    with mock.patch.object(grpo, "generate", lambda *_, **__: rollout):
        rounds = train_grpo(
            gpt,
            PROMPTS,
            lambda *_: (next(worth), {}),
            config=config,
            optimizer=optimizer,
            generator=seeded(gpt),
            reference=reference,
            kl_coefs=kl_coefs,
        )
        return next(rounds)


@pytest.fixture
def rollout(tiny_gpt):
    generator = torch.Generator(device=tiny_gpt.device).manual_seed(0)
    prompts = [prompt for prompt in PROMPTS[:6] for _ in range(4)]  # 6 groups of 4
    return generate(tiny_gpt, prompts, max_new_tokens=10, temperature=1.0, generator=generator)


@pytest.mark.parametrize("normalize", ["reply", "token", "constant"])
@pytest.mark.parametrize("minibatches", [1, 3])
@pytest.mark.parametrize("tokens_per_pass", [20, 8192])
def test_skipping_changes_no_gradient(tiny_gpt, rollout, normalize, minibatches, tokens_per_pass):
    recorded = {}
    for skip in (True, False):
        config = replace(
            SMALL,
            normalize=normalize,
            minibatches=minibatches,
            tokens_per_pass=tokens_per_pass if skip else 8192,
            skip_equal_groups=skip,
            max_grad_norm=1e9,
        )
        recorder = Recorder(tiny_gpt)
        numbers = one_round(tiny_gpt, rollout, signals(24, 4), config, recorder)
        recorded[skip] = recorder.gradients, numbers
    gradients, numbers = recorded[True]
    assert len(gradients) == len(recorded[False][0]) == minibatches == numbers["updates"]
    for minibatch, full in zip(gradients, recorded[False][0], strict=True):
        scale = max(g.abs().max() for g in full)
        assert scale > 1e-4
        for a, b in zip(minibatch, full, strict=True):
            assert_close(a / scale, b / scale, atol=1e-5, rtol=0)
    assert numbers["loss"] == pytest.approx(recorded[False][1]["loss"], abs=1e-6)


@pytest.mark.parametrize("normalize", ["reply", "token", "constant"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_the_parts_add_up_to_grpo_loss(tiny_gpt, rollout, normalize, kl_coef):
    """The gradient of the loop is the gradient of the one function that readers know, also away
    from the old policy, where both ends of the clip are at work."""
    mask = rollout.response_mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)).to(mask.device)
    rollout = replace(rollout, logprobs=rollout.logprobs + torch.where(mask, 0.3 * noise, 0.0))
    reference = copy.deepcopy(tiny_gpt)
    with torch.no_grad():
        reference.norm.weight.mul_(1.3)
    advantages = group_advantages(signals(24, 4), group_size=4).to(tiny_gpt.device)
    settings = {"clip_eps": 0.1, "clip_eps_high": 0.3, "kl_coef": kl_coef, "normalize": normalize}
    config = replace(SMALL, tokens_per_pass=30, max_grad_norm=1e9, **settings)
    recorder = Recorder(tiny_gpt)
    numbers = one_round(tiny_gpt, rollout, signals(24, 4), config, recorder, reference)

    logprobs = action_logprobs(tiny_gpt, rollout.tokens, mask)
    ref_logprobs = action_logprobs(reference, rollout.tokens, mask)
    inputs = (logprobs, rollout.logprobs, advantages, mask)
    loss, metrics = grpo_loss(*inputs, ref_logprobs=ref_logprobs, max_tokens=10, **settings)
    assert 0.1 < metrics["clip_fraction"] < 0.9
    whole = torch.autograd.grad(loss, list(tiny_gpt.parameters()))
    scale = max(g.abs().max() for g in whole)
    for a, b in zip(recorder.gradients[0], whole, strict=True):
        assert_close(a / scale, b / scale, atol=1e-5, rtol=0)
    assert numbers["loss"] == pytest.approx(loss.item(), abs=1e-5)
    if kl_coef > 0:  # nothing was skipped: the metrics are those of all tokens
        assert numbers["kl"] == pytest.approx(metrics["kl"].item(), rel=1e-4)
        fraction = metrics["clip_fraction"].item()
        assert numbers["clip_fraction"] == pytest.approx(fraction, rel=1e-4)


@pytest.mark.parametrize("normalize", ["reply", "token", "constant"])
def test_a_batch_of_two_prices_is_the_sum_of_its_halves(tiny_gpt, rollout, normalize):
    """Puzzles without a price of KL, chats with one: each half has its own loss, and in the batch
    its share of the rows or tokens."""
    reference = copy.deepcopy(tiny_gpt)
    with torch.no_grad():
        reference.norm.weight.mul_(1.3)
    picked = rows_of_step(len(PROMPTS), 0, 6, seeded(tiny_gpt))
    kl_coefs = [0.2 if prompt in picked[3:] else 0.0 for prompt in range(len(PROMPTS))]
    config = replace(SMALL, normalize=normalize, tokens_per_pass=30, max_grad_norm=1e9)
    recorder = Recorder(tiny_gpt)
    one_round(tiny_gpt, rollout, signals(24, 4), config, recorder, reference, kl_coefs)

    advantages = group_advantages(signals(24, 4), group_size=4).to(tiny_gpt.device)
    tokens, mask = rollout.tokens, rollout.response_mask
    total = [torch.zeros_like(parameter) for parameter in tiny_gpt.parameters()]
    for rows, kl_coef in ((slice(0, 12), 0.0), (slice(12, 24), 0.2)):
        logprobs = action_logprobs(tiny_gpt, tokens[rows], mask[rows])
        loss, metrics = grpo_loss(
            logprobs,
            rollout.logprobs[rows],
            advantages[rows],
            mask[rows],
            ref_logprobs=action_logprobs(reference, tokens[rows], mask[rows]),
            kl_coef=kl_coef,
            normalize=normalize,
            max_tokens=10,
        )
        assert metrics["kl"] > 0.01
        share = mask[rows].sum() / mask.sum() if normalize == "token" else 0.5
        half = torch.autograd.grad(share * loss, list(tiny_gpt.parameters()))
        total = [a + b for a, b in zip(total, half, strict=True)]
    scale = max(g.abs().max() for g in total)
    for a, b in zip(recorder.gradients[0], total, strict=True):
        assert_close(a / scale, b / scale, atol=1e-5, rtol=0)


def test_one_price_for_all_is_kl_coef_bit_for_bit(tiny_gpt, rollout):
    reference = copy.deepcopy(tiny_gpt)
    with torch.no_grad():
        reference.norm.weight.mul_(1.3)
    found = []
    for kl_coef, kl_coefs in ((0.2, None), (0.0, [0.2] * len(PROMPTS))):
        recorder = Recorder(tiny_gpt)
        config = replace(SMALL, kl_coef=kl_coef)
        one_round(tiny_gpt, rollout, signals(24, 4), config, recorder, reference, kl_coefs)
        found.append(recorder.gradients[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "kl_coefs, message",
    [
        ([0.0] * 3, "3 kl_coefs for 30 prompts"),
        ([0.0] * 29 + [-1.0], "kl_coef must be"),
        ([0.0] * 29 + [0.5], "kl_coef 0.5 needs a reference"),
    ],
)
def test_prices_that_do_not_fit_are_refused(tiny_gpt, rollout, kl_coefs, message):
    with pytest.raises(ValueError, match=message):
        one_round(tiny_gpt, rollout, signals(24, 4), SMALL, Recorder(tiny_gpt), None, kl_coefs)


def test_rows_of_equal_groups_never_reach_the_model(tiny_gpt, rollout, monkeypatch):
    read = []
    hidden = tiny_gpt.hidden

    def counting(tokens, **settings):
        read.append(tokens.shape[0])
        return hidden(tokens, **settings)

    monkeypatch.setattr(tiny_gpt, "hidden", counting)
    one_round(tiny_gpt, rollout, signals(24, 4), SMALL, Recorder(tiny_gpt))
    assert sum(read) == 12  # three of six groups have a variance


def test_no_variance_no_step(tiny_gpt, rollout):
    recorder = Recorder(tiny_gpt)
    numbers = one_round(tiny_gpt, rollout, torch.zeros(24), SMALL, recorder)
    assert recorder.gradients == [] and numbers["updates"] == 0
    assert numbers["loss"] == numbers["grad_norm"] == numbers["kl"] == 0.0


def test_with_a_kl_term_nothing_is_skipped(tiny_gpt, rollout):
    reference = copy.deepcopy(tiny_gpt)
    with torch.no_grad():
        reference.norm.weight.mul_(1.3)
    recorder = Recorder(tiny_gpt)
    config = replace(SMALL, kl_coef=0.1)
    numbers = one_round(tiny_gpt, rollout, torch.zeros(24), config, recorder, reference)
    assert numbers["updates"] == 1 and numbers["kl"] > 1e-3
    assert max(g.abs().max() for g in recorder.gradients[0]) > 1e-4
    assert all(parameter.grad is None for parameter in reference.parameters())


# ------------------------------------------------------------------------------- the loop


def low_tokens(prompt_number, reply, ended):
    """A rule without any model: the share of tokens below 30."""
    share = sum(token < 30 for token in reply) / max(1, len(reply))
    return share, {"low": share, "long": float(len(reply) > 5)}


def run(policy, optimizer, generator, start_step=0, stop_step=4, config=SMALL, **others):
    steps = train_grpo(
        policy,
        PROMPTS,
        low_tokens,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=start_step,
        **others,
    )
    return [next(steps) for _ in range(start_step, stop_step)]


def seeded(gpt, seed=0):
    return torch.Generator(device=gpt.device).manual_seed(seed)


@pytest.fixture
def policy(tiny_gpt):
    return GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)


def test_grpo_learns_what_the_rule_rewards(policy):
    optimizer = make_optimizer(policy, matrix_lr=1e-2, other_lr=1e-2)
    config = replace(SMALL, steps=35, prompts_per_step=8)
    numbers = run(policy, optimizer, seeded(policy), 0, 35, config)
    assert numbers[0]["reward"] < 0.6
    assert sum(n["reward"] for n in numbers[-5:]) / 5 > 0.8
    assert all(n["reward"] == pytest.approx(n["low"]) for n in numbers)
    assert all(isinstance(value, int | float) for n in numbers for value in n.values())
    assert all(math.isfinite(value) for n in numbers for value in n.values())
    first = numbers[0]
    assert first["entropy"] == pytest.approx(math.log(61), abs=0.1)
    assert first["approx_kl"] < 1e-6 and first["clip_fraction"] == 0  # one update: on-policy
    for part in ("sampling", "scoring", "training"):
        assert 0 < first[f"seconds_{part}"] < first["seconds"]
    tokens = first["reply_tokens"] * 32
    assert first["tokens_per_second"] == pytest.approx(tokens / first["seconds"])


def test_siblings_stand_side_by_side_under_their_own_prompt(policy, monkeypatch):
    sampled, judged = [], []

    def recording(gpt, prompts, **settings):
        sampled.extend(prompts)
        return generate(gpt, prompts, **settings)

    def reward(prompt_number, reply, ended):
        judged.append(PROMPTS[prompt_number])
        return 0.0, {}

    monkeypatch.setattr(grpo, "generate", recording)
    steps = train_grpo(
        policy,
        PROMPTS,
        reward,
        config=SMALL,
        optimizer=make_optimizer(policy, matrix_lr=1e-3, other_lr=1e-3),
        generator=seeded(policy),
    )
    next(steps)
    assert sampled == judged
    groups = [sampled[i : i + 4] for i in range(0, 16, 4)]
    assert all(group == [group[0]] * 4 for group in groups)
    assert len({tuple(group[0]) for group in groups}) == 4


def test_several_updates_per_round_leave_the_old_policy(policy):
    optimizer = make_optimizer(policy, matrix_lr=1e-2, other_lr=1e-2)
    config = replace(SMALL, epochs=2, minibatches=2)
    numbers = run(policy, optimizer, seeded(policy), 0, 1, config)
    assert numbers[0]["updates"] == 4 and numbers[0]["approx_kl"] > 1e-5


def test_a_resumed_run_is_bit_equal(tiny_gpt):
    rates = {"matrix_lr": 3e-3, "other_lr": 3e-3}
    whole = copy.deepcopy(tiny_gpt)
    run(whole, make_optimizer(whole, **rates), seeded(whole, 7))

    halves = copy.deepcopy(tiny_gpt)
    optimizer, generator = make_optimizer(halves, **rates), seeded(halves, 7)
    run(halves, optimizer, generator, 0, 2)
    state, saved = copy.deepcopy(optimizer.state_dict()), generator.get_state()
    optimizer, generator = make_optimizer(halves, **rates), torch.Generator(device=halves.device)
    optimizer.load_state_dict(state)
    generator.set_state(saved)
    run(halves, optimizer, generator, 2, 4)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_kl_term_needs_a_reference(policy):
    optimizer = make_optimizer(policy, matrix_lr=1e-3, other_lr=1e-3)
    with pytest.raises(ValueError, match="kl_coef 0.1 needs a reference"):
        run(policy, optimizer, seeded(policy), config=replace(SMALL, kl_coef=0.1))


@pytest.mark.parametrize(
    "field, value",
    [
        ("group_size", 1),
        ("normalize", "word"),
        ("clip_eps_high", 0.0),
        ("kl_coef", -1.0),
        ("minibatches", 0),
        ("matrix_lr", 0.0),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        GRPOConfig(**{field: value})
