"""A kitten: a model, its tokenizer, and what is measured with it; and how chapter 1 loads one.

Used by all chapters that train a kitten. The stage is that of chapter 1 and its two sisters; the
mix, fine-tuning on several sorts of conversations at once, is that of the sisters. The last part is
for --model: a real model in the place of the kitten, and what four chapters need to train it and to
hand it over.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chapters.common.texts import Texts, file_texts, kept_text, town_texts, validation_nats
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import ChatTokens, chat_prompt, encode_chat, text_prompt
from kittenllm.config import check_options, option
from kittenllm.evaluation import sample_replies
from kittenllm.gpt import GPT
from kittenllm.huggingface import load_folder, save_folder
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.facts import build_town
from kittenllm.logprobs import token_logprobs
from kittenllm.lora import add_lora, merge_lora, trained_parameters
from kittenllm.optim import MuonAdamW, make_optimizer
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run, file_digest
from kittenllm.runs.stages import Stage
from kittenllm.sampling import generate
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

MOST_TOO_LONG = 200  # conversations; more, and most of all, mean that the rows are too short
MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]

REPLAY_TOKENS = 300_000
FORGETTING_ROWS = 40  # rows of unseen pretraining text whose loss is watched
GENERAL = Path(__file__).with_name("general.json")  # a plain text and general questions
TEXT_TOKENS, ANSWER_TOKENS = 400, 24  # of the text; of an answer


@dataclass
class Kitten:
    """A model, its tokenizer, and what is measured with it."""

    gpt: GPT
    tokenizer: Tokenizer
    common: Common
    texts: Texts | None = None  # to replay, and unseen ones to watch the forgetting on
    scorer: Scorer | None = None  # the reward model, in units of this kitten's own spread

    def base_bits_per_byte(self) -> float:
        """Loss on unseen pretraining text: how much of reading is forgotten."""
        row_length = self.gpt.config.context_length
        nats, count = validation_nats(self.gpt, self.texts.validation, row_length, FORGETTING_ROWS)
        bytes_per_token = self.texts.validation_bytes / len(self.texts.validation)
        return nats / count / math.log(2) / bytes_per_token

    def ask(self, questions, *, replies_each=1, temperature=0.0, bare=False):
        """Judged replies; `bare` asks without the chat template, as plain text."""
        tokenizer = self.tokenizer
        plain = lambda question: text_prompt(tokenizer, question.text)  # noqa: E731
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


def load_base(base: dict, common: Common) -> Kitten:
    """The base kitten, and the text it was trained on, for replay."""
    folder = common.folder("ch0_base")
    gpt, tokenizer, _ = load_model(folder / base["model"], device=common.device)
    text = base["config"]["text"]
    if text:
        row_length = gpt.config.context_length
        file = kept_text(folder, text)
        texts = file_texts(file, row_length, tokenizer.vocab_size, tokenizer=tokenizer)
    else:
        tokens = REPLAY_TOKENS // 10 if common.quick else REPLAY_TOKENS
        texts = town_texts(common.seed, tokens, tokenizer.vocab_size, tokenizer=tokenizer)
    return Kitten(gpt, tokenizer, common, texts)


def load_chat_kitten(base: dict, chat: dict, common: Common) -> Kitten:
    """The kitten of chapter 1, with the pretraining text to replay."""
    gpt, _, _ = load_model(common.folder("ch1_sft") / chat["model"], device=common.device)
    return replace(load_base(base, common), gpt=gpt)


def sft_stage(
    chapter: Run, name: str, gpt: GPT, config: SFTConfig, generator: torch.Generator
) -> tuple[Stage, MuonAdamW]:
    """A stage that keeps all that fine-tuning changes, so that a killed run goes on; and the
    optimizer, with the rates of `config`."""
    optimizer = make_optimizer(gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    objects = {"gpt": Trained(gpt), "optimizer": optimizer, "generator": generator}
    return chapter.stage(name, total=config.steps, objects=objects), optimizer


def watched(history: list[dict], key: str) -> tuple[list, list]:
    """The steps at which `key` was measured, and its values."""
    entries = [entry for entry in history if entry.get(key) is not None]
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]


# ----------------------------------------------------------------------------------------- the mix


def ordinary_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One conversation of chapter 1."""
    return encode_chat(tokenizer, conversation(build_town(), rng)["messages"])


