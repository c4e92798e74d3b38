"""Fine-tuning on several sorts of conversations at once: the mix, and one training run.

Used by the chapters on tools and on a language of our own.
"""

import random
from collections.abc import Callable

from chapters.common.fine_tuning import Kitten, load_base
from kittenllm.batches import PackedRows, TokenStream, pack
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.echoes import echo_chat
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run
from kittenllm.runs.stages import Stage
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.skills.agent import encode_tool_chat
from kittenllm.tokenizer import Tokenizer

MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]


def load_chat_kitten(base: dict, chat: dict, common: Common) -> Kitten:
    """The kitten of chapter 1, with the pretraining text to replay."""
    kitten = load_base(base, common)
    gpt, _, _ = load_model(common.folder("ch1_sft") / chat["model"], device=common.device)
    return Kitten(gpt, kitten.tokenizer, kitten.texts, common)


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
    tokenizer: Tokenizer,
    config: SFTConfig,
    common: Common,
    row_length: int,
    *,
    chat_fraction: float,
) -> PackedRows:
    """Fresh conversations for all steps of `config`: those of `make`, and ordinary chats, which are
    `chat_fraction` of the tokens."""
    rng = new_random(common.seed, "ch1_tools", "data")
    town = build_town()
    rows = config.steps * config.rows_per_step * (1 - config.replay_fraction)
    wanted = rows * row_length  # tokens
    chats: list[ChatTokens] = []
    ordinary, total = 0, 0
    while total < wanted:
        if ordinary < chat_fraction * total:
            chat = encode_chat(tokenizer, conversation(town, rng)["messages"])
            ordinary += len(chat)
        else:
            chat = make(tokenizer, rng)
        if len(chat) > row_length:
            continue
        total += len(chat)
        chats.append(chat)
    return pack(chats, row_length=row_length, pad_id=tokenizer.pad_id)


def train(
    chapter: Run, name: str, kitten: Kitten, rows: PackedRows, config: SFTConfig, *, salt: str
) -> Stage:
    """Fine-tune `kitten` on `rows`; returns the finished stage. `salt` names the generator."""
    optimizer = make_optimizer(kitten.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", kitten.common.seed, salt, "train")
    objects = {"gpt": kitten.gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=TokenStream(kitten.texts.train) if config.replay_fraction else None,
    )
    for _ in stage.follow(training, show=("chat_loss",)):
        pass
    return stage
