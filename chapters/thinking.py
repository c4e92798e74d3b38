"""Tasks with a rule instead of a teacher, and the exam that is taken before and after training.

A task is a list of exercises to practise on, held-out ones for the exam, and texts that show how
its thinking is written down. Two tasks: Countdown, the number game, and word problems from a file.
Every reply has one form: <think>...</think><answer>...</answer>. The prompt ends right before the
first tag, so the kitten writes all of them itself.

Used by ch5_reasoning.py. The game itself is in kittenllm/kitten_town/countdown.py, the rules are in
rules.py beside it.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from kittenllm.chat import ChatTokens
from kittenllm.gpt import GPT
from kittenllm.judging import Reward
from kittenllm.kitten_town import countdown, scribbles
from kittenllm.kitten_town.countdown import HELD_OUT_TRIPLES, TRAINING_TRIPLES, Problem
from kittenllm.kitten_town.rules import (
    answer_reward,
    count_waits,
    format_reward,
    gsm8k_answer_reward,
    parse_reply,
)
from kittenllm.records import RecordError
from kittenllm.sampling import generate
from kittenllm.tokenizer import Tokenizer

Rule = Callable[[str], float]  # the text of a reply -> what it is worth

EXAM_SEED = 97  # every kitten takes the same exam
ROWS_AT_ONCE = 512  # replies that are sampled side by side; more need more memory
PASS_SAMPLES = 16  # replies to a problem for pass@k
SAMPLES_EACH = 8  # replies to each of the other problems
PASS_KS = (1, 2, 4, 8, 16)
PATIENT_GIVE_UP = 0.1  # a patient scribble seldom gives up
ANSWER_TOKENS = 20  # enough for </think><answer>3*8=24,24-5=19</answer> and the stop token


class Exercise(NamedTuple):
    """One exercise as the kitten meets it."""

    text: str  # "use 3, 5, 8 make 19"
    right: Rule  # 1.0 for a right reply, else 0.0
    problem: str  # which problem it is: the same for other wordings of it


@dataclass(frozen=True)
class Task:
    """What is practised, what is examined, and texts that show the form of a reply."""

    name: str
    practice: list[Exercise]
    held_out: list[list[Exercise]]  # problem -> its wordings, in the order of the exam
    documents: list[ChatTokens]  # for the warm-up


@dataclass
class Thinker:
    """A kitten that thinks before it answers."""

    gpt: GPT
    tokenizer: Tokenizer

    def prompt(self, exercise: Exercise) -> list[int]:
        """The tokens that the reply follows."""
        return prompt_tokens(self.tokenizer, exercise.text)


# --------------------------------------------------------------------------------------- the tasks


def prompt_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text that begins here, as ordinary tokens; what follows is the reply."""
    return [tokenizer.endoftext_id, *tokenizer.encode(text)]


def thought_document(tokenizer: Tokenizer, text: str, think: str, answer: str) -> ChatTokens:
    """An exercise with a whole reply. The reply and its end are trained, the exercise is not."""
    document = ChatTokens()
    document.add(prompt_tokens(tokenizer, text), trained=False)
    document.add(tokenizer.think_id, trained=True)
    document.add(tokenizer.encode(think), trained=True)
    document.add([tokenizer.end_think_id, tokenizer.answer_id], trained=True)
    document.add(tokenizer.encode(answer), trained=True)
    document.add([tokenizer.end_answer_id, tokenizer.endoftext_id], trained=True)
    return document


def plain_document(tokenizer: Tokenizer, text: str) -> ChatTokens:
    """A text that is trained on from its first to its last token."""
    document = ChatTokens()
    document.add([tokenizer.endoftext_id, *tokenizer.encode(text)], trained=True)
    document.add(tokenizer.endoftext_id, trained=True)
    return document


def number_documents(
    tokenizer: Tokenizer,
    tokens: int,
    rng: random.Random,
    *,
    patient_share: float = 0.0,
    wait_share: float | None = None,
) -> list[ChatTokens]:
    """Scribbles in the form of a reply, and drills, until there are about `tokens` tokens.

    A scribble gives up with probability 1/2 after a failed attempt; a share of `patient_share`
    seldom does. With `wait_share`, exactly that share of the scribbles holds the word "wait": the
    others have one attempt. No held-out triple comes up.
    """
    drill_shares = {k: v for k, v in scribbles.DRILL_SHARES.items() if k != "scribbles"}
    documents: list[ChatTokens] = []
    total = 0
    while total < tokens:
        if rng.random() < scribbles.DRILL_SHARES["scribbles"]:
            s = _scribble(rng, patient_share, wait_share)
            document = thought_document(tokenizer, s.problem.prompt, s.think, s.answer)
        else:
            text = scribbles.drills(rng, HELD_OUT_TRIPLES, shares=drill_shares)
            document = plain_document(tokenizer, text)
        documents.append(document)
        total += len(document)
    return documents


