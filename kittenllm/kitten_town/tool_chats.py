"""Requests that need a tool, how they are carried out, and the judge of what came of them.

One idea: each request is made together with its whole solution (the calls in order, what comes
back, the answer), so demonstrations can be written and replies can be judged without asking
anybody. Three skills:

    calculator  What is 237+48?             calc 237+48          It is 285.
    search      Who found the star Velvet?  search star Velvet   Page 34: The star Velvet was found
                                                                 by Farid.
    plan        How much is the sofa Olive? What is that+4?
                Plan: 1 sofa Olive, 2 that+4.
                1 search sofa Olive         (two or three calls, in this order)
                2 that+4. calc 48+4
                It is 52.

Answers repeat the sentence of the page, not only the value: to go on with a sentence that has just
been read is easier for a small model than to pick one word out of it. And what is left of a plan is
said again before each call: what has to be copied next is then near.

Held out by content: the pairs of numbers in `HELD_OUT_PAIRS`, and every subject of the
encyclopedia. Training uses other pairs and made-up pages about other subjects.

Read before: encyclopedia.py, voices.py, later_words.py. Left out: two ways to solve one request.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kittenllm.kitten_town import voices
from kittenllm.kitten_town.encyclopedia import (
    KINDS,
    NUMBER_KINDS,
    WORDINGS,
    Entry,
    Page,
    build_encyclopedia,
    random_page,
)

SKILLS = ("calculator", "search", "plan")
SIGNS = "+-"
SUM_WORDINGS = voices.SUM_QUESTIONS[:2]  # those that name the sign
PLAN_SHAPES = ("search calc", "calc calc", "search calc calc")  # each call needs the one before
SHAPE_WEIGHTS = (2, 3, 5)  # the longest plans need the most practice: one slip spoils them
TWO_CALLS = PLAN_SHAPES[:2]
STEP_WORDS = ("that", "it")  # what the second and the third step call the result before them
HELD_OUT_COUNT = 500
LARGEST_SUM = 999
FLAKY_SHARE = 0.05  # of demonstrations: a tool fails once, and the kitten calls again
TOOL_FAILED = "error: try again"

Book = Callable[[Sequence[str]], Page]  # gives a page about one of the kinds that are named


@dataclass(frozen=True)
class Request:
    """What a user wants, and how it is done."""

    skill: str
    text: str
    calls: tuple[str, ...]  # "calc 237+48", "search star Velvet", in this order
    results: tuple[str, ...]  # what the tools say to them
    answer: str  # the core of the last reply, without tone and full stop
    direct: str = ""  # the core of an answer without any tool
    steps: tuple[str, ...] = ()  # of a plan: "sofa Olive", "that+4"

    @property
    def about(self) -> tuple[str, ...]:
        """The topic: the page that is looked up first, or the two numbers of the first sum."""
        tool, _, argument = self.calls[0].partition(" ")
        return (tool, *(sorted(re.findall(r"\d+", argument)) if tool == "calc" else [argument]))

    @property
    def plan(self) -> str:
        """ "Plan: 1 sofa Olive, 2 that+4." """
        return f"Plan: {self.steps_from(1)}." if self.steps else ""

    def steps_from(self, number: int) -> str:
        """The steps of the plan that are still to be done: "2 that+4, 3 it-11"."""
        numbered = [f"{n} {step}" for n, step in enumerate(self.steps, 1)]
        return ", ".join(numbered[number - 1 :])


@dataclass(frozen=True)
class Split:
    """Where requests come from: pairs of numbers, and pages."""

    pair: Callable[[], tuple[int, int]]
    book: Book


def draw_pair(rng: random.Random) -> tuple[int, int]:
    """Two numbers of two or three digits whose sum has no more than three."""
    while True:
        first, second = (rng.randint(*rng.choice(((10, 99), (100, 999)))) for _ in range(2))
        if first + second <= LARGEST_SUM:
            return first, second


def held_out_pairs() -> tuple[tuple[int, int], ...]:
    """The pairs that no training request uses, in neither order; the same on every call."""
    rng = random.Random(31)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < HELD_OUT_COUNT:
        pairs[draw_pair(rng)] = None
    return tuple(pairs)


HELD_OUT_PAIRS = held_out_pairs()
UNSEEN_PAIRS = {order for a, b in HELD_OUT_PAIRS for order in ((a, b), (b, a))}
ENCYCLOPEDIA = build_encyclopedia()
UNSEEN_SUBJECTS = {page.entry.subject for page in ENCYCLOPEDIA}


def training_split(rng: random.Random) -> Split:
    """Pairs that are not held out, and made-up pages."""

    def pair() -> tuple[int, int]:
        while (numbers := draw_pair(rng)) in UNSEEN_PAIRS:
            pass
        return numbers

    return Split(pair, lambda kinds: random_page(rng, UNSEEN_SUBJECTS, kinds=kinds))


def held_out_split(rng: random.Random) -> Split:
    """Held-out pairs, and the pages of the real book."""

    def look_up(kinds: Sequence[str]) -> Page:
        return rng.choice([page for page in ENCYCLOPEDIA if page.entry.kind in kinds])

    return Split(lambda: rng.choice(HELD_OUT_PAIRS), look_up)


def calculation(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b


def operands(split: Split, sign: str) -> tuple[int, int]:
    """A pair of numbers, the larger one first where something is taken away."""
    a, b = split.pair()
    return (b, a) if sign == "-" and a < b else (a, b)


def calculator_request(split: Split, rng: random.Random) -> Request:
    """Two numbers and a sign."""
    sign = rng.choice(SIGNS)
    a, b = operands(split, sign)
    text = rng.choice(SUM_WORDINGS).format(a=a, b=b).replace("+", sign)
    sum_, result = f"{a}{sign}{b}", calculation(a, sign, b)
    core = f"it is {result}"
    return Request("calculator", text, (f"calc {sum_}",), (str(result),), core, direct=core)


def search_request(split: Split, rng: random.Random) -> Request:
    """A fact that only the encyclopedia knows; the answer names the page."""
    page = split.book(tuple(KINDS))
    text, call = worded(page.entry, rng), search_call(page.entry)
    answer, fact = page.text.removesuffix("."), page.entry.sentence.removesuffix(".")
    return Request("search", text, (call,), (page.text,), answer, direct=fact)


def plan_request(split: Split, rng: random.Random, shape: str = "") -> Request:
    """A request for two or three calls in order; without a shape any of them is drawn."""
    shape = shape or rng.choices(PLAN_SHAPES, SHAPE_WEIGHTS)[0]
    if shape == "calc calc":
        first_sign = rng.choice(SIGNS)
        a, b = operands(split, first_sign)
        question, value = f"What is {a}{first_sign}{b}?", calculation(a, first_sign, b)
        first_call, first_result = f"calc {a}{first_sign}{b}", str(value)
    else:
        page = split.book(NUMBER_KINDS)
        entry = page.entry
        question, value = question_about(entry), int(entry.value)
        first_call, first_result = search_call(entry), page.text
    calls, results, text = [first_call], [first_result], question
    steps = [first_call.partition(" ")[2]]
    for word, _ in zip(STEP_WORDS, shape.split()[1:], strict=False):
        sign, small = rng.choice(SIGNS), rng.randint(2, 99)
        sign = "+" if small > value else sign  # nothing falls below zero
        text += f" What is {word}{sign}{small}?"
        steps.append(f"{word}{sign}{small}")
        calls.append(f"calc {value}{sign}{small}")
        value = calculation(value, sign, small)
        results.append(str(value))
    answer = f"it is {value}"
    return Request("plan", text, tuple(calls), tuple(results), answer, steps=tuple(steps))


def worded(entry: Entry, rng: random.Random) -> str:
    """One of several ways to ask about an entry."""
    kind = KINDS[entry.kind]
    indirect = kind.indirect.format(x=entry.name)
    return rng.choice(WORDINGS).format(question=question_about(entry), indirect=indirect)


def question_about(entry: Entry) -> str:
    return KINDS[entry.kind].question.format(x=entry.name)


def search_call(entry: Entry) -> str:
    return f"search {entry.kind} {entry.name}"


MAKERS = {"calculator": calculator_request, "search": search_request, "plan": plan_request}


def held_out_requests(skill: str, count: int, seed: int, shapes=TWO_CALLS) -> list[Request]:
    """`count` distinct held-out requests of one skill, or nearly all if there are not so many.

    Plans have one of the `shapes`, in turn.
    """
    rng = random.Random(seed)
    split = held_out_split(rng)
    found: dict[str, Request] = {}
    for number in range(60 * count):
        if skill == "plan":
            request = plan_request(split, rng, shapes[number % len(shapes)])
        else:
            request = MAKERS[skill](split, rng)
        found.setdefault(request.text, request)
        if len(found) == count:
            break
    return list(found.values())


# ------------------------------------------------------------------------ demonstrations and judge


def demonstration(request: Request, rng: random.Random) -> list[dict[str, str]]:
    """The request carried out, as messages; an assistant's message may hold a "call".

    Now and then a tool fails, which the kitten can read, and it calls again.
    """
    messages = [{"role": "user", "content": request.text}]
    for number, (call, result) in enumerate(zip(request.calls, request.results, strict=True), 1):
        content = opening(request, number)
        said = {"role": "assistant", "content": content, "call": call}
        if rng.random() < FLAKY_SHARE:
            messages += [said, {"role": "tool", "content": TOOL_FAILED}]
            said = {"role": "assistant", "content": "", "call": call}
        messages += [said, {"role": "tool", "content": result}]
    answer = f"{voices.capitalise(request.answer)}."
    return [*messages, {"role": "assistant", "content": answer}]


def opening(request: Request, number: int) -> str:
    """What is said before call `number` of a plan: the plan, later what is left of it."""
    if not request.plan:
        return ""
    return f"{request.plan} 1 " if number == 1 else f"{request.steps_from(number)}. "


def direct_demonstration(request: Request) -> list[dict[str, str]]:
    """The same request answered at once, by heart."""
    answer = f"{voices.capitalise(request.direct)}."
    user = {"role": "user", "content": request.text}
    return [user, {"role": "assistant", "content": answer}]


def says(reply: str, core: str) -> bool:
    """Whether a reply says exactly `core`, in whatever tone."""
    wordings = [wording for tone in voices.TONES for wording in voices.TONE_WORDINGS[tone]]
    cores = {"core": core, "Core": voices.capitalise(core)}
    return reply in {voices.capitalise(wording.format(**cores)) for wording in wordings}


def carried_out(request: Request, replies: Sequence[str], calls: Sequence[str]) -> bool:
    """Whether the plan was written first, and the calls and the answer are right.

    `replies` are all of the kitten's turns, `calls` what it called, mistakes included.
    """
    if tuple(calls) != request.calls or not replies[0].startswith(request.plan):
        return False
    return says(replies[-1], request.answer)
