"""Exercises with a rule instead of a teacher: the reward of a reply, and the exam.

The exam asks held-out problems, samples many replies to each, and counts by rules. Also here: two
ways to think longer without any training, votes over several replies and a forced budget of tokens.

Used by the chapters that reason, before and after training, and by their experiments. The game
itself is in kittenllm/kitten_town/countdown.py, the rules are in kittenllm/kitten_town/rules.py.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from chapters.common.kitten import Kitten
from kittenllm.chat import chat_prompt, text_prompt
from kittenllm.evaluation import mean_and_error
from kittenllm.kitten_town import countdown
from kittenllm.kitten_town.countdown import TRAINING_TRIPLES
from kittenllm.kitten_town.rules import (
    answer_reward,
    count_waits,
    format_reward,
    parse_reply,
)
from kittenllm.rewards import Reward
from kittenllm.sampling import generate
from kittenllm.tokenizer import Tokenizer

ROWS_AT_ONCE = 512  # replies that are sampled side by side; more need more memory
PASS_SAMPLES = 16  # replies to a problem for pass@k
SAMPLES_EACH = 8  # replies to each of the other problems
PASS_KS = (1, 2, 4, 8, 16)
SHOWN = 8  # held-out problems whose whole thinking is kept
ANSWER_TOKENS = 20  # enough for 3*8=24,24-5=19</answer> and the stop token

Rule = Callable[[str], float]  # the text of a reply -> what it is worth
PromptOf = Callable[[Tokenizer, str], list[int]]  # how an exercise is told


class Exercise(NamedTuple):
    """One exercise as the kitten meets it."""

    text: str  # "use 3, 5, 8 make 19"
    right: Rule  # 1.0 for a right reply, else 0.0
    problem: str  # which problem it is: the same for other wordings of it
    topic: tuple | str = ""  # what it is about, the same for problems that stand or fall together

    @property
    def about(self) -> tuple | str:
        """The topic; a problem without one stands for itself."""
        return self.topic or self.problem


Plan = list[tuple[Exercise, int]]  # what is asked, and how often


class Result(NamedTuple):
    """One reply of an exam."""

    exercise: Exercise
    text: str
    tokens: int  # the stop token included
    ended: bool
    right: bool
    form: bool
    waits: int


# ----------------------------------------------------------------------- the number game, Countdown


def countdown_exercise(problem: countdown.Problem) -> Exercise:
    """The problem with its rule; other orders of its numbers are the same problem, and the topic
    is the triple of numbers."""
    name = countdown.Problem(problem.triple, problem.target).prompt
    rule = lambda reply: answer_reward(reply, problem)  # noqa: E731
    return Exercise(problem.prompt, rule, name, tuple(problem.triple))


def countdown_practice(count: int, rng: random.Random) -> list[Exercise]:
    """`count` problems of the training triples."""
    problems = (countdown.draw_problem(rng, TRAINING_TRIPLES) for _ in range(count))
    return [countdown_exercise(problem) for problem in problems]


def countdown_held_out() -> list[list[Exercise]]:
    """All 283 problems of the held-out triples, each with two orders of its numbers."""
    return [[countdown_exercise(p) for p in orders] for orders in countdown.exam_problems()]


def reward_for(exercises: Sequence[Exercise], tokenizer: Tokenizer, format_weight: float) -> Reward:
    """Two rules added up: is the answer right, and is the form right? Cut off is worth nothing.

    The rules read the rendered reply, in which text that only spells a tag is escaped. Change the
    rules here to train something else. Parts: accuracy, format, waits, right_tokens (the tokens of
    the reply if it is right, else 0).
    """

    def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        text = tokenizer.decode(reply)
        right = exercises[number].right(text) if ended else 0.0
        form = format_reward(text) if ended else 0.0
        parts = {"accuracy": right, "format": form, "waits": float(count_waits(text))}
        parts["right_tokens"] = right * (len(reply) + 1)  # the stop token counts
        return right + format_weight * form, parts

    return reward


# ---------------------------------------------------------------------------------------- the exam


def exam_of(
    held_out: list[list[Exercise]], pass_problems: int, most_problems: int | None = None
) -> Plan:
    """16 replies to each of the first `pass_problems` problems, 8 to each other one."""
    plan: Plan = []
    for number, wordings in enumerate(held_out[:most_problems]):
        if number < pass_problems:
            plan.append((wordings[0], PASS_SAMPLES))
        else:
            plan += [(wording, SAMPLES_EACH // len(wordings)) for wording in wordings]
    return plan


def as_user(tokenizer: Tokenizer, text: str) -> list[int]:
    """The exercise as the first message of a chat: how a kitten is asked that also chats. One that
    never saw a chat is asked with `text_prompt`."""
    return chat_prompt(tokenizer, [{"role": "user", "content": text}])


def judged(exercise: Exercise, text: str, tokens: int, ended: bool) -> Result:
    """One reply under the rules; a reply that was cut off has neither answer nor form."""
    right = ended and exercise.right(text) == 1.0
    form = ended and format_reward(text) == 1.0
    return Result(exercise, text, tokens, ended, right, form, count_waits(text))


def take_exam(
    thinker: Kitten,
    plan: Plan,
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    prompt_of: PromptOf = text_prompt,
) -> list[Result]:
    """Sample the replies that the plan asks for, and judge each."""
    asked = [exercise for exercise, replies in plan for _ in range(replies)]
    results = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        part = asked[start : start + ROWS_AT_ONCE]
        rollout = generate(
            thinker.gpt,
            [prompt_of(thinker.tokenizer, exercise.text) for exercise in part],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
        )
        rows = zip(part, rollout.replies(), rollout.ended.tolist(), strict=True)
        for exercise, reply, ended in rows:
            text = thinker.tokenizer.decode(reply)
            results.append(judged(exercise, text, len(reply) + ended, ended))
    return results


def by_problem(results: Sequence[Result]) -> list[list[Result]]:
    """The replies, problem by problem."""
    problems: dict[str, list[Result]] = {}
    for result in results:
        problems.setdefault(result.exercise.problem, []).append(result)
    return list(problems.values())


def over_problems(
    groups: Sequence[Sequence[Result]], value: Callable[[Sequence[Result]], float]
) -> tuple:
    """Mean over problems of `value` of a problem's replies, and its standard error by topic.

    A Countdown problem is about its triple: problems with the same three numbers are alike.
    """
    topics = [group[0].exercise.about for group in groups]
    return mean_and_error([value(group) for group in groups], topics)


def rate(results: Sequence[Result], value: Callable[[Result], float]) -> tuple:
    """Mean over problems of the mean over a problem's replies, and its standard error by topic."""
    return over_problems(by_problem(results), lambda group: sum(map(value, group)) / len(group))


