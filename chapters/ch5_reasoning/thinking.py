"""Tasks with a rule instead of a teacher.

A task is a list of exercises to practise on, held-out ones for the exam, and texts that show how
its thinking is written down. Two tasks: Countdown, the number game, and word problems from a file.
Every reply has one form: <think>...</think><answer>...</answer>. The prompt ends right before the
first tag, so the kitten writes all of them itself.

Used by story.py. What an exercise is, its reward and the exam are in chapters/common/exam.py, the
game itself in kittenllm/kitten_town/countdown.py, its rules in kittenllm/kitten_town/rules.py.
"""

import random
from dataclasses import dataclass

from chapters.common.exam import Exercise
from kittenllm.chat import ChatTokens, text_prompt
from kittenllm.kitten_town import countdown, scribbles
from kittenllm.kitten_town.countdown import TRAINING_TRIPLES
from kittenllm.kitten_town.rules import gsm8k_answer_reward, read_number
from kittenllm.records import Problem, RecordError
from kittenllm.tokenizer import Tokenizer

# Shares of the warm-up's documents. Sums and numbers to copy come often: what a kitten only knows
# together with a triple that it practised, it does not know with a new one.
WARM_UP_SHARES = {"scribbles": 0.42, "sums": 0.28, "comparisons": 0.08, "lefts": 0.22}
LARGEST_LEFT = 30  # no problem has numbers above 9, so nobody knows these by heart


@dataclass(frozen=True)
class Task:
    """What is practised, what is examined, and texts that show the form of a reply."""

    name: str
    practice: list[Exercise]
    held_out: list[list[Exercise]]  # problem -> its wordings, in the order of the exam
    documents: list[ChatTokens]  # for the warm-up


# --------------------------------------------------------------------------------------- the tasks


def thought_document(
    tokenizer: Tokenizer, text: str, think: str, answer: str, *, train_waits: bool = True
) -> ChatTokens:
    """An exercise with a whole reply. The reply and its end are trained, the exercise is not.

    Without `train_waits` the word " wait " is not trained either: whether to go on is not taught.
    """
    document = ChatTokens()
    document.add(text_prompt(tokenizer, text), trained=False)
    document.add(tokenizer.think_id, trained=True)
    attempts = [think] if train_waits else think.split(scribbles.WAIT)
    for number, attempt in enumerate(attempts):
        if number > 0:
            document.add(tokenizer.encode(scribbles.WAIT), trained=False)
        document.add(tokenizer.encode(attempt), trained=True)
    document.add([tokenizer.end_think_id, tokenizer.answer_id], trained=True)
    document.add(tokenizer.encode(answer), trained=True)
    document.add([tokenizer.end_answer_id, tokenizer.endoftext_id], trained=True)
    return document


def plain_document(tokenizer: Tokenizer, text: str) -> ChatTokens:
    """A text that is trained on from its first to its last token."""
    document = ChatTokens()
    document.add(text_prompt(tokenizer, text), trained=True)
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

    A scribble gives up with probability 1/2 after a failed attempt. A share of `patient_share`
    goes on to the last attempt that fits into a reply and fails there too. They show how later
    attempts are written and when it is time to stop, but not to be patient: in them the word "wait"
    is not trained. With `wait_share`, exactly that share of the scribbles holds the word "wait":
    the others have one attempt. No held-out triple comes up.
    """
    documents: list[ChatTokens] = []
    total = 0
    while total < tokens:
        kind = rng.choices(list(WARM_UP_SHARES), list(WARM_UP_SHARES.values()))[0]
        if kind != "scribbles":
            shares = {kind: 1.0}
            text = scribbles.drills(
                rng, countdown.HELD_OUT_TRIPLES, shares=shares, largest_left=LARGEST_LEFT
            )
            document = plain_document(tokenizer, text)
        elif rng.random() < patient_share:
            document = _patient_document(tokenizer, rng)
        else:
            s = _scribble(rng, wait_share)
            document = thought_document(tokenizer, s.problem.prompt, s.think, s.answer)
        documents.append(document)
        total += len(document)
    return documents


def _patient_document(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """A scribble that failed as often as fits into a reply."""
    while True:
        problem = countdown.draw_problem(rng, TRAINING_TRIPLES)
        s = scribbles.scribble(problem, rng, give_up=0.0)
        if s.attempts == scribbles.MAX_ATTEMPTS and not s.hit:
            break
    return thought_document(tokenizer, problem.prompt, s.think, s.answer, train_waits=False)


def _scribble(rng: random.Random, wait_share: float | None) -> scribbles.Scribble:
    """One scribble about a training triple; see `number_documents`."""
    draw = lambda: countdown.draw_problem(rng, TRAINING_TRIPLES)  # noqa: E731
    if wait_share is None:
        return scribbles.scribble(draw(), rng)
    if rng.random() >= wait_share:
        return scribbles.scribble(draw(), rng, give_up=1.0)
    while (s := scribbles.scribble(draw(), rng)).attempts == 1:
        pass  # until one holds the word
    return s


def with_numbers(
    path: str, records: list[dict], *, strict: bool = False
) -> tuple[list[dict], list[Problem]]:
    """The word problems whose final answer is a number that the rule can compare; the others are
    problems to report.

    Raises: RecordError if there is none, or with strict=True at the first other one.
    """
    good, problems = [], []
    for record in records:
        if read_number(record["answer"]) is not None:
            good.append(record)
            continue
        reason = f"the final answer {record['answer'][:40]!r} is not a number"
        if "," in record["answer"]:
            reason += " (a comma may only stand where thousands end; write 3.5, and 1,200)"
        problem = Problem(path, record["line"], reason)
        if strict or len(problems) + 1 == len(records):
            raise RecordError(f"{problem}; correct or remove this record")
        problems.append(problem)
    return good, problems


def question_task(
    tokenizer: Tokenizer, records: list[dict], *, context_length: int, max_new_tokens: int
) -> Task:
    """Word problems as a task: the first four fifths to practise on, the rest for the exam.

    records: {"question", "solution", "answer"}, as `load_questions` returns them. A problem that
    does not fit into the kitten's context together with a reply is left out.

    Raises: RecordError if fewer than two problems fit.
    """
    exercises, documents = [], []
    for record in records:
        question, answer = record["question"], record["answer"]
        document = thought_document(tokenizer, question, record["solution"] or question, answer)
        prompt_length = len(text_prompt(tokenizer, question))
        if max(len(document), prompt_length + max_new_tokens) <= context_length:
            rule = lambda reply, answer=answer: gsm8k_answer_reward(reply, answer)  # noqa: E731
            exercises.append(Exercise(question, rule, question))
            documents.append(document)
    if len(exercises) < 2:
        raise RecordError(
            f"{len(exercises)} of {len(records)} word problems fit, together with a reply of "
            f"{max_new_tokens} tokens, into the context of {context_length} tokens, and 2 are the "
            "least; give shorter problems or a smaller --max-new-tokens"
        )
    cut = min(round(0.8 * len(exercises)), len(exercises) - 1)
    held_out = [[exercise] for exercise in exercises[cut:]]
    return Task("questions", exercises[:cut], held_out, documents[:cut])
