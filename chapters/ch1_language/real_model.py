"""A MeowScript assistant made of a real open model: python -m chapters.ch1_language --model DIR

The same exercises, the same loop and the same grading by running the code as in story.py. What can
be measured in the town only is left out: there are no ordinary chats and no replay. Instead the
model rehearses its own words, see rehearsal.py. What it forgets is measured on what it could do
before: the perplexity of a plain text, and twenty questions of general knowledge
(chapters/common/general.json).

Used by story.py, which hands over its exercises and its loop. The lesson is
chapters/real_models.md.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from chapters.ch1_language.exam import EXAM_SEED, KEYS, attempts_at
from chapters.ch1_language.rehearsal import in_turn, own_words
from chapters.common.kitten import (
    Kitten,
    RealModel,
    add_detours,
    finish_real,
    load_real,
    merged,
    mixed_rows,
    other_abilities,
    processor_time,
    rates,
    real_run,
)
from chapters.common.samples import write_samples
from kittenllm.batches import PackedRows
from kittenllm.chat import ChatTokens
from kittenllm.config import option
from kittenllm.evaluation import rate
from kittenllm.kitten_town.meow_tasks import held_out_tasks
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

LEFT_OUT = "left out, since only kittens know the town: chats, replay, other methods"
SYSTEM = "MeowScript"  # the assistant's system message; short, for it stands before every exercise
MOST_TOKENS = 130  # of a reply; a real model writes each digit and sign as a token of its own
SHOWN = 8  # exercises in samples.md
# How often each kind is trained. A real model calculates already, and needs less practice.
# What a program prints is the hardest; programs are written well after a hundred exercises.
SHARES = {"write": 0.1, "output": 0.55, "repair": 0.22, "explain": 0.08, "practice": 0.05}
AT_ONCE = 20  # exercises in one batch: after each, the screen says how far the exam is


@dataclass(frozen=True)
class RealLanguage(RealModel):
    """The settings of the real model, and of its exam."""

    model_exam: int = option(60, "with --model: held-out exercises of each kind", low=2)
    rehearsal: float = option(
        0.1, "with --model: share of the model's own words, in tokens", low=0, below=1
    )


def make_assistant(settings: RealLanguage, common: Common, make: Callable, train: Callable) -> dict:
    """Data, model, loop, look; returns the summary. `make` draws an exercise, `train` is the
    story's loop."""
    chapter = real_run("ch1_language", settings, common, {})
    if chapter.finished:
        return chapter.summary
    print(LEFT_OUT)

    # Model: with a system message of its own, which says what it is for.
    own = load_real(settings, common)
    kitten = replace(own, tokenizer=with_system(own.tokenizer, SYSTEM))
    chapter.open()
    times: dict[str, float] = {}
    with chapter.timing("eval"):
        few = max(2, settings.model_exam // 6)  # it has never seen the language
        before = chapter.once("before", lambda: look(kitten, own, few))

    # Data: exercises about taught programs, and what it rehearses, in rows of `max_tokens`.
    config = SFTConfig(
        steps=settings.model_steps,
        rows_per_step=settings.model_batch,
        replay_fraction=0.0,
        **rates(settings),
    )
    with chapter.timing("sampling"):
        rows = exercises_and_rehearsal(chapter, own, kitten, config, settings, make)

    # Loop: that of the story. Only the detours move.
    trained = add_detours(kitten, settings)
    generator = new_generator("cpu", common.seed, "ch1_language", "train")
    with processor_time(times, "train_processor_seconds"):
        limit = settings.model_pass
        train(chapter, "train", kitten, rows, config, generator, tokens_per_pass=limit)
    history = chapter.history("train", "tokens")
    kitten = merged(kitten)
    own = replace(own, gpt=kitten.gpt)

    # Look: what it learned, and what it forgot.
    with chapter.timing("eval"):
        after = chapter.once("after", lambda: look(kitten, own, settings.model_exam))
    tasks = [task for kind in KEYS for task in held_out_tasks(kind, 2, EXAM_SEED)][:SHOWN]
    write_samples(
        chapter.folder,
        [task.text for task in tasks],
        before["samples"],
        after["samples"],
        before_title="model",
        after_title="assistant",
    )
    keys = {f"{key}_before": value for key, value in before.items() if key != "samples"}
    keys |= {f"{key}_after": value for key, value in after.items() if key != "samples"}
    keys |= {"trained_parameters": trained, "tokens": sum(entry["tokens"] for entry in history)}
    keys |= {"parameters": kitten.gpt.parameter_count, "dtype": str(kitten.gpt.dtype)}
    whole = chapter.restored["train"] == 0  # else an earlier start has used some of the time
    seconds = times["train_processor_seconds"] if whole else None
    keys["train_processor_seconds"] = seconds
    keys["tokens_per_processor_second"] = keys["tokens"] / seconds if seconds else None
    print(table(keys))
    return finish_real(chapter, kitten, settings, keys)


def exercises_and_rehearsal(
    chapter: Run,
    own: Kitten,
    assistant: Kitten,
    config: SFTConfig,
    settings: RealLanguage,
    make: Callable,
) -> PackedRows:
    """The rows of all steps. What is rehearsed is said once, before any training, and kept."""
    kept = []
    if settings.rehearsal > 0:
        words = chapter.once(
            "rehearsal",
            lambda: [[w.tokens, w.loss_mask] for w in own_words(own, assistant.tokenizer)],
        )
        kept = [ChatTokens(*both) for both in words if len(both[0]) <= settings.max_tokens]
    turns = in_turn(kept, new_random(own.common.seed, "rehearsal", "order"))
    return mixed_rows(
        partial(make, shares=SHARES),
        assistant,
        config,
        chat_fraction=settings.rehearsal if kept else 0.0,
        make_ordinary=lambda tokenizer, rng: next(turns),
        row_length=settings.max_tokens,
    )


def with_system(tokenizer: Tokenizer, system: str) -> Tokenizer:
    """The same tokens, and another system message for conversations that bring none."""
    other = copy.copy(tokenizer)
    other.system = system
    return other


# ---------------------------------------------------------------------------------------- the look


def look(kitten: Kitten, own: Kitten, count: int) -> dict:
    """Rates of held-out exercises, greedily, each with its error; answers to general questions with
    the assistant's system message and with the model's own; the perplexity of a plain text."""
    scores: dict = {"samples": []}
    for kind, key in KEYS.items():
        tasks = held_out_tasks(kind, count, EXAM_SEED)
        attempts = []
        for first in range(0, count, AT_ONCE):
            part = tasks[first : first + AT_ONCE]
            attempts += attempts_at(kitten, part, temperature=0.0, most_tokens=MOST_TOKENS)
            right = sum(attempt.right for attempt in attempts)
            print(f"exam, {kind}: {right} of {len(attempts)} right, {count} asked", flush=True)
        scores[key], scores[f"{key}_stderr"] = rate(attempts, lambda attempt: attempt.right)
        scores["samples"] += [attempt.text for attempt in attempts[:2]]
    scores["general_right_as_assistant"] = other_abilities(kitten)["general_right"]
    return {**scores, **other_abilities(own)}


def table(keys: dict) -> str:
    """Before and after."""
    labels = ("writes programs", "says what they print", "mends bugs", "explains a line")
    rows = [
        (label, [f"{keys[f'{key}_{when}']:.1%}" for when in ("before", "after")])
        for label, key in zip(labels, KEYS.values(), strict=True)
    ]
    rows += [
        (label, [f"{keys[f'{key}_{when}']:.0%}" for when in ("before", "after")])
        for label, key in (
            ("general questions", "general_right"),
            ("the same, as assistant", "general_right_as_assistant"),
        )
    ]
    perplexities = [f"{keys[f'perplexity_{when}']:.2f}" for when in ("before", "after")]
    rows.append(("perplexity of a plain text", perplexities))
    lines = [f"{'':<28}{'before':>10}{'after':>10}"]
    return "\n".join(lines + [f"{label:<28}{a:>10}{b:>10}" for label, (a, b) in rows])