def over_replies(results: Sequence[Result], value: Callable[[Result], float]) -> tuple:
    """Mean over replies, and its standard error by topic."""
    topics = [result.exercise.about for result in results]
    return mean_and_error([value(result) for result in results], topics)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k of the `samples` replies, drawn without putting back, hold a right one.

    1 - C(samples - right, k) / C(samples, k)   (Chen et al. 2021, arXiv 2107.03374, eq. 1)

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must be 1 to {samples}, the number of samples, got {k}")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rates(results: Sequence[Result]) -> tuple[dict[str, float], dict[str, float]]:
    """pass@k for each k of PASS_KS, and standard errors, over the problems with 16 replies."""
    groups = [group for group in by_problem(results) if len(group) >= PASS_SAMPLES]
    means, errors = {}, {}
    for k in PASS_KS:
        means[str(k)], errors[str(k)] = over_problems(
            groups, lambda group, k=k: pass_at_k(len(group), sum(r.right for r in group), k)
        )
    return means, errors


def scores_of(results: Sequence[Result]) -> dict:
    """The numbers of an exam, each rate with its standard error under `<key>_stderr`.

    tokens_right, tokens_wrong, waits_right and waits_wrong are means over the right and the wrong
    replies; lengths holds the tokens of each reply.
    """
    scores: dict = {}

    def put(key: str, mean_error: tuple) -> None:
        scores[key], scores[f"{key}_stderr"] = mean_error

    put("accuracy", rate(results, lambda r: r.right))
    put("tokens", rate(results, lambda r: r.tokens))
    put("waits", rate(results, lambda r: r.waits))
    put("format_rate", rate(results, lambda r: r.form))
    put("truncated", rate(results, lambda r: not r.ended))
    put("think_rate", rate(results, lambda r: r.text.startswith("<think>")))
    for name, wanted in (("right", True), ("wrong", False)):
        of_kind = [result for result in results if result.right == wanted]
        put(f"tokens_{name}", over_replies(of_kind, lambda r: r.tokens))
        put(f"waits_{name}", over_replies(of_kind, lambda r: r.waits))
        scores.setdefault("lengths", {})[name] = [r.tokens for r in of_kind]
    means, errors = pass_rates(results)
    scores["pass_at_k"], scores["pass_at_k_stderr"] = means, errors
    scores["replies"] = len(results)
    return scores


def look(
    thinker: Kitten,
    plan: Plan,
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    prompt_of: PromptOf = text_prompt,
) -> dict:
    """The exam at temperature 1: its scores, and the first reply to a few problems in full.

    What comes back fits into JSON.
    """
    results = take_exam(
        thinker,
        plan,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        generator=generator,
        prompt_of=prompt_of,
    )
    scores = scores_of(results)
    first = {result.exercise.text: result for result in reversed(results)}
    shown = [first[exercise.text] for exercise, _ in plan[:SHOWN]]
    scores["samples"] = [
        {"prompt": r.exercise.text, "reply": f"{r.text}\n({'right' if r.right else 'wrong'})"}
        for r in shown
    ]
    return scores


