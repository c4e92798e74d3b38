"""A world so small that every reply can be listed, and its best policies in closed form.

A kitten with four words and an end mark answers three prompts with at most three words: 85 replies
to each. The judge gives every one of them 0 to 3 points. When leaving the reference costs beta per
nat, nothing is better than

    pi*(y|x) = ref(y|x) exp(points(x, y) / beta) / Z(x)        (DPO, arXiv 2305.18290, eq. 4)

and for 85 replies that can be computed.

Used by __main__.py, which shows how near PPO, DPO and IPO come. Read before: dpo.py.
Left out: noise in the labels. Letters: X prompts, Y replies to each, R = X * Y rows, P pairs,
T tokens.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kittenllm.batches import pad_rows
from kittenllm.forward import action_logprobs
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.logprobs import sequence_logprobs
from kittenllm.sampling import Rollout

TOKENS = ("<pad>", "<end>", "purr", "meow", "hiss")
PAD, END, PURR, MEOW, HISS = range(5)
WORDS = (PAD, PURR, MEOW, HISS)  # nothing forbids a kitten to say <pad>: then it is a word too
# Every prompt starts with <end>, as every text does in pretraining. Without a first token of its
# own "purr" and "purr purr" look the same to a GPT: it sees distances between tokens, no places.
PROMPTS = ([END, PURR], [END, MEOW], [END, HISS])
LONGEST_REPLY = 3
POINTS = 4  # the judge gives 0, 1, 2 or 3


class World(NamedTuple):
    """All prompts with all replies as rows, R = X * Y, the replies to one prompt side by side."""

    replies: list[tuple[int, ...]]  # Y replies, the end mark included
    tokens: Tensor  # (R, T) prompt and reply
    mask: Tensor  # (R, T-1) True where a token of the reply is produced
    points: Tensor  # (X, Y) what the judge gives


def every_reply() -> list[tuple[int, ...]]:
    """1 + 4 + 16 replies that end by themselves, and 64 that are cut off after three words."""
    replies = []
    for length in range(LONGEST_REPLY):
        replies += [(*words, END) for words in itertools.product(WORDS, repeat=length)]
    return replies + list(itertools.product(WORDS, repeat=LONGEST_REPLY))


def build_world(generator: torch.Generator) -> World:
    """The rows, and a judge whose taste is drawn at random: no rule to guess, all to be learnt."""
    replies = every_reply()
    rows = [[*prompt, *reply] for prompt in PROMPTS for reply in replies]
    tokens, lengths = pad_rows(rows, PAD)  # (R, T), (R,)
    produced = torch.arange(1, tokens.shape[1])  # (T-1,) the column of the produced token
    mask = (produced >= len(PROMPTS[0])) & (produced < lengths[:, None])
    points = torch.randint(0, POINTS, (len(PROMPTS), len(replies)), generator=generator)
    return World(replies, tokens, mask, points.float())


def new_reference(generator: torch.Generator) -> GPT:
    """A tiny kitten with habits of its own: larger random weights than a fresh GPT has."""
    config = GPTConfig(
        vocab_size=len(TOKENS),
        rope_base=10_000.0,
        context_length=8,
        layers=1,
        channels=32,
        heads=4,
        kv_heads=2,
        ffn_channels=88,
        stop_ids=(END,),
        pad_id=PAD,
    )
    gpt = GPT(config, generator=generator)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return gpt


def reply_logprobs(gpt: GPT, world: World) -> Tensor:
    """log p(y|x) of every reply to every prompt: (X, Y), nats. exp of a row adds up to 1."""
    tokens, mask = world.tokens.to(gpt.device), world.mask.to(gpt.device)
    sums = sequence_logprobs(action_logprobs(gpt, tokens, mask), mask, reduce="sum")  # (R,)
    return sums.view(len(PROMPTS), len(world.replies))


def judge_of(world: World) -> Callable[[Rollout], Tensor]:
    """The judge as PPO calls it: looks up the points of every sampled row."""
    rows = [tuple([*prompt, *reply]) for prompt in PROMPTS for reply in world.replies]
    points_of = dict(zip(rows, world.points.flatten().tolist(), strict=True))

    def score(rollout: Rollout) -> Tensor:
        sampled = zip(rollout.tokens.tolist(), rollout.lengths.tolist(), strict=True)
        points = [points_of[tuple(row[:length])] for row, length in sampled]
        return torch.tensor(points, device=rollout.tokens.device)  # (N,)

    return score


# ------------------------------------------------------------------- the optimum, in closed form


def best_policy(ref_logprobs: Tensor, points: Tensor, *, beta: float) -> Tensor:
    """pi* of the top of this file; (X, Y), (X, Y) -> (X, Y) probabilities, each row adds up to 1.

    It has the most points - beta * KL(pi || ref) of all policies.
    """
    return (ref_logprobs + points / beta).softmax(dim=1)


def best_ipo_policy(ref_logprobs: Tensor, points: Tensor, *, beta: float) -> Tensor:
    """Where IPO ends: ref(y|x) exp(P(y beats a random reply to x) / beta) / Z(x).

    (arXiv 2310.12036, section 5, for pairs drawn evenly from all replies.) Squares have their
    minimum at means: the mean over all rivals of (2 P(y wins) - 1) / (2 beta), the target's mean.
    """
    gaps = points[:, :, None] - points[:, None, :]  # (X, Y, Y)
    win_probability = gaps.sigmoid().mean(dim=2)  # (X, Y) against a random reply
    return (ref_logprobs + win_probability / beta).softmax(dim=1)


def total_variation(p: Tensor, q: Tensor) -> float:
    """Mean over prompts of half the sum of |p - q|: 0 for equal policies, 1 at most."""
    return float((p - q).abs().sum(dim=1).mean() / 2)


# ----------------------------------------------------------------------------------- preferences


class GapGroup(NamedTuple):
    """All pairs whose points differ by `gap`: their labels have one probability in common."""

    gap: float
    better: Tensor  # (P,) numbers of rows
    worse: Tensor  # (P,)


def pairs_by_gap(points: Tensor) -> list[GapGroup]:
    """Every pair of different replies to one prompt, once, sorted by the gap in points."""
    X, Y = points.shape
    first, second = torch.triu_indices(Y, Y, offset=1)  # all pairs of replies to one prompt
    start = Y * torch.arange(X)[:, None]  # (X, 1) the first row of each prompt
    first, second = (start + first).flatten(), (start + second).flatten()
    gaps = points.flatten()[first] - points.flatten()[second]
    better = torch.where(gaps >= 0, first, second)
    worse = torch.where(gaps >= 0, second, first)
    groups = []
    for gap in gaps.abs().unique().tolist():
        here = gaps.abs() == gap
        groups.append(GapGroup(gap, better[here], worse[here]))
    return groups


def population_loss(
    loss_function: Callable,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    groups: list[GapGroup],
    *,
    beta: float,
) -> Tensor:
    """The loss over infinitely many labels of every pair: no sample, no luck. (X, Y) twice -> 0-d.

    The better reply is chosen with probability sigmoid(gap), as Bradley and Terry have it, and the
    worse one else.
    """
    logprobs, ref_logprobs = logprobs.flatten(), ref_logprobs.flatten()  # (R,)
    pair_count = sum(len(group.better) for group in groups)
    total = logprobs.new_zeros(())
    for gap, better, worse in groups:
        p, q = logprobs[better], logprobs[worse]
        ref_p, ref_q = ref_logprobs[better], ref_logprobs[worse]
        loss_better_chosen, _ = loss_function(p, q, ref_p, ref_q, beta=beta)
        loss_worse_chosen, _ = loss_function(q, p, ref_q, ref_p, beta=beta)
        probability = float(torch.tensor(gap).sigmoid())
        loss = probability * loss_better_chosen + (1 - probability) * loss_worse_chosen
        total = total + len(better) / pair_count * loss
    return total
