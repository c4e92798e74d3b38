"""A kitten: a model, its tokenizer, and what is measured with it; and how chapter 1 loads one.

Used by all chapters that train a kitten. The stage is that of chapter 1 and its two sisters; the
mix, fine-tuning on several sorts of conversations at once, is that of the sisters.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from chapters.common.texts import Texts, file_texts, kept_text, town_texts, validation_nats
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import ChatTokens, encode_chat, text_prompt
from kittenllm.evaluation import sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import MuonAdamW, make_optimizer
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run
from kittenllm.runs.stages import Stage
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]

REPLAY_TOKENS = 300_000
FORGETTING_ROWS = 40  # rows of unseen pretraining text whose loss is watched


@dataclass
class Kitten:
    """A model, its tokenizer, and what is measured with it."""

    gpt: GPT
    tokenizer: Tokenizer
    common: Common
    texts: Texts | None = None  # to replay, and unseen ones to watch the forgetting on
    scorer: Scorer | None = None  # the reward model, in units of this kitten's own spread

    def base_bits_per_byte(self) -> float:
        """Loss on unseen pretraining text: how much of reading is forgotten."""
        row_length = self.gpt.config.context_length
        nats, count = validation_nats(self.gpt, self.texts.validation, row_length, FORGETTING_ROWS)
        bytes_per_token = self.texts.validation_bytes / len(self.texts.validation)
        return nats / count / math.log(2) / bytes_per_token

    def ask(self, questions, *, replies_each=1, temperature=0.0, bare=False):
        """Judged replies; `bare` asks without the chat template, as plain text."""
        tokenizer = self.tokenizer
        plain = lambda question: text_prompt(tokenizer, question.text)  # noqa: E731
        return sample_replies(
            self.gpt,
            tokenizer,
            build_town(),
            questions,
            replies_each=replies_each,
            temperature=temperature,
            generator=new_generator(self.common.device, self.common.seed, "ch1_sft", "ask"),
            prompt_of=plain if bare else None,
        )


def load_base(base: dict, common: Common) -> Kitten:
    """The base kitten, and the text it was trained on, for replay."""
    folder = common.folder("ch0_base")
    gpt, tokenizer, _ = load_model(folder / base["model"], device=common.device)
    text = base["config"]["text"]
    if text:
        row_length = gpt.config.context_length
        file = kept_text(folder, text)
        texts = file_texts(file, row_length, tokenizer.vocab_size, tokenizer=tokenizer)
    else:
        tokens = REPLAY_TOKENS // 10 if common.quick else REPLAY_TOKENS
        texts = town_texts(common.seed, tokens, tokenizer.vocab_size, tokenizer=tokenizer)
    return Kitten(gpt, tokenizer, common, texts)


def load_chat_kitten(base: dict, chat: dict, common: Common) -> Kitten:
    """The kitten of chapter 1, with the pretraining text to replay."""
    gpt, _, _ = load_model(common.folder("ch1_sft") / chat["model"], device=common.device)
    return replace(load_base(base, common), gpt=gpt)


def sft_stage(
    chapter: Run, name: str, gpt: GPT, config: SFTConfig, generator: torch.Generator
) -> tuple[Stage, MuonAdamW]:
    """A stage that keeps all that fine-tuning changes, so that a killed run goes on; and the
    optimizer, with the rates of `config`."""
    optimizer = make_optimizer(gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    objects = {"gpt": gpt, "optimizer": optimizer, "generator": generator}
    return chapter.stage(name, total=config.steps, objects=objects), optimizer


def watched(history: list[dict], key: str) -> tuple[list, list]:
    """The steps at which `key` was measured, and its values."""
    entries = [entry for entry in history if entry.get(key) is not None]
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]


# ----------------------------------------------------------------------------------------- the mix


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
