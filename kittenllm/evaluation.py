"""Asking a kitten many held-out questions and letting the gold judge count.

One idea: every number has an error, and what is alike must not be counted twice. Replies to one
question are alike, so a rate is first taken per question, then over questions. Questions about one
topic (a fact, a thing, a sum) are alike as well, so the standard error is clustered by topic: it
says how far another draw of topics would move this kitten's rate. Another training moves it
further; that is what the bands over several seeds are for.

Read before: chat.py, sampling.py, kitten_town/judge.py. Left out: people, who see more than a judge
with a table can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from kittenllm.chat import chat_prompt
from kittenllm.gpt import GPT
from kittenllm.kitten_town import manners
from kittenllm.kitten_town.chats import KIND_SHARES, Question, held_out_questions
from kittenllm.kitten_town.facts import Town
from kittenllm.kitten_town.judge import Verdict, best_reply, judge
from kittenllm.sampling import generate
from kittenllm.tokenizer import Tokenizer

MAX_REPLY_TOKENS = 40
# (distinct questions, sampled replies to each) per kind: 2,000 replies behind answer_accuracy,
# safe_rate, allowed_rate and talk_rate.
FULL_COUNTS = {
    "fact": (320, 5),
    "sum": (120, 4),
    "risky": (300, 7),
    "allowed": (300, 7),
    "greeting": (48, 3),  # there are no more
    "story": (52, 3),  # nor here
    "talk": (18, 40),  # nor here
    "outside": (160, 4),
    "wish": (160, 4),
}
TALK_KINDS = ("talk", "outside", "wish")
QUESTION_SEED = 97  # evaluation asks every kitten the same questions
ERRORS_MEAN = "+-: how far another draw of topics would move this number (standard error)"


@dataclass(frozen=True)
class Reply:
    """One reply and the judge's verdict; `tokens` are without the end of turn."""

    question: Question
    text: str
    tokens: list[int]
    ended: bool
    verdict: Verdict


def evaluation_questions(town: Town, counts: dict[str, tuple[int, int]]) -> dict[str, list]:
    """Held-out questions per kind; `counts` is FULL_COUNTS or a smaller one."""
    return {
        kind: held_out_questions(town, kind, questions, QUESTION_SEED)
        for kind, (questions, _) in counts.items()
    }


def sample_replies(
    gpt: GPT,
    tokenizer: Tokenizer,
    town: Town,
    questions: Sequence[Question],
    *,
    replies_each: int,
    temperature: float,
    generator: torch.Generator,
    prompt_of: Callable[[Question], list[int]] | None = None,
) -> list[Reply]:
    """Let the kitten answer each question `replies_each` times, and judge every reply.

    `prompt_of` turns a question into prompt tokens; by default the chat template does.
    """
    if prompt_of is None:
        prompts = [chat_prompt(tokenizer, question.messages()) for question in questions]
    else:
        prompts = [prompt_of(question) for question in questions]
    repeated = [prompt for prompt in prompts for _ in range(replies_each)]
    asked = [question for question in questions for _ in range(replies_each)]
    rollout = generate(
        gpt,
        repeated,
        max_new_tokens=MAX_REPLY_TOKENS,
        temperature=temperature,
        generator=generator,
    )
    replies = []
    for question, tokens, ended in zip(
        asked, rollout.replies(), rollout.ended.tolist(), strict=True
    ):
        text = tokenizer.decode(tokens)
        verdict = judge(town, question, text, tokens, ended=ended)
        replies.append(Reply(question, text, tokens, ended, verdict))
    return replies


def mean_and_error(
    values: Sequence[float], topics: Sequence[Hashable]
) -> tuple[float | None, float | None]:
    """The mean of n values and its standard error by topic; values[i] is about topics[i].

        d_g   = sum of value - mean over the values of topic g
        error = sqrt(G / (G - 1) * (d_1^2 + ... + d_G^2)) / n

    for G topics: the cluster-robust error of a mean (Liang and Zeger 1986; Cameron and Miller 2015,
    "A Practitioner's Guide to Cluster-Robust Inference"). Topics may have different numbers of
    values: the mean is then a ratio of two sums, and this is the error of that ratio. With one
    value per topic it is the usual std / sqrt(n). No value has no mean, and one topic says nothing
    about other topics: None.

    >>> mean_and_error([1.0, 1.0, 0.0, 0.0], ["wire", "wire", "milk", "milk"])
    (0.5, 0.5)
    """
    if not values:
        return None, None
    mean = sum(values) / len(values)
    deviations: dict[Hashable, float] = {}
    for value, topic in zip(values, topics, strict=True):
        deviations[topic] = deviations.get(topic, 0.0) + value - mean
    clusters = len(deviations)
    if clusters < 2:
        return mean, None
    squares = sum(deviation**2 for deviation in deviations.values())
    return mean, math.sqrt(clusters / (clusters - 1) * squares) / len(values)


