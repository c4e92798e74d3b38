"""A reward model: a kitten that reads a whole reply and gives it one number.

People cannot say "this reply is worth 0.7", but they can say "this one is better". Bradley and
Terry (1952): if reply a is worth r_a and b is worth r_b, a is preferred with probability
sigmoid(r_a - r_b). The loss is the surprise about what people chose:

loss = -mean log sigmoid(r_chosen - r_rejected)        (Ouyang et al. 2022, arXiv 2203.02155, eq. 1)

Only differences count, so the scores have no zero of their own.

Can a judge see whether a reply is *true*? It would have to look the truth up and to compare, all in
one pass, and models find that hard even where they know the fact (Allen-Zhu and Li 2023, arXiv
2309.14402). But the kitten shows what it knows in another way: a false word surprises it (Kadavath
et al. 2022, "Language Models (Mostly) Know What They Know", arXiv 2207.05221). So the score has a
second part, a learned weight times log p(reply). It starts at zero as well:

score = head . hidden_at_the_end + likelihood_weight * log p(reply | prompt)

At 7 billion parameters: the same loss, and one pass over the pairs, because a second one overfits.
Llama 2 had over a million comparisons, 512 pairs a step, a rate of 1e-5. Its loss also knew how
*clearly* a reply was better, and it had two reward models, one for helpfulness and one for safety
(Touvron et al. 2023, arXiv 2307.09288, section 3.2).

Letters: B sequences, T tokens, C channels, P pairs. Read before: gpt.py, sft.py.
Left out: several annotators with different taste, ties, an ensemble of reward models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kittenllm import checks
from kittenllm.batches import pad_rows
from kittenllm.config import check_options, option
from kittenllm.forward import hidden_at, to_action_frame
from kittenllm.gpt import GPT
from kittenllm.logprobs import pick_logprobs, sequence_logprobs, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.pairs import compared_together, pairs_of_step
from kittenllm.training import Optimizer, Stopwatch, apply_gradients


class RewardModel(nn.Module):
    """A GPT whose head gives one number instead of V: hand over a *copy* of the chat model.

    Head and weight start at zero: before training every reply scores exactly 0, no random opinion.
    """

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt
        zeros = torch.zeros(gpt.config.channels, device=gpt.device, dtype=gpt.dtype)
        self.head = nn.Parameter(zeros)  # (C,)
        self.likelihood_weight = nn.Parameter(zeros[0].clone())  # 0-d, score per nat

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Score of each sequence, read at its last real token: (B, T), (B,) -> (B,).

        lengths counts the real tokens of each row. What stands behind them never matters: the
        score is not read there, and earlier tokens cannot look ahead.

        Raises: ValueError for wrong shapes, unknown token ids, or a length outside 1 .. T.
        """
        checks.token_dtype("lengths", lengths)
        if tokens.dim() != 2 or lengths.shape != tokens.shape[:1]:
            shapes = f"{tuple(tokens.shape)} and {tuple(lengths.shape)}"
            raise ValueError(f"tokens must be (B, T) and lengths (B,), got {shapes}")
        for length in (int(lengths.min()), int(lengths.max())):
            checks.between("lengths", length, 1, tokens.shape[1])
        column = torch.arange(tokens.shape[1], device=tokens.device)
        is_last = column == lengths[:, None] - 1  # (B, T) one True per row
        checks.token_ids("tokens", tokens[column < lengths[:, None]], self.gpt.config.vocab_size)

        in_reply = last_turn(tokens, lengths, self.gpt.config.stop_ids)  # (B, T-1) action frame
        producing = F.pad(in_reply, (0, 1))  # (B, T) the same places; the last produces nothing
        wanted = is_last | producing
        hidden = hidden_at(self.gpt, tokens, wanted)  # (n, C)
        last_hidden = hidden[is_last[wanted]]  # (B, C)
        logits = self.gpt.logits(hidden[producing[wanted]])  # (m, V)
        logprobs = to_action_frame(pick_logprobs(logits, tokens[:, 1:][in_reply]), in_reply)
        likelihood = sequence_logprobs(logprobs, in_reply, reduce="sum")  # (B,) nats
        return last_hidden @ self.head + self.likelihood_weight * likelihood.to(hidden.dtype)


def last_turn(tokens: Tensor, lengths: Tensor, stop_ids: Sequence[int]) -> Tensor:
    """True where a token of the last turn is produced: (B, T), (B,) -> (B, T-1).

    The last turn begins behind the last stop token that is not itself the end of the row. A row
    without one is a single turn.
    """
    column = torch.arange(tokens.shape[1], device=tokens.device)
    stops = torch.tensor(stop_ids, dtype=tokens.dtype, device=tokens.device)
    ends_a_turn = torch.isin(tokens, stops) & (column < lengths[:, None] - 1)  # (B, T)
    before = torch.where(ends_a_turn, column, -1).amax(dim=1, keepdim=True)  # (B, 1)
    return (column[1:] > before) & (column[1:] < lengths[:, None])


