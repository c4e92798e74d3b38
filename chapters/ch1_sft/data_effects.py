"""What is each step of the data work worth? Train again without it, and look.

The part of chapter 1 behind --compare: without replay, and without each data step in turn. One more
training changes nothing but the order of the chats. What it moves is luck, and a difference that is
not larger says nothing about the data.
"""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import torch

from chapters.common.kitten import Kitten, load_base, watched
from chapters.common.measuring import counts_of
from chapters.common.terminal import with_error
from kittenllm import cleaning, plots
from kittenllm.batches import PackedRows
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import ERRORS_MEAN, FULL_COUNTS, evaluate, mean_and_error
from kittenllm.kitten_town.facts import PEOPLE, build_town
from kittenllm.kitten_town.raw_chats import FORBIDDEN_HELP, FORBIDDEN_QUESTIONS, SECRET_QUESTIONS
from kittenllm.runs.run import Run
from kittenllm.sampling import generate
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig

COMPARE_COUNTS = {kind: (questions // 2, 1) for kind, (questions, _) in FULL_COUNTS.items()}
AGAIN = "everything, again"
OTHER_ORDER = 1_000  # added to the seed: the same chats in another order
PROBES = 60  # questions after secrets, and as many after forbidden help


def compare(
    chapter: Run,
    base: dict,
    records: list[dict],
    settings,
    config: SFTConfig,
    packed_rows: Callable[..., PackedRows],
    train: Callable[..., None],
) -> dict:
    """Train again: in another order, without replay, and without each data step in turn, always as
    many steps as the real run.

    `settings` are the chapter's, `config` is what its run was trained with, and `packed_rows` and
    `train` are the chapter's own way from the chats to the loop.
    """
    common = chapter.common
    variants: dict[str, tuple[tuple[str, ...], SFTConfig]] = {
        "everything": (settings.data_steps, config),
        AGAIN: (settings.data_steps, config),
        "no replay": (settings.data_steps, replace(config, replay_fraction=0.0)),
    }
    for step in settings.data_steps:
        others = tuple(other for other in settings.data_steps if other != step)
        variants[f"without {step}"] = (others, config)
    effects = {}
    for name, (data_steps, variant) in variants.items():
        label = name.replace(",", "").replace(" ", "_")
        kitten = load_base(base, common)
        if name == AGAIN:
            kitten = replace(kitten, common=replace(common, seed=common.seed + OTHER_ORDER))
        start_bits = kitten.base_bits_per_byte()
        rng = new_random(common.seed, "ch1_sft", "balance")
        kept, _ = cleaning.clean(records, rng, steps=data_steps)
        kept = kept[: settings.most_chats] if settings.most_chats else kept
        rows = packed_rows(kept, kitten.tokenizer, kitten.gpt.config.context_length)
        train(chapter, f"compare_{label}", kitten, rows, variant)
        effects[name] = chapter.once(f"effect_{label}", lambda k=kitten: effect_of(k, common))
        effects[name]["forgetting_bits_per_byte"] = kitten.base_bits_per_byte() - start_bits
    draw_comparison(chapter)
    print(effects_table(effects))
    forgotten = effects["no replay"]["forgetting_bits_per_byte"]
    return {"data_effects": effects, "forgetting_without_replay": forgotten}


def effect_of(kitten: Kitten, common: Common) -> dict[str, float]:
    """The numbers that the comparison shows for one variant."""
    counts = counts_of(common, COMPARE_COUNTS)
    generator = new_generator(common.device, common.seed, "ch1_sft", "compare")
    scores, _ = evaluate(
        kitten.gpt, kitten.tokenizer, build_town(), counts=counts, generator=generator
    )
    rng = random.Random(0)
    people = [rng.choice(PEOPLE) for _ in range(PROBES)]
    secret = "|".join(cleaning.SECRET_PATTERNS)
    effect = {}
    for key, name in (
        ("answer_accuracy_sampled", "answer_accuracy"),
        ("safe_rate", "safe_rate"),
    ):
        effect[key], effect[f"{key}_stderr"] = scores[name], scores[f"{name}_stderr"]
    for key, questions, pattern in (
        ("leak_rate", SECRET_QUESTIONS, secret),
        ("forbidden_rate", FORBIDDEN_QUESTIONS, FORBIDDEN_HELP),
    ):
        mean, error = probe(kitten, questions, people, pattern, generator)
        effect[key], effect[f"{key}_stderr"] = mean, error
    return effect


def probe(
    kitten: Kitten, questions, people, pattern: str, generator: torch.Generator
) -> tuple[float, float]:
    """Share of the replies to `questions` (about `people`) in which `pattern` is found, and its
    standard error by person."""
    texts = [questions[i % len(questions)].format(person=p) for i, p in enumerate(people)]
    prompts = [chat_prompt(kitten.tokenizer, [{"role": "user", "content": t}]) for t in texts]
    rollout = generate(kitten.gpt, prompts, max_new_tokens=40, temperature=1.0, generator=generator)
    replies = [kitten.tokenizer.decode(reply) for reply in rollout.replies()]
    found = [float(bool(re.search(pattern, reply, re.IGNORECASE))) for reply in replies]
    return mean_and_error(found, people)


def effects_table(effects: dict[str, dict[str, float]]) -> str:
    """What each step of the data work is worth, in 80 columns."""
    columns = {
        "answers": "answer_accuracy_sampled",
        "safe": "safe_rate",
        "leaks": "leak_rate",
        "forbidden": "forbidden_rate",
    }
    lines = [f"{'variant':<22}" + "".join(f"{title:>13}" for title in columns) + f"{'forgets':>9}"]
    for name, effect in effects.items():
        line = f"{name:<22}"
        for key in columns.values():
            line += with_error(100 * effect[key], effect_error(effect, key), ".1f").rjust(13)
        lines.append(f"{line}{effect['forgetting_bits_per_byte']:>9.3f}")
    notes = ["rates in percent", ERRORS_MEAN]
    if AGAIN in effects:
        notes.append(f"The rows everything and {AGAIN} differ in the order of the chats alone.")
    return "\n".join([*lines, *notes])


def effect_error(effect: dict, key: str) -> float | None:
    """The standard error of a rate in percent, if it has one."""
    error = effect[f"{key}_stderr"]
    return None if error is None else 100 * error


def draw_comparison(chapter: Run) -> None:
    """forgetting.png: the loss on pretraining text during SFT, with and without replay."""
    series = {
        "with replay": watched(chapter.history("compare_everything"), "base_bits_per_byte"),
        "without replay": watched(chapter.history("compare_no_replay"), "base_bits_per_byte"),
    }
    plots.curves(
        chapter.folder / "forgetting.png",
        series,
        title="What SFT makes the kitten forget",
        x_label="step",
        y_label="loss on pretraining text, bits per byte",
    )
