"""Judging: several replies to each prompt, a rule that says what each is worth, and a comparison.

A rule is a function `reward(prompt_number, reply_ids, ended) -> (reward, parts)`: the number of the
prompt in the list of prompts, the reply's tokens without its stop token, and whether it stopped by
itself. It returns what the reply is worth and a dict of parts to watch, such as
{"right": 1.0, "format": 1.0}. What a reply that was cut off is worth is the rule's decision; the
share of such replies is always reported.

The comparison: a reply that did better than its siblings gets a positive advantage (DeepSeekMath,
Shao et al. 2024, arXiv 2402.03300, section 4.1.2).

Letters: N replies = prompts x G replies per prompt; siblings stand side by side.
Read before: sampling.py. Left out: rules that run in parallel processes.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.logprobs import masked_mean, widen
from kittenllm.sampling import Rollout

Reward = Callable[[int, list[int], bool], tuple[float, dict[str, float]]]


def judge(
    rollout: Rollout, prompt_numbers: Sequence[int], reward: Reward, *, group_size: int
) -> tuple[Tensor, dict[str, float]]:
    """Rewards (N,) of a rollout, and numbers for the curves.

    prompt_numbers holds one number per prompt; each prompt has `group_size` replies side by side.
    Keys: reward (mean), the mean of each part under its own name, reply_tokens (mean, the stop
    token included), truncated (share that was cut off), no_signal (share of groups whose rewards
    are all equal), entropy (nats per token, estimated as -mean log p of the sampled tokens).

    Raises: ValueError if the numbers and replies do not fit, if replies have different parts, or if
    the rule returns something else than a finite number and a dict of finite numbers.
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
        if parts and reply_parts.keys() != parts[0].keys():
            raise ValueError(f"parts differ: {sorted(parts[0])} and {sorted(reply_parts)}")
        worth.append(float(reply_reward))
        parts.append(reply_parts)
    rewards = torch.tensor(worth, device=rollout.tokens.device)  # (N,)
    mask = rollout.response_mask
    numbers = {
        "reward": float(rewards.mean()),
        **{name: sum(part[name] for part in parts) / len(parts) for name in parts[0]},
        "reply_tokens": float(mask.sum()) / len(mask),
        "truncated": 1 - float(rollout.ended.float().mean()),
        "no_signal": no_signal(rewards, group_size=group_size),
        "entropy": -float(masked_mean(rollout.logprobs, mask)),
    }
    return rewards, numbers


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


def is_finite_number(value: object) -> bool:
    """Is it one number that a float32 can hold: no NaN, infinity, text, None or table?"""
    if isinstance(value, str):
        return False
    try:
        return abs(float(value)) <= torch.finfo(torch.float32).max  # False for NaN
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def group_advantages(
    rewards: Tensor, *, group_size: int, normalize_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """(reward - mean of its group) / (std of its group + eps): (N,) -> (N,).

    Replies 0 .. G-1 are the first group, and so on. The std is the unbiased one, over G - 1.
    Equal rewards give exactly 0. normalize_std=False leaves out the division (Dr. GRPO): a group
    in which one reply differs by a hair is then not blown up to full size.

    Raises: ValueError for integer rewards, or a group_size below 2 or not dividing N.
    """
    checks.floats("rewards", rewards, dims=1)
    checks.count("group_size", group_size, low=2)
    checks.between("eps", eps, 0, float("inf"))
    if len(rewards) % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {len(rewards)} rewards")
    rewards, dtype = widen(rewards), rewards.dtype
    groups = rewards.detach().view(-1, group_size)  # (N/G, G)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalize_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    # 0.1 minus the mean of equal 0.1s is not 0 in float32: equal is a rule, not a result.
    all_equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # (N/G, 1)
    return torch.where(all_equal, 0.0, advantages).flatten().to(dtype)


def no_signal(rewards: Tensor, *, group_size: int) -> float:
    """Share of groups whose rewards are all equal: nobody there can learn from a sibling."""
    checks.floats("rewards", rewards, dims=1)
    groups = rewards.view(-1, group_size)  # (prompts, G)
    return float((groups == groups[:, :1]).all(dim=1).float().mean())
