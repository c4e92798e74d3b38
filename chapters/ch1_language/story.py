"""Chapter 1, language: an assistant for a programming language of our own, MeowScript.

Fine-tunes the kitten of ch1_sft to write, run in its head, mend and explain little programs, in two
ways side by side: with all weights, and with LoRA, which trains a small detour around each matrix.
Every answer is graded by running the code. --methods chooses the ways. --model DIR makes an
assistant of a real open model instead of the kitten. Run on its own. MEOWSCRIPT.md beside this file
describes the language, lesson.md is the lesson.
"""

import copy
import math
import random
import time
from dataclasses import dataclass, replace

import torch

from chapters.ch1_language.exam import KEYS, chat_exam, fixed_replies, fixed_tasks, language_exam
from chapters.ch1_language.real_model import RealLanguage, make_assistant
from chapters.common.kitten import Kitten, load_chat_kitten, mixed_rows, sft_stage, watched
from chapters.common.runner import ensure
from chapters.common.samples import write_samples
from chapters.common.terminal import use_colour
from kittenllm import plots
from kittenllm.batches import PackedRows
from kittenllm.chat import ChatTokens, colour_view, encode_chat
from kittenllm.config import check_options, nested, option
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.gpt import GPT
from kittenllm.kitten_town.meow_tasks import KINDS, draw_practice, draw_task
from kittenllm.lora import add_lora, merge_lora, trained_parameters
from kittenllm.optim import MuonAdamW
from kittenllm.runs.checkpoints import save_model
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.skills.meowscript import run as run_program
from kittenllm.skills.meowscript_format import diary, format_program
from kittenllm.tokenizer import Tokenizer

METHODS = ("full", "lora_1", "lora_4", "lora_16")
# How often each kind of exercise is trained. What a program prints is the hardest to learn;
# practice (sums and comparisons) is for that alone, no exam asks for it.
KIND_SHARES = {"write": 0.2, "output": 0.34, "repair": 0.2, "explain": 0.14, "practice": 0.12}


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    methods: tuple[str, ...] = option(
        ("full", "lora_16"), "ways of fine-tuning, as a comma list", choices=METHODS
    )
    sft: SFTConfig = nested(  # of each way
        SFTConfig(steps=940, rows_per_step=5, replay_fraction=0.1, matrix_lr=4e-3, other_lr=6e-3),
        hidden="warmup cooldown max_grad_norm",
    )
    chat_fraction: float = option(
        0.05, "share of ordinary chats among the exercises, in tokens", low=0, below=1
    )
    lora_lr: float = option(4e-3, "learning rate of LoRA's two thin matrices", above=0)
    lora_alpha: float = option(32.0, "how loud LoRA's detours are", above=0)
    real: RealLanguage = nested(
        RealLanguage(max_tokens=256, model_steps=170, model_batch=2, model_lr=2e-3), extra=True
    )

    def __post_init__(self):
        check_options(self)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must name each way once, got {self.methods}")

    def fine_tuning(self, method: str) -> SFTConfig:
        """The algorithm's own settings for one way."""
        return self.sft if method == "full" else replace(self.sft, matrix_lr=self.lora_lr)


