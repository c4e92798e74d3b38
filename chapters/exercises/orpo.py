"""Exercise of section "RLHF without RL": ORPO, fine-tuning and preference in one loss.

Check your work:  python -m chapters.check orpo        The next hint:  ... orpo --hint
Read before: chapters/ch4_preferences/lesson.md. Look it up in kittenllm/orpo.py afterwards.
"""

import torch.nn.functional as F  # noqa: F401 (you may need it)
from torch import Tensor

from kittenllm import checks
from kittenllm.orpo import log1mexp  # noqa: F401 (log(1 - e^x) for x < 0, keeps its digits)


def orpo_loss(
    chosen_logprobs: Tensor, rejected_logprobs: Tensor, *, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Plain SFT on the chosen reply, and a push that makes its odds better than the rejected one's.

    log_odds(y) = log(p / (1 - p))   with   log p = mean log-prob per token of the reply
    loss = -mean log p(chosen) - weight * mean log sigmoid(log_odds(chosen) - log_odds(rejected))

    (Hong, Lee and Thorne 2024, arXiv 2403.07691, eq. 4, 6 and 7.)

    Both inputs (P,), mean log-prob per token, nats -> the loss, 0-d, the mean over pairs. A reply
    may be certain, log p = 0 or 1e-7 above it by rounding: loss and gradient stay finite. log p
    may also be -40.

    Returns the loss and metrics, 0-d and without gradient: nll (the first part of the loss),
    odds_loss (the second without its weight), margin (mean difference of the log-odds), accuracy
    (share of pairs with the better odds on the chosen reply, a tie counts half), chosen_logprob,
    rejected_logprob (means).

    Raises: ValueError for wrong shapes or dtypes, log-probs above 0, or a negative weight.
    """
    checks.pairs(chosen_logprobs=chosen_logprobs, rejected_logprobs=rejected_logprobs)
    checks.between("weight", weight, 0, float("inf"))
    for name, logprobs in (("chosen", chosen_logprobs), ("rejected", rejected_logprobs)):
        if (logprobs > 1e-3).any():  # rounding is forgiven
            highest = logprobs.max().item()
            raise ValueError(f"{name}_logprobs must not be above 0, got {highest}")
    raise NotImplementedError
