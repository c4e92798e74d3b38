"""Do PPO, DPO and IPO find the best policy? In a tiny world one can look.

In tiny_world.py every reply can be listed, and the best policy pi* is known. So here we watch, step
by step, how far every method still is from it. The distance is the total variation, half the sum of
|p - q|: no set of replies differs by more in probability. PPO samples replies and sees their
points; DPO and IPO see every pair with Bradley-Terry labels. Losses and loops are those of the big
kittens.

IPO goes for how often a reply wins, P(y beats a random reply), in place of its points. Its optimum
is another one, and this program shows the distance to both.

Read before: tiny_world.py, ppo.py, dpo.py. Left out: replies that nobody has listed.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chapters.common.runner import exit_code
from chapters.enumerable.tiny_world import (
    LONGEST_REPLY,
    PROMPTS,
    TOKENS,
    World,
    best_ipo_policy,
    best_policy,
    build_world,
    judge_of,
    new_reference,
    pairs_by_gap,
    population_loss,
    reply_logprobs,
    total_variation,
)
from kittenllm import plots
from kittenllm.config import check_options, option
from kittenllm.dpo import dpo_loss, ipo_loss
from kittenllm.gpt import GPT
from kittenllm.optim import learning_rate_scale, make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel, train_ppo
from kittenllm.runs.json_files import damaged, is_number
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator, parse_settings
from kittenllm.training import apply_gradients

GOOD_DISTANCE = 0.05
DISTANCES = (  # in summary.json
    "distance_before",
    "dpo_distance",
    "ppo_distance",
    "ipo_distance",
    "ipo_distance_to_its_own_optimum",
    "distance_of_the_two_optima",
)


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    beta: float = option(0.5, "price of one nat away from the reference, in points", above=0)
    steps: int = option(160, "steps of DPO and of IPO", low=1)
    ppo_steps: int = option(220, "rounds of PPO", low=1)
    replies_per_step: int = option(512, "replies that PPO samples in a round", low=1)
    learning_rate: float = option(8e-3, "of DPO and IPO", above=0)
    ppo_learning_rate: float = option(6e-3, "of PPO's policy", above=0)

    def __post_init__(self):
        check_options(self)

    def ppo(self) -> PPOConfig:
        """PPO without anything that would move its optimum away from pi*.

        Every later reward counts in full (gamma = lam = 1), a nat costs beta, and advantages are
        not whitened. At pi* all shaped returns of a prompt are then equal, and nothing pulls.
        """
        return PPOConfig(
            steps=self.ppo_steps,
            replies_per_step=self.replies_per_step,
            max_new_tokens=LONGEST_REPLY,
            gamma=1.0,
            lam=1.0,
            kl_coef=self.beta,
            whiten_advantages=False,
            no_end_penalty=0.0,
            value_clip_eps=10.0,
            target_kl=10.0,
            policy_lr=self.ppo_learning_rate,
            value_lr=1e-2,
            cooldown=0.5,
        )


QUICK = {"steps": 60, "ppo_steps": 30}


# -------------------------------------------------------------------------------------- DPO and IPO


def learn_preferences(
    policy: GPT,
    world: World,
    ref_logprobs: Tensor,
    loss_function: Callable,
    *,
    beta: float,
    steps: int,
    optimizer,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Full-batch training on the population loss of `dpo_loss` or `ipo_loss`."""
    groups = pairs_by_gap(world.points)
    for step in range(start_step, steps):
        optimizer.set_scale(learning_rate_scale(step, steps))
        logprobs = reply_logprobs(policy, world)
        loss = population_loss(loss_function, logprobs, ref_logprobs, groups, beta=beta)
        loss.backward()
        grad_norm = apply_gradients(policy, optimizer, 1.0)
        yield {"step": step, "loss": loss.item(), "grad_norm": grad_norm}


# ------------------------------------------------------------------------------------ the program


@dataclass
class Lesson:
    """What all three methods start from, and what they are measured with."""

    chapter: Run
    settings: Settings
    world: World
    reference: GPT
    ref_logprobs: Tensor  # (X, Y)
    optimum: Tensor  # (X, Y) pi*
    ipo_optimum: Tensor  # (X, Y)

    def distances(self, policy: GPT) -> dict[str, float]:
        """How far the policy is from pi* and from IPO's optimum."""
        with torch.no_grad():
            probabilities = reply_logprobs(policy, self.world).exp()
        return {
            "distance": total_variation(probabilities, self.optimum),
            "distance_to_ipo": total_variation(probabilities, self.ipo_optimum),
        }

    def preferences(self, name: str, loss_function: Callable) -> GPT:
        """Train a copy of the reference with `dpo_loss` or `ipo_loss`."""
        settings = self.settings
        policy = copy.deepcopy(self.reference)
        rate = settings.learning_rate
        optimizer = make_optimizer(policy, matrix_lr=rate, other_lr=rate)
        objects = {"policy": policy, "optimizer": optimizer}
        stage = self.chapter.stage(name, total=settings.steps, objects=objects)
        training = learn_preferences(
            policy,
            self.world,
            self.ref_logprobs,
            loss_function,
            beta=settings.beta,
            steps=settings.steps,
            optimizer=optimizer,
            start_step=stage.step,
        )
        for metrics in stage.follow(training, show=("loss", "distance")):
            metrics.update(self.distances(policy))
        return policy

    def ppo(self) -> GPT:
        """Train a copy of the reference with the PPO of the big kittens, every line of it."""
        config = self.settings.ppo()
        common = self.chapter.common
        policy, value_model = (copy.deepcopy(self.reference) for _ in range(2))
        value_model = ValueModel(value_model)
        policy_lr, value_lr = config.policy_lr, config.value_lr
        optimizer = make_optimizer(policy, matrix_lr=policy_lr, other_lr=policy_lr)
        value_optimizer = make_optimizer(value_model, matrix_lr=value_lr, other_lr=value_lr)
        generator = new_generator(common.device, common.seed, "enumerable", "ppo")
        objects = {
            "policy": policy,
            "value_model": value_model,
            "optimizer": optimizer,
            "value_optimizer": value_optimizer,
            "generator": generator,
        }
        stage = self.chapter.stage("ppo", total=config.steps, objects=objects)
        training = train_ppo(
            policy,
            self.reference,
            value_model,
            list(PROMPTS),
            judge_of(self.world),
            config=config,
            optimizer=optimizer,
            value_optimizer=value_optimizer,
            generator=generator,
            start_step=stage.step,
        )
        for metrics in stage.follow(training, show=("score", "kl", "distance")):
            metrics.update(self.distances(policy))
        return policy


