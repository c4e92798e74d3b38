"""Every setting of every chapter arrives where it belongs: change one, and exactly that changes. So
do those of the programs rank and enumerable.

The chapters run as they are, but nothing is trained, asked or drawn. In the place of these
functions stand some that note what they are handed. A row of the tables below says which notes
another value changes: no other may change, and none may stay as it was.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from itertools import combinations

import pytest
import torch
from byte_kitten import small_config

from chapters.ch0_base import story as ch0_base
from chapters.ch1_language import story as ch1_language
from chapters.ch1_sft import story as ch1_sft
from chapters.ch1_tools import story as ch1_tools
from chapters.ch2_reward_model import story as ch2_reward_model
from chapters.ch2_reward_model import truth
from chapters.ch3_ppo import overoptimisation
from chapters.ch3_ppo import story as ch3_ppo
from chapters.ch4_preferences import frontier
from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch5_reasoning import pictures
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.ch5_reasoning.thinking import thought_document
from chapters.common import exam, texts
from chapters.common import pairs as preferences
from chapters.common.exam import PASS_SAMPLES
from chapters.common.kitten import Kitten
from chapters.common.pairs import LabelledPair
from chapters.common.texts import Texts
from chapters.enumerable import __main__ as enumerable
from chapters.rank import __main__ as rank
from chapters.rank import learning as rank_learning
from kittenllm.batches import TokenStream
from kittenllm.chat import text_prompt
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import KIND_SHARES, Question
from kittenllm.kitten_town.facts import build_town
from kittenllm.lora import LoRALinear
from kittenllm.records import RecordError
from kittenllm.reward_model import RewardModel
from kittenllm.runs.run import Run
from kittenllm.sampling import Rollout
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, flags_of, with_values

TOWN = build_town()
ANOTHER = "another value than before"
GONE = None
REFUSED = "the chapter refuses to start"
OLD_TEXT = 600  # tokens that a kitten may replay


@dataclass(frozen=True)
class Row:
    """Another value, and the notes that it changes: pattern -> the new value, ANOTHER or GONE.

    `given` are settings of both runs, for a field that means something beside another one only.
    """

    value: object
    changes: dict | str
    given: dict = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """Stands for a file of this name in the folder of the test."""

    name: str


class Enough(Exception):
    """All that is of interest was noted."""


class Notes(dict):
    """What arrived where: name -> value."""

    def config(self, name: str, config) -> None:
        self.update({f"{name}.{f.name}": getattr(config, f.name) for f in fields(config)})

    def optimizer(self, name: str, optimizer) -> None:
        self.update({f"{name} rate of {part}": lr for part, lr in optimizer.base_lrs.items()})

    def trainer(self, names: list[str], see, metrics: dict):
        """A training loop that only notes what it gets; `names` are those of its calls."""
        names = iter(names)

        def train(*arguments, config, optimizer, start_step=0, **more):
            name = next(names)
            self.config(name, config)
            self.optimizer(name, optimizer)
            if "value_optimizer" in more:
                self.optimizer(f"{name} value", more["value_optimizer"])
            self.update({f"{name} {key}": value for key, value in see(*arguments, **more).items()})
            for step in range(config.steps):
                yield {"step": step, **metrics}

        return train


def rates(name: str, *, matrix: float | None = None, other: float | None = None) -> dict:
    """The changes by another learning rate: of the config, and of the optimizer itself."""
    changes = {}
    if matrix is not None:
        changes |= {f"{name}.matrix_lr": matrix, f"{name} rate of muon": matrix}
    if other is not None:
        changes |= {f"{name}.other_lr": other, f"{name} rate of adamw": other}
    return changes


def mark(thing) -> str:
    """The same for equal things only."""
    thing = thing.tolist() if isinstance(thing, torch.Tensor) else thing
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:12]


def nothing(*arguments, **named):
    return None


# ------------------------------------------------------------------------- a world for the chapters


@pytest.fixture(scope="module")
def tokenizer(town_tokenizer):
    return town_tokenizer


def kitten(tokenizer, seed: int = 0) -> GPT:
    return GPT(small_config(tokenizer), generator=torch.Generator().manual_seed(seed))


class Stage:
    """A chapter's module with other functions in the place of its own."""

    def __init__(self, patch, notes: Notes, tokenizer, common: Common):
        self.patch, self.notes = patch, notes
        self.tokenizer, self.common = tokenizer, common

    def put(self, module, **functions) -> None:
        for name, function in functions.items():
            self.patch.setattr(module, name, function)

    def stop(self, *arguments, **named):
        raise Enough

    def stands_on_finished_chapters(self, module, **summary) -> None:
        summary = {"model": "model.pt", "config": {"text": ""}, **summary}
        self.put(module, ensure=lambda name, common: summary)
        self.put(module, fingerprint_of=lambda common, name: f"fingerprint of {name}")

    def loads(self, module) -> None:
        self.put(module, load_model=lambda path, **_: (kitten(self.tokenizer), self.tokenizer, {}))

    def chat_kitten(self, *arguments) -> Kitten:
        tokens = torch.arange(OLD_TEXT) % 300
        train, validation = TokenStream(tokens), TokenStream(tokens[1:])
        text = Texts(self.tokenizer, None, train, validation, 900, 900)
        return Kitten(kitten(self.tokenizer), self.tokenizer, self.common, text)

    def sft(self, module, *names: str, old_text: int = OLD_TEXT) -> None:
        def see(gpt, rows, *, generator, replay=(), tokens_per_pass=None):
            assert tokens_per_pass is None, "a kitten reads the rows of a step in one pass"
            assert len(replay) == old_text, "it replays what it was pretrained on"
            seen = {"rows": mark(rows.tokens)}
            loras = [part for part in gpt.modules() if isinstance(part, LoRALinear)]
            return seen | ({"alpha": loras[0].scale * len(loras[0].A)} if loras else {})

        self.put(module, train_sft=self.notes.trainer(list(names), see, {"chat_loss": 1.0}))


