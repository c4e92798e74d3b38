"""Pairs of replies to one prompt, the better one first: the food of DPO, IPO and ORPO.

One idea: all replies of a step are rows of one tensor, so that one forward pass reads them all, and
a reply that was compared with several others is read once.

Letters: P pairs, N different replies, T tokens. Read before: chat.py, batches.py.
Left out: rankings of more than two (reward_model.py turns them into pairs).
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kittenllm.batches import pad_rows
from kittenllm.gpt import GPTConfig
from kittenllm.training import rows_of_step


class PreferencePair(NamedTuple):
    """Token ids. The replies hold their end-of-turn token: stopping is part of the reply."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def check_pairs(pairs: Sequence[PreferencePair], config: GPTConfig) -> None:
    """Refuse pairs that cannot be trained on.

    Raises: ValueError naming the pair, for no pairs at all, an empty prompt or reply, two equal
    replies, more tokens than the context holds, or a token id that the model does not have.
    """
    if len(pairs) == 0:
        raise ValueError("there are no preference pairs")
    for number, (prompt, chosen, rejected) in enumerate(pairs):
        for name, part in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
            if len(part) == 0:
                raise ValueError(f"pair {number}: {name} is empty; leave the pair out")
            if min(part) < 0 or max(part) >= config.vocab_size:
                wrong = min(part) if min(part) < 0 else max(part)
                raise ValueError(
                    f"pair {number}: {name} holds token {wrong}, the model knows 0 to "
                    f"{config.vocab_size - 1}; was it made with another tokenizer?"
                )
        if list(chosen) == list(rejected):
            raise ValueError(f"pair {number}: chosen and rejected are equal; leave the pair out")
        longest = len(prompt) + max(len(chosen), len(rejected))
        if longest > config.context_length:
            raise ValueError(
                f"pair {number} has {longest} tokens, the context holds {config.context_length}; "
                "shorten it or leave it out"
            )


def pair_rows(pairs: Sequence[PreferencePair], *, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """P pairs -> tokens (N, T), response_mask (N, T-1) and rows (P, 2): where each reply stands.

    A reply that stands in several pairs is one row, read once for all of them. The rows of the
    chosen replies come first. The mask is in the action frame: True where a token of the reply is
    produced.
    """
    row_of: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}  # (prompt, reply) -> its row
    columns = []
    for replies in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
        column = []
        for pair, reply in zip(pairs, replies, strict=True):
            column.append(row_of.setdefault((tuple(pair.prompt), tuple(reply)), len(row_of)))
        columns.append(column)
    tokens, lengths = pad_rows([prompt + reply for prompt, reply in row_of], pad_id)  # (N, T), (N,)
    prompt_lengths = torch.tensor([len(prompt) for prompt, _ in row_of])  # (N,)
    produced = torch.arange(1, tokens.shape[1])  # (T-1,) the column of the produced token
    in_reply = (produced >= prompt_lengths[:, None]) & (produced < lengths[:, None])
    return tokens, in_reply, torch.tensor(columns).T


def compared_together(pairs: Sequence[tuple[Hashable, Hashable]]) -> list[list[int]]:
    """The numbers of the pairs, those that share a reply together.

    K replies to one prompt make up to K(K-1)/2 pairs. Read together, each reply goes through the
    model once and not K-1 times (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).
    """
    groups: list[list[int]] = []
    group_of: dict[Hashable, list[int]] = {}  # reply -> the pairs that stand with it
    for number, (chosen, rejected) in enumerate(pairs):
        group = group_of.get(chosen, group_of.get(rejected))
        if group is None:
            group = []
            groups.append(group)
        group.append(number)
        group_of[chosen] = group_of[rejected] = group
    return groups


def comparisons(pairs: Sequence[PreferencePair]) -> list[list[int]]:
    """`compared_together`, where replies count as the same only behind the same prompt."""
    return compared_together(
        [(tuple(prompt + chosen), tuple(prompt + rejected)) for prompt, chosen, rejected in pairs]
    )


def pairs_of_step(
    groups: Sequence[Sequence[int]], step: int, pairs_per_step: int, generator: torch.Generator
) -> list[int]:
    """The numbers of one step's pairs: whole comparisons, `pairs_per_step` pairs on average.

    Every comparison comes once before any comes twice.
    """
    count = sum(len(group) for group in groups)
    groups_per_step = max(1, round(pairs_per_step * len(groups) / count))
    picked = rows_of_step(len(groups), step, groups_per_step, generator)
    return [number for group in picked for number in groups[group]]
