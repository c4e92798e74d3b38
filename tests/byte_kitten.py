"""Small kittens for tests. The tokens of one are single bytes, so text is what it says."""

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


def small_config(tokenizer: Tokenizer) -> GPTConfig:
    """The smallest kitten that chats in these tokens; a reply ends with the end of its turn."""
    return GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=256,
        layers=1,
        channels=16,
        heads=2,
        kv_heads=1,
        ffn_channels=32,
        stop_ids=(tokenizer.im_end_id, tokenizer.endoftext_id),
        pad_id=tokenizer.pad_id,
    )