def bradley_terry_loss(
    chosen_rewards: Tensor, rejected_rewards: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean log sigmoid(r_chosen - r_rejected); log 2 when nothing is known. (P,), (P,) -> 0-d.

    Metrics: accuracy (a tie counts half), margin (mean difference of the scores).

    Raises: ValueError for integer tensors, different shapes or no pairs.
    """
    checks.pairs(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    dtype = chosen_rewards.dtype
    margin = widen(chosen_rewards) - widen(rejected_rewards)  # (P,)
    loss = -F.logsigmoid(margin).mean()
    accuracy = (margin.sign() + 1) / 2  # 1 right, 0 wrong, 1/2 tie
    metrics = {"accuracy": accuracy.mean(), "margin": margin.mean()}
    return loss.to(dtype), {name: number.detach().to(dtype) for name, number in metrics.items()}


def ranking_to_pairs(ranking: Sequence) -> list[tuple]:
    """A ranking, best reply first, as all its pairs (better, worse): K replies give K(K-1)/2.

    Raises: ValueError for fewer than two replies, or a reply that stands there twice.
    """
    checks.count("replies in the ranking", len(ranking), low=2)
    pairs = list(combinations(ranking, 2))
    for better, worse in pairs:
        if better == worse:
            raise ValueError(f"{better!r} stands in the ranking twice: which place is meant?")
    return pairs


@torch.no_grad()
def score_sequences(reward_model: RewardModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Scores of many token sequences of any length, without gradients: -> (N,)."""
    tokens, lengths = pad_rows(sequences, reward_model.gpt.config.pad_id)
    device = reward_model.gpt.device
    return reward_model(tokens.to(device), lengths.to(device))


@dataclass(frozen=True)
class RewardModelConfig:
    """Settings of the reward model. Learning rates: whoever builds the optimizer reads them."""

    steps: int = option(708, "optimizer steps", low=1)
    pairs_per_step: int = option(24, "P, pairs in a step: many small steps learn more", low=1)
    matrix_lr: float = option(7e-4, "Muon's rate, hidden matrices; usually 5e-4 to 3e-3", above=0)
    other_lr: float = option(5e-4, "AdamW's rate, for the rest; usually 5e-4 to 5e-3", above=0)
    warmup: float = option(0.05, "share of the steps with a rising rate", low=0, high=1)
    cooldown: float = option(0.5, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def check_sequences(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], gpt: GPT) -> None:
    """Refuse pairs that cannot be scored.

    Raises: ValueError naming the pair, for no pairs at all, an empty, too long or equal one.
    """
    checks.count("number of pairs", len(pairs))
    for number, (chosen, rejected) in enumerate(pairs):
        for name, tokens in (("chosen", chosen), ("rejected", rejected)):
            checks.between(
                f"tokens of pair {number}, {name},", len(tokens), 1, gpt.config.context_length
            )
        if list(chosen) == list(rejected):
            raise ValueError(f"pair {number}: chosen and rejected are equal; leave the pair out")


def train_reward_model(
    reward_model: RewardModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    config: RewardModelConfig,
    optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Learn from pairs (chosen tokens, rejected tokens); yields one dict of numbers per step.

    The tokens hold prompt and reply. All replies of a step go through one forward pass, and a reply
    that stands in several pairs is read once. To go on after a stop, restore model and optimizer
    and pass the finished steps as `start_step`.

    Keys: step, loss (nats), accuracy, margin, pairs, tokens, grad_norm, lr_scale, seconds,
    seconds_training.

    Raises: ValueError for no pairs, an empty, equal or too long one, or unknown token ids.
    """
    gpt = reward_model.gpt
    check_sequences(pairs, gpt)
    groups = compared_together([(tuple(chosen), tuple(rejected)) for chosen, rejected in pairs])
    for step in range(start_step, config.steps):
        watch = Stopwatch()
        scale = learning_rate_scale(
            step, config.steps, warmup=config.warmup, cooldown=config.cooldown
        )
        optimizer.set_scale(scale)
        picked = pairs_of_step(groups, step, config.pairs_per_step, generator)
        compared = [pairs[number] for number in picked]
        row_of: dict[tuple[int, ...], int] = {}  # reply -> its row; one row for each reply
        for pair in compared:
            for reply in pair:
                row_of.setdefault(tuple(reply), len(row_of))
        chosen_rows = [row_of[tuple(chosen)] for chosen, _ in compared]
        rejected_rows = [row_of[tuple(rejected)] for _, rejected in compared]
        tokens, lengths = pad_rows(list(row_of), gpt.config.pad_id)  # (B, T), (B,)

        rewards = reward_model(tokens.to(gpt.device), lengths.to(gpt.device))  # (B,)
        chosen_rewards, rejected_rewards = rewards[chosen_rows], rewards[rejected_rows]  # (P,)
        loss, metrics = bradley_terry_loss(chosen_rewards, rejected_rewards)
        loss.backward()
        grad_norm = apply_gradients(reward_model, optimizer, config.max_grad_norm)
        watch.lap("training")
        yield {
            "step": step,
            "loss": loss.item(),
            **{name: number.item() for name, number in metrics.items()},
            "pairs": len(picked),
            "tokens": int(lengths.sum()),
            "grad_norm": grad_norm,
            "lr_scale": scale,
            **watch.seconds,
        }
