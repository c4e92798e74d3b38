"""DPO on a real open model: python -m chapters.ch4_preferences --model DIR --preferences FILE

The pairs, the frozen reference and the loop are those of story.py; the method is DPO. What can be
measured in the town only is left out: the gold score, safety, tone, facts, the frontier. Instead:
held-out pairs, of prompts that no pair of the training is about, and what the model could do
before (`other_abilities`).

With LoRA there is one model and not two: what the reference says is asked before the detours are
added, and kept.

Used by story.py, which hands over its loop. The lesson is chapters/real_models.md.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from chapters.common.kitten import (
    Kitten,
    RealModel,
    add_detours,
    finish_real,
    greedy_replies,
    load_real,
    merged,
    other_abilities,
    processor_time,
    rates,
    real_run,
)
from chapters.common.pairs import LabelledPair, file_pairs, pairs_view, split_pairs
from chapters.common.samples import write_samples
from kittenllm.data_file import DataFile
from kittenllm.gpt import GPT
from kittenllm.records import load_preferences, report_problems
from kittenllm.settings import Common, main_values

LEFT_OUT = "left out, since only kittens know the town: gold score, safety, tone, IPO and ORPO"
ASKED_AT_ONCE = 20  # pairs; after them the screen says how far the reference is
SHOWN, REPLY_TOKENS = 5, 60  # samples, and how long they may be
WATCHED = 40  # held-out pairs, at most: each look reads them all
LOOKS = 4  # at the held-out pairs during the training, beside the first and the last step


def prefer(story, common: Common, file: DataFile | None, ask: Callable, learn: Callable) -> dict:
    """Data, model, loop, look; returns the summary. `story` are the settings, `ask` and `learn` the
    story's own functions.

    Raises: ValueError without a file.
    """
    if file is None:
        raise ValueError("--model needs --preferences: pairs of replies to learn from")
    settings: RealModel = story.real
    inputs = {**main_values(story), "preferences": file.digest}
    chapter = real_run("ch4_preferences", settings, common, inputs)
    if chapter.finished:
        return chapter.summary
    print(LEFT_OUT)

    # Model and data: pairs as this model reads them; some prompts are only watched.
    kitten = load_real(settings, common)
    strict = story.data.strict
    pairs, problems = file_pairs(file, kitten.tokenizer, settings.max_tokens, strict=strict)
    print(report_problems(problems) or "every record of the file is fine")
    learnt, watched = split_pairs(pairs, min(WATCHED, story.watched_pairs), common.seed)
    chapter.open()
    print(f"{len(learnt):,} pairs to learn from, {len(watched):,} to watch, for example:")
    print(pairs_view(watched[:1], kitten.tokenizer))
    questions = asked_alone(file, watched, kitten)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(kitten, questions))
    read, unseen = (asked_in_parts(ask, kitten.gpt, some) for some in (learnt, watched))

    # Loop: that of the story.
    config = replace(
        story.dpo,
        steps=max(1, round(story.epochs * len(learnt) / settings.model_batch)),
        pairs_per_step=settings.model_batch,
        **rates(settings),
    )
    trained = add_detours(kitten, settings)
    times: dict[str, float] = {}
    with processor_time(times, "train_processor_seconds"):
        limit = settings.model_pass
        learn(chapter, "dpo", kitten.gpt, read, unseen, config, looks=LOOKS, tokens_per_pass=limit)
    kitten = merged(kitten)

    # Look: of two replies that nobody trained on, has the better one gained more?
    with chapter.timing("eval"):
        after = chapter.once("after", lambda: look(kitten, questions))
    samples = [before.pop("samples"), after.pop("samples")]
    write_samples(
        chapter.folder, questions, *samples, before_title="model", after_title="after DPO"
    )
    keys = {f"{key}_before": value for key, value in before.items()}
    keys |= {f"{key}_after": value for key, value in after.items()}
    last = chapter.last_entry("dpo", "unseen_accuracy", "unseen_margin")
    keys |= {key: value for key, value in last.items() if key.startswith("unseen_")}
    history = chapter.history("dpo", "margin", "accuracy")
    keys |= {"margin_first": history[0]["margin"], "margin_last": history[-1]["margin"]}
    whole = chapter.restored["dpo"] == 0  # else an earlier start has used some of the time
    keys["train_processor_seconds"] = times["train_processor_seconds"] if whole else None
    keys["reference_seconds"] = read.seconds + unseen.seconds
    keys |= {"trained_parameters": trained, "steps": config.steps}
    keys |= {"pairs": len(learnt), "watched": len(watched)}
    error = keys["unseen_accuracy_stderr"]
    print(
        f"held-out pairs whose better reply gained more: {keys['unseen_accuracy']:.1%} ± "
        f"{'n/a' if error is None else f'{error:.1%}'}, margin {keys['unseen_margin']:+.2f} nats"
    )
    return finish_real(chapter, kitten, settings, keys)


def asked_in_parts(ask: Callable, reference: GPT, pairs: list[LabelledPair]):
    """What `ask` returns for all pairs, made in parts: it takes minutes, and somebody waits."""
    parts = []
    for first in range(0, len(pairs), ASKED_AT_ONCE):
        parts.append(ask(reference, pairs[first : first + ASKED_AT_ONCE]))
        done = min(first + ASKED_AT_ONCE, len(pairs))
        print(f"the reference has read {done} of {len(pairs)} pairs", flush=True)
    return replace(
        parts[0],
        pairs=pairs,
        ref_logprobs=torch.cat([part.ref_logprobs for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )


def asked_alone(file: DataFile, watched: list[LabelledPair], kitten: Kitten) -> list[str]:
    """The texts of some watched prompts that are one question and no longer conversation."""
    records, _ = load_preferences(file)
    single = [r["prompt"][0]["content"] for r in records if len(r["prompt"]) == 1]
    prompts = {tuple(pair.prompt) for pair in watched}
    decode = kitten.tokenizer.decode
    shown = {decode(list(prompt)) for prompt in prompts}
    return [text for text in dict.fromkeys(single) if any(text in one for one in shown)][:SHOWN]


def look(kitten: Kitten, questions: list[str]) -> dict:
    """Keys: those of `other_abilities`; samples, the greedy replies to the questions."""
    samples = greedy_replies(kitten, questions, REPLY_TOKENS) if questions else []
    return {**other_abilities(kitten), "samples": samples}
