"""Rewards: what the replies of a round are worth by a rule, and what the round looked like.

A rule is a function `reward(prompt_number, reply_ids, ended) -> (reward, parts)`: the number of the
prompt in the list of prompts, the reply's tokens without its stop token, and whether it stopped by
itself. It returns what the reply is worth and a dict of parts to watch, such as
{"right": 1.0, "format": 1.0}. What a reply that was cut off is worth is the rule's decision; the
share of such replies is always reported. Prompts of several kinds have rewards of several kinds:
`mixed_reward` finds the one of a prompt by its number.

Letters: N replies = prompts x G replies per prompt; siblings stand side by side.
Read before: sampling.py. Left out: rules that run in parallel processes.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.logprobs import all_equal, kl_k1, masked_mean, sequence_logprobs, widen
from kittenllm.sampling import Rollout

Reward = Callable[[int, list[int], bool], tuple[float, dict[str, float]]]


def mixed_reward(kinds: Sequence[tuple[int, Reward]]) -> Reward:
    """One reward for prompts of several kinds: the first `count` prompts have the first reward, and
    so on. kinds: (count, reward) pairs; each reward counts its own prompts from 0.

    >>> reward = mixed_reward([(2, lambda *_: (1.0, {})), (3, lambda n, *_: (10.0 + n, {}))])
    >>> [reward(number, [], True)[0] for number in range(5)]
    [1.0, 1.0, 10.0, 11.0, 12.0]

    Raises: ValueError, when it is called, for the number of a prompt that is of no kind.
    """

    def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        first = 0
        for count, reward_of_kind in kinds:
            if first <= number < first + count:
                return reward_of_kind(number - first, reply, ended)
            first += count
        raise ValueError(f"prompt {number} is of no kind: there are {first} prompts, from 0 on")

    return reward


def score_by_rule(
    rollout: Rollout, prompt_numbers: Sequence[int], reward: Reward, *, group_size: int
) -> tuple[Tensor, dict[str, float]]:
    """Rewards (N,) of a rollout, and numbers for the curves.

    prompt_numbers holds one number per prompt; each prompt has `group_size` replies side by side.
    Keys: reward (mean), under its own name the mean of each part over the replies that have it
    (siblings have the same parts, prompts of another kind may have others), reply_tokens (mean, the
    stop token included), truncated (share that was cut off), no_signal (share of groups whose
    rewards are all equal), entropy (nats per token: -mean log p of the sampled tokens).

    Raises: ValueError if the numbers and replies do not fit, if siblings have different parts, or
    if the rule returns something else than a finite number and a dict of finite numbers.
    """
    replies = rollout.replies()
    if len(prompt_numbers) * group_size != len(replies):
        wanted = f"{len(prompt_numbers)} prompts x {group_size}"
        raise ValueError(f"{wanted} replies are expected, got {len(replies)}")
    worth, parts = [], []
    for number, (reply, ended) in enumerate(zip(replies, rollout.ended.tolist(), strict=True)):
        prompt_number = prompt_numbers[number // group_size]
        verdict = reward(prompt_number, reply, ended)
        check_verdict(verdict, f"reply {number % group_size} to prompt {prompt_number}")
        reply_reward, reply_parts = verdict
        first = parts[number - number % group_size] if number % group_size else reply_parts
        if reply_parts.keys() != first.keys():
            raise ValueError(f"parts differ: {sorted(first)} and {sorted(reply_parts)}")
        worth.append(float(reply_reward))
        parts.append(reply_parts)
    rewards = torch.tensor(worth, device=rollout.tokens.device)  # (N,)
    mask = rollout.response_mask
    numbers = {
        "reward": float(rewards.mean()),
        **{name: sum(values) / len(values) for name, values in by_name(parts).items()},
        "reply_tokens": float(mask.sum()) / len(mask),
        "truncated": 1 - float(rollout.ended.float().mean()),
        "no_signal": zero_variance_share(rewards, group_size=group_size),
        "entropy": -float(masked_mean(rollout.logprobs, mask)),
    }
    return rewards, numbers


def by_name(parts: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Name of a part -> its values, of the replies that have it."""
    found: dict[str, list[float]] = {}
    for reply_parts in parts:
        for name, value in reply_parts.items():
            found.setdefault(name, []).append(value)
    return found


def check_verdict(verdict: object, whose: str) -> None:
    """Refuse what is no (reward, parts), as from a rule that divides 0 by 0 or forgets to return.

    Raises: ValueError naming the value and the reply.
    """
    if not isinstance(verdict, tuple | list) or len(verdict) != 2:
        raise ValueError(
            f"the reward function must return (reward, parts), such as (1.0, {{}}); for {whose} it "
            f"returned {verdict!r}"
        )
    reward, parts = verdict
    if not isinstance(parts, Mapping):
        raise ValueError(f"the parts must be a dict, such as {{}}; for {whose} they are {parts!r}")
    numbers = {"reward": reward} | {f"part {name!r}": value for name, value in parts.items()}
    for name, value in numbers.items():
        if not is_finite_number(value):
            raise ValueError(f"the {name} of {whose} must be a finite number, got {value!r}")


def is_finite_number(value) -> bool:
    """Is it one number that a float32 can hold: no NaN, infinity, text, None or table?"""
    if isinstance(value, str):
        return False
    try:
        return abs(float(value)) <= torch.finfo(torch.float32).max  # False for NaN
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


# --------------------------------------------------------------------- numbers for the curves


def zero_variance_share(rewards: Tensor, *, group_size: int) -> float:
    """Share of zero-variance groups: all rewards are equal, nobody can learn from a sibling."""
    checks.floats("rewards", rewards, dims=1)
    groups = rewards.view(-1, group_size)  # (prompts, G)
    return float((groups == groups[:, :1]).all(dim=1).float().mean())


def rollout_numbers(
    rollout: Rollout, scores: Tensor, ref_logprobs: Tensor, values: Tensor, returns: Tensor
) -> dict[str, float]:
    """What a round of PPO looks like, for the curves: scores (N,), the others (N, T-1).

    Keys: score (mean), kl (to the reference: the mean over replies of the summed k1, nats),
    entropy (nats per token, estimated as -mean log p of the sampled tokens), explained_variance,
    reply_tokens (mean, the end of turn included), ended (share that stopped by itself).
    """
    mask = rollout.response_mask
    kl_per_reply = sequence_logprobs(kl_k1(rollout.logprobs, ref_logprobs), mask, reduce="sum")
    return {
        "score": float(scores.mean()),
        "kl": float(kl_per_reply.mean()),
        "entropy": -float(masked_mean(rollout.logprobs, mask)),
        "explained_variance": float(explained_variance(values, returns, mask)),
        "reply_tokens": float(mask.sum()) / len(mask),
        "ended": float(rollout.ended.float().mean()),
    }


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