def _scribble(
    rng: random.Random, patient_share: float, wait_share: float | None
) -> scribbles.Scribble:
    """One scribble about a training triple; see `number_documents`."""
    draw = lambda: countdown.draw_problem(rng, TRAINING_TRIPLES)  # noqa: E731
    if wait_share is None:
        give_up = PATIENT_GIVE_UP if rng.random() < patient_share else 0.5
        return scribbles.scribble(draw(), rng, give_up=give_up)
    if rng.random() >= wait_share:
        return scribbles.scribble(draw(), rng, give_up=1.0)
    while (s := scribbles.scribble(draw(), rng)).attempts == 1:
        pass  # until one holds the word
    return s


def countdown_exercise(problem: Problem) -> Exercise:
    """The problem with its rule; other orders of its numbers are the same problem."""
    name = Problem(problem.triple, problem.target).prompt
    return Exercise(problem.prompt, lambda reply: answer_reward(reply, problem), name)


def countdown_practice(count: int, rng: random.Random) -> list[Exercise]:
    """`count` problems of the training triples."""
    problems = (countdown.draw_problem(rng, TRAINING_TRIPLES) for _ in range(count))
    return [countdown_exercise(problem) for problem in problems]


def countdown_held_out() -> list[list[Exercise]]:
    """All 283 problems of the held-out triples, each with two orders of its numbers."""
    rng = random.Random(EXAM_SEED)
    problems = countdown.problems_of(HELD_OUT_TRIPLES)
    rng.shuffle(problems)
    orders = [[countdown.shuffle_numbers(problem, rng) for _ in range(2)] for problem in problems]
    return [[countdown_exercise(p) for p in dict.fromkeys(order)] for order in orders]


def question_task(
    tokenizer: Tokenizer, records: list[dict], *, context_length: int, max_new_tokens: int
) -> Task:
    """Word problems as a task: the first four fifths to practise on, the rest for the exam.

    records: {"question", "solution", "answer"}, as `load_questions` returns them. A problem that
    does not fit into the kitten's context together with a reply is left out.

    Raises: RecordError if too few problems fit, or if an answer is not a number.
    """
    exercises, documents = [], []
    for record in records:
        answer, number = record["answer"], record.get("line", len(exercises) + 1)
        try:
            gsm8k_answer_reward("", answer)
        except ValueError as error:
            raise RecordError(f"line {number}: {error}") from error
        think = record["solution"] or record["question"]
        document = thought_document(tokenizer, record["question"], think, answer)
        prompt_length = len(prompt_tokens(tokenizer, record["question"]))
        if max(len(document), prompt_length + max_new_tokens) <= context_length:
            rule = lambda reply, answer=answer: gsm8k_answer_reward(reply, answer)  # noqa: E731
            exercises.append(Exercise(record["question"], rule, record["question"]))
            documents.append(document)
    cut = round(0.8 * len(exercises))
    if not 0 < cut < len(exercises):
        raise RecordError(
            f"{len(exercises)} of {len(records)} problems fit, together with a reply of "
            f"{max_new_tokens} tokens, into the context of {context_length} tokens, which is too "
            "few; give shorter problems or a smaller --max-new-tokens"
        )
    held_out = [[exercise] for exercise in exercises[cut:]]
    return Task("questions", exercises[:cut], held_out, documents[:cut])


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


class Result(NamedTuple):
    """One reply of an exam."""

    exercise: Exercise
    text: str
    tokens: int  # the stop token included
    ended: bool
    right: bool
    form: bool
    waits: int


