"""Teaching MeowScript in two ways: with all weights, or with LoRA's detours only.

Used by story.py. Both ways see the same rows in the same order, so what differs is only what
may move.
"""

import random
from dataclasses import dataclass, replace

from chapters.common import mixing
from chapters.common.fine_tuning import Kitten
from chapters.common.mixing import mixed_rows, with_echoes
from chapters.common.mixing import train as train_plainly
from kittenllm.batches import PackedRows
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.config import check_options, nested, option
from kittenllm.gpt import GPT
from kittenllm.kitten_town.echoes import said_after
from kittenllm.kitten_town.meow_tasks import draw_code, draw_practice, draw_task
from kittenllm.lora import add_lora, trained_parameters
from kittenllm.optim import MuonAdamW
from kittenllm.runs.run import Run
from kittenllm.settings import new_generator
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

DRILL_ROWS = 8  # packed rows in one step of the drill
DRILL_CHATS = 0.1  # share of ordinary chats in the drill, in tokens
CODE_SHARE = 0.3  # of the drill: programs and lines of them are said after, not names and numbers
METHODS = ("full", "lora_1", "lora_4", "lora_16")
# How often each kind of exercise is trained. What a program prints is the hardest to learn;
# practice (sums and comparisons) is for that alone, no exam asks for it.
KIND_SHARES = {"write": 0.15, "output": 0.4, "repair": 0.25, "explain": 0.03, "practice": 0.17}


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    methods: tuple[str, ...] = option(
        ("full", "lora_16"), "ways of fine-tuning, as a comma list", choices=METHODS
    )
    echo_steps: int = option(
        180, "optimizer steps of the drill that comes first: saying after", low=1
    )
    echo_lr: float = option(5e-3, "both learning rates of the drill that comes first", above=0)
    sft: SFTConfig = nested(  # of each way
        SFTConfig(steps=940, rows_per_step=5, replay_fraction=0.1, matrix_lr=4e-3, other_lr=6e-3),
        hidden="warmup cooldown max_grad_norm",
    )
    chat_fraction: float = option(
        0.05, "share of ordinary chats among the exercises, in tokens", low=0, below=1
    )
    echo_fraction: float = option(
        0.05, "share of the exercises that are still drills", low=0, high=1
    )
    lora_lr: float = option(4e-3, "learning rate of LoRA's two thin matrices", above=0)
    lora_alpha: float = option(32.0, "how loud LoRA's detours are", above=0)

    def __post_init__(self):
        check_options(self)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must name each way once, got {self.methods}")

    def fine_tuning(self, method: str) -> SFTConfig:
        """The algorithm's own settings for one way."""
        return self.sft if method == "full" else replace(self.sft, matrix_lr=self.lora_lr)

    def drill(self) -> SFTConfig:
        """The settings of the drill, which is that of the tools chapter."""
        return replace(
            self.sft,
            steps=self.echo_steps,
            rows_per_step=DRILL_ROWS,
            matrix_lr=self.echo_lr,
            other_lr=self.echo_lr,
        )


QUICK = {"echo_steps": 4, "steps": 6}


def rank_of(method: str) -> int | None:
    """ "lora_16" -> 16; "full" -> None."""
    return None if method == "full" else int(method.removeprefix("lora_"))


def say_after(chapter: Run, kitten: Kitten, settings: Settings) -> float:
    """Teach exact copying, with all weights, before the ways part; returns the seconds.

    A program is full of names and numbers that stand in the question, and whoever mends one must
    copy the rest of it.
    """
    drill = settings.drill()
    row_length = kitten.gpt.config.context_length
    rows = mixed_rows(
        echo, kitten.tokenizer, drill, kitten.common, row_length, chat_fraction=DRILL_CHATS
    )
    train_plainly(chapter, "echoes", kitten, rows, drill, salt="ch1_tools")
    return sum(entry.get("seconds") or 0.0 for entry in chapter.history("echoes"))


def echo(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One drill: code, or names and numbers, said three times."""
    if rng.random() < CODE_SHARE:
        code = draw_code(rng)
        return encode_chat(tokenizer, said_after(code, code))
    return mixing.echo(tokenizer, rng)


def exercise(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One exercise about a taught program, with its answer."""
    (kind,) = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))
    task = draw_practice(rng) if kind == "practice" else draw_task(kind, rng)
    return encode_chat(tokenizer, task.messages())


def exercise_rows(kitten: Kitten, settings: Settings) -> PackedRows:
    """Fresh exercises for all steps; drills and ordinary chats between them."""
    made = with_echoes(exercise, echo, settings.echo_fraction)
    row_length = kitten.gpt.config.context_length
    config, share = settings.fine_tuning("full"), settings.chat_fraction
    return mixed_rows(
        made, kitten.tokenizer, config, kitten.common, row_length, chat_fraction=share
    )


def train(
    chapter: Run, method: str, kitten: Kitten, rows: PackedRows, settings: Settings
) -> dict[str, float]:
    """Fine-tune `kitten` in one way; returns what it cost.

    With LoRA the detours are still there afterwards: the caller merges them.
    Keys: train_seconds, and those of `cost`.
    """
    seed, rank = kitten.common.seed, rank_of(method)
    if rank is not None:
        generator = new_generator("cpu", seed, "ch1_language", "detours")
        add_lora(kitten.gpt, rank=rank, alpha=settings.lora_alpha, generator=generator)
    config = settings.fine_tuning(method)
    stage = train_plainly(chapter, method, kitten, rows, config, salt="ch1_language")
    return cost(kitten.gpt, stage.objects["optimizer"]) | {
        "train_seconds": sum(entry.get("seconds") or 0.0 for entry in chapter.history(method))
    }


def cost(gpt: GPT, optimizer: MuonAdamW) -> dict[str, float]:
    """How much is trained, and what must be kept in memory for it.

    Keys: trained_parameters, trained_share (of all numbers of the model without detours),
    memory_mb (weights, gradients and the optimizer's memory, 4 bytes a number; what the layers
    remember from forward to backward is the same for all ways and not in it).
    """
    trained = trained_parameters(gpt)
    model = gpt.parameter_count
    remembered = sum(
        value.numel()
        for part in optimizer.parts.values()
        for memory in part.state.values()
        for value in memory.values()
    )
    whole = model if trained == model else model - trained  # without the detours
    return {
        "trained_parameters": trained,
        "trained_share": trained / whole,
        "memory_mb": 4 * (model + trained + remembered) / 1e6,
    }