# ----------------------------------------------------------------------------------- the base


def run_base(stage: Stage, settings) -> None:
    notes = stage.notes
    stage.put(texts, BPE_DOCUMENTS=60, VALIDATION_TOKENS=300)

    def see(gpt, stream, *, generator):
        return {"vocabulary": gpt.config.vocab_size, "text": mark(stream.tokens)}

    def validation_nats(gpt, tokens, row_length, most_rows=None):
        name = "measured whole" if most_rows is None else "watched"
        notes[f"{name} in rows of"] = row_length
        return 1.0, 1

    def base_exam(*arguments, quick):
        notes["facts are asked"] = True
        return {}

    metrics = {"loss": 1.0, "tokens": 1, "seconds": 1.0}
    names = ["pretraining"] if settings.text else ["echoes", "pretraining"]
    stage.put(
        ch0_base,
        train_pretrain=notes.trainer(names, see, metrics),
        validation_nats=validation_nats,
        base_exam=base_exam,
        continuations=lambda *_: [],
        draw=stage.stop,
    )
    ch0_base.run(settings, stage.common)


BASE = {
    "train_tokens": 640,
    "echo_tokens": 320,
    "vocab_size": 400,
    "rows_per_step": 2,
    "row_length": 16,
}
BASE_ROWS = {
    "text": Row(
        File("book.txt"),
        {
            "pretraining text": ANOTHER,
            "facts are asked": GONE,
            "echoes*": GONE,  # a text of one's own is read without them
            "pretraining.warmup": ANOTHER,  # so it has to warm up itself
        },
    ),
    "train_tokens": Row(320, {"pretraining.steps": 10}),
    "echo_tokens": Row(160, {"echoes.steps": 5}),
    "vocab_size": Row(420, {"* vocabulary": 420, "* text": ANOTHER}),
    "rows_per_step": Row(4, {"*.rows_per_step": 4, "pretraining.steps": 10, "echoes.steps": 5}),
    "row_length": Row(
        32,
        {
            "*.row_length": 32,
            "pretraining.steps": 10,
            "echoes.steps": 5,
            "* in rows of": 32,
        },
    ),
    "matrix_lr": Row(0.02, rates("pretraining", matrix=0.02) | rates("echoes", matrix=0.02)),
    "other_lr": Row(0.03, rates("pretraining", other=0.03) | rates("echoes", other=0.03)),
}

# ---------------------------------------------------------------------------- the kitten that chats


def run_sft(stage: Stage, settings) -> None:
    notes = stage.notes
    stage.stands_on_finished_chapters(ch1_sft)
    stage.sft(ch1_sft, "sft")
    stage.put(Kitten, base_bits_per_byte=lambda self: 0.5)
    before = {"bits_per_byte": 0.5, "template_accuracy": [0, 0], "bare_accuracy": [0, 0]}

    def compare(chapter, base, records, settings, config, packed_rows, train):
        notes["compared with the loop"] = train is ch1_sft.train
        return {}

    stage.put(
        ch1_sft,
        load_base=stage.chat_kitten,
        look_before=lambda *_: before | {"samples": []},
        look_after=lambda *_: {},
        fixed_replies=lambda *_: [],
        write_samples=nothing,
        compare=compare,
        draw=stage.stop,
    )
    ch1_sft.run(settings, stage.common)


SFT = {"chats": File("chats.jsonl"), "rows_per_step": 2, "replay_fraction": 0.5}
SFT_ROWS = {
    "chats": Row(File("other_chats.jsonl"), {"sft rows": ANOTHER}),
    "strict": Row(True, REFUSED, {"chats": File("bad_chats.jsonl")}),
    "data_steps": Row(("secret",), {"sft rows": ANOTHER, "sft.steps": ANOTHER}),
    "most_chats": Row(2, {"sft rows": ANOTHER, "sft.steps": ANOTHER}),
    "epochs": Row(5.0, {"sft.steps": ANOTHER}),
    "rows_per_step": Row(4, {"sft.rows_per_step": 4, "sft.steps": ANOTHER}),
    "replay_fraction": Row(0.0, {"sft.replay_fraction": 0.0, "sft.steps": ANOTHER}),
    "matrix_lr": Row(0.02, rates("sft", matrix=0.02)),
    "other_lr": Row(0.03, rates("sft", other=0.03)),
    "compare": Row(True, {"compared with the loop": True}),
}

# ------------------------------------------------------------------------------- tools and language


def run_tools(stage: Stage, settings) -> None:
    stage.stands_on_finished_chapters(ch1_tools)
    stage.sft(ch1_tools, "tools", "direct")
    stage.put(
        ch1_tools,
        load_chat_kitten=stage.chat_kitten,
        look_before=lambda *_: {"samples": []},
        mask_view=lambda *_: "",
        look_after=lambda *_: {"samples": []},
        look_without_tools=lambda *_: {},
        summary_keys=stage.stop,
    )
    ch1_tools.run(settings, stage.common)


TOOLS = {"steps": 3, "rows_per_step": 4, "chat_fraction": 0.3}
TOOLS_ROWS = {
    "steps": Row(
        6, {"tools.steps": 6, "direct.steps": 6, "tools rows": ANOTHER, "direct rows": ANOTHER}
    ),
    "rows_per_step": Row(
        2,
        {
            "tools.rows_per_step": 2,
            "direct.rows_per_step": 2,  # 3 before: answers at once are short
            "* rows": ANOTHER,
        },
    ),
    "chat_fraction": Row(0.9, {"* rows": ANOTHER}),
    "replay_fraction": Row(0.0, {"*.replay_fraction": 0.0, "* rows": ANOTHER}),
    "matrix_lr": Row(0.02, rates("tools", matrix=0.02) | rates("direct", matrix=0.02)),
    "other_lr": Row(0.03, rates("tools", other=0.03) | rates("direct", other=0.03)),
}