def run(settings: Settings, common: Common) -> dict:
    """The world, the optimum, three trainings, the distances; returns the summary."""
    chapter = Run(common, "enumerable", settings)
    if chapter.finished:
        for key in DISTANCES:
            if not is_number(chapter.summary.get(key)):
                raise damaged(chapter.folder / "summary.json", f"{key!r} must be a number")
        return chapter.summary
    world = build_world(new_generator("cpu", common.seed, "enumerable", "points"))
    world = world._replace(points=world.points.to(common.device))
    reference = new_reference(new_generator("cpu", common.seed, "enumerable", "weights"))
    reference = reference.to(common.device)
    with torch.no_grad():
        ref_logprobs = reply_logprobs(reference, world)  # (X, Y)
    optimum = best_policy(ref_logprobs, world.points, beta=settings.beta)
    ipo_optimum = best_ipo_policy(ref_logprobs, world.points, beta=settings.beta)
    lesson = Lesson(chapter, settings, world, reference, ref_logprobs, optimum, ipo_optimum)

    policies = {
        "dpo": lesson.preferences("dpo", dpo_loss),
        "ipo": lesson.preferences("ipo", ipo_loss),
        "ppo": lesson.ppo(),
    }

    before = lesson.distances(reference)
    after = {name: lesson.distances(policy) for name, policy in policies.items()}
    keys = {
        "distance_before": before["distance"],
        "dpo_distance": after["dpo"]["distance"],
        "ppo_distance": after["ppo"]["distance"],
        "ipo_distance": after["ipo"]["distance"],
        "ipo_distance_to_its_own_optimum": after["ipo"]["distance_to_ipo"],
        "distance_of_the_two_optima": total_variation(optimum, ipo_optimum),
    }
    draw(chapter, before["distance"])
    print(table(lesson, policies))
    print(report(keys))
    return chapter.finish(keys)


def draw(chapter: Run, distance_before: float) -> None:
    """distance.png: the distance to pi* after every step of every method."""
    lines = {
        "PPO to pi*": ("ppo", "distance"),
        "DPO to pi*": ("dpo", "distance"),
        "IPO to pi*": ("ipo", "distance"),
        "IPO to its own optimum": ("ipo", "distance_to_ipo"),
    }
    series = {}
    for label, (stage, key) in lines.items():
        history = [entry for entry in chapter.history(stage) if entry.get(key) is not None]
        series[label] = ([e["step"] + 1 for e in history], [e[key] for e in history])
    plots.curves(
        chapter.folder / "distance.png",
        series,
        title="How far from the best policy that there is",
        x_label="step (of PPO: round of sampling)",
        y_label="total variation",
        reference_lines={"the reference": distance_before, "goal": GOOD_DISTANCE},
    )


def table(lesson: Lesson, policies: dict[str, GPT], rows: int = 6) -> str:
    """The likeliest replies of pi* to the first prompt, and what became of them."""
    world, optimum = lesson.world, lesson.optimum
    with torch.no_grad():
        learnt = {name: reply_logprobs(gpt, world)[0].exp() for name, gpt in policies.items()}
    columns = {"reference": lesson.ref_logprobs[0].exp(), "pi*": optimum[0], **learnt}
    head = f"{'reply to ' + TOKENS[PROMPTS[0][-1]]:<20}{'points':>7}"
    lines = [head + "".join(f"{name:>11}" for name in columns)]
    for y in optimum[0].topk(rows).indices.tolist():
        words = " ".join(TOKENS[token] for token in world.replies[y])
        line = f"{words:<20}{world.points[0, y].item():>7.0f}"
        lines.append(line + "".join(f"{column[y].item():>11.3f}" for column in columns.values()))
    return "\n".join(lines)


def report(keys: dict) -> str:
    """The distances in words."""
    return (
        f"total variation to the best policy: before {keys['distance_before']:.3f}, "
        f"DPO {keys['dpo_distance']:.3f}, PPO {keys['ppo_distance']:.3f}, "
        f"IPO {keys['ipo_distance']:.3f}\n"
        f"IPO has an optimum of its own, {keys['distance_of_the_two_optima']:.3f} away from pi*: "
        f"it ends {keys['ipo_distance_to_its_own_optimum']:.3f} from there"
    )


def main(argv=None) -> int:
    def work():
        settings, common = parse_settings(
            Settings, __doc__, argv, quick=QUICK, prog="chapters.enumerable"
        )
        if common.device.type == "cpu":
            torch.set_num_threads(1)  # for matrices this small a second thread only costs time
        folder = common.folder("enumerable")
        finished_before = (folder / "summary.json").exists()
        keys = run(settings, common)
        if finished_before:
            print(f"{report(keys)}\nsee {folder}; delete that folder to run it again")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
