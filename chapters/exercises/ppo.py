"""Exercises of section RLHF, PPO: a credit for every token, and a loss that takes small steps.

Check your work:  python -m chapters.check gae     (then ppo)
The next hint:    python -m chapters.check gae --hint
Read before: chapters/ch3_ppo/lesson.md. Look it up in kittenllm/ppo.py afterwards.

Letters: B replies, T tokens. Per-token tensors are (B, T-1): index t is about producing token
t + 1. Masks are bool; True marks the tokens of the reply. At False there may stand anything, even
NaN, and it must not matter.
"""

import torch
from torch import Tensor

from kittenllm import checks


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation: how much better than expected did it go from here on?

    delta_t     = reward_t + gamma * value_{t+1} - value_t
    advantage_t = delta_t + gamma * lam * advantage_{t+1}

    (Schulman et al. 2015, arXiv 1506.02438, eq. 16, computed from the end.)

    rewards, values and mask (B, T-1) -> advantages and returns, each (B, T-1). returns =
    advantages + values. Both are 0 outside the mask and carry no gradient. After the last True of
    a row comes nothing: value and advantage are 0 there. A False between two Trues is skipped as
    if it were deleted: "t + 1" means the next True.

    By hand: rewards [0, 1], values [0.5, 0.5], gamma = lam = 1 give advantages [0.5, 0.5].

    Raises: ValueError for wrong shapes or dtypes, or gamma or lam outside 0 .. 1.
    """
    checks.frames(mask, rewards=rewards, values=values)
    checks.between("gamma", gamma, 0, 1)
    checks.between("lam", lam, 0, 1)
    rewards = torch.where(mask, rewards, 0.0).detach()  # NaN outside the mask is gone
    values = torch.where(mask, values, 0.0).detach()
    raise NotImplementedError


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_eps: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make good tokens likelier and bad ones less likely, but not by more than a factor 1 +- eps.

    loss = -mean min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A),   ratio = p / p_old

    (Schulman et al. 2017, arXiv 1707.06347, eq. 7.)

    All (B, T-1) -> the loss, 0-d: the mean over all counted tokens of the batch; 0 if none counts.
    No gradient reaches old_logprobs or advantages. Put zeros where the mask is False *before* you
    take exp: NaN * 0 is NaN.

    Returns the loss and two metrics, means over the counted tokens, 0-d and without gradient:
    clip_fraction  share of ratios further than eps from 1
    approx_kl      ratio - 1 - log ratio (Schulman's k3): how far the policy has moved

    Raises: ValueError for wrong shapes or dtypes, or clip_eps not above 0.
    """
    checks.frames(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    checks.positive("clip_eps", clip_eps)
    raise NotImplementedError
