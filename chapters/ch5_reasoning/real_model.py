"""GRPO on a real open model: python -m chapters.ch5_reasoning --model DIR --questions FILE

The loop is that of story.py, the rule is that of GSM8K (Cobbe et al. 2021): a reply is right if it
ends in "#### " and the right number. An instruct model knows how to write its thoughts down, so
there is no warm-up; what can be measured in the town only, Countdown and its three experiments, is
left out. Held-out problems are answered before and after, greedily.

Used by story.py, which hands over its loop. The lesson is chapters/real_models.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from chapters.ch5_reasoning.recipe import Recipe
from chapters.ch5_reasoning.thinking import Exercise, Task
from chapters.common.kitten import (
    Kitten,
    RealModel,
    add_detours,
    finish_real,
    greedy_replies,
    load_real,
    merged,
    other_abilities,
    rates,
    real_run,
)
from chapters.common.samples import write_samples
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import mean_and_error
from kittenllm.kitten_town.rules import count_waits, read_number
from kittenllm.records import RecordError
from kittenllm.rewards import Reward
from kittenllm.settings import Common, main_values
from kittenllm.tokenizer import Tokenizer

LEFT_OUT = "left out, since only kittens know the town: Countdown, the warm-up, the experiments"
ORDER = " Think step by step. Then write #### and the number, and nothing else."
MARK = "####"
MOST_HELD_OUT = 40  # problems of the exam
AT_ONCE = 10  # of them in one batch


def practise(
    story, recipe: Recipe, common: Common, digest: str, records: list[dict], learn: Callable
) -> dict:
    """Data, model, loop, look; returns the summary. `records` are the problems of a file with this
    digest, `learn` is the story's loop."""
    settings: RealModel = story.real
    chapter = real_run(
        "ch5_reasoning", settings, common, {**main_values(story), "questions": digest}
    )
    if chapter.finished:
        return chapter.summary
    print(LEFT_OUT)

    # Model and data: the first four fifths to practise on, the rest for the exam.
    kitten = load_real(settings, common)
    longest = settings.max_tokens - recipe.grpo.max_new_tokens  # of a question
    exercises = fitting(records, kitten.tokenizer, longest)
    cut = min(round(0.8 * len(exercises)), len(exercises) - 1)
    practice, held_out = exercises[:cut], exercises[cut:][:MOST_HELD_OUT]
    chapter.open()
    print(f"{len(practice)} problems to practise on, {len(held_out)} held out")
    limit = recipe.grpo.max_new_tokens
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(kitten, held_out, limit))

    # Loop: that of the story; only the detours move.
    config = replace(
        recipe.grpo,
        steps=settings.model_steps,
        prompts_per_step=settings.model_batch,
        tokens_per_pass=settings.model_pass,
        **rates(settings),
    )
    trained = add_detours(kitten, settings)
    task = Task("questions", practice, [], [])
    forms = {"prompt": prompt_of, "reward_for": reward_for}
    learn(chapter, "grpo", kitten, task, replace(recipe, grpo=config), **forms)
    kitten = merged(kitten)

    # Look: on problems that nobody practised.
    with chapter.timing("eval"):
        after = chapter.once("after", lambda: look(kitten, held_out, limit))
    samples = [before.pop("samples"), after.pop("samples")]
    shown = [exercise.text for exercise in held_out][: len(samples[0])]
    write_samples(chapter.folder, shown, *samples, before_title="model", after_title="after GRPO")
    keys = {f"{key}_before": value for key, value in before.items()}
    keys |= {f"{key}_after": value for key, value in after.items()}
    keys |= {"trained_parameters": trained, "practice": len(practice), "held_out": len(held_out)}
    print(f"held-out problems right: {before['accuracy']:.1%} -> {after['accuracy']:.1%}")
    return finish_real(chapter, kitten, settings, keys)


def prompt_of(tokenizer: Tokenizer, question: str) -> list[int]:
    """The question as a chat, with the order how to answer."""
    return chat_prompt(tokenizer, [{"role": "user", "content": question + ORDER}])


def fitting(records: list[dict], tokenizer: Tokenizer, longest: int) -> list[Exercise]:
    """The problems whose prompt has at most `longest` tokens, each with its rule.

    Raises: RecordError if fewer than two are left.
    """
    exercises = []
    for record in records:
        question, answer = record["question"], record["answer"]
        if len(prompt_of(tokenizer, question)) <= longest:
            rule = lambda reply, answer=answer: is_right(reply, answer)  # noqa: E731
            exercises.append(Exercise(question, rule, question))
    if len(exercises) < 2:
        raise RecordError(
            f"{len(exercises)} of {len(records)} word problems have at most {longest} tokens, and "
            "2 are the least; give a larger --max-tokens, or a smaller --max-new-tokens"
        )
    return exercises


def final_number(reply: str):
    """The number behind the only ####, or None: a reply that lists answers is worth nothing."""
    _, _, answer = reply.partition(MARK)
    return read_number(answer.strip())


def is_right(reply: str, answer: str) -> float:
    """1.0 if the final number is the right one, else 0.0."""
    number = final_number(reply)
    return float(number is not None and number == read_number(answer))


def reward_for(exercises: Sequence[Exercise], tokenizer: Tokenizer, format_weight: float) -> Reward:
    """As `thinking.reward_for`, for replies that end in #### and a number."""

    def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        text = tokenizer.decode(reply)
        right = exercises[number].right(text) if ended else 0.0
        form = float(ended and final_number(text) is not None)
        parts = {"accuracy": right, "format": form, "waits": float(count_waits(text))}
        parts["right_tokens"] = right * (len(reply) + 1)  # the stop token counts
        return right + format_weight * form, parts

    return reward


def look(kitten: Kitten, held_out: list[Exercise], most_tokens: int) -> dict:
    """Keys: accuracy of greedy replies with its error, format (share with a final number), those of
    `other_abilities`; samples."""
    replies: list[str] = []
    for first in range(0, len(held_out), AT_ONCE):
        part = [exercise.text + ORDER for exercise in held_out[first : first + AT_ONCE]]
        replies += greedy_replies(kitten, part, most_tokens)
        print(f"exam: {len(replies)} of {len(held_out)} problems answered", flush=True)
    right = [exercise.right(reply) for exercise, reply in zip(held_out, replies, strict=True)]
    accuracy, error = mean_and_error(right, [exercise.about for exercise in held_out])
    form = sum(final_number(reply) is not None for reply in replies) / len(replies)
    scores = {"accuracy": accuracy, "accuracy_stderr": error, "format": form}
    return {**scores, **other_abilities(kitten), "samples": replies[:3]}
