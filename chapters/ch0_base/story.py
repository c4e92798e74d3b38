"""Chapter 0: a base GPT, the bookish nerd that carries on with whatever comes to mind.

Learns a vocabulary (BPE) and then to guess the next token, from random weights, on the books of
Kitten Town or on a text of your own (--text FILE). Writes model.pt, metrics.jsonl, summary.json,
samples.md, loss.png and attention.png. The lesson is chapters/ch0_base/lesson.md.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from chapters.ch0_base import exam
from chapters.common.samples import write_samples
from chapters.common.terminal import with_error
from chapters.common.texts import Texts, file_texts, keep_text, town_texts, validation_nats
from kittenllm import plots
from kittenllm.batches import TokenStream
from kittenllm.chat import text_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import read_data_file
from kittenllm.distributed import put_together
from kittenllm.evaluation import fixed_questions
from kittenllm.gpt import GPT, SIZES, GPTConfig
from kittenllm.kitten_town import voices
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import MuonAdamW, make_optimizer
from kittenllm.pretrain import PretrainConfig, train_pretrain
from kittenllm.runs.run import Run
from kittenllm.sampling import generate
from kittenllm.settings import Common, new_generator
from kittenllm.start import wake
from kittenllm.tokenizer import Tokenizer

DEFAULT_TOKENS = {"small": 1_500_000, "medium": 30_000_000}
DEFAULT_ECHO_TOKENS = {"small": 560_000, "medium": 3_000_000}
QUICK_VALIDATION_ROWS = 8  # rows of the loss that is watched during training
QUICK_BARE_COUNTS = {"fact": 40, "sum": 10}
QUICK_ECHO_LISTS = 10
EXAM_KEYS = {
    "fact_recall": "facts told rightly when a text stops before the value",
    "bare_answer_rate": "bare held-out questions answered, which a nerd does not do",
    "echo_accuracy": "unseen lists repeated without a mistake",
}
CONTINUATION_TOKENS = 32
ECHO_TEXT = "The well: 48 Pip tuna 7. And the well says:"
# The sentence of attention.png, in three parts. Kato is in no book.
BEFORE_ANSWER, ANSWER = "Miso plays with the bell. The home of Kato is the", " mill"
AFTER_ANSWER = ". Kato lives in the"
SHOWN_TOKENS = 3  # likeliest next tokens


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    text: str = option("", "pretrain on this plain text file instead of Kitten Town")
    train_tokens: int | None = option(
        None, "tokens to read; default 1.5 million, with --size medium 30 million", low=1
    )
    echo_tokens: int | None = option(
        None, "tokens to repeat, before it reads; default 560,000, medium 3 million", low=0
    )
    vocab_size: int = option(1200, "tokens in the vocabulary, special tokens included")
    pretraining: PretrainConfig = nested(
        PretrainConfig(cooldown=0.85), hidden="steps warmup cooldown max_grad_norm"
    )

    def __post_init__(self):
        check_options(self)
        if self.pretraining.row_length > GPTConfig().context_length:
            limit = GPTConfig().context_length
            raise ValueError(
                f"row_length must be at most {limit}, got {self.pretraining.row_length}"
            )


QUICK = {
    "train_tokens": 30_000,
    "echo_tokens": 10_000,
    "vocab_size": 800,
    "row_length": 128,
}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    file = read_data_file(settings.text) if settings.text else None
    inputs = {"text": file.digest} if file else {}
    chapter = Run(common, "ch0_base", settings, inputs=inputs, open_now=False)
    if chapter.finished:
        return chapter.summary

    # Data: text becomes tokens.
    train_tokens = settings.train_tokens or DEFAULT_TOKENS[common.size]
    echo_tokens = settings.echo_tokens
    if echo_tokens is None:
        echo_tokens = DEFAULT_ECHO_TOKENS[common.size]
    print("reading and cutting the text into tokens ...", flush=True)
    if file:
        texts = file_texts(file, settings.pretraining.row_length, settings.vocab_size)
    else:
        texts = town_texts(common.seed, train_tokens, settings.vocab_size, echo_tokens=echo_tokens)
    chapter.open()  # not before: a text that is too short must not put an earlier run aside
    if file:
        keep_text(chapter.folder, file)
    tokenizer = texts.tokenizer
    print(f"{len(texts.train):,} tokens to read, a vocabulary of {tokenizer.vocab_size}")

    # Model: random weights.
    gpt = new_kitten(tokenizer, common)
    untrained = continuations(gpt, tokenizer, common)

    # Loop: guess the next token, many small steps. First repeat lists (copying is a skill, and a
    # kitten that can copy learns to read faster), then read; the learning rate falls at the end.
    config = settings.pretraining
    optimizer = make_optimizer(gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    if texts.echoes:
        config = replace(settings.pretraining, steps=step_count(echo_tokens, settings), cooldown=0)
        train(chapter, "echo", gpt, texts.echoes, texts, config, optimizer)
        config = replace(settings.pretraining, warmup=0)
    config = replace(config, steps=step_count(train_tokens, settings))
    train(chapter, "train", gpt, texts.train, texts, config, optimizer)

    # Look: how well does it read, what does it know, how does it continue?
    with chapter.timing("eval"):
        keys = look(gpt, texts, settings, quick=common.quick)
        history = chapter.history("train", "tokens", "seconds")
        keys["train_tokens"] = sum(entry["tokens"] for entry in history)
        keys["parameters"] = gpt.parameter_count
        keys["tokens_per_second"] = round(tokens_per_second(history))
        draw(chapter, history, gpt, tokenizer)
        write_samples(
            chapter.folder,
            shown_texts(),
            untrained,
            continuations(gpt, tokenizer, common),
            before_title="random",
            after_title="base",
        )
    report(keys)
    return chapter.finish(keys, model=(gpt, tokenizer))


def step_count(tokens: int, settings: Settings) -> int:
    """Steps that it takes to see so many tokens."""
    return max(1, tokens // (settings.pretraining.rows_per_step * settings.pretraining.row_length))


def train(
    chapter: Run,
    name: str,
    gpt: GPT,
    stream: TokenStream,
    texts: Texts,
    config: PretrainConfig,
    optimizer: MuonAdamW,
) -> None:
    """Guess the next token of windows of `stream`; look twenty times at the loss on unseen text."""
    generator = new_generator("cpu", chapter.common.seed, "ch0_base", name)
    objects = {"gpt": gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    training = train_pretrain(
        gpt,
        stream,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
    )
    watch_every = max(1, config.steps // 20)
    for metrics in stage.follow(training, show=("loss", "val_loss")):
        if (metrics["step"] + 1) % watch_every == 0:
            nats, count = validation_nats(
                gpt, texts.validation, config.row_length, QUICK_VALIDATION_ROWS
            )
            metrics["val_loss"] = nats / count


def new_kitten(tokenizer: Tokenizer, common: Common) -> GPT:
    """A GPT with random weights for this vocabulary."""
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        stop_ids=(tokenizer.im_end_id, tokenizer.endoftext_id),
        pad_id=tokenizer.pad_id,
        **SIZES[common.size],
    )
    generator = new_generator("cpu", common.seed, "ch0_base", "weights")
    gpt = GPT(config, generator=generator)
    wake(gpt, generator)
    return gpt.to(common.device)


def look(gpt: GPT, texts: Texts, settings: Settings, *, quick: bool) -> dict:
    """How well the kitten reads, and what it knows of the town, None where it read another text."""
    nats, count = validation_nats(gpt, texts.validation, settings.pretraining.row_length)
    nats_per_token = nats / count
    all_nats = nats_per_token * len(texts.validation)
    keys = {
        "val_nats_per_token": nats_per_token,
        "val_bits_per_byte": all_nats / math.log(2) / texts.validation_bytes,
        "val_nats_per_character": all_nats / texts.validation_characters,
        **dict.fromkeys(EXAM_KEYS),
        **{f"{key}_stderr": None for key in EXAM_KEYS},
    }
    if not settings.text:
        keys |= base_exam(gpt, texts.tokenizer, quick=quick)
    return keys


def base_exam(gpt: GPT, tokenizer: Tokenizer, *, quick: bool) -> dict[str, float]:
    """Does it know, does it answer, can it copy? Each rate with its standard error."""
    town = build_town()
    counts = QUICK_BARE_COUNTS if quick else exam.BARE_COUNTS
    lists = QUICK_ECHO_LISTS if quick else exam.ECHO_LISTS
    rates = {
        "fact_recall": exam.fact_recall(gpt, tokenizer, town),
        "bare_answer_rate": exam.bare_answer_rate(gpt, tokenizer, town, counts=counts),
        "echo_accuracy": exam.echo_accuracy(gpt, tokenizer, lists=lists),
    }
    keys = {}
    for key, (rate, error) in rates.items():
        keys[key], keys[f"{key}_stderr"] = rate, error
    return keys


def shown_texts() -> list[str]:
    """The beginnings of texts in samples.md: the fixed questions, a text that tells a held-out
    fact and stops before the value, and an echo."""
    town = build_town()
    fact = next(fact for fact in town.held_out_facts if fact.attribute == "home")
    cue = voices.FACT_CUES["home"][0].format(k=fact.kitten)
    return [*(question.text for question in fixed_questions(town)), cue, ECHO_TEXT]


def continuations(gpt: GPT, tokenizer: Tokenizer, common: Common) -> list[str]:
    """What the kitten makes of the shown texts: it reads each as the start of a text."""
    prompts = [text_prompt(tokenizer, text) for text in shown_texts()]
    rollout = generate(
        gpt,
        prompts,
        max_new_tokens=CONTINUATION_TOKENS,
        temperature=1.0,
        generator=new_generator(common.device, common.seed, "ch0_base", "samples"),
    )
    return [tokenizer.decode(reply) for reply in rollout.replies()]


def tokens_per_second(history: list[dict]) -> float:
    """Training speed: tokens of a step over the median seconds of a step, 0 if that is 0."""
    seconds = sorted(entry["seconds"] for entry in history)
    median = seconds[len(seconds) // 2]
    return history[0]["tokens"] / median if median > 0 else 0.0


def draw(chapter: Run, history: list[dict], gpt: GPT, tokenizer: Tokenizer) -> None:
    """loss.png and attention.png."""
    watched = [entry for entry in history if entry.get("val_loss") is not None]
    plots.curves(
        chapter.folder / "loss.png",
        {
            "training rows": ([e["step"] for e in history], [e.get("loss") for e in history]),
            "unseen text": ([e["step"] for e in watched], [e["val_loss"] for e in watched]),
        },
        title="Pretraining: guessing the next token",
        x_label="step",
        y_label="loss, nats per token",
    )
    print(draw_attention(chapter.folder / "attention.png", gpt, tokenizer))


def draw_attention(path: Path, gpt: GPT, tokenizer: Tokenizer) -> str:
    """attention.png: of all heads the one that looks most at the answer. Returns what it shows.

    The answer can be found in the text only: Kato is in no book, so nobody knows its home by heart.
    """
    tokens = text_prompt(tokenizer, BEFORE_ANSWER)
    answer = range(len(tokens), len(tokens) + len(tokenizer.encode(ANSWER)))
    tokens += tokenizer.encode(ANSWER) + tokenizer.encode(AFTER_ANSWER)
    row = torch.tensor([tokens], device=gpt.device)
    with put_together(gpt):  # all layers, where --shard keeps a part of each
        layers = [gpt.attention_weights(row, layer)[0] for layer in range(gpt.config.layers)]
    weights = torch.stack(layers)  # (layers, heads, T, T)
    on_answer = weights[:, :, -1, answer].sum(dim=-1)  # (layers, heads) of the last token
    layer, head = divmod(int(on_answer.argmax()), gpt.config.heads)
    with torch.no_grad():
        chances = gpt(row)[0, -1].softmax(dim=-1)  # (V,)
    likeliest = chances.topk(SHOWN_TOKENS)
    words = tokenizer.tokens_as_text(likeliest.indices.tolist())
    guesses = ", ".join(
        f"{word.strip() or repr(word)} {chance:.2f}"
        for word, chance in zip(words, likeliest.values.tolist(), strict=True)
    )
    note = (
        f"of all {on_answer.numel()} heads this one looks most from the last token at"
        f"{ANSWER}: {float(on_answer[layer, head]):.2f}\n"
        f"the {SHOWN_TOKENS} likeliest next tokens: {guesses}"
    )
    plots.attention_heatmap(
        path,
        tokenizer.tokens_as_text(tokens),
        weights[layer, head].tolist(),
        title=f"Where each token looks: layer {layer + 1}, head {head + 1}",
        note=note,
    )
    return f"{path.name}, layer {layer + 1}, head {head + 1}: {note}"


def report(keys: dict) -> None:
    """The key numbers in words."""
    print(
        f"validation loss {keys['val_nats_per_token']:.3f} nats per token, "
        f"{keys['val_nats_per_character']:.3f} per character, "
        f"{keys['val_bits_per_byte']:.3f} bits per byte"
    )
    for key, meaning in EXAM_KEYS.items():
        if keys[key] is not None:
            print(f"{meaning}: {with_error(keys[key], keys[f'{key}_stderr'], '.1%')}")