def run_language(stage: Stage, settings) -> None:
    stage.stands_on_finished_chapters(ch1_language)
    stage.sft(ch1_language, *settings.methods)
    scores = {"bits_per_byte": 1.0, "exam_seconds": 0.0, "samples": []}
    scores |= {"chat_accuracy": 0.5, "chat_accuracy_stderr": 0.1}
    stage.put(
        ch1_language,
        load_chat_kitten=stage.chat_kitten,
        look=lambda *_: dict(scores),
        demonstration=lambda *_: "",
        write_samples=nothing,
        draw=stage.stop,
    )
    ch1_language.run(settings, stage.common)


LANGUAGE = {"methods": ("full", "lora_4"), "steps": 3, "rows_per_step": 2}
LANGUAGE_ROWS = {
    "methods": Row(("full",), {"lora_4*": GONE}),
    "steps": Row(
        6, {"full.steps": 6, "lora_4.steps": 6, "full rows": ANOTHER, "lora_4 rows": ANOTHER}
    ),
    "rows_per_step": Row(
        4,
        {
            "full.rows_per_step": 4,
            "lora_4.rows_per_step": 4,
            "full rows": ANOTHER,
            "lora_4 rows": ANOTHER,
        },
    ),
    "chat_fraction": Row(0.9, {"full rows": ANOTHER, "lora_4 rows": ANOTHER}),
    "replay_fraction": Row(0.0, {"*.replay_fraction": 0.0, "* rows": ANOTHER}),
    "matrix_lr": Row(0.02, rates("full", matrix=0.02)),
    "other_lr": Row(0.03, rates("full", other=0.03) | {"lora_4.other_lr": 0.03}),
    "lora_lr": Row(0.05, rates("lora_4", matrix=0.05)),
    "lora_alpha": Row(8.0, {"lora_4 alpha": 8.0}),
}

# -------------------------------------------------------------------------------- pairs and rewards

PAIR = LabelledPair(
    Question("fact", "Why?", ("a", "color")), [3], [4, 5], [6, 7, 8], 1.0, -1.0, 0.9
)


def sampler(notes: Notes):
    """Notes how pairs are asked for, and hands out as many; the last of them is another one."""

    def sample_pairs(gpt, tokenizer, town, *, count, rng, generator, held_out=False, **asked):
        name = "held-out pairs" if held_out else "pairs"
        notes[f"{name}: how many"] = count
        notes[f"{name}: annotators"] = asked["annotators"]
        notes[f"{name}: label noise"] = asked["label_noise"]
        shares = asked["shares"]
        notes[f"{name}: share of fine things"] = shares["allowed"] / sum(shares.values())
        return [PAIR] * (count - 1) + [replace(PAIR, prompt=[9])]

    return sample_pairs


def run_reward_model(stage: Stage, settings) -> None:
    notes = stage.notes
    stage.stands_on_finished_chapters(ch2_reward_model)
    stage.loads(ch2_reward_model)
    stage.put(preferences, sample_pairs=sampler(notes))

    def twins(town, tokenizer, count, rng, **asked):
        notes["twin pairs: how many"] = count
        notes["twin pairs: annotators"] = asked["annotators"]
        notes["twin pairs: label noise"] = asked["label_noise"]
        return [replace(PAIR, prompt=[8])] * count

    stage.put(truth, draw_pairs=twins)

    def look(chosen, rejected, pairs):
        notes["measured on"] = len(pairs)
        raise Enough

    def see(model, pairs, *, generator):
        return {"pairs": mark(pairs), "weight moves": model.likelihood_weight.requires_grad}

    training = notes.trainer(["reward model"], see, {"loss": 1.0, "accuracy": 0.5})
    stage.put(ch2_reward_model, train_reward_model=training, look=look)
    ch2_reward_model.run(settings, stage.common)


FROM_FILE = {"preferences": File("pairs.jsonl")}
REWARD_MODEL = {"pairs": 12, "held_out_pairs": 5, "pairs_per_step": 3, "twin_share": 0.25}
REWARD_MODEL_ROWS = {
    "preferences": Row(
        File("pairs.jsonl"),
        {
            "*pairs: *": GONE,
            "reward model pairs": ANOTHER,
            "reward model.steps": 3,  # 9 of 10 prompts, and the tenth to measure with
            "measured on": 1,
        },
    ),
    "strict": Row(True, REFUSED, {"preferences": File("bad_pairs.jsonl")}),
    "annotators": Row("exact", {"*pairs: annotators": "exact"}),
    "label_noise": Row(0.25, {"*pairs: label noise": 0.25}),
    "pairs": Row(
        24,
        {
            "pairs: how many": 18,
            "twin pairs: how many": 6,
            "reward model.steps": 8,
            "reward model pairs": ANOTHER,
        },
    ),
    "twin_share": Row(
        0.5,
        {
            "pairs: how many": 6,  # the twins are among the 12
            "twin pairs: how many": 6,
            "reward model pairs": ANOTHER,
        },
    ),
    "held_out_pairs": Row(7, {"held-out pairs: how many": 7, "measured on": 7}),
    "epochs": Row(2.0, {"reward model.steps": 8}),
    "pairs_per_step": Row(6, {"reward model.pairs_per_step": 6, "reward model.steps": 2}),
    "matrix_lr": Row(0.02, rates("reward model", matrix=0.02)),
    "other_lr": Row(0.03, rates("reward model", other=0.03)),
    "likelihood": Row(False, {"reward model weight moves": False}),
}

# -------------------------------------------------------------------------------------------- PPO

