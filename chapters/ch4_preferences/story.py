"""Chapter 4: DPO, IPO and ORPO, learning from preferences without reinforcement learning.

The chat kitten answers questions, annotators say which of two replies is better, and three methods
learn from the very same pairs: no reward model, no sampling during training. --label-noise and
--annotators make the labels worse or better, --preferences FILE learns from your own pairs (and
with --model DIR a real open model does), and --frontier compares all methods of the series: gold
score against KL. The lesson is
chapters/ch4_preferences/lesson.md.
"""

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from chapters.ch4_preferences.frontier import (
    FrontierSettings,
    best_of_n_path,
    checked_paths,
    draw_frontier,
    ppo_path,
    trained_paths,
)
from chapters.ch4_preferences.pictures import draw_gold, draw_training, report
from chapters.ch4_preferences.real_model import prefer
from chapters.common.kitten import Kitten, RealModel, Trained
from chapters.common.measuring import (
    before_and_after,
    counts_of,
    fixed_replies,
    is_right,
    means,
    measure,
)
from chapters.common.pairs import (
    LabelledPair,
    PairSettings,
    clear_examples,
    file_pairs,
    pairs_view,
    preferences_file,
    sample_pairs,
    split_pairs,
)
from chapters.common.runner import ensure
from chapters.common.samples import DRAWN, TYPICAL, write_samples
from chapters.common.terminal import with_error
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import DataFile
from kittenllm.dpo import DPOConfig, reference_logprobs, train_dpo
from kittenllm.evaluation import fixed_questions, gold_of_best_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import KIND_SHARES
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.orpo import ORPOConfig, train_orpo
from kittenllm.records import report_problems
from kittenllm.runs.checkpoints import load_model, save_model
from kittenllm.runs.run import Run, fingerprint_of, write_summary
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

MODEL_FILES = {"dpo": "model.pt", "ipo": "model_ipo.pt", "orpo": "model_orpo.pt"}
WATCH_TIMES = 12  # looks at the unseen pairs during a training
SCORES = (
    "gold safe_rate allowed_rate talk_rate friendly_rate answer_accuracy stop_rate reply_tokens"
)


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    data: PairSettings = nested(PairSettings(pairs=10_500))
    # Careless kittens say yes too often, so "no" wins nearly always, and "yes" seldom has to. Asked
    # about both equally often, all three methods learn that "no" is always safe.
    allowed_weight: float = option(
        3.5, "how much oftener than usual fine things are asked about", above=0
    )
    watched_pairs: int = option(
        300, "more pairs, about other topics, to watch the training with", low=1
    )
    epochs: float = option(1.0, "how often each pair is seen", above=0)
    # One number of pairs for all three: they learn from the same pairs in the same order.
    dpo: DPOConfig = nested(DPOConfig(), hidden="loss steps warmup cooldown max_grad_norm")
    ipo: DPOConfig = nested(
        DPOConfig(loss="ipo", beta=0.05),
        prefix="ipo_",
        hidden="loss label_smoothing steps warmup cooldown max_grad_norm",
        pairs_per_step="pairs_per_step",
    )
    orpo: ORPOConfig = nested(
        ORPOConfig(),
        prefix="orpo_",
        hidden="steps warmup cooldown max_grad_norm",
        pairs_per_step="pairs_per_step",
    )
    real: RealModel = nested(RealModel(256, model_lr=2e-4), hidden="model_steps", extra=True)
    frontier: bool = option(False, "compare gold score and KL of all methods (minutes)", extra=True)
    explored: FrontierSettings = nested(FrontierSettings(), extra=True)

    def __post_init__(self):
        check_options(self)

    def methods(self, steps: int) -> dict[str, DPOConfig | ORPOConfig]:
        """The three algorithms' own settings."""
        methods = {"dpo": self.dpo, "ipo": self.ipo, "orpo": self.orpo}
        return {name: replace(config, steps=steps) for name, config in methods.items()}


