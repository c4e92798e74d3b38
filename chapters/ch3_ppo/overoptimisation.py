"""Over-optimisation: what happens when a kitten may go as far as it likes after a poor judge.

A reward model is only a proxy for what people want. One that learnt from few pairs is wrong in many
places, and a policy that is paid by it and by nothing else finds these places: the proxy's score
rises on and on, what people want rises first and then falls. Gao, Schulman and Hilton 2022, arXiv
2210.10760, plot both over the distance from the start, with a gold judge that labels the pairs.

Used by ch3_ppo --overoptimisation.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from chapters.common.kitten import Kitten
from chapters.common.measuring import watch, with_scorer
from chapters.common.pairs import sample_pairs
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.config import check_options, option
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel
from kittenllm.reward_model import RewardModel, RewardModelConfig, train_reward_model
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.json_files import missing_number
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.scorer import Scorer, new_reward_model
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

MOST_PAIRS_PER_STEP = 32
WATCH_EVERY = 2  # rounds between two looks at held-out questions


@dataclass(frozen=True)
class OveroptimisationSettings:
    """What is different in the run that goes wrong; all the rest is as in the main run."""

    few_pairs: int = option(100, "--overoptimisation: pairs its reward model learns from", low=1)
    few_pairs_epochs: int = option(6, "--overoptimisation: how often it sees each", low=1)
    over_steps: int = option(30, "--overoptimisation: rounds of PPO", low=1)
    over_lr: float = option(5e-4, "--overoptimisation: learning rate of the policy", above=0)

    def __post_init__(self):
        check_options(self)

    def without_a_price(self, ppo: PPOConfig) -> PPOConfig:
        """PPO as in the main run, but it costs nothing to go far."""
        return replace(ppo, kl_coef=0.0, steps=self.over_steps, policy_lr=self.over_lr)


def overoptimise(
    common: Common,
    settings,
    sft_path: Path,
    gold_best: float,
    train: Callable[..., None],
) -> dict:
    """A reward model from few pairs, no KL price: the proxy rises, the gold score turns down.

    The design of Gao et al. 2022 (arXiv 2210.10760): the gold judge itself labels the pairs.
    `train` is the chapter's own loop, `settings` are the chapter's. What the main run was made of
    is known by its fingerprint.
    """
    over = settings.over
    inputs = {"main run": fingerprint_of(common, "ch3_ppo")}
    chapter = Run(common, "ch3_overoptimisation", over, inputs=inputs)
    if chapter.finished:
        return chapter.summary["overoptimisation"]
    reference, tokenizer, _ = load_model(sft_path, device=common.device)
    reward_model = new_reward_model(reference)
    train_on_few_pairs(
        common, reward_model, reference, tokenizer, over.few_pairs, over.few_pairs_epochs
    )
    chat_kitten = with_scorer(Kitten(reference, tokenizer, common), Scorer(reward_model))
    watched = settings.watch_questions
    start, _ = chapter.once("start", lambda: watch(reference, chat_kitten, watched))
    policy, value_model = copy.deepcopy(reference), ValueModel(copy.deepcopy(reward_model.gpt))
    train(
        chapter,
        chat_kitten,
        "ppo",
        policy,
        value_model,
        over.without_a_price(settings.ppo),
        watch_every=WATCH_EVERY,
        watch_questions=watched,
    )
    looks = [start, *looks_in(chapter.history("ppo"))]
    numbers = turning_point(looks, gold_best)
    picture = chapter.folder.parent / "ch3_ppo" / "overoptimisation.png"
    draw_overoptimisation(picture, looks, turned=numbers["turned"])
    print(in_words(numbers))
    chapter.finish({"overoptimisation": numbers}, model=(policy, tokenizer))
    return numbers


def train_on_few_pairs(
    common: Common,
    reward_model: RewardModel,
    reference: GPT,
    tokenizer: Tokenizer,
    count: int,
    epochs: int,
) -> None:
    """A reward model that has seen too little of the world; a run that goes on makes it again."""
    pairs = sample_pairs(
        reference,
        tokenizer,
        build_town(),
        count=count,
        rng=new_random(common.seed, "ch3_ppo", "few pairs"),
        generator=new_generator(common.device, common.seed, "ch3_ppo", "few pairs"),
        annotators="exact",
        replies_each=2,
    )
    size = min(MOST_PAIRS_PER_STEP, count)
    steps = max(1, round(epochs * count / size))
    config = RewardModelConfig(steps=steps, pairs_per_step=size, matrix_lr=2e-3, other_lr=2e-3)
    training = train_reward_model(
        reward_model,
        [(pair.chosen_tokens, pair.rejected_tokens) for pair in pairs],
        config=config,
        optimizer=make_optimizer(
            reward_model, matrix_lr=config.matrix_lr, other_lr=config.other_lr
        ),
        generator=new_generator("cpu", common.seed, "ch3_ppo", "few pairs order"),
    )
    for _ in training:
        pass


def looks_in(history: list[dict]) -> list[dict]:
    """The entries with a look at the held-out questions."""
    needed = ("gold", "proxy", "kl_held_out")
    return [entry for entry in history if not missing_number(entry, needed)]


def turning_point(looks: list[dict], gold_best: float) -> dict[str, float | bool]:
    """Where the gold score peaked, and where gold and proxy ended (means of the last three).

    The last three looks ask the same questions. The error of their mean is at most the mean of
    their errors, and that is what last_gold_stderr and proxy_last_stderr hold.
    """
    golds = [look["gold"] for look in looks]
    proxies = [look["proxy"] for look in looks]
    peak = golds.index(max(golds))
    last_gold = statistics.fmean(golds[-3:])
    last_proxy = statistics.fmean(proxies[-3:])
    needed_fall = 0.1 * (gold_best - min(golds))
    fell = golds[peak] - last_gold >= needed_fall
    return {
        "peak_gold": golds[peak],
        "peak_gold_stderr": looks[peak].get("gold_stderr"),
        "peak_step": looks[peak].get("step", -1) + 1,  # 0: the start
        "peak_kl": looks[peak]["kl_held_out"],
        "last_gold": last_gold,
        "last_gold_stderr": mean_error(looks[-3:], "gold_stderr"),
        "lowest_gold": min(golds),
        "last_kl": statistics.fmean(look["kl_held_out"] for look in looks[-3:]),
        "proxy_at_peak": proxies[peak],
        "proxy_at_peak_stderr": looks[peak].get("proxy_stderr"),
        "proxy_last": last_proxy,
        "proxy_last_stderr": mean_error(looks[-3:], "proxy_stderr"),
        "needed_fall": needed_fall,
        "turned": fell and last_proxy > proxies[peak],
    }


def mean_error(looks: list[dict], key: str) -> float | None:
    """The mean of the looks' standard errors; None if one of them has none."""
    errors = [look.get(key) for look in looks]
    return None if None in errors else statistics.fmean(errors)


def draw_overoptimisation(path: Path, looks: list[dict], *, turned: bool) -> None:
    """overoptimisation.png: proxy and gold over the distance; the title says what happened."""
    happened = "the proxy rises, the kitten gets worse" if turned else "not clear in this run"
    kl = [look["kl_held_out"] for look in looks]
    plots.curves(
        path,
        {
            "proxy: the reward model from few pairs": (kl, [look["proxy"] for look in looks]),
            "gold: what people really want": (kl, [look["gold"] for look in looks]),
        },
        title=f"Over-optimisation: {happened}",
        x_label="KL to the starting model, nats per reply",
        y_label="score",
    )


def in_words(numbers: dict) -> str:
    """What went wrong, in words."""
    turned = "turned" if numbers["turned"] else "did not turn clearly"

    def shown(key: str) -> str:
        return with_error(numbers[key], numbers[f"{key}_stderr"], "+.2f").replace("+- +", "+- ")

    return (
        f"over-optimisation: gold peaked at {shown('peak_gold')} (round {numbers['peak_step']}) "
        f"and ended at {shown('last_gold')}, the proxy went from {shown('proxy_at_peak')} to "
        f"{shown('proxy_last')}: the curve {turned}"
    )