def mixed_rows(
    make: MakeChat,
    kitten: Kitten,
    config: SFTConfig,
    *,
    chat_fraction: float,
    make_ordinary: MakeChat = ordinary_chat,
    row_length: int | None = None,
) -> PackedRows:
    """Fresh conversations for all steps of `config`: those of `make`, and ordinary chats, which are
    `chat_fraction` of the tokens. Rows as long as the context, or of `row_length` tokens.

    Raises: ValueError if hardly any conversation fits into a row.
    """
    rng = new_random(kitten.common.seed, "ch1_tools", "data")
    tokenizer = kitten.tokenizer
    row_length = row_length or kitten.gpt.config.context_length
    rows = config.steps * config.rows_per_step * (1 - config.replay_fraction)
    wanted = rows * row_length  # tokens
    chats: list[ChatTokens] = []
    ordinary, total, too_long = 0, 0, 0
    while total < wanted:
        if ordinary < chat_fraction * total:
            chat = make_ordinary(tokenizer, rng)
            ordinary += len(chat)
        else:
            chat = make(tokenizer, rng)
        if len(chat) > row_length:
            too_long += 1
            if too_long > MOST_TOO_LONG and too_long > len(chats):
                raise ValueError(f"most exercises are longer than {row_length} tokens: allow more")
            continue
        total += len(chat)
        chats.append(chat)
    return pack(chats, row_length=row_length, pad_id=tokenizer.pad_id)


# ------------------------------------------------------------------- a real model instead: --model


@dataclass(frozen=True)
class RealModel:
    """What a chapter asks about a real model; the defaults of the last three are the chapter's."""

    max_tokens: int = option(
        512, "with --model: longest conversation, pair, or question and reply, in tokens", low=16
    )
    model: str = option("", "train the model in this Hugging Face folder and not the kitten")
    lora: int = option(16, "with --model: rank of LoRA's detours; 0 trains all weights", low=0)
    model_steps: int = option(100, "with --model: optimizer steps", low=1)
    model_batch: int = option(4, "with --model: rows, pairs or questions in one step", low=1)
    model_lr: float = option(
        1e-3, "with --model: AdamW's rate for LoRA; with --lora 0 Muon's, and take a tenth", above=0
    )
    model_pass: int = option(
        1024, "with --model: most tokens in memory at once; gradients add up to one step", low=16
    )

    def __post_init__(self):
        check_options(self)


