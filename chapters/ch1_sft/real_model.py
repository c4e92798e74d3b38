"""Fine-tune a real open model: python -m chapters.ch1_sft --model DIR --chats FILE

The data work, the mask and the loop are those of story.py. What can be measured in the town only is
left out: facts, safety, tone, and the replay of pretraining text. Instead, a tenth of the
conversations is held out, and the loss on it is measured before and after; and what the model could
do before, see `other_abilities`.

Used by story.py, which hands over its loop. The lesson is chapters/real_models.md.
"""

from collections.abc import Callable

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
    rates,
    real_run,
)
from chapters.common.samples import write_samples
from kittenllm.batches import PackedRows
from kittenllm.records import RecordError
from kittenllm.settings import Common, main_values, new_random
from kittenllm.sft import SFTConfig, sft_loss

LEFT_OUT = "left out, since only kittens know the town: facts, safety, tone, and replay"
HELD_OUT = 10  # every tenth conversation, 100 at most
SHOWN, REPLY_TOKENS = 5, 60  # samples, and how long they may be


def fine_tune(
    story,
    common: Common,
    kept: list[dict],
    digest: str,
    packed_rows: Callable[..., PackedRows],
    train: Callable,
) -> dict:
    """Model, loop, look; returns the summary. `kept` are the clean conversations of a file with
    this digest; `story` are the settings, `packed_rows` and `train` the story's own functions."""
    settings: RealModel = story.real
    inputs = {**main_values(story), "chats": digest}
    chapter = real_run("ch1_sft", settings, common, inputs)
    if chapter.finished:
        return chapter.summary
    print(LEFT_OUT)
    kept = kept[: story.most_chats] if story.most_chats else kept
    learnt, unseen = split(kept, common.seed)

    # Model, and the conversations as it reads them.
    kitten = load_real(settings, common)
    rows = packed_rows(learnt, kitten.tokenizer, settings.max_tokens)
    unseen_rows = packed_rows(unseen, kitten.tokenizer, settings.max_tokens)
    chapter.open()
    questions = first_questions(unseen)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(kitten, unseen_rows, questions))

    # Loop: that of the story.
    config = SFTConfig(
        steps=max(1, round(story.epochs * len(rows) / settings.model_batch)),
        rows_per_step=settings.model_batch,
        replay_fraction=0.0,
        **rates(settings),
    )
    trained = add_detours(kitten, settings)
    train(chapter, "train", kitten, rows, config, tokens_per_pass=settings.model_pass)
    kitten = merged(kitten)

    # Look: is a conversation that it never saw less of a surprise?
    with chapter.timing("eval"):
        after = chapter.once("after", lambda: look(kitten, unseen_rows, questions))
    write_samples(
        chapter.folder,
        questions,
        before.pop("samples"),
        after.pop("samples"),
        before_title="model",
        after_title="after SFT",
    )
    keys = {f"{key}_before": value for key, value in before.items()}
    keys |= {f"{key}_after": value for key, value in after.items()}
    keys |= {"trained_parameters": trained, "steps": config.steps}
    keys |= {"learnt": len(learnt), "held_out": len(unseen)}
    for key in before:
        print(f"{key}: {before[key]:.3f} -> {after[key]:.3f}")
    return finish_real(chapter, kitten, settings, keys)


def split(records: list[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """Conversations to learn from, and others to measure with.

    Raises: RecordError for a single one.
    """
    if len(records) < 2:
        raise RecordError("one conversation is left: give two at least, one to measure with")
    shuffled = list(records)
    new_random(seed, "ch1_sft", "held out").shuffle(shuffled)
    count = min(100, max(1, len(records) // HELD_OUT))
    return shuffled[count:], shuffled[:count]


def first_questions(records: list[dict]) -> list[str]:
    """What the user says first in some of the conversations."""
    turns = [turn for record in records[:SHOWN] for turn in record["messages"][:2]]
    return [turn["content"] for turn in turns if turn["role"] == "user"][:SHOWN]


@torch.inference_mode()
def look(kitten: Kitten, unseen: PackedRows, questions: list[str]) -> dict:
    """Keys: unseen_loss (nats per token of the held-out replies), those of `other_abilities`."""
    nats, count = 0.0, 0
    for row in torch.arange(len(unseen)).split(1):
        rows = unseen.select(row).to(kitten.gpt.device)
        logits = kitten.gpt(rows.tokens, document_ids=rows.document_ids)  # (1, T, V)
        loss, _ = sft_loss(logits, rows.tokens, rows.loss_mask)
        tokens = int(rows.loss_mask[:, 1:].sum())
        nats, count = nats + tokens * loss.item(), count + tokens
    samples = greedy_replies(kitten, questions, REPLY_TOKENS)
    return {"unseen_loss": nats / max(1, count), **other_abilities(kitten), "samples": samples}
