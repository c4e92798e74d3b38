"""Chapter 1, language: an assistant for a programming language of our own, MeowScript.

Teaches the kitten of ch1_sft to copy exactly, then fine-tunes it to write, run in its head, mend
and explain little programs, in two ways side by side: with all weights, and with LoRA, which trains
a small detour around each matrix. Every answer is graded by running the code. --methods chooses
the ways. Run on its own. MEOWSCRIPT.md beside this file describes the language; the lesson is
chapters/ch1_language/lesson.md.
"""

import copy
import math
import time
from dataclasses import replace

import torch

from chapters.ch1_language.exam import KEYS, chat_exam, fixed_replies, fixed_tasks, language_exam
from chapters.ch1_language.training import (
    METHODS,
    QUICK,
    Settings,
    exercise_rows,
    rank_of,
    say_after,
    train,
)
from chapters.common.fine_tuning import Kitten, watched
from chapters.common.mixing import load_chat_kitten
from chapters.common.runner import ensure
from chapters.common.samples import write_samples
from chapters.common.terminal import use_colour
from kittenllm import plots
from kittenllm.batches import PackedRows
from kittenllm.chat import colour_view, encode_chat
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.kitten_town.meow_tasks import KINDS, draw_task
from kittenllm.lora import merge_lora
from kittenllm.runs.checkpoints import save_model
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.settings import Common, new_random
from kittenllm.skills.meowscript import run as run_program
from kittenllm.skills.meowscript_format import diary, format_program

__all__ = ["QUICK", "Settings", "run"]


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look, once for each way of fine-tuning; returns the summary."""
    base, chat = ensure("ch0_base", common), ensure("ch1_sft", common)
    inputs = {name: fingerprint_of(common, name) for name in ("ch0_base", "ch1_sft")}
    chapter = Run(common, "ch1_language", settings, inputs=inputs)
    if chapter.finished:
        return chapter.summary

    # Model: the kitten that chats, and what it knows about MeowScript before.
    chat_kitten = load_chat_kitten(base, chat, common)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(chat_kitten))

    # Data and loop, first a drill for all ways: saying after.
    practised = replace(chat_kitten, gpt=copy.deepcopy(chat_kitten.gpt))
    drill_seconds = say_after(chapter, practised, settings)
    save_model(chapter.folder / "drilled.pt", practised.gpt, practised.tokenizer)

    # Data: exercises about taught programs, the same rows for every way.
    print(demonstration(chat_kitten))
    rows = exercise_rows(chat_kitten, settings)

    # Loop and look: every way starts from the same kitten, the one that has practised.
    results: dict[str, dict | None] = dict.fromkeys(METHODS)
    kittens = {}
    for method in settings.methods:
        kitten = replace(practised, gpt=copy.deepcopy(practised.gpt))
        results[method] = learn(chapter, method, kitten, rows, settings, before)
        results[method]["seconds"] += drill_seconds
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


# ---------------------------------------------------------------------------------------- the data


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


# ------------------------------------------------------------------------------- the loop, the look


def look(kitten: Kitten) -> dict:
    """All exams, and how long they took."""
    started = time.monotonic()
    scores = {**language_exam(kitten), **chat_exam(kitten), "samples": fixed_replies(kitten)}
    return {**scores, "exam_seconds": time.monotonic() - started}


def learn(
    chapter: Run, method: str, kitten: Kitten, rows: PackedRows, settings: Settings, before: dict
) -> dict:
    """Train in one way, merge the detours if there are any, and examine; changes `kitten`."""
    costs = train(chapter, method, kitten, rows, settings)
    difference = None if rank_of(method) is None else merge(kitten, rows)
    with chapter.timing("eval"):
        after = chapter.once(f"after_{method}", lambda: look(kitten))
    for end in ("", "_stderr"):
        after[f"chat_accuracy_before{end}"] = before[f"chat_accuracy{end}"]
        after[f"chat_accuracy_after{end}"] = after.pop(f"chat_accuracy{end}")
    return {
        **after,
        **costs,
        "seconds": costs["train_seconds"] + after["exam_seconds"],
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
