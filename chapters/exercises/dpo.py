"""Exercises of section "RLHF without RL": DPO and IPO, two losses over pairs of replies.

Check your work:  python -m chapters.check dpo     (then ipo)
The next hint:    python -m chapters.check dpo --hint
Read before: chapters/ch4_preferences/lesson.md. Look it up in kittenllm/dpo.py afterwards.

Letters: P pairs. All four inputs are (P,): log p(reply | prompt), summed over the reply, in nats;
those that begin with ref_ come from the frozen reference model.
"""

import torch.nn.functional as F  # noqa: F401 (you may need it)
from torch import Tensor

from kittenllm import checks
from kittenllm.dpo import preference_metrics


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reward-model loss, where the reward is hidden in the policy: r = beta * log(p / ref).

    margin = beta * (log(p/ref)(chosen) - log(p/ref)(rejected))
    loss   = -mean log sigmoid(margin)              (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)

    With label_smoothing s, a share of labels believed wrong (Mitchell 2023, "cDPO", eq. 3):
    loss   = -mean [(1 - s) * log sigmoid(margin) + s * log sigmoid(-margin)]

    All (P,) -> the loss, 0-d, the mean over pairs: log 2 where policy = reference. No gradient
    reaches the reference's log-probs. The metrics are given: return (loss, metrics).

    Raises: ValueError for wrong shapes or dtypes, beta not above 0, or label_smoothing outside
    [0, 0.5).
    """
    checks.positive("beta", beta)
    checks.between("label_smoothing", label_smoothing, 0, 0.5, include_high=False)
    checks.pairs(
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    logprobs = (chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs)
    metrics = preference_metrics(*logprobs, beta=beta)  # noqa: F841 (given)
    raise NotImplementedError


def ipo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Like DPO, but the distance between chosen and rejected has a goal and stops there.

    h    = log(p/ref)(chosen) - log(p/ref)(rejected)
    loss = mean (h - 1 / (2 beta))^2                   (Azar et al. 2023, arXiv 2310.12036, eq. 17)

    All (P,) -> the loss, 0-d, the mean over pairs: 1 / (4 beta^2) where policy = reference. No
    gradient reaches the reference's log-probs. The metrics are given: return (loss, metrics).

    Raises: ValueError for wrong shapes or dtypes, or beta not above 0.
    """
    checks.positive("beta", beta)
    checks.pairs(
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    logprobs = (chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs)
    metrics = preference_metrics(*logprobs, beta=beta)  # noqa: F841 (given)
    raise NotImplementedError
