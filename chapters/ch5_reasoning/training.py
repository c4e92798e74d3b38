"""The two loops of the reasoning chapter: a supervised warm-up, then GRPO with rules only.

Used by story.py and by its experiments, so that all of them train in the same way.
"""

import copy
from dataclasses import dataclass

from tqdm import tqdm

from chapters.ch5_reasoning import exam, thinking
from chapters.ch5_reasoning.pictures import warnings_in
from chapters.ch5_reasoning.thinking import Task, Thinker
from kittenllm.batches import pack
from kittenllm.chat import ChatTokens
from kittenllm.config import nested
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft

ROW_LENGTH = 256  # of the packed rows of the warm-up
LIVE = ("accuracy", "reply_tokens", "waits", "format", "truncated", "no_signal", "entropy")


@dataclass(frozen=True)
class Recipe:
    """All that a training and its exams are made of."""

    warm_up: SFTConfig = nested(prefix="warm_up_")
    grpo: GRPOConfig = nested(prefix="grpo_")
    patient_share: float  # of the scribbles of the warm-up
    format_weight: float  # what the right form is worth
    pass_problems: int  # of the exam, with 16 replies each
    most_problems: int | None = None  # of the exam; None: all

    @property
    def warm_up_tokens(self) -> int:
        """How many tokens the warm-up reads."""
        return self.warm_up.steps * self.warm_up.rows_per_step * ROW_LENGTH


def countdown_task(documents: list[ChatTokens], recipe: Recipe, common: Common) -> Task:
    """Countdown with fresh practice problems for every step."""
    rng = new_random(common.seed, "ch5_reasoning", "practice")
    count = recipe.grpo.steps * recipe.grpo.prompts_per_step
    practice = thinking.countdown_practice(count, rng)
    return Task("countdown", practice, thinking.countdown_held_out(), documents)


def warm_up(
    run: Run, name: str, thinker: Thinker, documents: list[ChatTokens], config: SFTConfig
) -> None:
    """The next-token loss on the documents; of an exercise, only the reply is trained."""
    row_length = min(ROW_LENGTH, thinker.gpt.config.context_length)
    rows = pack(documents, row_length=row_length, pad_id=thinker.tokenizer.pad_id)
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", run.common.seed, "ch5_reasoning", "warm_up")
    objects = {"gpt": thinker.gpt, "optimizer": optimizer, "generator": generator}
    stage = run.stage(name, total=config.steps, objects=objects)
    training = train_sft(
        thinker.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
    )
    for _ in stage.follow(training):
        pass


def learn_from_rules(run: Run, name: str, thinker: Thinker, task: Task, recipe: Recipe) -> None:
    """GRPO on the practice problems, watched step by step."""
    config = recipe.grpo
    reference = copy.deepcopy(thinker.gpt) if config.kl_coef > 0 else None
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator(run.common.device, run.common.seed, "ch5_reasoning", "grpo")
    objects = {"gpt": thinker.gpt, "optimizer": optimizer, "generator": generator}
    stage = run.stage(name, total=config.steps, objects=objects)
    training = train_grpo(
        thinker.gpt,
        [thinker.prompt(exercise) for exercise in task.practice],
        thinking.reward_for(task.practice, thinker.tokenizer, recipe.format_weight),
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        reference=reference,
    )
    history, warned = run.history(stage.name), set()
    for metrics in stage.follow(training, show=LIVE):
        tokens = metrics["reply_tokens"] * config.prompts_per_step * config.group_size
        metrics["tokens_per_second_sampling"] = tokens / metrics["seconds_sampling"]
        metrics["tokens_per_second_training"] = tokens / metrics["seconds_training"]
        history.append(metrics)
        for worry, text in warnings_in(history).items():
            if worry not in warned:
                warned.add(worry)
                tqdm.write(text)


def exam_of(task: Task, recipe: Recipe) -> exam.Plan:
    """Which exercises are asked how often."""
    return exam.exam_of(task, recipe.pass_problems, recipe.most_problems)


def look(run: Run, name: str, thinker: Thinker, plan: exam.Plan, recipe: Recipe) -> dict:
    """The exam at temperature 1, with dice of its own."""
    generator = new_generator(run.common.device, run.common.seed, "ch5_reasoning", "exam", name)
    limit = recipe.grpo.max_new_tokens
    return exam.look(thinker, plan, max_new_tokens=limit, generator=generator)
