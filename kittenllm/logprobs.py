"""Log-probabilities of tokens: the one place where "logits" become "about producing a token".

The alignment rule. The logits at position t are the model's opinion about the token at t + 1.
The shift happens here and nowhere else. Everything made here is in the *action frame*: a tensor
(B, T-1) whose index t is about producing `tokens[:, t + 1]`. Nothing produces the first token.

KL estimators: John Schulman, "Approximating KL Divergence" (2020),
http://joschu.net/blog/kl-approx.html. With r = ref / policy for a token sampled from the policy:
k1 = -log r, k2 = (log r)^2 / 2, k3 = (r - 1) - log r.

Everything here is arithmetic on tensors: no model. What a model makes of tokens is in forward.py.

Letters: B batch, T tokens, V vocabulary, n counted positions. Log-probabilities and entropies are
in nats. Masks are bool, True means "counts".
Read before: nothing. Left out: kernels that never store all log-probs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kittenllm import checks

# ------------------------------------------------------------------ from logits to log-probs


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability that the model gave to each token when it had read the ones before it.

    logprobs[b, t] = log softmax(logits[b, t])[tokens[b, t + 1]]

    logits (B, T, V) float, tokens (B, T) integer -> (B, T-1) nats. Half and bfloat16 logits are
    turned into float32 first, since sums of many log-probs need the digits; float64 stays.

    Raises: ValueError for wrong shapes or dtypes, or a token id outside 0 .. V-1.
    """
    checks.floats("logits", logits, dims=3)
    checks.token_ids("tokens", tokens, logits.shape[-1])
    if tokens.shape != logits.shape[:2]:
        raise ValueError(
            f"tokens must have shape {tuple(logits.shape[:2])} like the logits, "
            f"got {tuple(tokens.shape)}"
        )
    producing = logits[:, :-1]  # (B, T-1, V) what was known before each token
    produced = tokens[:, 1:]  # (B, T-1) what came
    return pick_logprobs(producing, produced)


def pick_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits) at the target ids, with no shift: (..., V), (...) -> (...)."""
    all_logprobs = F.log_softmax(widen(logits), dim=-1)  # (..., V)
    picked = all_logprobs.gather(-1, targets.long().unsqueeze(-1))  # (..., 1)
    return picked.squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """How undecided the next-token distribution is: (B, T, V) -> (B, T), nats.

    H = -sum_v p(v) log p(v): 0 when one token is certain, log V when all are equally likely.

    Raises: ValueError for logits that are not float, or not of three dimensions.
    """
    checks.floats("logits", logits, dims=3)
    all_logprobs = F.log_softmax(widen(logits), dim=-1)
    probs = all_logprobs.exp()
    # A forbidden token has p = 0 and log p = -inf; its share of the entropy is 0, not NaN.
    all_logprobs = torch.where(probs > 0, all_logprobs, 0.0)
    return -(probs * all_logprobs).sum(dim=-1).to(logits.dtype)


# ------------------------------------------------------- numbers that a float cannot hold


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for half and bfloat16, which lose count early."""
    return torch.promote_types(dtype, torch.float32)


def widen(values: Tensor) -> Tensor:
    """The same values with room for sums: half and bfloat16 as float32, others as they are."""
    return values.to(wide(values.dtype))


def weighted(coefficient: float, term: Tensor) -> Tensor:
    """coefficient * term. A coefficient of 0 switches the term off: 0 even if the term is infinite,
    where the product would be NaN.
    """
    return coefficient * term if coefficient != 0 else torch.zeros_like(term)


def all_equal(values: Tensor, mask: Tensor) -> Tensor:
    """Are the counted values equal, but for the last digits? 0-d bool; True if none is counted.

    Equal is a rule and not a result: 0.1 minus the mean of equal 0.1s is not 0 in float32, and
    division by the spread would make a full-size signal of that. Two sums of the same numbers in
    another order differ in the last digits, too; so does value + (0.7 - value) from 0.7.
    """
    counted = widen(values)[mask]  # (n,)
    if len(counted) == 0:
        return torch.tensor(True, device=values.device)
    # One rounding is half an eps of the largest number; 8 eps leave room for 16 in a row.
    rounding = 8 * torch.finfo(counted.dtype).eps * counted.abs().max()
    return counted.max() - counted.min() <= rounding


