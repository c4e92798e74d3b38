"""ORPO: fine-tuning and preference in one loss, with no reference model at all.

loss = NLL(chosen) - weight * log sigmoid(log odds(chosen) - log odds(rejected))

odds(y) = p(y) / (1 - p(y)) with p(y) = exp(mean log-prob per token): how much likelier it is to
write y than not to. The first part is plain SFT on the chosen reply; it keeps the model near good
text, which is what the reference does in DPO. The second part pushes the rejected reply down.

Paper: Hong, Lee and Thorne 2024, arXiv 2403.07691, eq. 3 to 7.

At 7 billion parameters: the same loss and one model in memory. Mistral-ORPO starts from the *base*
Mistral 7B and sees the pairs of UltraFeedback alone: this loss also teaches it to chat (the paper,
section 6). Our chapter starts from the chat kitten, to compare it with DPO.

Letters: P pairs. Log-probs are means over the reply's tokens, nats per token.
Read before: sft.py, dpo.py, pairs.py. Left out: training on the prompt as well.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kittenllm import checks
from kittenllm.config import check_options, option
from kittenllm.distributed import world
from kittenllm.forward import action_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import masked_mean, sequence_logprobs, weighted, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.pairs import PreferencePair, check_pairs, comparisons, pair_rows, pairs_of_step
from kittenllm.training import Optimizer, Stopwatch, apply_gradients

ROUNDING = 1e-3  # nats: half precision may lift the mean of a sure reply's log-probs so far above 0
CERTAIN = 1e-7  # nats below 0, about the last digit of a float32: p = 1 would have infinite odds


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0 without losing digits (Maechler 2012, "Accurately computing
    log(1 - exp(-|a|))", eq. 7).

    Near 0 the subtraction 1 - e^x cancels: expm1 does not. Far below 0 e^x is tiny: log1p keeps it.
    """
    near_zero = x > -math.log(2)
    # Each branch gets a harmless input where the other one counts, or its NaN would poison the
    # gradient: 0 * NaN is NaN.
    near = torch.where(near_zero, x, -1.0)
    far = torch.where(near_zero, -1.0, x)
    return torch.where(near_zero, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))


def log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p (arXiv 2403.07691, eq. 4); p = 1 within rounding stays finite."""
    dtype = logprobs.dtype
    logprobs = widen(logprobs)
    ceiling = -min(CERTAIN, torch.finfo(logprobs.dtype).eps)
    logprobs = logprobs.clamp(max=ceiling)
    return (logprobs - log1mexp(logprobs)).to(dtype)


def orpo_loss(
    chosen_logprobs: Tensor, rejected_logprobs: Tensor, *, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean(chosen) - weight * mean log sigmoid(log_odds(chosen) - log_odds(rejected))   (eq. 6, 7)

    Both (P,), mean log-prob per token of the reply, nats -> 0-d, the mean over pairs.
    Metrics: nll (of the chosen reply, nats per token), odds_loss, margin (of the log-odds),
    accuracy (a tie counts half), chosen_logprob, rejected_logprob (means, nats per token).

    Raises: ValueError for wrong shapes or dtypes, log-probs above 0, or a negative weight.
    """
    checks.pairs(chosen_logprobs=chosen_logprobs, rejected_logprobs=rejected_logprobs)
    checks.between("weight", weight, 0, math.inf)
    for name, logprobs in (("chosen", chosen_logprobs), ("rejected", rejected_logprobs)):
        if (logprobs > ROUNDING).any():
            highest = logprobs.max().item()
            raise ValueError(f"{name}_logprobs must not be above 0, got {highest}")
    dtype = chosen_logprobs.dtype
    chosen_logprobs, rejected_logprobs = widen(chosen_logprobs), widen(rejected_logprobs)
    margin = log_odds(chosen_logprobs) - log_odds(rejected_logprobs)  # (P,) log of the odds ratio
    odds_loss = -F.logsigmoid(margin).mean()
    nll = -chosen_logprobs.mean()
    loss = nll + weighted(weight, odds_loss)
    if weight == 0:  # plain SFT: the gradient of the rejected reply is 0, whatever its log-prob
        nothing = torch.zeros_like(rejected_logprobs, dtype=torch.bool)
        loss = loss + masked_mean(rejected_logprobs, nothing)
    metrics = {
        "nll": nll,
        "odds_loss": odds_loss,
        "margin": margin.mean(),
        "accuracy": ((margin.sign() + 1) / 2).mean(),
        "chosen_logprob": chosen_logprobs.mean(),
        "rejected_logprob": rejected_logprobs.mean(),
    }
    return loss.to(dtype), {name: number.detach().to(dtype) for name, number in metrics.items()}


@dataclass(frozen=True)
class ORPOConfig:
    """Settings of ORPO. Learning rates: whoever builds the optimizer reads them."""

    weight: float = option(2.0, "weight of the odds beside fine-tuning; usually 0.1 to 4", low=0)
    steps: int = option(94, "optimizer steps", low=1)
    pairs_per_step: int = option(96, "P, pairs in a step; usually 8 to 128", low=1)
    matrix_lr: float = option(2e-4, "Muon's rate, hidden matrices; usually 1e-4 to 1e-3", above=0)
    other_lr: float = option(4e-4, "AdamW's rate, embeddings, norms; usually 1e-4 to 1e-3", above=0)
    warmup: float = option(0.05, "share of the steps with a rising rate", low=0, high=1)
    cooldown: float = option(0.5, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def train_orpo(
    policy: GPT,
    pairs: Sequence[PreferencePair],
    *,
    config: ORPOConfig,
    optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """ORPO on pairs of replies; yields one dict of numbers per step.

    To go on after a stop, restore policy and optimizer and pass the number of finished steps as
    `start_step`.

    Keys: step, loss, the metrics of `orpo_loss`, pairs, pairs_per_second, grad_norm, lr_scale,
    seconds, seconds_training.

    Raises: ValueError for pairs that cannot be trained on.
    """
    check_pairs(pairs, policy.config)
    groups = comparisons(pairs)
    for step in range(start_step, config.steps):
        watch = Stopwatch()
        scale = learning_rate_scale(
            step, config.steps, warmup=config.warmup, cooldown=config.cooldown
        )
        optimizer.set_scale(scale)
        picked = pairs_of_step(groups, step, config.pairs_per_step, generator)
        mine = world().shard(picked)  # all of them without torchrun
        tokens, mask, rows = pair_rows([pairs[i] for i in mine], pad_id=policy.config.pad_id)
        tokens, mask = tokens.to(policy.device), mask.to(policy.device)  # (N, T), (N, T-1)
        logprobs = action_logprobs(policy, tokens, mask)  # (N, T-1)
        means = sequence_logprobs(logprobs, mask, reduce="mean")  # (N,)
        chosen, rejected = means[rows.to(policy.device)].unbind(dim=1)  # (P,) each

        loss, metrics = orpo_loss(chosen, rejected, weight=config.weight)
        loss, metrics = world().average(loss, metrics, count=len(mine))
        loss.backward()
        grad_norm = apply_gradients(policy, optimizer, config.max_grad_norm)
        watch.lap("training")
        yield {
            "step": step,
            "loss": loss.item(),
            **{name: number.item() for name, number in metrics.items()},
            "pairs": len(picked),
            "pairs_per_second": len(picked) / watch.seconds["seconds"],
            "grad_norm": grad_norm,
            "lr_scale": scale,
            **watch.seconds,
        }
