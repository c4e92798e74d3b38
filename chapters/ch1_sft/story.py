"""Chapter 1: supervised fine-tuning, from a text continuer to a kitten that answers.

Cleans, filters and balances a raw data set of chats, marks the dialogue with special tokens, and
trains on the assistant's words only, replaying some pretraining text so that nothing is forgotten.
--chats FILE trains on your own conversations, with --model DIR a real open model instead of the
kitten; --compare measures what each step of the data work is worth. The lesson is
chapters/ch1_sft/lesson.md.
"""

import re
from dataclasses import dataclass, replace

from chapters.ch1_sft.data_effects import compare
from chapters.ch1_sft.real_model import fine_tune
from chapters.common.kitten import Kitten, RealModel, load_base, sft_stage, watched
from chapters.common.measuring import counts_of
from chapters.common.runner import ensure
from chapters.common.samples import DRAWN, TYPICAL, typical_replies, write_samples
from chapters.common.terminal import use_colour, with_error
from kittenllm import cleaning, plots
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import colour_view, encode_chat
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import read_data_file
from kittenllm.evaluation import (
    ERRORS_MEAN,
    evaluate,
    evaluation_questions,
    fixed_questions,
    rate,
)
from kittenllm.kitten_town import DATA
from kittenllm.kitten_town.facts import build_town
from kittenllm.records import RecordError, load_chats, report_problems, skipped
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    chats: str = option("", "train on the conversations of this JSON or JSONL file")
    strict: bool = option(False, "stop at the first bad record instead of skipping it")
    data_steps: tuple[str, ...] = option(
        cleaning.STEPS, "data work to do, as a comma list", choices=cleaning.STEPS
    )
    most_chats: int = option(0, "use at most so many conversations; 0 is all of them", low=0)
    epochs: float = option(3.0, "how often each conversation is seen", above=0)
    sft: SFTConfig = nested(SFTConfig(), hidden="steps warmup cooldown max_grad_norm")
    compare: bool = option(
        False, "retrain: in another order, without replay, without each data step (minutes)"
    )

    real: RealModel = nested(RealModel(), hidden="model_steps", extra=True)

    def __post_init__(self):
        check_options(self)
        if self.real.model and not self.chats:
            raise ValueError("--model needs --chats: conversations to fine-tune the model on")


QUICK = {"most_chats": 400}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    # Data: clean, filter, balance. First of all, so that a file that cannot be used is said before
    # anything is trained or put aside.
    file = read_data_file(settings.chats or DATA / "chats_raw.jsonl")
    records, problems = load_chats(file, strict=settings.strict)
    kept, dropped = cleaning.clean(
        records, new_random(common.seed, "ch1_sft", "balance"), steps=settings.data_steps
    )
    if not kept:
        counts = ", ".join(f"{step} {len(found)}" for step, found in dropped.items() if found)
        raise RecordError(
            f"{file.path}: the data work drops every conversation ({counts}); "
            "give others, or fewer --data-steps"
        )
    if settings.real.model:  # a real model in the place of the kitten: real_model.py
        print(report_problems(problems, limit=3), data_report(records, problems, kept, dropped, {}))
        return fine_tune(settings, common, kept, file.digest, packed_rows, train)
    base = ensure("ch0_base", common)
    inputs = {"base": fingerprint_of(common, "ch0_base"), "chats": file.digest}
    chapter = Run(common, "ch1_sft", settings, inputs=inputs, open_now=False)
    if chapter.finished:
        return chapter.summary
    print(report_problems(problems, limit=3) if settings.chats else skipped_line(problems))
    data_quality = filter_quality(problems, dropped) if not settings.chats else None
    print(data_report(records, problems, kept, dropped, data_quality))
    kept = kept[: settings.most_chats] if settings.most_chats else kept

    # Model: the base kitten, and the conversations as it reads them, with the mask.
    kitten = load_base(base, common)
    rows = packed_rows(kept, kitten.tokenizer, kitten.gpt.config.context_length)
    chapter.open()
    print(mask_view(kept[0], kitten.tokenizer))
    before = chapter.once("before", lambda: look_before(kitten, common))

    # Loop: the next-token loss, on the assistant's words only.
    config = replace(settings.sft, steps=step_count(rows, settings))
    train(chapter, "train", kitten, rows, config)
    history = chapter.history("train")

    # Look: does it answer, stop, stay friendly and safe, and what did it forget?
    with chapter.timing("eval"):
        keys = look_after(kitten, common)
        keys["forgetting_bits_per_byte"] = kitten.base_bits_per_byte() - before["bits_per_byte"]
        for key, name in (("", "template_accuracy"), ("_bare", "bare_accuracy")):
            mean, error = before[name]
            keys[f"base_answer_accuracy{key}"] = mean
            keys[f"base_answer_accuracy{key}_stderr"] = error
        lines = cleaning.reading_problems(problems)
        counts = {reason: len(found) for reason, found in (lines | dropped).items()}
        keys |= {"kept": len(kept), "dropped": counts}
        keys |= {"filter_quality": data_quality, "steps": config.steps}
        write_samples(
            chapter.folder,
            [question.text for question in fixed_questions(build_town())],
            before["samples"],
            fixed_replies(kitten),
            before_title="base",
            after_title="chat",
            how=TYPICAL.format(drawn=DRAWN),
        )
    comparison = {}
    if settings.compare:
        comparison = compare(chapter, base, records, settings, config, packed_rows, train)
    keys["forgetting_without_replay"] = comparison.get("forgetting_without_replay")
    keys["data_effects"] = comparison.get("data_effects")
    draw(chapter, history)
    report(keys)
    return chapter.finish(keys, model=(kitten.gpt, kitten.tokenizer))


