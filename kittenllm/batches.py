"""Rows for training: sequences of all lengths become tensors, and nothing gets lost on the way.

A GPU, and a CPU too, wants one tensor of equal rows. Three ways to get there, from cheap to tidy:

* cut    windows out of one long stream of tokens (pretraining): `TokenStream`
* pack   several short sequences into one row, with numbers that tell them apart, so that attention
         does not look from one conversation into the next (fine-tuning): `pack`
* pad    every row to the longest (rewards, preferences): `pad_rows`

Read before: chat.py for what `tokens` and `loss_mask` are.
Left out: files that do not fit into memory.
Letters: R rows, B rows of one batch, T tokens in a row. Every random choice comes from the
`torch.Generator` that is passed in: the same seed gives the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.chat import ChatTokens


@dataclass(frozen=True)
class PackedRows:
    """Rows of packed sequences.

    tokens        (R, T) int64
    loss_mask     (R, T) bool, True where the token itself is trained on; never at the first token
                  of a sequence, which nothing produces
    document_ids  (R, T) int64, 0, 1, 2, ... for the sequences of a row, -1 for padding
    """

    tokens: Tensor
    loss_mask: Tensor
    document_ids: Tensor

    def __post_init__(self):
        checks.token_dtype("tokens", self.tokens)
        checks.bool_mask("loss_mask", self.loss_mask, self.tokens.shape)
        checks.token_dtype("document_ids", self.document_ids)
        checks.same_shape("document_ids", self.document_ids, "tokens", self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> "PackedRows":
        return PackedRows(self.tokens[part], self.loss_mask[part], self.document_ids[part])

    def select(self, indices: Tensor) -> "PackedRows":
        """The rows with these numbers, in this order."""
        indices = indices.to(self.tokens.device)
        return PackedRows(self.tokens[indices], self.loss_mask[indices], self.document_ids[indices])

    def to(self, device: torch.device | str) -> "PackedRows":
        """The same rows on another device."""
        moved = [x.to(device) for x in (self.tokens, self.loss_mask, self.document_ids)]
        return PackedRows(*moved)


def _assign_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Best-fit decreasing: longest first, each into the fullest row that still has room for it."""
    rows: list[list[int]] = []  # the numbers of the sequences in each row
    rows_with_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # room left -> rows
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # ties stay in order
    for i in longest_first:
        room = lengths[i]
        while room <= row_length and not rows_with_room[room]:
            room += 1
        if room <= row_length:
            row = rows_with_room[room].pop()
        else:
            row, room = len(rows), row_length
            rows.append([])
        rows[row].append(i)
        rows_with_room[room - lengths[i]].append(row)
    return rows


def pack(
    sequences: Sequence[ChatTokens | tuple[Sequence[int], Sequence[bool]]],
    *,
    row_length: int,
    pad_id: int,
) -> PackedRows:
    """Lay sequences side by side into as few rows as possible; none is cut, none is lost.

    sequences: `ChatTokens`, or (tokens, loss_mask) pairs
    Raises: ValueError for an empty list, an empty sequence, one longer than `row_length`, or a
        mask of another length than its tokens.
    """
    checks.count("row_length", row_length)
    pairs = [(s.tokens, s.loss_mask) if isinstance(s, ChatTokens) else s for s in sequences]
    if not pairs:
        raise ValueError("there are no sequences to pack")
    for i, (tokens, loss_mask) in enumerate(pairs):
        if len(tokens) != len(loss_mask):
            raise ValueError(f"sequence {i}: {len(tokens)} tokens, a mask of {len(loss_mask)}")
        if not 1 <= len(tokens) <= row_length:
            raise ValueError(
                f"sequence {i} has {len(tokens)} tokens, a row holds 1 to {row_length}; "
                "shorten it or make the rows longer"
            )

    rows = _assign_rows([len(tokens) for tokens, _ in pairs], row_length)
    all_tokens = torch.full((len(rows), row_length), pad_id)  # (R, T)
    all_masks = torch.zeros(len(rows), row_length, dtype=torch.bool)  # (R, T)
    document_ids = torch.full((len(rows), row_length), -1)  # (R, T)
    for row, members in enumerate(rows):
        start = 0
        for document, i in enumerate(members):
            tokens, loss_mask = pairs[i]
            end = start + len(tokens)
            all_tokens[row, start:end] = torch.tensor(tokens)
            all_masks[row, start:end] = torch.tensor(loss_mask)
            all_masks[row, start] = False  # the token before it is of another sequence
            document_ids[row, start:end] = document
            start = end
    return PackedRows(all_tokens, all_masks, document_ids)


class TokenStream:
    """One long row of tokens from which random windows are cut.

    `document_start` is the token with which each document begins; None: all is one document.

    Raises: ValueError for anything but a 1-D tensor of integers.
    """

    def __init__(self, tokens: Tensor, document_start: int | None = None):
        checks.token_dtype("tokens", tokens)
        if tokens.dim() != 1:
            raise ValueError(f"tokens must have one dimension, got shape {tuple(tokens.shape)}")
        self.tokens = tokens
        self.document_start = document_start

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: int, row_length: int, generator: torch.Generator) -> Tensor:
        """`rows` windows from random places, (B, T) int64; every place is equally likely.

        Raises: ValueError if the stream is shorter than one window.
        """
        checks.count("rows", rows)
        checks.count("row_length", row_length)
        if len(self.tokens) < row_length:
            raise ValueError(
                f"the text has {len(self.tokens)} tokens, a row needs {row_length}; "
                "take a longer text or shorter rows"
            )
        windows = self.tokens.unfold(0, row_length, 1)  # (places, T), a view: nothing is copied
        places = torch.randint(
            len(windows), (rows,), generator=generator, device=generator.device
        )  # (B,)
        return windows[places.to(windows.device)].long()

    def document_ids(self, tokens: Tensor) -> Tensor:
        """Which document of its window each token belongs to: (B, T) -> (B, T), counted from 0.

        A window mostly begins in the middle of a document: that rest has number 0.
        """
        if self.document_start is None:
            return torch.zeros_like(tokens)
        return (tokens == self.document_start).cumsum(dim=1)


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of tokens -> (tokens (B, T) padded on the right, lengths (B,)), both int64.

    Raises: ValueError for no rows or an empty row.
    """
    if not rows:
        raise ValueError("there are no rows to pad")
    if not all(len(row) for row in rows):
        raise ValueError(f"row {[len(row) for row in rows].index(0)} is empty")
    lengths = torch.tensor([len(row) for row in rows])  # (B,)
    tokens = torch.full((len(rows), int(lengths.max())), pad_id)  # (B, T)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return tokens, lengths
