"""Pairs of replies to one prompt, the better one first: the food of DPO, IPO and ORPO.

One idea: chosen and rejected replies are rows of one tensor, chosen first, so that one forward
pass reads them all and `chunk(2)` tells them apart again.

Letters: P pairs, T tokens. Read before: chat.py, batches.py.
Left out: rankings of more than two (reward_model.py turns them into pairs).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kittenllm.batches import pad_rows
from kittenllm.gpt import GPTConfig


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


def pair_rows(pairs: Sequence[PreferencePair], *, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """P pairs -> tokens (2P, T) and response_mask (2P, T-1), the P chosen rows first.

    The mask is in the action frame: True where a token of the reply is produced.
    """
    rows = [list(pair.prompt) + list(pair.chosen) for pair in pairs]
    rows += [list(pair.prompt) + list(pair.rejected) for pair in pairs]
    tokens, lengths = pad_rows(rows, pad_id)  # (2P, T), (2P,)
    prompt_lengths = torch.tensor([len(pair.prompt) for pair in pairs]).repeat(2)  # (2P,)
    produced = torch.arange(1, tokens.shape[1])  # (T-1,) the column of the produced token
    in_reply = (produced >= prompt_lengths[:, None]) & (produced < lengths[:, None])
    return tokens, in_reply