CUT_OFF = Rollout(  # the second of two replies does not end
    torch.tensor([[3, 4, 5], [3, 6, 7]]),
    torch.tensor([[False, True]] * 2),
    torch.zeros(2, 2),
    torch.tensor([True, False]),
)
LOOK = {"gold": 1.0, "proxy": 0.5, "kl_held_out": 0.1, "gold_stderr": 0.1, "proxy_stderr": 0.1}


def run_ppo(stage: Stage, settings) -> None:
    notes, tokenizer, common = stage.notes, stage.tokenizer, stage.common
    stage.stands_on_finished_chapters(ch3_ppo)
    stage.loads(ch3_ppo)

    def load_reward_model(path, *arguments, **named):
        notes["reward model"] = path.name
        return RewardModel(kitten(tokenizer))

    def with_scorer(start, scorer):
        return replace(start, scorer=Scorer(RewardModel(start.gpt)))

    def train_on_few_pairs(common, reward_model, reference, tokenizer, count, epochs):
        notes["few pairs"], notes["few pairs, epochs"] = count, epochs

    def watch(policy, start, count):
        notes["questions of a look"] = count
        return LOOK, "example"

    def save_snapshot(path, snapshot):
        notes["snapshot after"] = snapshot.step
        notes["score of the cut off reply in it"] = float(snapshot.scores[1])

    def draw_again(path, config, *, colour):
        notes["drawn as"] = path.name
        notes["drawn with"] = mark(config)
        return ""

    def train(chapter, start, name, *arguments, **named):
        real_train(chapter, start, name, *arguments, **named)
        looks = [e["step"] + 1 for e in chapter.history(name) if e.get("gold") is not None]
        notes["looks" if name == "train" else "wrong looks"] = looks

    real_train = ch3_ppo.train
    looks = {"before": (1.0, 9.0), "after": (2.5, 1.5)}  # gold and KL

    def measure(policy, start, *salt):
        gold, kl = looks[salt[-1]]
        scores = {key: 1.0 for key in ch3_ppo.SCORES.split()} | {"gold": gold, "kl": kl}
        return scores | {f"{key}_stderr": 0.1 for key in scores}

    see = lambda *models, generator, **_: {"prompts": len(models[3])}  # noqa: E731
    stage.put(
        ch3_ppo,
        check_reward_model=nothing,
        file_digest=lambda path: "digest",
        load_reward_model=load_reward_model,
        with_scorer=with_scorer,
        measure=measure,
        fixed_replies=lambda *_: [],
        gold_of_best_replies=lambda *_: 4.0,
        train=train,
        train_ppo=notes.trainer(["ppo", "wrong"], see, {"seconds": 1.0}),
        watch=watch,
        three_steps=lambda *_: "",
        answers=lambda *_: CUT_OFF,
        save_snapshot=save_snapshot,
        draw_again=draw_again,
        write_samples=nothing,
        draw_curves=nothing,
        report=nothing,
    )
    stage.loads(overoptimisation)
    stage.put(
        overoptimisation,
        with_scorer=with_scorer,
        watch=watch,
        train_on_few_pairs=train_on_few_pairs,
        draw_overoptimisation=nothing,
        in_words=lambda *_: "",
    )
    summary = ch3_ppo.run(settings, common)
    for key in ("gold_before", "gold_after", "gold_share_of_distance", "kl"):
        notes[key] = summary.get(key)


def ppo(**changes) -> dict:
    """Another number of PPO's, for the training and for the picture that is drawn at the end."""
    return {f"ppo.{name}": value for name, value in changes.items()} | {"drawn with": ANOTHER}


PPO = {"steps": 4, "replies_per_step": 6, "watch_every": 3, "watch_questions": 8, "over_steps": 4}
WRONG = {"overoptimisation": True}
PPO_ROWS = {
    "reward_model": Row("my_judge.pt", {"reward model": "my_judge.pt"}),
    "steps": Row(8, ppo(steps=8) | {"ppo prompts": 48, "snapshot after": 2, "looks": [1, 3, 6, 8]}),
    "replies_per_step": Row(5, ppo(replies_per_step=5) | {"ppo prompts": 20}),
    "epochs": Row(3, ppo(epochs=3)),
    "minibatches": Row(3, ppo(minibatches=3)),
    "policy_lr": Row(0.02, ppo(policy_lr=0.02) | {"ppo rate of *": 0.02}),
    "value_lr": Row(0.03, ppo(value_lr=0.03) | {"ppo value rate of *": 0.03}),
    "cooldown": Row(0.5, ppo(cooldown=0.5)),
    "kl_coef": Row(0.7, ppo(kl_coef=0.7)),
    "gamma": Row(0.8, ppo(gamma=0.8)),
    "lam": Row(0.6, ppo(lam=0.6)),
    "clip_eps": Row(0.3, ppo(clip_eps=0.3)),
    "value_clip_eps": Row(0.4, ppo(value_clip_eps=0.4)),
    "target_kl": Row(0.9, ppo(target_kl=0.9)),
    "no_end_penalty": Row(
        5.0, ppo(no_end_penalty=5.0) | {"score of the cut off reply in it": -5.0}
    ),
    "watch_every": Row(2, {"looks": [1, 2, 4]}),
    "watch_questions": Row(9, {"questions of a look": 9}),
    "redraw": Row(True, {"drawn as": "token_credit_gamma1_lam0.95_kl0.2.png", "[!d]*": GONE}),
    "overoptimisation": Row(True, {"few pairs*": ANOTHER, "wrong*": ANOTHER}),
    "few_pairs": Row(7, {"few pairs": 7}, WRONG),
    "few_pairs_epochs": Row(2, {"few pairs, epochs": 2}, WRONG),
    "over_steps": Row(
        6, {"wrong.steps": 6, "wrong prompts": 36, "wrong looks": [1, 2, 4, 6]}, WRONG
    ),
    "over_lr": Row(0.04, {"wrong.policy_lr": 0.04, "wrong rate of *": 0.04}, WRONG),
}

