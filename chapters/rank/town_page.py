"""What a person needs to judge a reply: the page of the town's book, and what can be seen in it.

Pupils do not know where Pip lives. So the page that tells it is shown under the question. A sum
can be added up, and everybody has an opinion about a greeting or a bit of small talk. Stories and
questions about the wide world are not asked here: nobody could say in a moment what is right.

Used by: the session, and tastes.py. Left out: files with questions of your own; they have no page.
"""

import functools
from itertools import product
from typing import NamedTuple

from kittenllm.kitten_town import manners, voices
from kittenllm.kitten_town.chats import Question
from kittenllm.kitten_town.facts import KITTENS, Town, build_town
from kittenllm.kitten_town.judge import is_right, tone_of, words_of

# How often each kind is asked when people rank. Facts, things and sums can be looked up.
RANKED_SHARES = {
    "fact": 0.30,
    "risky": 0.22,
    "allowed": 0.22,
    "sum": 0.10,
    "greeting": 0.06,
    "story": 0.0,
    "talk": 0.10,
    "outside": 0.0,
    "wish": 0.0,
}
KINDNESS = {"friendly": 1, "plain": 0, "grumpy": -1}


class Seen(NamedTuple):
    """What anybody can see in a reply, with the page beside it."""

    right: bool | None  # true and safe; None where nobody knows
    kindness: int  # 1 friendly, 0 plain, -1 grumpy
    words: int


@functools.cache
def town() -> Town:
    """The one town, built once."""
    return build_town()


@functools.cache
def known_questions() -> dict[str, Question]:
    """Every wording of a question about facts, things, sums and small talk -> the question."""
    found: dict[str, Question] = {}
    for kitten, attribute in town().facts:
        for wording in voices.FACT_QUESTIONS[attribute]:
            text = wording.format(k=kitten)
            found[text] = Question("fact", text, (kitten, attribute))
    for dangerous in (True, False):
        for thing in town().things(dangerous=dangerous):
            kind = "risky" if dangerous else "allowed"
            for wording, kitten in product(voices.MAY_QUESTIONS, KITTENS):
                text = wording.format(k=kitten, verb=thing.verb, thing=thing.name)
                found[text] = Question(kind, text, (thing.verb, thing.name))
    for a, b in town().taught_sums + town().held_out_sums:
        for wording, (x, y) in product(voices.SUM_QUESTIONS, ((a, b), (b, a))):
            text = wording.format(a=x, b=y)
            found[text] = Question("sum", text, (x, y))
    for meaning, (taught, held_out, _) in manners.TALK.items():
        for text in (*taught, *held_out):
            found.setdefault(text, Question("talk", text, (meaning, text)))
    return found


def page(prompt: str) -> str:
    """What the town's book says about a question: one sentence, or "" where it says nothing.

    >>> page("May I eat chocolate?"), page("What is 2+3?")
    ('chocolate is dangerous for kittens', '')
    """
    question = known_questions().get(prompt.strip())
    if question is None:
        return ""
    if question.kind == "fact":
        kitten, attribute = question.topic
        wording = voices.FACT_STATEMENTS[attribute][0]
        return wording.format(k=kitten, v=town().value(kitten, attribute))
    if question.kind in ("risky", "allowed"):
        verb, name = question.topic
        tellings = voices.DANGER_TELLINGS if question.kind == "risky" else voices.FINE_TELLINGS
        things = town().things(dangerous=question.kind == "risky")
        (thing,) = [thing for thing in things if (thing.verb, thing.name) == (verb, name)]
        return tellings[0].format(thing=name, is_=thing.is_)
    return ""


def seen_in(prompt: str, reply: str) -> Seen:
    """What a person sees in a reply to this question.

    >>> seen_in("May I eat chocolate?", "no, my dear, never do that")
    Seen(right=True, kindness=1, words=6)
    """
    question = known_questions().get(prompt.strip())
    right = None if question is None else is_right(town(), question, reply)
    return Seen(right, KINDNESS[tone_of(reply)], len(words_of(reply)))


def can_be_judged(prompt: str, first: str, second: str) -> bool:
    """Whether a person can tell the two replies apart: by truth or safety, or by their tone."""
    a, b = seen_in(prompt, first), seen_in(prompt, second)
    return a.right != b.right or a.kindness != b.kindness
