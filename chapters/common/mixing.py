"""Fine-tuning on several sorts of conversations at once: the mix.

Used by the chapters on tools and on a language of our own.
"""

import random
from collections.abc import Callable

from chapters.common.kitten import Kitten
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.facts import build_town
from kittenllm.settings import new_random
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]


def ordinary_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One conversation of chapter 1."""
    return encode_chat(tokenizer, conversation(build_town(), rng)["messages"])


def mixed_rows(
    make: MakeChat,
    kitten: Kitten,
    config: SFTConfig,
    *,
    chat_fraction: float,
    make_ordinary: MakeChat = ordinary_chat,
) -> PackedRows:
    """Fresh conversations for all steps of `config`: those of `make`, and ordinary chats, which are
    `chat_fraction` of the tokens."""
    rng = new_random(kitten.common.seed, "ch1_tools", "data")
    tokenizer = kitten.tokenizer
    row_length = kitten.gpt.config.context_length
    rows = config.steps * config.rows_per_step * (1 - config.replay_fraction)
    wanted = rows * row_length  # tokens
    chats: list[ChatTokens] = []
    ordinary, total = 0, 0
    while total < wanted:
        if ordinary < chat_fraction * total:
            chat = make_ordinary(tokenizer, rng)
            ordinary += len(chat)
        else:
            chat = make(tokenizer, rng)
        if len(chat) > row_length:
            continue
        total += len(chat)
        chats.append(chat)
    return pack(chats, row_length=row_length, pad_id=tokenizer.pad_id)