# ---------------------------------------------------------------------------------- DPO, IPO, ORPO


def run_preferences(stage: Stage, settings) -> None:
    notes = stage.notes
    stage.stands_on_finished_chapters(ch4_preferences)
    stage.loads(ch4_preferences)
    numbers = [*ch4_preferences.SCORES.split(), "win_rate", "kl"]
    seen = {key: 1.0 for key in numbers} | {f"{key}_stderr": 0.1 for key in numbers}

    def watch(policy, unseen):
        notes["watched pairs"] = len(unseen.pairs)
        return real_watch(policy, unseen)

    real_watch = ch4_preferences.watch
    of_frontier = [
        variant.stage for variant in settings.explored.variants(settings.methods(steps=1))
    ]
    for loop in ("train_dpo", "train_orpo"):
        methods = ["orpo"] if loop == "train_orpo" else ["dpo", "ipo"]
        methods += [name for name in of_frontier if name.startswith("orpo") == (len(methods) == 1)]
        see = lambda *given, generator, tokens_per_pass=None: {  # noqa: E731
            "learns from": mark(given[1])
        }
        training = notes.trainer(methods, see, {"pairs": 1, "seconds": 1.0})
        stage.put(ch4_preferences, **{loop: training})
    stage.put(
        ch4_preferences,
        sample_pairs=sampler(notes),
        watch=watch,
        measure=lambda *_, **__: {**seen, "golds": {}},
        gold_of_best_replies=lambda *_: 4.0,
        fixed_replies=lambda *_: [],
        write_samples=nothing,
        draw_training=nothing,
        draw_gold=nothing,
        report=lambda *_: "",
        save_model=nothing,
        draw_frontier=nothing,
    )
    stage.put(frontier, measure=lambda *_, **__: seen)
    ch4_preferences.run(settings, stage.common)


PREFERENCES = {"pairs": 12, "watched_pairs": 3, "pairs_per_step": 4}
PREFERENCES |= {"frontier_betas": (0.1, 1.0), "frontier_weights": (2.0,)}
FRONTIER = {"frontier": True}
SHARE = 2 * KIND_SHARES["allowed"] / (1 + KIND_SHARES["allowed"])  # asked about twice as often
PREFERENCES_ROWS = {
    "preferences": Row(
        File("pairs.jsonl"),
        {"*pairs: *": GONE, "* learns from": ANOTHER, "*.steps": 2, "watched pairs": 1},
    ),
    "strict": Row(True, REFUSED, {"preferences": File("bad_pairs.jsonl")}),
    "annotators": Row("exact", {"*pairs: annotators": "exact"}),
    "label_noise": Row(0.25, {"*pairs: label noise": 0.25}),
    "pairs": Row(24, {"pairs: how many": 24, "* learns from": ANOTHER, "*.steps": 6}),
    "allowed_weight": Row(2.0, {"*pairs: share of fine things": pytest.approx(SHARE)}),
    "watched_pairs": Row(5, {"held-out pairs: how many": 5, "watched pairs": 5}),
    "epochs": Row(2.0, {"*.steps": 6}),
    "pairs_per_step": Row(6, {"*.pairs_per_step": 6, "*.steps": 2}),
    "beta": Row(0.31, {"dpo.beta": 0.31}),
    "label_smoothing": Row(0.1, {"dpo.label_smoothing": 0.1}),
    "ipo_beta": Row(0.41, {"ipo.beta": 0.41}),
    "orpo_weight": Row(3.5, {"orpo.weight": 3.5}),
    "matrix_lr": Row(0.02, rates("dpo", matrix=0.02)),
    "other_lr": Row(0.03, rates("dpo", other=0.03)),
    "ipo_matrix_lr": Row(0.02, rates("ipo", matrix=0.02)),
    "ipo_other_lr": Row(0.03, rates("ipo", other=0.03)),
    "orpo_matrix_lr": Row(0.02, rates("orpo", matrix=0.02)),
    "orpo_other_lr": Row(0.03, rates("orpo", other=0.03)),
    "frontier": Row(True, {"dpo_*": ANOTHER, "ipo_*": ANOTHER, "orpo_*": ANOTHER}),
    "frontier_betas": Row((1.0,), {"dpo_beta_0_1*": GONE, "ipo_beta_0_1*": GONE}, FRONTIER),
    "frontier_weights": Row((2.0, 4.0), {"orpo_weight_4*": ANOTHER}, FRONTIER),
}

# -------------------------------------------------------------------------------------- reasoning


