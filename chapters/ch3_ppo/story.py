"""Chapter 3: PPO, the kitten that learns from scores: generate, score, update.

The chat kitten answers taught questions, the reward model of chapter 2 scores the answers, and PPO
makes the better tokens a little likelier, while a price per nat (kl_coef) keeps the kitten near the
one that it started from. --redraw draws the token credit picture again with another --gamma, --lam
or --kl-coef and trains nothing. --overoptimisation adds a run that goes wrong on purpose: no price,
and a reward model that saw few pairs. The lesson is chapters/ch3_ppo/lesson.md.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from chapters.ch3_ppo.overoptimisation import OveroptimisationSettings, overoptimise
from chapters.ch3_ppo.token_credit import (
    PICTURE,
    Snapshot,
    draw_again,
    redrawn_name,
    save_snapshot,
)
from chapters.common.kitten import Kitten
from chapters.common.measuring import (
    ASKED_SHARES,
    answers,
    before_and_after,
    counts_of,
    fixed_replies,
    measure,
    taught_questions,
    watch,
    with_scorer,
)
from chapters.common.runner import ensure
from chapters.common.samples import DRAWN, TYPICAL, write_samples
from chapters.common.terminal import use_colour, with_error
from kittenllm import plots
from kittenllm.chat import chat_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.evaluation import (
    ERRORS_MEAN,
    MAX_REPLY_TOKENS,
    fixed_questions,
    gold_of_best_replies,
)
from kittenllm.forward import frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel, train_ppo
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run, file_digest, fingerprint_of, write_summary
from kittenllm.scorer import Scorer, check_reward_model, load_reward_model
from kittenllm.settings import Common, new_generator

CREDIT_REPLIES = 64  # replies of the token credit picture
WHEN = ("before", "after")
SCORES = (
    "gold safe_rate allowed_rate talk_rate friendly_rate grumpy_rate answer_accuracy stop_rate "
    "reply_tokens reward"
)


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    reward_model: str = option("", "score with this reward model, not with chapter 2's")
    ppo: PPOConfig = nested(
        PPOConfig(max_new_tokens=MAX_REPLY_TOKENS),
        hidden="max_new_tokens whiten_advantages max_grad_norm",
    )
    watch_every: int = option(5, "rounds between two looks at held-out questions", low=1)
    watch_questions: int = option(200, "held-out questions of such a look", low=1)
    redraw: bool = option(False, "only draw the token credit picture again", extra=True)
    overoptimisation: bool = option(
        False, "add the run that goes wrong on purpose (a minute)", extra=True
    )
    over: OveroptimisationSettings = nested(OveroptimisationSettings(), extra=True)

    def __post_init__(self):
        check_options(self)


QUICK = {
    "steps": 4,
    "replies_per_step": 16,
    "watch_every": 2,
    "watch_questions": 16,
    "over_steps": 4,
    "few_pairs_epochs": 1,
}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    folder = common.folder("ch3_ppo")
    if settings.redraw:
        print(draw_again(folder / redrawn_name(settings.ppo), settings.ppo, colour=use_colour()))
        return {"redrawn": True}
    if settings.reward_model:  # first of all: a file that is no reward model must cost nothing
        reward_path = Path(settings.reward_model)
        check_reward_model(reward_path)
        inputs = {"reward_model": file_digest(reward_path)}
    else:
        reward = ensure("ch2_reward_model", common)
        reward_path = common.folder("ch2_reward_model") / reward["model"]
        inputs = {"reward_model": fingerprint_of(common, "ch2_reward_model")}
    sft = ensure("ch1_sft", common)
    inputs["sft"] = fingerprint_of(common, "ch1_sft")
    chapter = Run(common, "ch3_ppo", settings, inputs=inputs, open_now=False)
    sft_path = common.folder("ch1_sft") / sft["model"]
    summary = (
        chapter.summary if chapter.finished else align(chapter, settings, sft_path, reward_path)
    )
    if settings.overoptimisation:
        numbers = overoptimise(common, settings, sft_path, summary["gold_best"], train)
        summary = {**summary, "overoptimisation": numbers}
        summary = write_summary(folder / "summary.json", summary)
    return summary


def align(chapter: Run, settings: Settings, sft_path: Path, reward_path: Path) -> dict:
    """The main run: from the chat kitten to the aligned one."""
    common = chapter.common
    reference, tokenizer, _ = load_model(sft_path, device=common.device)
    reward_model = load_reward_model(reward_path, tokenizer, device=common.device)
    chapter.open()  # not before: a wrong reward model must not put an earlier run aside
    start = with_scorer(Kitten(reference, tokenizer, common), Scorer(reward_model))
    with chapter.timing("eval"):
        before = chapter.once(
            "before", lambda: measure(reference, start, "ch3_ppo", "measure", "before")
        )

    # Model: the policy starts as the chat kitten, the value model as the reward model.
    policy = copy.deepcopy(reference)
    value_model = ValueModel(copy.deepcopy(reward_model.gpt))

    # Loop: generate, score, update. In the middle a snapshot for the token credit picture.
    credit_step = max(1, settings.ppo.steps // 4)

    def keep_snapshot(step: int) -> None:
        if step == credit_step:
            snapshot = take_snapshot(start, policy, value_model, settings, step)
            save_snapshot(chapter.folder / "credit.pt", snapshot)

    train(
        chapter,
        start,
        "train",
        policy,
        value_model,
        settings.ppo,
        watch_every=settings.watch_every,
        watch_questions=settings.watch_questions,
        after_step=keep_snapshot,
    )

    # Look: better, safer, friendlier, and how far from the start?
    with chapter.timing("eval"):
        after = measure(policy, start, "ch3_ppo", "measure", "after")
        town = build_town()
        keys = {"gold_best": gold_of_best_replies(town, tokenizer, counts_of(common))}
        keys |= before_and_after(SCORES, before, after, keys["gold_best"])
        keys["overoptimisation"] = None
        write_samples(
            chapter.folder,
            [question.text for question in fixed_questions(town)],
            fixed_replies(reference, start, "ch3_ppo"),
            fixed_replies(policy, start, "ch3_ppo"),
            before_title="chat",
            after_title="PPO",
            how=TYPICAL.format(drawn=DRAWN),
        )
        draw_curves(chapter, keys)
        print(draw_again(chapter.folder / PICTURE, settings.ppo, colour=use_colour()))
    report(keys)
    return chapter.finish(keys, model=(policy, tokenizer))


# ---------------------------------------------------------------------------------------- the loop


def train(
    chapter: Run,
    start: Kitten,
    name: str,
    policy: GPT,
    value_model: ValueModel,
    config: PPOConfig,
    *,
    watch_every: int,
    watch_questions: int,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Generate, score, update; every few rounds the held-out questions are asked and judged."""
    common = start.common
    count = config.steps * config.replies_per_step
    questions = taught_questions(common, count, "prompts", ASKED_SHARES)
    prompts = [chat_prompt(start.tokenizer, question.messages()) for question in questions]
    objects = {
        "policy": policy,
        "value_model": value_model,
        "optimizer": make_optimizer(policy, matrix_lr=config.policy_lr, other_lr=config.policy_lr),
        "value_optimizer": make_optimizer(
            value_model, matrix_lr=config.value_lr, other_lr=config.value_lr
        ),
        "generator": new_generator(common.device, common.seed, "ch3_ppo", "train"),
    }
    stage = chapter.stage(name, total=config.steps, objects=objects)
    training = train_ppo(
        policy,
        start.gpt,
        value_model,
        prompts,
        start.scorer,
        config=config,
        optimizer=objects["optimizer"],
        value_optimizer=objects["value_optimizer"],
        generator=objects["generator"],
        start_step=stage.step,
    )
    for metrics in stage.follow(training, show=("reply_tokens", "score", "gold", "kl")):
        step = metrics["step"] + 1
        if step % watch_every == 0 or step in (1, config.steps):
            seen, example = watch(policy, start, watch_questions)
            metrics |= seen
            tqdm.write(three_steps(metrics, example))
        after_step(step)


