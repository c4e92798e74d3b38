"""Teaching MeowScript in two ways: with all weights, or with LoRA's detours only.

Used by story.py. Both ways see the same rows in the same order, so what differs is only what
may move.
"""

import random
from dataclasses import dataclass

from chapters.common import mixing
from chapters.common.fine_tuning import Kitten
from chapters.common.mixing import mixed_rows, with_echoes
from chapters.common.mixing import train as train_plainly
from kittenllm import checks
from kittenllm.batches import PackedRows
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.gpt import GPT
from kittenllm.kitten_town.echoes import said_after
from kittenllm.kitten_town.meow_tasks import draw_code, draw_practice, draw_task
from kittenllm.lora import add_lora, trained_parameters
from kittenllm.optim import MuonAdamW
from kittenllm.runs.run import Run
from kittenllm.settings import new_generator, setting
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

    methods: tuple[str, ...] = setting(
        ("full", "lora_16"), "ways of fine-tuning, as a comma list", choices=METHODS
    )
    echo_steps: int = setting(180, "optimizer steps of the drill that comes first: saying after")
    steps: int = setting(940, "optimizer steps of each way")
    rows_per_step: int = setting(5, "packed rows in one step")
    chat_fraction: float = setting(0.05, "share of ordinary chats among the exercises, in tokens")
    echo_fraction: float = setting(0.05, "share of the exercises that are still drills")
    replay_fraction: float = setting(0.1, "share of the rows that are pretraining text")
    matrix_lr: float = setting(4e-3, "Muon's learning rate, for the hidden matrices")
    other_lr: float = setting(6e-3, "AdamW's learning rate, for embeddings and norms")
    lora_lr: float = setting(4e-3, "learning rate of LoRA's two thin matrices")
    lora_alpha: float = setting(32.0, "how loud LoRA's detours are")
    echo_lr: float = setting(5e-3, "both learning rates of the drill that comes first")

    def __post_init__(self):
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must name each way once, got {self.methods}")
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"methods {sorted(unknown)} do not exist; there are {METHODS}")
        if not 0 <= self.chat_fraction < 1:
            raise ValueError(f"chat_fraction must be 0 or more, below 1, got {self.chat_fraction}")
        if not 0 <= self.echo_fraction <= 1:
            raise ValueError(f"echo_fraction must lie in 0 .. 1, got {self.echo_fraction}")
        if not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha must be above 0, got {self.lora_alpha}")
        self.drill()  # checks its numbers
        for method in METHODS:
            self.fine_tuning(method)  # checks the other numbers

    def fine_tuning(self, method: str) -> SFTConfig:
        """The algorithm's own settings for one way."""
        return SFTConfig(
            steps=self.steps,
            rows_per_step=self.rows_per_step,
            replay_fraction=self.replay_fraction,
            matrix_lr=self.matrix_lr if method == "full" else self.lora_lr,
            other_lr=self.other_lr,
        )

    def drill(self) -> SFTConfig:
        """The settings of the drill, which is that of the tools chapter."""
        checks.count("echo_steps", self.echo_steps)
        checks.positive("echo_lr", self.echo_lr)
        return SFTConfig(
            steps=self.echo_steps,
            rows_per_step=DRILL_ROWS,
            replay_fraction=self.replay_fraction,
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
