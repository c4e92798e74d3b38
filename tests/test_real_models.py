"""--model: a real model in the place of the kitten, in all chapters that take one.

The models here are small and random; transformers writes them where it is installed, and the tests
that need it are skipped elsewhere.
"""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from chapters.bands import __main__ as bands
from chapters.bands import real_models as numbers
from chapters.bands.chinese import in_chinese
from chapters.ch1_language import real_model, rehearsal
from chapters.ch1_language import story as ch1_language
from chapters.ch1_sft import story as ch1_sft
from chapters.ch4_preferences import real_model as ch4_real_model
from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch5_reasoning import real_model as ch5_real_model
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.common import kitten as kittens
from chapters.common.kitten import (
    RealModel,
    Trained,
    add_detours,
    load_real,
    merged,
    perplexity,
    rates,
)
from chapters.common.pairs import LabelledPair
from kittenllm.batches import pack
from kittenllm.chat import chat_prompt
from kittenllm.gpt import GPT
from kittenllm.huggingface import load_folder, save_folder
from kittenllm.kitten_town.everyday import (
    FORMS,
    KIND_OPENINGS,
    TEXT_OPENINGS,
    THINGS,
    TIPS,
    everyday_questions,
    polite_pairs,
)
from kittenllm.lora import LoRALinear, add_lora
from kittenllm.optim import make_optimizer
from kittenllm.records import RecordError
from kittenllm.runs.summaries import read_summary, write_summary
from kittenllm.settings import Common, parse_settings
from kittenllm.sft import sft_loss
from tests.byte_kitten import TOKENIZER, new_gpt

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test looks nothing up
PEERS = "a peer to compare with: pip install '.[test-peers]'"
IDS = {"bos_token_id": 256, "eos_token_id": [259, 256], "pad_token_id": 257}
SHAPE = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A small folder that needs no peer."""
    folder = tmp_path_factory.mktemp("ours") / "model"
    save_folder(folder, new_gpt(context_length=512), TOKENIZER, card="a card")
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def theirs(request, tmp_path_factory) -> Path:
    """A small random model that transformers has written, with the tokens of our byte kitten."""
    transformers = pytest.importorskip("transformers", reason=PEERS)
    folder = tmp_path_factory.mktemp("theirs") / request.param
    save_folder(folder, new_gpt(), TOKENIZER, card="a card")  # for the tokens
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(request.param, **SHAPE, **IDS)
    model = transformers.AutoModelForCausalLM.from_config(settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start at 0, which hides mistakes
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def quick(story, runs: Path, line: str) -> tuple:
    """The settings of a quick run with these flags."""
    flags = ["--quick", "--runs", str(runs), "--device", "cpu", *line.split()]
    return parse_settings(story.Settings, "", flags, quick=story.QUICK, prog="test")


# -------------------------------------------------------------------------------- the shared part


def common_of(tmp_path: Path) -> Common:
    return Common(runs=tmp_path / "runs", quick=True)


def test_lora_freezes_the_model_and_merging_makes_it_ordinary_again(ours, tmp_path):
    settings = RealModel(model=str(ours), lora=4, max_tokens=64)
    kitten = load_real(settings, common_of(tmp_path))
    trained = add_detours(kitten, settings)
    # q and o are 32 x 32, k and v 16 x 32, the three of the feed-forward network 32 x 32
    assert trained == 4 * (2 * 64 + 2 * 48 + 3 * 64)
    assert not kitten.gpt.embed_tokens.weight.requires_grad
    ranks = {m.A.shape[0] for m in kitten.gpt.modules() if isinstance(m, LoRALinear)}
    assert ranks == {4}
    assert all(m.scale == 2 for m in kitten.gpt.modules() if isinstance(m, LoRALinear))
    kitten = merged(kitten)
    assert all(weight.requires_grad for weight in kitten.gpt.parameters())
    assert merged(kitten) is kitten  # nothing to merge


def test_without_lora_all_weights_are_trained_in_float32(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(kittens, "fast_dtype", lambda device: torch.bfloat16)
    for lora, dtype in ((0, torch.float32), (2, torch.bfloat16)):
        settings = RealModel(model=str(ours), lora=lora, max_tokens=64)
        kitten = load_real(settings, common_of(tmp_path))
        assert kitten.gpt.dtype == dtype
        count = add_detours(kitten, settings)
        assert (count == kitten.gpt.parameter_count) == (lora == 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_tokens": 4096}, "--max-tokens 4096: this model reads 512 tokens"),
        ({"lora": 999}, "rank 999 is above the matrix"),
    ],
)
def test_what_does_not_fit_is_one_line(ours, tmp_path, changes, says):
    settings = RealModel(**{"model": str(ours), "max_tokens": 64, **changes})
    with pytest.raises(ValueError, match=says):
        add_detours(load_real(settings, common_of(tmp_path)), settings)


def test_a_base_model_and_an_empty_folder_are_refused(tmp_path):
    save_folder(tmp_path / "base", new_gpt(), TOKENIZER, card="x", chats=False)
    settings = RealModel(model=str(tmp_path / "base"), max_tokens=64)
    with pytest.raises(ValueError, match="no chat template"):
        load_real(settings, common_of(tmp_path))
    settings = RealModel(model=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no .safetensors file"):
        kittens.real_run("ch1_sft", settings, common_of(tmp_path), {})


def test_another_model_in_the_folder_is_another_run(ours, tmp_path):
    settings = RealModel(model=str(ours))
    first = kittens.real_run("ch1_sft", settings, common_of(tmp_path), {})
    save_folder(tmp_path / "other", new_gpt(context_length=256), TOKENIZER, card="x")
    other = RealModel(model=str(tmp_path / "other"))
    second = kittens.real_run("ch1_sft", other, common_of(tmp_path), {})
    assert first.fingerprint["inputs"] != second.fingerprint["inputs"]
    assert first.folder.name == "ch1_sft_model"


def test_only_what_is_trained_is_saved():
    """With LoRA the detours alone; and a state of other weights is refused."""
    gpt = new_gpt()
    whole = set(Trained(gpt).state_dict())
    assert whole == set(gpt.state_dict())
    add_lora(gpt, rank=2, alpha=2.0, generator=torch.Generator().manual_seed(0))
    trained = Trained(gpt)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    assert state and all(name.endswith((".A", ".B")) for name in state)
    for weight in trained.weights.values():
        weight.data += 1
    trained.load_state_dict(state)
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in state.items())
    first = next(iter(state))
    with pytest.raises(ValueError, match=first):
        trained.load_state_dict({name: v for name, v in state.items() if name != first})
    with pytest.raises(ValueError, match="has the shape"):
        trained.load_state_dict({**state, first: torch.zeros(1)})


def test_perplexity_by_hand(ours, tmp_path):
    """A model whose logits are all equal finds each of V tokens equally likely: V."""
    kitten = load_real(RealModel(model=str(ours), lora=0), common_of(tmp_path))
    kitten.gpt.norm.weight.data.zero_()
    assert perplexity(kitten, "purr " * 50, 40) == pytest.approx(TOKENIZER.vocab_size, rel=1e-4)


# ------------------------------------------------------------------------------------ ch1_language

LANGUAGE_LINE = "--model-exam 2 --max-tokens 200 --lora 2"


@pytest.fixture
def few_tokens(monkeypatch):
    """Random models hardly ever stop: short replies keep the tests fast."""
    monkeypatch.setattr(real_model, "MOST_TOKENS", 6)
    monkeypatch.setattr(kittens, "ANSWER_TOKENS", 3)


def test_an_assistant_of_a_model_that_transformers_wrote(theirs, tmp_path, few_tokens, capsys):
    line = f"--model {theirs} {LANGUAGE_LINE}"
    settings, common = quick(ch1_language, tmp_path / "runs", line)
    summary = ch1_language.run(settings, common)
    screen = capsys.readouterr().out
    assert "left out, since only kittens know the town" in screen
    folder = tmp_path / "runs" / "quick" / "ch1_language_model"
    assert read_summary(folder / "summary.json") == summary
    assert summary["chapter"] == "ch1_language_model" and summary["model"] is None
    for key in ("program_accuracy", "perplexity", "general_right", "general_right_as_assistant"):
        assert {f"{key}_before", f"{key}_after"} <= summary.keys()
    assert summary["perplexity_before"] != summary["perplexity_after"]  # it was trained
    assert summary["trained_parameters"] < summary["parameters"]
    dtype = getattr(torch, summary["dtype"].removeprefix("torch."))
    gpt, tokenizer = load_folder(folder / "model", device="cpu", dtype=dtype)
    old, _ = load_folder(theirs, device="cpu", dtype=dtype)
    assert tokenizer.system == real_model.SYSTEM
    assert gpt.config.head_channels == old.config.head_channels
    assert gpt.state_dict().keys() == old.state_dict().keys()
    moved = {n for n, w in gpt.state_dict().items() if not torch.equal(w, old.state_dict()[n])}
    assert moved == {n for n in moved if n.endswith("_proj.weight")} and moved
    # once more: nothing is trained again
    assert ch1_language.run(settings, common) == summary
    assert "finished earlier with these settings" in capsys.readouterr().out


def test_rows_that_are_too_short_for_the_exercises_are_refused(ours, tmp_path, few_tokens):
    line = f"--model {ours} --model-exam 2 --max-tokens 40"  # bytes: no exercise is that short
    with pytest.raises(ValueError, match="most exercises are longer than 40 tokens"):
        ch1_language.run(*quick(ch1_language, tmp_path / "runs", line))


def test_the_assistant_has_a_system_message_of_its_own(ours, tmp_path):
    _, tokenizer = load_folder(ours, device="cpu", dtype=torch.float32)
    messages = [{"role": "user", "content": "Hi"}]
    other = real_model.with_system(tokenizer, "MeowScript")
    assert "MeowScript" in tokenizer.decode(chat_prompt(other, messages))
    assert "MeowScript" not in tokenizer.decode(chat_prompt(tokenizer, messages))


def test_an_answer_is_right_if_it_holds_one_of_the_words(ours, tmp_path, monkeypatch):
    kitten = load_real(RealModel(model=str(ours), lora=0), common_of(tmp_path))

    class Said:
        def replies(self):
            return [kitten.tokenizer.encode(text) for text in ("It is PARIS.", "Five", "12 months")]

    monkeypatch.setattr(kittens, "generate", lambda *a, **k: Said())
    questions = [("a?", ["paris"]), ("b?", ["seven", "7"]), ("c?", ["twelve", "12"])]
    assert kittens.answered(kitten, questions) == pytest.approx(2 / 3)


def test_the_general_questions_are_twenty_and_no_answer_is_in_its_question():
    content = json.loads(kittens.GENERAL.read_text(encoding="utf-8"))
    assert len(content["questions"]) == 20
    for question, words in content["questions"]:
        assert words and not any(word in question.lower() for word in words), question
        assert all(word == word.lower() for word in words)
    assert len(" ".join(content["text"]).split()) > 200


# ------------------------------------------------------------------------- ch1_sft, ch4_preferences


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


WORDS = ["fish", "bell", "wool", "milk", "home", "mill", "tree", "moon", "rain", "snow"]


@pytest.fixture
def chats(tmp_path) -> Path:
    def chat(word: str) -> dict:
        turns = (("user", f"What is a {word}?"), ("assistant", f"A {word}."))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    return write_lines(tmp_path / "chats.jsonl", [chat(word) for word in WORDS])


@pytest.fixture
def pairs(tmp_path) -> Path:
    records = [{"prompt": f"A {w}?", "chosen": f"Yes, {w}.", "rejected": "No."} for w in WORDS]
    return write_lines(tmp_path / "pairs.jsonl", records)


def trained_names(folder: Path, old: Path, dtype: torch.dtype) -> set[str]:
    """Which weights of the exported model differ from those of the old one."""
    new, _ = load_folder(folder, device="cpu", dtype=dtype)
    before, _ = load_folder(old, device="cpu", dtype=dtype)
    weights = before.state_dict()
    return {n for n, w in new.state_dict().items() if not torch.equal(w, weights[n])}


def test_fine_tuning_of_a_model_that_transformers_wrote(theirs, chats, tmp_path, few_tokens):
    line = f"--model {theirs} --chats {chats} --max-tokens 64 --epochs 12 --model-lr 0.03"
    settings, common = quick(ch1_sft, tmp_path / "runs", line)
    summary = ch1_sft.run(settings, common)
    assert summary["held_out"] == 1 and summary["learnt"] == 9
    assert summary["unseen_loss_after"] < summary["unseen_loss_before"] - 0.1
    folder = tmp_path / "runs" / "quick" / "ch1_sft_model"
    moved = trained_names(folder / "model", theirs, kittens.fast_dtype(common.device))
    assert moved and all(name.endswith("_proj.weight") for name in moved)
    assert "What is a" in (folder / "samples.md").read_text(encoding="utf-8")


def test_fine_tuning_all_weights_moves_the_embedding_too(ours, chats, tmp_path, few_tokens):
    line = f"--model {ours} --chats {chats} --lora 0 --max-tokens 64 --model-lr 0.003"
    settings, common = quick(ch1_sft, tmp_path / "runs", line)
    summary = ch1_sft.run(settings, common)
    folder = tmp_path / "runs" / "quick" / "ch1_sft_model"
    moved = trained_names(folder / "model", ours, torch.float32)
    assert "embed_tokens.weight" in moved and "norm.weight" in moved
    assert summary["trained_parameters"] == new_gpt(context_length=512).parameter_count


def test_dpo_on_a_model_that_transformers_wrote(theirs, pairs, tmp_path, few_tokens):
    line = f"--model {theirs} --preferences {pairs} --max-tokens 64 --epochs 6 --model-lr 0.01"
    settings, common = quick(ch4_preferences, tmp_path / "runs", line)
    summary = ch4_preferences.run(settings, common)
    assert summary["pairs"] == 9 and summary["watched"] == 1
    assert summary["unseen_margin"] > 0.2 and summary["unseen_accuracy"] == 1
    folder = tmp_path / "runs" / "quick" / "ch4_preferences_model"
    assert trained_names(folder / "model", theirs, kittens.fast_dtype(common.device))


def test_the_reference_is_asked_about_every_pair_once_and_in_order(ours, capsys):
    gpt, _ = load_folder(ours, device="cpu", dtype=torch.float32)
    pairs = [LabelledPair(None, [1, n], [2] * (1 + n % 3), [3, n]) for n in range(45)]
    whole = ch4_preferences.asked(gpt, pairs)
    parts = ch4_real_model.asked_in_parts(ch4_preferences.asked, gpt, pairs)
    assert parts.pairs == pairs and parts.ref_logprobs.shape == (45, 2)
    torch.testing.assert_close(parts.ref_logprobs, whole.ref_logprobs, atol=1e-4, rtol=0)
    assert "40 of 45" in capsys.readouterr().out


@pytest.fixture
def questions(tmp_path) -> Path:
    records = [{"question": f"{w}: 1+{n}?", "answer": f"#### {n + 1}"} for n, w in enumerate(WORDS)]
    return write_lines(tmp_path / "questions.jsonl", records)


def test_grpo_on_a_model_that_transformers_wrote(
    theirs, questions, tmp_path, few_tokens, monkeypatch
):
    """A random model is never right, so here a reply is worth its share of even bytes."""

    def even(exercises, tokenizer, format_weight):
        seen.append(format_weight)

        def reward(number, reply, ended):
            share = sum(token % 2 == 0 for token in reply) / max(1, len(reply))
            parts = {"accuracy": share, "format": 0.0, "waits": 0.0, "right_tokens": 0.0}
            return share, parts

        return reward

    seen: list[float] = []
    monkeypatch.setattr(ch5_real_model, "reward_for", even)
    line = f"--model {theirs} --questions {questions} --max-tokens 200 --max-new-tokens 8"
    settings, common = quick(ch5_reasoning, tmp_path / "runs", f"{line} --format-weight 0.7")
    summary = ch5_reasoning.run(settings, common)
    assert seen == [0.7]
    assert summary["practice"] == 8 and summary["held_out"] == 2
    assert summary["accuracy_before"] == 0
    folder = tmp_path / "runs" / "quick" / "ch5_reasoning_model"
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert trained_names(folder / "model", theirs, kittens.fast_dtype(common.device))


@pytest.mark.parametrize(
    ("reply", "right", "form"),
    [
        ("3 + 4 = 7\n#### 7", 1, 1),
        ("#### 1,200", 0, 1),
        ("#### 7 #### 8", 0, 0),  # a list of answers
        ("#### 7 apples", 0, 0),
        ("7", 0, 0),
        ("", 0, 0),
    ],
)
def test_rewards_of_real_replies(reply, right, form):
    exercises = ch5_real_model.fitting(
        [{"question": q, "answer": "7"} for q in ("a?", "b?")], TOKENIZER, 200
    )
    reward = ch5_real_model.reward_for(exercises, TOKENIZER, 0.25)
    worth, parts = reward(0, TOKENIZER.encode(reply), True)
    assert (parts["accuracy"], parts["format"]) == (right, form)
    assert worth == right + 0.25 * form
    assert reward(0, TOKENIZER.encode(reply), False)[0] == 0  # cut off


def test_questions_that_are_too_long_are_refused():
    with pytest.raises(RecordError, match="give a larger --max-tokens"):
        ch5_real_model.fitting([{"question": "a?", "answer": "7"}] * 3, TOKENIZER, 5)


@pytest.mark.parametrize(
    ("story", "flag"),
    [
        (ch1_sft, "--chats"),
        (ch5_reasoning, "--questions"),
    ],
)
def test_a_model_alone_is_not_enough(story, flag, ours, tmp_path, capsys):
    with pytest.raises(SystemExit):
        quick(story, tmp_path / "runs", f"--model {ours}")
    assert f"--model needs {flag}" in capsys.readouterr().err


def test_dpo_needs_pairs(ours, tmp_path):
    with pytest.raises(ValueError, match="--model needs --preferences"):
        ch4_preferences.run(*quick(ch4_preferences, tmp_path / "runs", f"--model {ours}"))


# What each flag of the real model changes: the flag -> another value, and what is seen of it.
WIRING = {
    "--lora": ("3", "rank"),
    "--max-tokens": ("70", "row length"),
    "--model-batch": ("2", "rows_per_step"),
    "--model-lr": ("0.02", "other_lr"),
    "--model-pass": ("99", "tokens_per_pass"),
    "--epochs": ("20", "steps"),
}


@pytest.fixture
def noted(ours, chats, tmp_path, few_tokens, monkeypatch):
    """Runs ch1_sft with some flags; what its loop was handed."""

    def run(line: str) -> dict:
        seen: dict = {}

        def train(chapter, name, kitten, rows, config, *, tokens_per_pass):
            ranks = {m.A.shape[0] for m in kitten.gpt.modules() if isinstance(m, LoRALinear)}
            seen.update(rank=ranks, steps=config.steps, tokens_per_pass=tokens_per_pass)
            seen.update(matrix_lr=config.matrix_lr, other_lr=config.other_lr)
            seen.update({"row length": rows.tokens.shape[1], "rows_per_step": config.rows_per_step})

        monkeypatch.setattr(ch1_sft, "train", train)
        flags = f"--model {ours} --chats {chats} --max-tokens 64 {line}"
        settings, common = quick(ch1_sft, tmp_path / f"runs{line.replace(' ', '')}", flags)
        ch1_sft.run(settings, common)
        return seen

    return run


def test_each_flag_arrives(noted):
    usual = noted("")
    for flag, (value, key) in WIRING.items():
        changed = noted(f"{flag} {value}")
        moved = {name for name in usual if usual[name] != changed[name]}
        allowed = {key, "steps"} if flag in ("--model-batch", "--max-tokens") else {key}
        assert key in moved and moved <= allowed, flag


def test_lora_has_adamw_and_all_weights_have_muon():
    assert rates(RealModel(lora=4, model_lr=0.02)) == {"matrix_lr": None, "other_lr": 0.02}
    assert rates(RealModel(lora=0, model_lr=0.02)) == {"matrix_lr": 0.02, "other_lr": 0.002}


def test_no_pass_of_dpo_reads_more_than_it_may(ours, pairs, tmp_path, few_tokens, monkeypatch):
    """A step of four pairs in one pass, or pair after pair: two replies of 36 bytes each."""
    read, right = [], GPT.hidden

    def noting(self, tokens, **settings):
        if torch.is_grad_enabled():
            read.append(tokens.numel())
        return right(self, tokens, **settings)

    monkeypatch.setattr(GPT, "hidden", noting)
    for limit, largest in (("1024", 400), ("100", 100)):
        read.clear()
        line = f"--model {ours} --preferences {pairs} --max-tokens 64 --model-pass {limit}"
        settings, common = quick(ch4_preferences, tmp_path / limit, line)
        summary = ch4_preferences.run(settings, common)
        assert max(read) <= largest
        assert len(read) == summary["steps"] * (1 if limit == "1024" else 4)


# ----------------------------------------------------------------------------------- rehearsal


def test_what_is_rehearsed_are_the_models_own_words(ours, tmp_path, few_tokens, monkeypatch):
    """Two everyday questions with the likeliest answers, the same as the assistant, and a text."""
    monkeypatch.setattr(rehearsal, "QUICK", (2, 1))
    monkeypatch.setattr(rehearsal, "ANSWER_TOKENS", 5)
    monkeypatch.setattr(rehearsal, "TEXT_TOKENS", 7)
    own = load_real(RealModel(model=str(ours), lora=0), common_of(tmp_path))
    assistant = real_model.with_system(own.tokenizer, "MeowScript")
    first, second, again, _, text = rehearsal.own_words(own, assistant)
    words = own.tokenizer.decode
    for chat in (first, second):
        said = [t for t, trained in zip(chat.tokens, chat.loss_mask, strict=True) if trained]
        question = words(chat.tokens).partition("user\n")[2].partition("<|im_end|>")[0]
        assert any(thing in question for thing in THINGS)
        assert chat.tokens[-len(said) :] == said and 1 <= len(said) <= 5
        assert words([t for t in said if t != 259]) == kittens.greedy_replies(own, [question], 5)[0]
    replies = [[t for t, m in zip(c.tokens, c.loss_mask, strict=True) if m] for c in (first, again)]
    assert replies[0] == replies[1]
    assert "MeowScript" in words(again.tokens) and "MeowScript" not in words(first.tokens)
    assert words(text.tokens).startswith("<|endoftext|>" + TEXT_OPENINGS[0])
    opening = 1 + len(own.tokenizer.encode(TEXT_OPENINGS[0]))
    assert text.loss_mask == [False] * opening + [True] * (len(text) - opening)
    repeated = rehearsal.own_words(own, assistant)
    assert [chat.tokens for chat in repeated[:2]] == [first.tokens, second.tokens]


def test_no_rehearsed_question_asks_what_is_measured():
    """Neither one of the twenty questions nor one of their answers."""
    every = everyday_questions(len(FORMS) * len(THINGS), random.Random(0))
    assert len(set(every)) == len(every) >= rehearsal.QUESTIONS
    content = json.loads(kittens.GENERAL.read_text(encoding="utf-8"))
    letters = [re.sub("[^a-z ]", "", question.lower()) for question in every]
    for asked, answers in content["questions"]:
        assert re.sub("[^a-z ]", "", asked.lower()) not in letters
        assert not any(answer in question.split() for question in letters for answer in answers)
    assert not any(opening in " ".join(content["text"]) for opening in TEXT_OPENINGS)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_of_rehearsal_in_the_rows(ours, tmp_path, few_tokens, monkeypatch, share):
    """In tokens; and each piece comes once before any comes twice."""
    monkeypatch.setattr(rehearsal, "ANSWER_TOKENS", 20)
    seen = []

    def keep(chats, **settings):
        seen.extend(chats)
        return pack(chats, **settings)

    monkeypatch.setattr(kittens, "pack", keep)
    line = f"--model {ours} {LANGUAGE_LINE} --rehearsal {share} --model-steps 25"
    ch1_language.run(*quick(ch1_language, tmp_path / "runs", line))
    text = lambda chat: TOKENIZER.decode(chat.tokens)  # noqa: E731
    own = [chat for chat in seen if any(word in text(chat) for word in (*THINGS, *TEXT_OPENINGS))]
    tokens = [sum(map(len, chats)) for chats in (own, seen)]
    assert tokens[0] / tokens[1] == pytest.approx(share, abs=0.05)
    if share:
        counts = Counter(tuple(chat.tokens) for chat in own)
        assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == 10


def test_polite_pairs_can_be_told_apart_by_anybody(tmp_path):
    records = polite_pairs(240, random.Random(0))
    assert len({record["prompt"] for record in records}) == 240
    for record in records:
        assert len(record["chosen"].split()) < 20 < len(record["rejected"].split())
        assert record["chosen"].startswith(KIND_OPENINGS)
        (tip,) = [tip for tip in TIPS.values() if tip in record["chosen"]]
        assert tip in record["rejected"]  # what is said is the same
    assert polite_pairs(5, random.Random(1)) == polite_pairs(5, random.Random(1))
    with pytest.raises(ValueError):
        polite_pairs(241, random.Random(0))


# ------------------------------------------------------------------------------- what fits where


def test_memory_by_hand():
    """1 layer, C = 4, H = 2, K = 1, D = 2, F = 6, V = 10, tied.

    Matrices: q 4x4, k and v 2x4, o 4x4, gate and up 6x4, down 4x6: 16 + 8 + 8 + 16 + 72 = 120.
    Others: two norms of the layer and the last one, 3 x 4, and the embedding, 40: 52.
    """
    config = numbers.shape(1, 4, 2, 1, 6, 10)
    whole = numbers.memory(config, rank=None, number=4)
    assert whole["weights"] == 4 * 172 and whole["gradients"] == 4 * 172
    assert whole["optimizer"] == 4 * (120 + 2 * 52)
    # a layer: x, normed, q, k, v, out, turned; x, normed, gate, silu, up, product; then the logits
    layer = 4 + 4 + 4 + 2 + 2 + 4 + 4 + 4 + 4 + 6 + 6 + 6 + 6
    assert whole["activation_per_token"] == 4 * (layer + 10)
    assert whole["cache_per_token"] == 4 * 2 * 2
    lora = numbers.memory(config, rank=1, number=2)
    detours = 8 + 6 + 6 + 8 + 10 + 10 + 10
    assert lora["weights"] == 2 * 172
    assert lora["gradients"] == lora["optimizer"] == 4 * detours


@pytest.mark.parametrize("rank", [None, 4])
def test_memory_is_what_a_training_step_has(rank):
    """Weights, gradients and optimizer exactly; activations, counted by torch, within a quarter."""
    config = numbers.shape(3, 64, 4, 2, 160, 300, context_length=64, qkv_bias=True)
    gpt = GPT(config)
    if rank:
        add_lora(gpt, rank=rank, alpha=4.0, generator=torch.Generator().manual_seed(0))
    optimizer = make_optimizer(gpt, matrix_lr=1e-3, other_lr=1e-3)
    tokens = torch.arange(4 * 64).view(4, 64) % 300
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    weights, alive = {p.data_ptr() for p in gpt.parameters()}, []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = sft_loss(gpt(tokens), tokens, torch.ones_like(tokens, dtype=torch.bool))
    loss.backward()
    optimizer.step()
    expected = numbers.memory(config, rank=rank, number=4)
    trained = [p for p in gpt.parameters() if p.requires_grad]
    detours = sum(p.numel() for p in trained) if rank else 0
    assert 4 * (gpt.parameter_count - detours) == expected["weights"]
    assert sum(4 * p.grad.numel() for p in trained) == expected["gradients"]
    states = [s for part in optimizer.parts.values() for s in part.state.values()]
    remembered = sum(4 * v.numel() for s in states for n, v in s.items() if n != "step")
    assert remembered == expected["optimizer"]
    assert sum(kept.values()) / tokens.numel() == pytest.approx(
        expected["activation_per_token"], rel=0.25
    )


def test_what_was_measured_becomes_a_table(tmp_path, monkeypatch):
    summary = {"config": {"model": "/a/b/Smol"}, "threads": 1, "peak_rss_mb": 2345}
    summary |= {"trained_parameters": 4_880_000, "tokens": 90_000}
    for key in ("program", "repair", "explain"):
        summary |= {f"{key}_accuracy_before": 0.0, f"{key}_accuracy_after": 0.966}
    summary |= {"output_accuracy_before": 0.01, "output_accuracy_after": 0.85}
    summary |= {"general_right_before": 0.0, "general_right_after": 0.966, "train_seconds": 662.0}
    summary |= {"program_accuracy_stderr_after": 0.021, "perplexity_before": 12.345}
    write_summary(tmp_path / "ch1_language_model" / "summary.json", summary)
    monkeypatch.setattr(numbers, "FILE", tmp_path / "real_models.json")
    assert numbers.measured_table("ch1_language_model") == numbers.NOT_MEASURED
    assert bands.main(["--real", str(tmp_path)]) == 0
    table = numbers.measured_table("ch1_language_model")
    assert "| Smol, one thread | before | after |" in table and "/a/b" not in table
    assert "| programs written right | 0 % | 97 ± 2 % |" in table
    assert "| perplexity of a plain text | 12.35 | – |" in table
    assert "| numbers trained, million |  | 4.88 |" in table
    assert "| Smol, 一个线程 | 之前 | 之后 |" in in_chinese(table)
    assert numbers.measured_table("ch4_preferences_model") == numbers.NOT_MEASURED
    sentence = numbers.headline()
    assert sentence.startswith("Smol, trained with LoRA for 11 minutes on one thread: programs")
    assert "written right 0 → 97 %, what a program prints, right 1 → 85 %, bugs" in sentence
    assert "Smol，用 LoRA 训练 11 分钟（一个线程）：程序写对 0 → 97 %，说对" in in_chinese(sentence)
    write_summary(  # a comparison has other columns; what was measured before stays
        tmp_path / "later" / "two_processes" / "summary.json",
        {"config": {"model": "Tiny"}, "threads": 2, "round_s": 3.0, "gain": 1.25},
    )
    assert bands.main(["--real", str(tmp_path / "later")]) == 0
    assert numbers.measured_table("ch1_language_model") == table
    lines = numbers.measured_table("two_processes").splitlines()
    assert lines[0].startswith("| Tiny, 2 threads | one process, two threads | two processes")
    assert lines[2:] == ["| a round of GRPO, seconds | 3.00 | – |", "| times as fast |  | 1.25 |"]
    with pytest.raises(ValueError, match="no run with --model has finished"):
        numbers.collect(tmp_path / "empty")