def three_steps(metrics: dict, example: str) -> str:
    """One round in three lines: generate, score, update."""
    return (
        f"round {metrics['step'] + 1}\n"
        f"  generate  {metrics['seconds_sampling']:.1f} s  "
        f"{metrics['reply_tokens']:.1f} tokens per reply, such as: {example}\n"
        f"  score     {metrics['seconds_scoring']:.1f} s  reward model {metrics['score']:+.2f}, "
        f"gold judge on held-out questions {metrics['gold']:+.2f}\n"
        f"  update    {metrics['seconds_training']:.1f} s  {metrics['updates']} small steps, "
        f"{metrics['clip_fraction']:.0%} of the tokens clipped, "
        f"{max(0.0, metrics['kl']):.2f} nats from the start"
    )


def take_snapshot(
    start: Kitten, policy: GPT, value_model: ValueModel, settings: Settings, step: int
) -> Snapshot:
    """Some replies of this moment, with their scores: what the token credit picture is made of."""
    questions = taught_questions(start.common, CREDIT_REPLIES, "credit")
    rollout = answers(policy, start, questions, "credit")
    scores = start.scorer(rollout) - settings.ppo.no_end_penalty * (~rollout.ended).float()
    ref_logprobs = frozen_logprobs(start.gpt, rollout.tokens, rollout.response_mask)
    return Snapshot(policy, value_model, start.tokenizer, rollout, scores, ref_logprobs, step)


