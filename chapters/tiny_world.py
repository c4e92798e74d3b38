"""A world so small that every reply can be listed, and its best policies in closed form.

Used by enumerable.py, which shows how near PPO, DPO and IPO come to them.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from kittenllm.batches import pad_rows
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.logprobs import action_logprobs, sequence_logprobs

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