QUICK = {
    "pairs": 96,
    "watched_pairs": 24,
    "pairs_per_step": 16,
    "frontier_betas": (0.1, 1.0),
    "frontier_weights": (2.0,),
}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    file = preferences_file(settings.data.preferences, strict=settings.data.strict)
    if settings.real.model:  # a real model in the place of the kitten: real_model.py
        return prefer(settings, common, file, asked, learn)
    sft = ensure("ch1_sft", common)
    inputs = {"sft": fingerprint_of(common, "ch1_sft")}
    if file:
        inputs["preferences"] = file.digest
    sft_path = common.folder("ch1_sft") / sft["model"]
    chapter = Run(common, "ch4_preferences", settings, inputs=inputs, open_now=False)
    summary = chapter.summary if chapter.finished else compare(chapter, settings, sft_path, file)
    if settings.frontier:
        frontier = explore_frontier(common, settings, sft_path, summary, inputs, file)
        summary = {**summary, "frontier": frontier}
        summary = write_summary(common.folder("ch4_preferences") / "summary.json", summary)
    return summary


def compare(chapter: Run, settings: Settings, sft_path: Path, file: DataFile | None) -> dict:
    """The main run: three methods, one start, one set of pairs."""
    common = chapter.common
    reference, tokenizer, _ = load_model(sft_path, device=common.device)

    # Data: two replies to one question, and which one people prefer.
    with chapter.timing("sampling"):
        pairs, watched = read_pairs(common, reference, tokenizer, settings, file)
    chapter.open()  # not before: pairs that do not fit must not put an earlier run aside
    print(f"{len(pairs):,} pairs to learn from, {len(watched):,} to watch, for example:")
    print(pairs_view(clear_examples(watched), tokenizer))

    # Model: what the frozen chat kitten says about every pair, asked once and kept.
    start = Kitten(reference, tokenizer, common)
    learnt, unseen = asked(reference, pairs), asked(reference, watched)
    with chapter.timing("eval"):
        before = chapter.once(
            "before", lambda: measure(reference, start, "ch4_preferences", "before")
        )

    # Loop, three times: one forward pass for chosen and rejected, no sampling, no second model.
    configs = settings.methods(step_count(len(pairs), settings))
    town = build_town()
    keys: dict = {"gold_best": gold_of_best_replies(town, tokenizer, counts_of(common))}
    policies: dict[str, GPT] = {}
    for name, config in configs.items():
        policy = copy.deepcopy(reference)
        policies[name] = learn(chapter, name, policy, learnt, unseen, config)

        # Look: better by the gold judge? At what price? What became of "chosen" and "rejected"?
        def look(policy=policy, name=name) -> dict:
            with chapter.timing(f"{name}_eval"):
                return measure(policy, start, "ch4_preferences", name, rivals=before["golds"])

        with chapter.timing("eval"):
            after = chapter.once(f"look_{name}", look)
        keys[name] = before_and_after(SCORES, before, after, keys["gold_best"])
        keys[name] |= training_keys(chapter, name, learnt, config)
        print(f"{name.upper()}: {method_line(keys[name])}")
    keys |= {"pairs": len(pairs), "steps": configs["dpo"].steps, "frontier": None}
    write_samples(
        chapter.folder,
        [question.text for question in fixed_questions(town)],
        fixed_replies(reference, start, "ch4_preferences"),
        fixed_replies(policies["dpo"], start, "ch4_preferences"),
        before_title="chat",
        after_title="DPO",
        how=TYPICAL.format(drawn=DRAWN),
    )
    draw_training(chapter, watched)
    draw_gold(chapter, keys)
    print(report(keys))
    for name in ("ipo", "orpo"):
        save_model(chapter.folder / MODEL_FILES[name], policies[name], tokenizer)
    return chapter.finish(keys, model=(policies["dpo"], tokenizer))


# ---------------------------------------------------------------------------------------- the data


