"""The examination in MeowScript: held-out programs, sampled replies, and a machine that grades.

Used by story.py. A reply is graded by running the code in it (see meow_tasks.grade): a
program that looks odd and prints the right thing is right, one that looks right and does not run
is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chapters.common.kitten import Kitten
from chapters.common.measuring import counts_of
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import evaluation_questions, rate
from kittenllm.kitten_town.facts import build_town
from kittenllm.kitten_town.meow_tasks import Task, grade, held_out_tasks
from kittenllm.sampling import generate
from kittenllm.settings import new_generator

EXAM_SEED = 97  # every kitten gets the same exam
MOST_TOKENS = 90  # of a reply; the longest right one has 74
FIXED_TASKS = 2  # of each kind, shown before and after
# what is asked -> the key of its rate in summary.json
KEYS = {
    "write": "program_accuracy",
    "output": "output_accuracy",
    "repair": "repair_accuracy",
    "explain": "explain_accuracy",
}
FULL_PLAN = (340, 6)  # distinct exercises of each kind, sampled replies to each
QUICK_PLAN = (6, 1)


@dataclass(frozen=True)
class Attempt:
    """One exercise, what the kitten said, and the grade."""

    question: Task
    text: str
    right: bool


def attempts_at(
    kitten: Kitten,
    tasks: Sequence[Task],
    *,
    temperature: float = 1.0,
    replies_each: int = 1,
    most_tokens: int = MOST_TOKENS,
) -> list[Attempt]:
    """Let the kitten work on each exercise `replies_each` times, and grade it."""
    repeated = [task for task in tasks for _ in range(replies_each)]
    rollout = generate(
        kitten.gpt,
        [chat_prompt(kitten.tokenizer, task.messages()[:1]) for task in repeated],
        max_new_tokens=most_tokens,
        temperature=temperature,
        generator=new_generator(kitten.common.device, kitten.common.seed, "ch1_language", "exam"),
    )
    texts = [kitten.tokenizer.decode(reply) for reply in rollout.replies()]
    return [
        Attempt(task, text, ended and grade(task, text))
        for task, text, ended in zip(repeated, texts, rollout.ended.tolist(), strict=True)
    ]


def language_exam(kitten: Kitten) -> dict:
    """Rates at temperature 1 and, as `<key>_greedy`, at temperature 0, each with its error.

    `wrong` holds some failed replies per kind: what to read before changing anything.
    """
    count, replies_each = QUICK_PLAN if kitten.common.quick else FULL_PLAN
    scores: dict = {"wrong": {}}
    for kind, key in KEYS.items():
        tasks = held_out_tasks(kind, count, EXAM_SEED)
        sampled = attempts_at(kitten, tasks, replies_each=replies_each)
        greedy = attempts_at(kitten, tasks, temperature=0.0)
        for name, attempts in ((key, sampled), (f"{key}_greedy", greedy)):
            scores[name], scores[f"{name}_stderr"] = rate(attempts, lambda a: a.right)
        wrong = [[a.question.text, a.text, a.question.reply] for a in greedy if not a.right]
        scores["wrong"][kind] = wrong[:6]
    return scores


def chat_exam(kitten: Kitten) -> dict[str, float]:
    """What is left of the other abilities: held-out questions of chapter 1, answered greedily, and
    the loss on unseen pretraining text."""
    questions = evaluation_questions(build_town(), counts_of(kitten.common))
    replies = kitten.ask(questions["fact"] + questions["sum"])
    accuracy, error = rate(replies, lambda reply: reply.verdict.right)
    return {
        "chat_accuracy": accuracy,
        "chat_accuracy_stderr": error,
        "bits_per_byte": kitten.base_bits_per_byte(),
    }


def fixed_tasks() -> list[Task]:
    """Held-out exercises whose answers stand in samples.md."""
    return [task for kind in KEYS for task in held_out_tasks(kind, FIXED_TASKS, EXAM_SEED)]


def fixed_replies(kitten: Kitten) -> list[str]:
    """The kitten's greedy answers to the fixed exercises."""
    return [attempt.text for attempt in attempts_at(kitten, fixed_tasks(), temperature=0.0)]
