"""GRPO: several replies to one prompt judge each other. No reward model, no value model.

advantage_i = (reward_i - mean of the group) / (std of the group)

A reply that did better than its siblings becomes likelier, a worse one less likely; every token of
a reply gets the reply's advantage. Rewards are rules: right answer, right format. A group in which
all replies earned the same teaches nothing and costs nothing: its rows are skipped.

Papers: GRPO: DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, eq. 3 (its KL term: eq. 4, which is
k3). DAPO, Yu et al. 2025, arXiv 2503.14476, sections 3.1 (a higher upper clip) and 3.3 (mean over
tokens). Dr. GRPO, Liu et al. 2025, arXiv 2503.20783, section 3.2 (no std, a constant divisor).

Letters: N replies = prompts x G replies per prompt, T tokens; per-token tensors are (N, T-1),
index t is about producing token t + 1. Siblings stand side by side.
Read before: ppo.py, sampling.py. Left out: dynamic sampling until every group has a signal,
penalties for length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.gpt import GPT
from kittenllm.logprobs import action_logprobs, kl_k3, length_chunks, masked_mean
from kittenllm.optim import learning_rate_scale
from kittenllm.sampling import Rollout, generate
from kittenllm.training import Optimizer, Stopwatch, apply_gradients, mean_numbers, rows_of_step


def group_advantages(
    rewards: Tensor, *, group_size: int, normalize_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """(reward - mean of its group) / (std of its group + eps): (N,) -> (N,).

    Replies 0 .. G-1 are the first group, and so on. The std is the unbiased one, over G - 1.
    Equal rewards give exactly 0. normalize_std=False leaves out the division (Dr. GRPO): a group
    in which one reply differs by a hair is then not blown up to full size.

    Raises: ValueError for integer rewards, or a group_size below 2 or not dividing N.
    """
    checks.check_float_tensor("rewards", rewards, dims=1)
    checks.check_count("group_size", group_size, low=2)
    checks.check_between("eps", eps, 0, float("inf"))
    if len(rewards) % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {len(rewards)} rewards")
    groups = rewards.detach().view(-1, group_size)  # (N/G, G)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalize_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    # 0.1 minus the mean of equal 0.1s is not 0 in float32: equal is a rule, not a result.
    all_equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # (N/G, 1)
    return torch.where(all_equal, 0.0, advantages).flatten()


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    normalize: str = "reply",
    max_tokens: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(ratio * A, clip(ratio, 1 - eps, 1 + eps_high) * A) + kl_coef * k3, averaged over tokens.

    advantages (N,), the others (N, T-1) -> 0-d (arXiv 2402.03300, eq. 3). How tokens are averaged:

    "reply"     mean of each reply, then over all N replies (DeepSeekMath). A token of a long reply
                weighs less: long wrong replies are hardly punished, so wrong replies grow longer.
    "token"     mean over all tokens of the batch (DAPO). Each token weighs the same; long replies
                decide more.
    "constant"  sum / (N * max_tokens) (Dr. GRPO). Each token weighs the same, in every batch.

    Metrics: clip_fraction, approx_kl (to the old policy, k3), ratio (mean), kl (to the reference, k3,
    0 without one), all per token.

    Raises: ValueError for wrong shapes or dtypes, clip_eps not above 0, an unknown normalize,
    "constant" without max_tokens, or kl_coef above 0 without ref_logprobs.
    """
    check_grpo_arguments(logprobs, old_logprobs, advantages, mask, ref_logprobs)
    check_grpo_settings(clip_eps, clip_eps_high, kl_coef, normalize)
    high = clip_eps if clip_eps_high is None else clip_eps_high
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)  # (N, T-1)
    ratio = log_ratio.exp()
    token_advantages = advantages.detach()[:, None]  # (N, 1) one for all tokens of a reply
    plain = ratio * token_advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + high) * token_advantages
    token_losses = -torch.minimum(plain, clipped)  # (N, T-1)
