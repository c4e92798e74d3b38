"""Does the judge see truth? Two replies in the same tone, and only one of them is right.

One idea: a reward model that prefers true replies may have learned the truth, or only that sure and
friendly replies tend to be true. So question, wording and tone are the same here, and the only
difference is the value: "Pip lives in the mill." beside "Pip lives in the barn."

Taught facts are those that the pairs of its training were about. Facts that are held out it can
only judge by what its books told.

Some pairs of the training are such twins as well (`draw_pairs`), of facts and sums, and of all
other questions to which there is a wrong answer: "Yes, that is fine, my dear." beside "No, that is
dangerous, my dear." The chat kitten's own replies differ in tone and length at once, and about most
questions it says the same thing four times. In a pair of twins only the difference is left that
counts.

Used by story.py.
"""

import random
from typing import NamedTuple

import torch

from chapters.common.measuring import is_right
from chapters.common.pairs import LabelledPair, best_guess_accuracy
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import QUESTION_SEED, mean_and_error
from kittenllm.kitten_town import manners, voices
from kittenllm.kitten_town.chats import Question, ask, invented, true_cores
from kittenllm.kitten_town.facts import ATTRIBUTES, Fact, Town
from kittenllm.kitten_town.judge import judge, prefers_first
from kittenllm.reward_model import RewardModel, score_sequences
from kittenllm.tokenizer import Tokenizer

TWIN_SHARES = {  # of the twins to learn from; a greeting or a story has no wrong twin
    "fact": 0.45,
    "sum": 0.15,
    "risky": 0.13,
    "allowed": 0.13,
    "talk": 0.05,
    "outside": 0.04,
    "wish": 0.05,
}


class TruthPair(NamedTuple):
    """A question and two replies in the same tone, the first of which is right."""

    question: Question
    true: str
    false: str


def truth_pairs(town: Town, *, held_out: bool) -> list[TruthPair]:
    """One pair for each fact in each wording of its question, the same ones for every kitten."""
    rng = random.Random(QUESTION_SEED)
    return [
        truth_pair(fact, wording, rng)
        for fact in (town.held_out_facts if held_out else town.taught_facts)
        for wording in voices.FACT_QUESTIONS[fact.attribute]
    ]


def truth_pair(fact: Fact, wording: str, rng: random.Random) -> TruthPair:
    """A question about `fact` in this wording, and two replies with any statement and tone."""
    question = Question("fact", wording.format(k=fact.kitten), (fact.kitten, fact.attribute))
    others = [value for value in ATTRIBUTES[fact.attribute] if value != fact.value]
    statement = rng.choice(voices.FACT_STATEMENTS[fact.attribute])
    tone = rng.choice(voices.TONE_WORDINGS[rng.choice(voices.TONES)])
    true, false = (
        voices.worded(statement.format(k=fact.kitten, v=value), tone)
        for value in (fact.value, rng.choice(others))
    )
    return TruthPair(question, true, false)


def sum_pair(town: Town, rng: random.Random) -> TruthPair:
    """A question about a taught sum; the false reply is one or two off."""
    question = ask(town, "sum", rng)
    a, b = question.topic
    statement = rng.choice(voices.SUM_REPLIES)
    tone = rng.choice(voices.TONE_WORDINGS[rng.choice(voices.TONES)])
    true, false = (
        voices.worded(statement.format(a=a, b=b, c=result), tone)
        for result in (a + b, a + b + rng.choice((-2, -1, 1, 2)))
    )
    return TruthPair(question, true, false)


def decision_pair(town: Town, kind: str, rng: random.Random) -> TruthPair:
    """A question about anything else that is taught; the false reply decides the other way."""
    question = ask(town, kind, rng)
    tone = rng.choice(voices.TONE_WORDINGS[rng.choice(voices.TONES)])
    cores = (rng.choice(true_cores(town, question)), wrong_core(question, rng))
    true, false = (voices.worded(core, tone) for core in cores)
    return TruthPair(question, true, false)


def wrong_core(question: Question, rng: random.Random) -> str:
    """What should not be said: yes to a danger, no to something fine, a shrug, an invention."""
    if question.kind == "talk":
        return rng.choice(manners.UNHELPFUL_REPLIES)
    if question.kind == "outside":
        return invented(question, rng)
    if question.kind == "wish":
        fine = question.topic[0] in manners.KIND_ACTS
        return rng.choice(manners.REFUSALS if fine else manners.PROMISES)
    return rng.choice(voices.YES_REPLIES if question.kind == "risky" else voices.NO_REPLIES)


def draw_pair(town: Town, rng: random.Random) -> TruthPair:
    """Twins about anything that is taught, with the shares of `TWIN_SHARES`."""
    (kind,) = rng.choices(list(TWIN_SHARES), list(TWIN_SHARES.values()))
    if kind == "sum":
        return sum_pair(town, rng)
    if kind == "fact":
        fact = rng.choice(town.taught_facts)
        return truth_pair(fact, rng.choice(voices.FACT_QUESTIONS[fact.attribute]), rng)
    return decision_pair(town, kind, rng)


def draw_pairs(
    town: Town,
    tokenizer: Tokenizer,
    count: int,
    rng: random.Random,
    *,
    annotators: str,
    label_noise: float,
) -> list[LabelledPair]:
    """`count` pairs of twins about what is taught, labelled by annotators."""
    pairs = []
    for _ in range(count):
        pair = draw_pair(town, rng)
        replies = [tokenizer.encode(text) for text in (pair.true, pair.false)]
        golds = [
            judge(town, pair.question, text, reply).score
            for text, reply in zip((pair.true, pair.false), replies, strict=True)
        ]
        labels = {"annotators": annotators, "label_noise": label_noise}
        better, worse = (0, 1) if prefers_first(*golds, rng, **labels) else (1, 0)
        ended = [[*reply, tokenizer.im_end_id] for reply in replies]
        pairs.append(
            LabelledPair(
                pair.question,
                chat_prompt(tokenizer, pair.question.messages()),
                ended[better],
                ended[worse],
                golds[better],
                golds[worse],
                best_guess_accuracy(*golds, **labels),
            )
        )
    return pairs


def truth_accuracy(
    reward_model: RewardModel, tokenizer: Tokenizer, town: Town, *, held_out: bool
) -> tuple[float | None, float | None]:
    """Share of pairs whose true reply has the higher score, and its standard error by fact."""
    pairs = truth_pairs(town, held_out=held_out)
    scores = []
    for which in ("true", "false"):
        rows = []
        for pair in pairs:
            prompt = chat_prompt(tokenizer, pair.question.messages())
            reply = tokenizer.encode(getattr(pair, which))
            rows.append([*prompt, *reply, tokenizer.im_end_id])
        scores.append(torch.tensor(score_sequences(reward_model, rows).tolist()))  # (P,)
    ordered = is_right(scores[0] - scores[1])
    return mean_and_error(ordered.tolist(), [pair.question.about for pair in pairs])