# ---------------------------------------------------------------------------------------- the loop


def train(
    chapter: Run,
    name: str,
    kitten: Kitten,
    rows: PackedRows,
    config: SFTConfig,
    *,
    tokens_per_pass: int | None = None,
) -> None:
    """Fine-tune, and look ten times on the way how much of the pretraining text is forgotten."""
    generator = new_generator("cpu", kitten.common.seed, "ch1_sft", "train")
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
    watch_every = max(1, config.steps // 10)
    for metrics in stage.follow(training, show=("chat_loss", "base_bits_per_byte")):
        watched_now = (metrics["step"] + 1) % watch_every == 0 or metrics["step"] == 0
        if watched_now and kitten.texts:  # a real model has not read the town's books
            metrics["base_bits_per_byte"] = kitten.base_bits_per_byte()


# ---------------------------------------------------------------------------------------- the data


def skipped_line(problems: list) -> str:
    """How many lines of the raw file could not be read; they were planted there."""
    return f"{len(problems)} records of the raw file are broken or empty and were skipped"


def filter_quality(problems: list, dropped: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Precision and recall of every data step against the key of the planted records.

    The balance may keep some of the flood, so its recall is below 1 by that share.
    """
    key: dict[str, list[int]] = {}
    records = (DATA / "chats_key.jsonl").read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(records, start=1):
        match = re.fullmatch(r'\{"line": (\d+), "kind": "(\w+)"\}', text)
        if match is None:
            raise RecordError(f"{DATA / 'chats_key.jsonl'}, line {number}: not a line of the key")
        key.setdefault(match[2], []).append(int(match[1]))
    found = cleaning.reading_problems(problems)
    found |= {step: [record["line"] for record in records] for step, records in dropped.items()}
    quality = {}
    for reason, lines in found.items():
        planted = key["flood" if reason == "surplus" else reason]
        precision, recall = cleaning.precision_and_recall(lines, planted)
        quality[reason] = {"planted": len(planted), "precision": precision, "recall": recall}
    return quality


def data_report(records, problems, kept, dropped, quality) -> str:
    """A table: what each step dropped, and how well it hit where a key exists."""
    counts = {reason: len(lines) for reason, lines in cleaning.reading_problems(problems).items()}
    counts |= {step: len(lines) for step, lines in dropped.items()}
    lines = [f"{'data work':<16}{'dropped':>8}" + ("  precision  recall" if quality else "")]
    for reason, count in counts.items():
        line = f"{reason:<16}{count:>8}"
        if quality:
            line += f"{quality[reason]['precision']:>11.3f}{quality[reason]['recall']:>8.3f}"
        lines.append(line)
    lines.append(f"{'kept':<16}{len(kept):>8} of {len(records) + len(skipped(problems))}")
    return "\n".join(lines)


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


def step_count(rows: PackedRows, settings: Settings) -> int:
    """Steps after which every conversation was seen `epochs` times, replayed rows not counted."""
    chat_rows_per_step = settings.sft.rows_per_step * (1 - settings.sft.replay_fraction)
    return max(1, round(settings.epochs * len(rows) / chat_rows_per_step))


def mask_view(record: dict, tokenizer: Tokenizer) -> str:
    """One conversation with its special tokens; green (or in brackets) is what is trained."""
    chat = encode_chat(tokenizer, record["messages"])
    view = colour_view(tokenizer, chat.tokens, chat.loss_mask, colour=use_colour())
    return f"\nonly the marked tokens are trained:\n\n{view}\n"


# ---------------------------------------------------------------------------------------- the look


def answerable(common: Common) -> list:
    """Held-out facts and sums: the questions of `answer_accuracy`."""
    questions = evaluation_questions(build_town(), counts_of(common))
    return questions["fact"] + questions["sum"]


def look_before(kitten: Kitten, common: Common) -> dict:
    """The base kitten: asked with the chat template, asked with the bare question."""
    questions = answerable(common)
    right = lambda reply: reply.verdict.right  # noqa: E731
    shown = fixed_questions(build_town())
    fixed = kitten.ask(shown, replies_each=DRAWN, temperature=1.0, bare=True)
    return {
        "bits_per_byte": kitten.base_bits_per_byte(),
        "template_accuracy": rate(kitten.ask(questions), right),
        "bare_accuracy": rate(kitten.ask(questions, bare=True), right),
        "samples": typical_replies(fixed),
    }


def look_after(kitten: Kitten, common: Common) -> dict:
    """Greedy accuracy, then 2,000 sampled replies behind every rate."""
    right = lambda reply: reply.verdict.right  # noqa: E731
    greedy = kitten.ask(answerable(common))
    sampled, _ = evaluate(
        kitten.gpt,
        kitten.tokenizer,
        build_town(),
        counts=counts_of(common),
        generator=new_generator(common.device, common.seed, "ch1_sft", "evaluate"),
    )
    keys = {}
    keys["answer_accuracy"], keys["answer_accuracy_stderr"] = rate(greedy, right)
    for kind in ("fact", "sum"):
        of_kind = [reply for reply in greedy if reply.question.kind == kind]
        share, error = rate(of_kind, right)
        keys[f"right_{kind}_greedy"], keys[f"right_{kind}_greedy_stderr"] = share, error
    for key, value in sampled.items():
        name = key.replace("answer_accuracy", "answer_accuracy_sampled")
        keys[name] = value
    return keys


def fixed_replies(kitten: Kitten) -> list[str]:
    """Typical replies to the fixed questions at temperature 1."""
    questions = fixed_questions(build_town())
    return typical_replies(kitten.ask(questions, replies_each=DRAWN, temperature=1.0))


# ------------------------------------------------------------------------------------ the pictures


def draw(chapter: Run, history: list[dict]) -> None:
    """loss.png: what is learned (chat loss) beside what is forgotten (base loss)."""
    plots.panels(
        chapter.folder / "loss.png",
        [
            plots.Panel(
                {"chats": watched(history, "chat_loss")},
                title="Learned: the chats",
                y_label="loss, nats per trained token",
            ),
            plots.Panel(
                {"pretraining text": watched(history, "base_bits_per_byte")},
                title="Forgotten: reading",
                y_label="loss, bits per byte",
            ),
        ],
        columns=2,
    )


def report(keys: dict) -> None:
    """The key numbers in words."""

    def percent(key: str) -> str:
        return with_error(keys[key], keys[f"{key}_stderr"], ".1%")

    print(
        f"held-out questions answered right: {percent('answer_accuracy')} greedily, "
        f"{percent('answer_accuracy_sampled')} at temperature 1 "
        f"(base kitten: {percent('base_answer_accuracy')} with the chat template, "
        f"{percent('base_answer_accuracy_bare')} with the bare question)"
    )
    kinds = ("fact", "sum", "talk", "outside", "wish")
    by_kind = ", ".join(f"{kind} {percent(f'right_{kind}')}" for kind in kinds)
    print(f"right at temperature 1, kind by kind: {by_kind}")
    print(
        f"stops by itself {percent('stop_rate')}, safe {percent('safe_rate')}, allows what is "
        f"fine {percent('allowed_rate')}, friendly {percent('friendly_rate')}"
    )
    print(ERRORS_MEAN)
    print(f"forgotten: {keys['forgetting_bits_per_byte']:+.3f} bits per byte of pretraining text")