# ------------------------------------------------------------------------ sums over a mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is True: any shape -> 0-d. An empty mask gives 0.

    Raises: ValueError for integer values, or a mask that is not bool or of another shape.
    """
    checks.floats("values", values)
    checks.bool_mask("mask", mask, values.shape)
    kept = torch.where(mask, values, 0.0)  # what is masked out may even be NaN
    total = kept.sum(dtype=wide(values.dtype))
    return (total / mask.sum().clamp(min=1)).to(values.dtype)


def sequence_logprobs(logprobs: Tensor, mask: Tensor, *, reduce: str) -> Tensor:
    """One number per row: the log-probability of the whole reply, or its mean per token.

    logprobs (B, T-1), mask (B, T-1) -> (B,) nats. reduce "sum" gives log p(reply | prompt), which
    is what DPO needs; "mean" divides by the reply's length. A row without a True gives 0.

    Raises: ValueError for wrong shapes or dtypes, or an unknown `reduce`.
    """
    checks.floats("logprobs", logprobs, dims=2)
    checks.bool_mask("mask", mask, logprobs.shape)
    checks.one_of("reduce", reduce, ("sum", "mean"))
    totals = torch.where(mask, logprobs, 0.0).sum(dim=1, dtype=wide(logprobs.dtype))  # (B,)
    if reduce == "mean":
        totals = totals / mask.sum(dim=1).clamp(min=1)
    return totals.to(logprobs.dtype)


def average(
    values: Tensor, mask: Tensor, *, normalize: str, max_tokens: int | None = None
) -> Tensor:
    """One number from a loss per token, (B, T-1) -> 0-d, in one of three ways.

    "token" divides the sum by all counted tokens of the batch; "reply" takes the mean of each row
    and then of the B rows, an empty row counting as 0; "constant" divides by B * max_tokens.

    Raises: ValueError for wrong shapes or dtypes, an unknown normalize, or "constant" without a
    whole max_tokens of at least 1.
    """
    checks.floats("values", values)
    checks.one_of("normalize", normalize, ("reply", "token", "constant"))
    if normalize == "token":
        return masked_mean(values, mask)
    rows = max(1, len(mask))
    if normalize == "reply":
        mean = sequence_logprobs(widen(values), mask, reduce="mean").sum() / rows
    else:
        checks.count("max_tokens", max_tokens)
        assert max_tokens is not None  # refused already
        mean = sequence_logprobs(widen(values), mask, reduce="sum").sum() / (rows * max_tokens)
    return mean.to(values.dtype)


# ------------------------------------------------------- how far apart two models are (KL)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = log p - log ref per token: right on average over samples of p, but may be negative.

    Use it as a number, for example in a reward. As a *loss* it is useless: over samples of p its
    gradient is zero on average, because the mean of grad log p is zero.

    Raises: ValueError for different shapes or integer tensors.
    """
    checks.floats("logprobs", logprobs)
    checks.floats("ref_logprobs", ref_logprobs)
    checks.same_shape("logprobs", logprobs, "ref_logprobs", ref_logprobs)
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = (log p - log ref)^2 / 2 per token: never negative, a little biased as a number.

    Raises: ValueError for different shapes or integer tensors.
    """
    log_ratio = kl_k1(logprobs, ref_logprobs)
    return (0.5 * widen(log_ratio).square()).to(log_ratio.dtype)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = (r - 1) - log r with r = ref / p: never negative, and right on average.

    Where r is beyond what a float can hold, k3 is infinite, as is right.

    Raises: ValueError for different shapes or integer tensors.
    """
    log_r = -kl_k1(logprobs, ref_logprobs)
    return excess(widen(log_r)).to(log_r.dtype)


def excess(log_r: Tensor) -> Tensor:
    """e^x - 1 - x, how far the exponential is above its tangent at 0; infinite for x = inf."""
    log_r = log_r.clamp(max=torch.finfo(log_r.dtype).max)  # inf - inf is NaN
    return torch.expm1(log_r) - log_r  # expm1(x) = e^x - 1 keeps its digits near 0