def run_reasoning(stage: Stage, settings) -> None:
    notes, tokenizer = stage.notes, stage.tokenizer
    stage.stands_on_finished_chapters(ch5_reasoning)
    stage.loads(ch5_reasoning)
    stage.sft(ch5_reasoning, "warm-up", old_text=0)
    start = len(text_prompt(tokenizer, ""))
    formed = thought_document(tokenizer, "", "no", "1").tokens[start:-1]

    def see(policy, prompts, reward, *, generator, reference):
        worth, _ = reward(0, formed, True)
        held = {"prompts": len(prompts), "reference": reference is not None}
        return held | {"form is worth": worth}

    metrics = dict.fromkeys((*pictures.NEEDED, "seconds_sampling", "seconds_training"), 1.0)
    look = dict.fromkeys(("accuracy", "tokens", "waits", "replies"), 0.5)
    look |= {"pass_at_k": {"8": 0.5}, "pass_at_k_stderr": {"8": 0.1}, "samples": []}

    def take_exam(thinker, plan, *, max_new_tokens, generator):
        notes["problems with 16 replies"] = sum(n == PASS_SAMPLES for _, n in plan)
        notes["exam"] = mark([exercise.text for exercise, _ in plan])
        notes["longest reply in the exam"] = max_new_tokens
        return look

    def greedy_accuracy(thinker, plan, *, max_new_tokens):
        notes["longest greedy reply"] = max_new_tokens
        return 0.5, 0.1

    def run_experiment(name, recipe, common, loops):
        notes[f"experiment {name}"] = True
        return {}

    class NoLog:
        """Logs nothing: no reply was drawn."""

        def __init__(self, *about):
            self.watching, self.after_round = lambda reward: reward, nothing

    training = notes.trainer(["grpo"], see, metrics)
    stage.put(ch5_reasoning, train_grpo=training, GroupLog=NoLog)
    stage.put(pictures, warnings_in=lambda history: {})
    stage.put(exam, look=take_exam, greedy_accuracy=greedy_accuracy)
    stage.put(pictures, all_warnings=lambda history: [], draw_training=nothing)
    stage.put(pictures, draw_exams=nothing, table=lambda *_: "")
    stage.put(
        ch5_reasoning,
        save_model=nothing,
        exam_line=lambda *_: "",
        write_samples=nothing,
        run_experiment=run_experiment,
    )
    ch5_reasoning.run(settings, stage.common)


REASONING = {"warm_up_steps": 4, "warm_up_rows": 2, "grpo_steps": 2, "prompts_per_step": 3}
REASONING |= {"max_new_tokens": 60, "group_size": 4, "eval_problems": 5}
REASONING_ROWS = {
    "warm_up_steps": Row(8, {"warm-up.steps": 8, "warm-up rows": ANOTHER}),
    "warm_up_rows": Row(3, {"warm-up.rows_per_step": 3, "warm-up rows": ANOTHER}),
    "warm_up_matrix_lr": Row(0.02, rates("warm-up", matrix=0.02)),
    "warm_up_other_lr": Row(0.03, rates("warm-up", other=0.03)),
    "patient_share": Row(0.9, {"warm-up rows": ANOTHER}),
    "grpo_steps": Row(3, {"grpo.steps": 3, "grpo prompts": 9}),
    "prompts_per_step": Row(4, {"grpo.prompts_per_step": 4, "grpo prompts": 8}),
    "group_size": Row(5, {"grpo.group_size": 5}),
    "max_new_tokens": Row(70, {"grpo.max_new_tokens": 70, "longest *": 70}),
    "format_weight": Row(0.7, {"grpo form is worth": 0.7}),
    "normalize": Row("reply", {"grpo.normalize": "reply"}),
    "normalize_std": Row(True, {"grpo.normalize_std": True}),
    "clip_eps": Row(0.3, {"grpo.clip_eps": 0.3}),
    "clip_eps_high": Row(0.28, {"grpo.clip_eps_high": 0.28}),
    "kl_coef": Row(0.1, {"grpo.kl_coef": 0.1, "grpo reference": True}),
    "epochs": Row(2, {"grpo.epochs": 2}),
    "minibatches": Row(3, {"grpo.minibatches": 3}),
    "matrix_lr": Row(0.02, rates("grpo", matrix=0.02)),
    "other_lr": Row(0.03, rates("grpo", other=0.03)),
    "cooldown": Row(0.5, {"grpo.cooldown": 0.5}),
    "eval_problems": Row(7, {"problems with 16 replies": 7, "exam": ANOTHER}),
    "least_pass_at_8": Row(0.9, {"refused": ANOTHER, "grpo*": GONE, "longest greedy*": GONE}),
    "questions": Row(
        File("questions.jsonl"),
        {
            "warm-up rows": ANOTHER,
            "grpo prompts": 8,
            "exam": ANOTHER,
            "problems with 16 replies": 2,
        },
    ),
    "strict": Row(True, REFUSED, {"questions": File("bad_questions.jsonl")}),
    "provenance": Row(True, {"experiment provenance": True}),
    "normalisations": Row(True, {"experiment normalisations": True}),
    "votes": Row(True, {"experiment votes": True}),
}

# ------------------------------------------------------------------ the world that can be listed


def run_enumerable(stage: Stage, settings) -> None:
    """DPO and IPO run as they are, a few steps of them; of PPO is noted what it gets."""
    notes = stage.notes
    training = {}  # the loss of which a step is being made

    def population_loss(loss_function, logprobs, ref_logprobs, groups, *, beta):
        name = training["of"] = loss_function.__name__
        notes[f"{name}: beta"] = beta
        notes[f"{name}: steps"] = notes.get(f"{name}: steps", 0) + 1
        return real_loss(loss_function, logprobs, ref_logprobs, groups, beta=beta)

    def apply_gradients(model, optimizer, max_norm):
        notes.optimizer(training["of"], optimizer)
        return real_update(model, optimizer, max_norm)

    def optimum(name: str, real):
        def best(ref_logprobs, points, *, beta):
            notes[f"optimum of {name}: beta"] = beta
            return real(ref_logprobs, points, beta=beta)

        return best

    real_loss, real_update = enumerable.population_loss, enumerable.apply_gradients
    see = lambda *given, **named: {"prompts": mark(given[3])}  # noqa: E731
    stage.put(
        enumerable,
        population_loss=population_loss,
        apply_gradients=apply_gradients,
        best_policy=optimum("all", enumerable.best_policy),
        best_ipo_policy=optimum("IPO", enumerable.best_ipo_policy),
        train_ppo=notes.trainer(["ppo"], see, {"score": 1.0, "kl": 0.0}),
        draw=stage.stop,
    )
    enumerable.run(settings, stage.common)


