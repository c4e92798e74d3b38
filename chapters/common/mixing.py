"""Fine-tuning on several sorts of conversations at once: the mix.

Used by the chapters on tools and on a language of our own.
"""

import random
from collections.abc import Callable

from chapters.common.kitten import Kitten
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.echoes import echo_chat
from kittenllm.kitten_town.facts import build_town
from kittenllm.settings import new_random
from kittenllm.sft import SFTConfig
from kittenllm.skills.agent import encode_tool_chat
from kittenllm.tokenizer import Tokenizer

MOST_TOO_LONG = 200  # conversations; more, and most of all, mean that the rows are too short
MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]


def echo(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One drill: something is said three times."""
    return encode_tool_chat(tokenizer, echo_chat(rng))


def with_echoes(make: MakeChat, drill: MakeChat, share: float) -> MakeChat:
    """`make`, but this share of its conversations are drills: what is not practised fades."""

    def made(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
        return (drill if rng.random() < share else make)(tokenizer, rng)

    return made


def mixed_rows(
    make: MakeChat,
    kitten: Kitten,
    config: SFTConfig,
    *,
    chat_fraction: float,
    row_length: int | None = None,
) -> PackedRows:
    """Fresh conversations for all steps of `config`: those of `make`, and ordinary chats, which are
    `chat_fraction` of the tokens. Rows as long as the context, or of `row_length` tokens.

    Raises: ValueError if hardly any conversation fits into a row.
    """
    rng = new_random(kitten.common.seed, "ch1_tools", "data")
    town, tokenizer = build_town(), kitten.tokenizer
    row_length = row_length or kitten.gpt.config.context_length
    rows = config.steps * config.rows_per_step * (1 - config.replay_fraction)
    wanted = rows * row_length  # tokens
    chats: list[ChatTokens] = []
    ordinary, total, too_long = 0, 0, 0
    while total < wanted:
        if ordinary < chat_fraction * total:
            chat = encode_chat(tokenizer, conversation(town, rng)["messages"])
            ordinary += len(chat)
        else:
            chat = make(tokenizer, rng)
        if len(chat) > row_length:
            too_long += 1
            if too_long > MOST_TOO_LONG and too_long > len(chats):
                raise ValueError(f"most exercises are longer than {row_length} tokens: allow more")
            continue
        total += len(chat)
        chats.append(chat)
    return pack(chats, row_length=row_length, pad_id=tokenizer.pad_id)
