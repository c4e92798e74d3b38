"""A kitten whose tokens are single bytes: what a test wants it to say can be written as text."""

import torch

from kittenllm.gpt import GPT, GPTConfig
from kittenllm.tokenizer import SPECIAL_TOKENS, Tokenizer

TOKENIZER = Tokenizer({bytes([byte]): byte for byte in range(256)})  # a token is a byte


def ids(text: str) -> list[int]:
    """Text in which the names of special tokens are those tokens."""
    for name in SPECIAL_TOKENS:
        if name in text:
            before, _, after = text.partition(name)
            return ids(before) + [TOKENIZER.special_ids[name]] + ids(after)
    return TOKENIZER.encode(text)


def new_gpt(context_length: int = 128) -> GPT:
    """A small kitten that has never learnt anything."""
    config = GPTConfig(
        TOKENIZER.vocab_size,
        context_length=context_length,
        layers=1,
        channels=32,
        ffn_channels=32,
        stop_ids=(TOKENIZER.im_end_id, TOKENIZER.endoftext_id),
        pad_id=TOKENIZER.pad_id,
    )
    return GPT(config, generator=torch.Generator().manual_seed(0))
