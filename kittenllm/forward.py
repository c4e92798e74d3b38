"""A model's log-probs and hidden states where a mask needs them, and nowhere else.

What is computed here equals two plain lines (`plain_action_logprobs`; a test holds them together):

    logits = gpt(tokens)                                               # (B, T, V)
    logprobs = torch.where(mask, token_logprobs(logits, tokens), 0.0)  # (B, T-1)

but without waste: padding is not read, and no logits are made where nobody asks for them. Read the
two lines first; the rest of this file only saves time and memory.

Letters: B batch, T tokens, C channels, V vocabulary, n counted positions. Log-probabilities are in
nats and in the action frame, see logprobs.py. Masks are bool, True means "counts".
Read before: gpt.py, logprobs.py. Left out: a fused kernel that never stores the logits.
"""

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.distributed import is_sharded
from kittenllm.gpt import GPT
from kittenllm.logprobs import pick_logprobs, token_logprobs

CPU_TOKENS, GPU_TOKENS = (
    1024,
    16384,
)  # read at once: small batches fit a cache, large ones fill a GPU

# An open model knows 32,000 tokens and more: the logits of a few rows already fill memory.
LARGE_VOCABULARY = 10_000


def plain_action_logprobs(
    gpt: GPT, tokens: Tensor, mask: Tensor, *, document_ids: Tensor | None = None
) -> Tensor:
    """What `action_logprobs` computes, in two plain lines: (B, T), (B, T-1) -> (B, T-1) nats."""
    logits = gpt(tokens, document_ids=document_ids)  # (B, T, V)
    return torch.where(mask, token_logprobs(logits, tokens), 0.0)


def length_chunks(lengths: list[int], *, max_tokens: int) -> list[list[int]]:
    """Row numbers sorted by length and cut so that rows x longest row is at most `max_tokens`.

    Rows of similar length stand together, so padding costs almost nothing. Rows of length 0 are
    left out; a row longer than `max_tokens` stands alone.
    """
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
    chunks: list[list[int]] = []
    for row in by_length:
        if lengths[row] == 0:
            continue
        if not chunks or (len(chunks[-1]) + 1) * lengths[row] > max_tokens:
            chunks.append([])
        chunks[-1].append(row)
    return chunks


def rows_by_length(mask: Tensor, rows: Tensor, *, max_tokens: int) -> list[Tensor]:
    """The given row numbers in parts of similar length, at most `max_tokens` tokens each.

    mask (B, T-1), rows (n,) -> a list of 1-D tensors of row numbers. A row's length is the place
    of its last True; rows without a True are left out.
    """
    if len(rows) == 0:
        return []
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # (T-1,) 1, 2, ...
    lengths = (mask[rows] * place).amax(dim=1).tolist()
    return [rows[chunk] for chunk in length_chunks(lengths, max_tokens=max_tokens)]


def hidden_at(
    gpt: GPT,
    tokens: Tensor,
    wanted: Tensor,
    *,
    document_ids: Tensor | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Hidden states at the wanted positions only: (B, T), (B, T) bool -> (n, C), row after row.

    What comes after a row's last wanted position is never read, and rows of similar length go
    through the model together, `max_tokens` at a time: no work is spent on padding. The default,
    None, is 1,024 tokens on a CPU and 16,384 elsewhere, where large batches are cheap.

    Raises: ValueError for wrong shapes or dtypes.
    """
    checks.token_dtype("tokens", tokens)
    checks.bool_mask("wanted", wanted, tokens.shape)
    if max_tokens is None:
        max_tokens = CPU_TOKENS if tokens.device.type == "cpu" else GPU_TOKENS
    if is_sharded(gpt):
        max_tokens = tokens.numel()  # all at once: each process goes through the model once
    column = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)  # (T,) 1, 2, ...
    reach = (wanted * column).amax(dim=1)  # (B,) tokens to read in each row
    tokens = torch.where(column <= reach[:, None], tokens, 0)  # behind them may stand anything
    lengths = reach.tolist()
    numbers = wanted.flatten().cumsum(0).view(wanted.shape) - 1  # (B, T) place in the result
    pieces, places = [], []
    chunks = length_chunks(lengths, max_tokens=max_tokens)
    for chunk in chunks or [[0]]:  # nothing wanted: an empty result that still has a gradient
        rows = torch.tensor(chunk, device=tokens.device)
        length = max(1, lengths[chunk[-1]])
        documents = None if document_ids is None else document_ids[rows, :length]
        hidden = gpt.hidden(tokens[rows, :length], document_ids=documents)  # (rows, length, C)
        here = wanted[rows, :length]
        pieces.append(hidden[here])
        places.append(numbers[rows, :length][here])
    order = torch.cat(places).argsort()
    return torch.cat(pieces)[order]


def action_hidden(
    gpt: GPT,
    tokens: Tensor,
    mask: Tensor,
    *,
    document_ids: Tensor | None = None,
) -> Tensor:
    """What the model knew when it produced each counted token: (B, T), (B, T-1) -> (n, C).

    Raises: ValueError for wrong shapes or dtypes.
    """
    before = None if document_ids is None else document_ids[:, :-1]
    return hidden_at(gpt, tokens[:, :-1], mask, document_ids=before)


def to_action_frame(values: Tensor, mask: Tensor) -> Tensor:
    """Put the n values of the counted positions back into (B, T-1), 0 elsewhere."""
    frame = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return frame.masked_scatter(mask, values)


def action_logprobs(
    gpt: GPT,
    tokens: Tensor,
    mask: Tensor,
    *,
    document_ids: Tensor | None = None,
) -> Tensor:
    """`token_logprobs` of the model's logits where the mask is True, 0 elsewhere: (B, T-1).

    The head costs C x V multiplications per position, a large part of a small model: positions
    whose log-prob nobody asks for never reach it.

    Raises: ValueError for wrong shapes or dtypes.
    """
    hidden = action_hidden(gpt, tokens, mask, document_ids=document_ids)  # (n, C)
    produced = tokens[:, 1:][mask]  # (n,)
    return to_action_frame(pick_logprobs(gpt.logits(hidden), produced), mask)


@torch.no_grad()
def frozen_logprobs(gpt: GPT, tokens: Tensor, mask: Tensor) -> Tensor:
    """`action_logprobs` of a model that is not trained, a reference for example: no gradient.

    Raises: ValueError for wrong shapes or dtypes.
    """
    return action_logprobs(gpt, tokens, mask)