QUICK = {"steps": 6, "model_steps": 2, "model_batch": 1, "model_exam": 2}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look, once for each way of fine-tuning; returns the summary."""
    if settings.real.model:  # a real model in the place of the kitten: real_model.py
        return make_assistant(settings.real, common, exercise, train)
    base, chat = ensure("ch0_base", common), ensure("ch1_sft", common)
    inputs = {name: fingerprint_of(common, name) for name in ("ch0_base", "ch1_sft")}
    chapter = Run(common, "ch1_language", settings, inputs=inputs)
    if chapter.finished:
        return chapter.summary

    # Model: the kitten that chats, and what it knows about MeowScript before.
    chat_kitten = load_chat_kitten(base, chat, common)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(chat_kitten))

    # Data: exercises about taught programs, the same rows for every way.
    print(demonstration(chat_kitten))
    rows = mixed_rows(exercise, chat_kitten, settings.sft, chat_fraction=settings.chat_fraction)

    # Loop and look: every way starts from the same kitten, the one that chats.
    results: dict[str, dict | None] = dict.fromkeys(METHODS)
    kittens = {}
    for method in settings.methods:
        kitten = replace(chat_kitten, gpt=copy.deepcopy(chat_kitten.gpt))
        results[method] = learn(chapter, method, kitten, rows, settings, before)
        kittens[method] = kitten
    first = settings.methods[0]
    write_samples(
        chapter.folder,
        [task.text for task in fixed_tasks()],
        before["samples"],
        results[first]["samples"],
        before_title="chat",
        after_title=first,
    )
    for method in settings.methods[1:]:
        save_model(chapter.folder / f"{method}.pt", kittens[method].gpt, chat_kitten.tokenizer)
    keys = {"before": before, **results}
    draw(chapter, results)
    print(table(keys))
    return chapter.finish(keys, model=(kittens[first].gpt, chat_kitten.tokenizer))


# ---------------------------------------------------------------------------------------- the loop


def train(
    chapter: Run,
    name: str,
    kitten: Kitten,
    rows: PackedRows,
    config: SFTConfig,
    generator: torch.Generator,
    *,
    tokens_per_pass: int | None = None,
) -> MuonAdamW:
    """The loop of chapter 1, for whatever weights may move; returns the optimizer."""
    stage, optimizer = sft_stage(chapter, name, kitten.gpt, config, generator)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=kitten.texts.train if kitten.texts else None,
        tokens_per_pass=tokens_per_pass,
    )
    for _ in stage.follow(training, show=("chat_loss",)):
        pass
    return optimizer


def learn(
    chapter: Run, method: str, kitten: Kitten, rows: PackedRows, settings: Settings, before: dict
) -> dict:
    """Train in one way, merge the detours if there are any, and examine; changes `kitten`."""
    seed, rank = kitten.common.seed, rank_of(method)
    if rank is not None:
        generator = new_generator("cpu", seed, "ch1_language", "detours")
        add_lora(kitten.gpt, rank=rank, alpha=settings.lora_alpha, generator=generator)
    generator = new_generator("cpu", seed, "ch1_language", "train")
    optimizer = train(chapter, method, kitten, rows, settings.fine_tuning(method), generator)
    costs = cost(kitten.gpt, optimizer)
    train_seconds = training_seconds(chapter, method)
    difference = None if rank is None else merge(kitten, rows)
    with chapter.timing("eval"):
        after = chapter.once(f"after_{method}", lambda: look(kitten))
    for end in ("", "_stderr"):
        after[f"chat_accuracy_before{end}"] = before[f"chat_accuracy{end}"]
        after[f"chat_accuracy_after{end}"] = after.pop(f"chat_accuracy{end}")
    return {
        **after,
        **costs,
        "train_seconds": train_seconds,
        "seconds": train_seconds + after["exam_seconds"],
        "forgetting_bits_per_byte": after["bits_per_byte"] - before["bits_per_byte"],
        "merge_difference": difference,
    }


@torch.inference_mode()
def merge(kitten: Kitten, rows: PackedRows) -> float:
    """Add the detours to their matrices; returns the largest change of a logit."""
    tokens = rows.tokens[:4].to(kitten.gpt.device)  # (4, T)
    detoured = kitten.gpt(tokens)  # (4, T, V)
    merged = merge_lora(kitten.gpt)(tokens)  # (4, T, V)
    return (merged - detoured).abs().max().item()


def training_seconds(chapter: Run, name: str) -> float:
    """How long one training of this run took."""
    return sum(entry.get("seconds") or 0.0 for entry in chapter.history(name))


def rank_of(method: str) -> int | None:
    """ "lora_16" -> 16; "full" -> None."""
    return None if method == "full" else int(method.removeprefix("lora_"))


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


# ---------------------------------------------------------------------------------------- the data


def exercise(
    tokenizer: Tokenizer, rng: random.Random, shares: dict[str, float] = KIND_SHARES
) -> ChatTokens:
    """One exercise about a taught program, with its answer."""
    (kind,) = rng.choices(list(shares), list(shares.values()))
    task = draw_practice(rng) if kind == "practice" else draw_task(kind, rng)
    return encode_chat(tokenizer, task.messages())


def demonstration(kitten: Kitten) -> str:
    """A program, what the machine makes of it, and an exercise as it is trained."""
    program = "let x = 4; repeat 3 { let x = x+2; if x > 7 { purr x; } }"
    lines = ["\na program, and what happens when it runs:\n", format_program(program), ""]
    lines += ["  " + ", ".join(diary(program)), f"  prints {', '.join(run_program(program))}", ""]
    lines.append("an exercise of each kind; only the marked tokens are trained:\n")
    rng = new_random(kitten.common.seed, "ch1_language", "view")
    for kind in KINDS:
        chat = encode_chat(kitten.tokenizer, draw_task(kind, rng).messages())
        view = colour_view(kitten.tokenizer, chat.tokens, chat.loss_mask, colour=use_colour())
        lines += [view, ""]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- the look


def look(kitten: Kitten) -> dict:
    """All exams, and how long they took."""
    started = time.monotonic()
    scores = {**language_exam(kitten), **chat_exam(kitten), "samples": fixed_replies(kitten)}
    return {**scores, "exam_seconds": time.monotonic() - started}


# ------------------------------------------------------------------------------------ the pictures


def draw(chapter: Run, results: dict[str, dict | None]) -> None:
    """methods.png: every way of fine-tuning in one picture, against how much it trains."""
    of_method = {method: row for method, row in results.items() if row}
    run_methods = sorted(of_method, key=lambda method: of_method[method]["trained_parameters"])
    rows = [of_method[method] for method in run_methods]
    powers = [math.log10(row["trained_parameters"]) for row in rows]

    def against_size(*keys: str) -> dict[str, tuple[list, list]]:
        return {key.removesuffix("_accuracy"): (powers, [row[key] for row in rows]) for key in keys}

    losses = {}
    for method in run_methods:
        steps, values = watched(chapter.history(method), "chat_loss")
        losses[method] = (steps, plots.moving_average(values, 20))
    x_label = "trained parameters, as a power of ten"
    plots.panels(
        chapter.folder / "methods.png",
        [
            plots.Panel(losses, title="Learning", y_label="nats per trained token"),
            plots.Panel(
                against_size(*KEYS.values()),
                title="Learned: held-out exercises",
                x_label=x_label,
                y_label="right, by running the code",
            ),
            plots.Panel(
                against_size("forgetting_bits_per_byte"),
                title="Forgotten: reading",
                x_label=x_label,
                y_label="bits per byte more",
            ),
            plots.Panel(
                against_size("chat_accuracy_after"),
                title="Forgotten: chatting",
                x_label=x_label,
                y_label="chat questions right",
                reference_lines={"before": rows[0]["chat_accuracy_before"]},
            ),
            plots.Panel(
                against_size("memory_mb"),
                title="Memory",
                x_label=x_label,
                y_label="weights, gradients, optimizer, MB",
            ),
            plots.Panel(
                against_size("train_seconds"),
                title="Time",
                x_label=x_label,
                y_label="seconds of training",
            ),
        ],
        columns=3,
        title="From left to right: " + ", ".join(run_methods),
    )


def table(keys: dict) -> str:
    """What every way learned, what it forgot and what it cost, in 80 columns."""
    names = {"before": "before", **{method: method for method in METHODS if keys[method]}}
    lines = ["".join([f"{'':<26}", *(f"{name:>13}" for name in names)])]

    def add(label: str, cell) -> None:
        lines.append(f"{label:<26}" + "".join(f"{cell(keys[name]):>13}" for name in names))

    def percent(key: str):
        def shown(row: dict) -> str:
            error = row[f"{key}_stderr"]
            return f"{row[key]:.1%} ±" + ("n/a" if error is None else f"{100 * error:.1f}")

        return shown

    labels = ("writes programs", "says what they print", "mends bugs", "explains a line")
    for label, key in zip(labels, KEYS.values(), strict=True):
        add(label, percent(key))

    def chat_cell(row: dict) -> str:
        return percent("chat_accuracy" if "chat_accuracy" in row else "chat_accuracy_after")(row)

    add("answers in a chat", chat_cell)
    add("reading, bits per byte", lambda row: f"{row['bits_per_byte']:.3f}")
    add("trained parameters", lambda row: f"{row.get('trained_parameters', 0):,}")
    add("memory, MB", lambda row: f"{row.get('memory_mb', 0):.1f}")
    add("seconds, exams included", lambda row: f"{row.get('seconds', 0):.0f}")
    return "\n".join([*lines, ERRORS_MEAN])