class Trained:
    """The weights that training moves, to be saved: with LoRA a small part of a large model."""

    def __init__(self, gpt: GPT):
        self.weights = {n: p for n, p in gpt.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises: ValueError for a state of other weights, before anything is changed."""
        if missing := [name for name in self.weights if name not in state]:
            raise ValueError(f"it holds no {missing[0]}")
        for name, weight in self.weights.items():
            if state[name].shape != weight.shape:
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}")
        for name, weight in self.weights.items():
            weight.copy_(state[name])


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a device that computes in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = (
            device.type == "cpu"
            and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        )
    return torch.bfloat16 if fast else torch.float32


def real_run(name: str, settings: RealModel, common: Common, inputs: dict) -> Run:
    """The run folder of a chapter with --model: <name>_model beside that of the kitten. `inputs`
    name what decides the numbers beside the model and its settings.

    Raises: ValueError for a folder without a model in it.
    """
    folder = Path(settings.model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"--model {folder}: there is no .safetensors file in this folder")
    digests = [file_digest(path) for path in (folder / "config.json", *files)]
    inputs = {**inputs, "model": " ".join(digests)}
    run = Run(common, f"{name}_model", settings, inputs=inputs, save_every=60.0, open_now=False)
    if run.finished:
        print(f"finished earlier with these settings, see {run.folder}. Delete it to run again.")
    return run


def load_real(settings: RealModel, common: Common) -> Kitten:
    """The model of the folder, in the place of a kitten; its detours come with `add_detours`.

    All weights are trained in float32: a small step is lost in bfloat16.
    Raises: ValueError for a folder that cannot be used, or a model without a chat template.
    """
    dtype = fast_dtype(common.device) if settings.lora else torch.float32
    gpt, tokenizer = load_folder(settings.model, device=common.device, dtype=dtype)
    if not tokenizer.chats:
        raise ValueError(f"--model {settings.model}: a base model, which has no chat template")
    if settings.max_tokens > gpt.config.context_length:
        limit = gpt.config.context_length
        raise ValueError(f"--max-tokens {settings.max_tokens}: this model reads {limit} tokens")
    print(f"{settings.model}: {gpt.parameter_count / 1e6:.1f} M weights in {dtype}")
    return Kitten(gpt, tokenizer, common)


def rates(settings: RealModel) -> dict[str, Any]:
    """What a config is told. LoRA: AdamW, so that the rates of other people's recipes hold; all
    weights: Muon, with AdamW at a tenth for embeddings and norms."""
    if settings.lora:
        return {"matrix_lr": None, "other_lr": settings.model_lr}
    return {"matrix_lr": settings.model_lr, "other_lr": settings.model_lr / 10}


def add_detours(kitten: Kitten, settings: RealModel) -> int:
    """LoRA with alpha = 2 r, if it is wanted; returns how many numbers are trained."""
    if settings.lora:
        generator = new_generator("cpu", kitten.common.seed, "real model", "detours")
        add_lora(kitten.gpt, rank=settings.lora, alpha=2.0 * settings.lora, generator=generator)
    count = trained_parameters(kitten.gpt)
    print(f"{count / 1e6:.2f} M numbers are trained")
    return count


def finish_real(chapter: Run, kitten: Kitten, settings: RealModel, keys: dict) -> dict:
    """Write the trained model, without detours, as a Hugging Face folder, then the summary."""
    rows = [f"* {key}: {value:.3g}" for key, value in keys.items() if isinstance(value, float)]
    card = "\n".join(
        [f"# {Path(settings.model).name}, trained by KittenLLM in `{chapter.chapter}`", "", *rows]
    )
    folder = chapter.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped in this place
    save_folder(folder, kitten.gpt, kitten.tokenizer, card=card + "\n")
    summary = chapter.finish(keys)
    print(f"talk to it: python -m chapters.chat --model {folder}")
    return summary


def merged(kitten: Kitten) -> Kitten:
    """Add the detours to their matrices, if there are any."""
    with_detours = not all(weight.requires_grad for weight in kitten.gpt.parameters())
    return replace(kitten, gpt=merge_lora(kitten.gpt)) if with_detours else kitten


@contextmanager
def processor_time(keys: dict, name: str) -> Iterator[None]:
    """Puts the seconds of processor time spent inside into keys[name]: other programs on the same
    machine do not count."""
    started = sum(os.times()[:2])
    yield
    keys[name] = sum(os.times()[:2]) - started


def other_abilities(kitten: Kitten) -> dict[str, float]:
    """What a training may make it forget. Keys: perplexity (of a plain text), general_right (share
    of twenty questions of general knowledge, answered greedily)."""
    general = json.loads(GENERAL.read_text(encoding="utf-8"))
    text = "\n\n".join(general["text"])
    right = answered(kitten, general["questions"])
    return {"perplexity": perplexity(kitten, text, TEXT_TOKENS), "general_right": right}


@torch.inference_mode()
def perplexity(kitten: Kitten, text: str, most_tokens: int) -> float:
    """exp of the mean loss on the first tokens of a plain text: how well it is read."""
    tokens = torch.tensor([text_prompt(kitten.tokenizer, text)[:most_tokens]])  # (1, T)
    tokens = tokens.to(kitten.gpt.device)
    return token_logprobs(kitten.gpt(tokens), tokens).mean().neg().exp().item()


def answered(kitten: Kitten, questions: Sequence[tuple[str, Sequence[str]]]) -> float:
    """Share of the questions whose answer holds one of the right words."""
    replies = greedy_replies(kitten, [question for question, _ in questions], ANSWER_TOKENS)
    right = [
        any(word in reply.lower() for word in words)
        for reply, (_, words) in zip(replies, questions, strict=True)
    ]
    return sum(right) / len(right)


def greedy_replies(kitten: Kitten, questions: Sequence[str], most_tokens: int) -> list[str]:
    """What the model answers at temperature 0."""
    asked = [[{"role": "user", "content": question}] for question in questions]
    rollout = generate(
        kitten.gpt,
        [chat_prompt(kitten.tokenizer, messages) for messages in asked],
        max_new_tokens=most_tokens,
        temperature=0.0,
        generator=None,
    )
    return [kitten.tokenizer.decode(reply) for reply in rollout.replies()]
