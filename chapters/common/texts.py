"""Texts as tokens: the books of Kitten Town or a file of the user's, and the loss on unseen text.

Used by the base chapter, which learns from them, and by later chapters, which replay them and watch
what a training makes the kitten forget.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

from kittenllm.batches import TokenStream
from kittenllm.data_file import DataFile, RecordError, read_data_file
from kittenllm.gpt import GPT
from kittenllm.kitten_town import stories
from kittenllm.runs.checkpoints import write_bytes_atomic
from kittenllm.tokenizer import Tokenizer, train_bpe

BPE_DOCUMENTS = 8_000  # documents that the vocabulary is learned from
LARGEST_TEXT = 12_000_000  # tokens of town text at most; longer trainings read it again
VALIDATION_TOKENS = 60_000
KEPT_TEXT = "text.txt"  # in the run folder: later chapters replay a text that came from a file


@dataclass(frozen=True)
class Texts:
    """What the kitten reads, as tokens, and the vocabulary they are written in."""

    tokenizer: Tokenizer
    echoes: TokenStream | None  # to repeat, before the reading begins; a file has none
    train: TokenStream
    validation: TokenStream  # never trained on
    validation_bytes: int
    validation_characters: int


def town_texts(
    seed: int,
    train_tokens: int,
    vocab_size: int,
    *,
    echo_tokens: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Texts:
    """The books of Kitten Town; the seed decides which stories are told.

    A vocabulary of `vocab_size` is learned from such documents, unless a `tokenizer` is given.
    """
    if tokenizer is None:
        word_documents = stories.documents(seed, stories.VOCABULARY_SHARES)
        tokenizer = Tokenizer(train_bpe(islice(word_documents, BPE_DOCUMENTS), vocab_size))

    # Validation documents are new ones: they come from a seed that no run trains on.
    unseen = stories.documents(-1 - seed)
    validation_documents = take_documents(unseen, tokenizer, VALIDATION_TOKENS)
    validation = join_documents(validation_documents, tokenizer)

    wanted = min(train_tokens, LARGEST_TEXT)
    documents = take_documents(stories.documents(seed), tokenizer, wanted)
    train = join_documents(documents, tokenizer)
    echoes = None
    if echo_tokens:
        said = stories.documents(seed, {stories.echo: 1.0})
        echoes = join_documents(take_documents(said, tokenizer, echo_tokens), tokenizer)
    text = "".join(validation_documents)
    return Texts(tokenizer, echoes, train, validation, len(text.encode()), len(text))


def take_documents(documents: Iterator[str], tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Documents until they have about `tokens` tokens."""
    taken: list[str] = []
    total = 0
    while total < tokens:
        batch = list(islice(documents, 256))
        total += sum(len(ids) + 1 for ids in tokenizer.encode_batch(batch))
        taken += batch
    return taken


def join_documents(documents: list[str], tokenizer: Tokenizer) -> TokenStream:
    """One long row: <|endoftext|> document <|endoftext|> document ..."""
    row: list[int] = []
    for ids in tokenizer.encode_batch(documents):
        row.append(tokenizer.endoftext_id)
        row.extend(ids)
    return TokenStream(torch.tensor(row), tokenizer.endoftext_id)


def file_texts(
    source: str | Path | DataFile,
    row_length: int,
    vocab_size: int,
    *,
    tokenizer: Tokenizer | None = None,
) -> Texts:
    """A text of the user's: the first 90 % to train on, the last 10 % to measure with.

    Raises: RecordError for a file that cannot be read, or that is shorter than ten rows.
    """
    file = read_data_file(source)
    text = file.text
    cut = int(0.9 * len(text))
    train_text, validation_text = text[:cut], text[cut:]
    if tokenizer is None:
        tokenizer = Tokenizer(train_bpe(train_text, vocab_size))
    train = TokenStream(torch.tensor(tokenizer.encode(train_text)))
    validation = TokenStream(torch.tensor(tokenizer.encode(validation_text)))
    if min(len(train), len(validation)) < row_length:
        raise RecordError(
            f"{file.path}: the text is too short: its last tenth has {len(validation)} tokens "
            f"and one row has {row_length}; give a longer text or a smaller --row-length"
        )
    size = len(validation_text.encode())
    return Texts(tokenizer, None, train, validation, size, len(validation_text))


def keep_text(folder: Path, file: DataFile) -> None:
    """Copy a text of the user's into the run folder; the file may move, and a pipe is gone."""
    write_bytes_atomic(folder / KEPT_TEXT, file.content)


def kept_text(folder: Path, path: str) -> DataFile:
    """The text that was kept, or, of a run that kept none, the file at `path`.

    Raises: RecordError if that can no longer be read.
    """
    kept = folder / KEPT_TEXT
    return read_data_file(kept if kept.is_file() else path)


@torch.inference_mode()
def validation_nats(
    gpt: GPT, text: TokenStream, row_length: int, most_rows: int | None = None
) -> tuple[float, int]:
    """Sum of -log p(next token) in nats, and how many tokens were guessed.

    Windows overlap by half, so that every token but the first few has at least half a row to look
    back on; each token counts once.
    """
    stride = max(1, row_length // 2)
    nats, count = 0.0, 0
    for number, start in enumerate(range(0, len(text) - row_length + 1, stride)):
        if number == most_rows:
            break
        row = text.tokens[start : start + row_length].to(gpt.device).unsqueeze(0)  # (1, T)
        logits = gpt(row, document_ids=text.document_ids(row))[0]  # (T, V)
        losses = F.cross_entropy(logits[:-1], row[0, 1:], reduction="none")  # (T-1,)
        fresh = losses if start == 0 else losses[row_length - stride - 1 :]
        nats += fresh.sum().item()
        count += len(fresh)
    return nats, count