def greedy_accuracy(thinker: Kitten, plan: Plan, *, max_new_tokens: int) -> tuple:
    """Accuracy, and its standard error, if the likeliest token is taken each time."""
    once = [(exercise, 1) for exercise, _ in plan]
    results = take_exam(
        thinker, once, max_new_tokens=max_new_tokens, temperature=0.0, generator=None
    )
    return rate(results, lambda result: result.right)


def exam_keys(before: dict, after: dict) -> dict:
    """The scores of two exams as keys `<score>_before`, `<score>_after_stderr` and so on."""
    keys = {}
    for name, scores in (("before", before), ("after", after)):
        for key, value in scores.items():
            if key in ("lengths", "samples"):
                continue
            stem, error = key.removesuffix("_stderr"), key.endswith("_stderr")
            keys[f"{stem}_{name}" + ("_stderr" if error else "")] = value
        keys[f"pass_at_8_{name}"] = scores["pass_at_k"]["8"]
        keys[f"pass_at_8_{name}_stderr"] = scores["pass_at_k_stderr"]["8"]
    return keys


# ------------------------------------------------------------- thinking longer, without training


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer given most often, the earliest of several; None (no answer) does not vote."""
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    return max(votes, key=votes.__getitem__) if votes else None


def vote_accuracy(results: Sequence[Result], votes: int) -> tuple:
    """Accuracy, and its standard error, if the first `votes` replies to a problem elect one."""

    def elected_is_right(group: Sequence[Result]) -> float:
        voters = group[:votes]
        parsed = [parse_reply(r.text) if r.ended else None for r in voters]
        answers = [None if reply is None else reply.answer for reply in parsed]
        elected = majority(answers)
        winner = next((r for r, a in zip(voters, answers, strict=True) if a == elected), voters[0])
        return float(winner.right)

    return over_problems(by_problem(results), elected_is_right)


def best_accuracy(results: Sequence[Result], samples: int) -> tuple:
    """Accuracy, and its standard error, if the checker picks the best of the first `samples`."""
    return over_problems(
        by_problem(results), lambda group: float(any(r.right for r in group[:samples]))
    )


def tokens_of_attempts(tokenizer: Tokenizer, attempts: int) -> int:
    """Tokens of a thought with so many attempts and " wait " between them."""
    attempt = "3*5=15 left 8,15+8=23 vs 19 no"  # all attempts have as many tokens
    return len(tokenizer.encode(" wait ".join([attempt] * attempts)))


def think_with_budget(
    thinker: Kitten,
    exercises: Sequence[Exercise],
    budget: int,
    *,
    go_on: bool,
    generator: torch.Generator,
    prompt_of: PromptOf = text_prompt,
) -> list[Result]:
    """One reply per exercise whose thinking is closed by force after `budget` tokens.

    With `go_on` a kitten that wants to stop earlier hears " wait " instead and has to think on, so
    that the whole budget is used ("budget forcing", Muennighoff et al. 2025, arXiv 2501.19393).
    """
    gpt, tokenizer = thinker.gpt, thinker.tokenizer
    wait = tokenizer.encode(" wait ")
    starts = [[*prompt_of(tokenizer, exercise.text), tokenizer.think_id] for exercise in exercises]
    thoughts: list[list[int]] = [[] for _ in exercises]
    open_rows = list(range(len(exercises)))
    while open_rows:
        room = budget - len(thoughts[open_rows[0]])
        rows = [row for row in open_rows if budget - len(thoughts[row]) == room][:ROWS_AT_ONCE]
        rollout = generate(
            gpt,
            [starts[row] + thoughts[row] for row in rows],
            max_new_tokens=room,
            temperature=1.0,
            generator=generator,
            stop_ids=(tokenizer.end_think_id, *gpt.config.stop_ids),
        )
        closed = set()
        for row, more, ended in zip(rows, rollout.replies(), rollout.ended.tolist(), strict=True):
            thoughts[row] += more
            if ended and go_on:
                thoughts[row] = (thoughts[row] + wait)[:budget]
            if len(thoughts[row]) == budget or (ended and not go_on):
                closed.add(row)
        open_rows = [row for row in open_rows if row not in closed]
    return _answered(thinker, exercises, starts, thoughts, generator)


def _answered(thinker: Kitten, exercises, starts, thoughts, generator) -> list[Result]:
    """Close each thought, let the kitten write its answer, and judge the whole reply."""
    tokenizer = thinker.tokenizer
    close = [tokenizer.end_think_id, tokenizer.answer_id]
    results = []
    for begin in range(0, len(exercises), ROWS_AT_ONCE):
        part = range(begin, min(begin + ROWS_AT_ONCE, len(exercises)))
        rollout = generate(
            thinker.gpt,
            [starts[row] + thoughts[row] + close for row in part],
            max_new_tokens=ANSWER_TOKENS,
            temperature=1.0,
            generator=generator,
        )
        rows = zip(part, rollout.replies(), rollout.ended.tolist(), strict=True)
        for row, answer, ended in rows:
            reply = [tokenizer.think_id, *thoughts[row], *close, *answer]
            text = tokenizer.decode(reply)
            results.append(judged(exercises[row], text, len(reply) + ended, ended))
    return results