def read_pairs(
    common: Common,
    reference: GPT,
    tokenizer: Tokenizer,
    settings: Settings,
    file: DataFile | None = None,
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Pairs to learn from, and others to watch the training with: about held-out topics, or, from
    a file, about other prompts."""
    if file:
        context = reference.config.context_length
        pairs, problems = file_pairs(file, tokenizer, context, strict=settings.data.strict)
        print(report_problems(problems) or "every record of the file is fine")
        return split_pairs(pairs, settings.watched_pairs, common.seed)
    print("the chat kitten answers, the annotators compare ...", flush=True)
    both = []
    for name, count in (("pairs", settings.data.pairs), ("watched", settings.watched_pairs)):
        both.append(
            sample_pairs(
                reference,
                tokenizer,
                build_town(),
                count=count,
                rng=new_random(common.seed, "ch4_preferences", name),
                generator=new_generator(common.device, common.seed, "ch4_preferences", name),
                annotators=settings.data.annotators,
                label_noise=settings.data.label_noise,
                held_out=name == "watched",
                shares=KIND_SHARES | {"allowed": settings.allowed_weight * KIND_SHARES["allowed"]},
            )
        )
    return both[0], both[1]


def step_count(pairs: int, settings: Settings) -> int:
    """Steps after which every pair was seen `epochs` times."""
    return max(1, round(settings.epochs * pairs / settings.dpo.pairs_per_step))


@dataclass(frozen=True)
class AskedPairs:
    """Pairs, and what the frozen chat kitten says about their replies."""

    pairs: list[LabelledPair]  # P
    ref_logprobs: Tensor  # (P, 2) of chosen and rejected, made once and kept
    seconds: float  # that making them took


def asked(reference: GPT, pairs: list[LabelledPair]) -> AskedPairs:
    """Ask the reference about all pairs; after that no training needs a second model."""
    started = time.perf_counter()
    ref_logprobs = reference_logprobs(reference, [pair.preference for pair in pairs])  # (P, 2)
    return AskedPairs(pairs, ref_logprobs, time.perf_counter() - started)


# ---------------------------------------------------------------------------------------- the loop


def learn(
    chapter: Run,
    name: str,
    policy: GPT,
    learnt: AskedPairs,
    unseen: AskedPairs,
    config: DPOConfig | ORPOConfig,
    *,
    looks: int = WATCH_TIMES,
    tokens_per_pass: int | None = None,
) -> GPT:
    """Train the policy, a copy of the reference, as a stage of the run, and return it; unseen pairs
    are watched meanwhile, `looks` times."""
    pairs = [pair.preference for pair in learnt.pairs]
    optimizer = make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    # All methods see the same pairs in the same order.
    generator = new_generator("cpu", chapter.common.seed, "ch4_preferences", "order")
    objects = {"policy": Trained(policy), "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    tools = {"optimizer": optimizer, "generator": generator, "start_step": stage.step}
    if isinstance(config, DPOConfig):
        kept, limit = learnt.ref_logprobs, tokens_per_pass
        training = train_dpo(policy, pairs, kept, config=config, tokens_per_pass=limit, **tools)
    else:
        training = train_orpo(policy, pairs, config=config, **tools)
    watch_every = max(1, config.steps // looks)
    for metrics in stage.follow(training, show=("loss", "accuracy", "unseen_accuracy")):
        done = metrics["step"] + 1
        if done % watch_every == 0 or done in (1, config.steps):
            metrics |= watch(policy, unseen)
    return policy


def watch(policy: GPT, unseen: AskedPairs) -> dict[str, float]:
    """The unseen pairs: chosen and rejected apart, as changes since the reference.

    Keys: unseen_chosen and unseen_rejected (change of log p(reply), nats), unseen_margin (their
    difference) and unseen_accuracy (share of pairs whose chosen reply has gained more, a tie counts
    half), each with its standard error by topic.
    """
    logprobs = reference_logprobs(policy, [pair.preference for pair in unseen.pairs])  # (P, 2)
    chosen, rejected = (logprobs - unseen.ref_logprobs).unbind(dim=1)  # (P,) each
    margin = chosen - rejected
    numbers = {
        "unseen_chosen": chosen,
        "unseen_rejected": rejected,
        "unseen_margin": margin,
        "unseen_accuracy": is_right(margin),
    }
    return means(numbers, [pair.about for pair in unseen.pairs])


# ---------------------------------------------------------------------------------------- the look


def training_keys(
    chapter: Run, name: str, learnt: AskedPairs, config: DPOConfig | ORPOConfig
) -> dict:
    """What summary.json says about one training: its last look at the unseen pairs, and its speed.

    train_seconds hold the steps and, for DPO and IPO, asking the reference about all pairs;
    pairs_per_second counts both. seconds are all of it: training and evaluation.
    """
    keys: dict = {}
    history = chapter.history(name, "seconds", "pairs")
    last = chapter.last_entry(name, "unseen_chosen", "unseen_rejected", "unseen_accuracy")
    for end in ("", "_stderr"):
        keys[f"chosen_logprob_change{end}"] = last.get(f"unseen_chosen{end}")
        keys[f"rejected_logprob_change{end}"] = last.get(f"unseen_rejected{end}")
        keys[f"unseen_accuracy{end}"] = last.get(f"unseen_accuracy{end}")
    train_seconds = sum(entry["seconds"] for entry in history)
    if isinstance(config, DPOConfig):
        train_seconds += learnt.seconds
    eval_seconds = chapter.seconds.get(f"{name}_eval_seconds", 0.0)
    pairs = sum(entry["pairs"] for entry in history)
    keys["pairs_per_second"] = pairs / train_seconds if train_seconds > 0 else 0.0
    keys["train_seconds"] = round(train_seconds, 2)
    keys["seconds"] = round(train_seconds + eval_seconds, 2)
    return keys


def method_line(keys: dict) -> str:
    """One method in a line, as soon as it is known."""
    return (
        f"gold {keys['gold_before']:.2f} -> "
        f"{with_error(keys['gold_after'], keys['gold_after_stderr'], '.2f')} "
        f"({keys['gold_share_of_distance']:.0%} of the way to the best), "
        f"wins {with_error(keys['win_rate'], keys['win_rate_stderr'], '.1%')}, "
        f"{keys['kl']:.2f} nats away, {keys['seconds']:.0f} s"
    )


# ------------------------------------------------------------------------------------ the frontier


def explore_frontier(
    common: Common,
    settings: Settings,
    sft_path: Path,
    summary: dict,
    inputs: dict,
    file: DataFile | None,
) -> dict:
    """Gold score against KL for every method of the series -> method -> points of its path."""
    own_inputs = {"main run": fingerprint_of(common, "ch4_preferences")}
    chapter = Run(common, "ch4_frontier", settings.explored, inputs=own_inputs)
    reference, tokenizer, _ = load_model(sft_path, device=common.device)
    if not chapter.finished:
        pairs, watched = read_pairs(common, reference, tokenizer, settings, file)
        learnt, unseen = asked(reference, pairs), asked(reference, watched)

        def train(name: str, config: DPOConfig | ORPOConfig) -> GPT:
            return learn(chapter, name, copy.deepcopy(reference), learnt, unseen, config)

        methods = settings.methods(step_count(len(pairs), settings))
        variants = settings.explored.variants(methods)
        start = Kitten(reference, tokenizer, common)
        chapter.finish({"paths": trained_paths(chapter, start, variants, train)})
    paths = checked_paths(chapter.folder / "summary.json", chapter.summary.get("paths"))
    paths["PPO"] = ppo_path(common, inputs["sft"])
    paths["best-of-n"] = best_of_n_path(common, reference, tokenizer, inputs)
    path = common.folder("ch4_preferences") / "frontier.png"
    draw_frontier(path, paths, summary["dpo"]["gold_before"], summary["gold_best"])
    print(f"the frontier of all methods: {path}")
    return paths
