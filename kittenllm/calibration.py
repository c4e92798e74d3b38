"""Calibration: does "I am 80 % sure" come true in 80 of 100 cases?

One idea: put predictions of about the same size into one bin, and compare what was promised with
what came true. A reward model that is right and far too sure is a bad judge of close cases.

Letters: N predictions, P pairs. Read before: reward_model.py. Left out: bins of equal counts.
"""

import torch

from kittenllm import checks
from kittenllm.logprobs import widen


def calibration_bins(
    predicted: torch.Tensor, observed: torch.Tensor, *, bins: int = 10
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Group predictions by size: what was promised and what came true, per equal-width bin.

    predicted (N,) probabilities, observed (N,) 1.0 or 0.0 -> mean prediction, mean outcome and
    count of each bin, three times (bins,); an empty bin holds 0.

    Raises: ValueError for integer tensors, different shapes, no predictions, or a probability
    outside 0 .. 1.
    """
    checks.floats("predicted", predicted, dims=1)
    checks.floats("observed", observed, dims=1)
    checks.same_shape("predicted", predicted, "observed", observed)
    checks.count("number of predictions", len(predicted))
    checks.count("bins", bins)
    dtype = predicted.dtype
    predicted, observed = widen(predicted), widen(observed)
    for extreme in (predicted.min().item(), predicted.max().item()):
        checks.between("predicted", extreme, 0, 1)
    place = (predicted * bins).long().clamp(max=bins - 1)  # (N,) exactly 1.0 joins the last bin
    zeros = torch.zeros(bins, dtype=predicted.dtype, device=predicted.device)
    counts = zeros.index_add(0, place, torch.ones_like(predicted))
    mean_predicted = zeros.index_add(0, place, predicted) / counts.clamp(min=1)
    mean_observed = zeros.index_add(0, place, observed) / counts.clamp(min=1)
    return mean_predicted.to(dtype), mean_observed.to(dtype), counts.to(dtype)


def calibration_error(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor) -> float:
    """Expected calibration error of the predicted preference, 10 equal-width bins.

    ECE = sum over bins of (share of predictions) * |mean prediction - mean outcome|

    (Guo et al. 2017, arXiv 1706.04599, eq. 3.) Each pair is asked both ways, "is a better than b?"
    and "is b better than a?". Asked one way only, with the chosen reply always first, every
    outcome would be 1 and the number would mean nothing.

    Raises: ValueError as `calibration_bins`.
    """
    margin = widen(chosen_rewards) - widen(rejected_rewards)  # (P,)
    predicted = torch.cat([margin, -margin]).sigmoid()  # (2P,)
    observed = torch.cat([torch.ones_like(margin), torch.zeros_like(margin)])
    mean_predicted, mean_observed, counts = calibration_bins(predicted, observed)
    gaps = (mean_predicted - mean_observed).abs()  # (10,)
    return float((gaps * counts).sum() / counts.sum())
