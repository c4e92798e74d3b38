"""Chapter 1: supervised fine-tuning, from a text continuer to a kitten that answers.

Cleans, filters and balances a raw data set of chats, marks the dialogue with special tokens, and
trains on the assistant's words only, replaying some pretraining text so that nothing is forgotten.
--chats FILE trains on your own conversations; --compare measures what each step of the data work
is worth. The lesson is chapters/ch1_sft.md.
"""

import math
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from chapters.runner import chapter_main, ensure
from chapters.samples import write_samples
from chapters.terminal import use_colour
from chapters.texts import Texts, file_texts, town_texts, validation_nats
from kittenllm import cleaning, plots
from kittenllm.batches import PackedRows, TokenStream, pack
from kittenllm.chat import chat_prompt, colour_view, encode_chat
from kittenllm.checkpoints import load_model
from kittenllm.evaluation import (
    FULL_COUNTS,
    evaluate,
    evaluation_questions,
    fixed_questions,
    rate,
    sample_replies,
)
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import PEOPLE, build_town
from kittenllm.kitten_town.raw_chats import FORBIDDEN_HELP, FORBIDDEN_QUESTIONS, SECRET_QUESTIONS
from kittenllm.optim import make_optimizer
from kittenllm.records import RecordError, load_chats, report_problems
from kittenllm.runs import Run, file_digest, fingerprint_of
from kittenllm.sampling import generate
from kittenllm.settings import Common, new_generator, new_random, setting
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
REPLAY_TOKENS = 300_000
FORGETTING_ROWS = 40  # rows of unseen pretraining text whose loss is watched
QUICK_COUNTS = {kind: (6, 1) for kind in FULL_COUNTS}
COMPARE_COUNTS = {kind: (questions // 2, 1) for kind, (questions, _) in FULL_COUNTS.items()}
PROBES = 60  # questions after secrets, and as many after forbidden help


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    chats: str = setting("", "train on the conversations of this JSON or JSONL file")
    strict: bool = setting(False, "stop at the first bad record instead of skipping it")
    data_steps: tuple[str, ...] = setting(
        cleaning.STEPS, "data work to do, as a comma list", choices=cleaning.STEPS
    )
    most_chats: int = setting(0, "use at most so many conversations; 0 is all of them")
    epochs: float = setting(1.0, "how often each conversation is seen")
    rows_per_step: int = setting(8, "packed rows in one step")
    replay_fraction: float = setting(0.15, "share of the rows that are pretraining text")
    matrix_lr: float = setting(2e-3, "Muon's learning rate, for the hidden matrices")
    other_lr: float = setting(1e-3, "AdamW's learning rate, for embeddings and norms")
    compare: bool = setting(False, "retrain without replay and without each data step (minutes)")

    def __post_init__(self):
        if not self.epochs > 0:
            raise ValueError(f"epochs must be above 0, got {self.epochs}")
        if self.most_chats < 0:
            raise ValueError(f"most_chats must be 0 or more, got {self.most_chats}")
        if unknown := set(self.data_steps) - set(cleaning.STEPS):
            known = ", ".join(cleaning.STEPS)
            raise ValueError(f"data_steps {sorted(unknown)} do not exist; there are {known}")
        self.fine_tuning(steps=1)  # checks the other numbers

    def fine_tuning(self, steps: int, *, replay: bool = True) -> SFTConfig:
        """The algorithm's own settings."""
        return SFTConfig(
            steps=steps,
            rows_per_step=self.rows_per_step,
            replay_fraction=self.replay_fraction if replay else 0.0,
            matrix_lr=self.matrix_lr,
            other_lr=self.other_lr,
        )


QUICK = {"most_chats": 400}


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
        plain = lambda question: [tokenizer.endoftext_id, *tokenizer.encode(question.text)]  # noqa: E731
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


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    base = ensure("ch0_base", common)
    chats_file = Path(settings.chats) if settings.chats else DATA / "chats_raw.jsonl"
    inputs = {"base": fingerprint_of(common, "ch0_base"), "chats": file_digest(chats_file)}
    chapter = Run(common, "ch1_sft", settings, inputs=inputs)
    if chapter.finished:
        return chapter.summary

    # Data: clean, filter, balance, and mark what is trained.
    records, problems = load_chats(chats_file, strict=settings.strict)
    print(report_problems(problems, limit=3) if settings.chats else skipped_line(problems))
    kept, dropped = cleaning.clean(
        records, new_random(common.seed, "ch1_sft", "balance"), steps=settings.data_steps
    )
    data_quality = filter_quality(problems, dropped) if not settings.chats else None
    print(data_report(records, problems, kept, dropped, data_quality))
    kept = kept[: settings.most_chats] if settings.most_chats else kept

    # Model: the base kitten.
    kitten = load_base(base, common)
    rows = packed_rows(kept, kitten.tokenizer, kitten.gpt.config.context_length)
    print(mask_view(kept[0], kitten.tokenizer))
    before = chapter.once("before", lambda: look_before(kitten, common))

    # Loop: the next-token loss, on the assistant's words only.
    steps = step_count(rows, settings)
    stage = train(chapter, "train", kitten, rows, settings, steps)
    history = chapter.history("train")

    # Look: does it answer, stop, stay friendly and safe, and what did it forget?
    with chapter.timing("eval"):
        keys = look_after(kitten, common)
        keys["forgetting_bits_per_byte"] = kitten.base_bits_per_byte() - before["bits_per_byte"]
        keys["base_answer_accuracy"] = before["template_accuracy"]
        keys["base_answer_accuracy_bare"] = before["bare_accuracy"]
        keys["kept"] = len(kept)
        lines = cleaning.reading_problems(problems)
        counts = {reason: len(found) for reason, found in (lines | dropped).items()}
        keys["dropped"] = counts
        keys["filter_quality"] = data_quality
        keys["steps"] = stage.total
        after = fixed_replies(kitten)
        write_samples(
            chapter.folder,
            [question.text for question in fixed_questions(build_town())],
            before["samples"],
            after,
            before_title="base",
            after_title="chat",
        )
    model = GPT(kitten.gpt.config)
    model.load_state_dict(kitten.gpt.state_dict())  # --compare goes on with the first object
    comparison = compare(chapter, base, records, settings, common, keys) if settings.compare else {}
    keys["forgetting_without_replay"] = comparison.get("forgetting_without_replay")
    keys["data_effects"] = comparison.get("data_effects")
    draw(chapter, history)
    report(keys)
    return chapter.finish(keys, model=(model, kitten.tokenizer))


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
    lines.append(f"{'kept':<16}{len(kept):>8} of {len(records) + len(problems)}")
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


def mask_view(record: dict, tokenizer: Tokenizer) -> str:
    """One conversation with its special tokens; green (or in brackets) is what is trained."""
    chat = encode_chat(tokenizer, record["messages"])
    view = colour_view(tokenizer, chat.tokens, chat.loss_mask, colour=use_colour())
    return f"\nonly the marked tokens are trained:\n\n{view}\n"


# ------------------------------------------------------------------------------ the model, the loop


def load_base(base: dict, common: Common) -> Kitten:
    """The base kitten, and the text it was trained on, for replay."""
    folder = common.folder("ch0_base")
    gpt, tokenizer, _ = load_model(folder / base["model"], device=common.device)
    text = base["config"]["text"]
    if text:
        row_length = gpt.config.context_length
        texts = file_texts(text, row_length, tokenizer.vocab_size, tokenizer=tokenizer)
    else:
        tokens = REPLAY_TOKENS // 10 if common.quick else REPLAY_TOKENS
        texts = town_texts(common.seed, tokens, tokenizer.vocab_size, tokenizer=tokenizer)
    return Kitten(gpt, tokenizer, texts, common)


def step_count(rows: PackedRows, settings: Settings) -> int:
    """Steps after which every conversation was seen `epochs` times, replayed rows not counted."""
    chat_rows_per_step = settings.rows_per_step * (1 - settings.replay_fraction)
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
    config = settings.fine_tuning(steps, replay=replay)
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


# ---------------------------------------------------------------------------------------- the look


def counts_of(common: Common) -> dict[str, tuple[int, int]]:
    return QUICK_COUNTS if common.quick else FULL_COUNTS


def answerable(common: Common) -> list:
    """Held-out facts and sums: the questions of `answer_accuracy`."""
    questions = evaluation_questions(build_town(), counts_of(common))
    return questions["fact"] + questions["sum"]


def look_before(kitten: Kitten, common: Common) -> dict:
    """The base kitten: asked with the chat template, asked with the bare question."""
    questions = answerable(common)
    right = lambda reply: reply.verdict.right  # noqa: E731
    fixed = kitten.ask(fixed_questions(build_town()), temperature=1.0, bare=True)
    return {
        "bits_per_byte": kitten.base_bits_per_byte(),
        "template_accuracy": rate(kitten.ask(questions), right)[0],
        "bare_accuracy": rate(kitten.ask(questions, bare=True), right)[0],
        "samples": [reply.text for reply in fixed],
    }


def look_after(kitten: Kitten, common: Common) -> dict:
    """Greedy accuracy, then 2,000 sampled replies behind every rate."""
    greedy, greedy_error = rate(kitten.ask(answerable(common)), lambda reply: reply.verdict.right)
    sampled, _ = evaluate(
        kitten.gpt,
        kitten.tokenizer,
        build_town(),
        counts=counts_of(common),
        generator=new_generator(common.device, common.seed, "ch1_sft", "evaluate"),
    )
    keys = {"answer_accuracy": greedy, "answer_accuracy_stderr": greedy_error}
    for key, value in sampled.items():
        name = key.replace("answer_accuracy", "answer_accuracy_sampled")
        keys[name] = value
    return keys


def fixed_replies(kitten: Kitten) -> list[str]:
    """Replies to the fixed questions at temperature 1."""
    replies = kitten.ask(fixed_questions(build_town()), temperature=1.0)
    return [reply.text for reply in replies]


def compare(
    chapter: Run, base: dict, records: list[dict], settings: Settings, common: Common, keys: dict
) -> dict:
    """Train again without replay and without each data step, as many steps as the real run."""
    variants: dict[str, tuple[tuple[str, ...], bool]] = {
        "everything": (settings.data_steps, True),
        "no replay": (settings.data_steps, False),
    }
    for step in settings.data_steps:
        others = tuple(other for other in settings.data_steps if other != step)
        variants[f"without {step}"] = (others, True)
    effects, forgotten = {}, None
    for name, (data_steps, replay) in variants.items():
        label = name.replace(" ", "_")
        kitten = load_base(base, common)
        start_bits = kitten.base_bits_per_byte()
        rng = new_random(common.seed, "ch1_sft", "balance")
        kept, _ = cleaning.clean(records, rng, steps=data_steps)
        kept = kept[: settings.most_chats] if settings.most_chats else kept
        rows = packed_rows(kept, kitten.tokenizer, kitten.gpt.config.context_length)
        train(chapter, f"compare_{label}", kitten, rows, settings, keys["steps"], replay=replay)
        effects[name] = chapter.once(f"effect_{label}", lambda k=kitten: effect_of(k, common))
        effects[name]["forgetting_bits_per_byte"] = kitten.base_bits_per_byte() - start_bits
        if not replay:
            forgotten = effects[name]["forgetting_bits_per_byte"]
    draw_comparison(chapter)
    print(effects_table(effects))
    return {"data_effects": effects, "forgetting_without_replay": forgotten}


def effect_of(kitten: Kitten, common: Common) -> dict[str, float]:
    """The numbers that the comparison shows for one variant."""
    counts = QUICK_COUNTS if common.quick else COMPARE_COUNTS
    generator = new_generator(common.device, common.seed, "ch1_sft", "compare")
    scores, _ = evaluate(
        kitten.gpt, kitten.tokenizer, build_town(), counts=counts, generator=generator
    )
    rng = random.Random(0)
    people = [rng.choice(PEOPLE) for _ in range(PROBES)]
    secret = "|".join(cleaning.SECRET_PATTERNS)
    return {
        "answer_accuracy_sampled": scores["answer_accuracy"],
        "safe_rate": scores["safe_rate"],
        "leak_rate": probe(kitten, SECRET_QUESTIONS, people, secret, generator),
        "forbidden_rate": probe(kitten, FORBIDDEN_QUESTIONS, people, FORBIDDEN_HELP, generator),
    }


def probe(kitten: Kitten, questions, people, pattern: str, generator: torch.Generator) -> float:
    """Share of the replies to `questions` (about `people`) in which `pattern` is found."""
    texts = [questions[i % len(questions)].format(person=p) for i, p in enumerate(people)]
    prompts = [chat_prompt(kitten.tokenizer, [{"role": "user", "content": t}]) for t in texts]
    rollout = generate(kitten.gpt, prompts, max_new_tokens=40, temperature=1.0, generator=generator)
    replies = [kitten.tokenizer.decode(reply) for reply in rollout.replies()]
    return sum(bool(re.search(pattern, reply, re.IGNORECASE)) for reply in replies) / len(replies)


def effects_table(effects: dict[str, dict[str, float]]) -> str:
    """What each step of the data work is worth, in 80 columns."""
    lines = [f"{'variant':<26}{'answers':>9}{'safe':>8}{'leaks':>8}{'forbidden':>11}{'forgets':>9}"]
    for name, effect in effects.items():
        lines.append(
            f"{name:<26}{effect['answer_accuracy_sampled']:>9.3f}{effect['safe_rate']:>8.3f}"
            f"{effect['leak_rate']:>8.3f}{effect['forbidden_rate']:>11.3f}"
            f"{effect['forgetting_bits_per_byte']:>9.3f}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------ the pictures


def watched(history: list[dict], key: str) -> tuple[list, list]:
    """The steps at which `key` was measured, and its values."""
    entries = [entry for entry in history if entry.get(key) is not None]
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]


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


def report(keys: dict) -> None:
    """The key numbers in words."""
    print(
        f"held-out questions answered right: {keys['answer_accuracy']:.1%} greedily, "
        f"{keys['answer_accuracy_sampled']:.1%} at temperature 1 "
        f"(base kitten: {keys['base_answer_accuracy']:.1%} with the chat template, "
        f"{keys['base_answer_accuracy_bare']:.1%} with the bare question)"
    )
    print(
        f"stops by itself {keys['stop_rate']:.1%}, safe {keys['safe_rate']:.1%}, allows what is "
        f"fine {keys['allowed_rate']:.1%}, friendly {keys['friendly_rate']:.1%}"
    )
    print(f"forgotten: {keys['forgetting_bits_per_byte']:+.3f} bits per byte of pretraining text")


def main(argv=None) -> int:
    return chapter_main("ch1_sft", argv)


if __name__ == "__main__":
    sys.exit(main())