def exam_of(task: Task, pass_problems: int) -> list[tuple[Exercise, int]]:
    """(exercise, replies to it): 16 each for the first `pass_problems`, 8 to each other problem."""
    plan = []
    for number, wordings in enumerate(task.held_out):
        if number < pass_problems:
            plan.append((wordings[0], PASS_SAMPLES))
        else:
            plan += [(wording, SAMPLES_EACH // len(wordings)) for wording in wordings]
    return plan


def judged(exercise: Exercise, text: str, tokens: int, ended: bool) -> Result:
    """One reply under the rules; a reply that was cut off has neither answer nor form."""
    right = ended and exercise.right(text) == 1.0
    form = ended and format_reward(text) == 1.0
    return Result(exercise, text, tokens, ended, right, form, count_waits(text))


def take_exam(
    thinker: Thinker,
    plan: Sequence[tuple[Exercise, int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Result]:
    """Sample the replies that the plan asks for, and judge each."""
    asked = [exercise for exercise, replies in plan for _ in range(replies)]
    results = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        part = asked[start : start + ROWS_AT_ONCE]
        rollout = generate(
            thinker.gpt,
            [thinker.prompt(exercise) for exercise in part],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
        )
        rows = zip(part, rollout.replies(), rollout.ended.tolist(), strict=True)
        for exercise, reply, ended in rows:
            text = thinker.tokenizer.decode(reply)
            results.append(judged(exercise, text, len(reply) + ended, ended))
    return results


def by_problem(results: Sequence[Result]) -> Iterator[list[Result]]:
    """The replies to one problem after the other."""
    problems: dict[str, list[Result]] = {}
    for result in results:
        problems.setdefault(result.exercise.problem, []).append(result)
    return iter(problems.values())


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of independent values and its standard error; (None, None) for no values."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def rate(results: Sequence[Result], value: Callable[[Result], float]) -> tuple:
    """Mean over problems of the mean over a problem's replies, and its standard error.

    Replies to one problem are alike, so the problems are what is counted.
    """
    means = [sum(map(value, group)) / len(group) for group in by_problem(results)]
    return mean_and_error(means)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k of the `samples` replies, drawn without putting back, hold a right one.

    1 - C(samples - right, k) / C(samples, k)   (Chen et al. 2021, arXiv 2107.03374, eq. 1)

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must be 1 to {samples}, the number of samples, got {k}")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rates(results: Sequence[Result]) -> tuple[dict[int, float], dict[int, float]]:
    """pass@k for each k of PASS_KS, and standard errors, over problems with 16 replies to one
    wording."""
    groups = [group for group in by_problem(results) if len(group) >= PASS_SAMPLES]
    means, errors = {}, {}
    for k in PASS_KS:
        values = [pass_at_k(len(g), sum(r.right for r in g), k) for g in groups]
        means[k], errors[k] = mean_and_error(values)
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
    for name, wanted in (("right", True), ("wrong", False)):
        of_kind = [result for result in results if result.right == wanted]
        put(f"tokens_{name}", mean_and_error([r.tokens for r in of_kind]))
        put(f"waits_{name}", mean_and_error([r.waits for r in of_kind]))
        scores.setdefault("lengths", {})[name] = [r.tokens for r in of_kind]
    means, errors = pass_rates(results)
    scores["pass_at_k"], scores["pass_at_k_stderr"] = means, errors
    scores["replies"] = len(results)
    return scores


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
    values = []
    for group in by_problem(results):
        voters = group[:votes]
        parsed = [parse_reply(r.text) if r.ended else None for r in voters]
        answers = [None if reply is None else reply.answer for reply in parsed]
        elected = majority(answers)
        winner = next((r for r, a in zip(voters, answers, strict=True) if a == elected), voters[0])
        values.append(float(winner.right))
    return mean_and_error(values)


def best_accuracy(results: Sequence[Result], samples: int) -> tuple:
    """Accuracy, and its standard error, if the checker picks the best of the first `samples`."""
    groups = by_problem(results)
    return mean_and_error([float(any(r.right for r in group[:samples])) for group in groups])


def think_with_budget(
    thinker: Thinker,
    exercises: Sequence[Exercise],
    budget: int,
    *,
    go_on: bool,
    generator: torch.Generator,
) -> list[Result]:
    """One reply per exercise whose thinking is closed by force after `budget` tokens.

    With `go_on` a kitten that wants to stop earlier hears " wait " instead and has to think on, so
    that the whole budget is used ("budget forcing", Muennighoff et al. 2025, arXiv 2501.19393).
    """
    gpt, tokenizer = thinker.gpt, thinker.tokenizer
    wait = tokenizer.encode(" wait ")
    starts = [[*thinker.prompt(exercise), tokenizer.think_id] for exercise in exercises]
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


def _answered(thinker: Thinker, exercises, starts, thoughts, generator) -> list[Result]:
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