# ------------------------------------------------------------------------------------ the pictures


def draw_curves(chapter: Run, keys: dict) -> None:
    """curves.png: what rises, and what it costs."""
    history = chapter.history("train")

    def curve(key: str) -> tuple[list, list]:
        entries = [entry for entry in history if entry.get(key) is not None]
        return [entry["step"] + 1 for entry in entries], [entry[key] for entry in entries]

    start = ([0], [keys["gold_before"]])
    gold = tuple(first + rest for first, rest in zip(start, curve("gold"), strict=True))
    panels = [
        plots.Panel({"taught": curve("score"), "held-out": curve("proxy")}, "Reward model's score"),
        plots.Panel(
            {"held-out": gold}, "Gold score", reference_lines={"best possible": keys["gold_best"]}
        ),
        plots.Panel(
            {"taught": curve("kl"), "held-out": curve("kl_held_out")},
            "KL to the start",
            y_label="nats per reply",
        ),
        plots.Panel({"policy": curve("entropy")}, "Entropy", y_label="nats per token"),
        plots.Panel({"policy": curve("clip_fraction")}, "Clip fraction", y_label="share of tokens"),
        plots.Panel({"value model": curve("explained_variance")}, "Explained variance"),
    ]
    plots.panels(chapter.folder / "curves.png", panels, title="PPO: generate, score, update")


def report(keys: dict) -> None:
    """The key numbers in words."""
    print(f"{'held-out questions':<28}{'before':>16}{'after':>16}")
    for name in ("gold", "reward", "reply_tokens"):
        cells = [with_error(keys[f"{name}_{w}"], keys[f"{name}_{w}_stderr"], ".2f") for w in WHEN]
        print(f"{name.replace('_', ' '):<28}{cells[0]:>16}{cells[1]:>16}")
    rates = "safe_rate allowed_rate talk_rate friendly_rate answer_accuracy stop_rate"
    for name in rates.split():
        cells = [with_error(keys[f"{name}_{w}"], keys[f"{name}_{w}_stderr"], ".1%") for w in WHEN]
        print(f"{name.replace('_', ' '):<28}{cells[0]:>16}{cells[1]:>16}")
    print(
        f"{keys['gold_share_of_distance']:.0%} of the way to the best possible replies "
        f"(gold {keys['gold_best']:.2f}), {with_error(keys['kl'], keys['kl_stderr'], '.2f')} nats "
        f"per reply from the start\n{ERRORS_MEAN}"
    )
