"""Credit: how can one score for a whole reply change the weight of each token?

Three steps. (1) Rewards: every token pays for leaving the reference model, and the last one gets
the score. (2) A value model guesses, before each token, what is still to come. (3) If the guess
after a token is better than the one before it, that token was a good idea: the difference is its
TD error. GAE adds up the TD errors from the token on, later ones counting less and less.

Papers: KL penalty per token: Ziegler et al. 2019, arXiv 1909.08593, eq. 2. GAE: Schulman et al.
2015, arXiv 1506.02438, eq. 16.

Letters: B replies, T tokens; per-token tensors are (B, T-1), index t is about producing token
t + 1. Rewards and values share the score's unit; log-probs and KL are in nats.
Read before: logprobs.py, reward_model.py. Left out: weights shared by policy and value model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kittenllm import checks
from kittenllm.forward import action_hidden, to_action_frame
from kittenllm.gpt import GPT
from kittenllm.logprobs import all_equal, kl_k1, masked_mean, sequence_logprobs, weighted, widen
from kittenllm.sampling import Rollout


def kl_shaped_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kl_coef: float
) -> Tensor:
    """One reward per token: -kl_coef * (log p_t - log ref_t), and the score on the last token.

    scores (B,), the others (B, T-1) -> (B, T-1), 0 outside the mask. "Last" is the last True of
    the row; a row without a True drops its score. No gradient flows through rewards. kl_coef = 0
    switches the penalty off, whatever the log-probs are.

    Raises: ValueError for wrong shapes or dtypes, or a negative kl_coef.
    """
    checks.frames(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    checks.rows("scores", scores, mask)
    checks.between("kl_coef", kl_coef, 0, float("inf"))
    dtype = torch.promote_types(scores.dtype, logprobs.dtype)
    scores, logprobs, ref_logprobs = widen(scores), widen(logprobs), widen(ref_logprobs)
    kl = torch.where(mask, kl_k1(logprobs, ref_logprobs), 0.0).detach()  # (B, T-1) nats
    trues_from_here = mask.flip(1).cumsum(1).flip(1)  # (B, T-1) this one and later ones
    is_last = mask & (trues_from_here == 1)
    score_at_end = torch.where(is_last, scores.detach()[:, None], 0.0)
    return (score_at_end - weighted(kl_coef, kl)).to(dtype)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (arXiv 1506.02438, eq. 16, computed from the end).

    delta_t = reward_t + gamma * value_{t+1} - value_t
    advantage_t = delta_t + gamma * lam * advantage_{t+1}

    All (B, T-1) -> advantages, and returns = advantages + values; 0 outside the mask. After the
    last True comes nothing: value and advantage are 0 there. A False between two Trues is skipped
    as if it were deleted. lam = 0 gives the TD error, lam = 1 the reward to go minus the value.

    Raises: ValueError for wrong shapes or dtypes, or gamma or lam outside 0 .. 1.
    """
    checks.frames(mask, rewards=rewards, values=values)
    checks.between("gamma", gamma, 0, 1)
    checks.between("lam", lam, 0, 1)
    dtype = values.dtype
    rewards, values = widen(rewards), widen(values)
    rewards = torch.where(mask, rewards, 0.0).detach()
    values = torch.where(mask, values, 0.0).detach()
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(len(values))  # (B,)
    next_advantage = values.new_zeros(len(values))  # (B,)
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
        if gamma * lam > 0:  # else it is never looked at, and stays 0: 0 * inf would be NaN
            next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        if gamma > 0:
            next_value = torch.where(mask[:, t], values[:, t], next_value)
    return advantages.to(dtype), (advantages + values).to(dtype)


@dataclass(frozen=True)
class Credit:
    """What every token of a batch of replies gets: (B, T-1) each, except scores (B,)."""

    scores: Tensor  # one number per reply
    kl_penalty: Tensor  # -kl_coef * (log p - log ref)
    rewards: Tensor  # kl_penalty, and the score on the last token
    values: Tensor  # what the value model guessed before the token
    td_errors: Tensor  # the surprise of this one token
    advantages: Tensor  # GAE: the surprises from here on
    returns: Tensor  # what the value model should have guessed


def token_credit(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    gamma: float,
    lam: float,
) -> Credit:
    """From one score per reply to a credit per token: what PPO trains on and the chapter draws.

    scores (B,), the others (B, T-1). Raises: ValueError as the two functions above.
    """
    no_scores = torch.zeros_like(scores)
    kl_penalty = kl_shaped_rewards(no_scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    rewards = kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    td_errors, _ = gae(rewards, values, mask, gamma=gamma, lam=0.0)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    return Credit(scores, kl_penalty, rewards, values, td_errors, advantages, returns)


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the counted advantages of the batch to mean 0, variance 1; 0 elsewhere.

    The size of a step then no longer depends on how large the scores happen to be. Equal
    advantages give exactly 0: no token was better than another.

    Raises: ValueError for wrong shapes or dtypes.
    """
    checks.frames(mask, advantages=advantages)
    wide_advantages = widen(advantages)
    centred = torch.where(mask, wide_advantages - masked_mean(wide_advantages, mask), 0.0)
    deviation = masked_mean(centred.square(), mask).sqrt()
    white = torch.where(all_equal(advantages, mask), 0.0, centred / (deviation + 1e-8))
    return white.to(advantages.dtype)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the counted tokens, 0-d.

    1: the value model guessed everything; 0: no better than a constant; below 0: worse. Equal
    returns leave nothing to explain and give 0.
    """
    checks.frames(mask, values=values, returns=returns)
    dtype = returns.dtype
    values, returns = widen(values), widen(returns)
    errors = returns - values
    error_variance = masked_mean((errors - masked_mean(errors, mask)).square(), mask)
    variance = masked_mean((returns - masked_mean(returns, mask)).square(), mask)
    nothing = all_equal(returns, mask) | (variance == 0)  # a spread can be too small to be squared
    return torch.where(nothing, 0.0, 1 - error_variance / variance).to(dtype)


class ValueModel(nn.Module):
    """Guesses, before each token is produced, the reward still to come. It has a GPT of its own.

    Hand over a copy of the reward model's GPT: it knows what replies are worth. The head starts
    at zero.
    """

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt
        zeros = torch.zeros(gpt.config.channels, device=gpt.device, dtype=gpt.dtype)
        self.head = nn.Parameter(zeros)  # (C,)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, T), mask (B, T-1) -> values (B, T-1), 0 outside the mask."""
        hidden = action_hidden(self.gpt, tokens, mask)  # (n, C) before each counted token
        return to_action_frame(hidden @ self.head, mask)


def rollout_numbers(rollout: Rollout, ref_logprobs: Tensor, credit: Credit) -> dict[str, float]:
    """What a round of replies looks like, for the curves.

    Keys: score (mean), kl (to the reference: the mean over replies of the summed k1, nats),
    entropy (nats per token, estimated as -mean log p of the sampled tokens), explained_variance,
    reply_tokens (mean, the end of turn included), ended (share that stopped by itself).
    """
    mask = rollout.response_mask
    kl_per_reply = sequence_logprobs(kl_k1(rollout.logprobs, ref_logprobs), mask, reduce="sum")
    return {
        "score": float(credit.scores.mean()),
        "kl": float(kl_per_reply.mean()),
        "entropy": -float(masked_mean(rollout.logprobs, mask)),
        "explained_variance": float(explained_variance(credit.values, credit.returns, mask)),
        "reply_tokens": float(mask.sum()) / len(mask),
        "ended": float(rollout.ended.float().mean()),
    }
