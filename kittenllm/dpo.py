"""DPO and IPO: learn from preferences directly, with no reward model and no sampling.

The trick of DPO: the best policy for a reward r, when leaving the reference costs beta per nat, is
pi*(y|x) ~ ref(y|x) exp(r(x, y) / beta). Read backwards, every policy *is* a reward model:
r = beta * log(policy / reference), up to a constant. Put that reward into Bradley and Terry's loss
and train the policy as if it were the reward model.

IPO keeps the same log-ratios but aims at a fixed distance between them, 1 / (2 beta), instead of
pushing them apart for ever: when all labels agree, DPO's reward has no upper end.

Papers: DPO, Rafailov et al. 2023, arXiv 2305.18290, eq. 7; its label smoothing ("cDPO"): Mitchell
2023, https://ericmitchell.ai/cdpo.pdf, eq. 3; IPO, Azar et al. 2023, arXiv 2310.12036, eq. 17,
whose tau is our beta.

At 7 billion parameters: the same loss at a far lower rate. Zephyr's rate was 5e-7, beta 0.1, on
about 64,000 pairs; 16 GPUs took 2 to 4 hours (Tunstall et al. 2023, arXiv 2310.16944, section 4).
There, too, the reference's log-probs can be made once and kept: no second model in memory.

Letters: P pairs, T tokens. Log-probs are summed over the reply, in nats: the mean would be another
model. Read before: reward_model.py, pairs.py. Left out: an extra SFT term on the chosen reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kittenllm import checks
from kittenllm.config import check_options, option
from kittenllm.distributed import world
from kittenllm.forward import LARGE_VOCABULARY, action_logprobs, length_chunks
from kittenllm.gpt import GPT
from kittenllm.logprobs import sequence_logprobs, weighted, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.pairs import PreferencePair, check_pairs, comparisons, pair_rows, pairs_of_step
from kittenllm.training import Means, Optimizer, Stopwatch, apply_gradients, as_many

# Of the reference: large passes are fast, all pairs at once would fill memory; with a large
# vocabulary the logits of a few already do.
PAIRS_PER_PASS, FEW_PAIRS = 256, 4


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean log sigmoid(beta * (log(p/ref)(chosen) - log(p/ref)(rejected)))    (eq. 7 of DPO)

    All (P,) summed log-probs, nats -> 0-d, the mean over pairs; log 2 where policy = reference.
    label_smoothing: the share of labels believed to be wrong, 0 to below 0.5; the loss then also
    pulls a little the other way.
    Metrics: see `preference_metrics`.

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
    policy_margin = widen(chosen_logprobs) - widen(rejected_logprobs)  # (P,) hover here
    reference_margin = (widen(ref_chosen_logprobs) - widen(ref_rejected_logprobs)).detach()
    margin = beta * (policy_margin - reference_margin)  # difference of the hidden rewards
    label_right = -F.logsigmoid(margin)  # the surprise if the label is right
    label_wrong = -F.logsigmoid(-margin)  # and if it was flipped
    losses = (1 - label_smoothing) * label_right + weighted(label_smoothing, label_wrong)
    metrics = preference_metrics(
        chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, beta=beta
    )
    return losses.mean().to(chosen_logprobs.dtype), metrics


def ipo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean (h - 1 / (2 beta))^2, h = log(p/ref)(chosen) - log(p/ref)(rejected)  (eq. 17 of IPO)

    All (P,) summed log-probs, nats -> 0-d, the mean over pairs; 1 / (4 beta^2) where policy =
    reference. A square has an end: once h is 1 / (2 beta), nothing pulls any more.
    Metrics: see `preference_metrics`.

    Raises: ValueError for wrong shapes or dtypes, or beta not above 0.
    """
    checks.positive("beta", beta)
    checks.pairs(
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    policy_margin = widen(chosen_logprobs) - widen(rejected_logprobs)  # (P,) hover here
    reference_margin = (widen(ref_chosen_logprobs) - widen(ref_rejected_logprobs)).detach()
    gap = policy_margin - reference_margin  # (P,) h, nats
    target = 1 / (2 * beta)
    losses = (gap - target).square()
    metrics = preference_metrics(
        chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, beta=beta
    )
    return losses.mean().to(chosen_logprobs.dtype), metrics


@torch.no_grad()
def preference_metrics(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
) -> dict[str, Tensor]:
    """The rewards hidden in the policy, beta * log(p / ref), and what they say about the pairs.

    Keys: chosen_reward, rejected_reward, margin (their difference), accuracy (share of pairs with
    the higher reward on the chosen reply, a tie counts half), chosen_logprob and rejected_logprob
    (means of the sums, nats): watch them apart, both may fall.

    All (P,), as `dpo_loss` has checked them.
    """
    chosen_rewards = beta * (widen(chosen_logprobs) - ref_chosen_logprobs)  # (P,)
    rejected_rewards = beta * (widen(rejected_logprobs) - ref_rejected_logprobs)  # (P,)
    margin = chosen_rewards - rejected_rewards  # (P,)
    metrics = {
        "chosen_reward": chosen_rewards.mean(),
        "rejected_reward": rejected_rewards.mean(),
        "margin": margin.mean(),
        "accuracy": ((margin.sign() + 1) / 2).mean(),
        "chosen_logprob": chosen_logprobs.mean(),
        "rejected_logprob": rejected_logprobs.mean(),
    }
    return {name: number.to(chosen_logprobs.dtype) for name, number in metrics.items()}


def pair_logprobs(gpt: GPT, pairs: Sequence[PreferencePair]) -> Tensor:
    """Summed log-probs of the replies: P pairs -> (P, 2), chosen and rejected, nats.

    One forward pass reads all N different replies and makes logits for replies only.
    """
    tokens, mask, rows = pair_rows(pairs, pad_id=gpt.config.pad_id)  # (N, T), (N, T-1), (P, 2)
    tokens, mask = tokens.to(gpt.device), mask.to(gpt.device)
    sums = sequence_logprobs(action_logprobs(gpt, tokens, mask), mask, reduce="sum")  # (N,)
    return sums[rows.to(gpt.device)]


def pair_shares(
    pairs: Sequence[PreferencePair], picked: list[int], tokens_per_pass: int | None
) -> list[tuple[list[int], float]]:
    """The picked pairs in parts of at most `tokens_per_pass` tokens, both replies counted, each
    with its share of the mean over the pairs of all processes; None: all at once."""
    weight = world().weight(len(picked))
    if tokens_per_pass is None:
        return [(picked, weight)]
    read = [pairs[i] for i in picked]
    lengths = [2 * (len(p.prompt) + max(len(p.chosen), len(p.rejected))) for p in read]
    chunks = length_chunks(lengths, max_tokens=tokens_per_pass)
    shares = [([picked[i] for i in chunk], weight * len(chunk) / len(picked)) for chunk in chunks]
    return as_many(shares, picked[:1])


@torch.no_grad()
def reference_logprobs(reference: GPT, pairs: Sequence[PreferencePair]) -> Tensor:
    """`pair_logprobs` of the frozen reference for all pairs, made once and kept: (P, 2).

    The reference never changes, so neither do its log-probs: no second model during training.

    Raises: ValueError for pairs that cannot be trained on, see `check_pairs`.
    """
    check_pairs(pairs, reference.config)
    few = PAIRS_PER_PASS if reference.config.vocab_size < LARGE_VOCABULARY else FEW_PAIRS
    parts = [pairs[start : start + few] for start in range(0, len(pairs), few)]
    return torch.cat([pair_logprobs(reference, part) for part in parts])


@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO and IPO. Learning rates: whoever builds the optimizer reads them."""

    loss: str = option("dpo", "dpo or ipo", choices=("dpo", "ipo"))
    beta: float = option(0.15, "price of one nat away from the reference", above=0)
    label_smoothing: float = option(0.0, "share of labels believed wrong (DPO)", low=0, below=0.5)
    steps: int = option(94, "optimizer steps", low=1)
    pairs_per_step: int = option(96, "P, pairs in a step; usually 8 to 128", low=1)
    matrix_lr: float | None = option(
        1.5e-4,
        "Muon's rate, hidden matrices; usually 1e-4 to 1e-3; none: AdamW there too",
        above=0,
    )
    other_lr: float = option(4e-4, "AdamW's rate, embeddings, norms; usually 1e-4 to 1e-3", above=0)
    warmup: float = option(0.05, "share of the steps with a rising rate", low=0, high=1)
    cooldown: float = option(0.5, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)
        if self.loss == "ipo" and self.label_smoothing > 0:
            raise ValueError(f"ipo has no label_smoothing, got {self.label_smoothing}; use 0")


def train_dpo(
    policy: GPT,
    pairs: Sequence[PreferencePair],
    ref_logprobs: Tensor,
    *,
    config: DPOConfig,
    optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
    tokens_per_pass: int | None = None,
) -> Iterator[dict[str, float]]:
    """DPO or IPO on pairs of replies; yields one dict of numbers per step.

    ref_logprobs (P, 2) comes from `reference_logprobs(reference, pairs)`. To go on after a stop,
    restore policy and optimizer and pass the number of finished steps as `start_step`.
    tokens_per_pass: most tokens in memory at once, whose gradients add up; None: all pairs of a
    step.

    Keys: step, loss, those of `preference_metrics`, pairs, pairs_per_second, grad_norm, lr_scale,
    seconds, seconds_training.

    Raises: ValueError for pairs that cannot be trained on, or ref_logprobs of another shape or
    that are not finite numbers.
    """
    check_pairs(pairs, policy.config)
    if ref_logprobs.shape != (len(pairs), 2):
        shape = tuple(ref_logprobs.shape)
        raise ValueError(f"ref_logprobs must have shape ({len(pairs)}, 2), got {shape}")
    checks.finite("ref_logprobs of pair", ref_logprobs)
    groups = comparisons(pairs)
    for step in range(start_step, config.steps):
        watch = Stopwatch()
        scale = learning_rate_scale(
            step, config.steps, warmup=config.warmup, cooldown=config.cooldown
        )
        optimizer.set_scale(scale)
        picked = pairs_of_step(groups, step, config.pairs_per_step, generator)
        mine, means = world().shard(picked), Means()  # all of them without torchrun
        for part, share in pair_shares(pairs, mine, tokens_per_pass):
            chosen, rejected = pair_logprobs(policy, [pairs[i] for i in part]).unbind(dim=1)
            ref_chosen, ref_rejected = ref_logprobs[part].to(policy.device).unbind(dim=1)  # (P,)
            logprobs = (chosen, rejected, ref_chosen, ref_rejected)
            if config.loss == "dpo":
                smoothing = config.label_smoothing
                loss, metrics = dpo_loss(*logprobs, beta=config.beta, label_smoothing=smoothing)
            else:
                loss, metrics = ipo_loss(*logprobs, beta=config.beta)
            (share * loss).backward()
            means.add({"loss": loss, **metrics}, weight=len(part) if share > 0 else 0)
        grad_norm = apply_gradients(policy, optimizer, config.max_grad_norm)
        numbers = means.means()
        watch.lap("training")
        yield {
            "step": step,
            **numbers,
            "pairs": len(picked),
            "pairs_per_second": len(picked) / watch.seconds["seconds"],
            "grad_norm": grad_norm,
            "lr_scale": scale,
            **watch.seconds,
        }
