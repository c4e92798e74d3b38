"""What a training of the reasoning chapter is made of, its practice problems and its exam.

Used by story.py, which holds the two loops, and by its experiments: all are measured in one way.
"""

from dataclasses import dataclass

from chapters.ch5_reasoning.thinking import Task
from chapters.common import exam
from chapters.common.kitten import Kitten
from kittenllm.chat import ChatTokens
from kittenllm.config import nested
from kittenllm.grpo import GRPOConfig
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig

ROW_LENGTH = 256  # of the packed rows of the warm-up


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
    practice = exam.countdown_practice(count, rng)
    return Task("countdown", practice, exam.countdown_held_out(), documents)


def exam_of(task: Task, recipe: Recipe) -> exam.Plan:
    """Which exercises are asked how often."""
    return exam.exam_of(task.held_out, recipe.pass_problems, recipe.most_problems)


def look(run: Run, name: str, thinker: Kitten, plan: exam.Plan, recipe: Recipe) -> dict:
    """The exam at temperature 1, with dice of its own."""
    generator = new_generator(run.common.device, run.common.seed, "ch5_reasoning", "exam", name)
    limit = recipe.grpo.max_new_tokens
    return exam.look(thinker, plan, max_new_tokens=limit, generator=generator)
