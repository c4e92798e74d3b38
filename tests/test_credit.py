"""How one score becomes a credit for every token: shaped rewards, GAE, the value model.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

from functools import partial

import pytest
import torch

from kittenllm.ppo import ValueModel, gae, kl_shaped_rewards, whiten

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

NAN = float("nan")


# -------------------------------------------------------------------------- shaped rewards


def check_shaped_rewards(function):
    """Row 0: prompt, three reply tokens, padding. Row 1: a gap. Row 2: no reply at all."""
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    logprobs = torch.tensor([[9.0, -1.0, -2.0, -3.0, 9.0], [-1.0, 9.0, -1.0, 9.0, 9.0], [9.0] * 5])
    ref_logprobs = torch.tensor([[-9.0, -1.5, -2.0, -2.0, -9.0], [-1.0, 0, -4.0, 0, 0], [0.0] * 5])
    scores = torch.tensor([5.0, -2.0, 7.0])
    expected = torch.tensor(
        [[0, -0.1 * 0.5, 0, 0.1 * 1.0 + 5, 0], [0, 0, -0.1 * 3 - 2, 0, 0], [0.0] * 5]
    )
    assert_close(function(scores, logprobs, ref_logprobs, mask, kl_coef=0.1), expected)


def test_shaped_rewards_by_hand():
    check_shaped_rewards(kl_shaped_rewards)


def test_wrong_shaped_rewards_are_noticed():
    def upside_down(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        return kl_shaped_rewards(scores, ref_logprobs, logprobs, mask, kl_coef=kl_coef)

    def score_in_the_last_column(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        none = torch.zeros_like(scores)
        rewards = kl_shaped_rewards(none, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        rewards[:, -1] += scores
        return rewards

    def score_on_every_token(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        none = torch.zeros_like(scores)
        rewards = kl_shaped_rewards(none, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        return rewards + torch.where(mask, scores[:, None], 0.0)

    def penalty_on_the_prompt_too(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        rewards = kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        return torch.where(mask, rewards, -kl_coef * (logprobs - ref_logprobs))

    for wrong in (
        upside_down,
        score_in_the_last_column,
        score_on_every_token,
        penalty_on_the_prompt_too,
    ):
        with pytest.raises(AssertionError):
            check_shaped_rewards(wrong)


def test_leaving_the_reference_costs_and_is_right_on_average():
    """Over samples of the policy, the mean penalty is kl_coef times the true KL."""
    logp = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()[:, None]  # (3, 1): 3 replies
    logref = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()[:, None]
    mask, none = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, dtype=torch.float64)
    rewards = kl_shaped_rewards(none, logp, logref, mask, kl_coef=0.5)
    kl = (logp.exp() * (logp - logref)).sum()
    assert_close((logp.exp() * rewards).sum(), -0.5 * kl)
    assert kl > 0.2


def test_at_the_best_policy_all_shaped_returns_are_equal():
    """pi* ~ ref * exp(score / beta): no reply is better than another any more."""
    beta = 0.7
    scores = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64)
    logref = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    log_best = (logref + scores / beta).log_softmax(0)
    mask = torch.ones(4, 1, dtype=torch.bool)
    returns = kl_shaped_rewards(scores, log_best[:, None], logref[:, None], mask, kl_coef=beta)
    assert_close(returns, returns.mean().expand(4, 1))


def test_rewards_are_numbers_without_gradient():
    logprobs = torch.randn(2, 3, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    rewards = kl_shaped_rewards(torch.zeros(2), logprobs, torch.randn(2, 3), mask, kl_coef=1.0)
    advantages, returns = gae(rewards, logprobs, mask, gamma=1.0, lam=0.9)
    assert not any(t.requires_grad for t in (rewards, advantages, returns))


# ------------------------------------------------------------------------------------ GAE


def slow_gae(rewards, values, mask, *, gamma, lam):
    """The sum of the paper, term by term, for each row with its False places deleted."""
    advantages = torch.zeros_like(values)
    for row in range(len(mask)):
        places = mask[row].nonzero().flatten().tolist()
        r = [rewards[row, t].item() for t in places]
        v = [values[row, t].item() for t in places] + [0.0]  # nothing comes after the end
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        for t, place in enumerate(places):
            terms = [(gamma * lam) ** (k - t) * delta[k] for k in range(t, len(r))]
            advantages[row, place] = sum(terms)
    return advantages, torch.where(mask, advantages + values, 0.0)


def gae_case():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    values = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    mask = torch.zeros(5, 9, dtype=torch.bool)
    mask[0] = True
    mask[1, 3:7] = True  # a prompt before, padding behind
    mask[2, [1, 2, 5, 7]] = True  # gaps: a tool's words, for example
    mask[3, 4] = True  # one token
    return rewards, values, mask  # row 4: none


def check_gae(function):
    rewards, values, mask = gae_case()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.5, 0.0), (0.0, 0.5)):
        given = function(rewards, values, mask, gamma=gamma, lam=lam)
        for ours, slow in zip(
            given, slow_gae(rewards, values, mask, gamma=gamma, lam=lam), strict=True
        ):
            assert_close(ours, slow, atol=1e-12, rtol=0)


def test_gae_equals_the_sum_of_the_paper():
    check_gae(gae)


def test_wrong_gaes_are_noticed():
    def bootstrapped_past_the_end(rewards, values, mask, *, gamma, lam):
        """Takes the value of the padding for what comes after the end."""
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        behind = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
        rewards = rewards + torch.where(last, gamma * behind, 0.0)
        return gae(rewards, values, mask, gamma=gamma, lam=lam)

    def mask_forgotten(rewards, values, mask, *, gamma, lam):
        return gae(rewards, values, torch.ones_like(mask), gamma=gamma, lam=lam)

    def padding_only_zeroed_afterwards(rewards, values, mask, *, gamma, lam):
        advantages, returns = mask_forgotten(rewards, values, mask, gamma=gamma, lam=lam)
        return torch.where(mask, advantages, 0.0), torch.where(mask, returns, 0.0)

    def gap_cuts_the_row(rewards, values, mask, *, gamma, lam):
        zeroed = torch.where(mask, values, 0.0), torch.where(mask, rewards, 0.0)
        advantages, _ = gae(zeroed[1], zeroed[0], torch.ones_like(mask), gamma=gamma, lam=lam)
        advantages = torch.where(mask, advantages, 0.0)
        return advantages, torch.where(mask, advantages + values, 0.0)

    def whitened_inside(rewards, values, mask, *, gamma, lam):
        advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
        return whiten(advantages, mask), returns

    def returns_are_rewards_to_go(rewards, values, mask, *, gamma, lam):
        advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=lam)
        _, returns = gae(rewards, values, mask, gamma=gamma, lam=1.0)
        return advantages, returns

    for wrong in (
        bootstrapped_past_the_end,
        mask_forgotten,
        padding_only_zeroed_afterwards,
        gap_cuts_the_row,
        whitened_inside,
        returns_are_rewards_to_go,
    ):
        with pytest.raises(AssertionError):
            check_gae(wrong)


def test_gae_by_hand():
    """Reward 1 at the end; the value model guesses 0.5, 0.25, 0.75."""
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25, 0.75]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    td_errors, _ = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    assert_close(td_errors, torch.tensor([[-0.25, 0.5, 0.25]]))
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert_close(advantages, torch.tensor([[-0.25 + 0.5 * 0.625, 0.5 + 0.5 * 0.25, 0.25]]))
    assert_close(returns, advantages + values)


def test_lam_1_is_reward_to_go_minus_value():
    rewards, values, _ = gae_case()
    mask = torch.ones_like(rewards, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    reward_to_go = rewards.flip(1).cumsum(1).flip(1)
    assert_close(advantages, reward_to_go - values)
    assert_close(returns, reward_to_go)


def test_a_perfect_value_model_leaves_no_advantage():
    rewards = torch.tensor([[0.0, 0.0, 0.0, 2.0]])
    values = torch.full((1, 4), 2.0)
    advantages, _ = gae(rewards, values, torch.ones(1, 4).bool(), gamma=1.0, lam=0.95)
    assert advantages.abs().max() < 1e-6


def test_prompt_and_padding_have_no_advantage():
    rewards, values, mask = gae_case()
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


# ---------------------------------------------------------------------------- whitening


def test_whitened_advantages_have_mean_0_and_variance_1():
    advantages, _, mask = gae_case()
    advantages[~mask] = NAN
    white = whiten(advantages, mask)
    assert_close(white[mask].mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(
        white[mask].var(correction=0), torch.tensor(1.0, dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert (white[~mask] == 0).all()
    assert torch.equal(white[mask].argsort(), advantages[mask].argsort())


def test_whitening_equal_advantages_gives_zero():
    assert torch.equal(whiten(torch.full((2, 2), 3.0), torch.ones(2, 2).bool()), torch.zeros(2, 2))


# -------------------------------------------------------------------------- the value model


def test_the_value_stands_before_the_token_it_belongs_to(tiny_gpt):
    """values[t] may know tokens 0 .. t, and not token t + 1 whose advantage it is for."""
    model = ValueModel(tiny_gpt)
    with torch.no_grad():
        model.head.copy_(torch.randn(32, generator=torch.Generator().manual_seed(0)))
    tokens = torch.randint(61, (3, 10), generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(tiny_gpt.device)
    mask = torch.ones(3, 9, dtype=torch.bool, device=tokens.device)
    values = model(tokens, mask)
    assert_close(values, (tiny_gpt.hidden(tokens) @ model.head)[:, :-1], atol=1e-4, rtol=0)
    changed = tokens.clone()
    changed[:, 5] = (tokens[:, 5] + 1) % 61
    after = model(changed, mask)
    assert_close(after[:, :5], values[:, :5], atol=1e-5, rtol=0)  # before token 5 is produced
    assert ((after[:, 5:] - values[:, 5:]).abs().amax(dim=1) > 1e-2).all()
    assert torch.equal(model(tokens, torch.zeros_like(mask)), torch.zeros_like(values))


def test_a_fresh_value_model_guesses_zero(tiny_gpt):
    tokens = torch.zeros(2, 5, dtype=torch.int64, device=tiny_gpt.device)
    mask = torch.ones(2, 4, dtype=torch.bool, device=tiny_gpt.device)
    assert torch.equal(ValueModel(tiny_gpt)(tokens, mask), torch.zeros_like(mask).float())