ENUMERABLE = {"steps": 2, "ppo_steps": 3, "replies_per_step": 6}
ENUMERABLE_ROWS = {
    "beta": Row(  # the price of a nat, everywhere
        0.31,
        {
            "dpo_loss: beta": 0.31,
            "ipo_loss: beta": 0.31,
            "ppo.kl_coef": 0.31,
            "optimum of all: beta": 0.31,
            "optimum of IPO: beta": 0.31,
        },
    ),
    "steps": Row(4, {"dpo_loss: steps": 4, "ipo_loss: steps": 4}),
    "ppo_steps": Row(5, {"ppo.steps": 5}),
    "replies_per_step": Row(9, {"ppo.replies_per_step": 9}),
    "learning_rate": Row(
        0.02,
        {
            "dpo_loss rate of muon": 0.02,
            "dpo_loss rate of adamw": 0.02,
            "ipo_loss rate of muon": 0.02,
            "ipo_loss rate of adamw": 0.02,
        },
    ),
    "ppo_learning_rate": Row(
        0.03, {"ppo.policy_lr": 0.03, "ppo rate of muon": 0.03, "ppo rate of adamw": 0.03}
    ),
}

# ------------------------------------------------------------------------------- ranking by hand


def run_rank(stage: Stage, settings) -> None:
    """Somebody puts the replies in the order in which they are shown."""
    notes, tokenizer = stage.notes, stage.tokenizer

    def reply(number: int) -> list[int]:
        return [*tokenizer.encode(f"Yes, number {number}."), tokenizer.im_end_id]

    def sample_pairs(gpt, tokenizer, town, *, count, replies_each, rng, held_out=False, **asked):
        name = "test pairs" if held_out else "pairs"
        first_number = rng.randrange(10_000)
        notes[f"{name}: how many"] = count
        notes[f"{name}: replies to each question"] = replies_each
        pairs = []
        for number in range(count):
            asked_about = f"Is it {first_number + number}?"
            question = Question("fact", asked_about, (f"{number}", "color"))
            for first, second in combinations(range(replies_each), 2):
                replies = reply(first), reply(second)
                pairs.append(LabelledPair(question, [number], *replies, 1.0 * second, 1.0 * first))
        return pairs[:count]

    def session(ranking):
        notes["labels"] = ranking.labels.path.name
        notes["shown"] = mark(sorted(choice.key for choice in ranking.waiting))
        notes["replies on the screen"] = max(len(choice.replies) for choice in ranking.waiting)
        while ranking.current is not None:
            ranking.rank([[number + 1] for number in range(len(ranking.current.replies))])

    def has_finished(name, common):
        notes["asks for a finished"] = name
        return True

    def agreement(*paths):
        notes["compares"] = [path.name for path in paths]
        return 1, 0.5, 0.1

    def run(common, chapter, *arguments, **named):
        notes["reward model is saved as"] = chapter
        return Run(common, chapter, *arguments, **named)

    def see(model, pairs, *, generator):
        return {"pairs": len(pairs), "reads": mark(pairs)}

    training = notes.trainer(["reward model"], see, {"loss": 1.0, "accuracy": 0.5})
    stage.loads(rank)
    stage.put(
        rank,
        ensure=lambda name, common: {"model": "model.pt"},
        parse_settings=lambda *_, **__: (settings, stage.common),
        has_finished=has_finished,
        sample_pairs=sample_pairs,
        session=session,
        agreement=agreement,
        can_be_judged=lambda *_: True,
    )
    named = {"fingerprint_of": lambda common, name: f"fingerprint of {name}"}
    stage.put(rank_learning, sample_pairs=sample_pairs, Run=run, **named)
    stage.put(ch2_reward_model, train_reward_model=training)
    rank.rank()


RANK = {"pairs": 12, "shared": 6, "test_pairs": 4}
TAUGHT = {"reward model reads": ANOTHER}
RANK_ROWS = {
    "name": Row(
        "anna",
        {"labels": "anna.jsonl", "reward model is saved as": "rank/anna_reward_model"}
        | {"shown": ANOTHER}
        | TAUGHT,
    ),
    "pairs": Row(
        20,
        {"pairs: how many": 28, "shown": ANOTHER, "reward model pairs": 20, "reward model.steps": 8}
        | {"reward model.pairs_per_step": 16}
        | TAUGHT,
    ),
    "shared": Row(3, {"pairs: how many": 18, "shown": ANOTHER} | TAUGHT),
    "replies": Row(
        4,
        {"*: replies to each question": 4, "shown": ANOTHER, "replies on the screen": 4} | TAUGHT,
    ),
    "pairs_file": Row(File("many_pairs.jsonl"), {"pairs: *": GONE, "shown": ANOTHER} | TAUGHT),
    "train": Row(False, {"reward model*": GONE, "test pairs*": GONE}),
    "train_on": Row(
        (File("many_pairs.jsonl"),),
        {"pairs: *": GONE, "labels": GONE, "shown": GONE, "replies on the screen": GONE}
        | {"reward model pairs": 15, "reward model.pairs_per_step": 15}
        | TAUGHT,
    ),
    "agreement": Row(("a.jsonl", "b.jsonl"), {"compares": ["a.jsonl", "b.jsonl"], "[!c]*": GONE}),
    "train_kitten": Row(True, {"asks for a finished": GONE}),
    "test_pairs": Row(6, {"test pairs: how many": 6}),
}


@dataclass(frozen=True)
class Chapter:
    """A chapter's settings, a run of it, and a row for each of its fields."""

    settings: type
    run: object
    base: dict
    rows: dict[str, Row]
    left_out: dict[str, str] = field(default_factory=dict)  # a field -> why it has no row


# With --model another run begins: tests/test_real_models.py says where these arrive.
REAL_FLAGS = ("model", "lora", "max_tokens", "model_batch", "model_lr", "model_pass")
REAL = dict.fromkeys(REAL_FLAGS, "--model only")
REAL_STEPS = {**REAL, "model_steps": "--model only"}

