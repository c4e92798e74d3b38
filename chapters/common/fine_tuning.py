"""Fine-tuning a kitten on conversations: its settings, the packed rows, and one training run.

Used by chapter 1, which trains once, and by its experiments, which train again and again.
"""

import math
from dataclasses import dataclass, replace

from chapters.common.texts import Texts, file_texts, kept_text, town_texts, validation_nats
from kittenllm import cleaning
from kittenllm.batches import PackedRows, TokenStream, pack
from kittenllm.chat import encode_chat, text_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.evaluation import FULL_COUNTS, sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.records import RecordError
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.tokenizer import Tokenizer

REPLAY_TOKENS = 300_000
FORGETTING_ROWS = 40  # rows of unseen pretraining text whose loss is watched
QUICK_COUNTS = {kind: (6, 1) for kind in FULL_COUNTS}


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    chats: str = option("", "train on the conversations of this JSON or JSONL file")
    strict: bool = option(False, "stop at the first bad record instead of skipping it")
    data_steps: tuple[str, ...] = option(
        cleaning.STEPS, "data work to do, as a comma list", choices=cleaning.STEPS
    )
    most_chats: int = option(0, "use at most so many conversations; 0 is all of them", low=0)
    epochs: float = option(1.0, "how often each conversation is seen", above=0)
    sft: SFTConfig = nested(SFTConfig(), hidden="steps warmup cooldown max_grad_norm")
    compare: bool = option(False, "retrain without replay and without each data step (minutes)")

    def __post_init__(self):
        check_options(self)


@dataclass
class Kitten:
    """A model in training and what it is measured with."""

    gpt: GPT
    tokenizer: Tokenizer
    texts: Texts  # pretraining text to replay, and unseen text to watch the forgetting on
    common: Common

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


def packed_rows(records: list[dict], tokenizer: Tokenizer, row_length: int) -> PackedRows:
    """Conversations as packed rows; those longer than a row are left out, and that is said."""
    chats = [encode_chat(tokenizer, record["messages"]) for record in records]
    fitting = [chat for chat in chats if len(chat) <= row_length]
    if len(fitting) < len(chats):
        count = len(chats) - len(fitting)
        print(f"{count} conversations have more than {row_length} tokens and were left out")
    if not fitting:
        raise RecordError(f"no conversation fits into the context of {row_length} tokens")
    return pack(fitting, row_length=row_length, pad_id=tokenizer.pad_id)


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
    return Kitten(gpt, tokenizer, texts, common)


def step_count(rows: PackedRows, settings: Settings) -> int:
    """Steps after which every conversation was seen `epochs` times, replayed rows not counted."""
    chat_rows_per_step = settings.sft.rows_per_step * (1 - settings.sft.replay_fraction)
    return max(1, round(settings.epochs * len(rows) / chat_rows_per_step))


def train(
    chapter: Run,
    name: str,
    kitten: Kitten,
    rows: PackedRows,
    settings: Settings,
    steps: int,
    *,
    replay: bool = True,
):
    """Fine-tune, watching the loss on pretraining text; returns the finished stage."""
    config = replace(settings.sft, steps=steps)
    if not replay:
        config = replace(config, replay_fraction=0.0)
    optimizer = make_optimizer(kitten.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", kitten.common.seed, "ch1_sft", "train")
    objects = {"gpt": kitten.gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=steps, objects=objects)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=TokenStream(kitten.texts.train) if replay and config.replay_fraction else None,
    )
    watch_every = max(1, steps // 10)
    for metrics in stage.follow(training, show=("chat_loss", "base_bits_per_byte")):
        if (metrics["step"] + 1) % watch_every == 0 or metrics["step"] == 0:
            metrics["base_bits_per_byte"] = kitten.base_bits_per_byte()
    return stage


def watched(history: list[dict], key: str) -> tuple[list, list]:
    """The steps at which `key` was measured, and its values."""
    entries = [entry for entry in history if entry.get(key) is not None]
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]