def rate(
    replies: Sequence[Reply], value: Callable[[Reply], float]
) -> tuple[float | None, float | None]:
    """Mean of `value` over questions, and its standard error by topic; see `mean_and_error`."""
    per_question: dict[str, list[float]] = {}
    topics: dict[str, Hashable] = {}
    for reply in replies:
        per_question.setdefault(reply.question.text, []).append(float(value(reply)))
        topics[reply.question.text] = reply.question.about
    means = [sum(values) / len(values) for values in per_question.values()]
    return mean_and_error(means, list(topics.values()))


def scores_of(replies: dict[str, list[Reply]]) -> dict[str, float | None]:
    """The numbers that chapters report, each with its standard error under `<key>_stderr`.

    answer_accuracy: facts and sums. safe_rate: "no" to risky questions. allowed_rate: "yes" to
    allowed ones. right_fact, right_sum, right_talk, right_outside, right_wish: one kind alone.
    talk_rate: suitable replies to small talk, to what no book tells, and to wishes. think_rate: a
    <think>, where none is needed. talk_rate, friendly_rate, stop_rate, think_rate, gold: over their
    kinds with the shares in which people ask them (KIND_SHARES), so that the number of questions
    per kind does not matter. None where nobody was asked.
    """
    scores: dict[str, float | None] = {}

    def put(key: str, mean: float | None, error: float | None) -> None:
        scores[key], scores[f"{key}_stderr"] = mean, error

    answers = replies.get("fact", []) + replies.get("sum", [])
    put("answer_accuracy", *rate(answers, lambda reply: reply.verdict.right))
    put("safe_rate", *rate(replies.get("risky", []), lambda reply: reply.verdict.right))
    put("allowed_rate", *rate(replies.get("allowed", []), lambda reply: reply.verdict.right))
    for kind in ("fact", "sum", *TALK_KINDS):
        put(f"right_{kind}", *rate(replies.get(kind, []), lambda reply: reply.verdict.right))
    talk = {kind: replies.get(kind, []) for kind in TALK_KINDS}
    put("talk_rate", *weighted_rate(talk, lambda reply: reply.verdict.right))
    over_all = {
        "friendly_rate": lambda reply: reply.verdict.tone == "friendly",
        "grumpy_rate": lambda reply: reply.verdict.tone == "grumpy",
        "stop_rate": lambda reply: reply.ended,
        "gold": lambda reply: reply.verdict.score,
        "reply_tokens": lambda reply: len(reply.tokens),
        "think_rate": lambda reply: "<think>" in reply.text,  # text that spells it is escaped
    }
    for key, value in over_all.items():
        put(key, *weighted_rate(replies, value))
    return scores


def weighted_rate(
    replies: dict[str, list[Reply]], value: Callable[[Reply], float]
) -> tuple[float | None, float | None]:
    """Mean and standard error of `value`, each kind weighted with its share in KIND_SHARES.

    Kinds have no topic in common, so the squares of their errors add up.
    """
    total = sum(KIND_SHARES[kind] for kind in replies)
    mean, squares = 0.0, []
    for kind, of_kind in replies.items():
        weight = KIND_SHARES[kind] / total
        kind_mean, kind_error = rate(of_kind, value)
        if kind_mean is None:
            return None, None
        mean += weight * kind_mean
        if kind_error is not None:
            squares.append((weight * kind_error) ** 2)
    return mean, math.sqrt(sum(squares)) if len(squares) == len(replies) else None


def evaluate(
    gpt: GPT,
    tokenizer: Tokenizer,
    town: Town,
    *,
    generator: torch.Generator,
    counts: dict[str, tuple[int, int]] = FULL_COUNTS,
) -> tuple[dict[str, float | None], dict[str, list[Reply]]]:
    """Sampled replies at temperature 1 to held-out questions of every kind -> (scores, replies)."""
    replies = {}
    for kind, questions in evaluation_questions(town, counts).items():
        replies[kind] = sample_replies(
            gpt,
            tokenizer,
            town,
            questions,
            replies_each=counts[kind][1],
            temperature=1.0,
            generator=generator,
        )
    return scores_of(replies), replies


def gold_of_best_replies(
    town: Town, tokenizer: Tokenizer, counts: dict[str, tuple[int, int]] = FULL_COUNTS
) -> float:
    """`gold_best`: the mean gold score, over held-out questions, of the best possible replies."""
    total = sum(KIND_SHARES[kind] for kind in counts)
    best = 0.0
    for kind, questions in evaluation_questions(town, counts).items():
        scores = [best_reply(town, question, tokenizer.encode)[1] for question in questions]
        best += KIND_SHARES[kind] / total * sum(scores) / len(scores)
    return best


def fixed_questions(town: Town) -> list[Question]:
    """The thirteen held-out questions that every chapter shows before and after.

    The last one is a wish that the kitten should refuse.
    """
    kinds = {
        "fact": 3,
        "risky": 2,
        "allowed": 2,
        "sum": 1,
        "greeting": 1,
        "story": 1,
        "talk": 1,
        "outside": 1,
    }
    questions = [
        question
        for kind, count in kinds.items()
        for question in held_out_questions(town, kind, count, QUESTION_SEED)
    ]
    wishes = held_out_questions(town, "wish", 20, QUESTION_SEED)
    mean_wishes = [wish for wish in wishes if wish.topic[0] not in manners.KIND_ACTS]
    return [*questions, mean_wishes[0]]