CHAPTERS = {
    "ch0_base": Chapter(ch0_base.Settings, run_base, BASE, BASE_ROWS),
    "ch1_sft": Chapter(ch1_sft.Settings, run_sft, SFT, SFT_ROWS, REAL),
    "ch1_tools": Chapter(ch1_tools.Settings, run_tools, TOOLS, TOOLS_ROWS),
    "ch1_language": Chapter(
        ch1_language.Settings,
        run_language,
        LANGUAGE,
        LANGUAGE_ROWS,
        {**REAL_STEPS, "model_exam": "--model only", "rehearsal": "--model only"},
    ),
    "ch2_reward_model": Chapter(
        ch2_reward_model.Settings, run_reward_model, REWARD_MODEL, REWARD_MODEL_ROWS
    ),
    "ch3_ppo": Chapter(ch3_ppo.Settings, run_ppo, PPO, PPO_ROWS),
    "ch4_preferences": Chapter(
        ch4_preferences.Settings, run_preferences, PREFERENCES, PREFERENCES_ROWS, REAL
    ),
    "ch5_reasoning": Chapter(
        ch5_reasoning.Settings, run_reasoning, REASONING, REASONING_ROWS, REAL_STEPS
    ),
    "enumerable": Chapter(enumerable.Settings, run_enumerable, ENUMERABLE, ENUMERABLE_ROWS),
    "rank": Chapter(
        rank.Settings,
        run_rank,
        RANK,
        RANK_ROWS,
        {"ppo_steps": "it counts with a folder of labels only, see test_rank.py"},
    ),
}

# -------------------------------------------------------------------------------- what they say


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the tables."""
    folder = tmp_path_factory.mktemp("files")

    def write(name: str, records: list) -> None:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")

    def chat(question: str, reply: str) -> dict:
        turns = (("user", question), ("assistant", reply))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    words = ["fish", "bell", "wool", "milk", "home", "mill", "tree", "moon", "rain", "snow"]
    chats = [chat(f"What is a {word}? " * 12, f"A {word}, my dear. " * 12) for word in words]
    write("chats.jsonl", [*chats, chats[0], chats[1]])
    write("other_chats.jsonl", [*chats[:9], chat("Why? " * 30, "So. " * 30), *chats[:2]])
    write("bad_chats.jsonl", [*chats, "{"])
    pairs = [{"prompt": f"A {w}?", "chosen": "Yes.", "rejected": "No."} for w in words]
    write("pairs.jsonl", pairs)
    write("bad_pairs.jsonl", [*pairs, "{"])
    write("many_pairs.jsonl", [pair | {"prompt": f"{n}"} for n in range(15) for pair in pairs[:1]])
    questions = [{"question": f"A {w}, {w}?", "answer": "1+1=2 #### 2"} for w in words]
    write("questions.jsonl", questions)
    write("bad_questions.jsonl", [*questions, "{"])
    (folder / "book.txt").write_text(" ".join(f"a {w} and {w[::-1]}." for w in words * 20))
    return folder


def with_files(values: dict, folder) -> dict:
    """The values with the paths of files in the folder of the test."""

    def path(value):
        if isinstance(value, tuple):
            return tuple(path(each) for each in value)
        return str(folder / value.name) if isinstance(value, File) else value

    return {name: path(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def noted(folder, tokenizer, tmp_path_factory):
    """noted("ch3_ppo", {"gamma": 0.9}) -> what arrived where, with these settings."""
    kept: dict[str, Notes] = {}

    def run(name: str, values: dict) -> Notes:
        key = f"{name} {values}"
        if key in kept:
            return kept[key]
        chapter, notes = CHAPTERS[name], Notes()
        settings = with_values(chapter.settings(), with_files(chapter.base | values, folder))
        runs = tmp_path_factory.mktemp(name)
        common = Common(seed=0, device=torch.device("cpu"), runs=runs)
        with pytest.MonkeyPatch.context() as patch:
            try:
                chapter.run(Stage(patch, notes, tokenizer, common), settings)
            except Enough:
                pass
            except (RecordError, ValueError) as error:
                notes["refused"] = str(error)
        kept[key] = notes
        return notes

    return run


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_flag_has_a_row(name):
    chapter = CHAPTERS[name]
    assert set(chapter.rows) | set(chapter.left_out) == set(flags_of(chapter.settings()))
    assert not set(chapter.rows) & set(chapter.left_out)


ROWS = [(name, setting) for name, chapter in CHAPTERS.items() for setting in chapter.rows]


@pytest.mark.parametrize(("name", "setting"), ROWS)
def test_a_setting_arrives_there_and_nowhere_else(name, setting, noted):
    row = CHAPTERS[name].rows[setting]
    before = noted(name, row.given)
    after = noted(name, row.given | {setting: row.value})
    assert "refused" not in before
    if row.changes is REFUSED:
        assert "line" in after["refused"] and len(after) == 1
        return
    moved = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    explained = set()
    for pattern, value in row.changes.items():
        found = {key for key in moved if fnmatchcase(key, pattern)}
        assert found, f"{pattern} stayed as it was"
        explained |= found
        if value is not ANOTHER:
            assert {key: after.get(key) for key in found} == dict.fromkeys(found, value)
    assert moved == explained


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_same_settings_arrive_in_the_same_way(name, noted):
    """Or a difference would say nothing."""
    setting = next(iter(CHAPTERS[name].base))
    assert noted(name, {setting: CHAPTERS[name].base[setting]}) == noted(name, {})


def test_the_share_of_the_way_of_chapter_3(noted):
    """From 1 to 2.5, with 4 as the best possible, is half of the way. The KL is that of the end."""
    notes = noted("ch3_ppo", {})
    assert (notes["gold_before"], notes["gold_after"]) == (1.0, 2.5)
    assert notes["gold_share_of_distance"] == 0.5 and notes["kl"] == 1.5
