"""Requests that need a tool, how they are carried out, and the judge of what came of them.

One idea: each request is made together with its whole solution (the calls in order, what comes
back, the answer), so demonstrations can be written and replies can be judged without asking
anybody. Three skills:

    calculator  What is 237+48?             calc 237+48                         237+48=285.
    search      Who built the ship Velvet?  search ship Velvet                  Farid, says page 34.
    plan        How high is the mountain    Plan: first search mountain Olive,  Done: 948.
                Olive? And how much is      then calc that*4.
                that*4?                     (two or three calls, in this order)

Held out by content: the pairs of numbers in `HELD_OUT_PAIRS`, and every subject of the
encyclopedia. Training uses other pairs and made-up pages about other subjects.

Read before: encyclopedia.py, voices.py, later_words.py. Left out: two ways to solve one request.
"""

from __future__ import annotations

import random
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
SIGNS = "+-*"
PLAN_SHAPES = ("search calc", "search search", "calc calc", "search calc calc")
TWO_CALLS = PLAN_SHAPES[:3]
HELD_OUT_COUNT = 500
FLAKY_SHARE = 0.05  # of demonstrations: a tool fails once, and the kitten calls again
TOOL_FAILED = "error: try again"

# gives a page and the entry on it that is asked about, of one of the kinds that are named
Book = Callable[[Sequence[str]], tuple[Page, Entry]]


@dataclass(frozen=True)
class Request:
    """What a user wants, and how it is done."""

    skill: str
    text: str
    calls: tuple[str, ...]  # "calc 237+48", "search ship Velvet", in this order
    results: tuple[str, ...]  # what the tools say to them
    answer: str  # the core of the last reply, without tone and full stop
    plan: str = ""  # what is written before the first call
    direct: str = ""  # the core of an answer without any tool


@dataclass(frozen=True)
class Split:
    """Where requests come from: pairs of numbers, and pages."""

    pair: Callable[[], tuple[int, int]]
    book: Book


def draw_pair(rng: random.Random) -> tuple[int, int]:
    """Two numbers of two or three digits, both lengths equally likely."""
    first, second = (rng.randint(*rng.choice(((10, 99), (100, 999)))) for _ in range(2))
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
UNSEEN_SUBJECTS = {entry.subject for page in ENCYCLOPEDIA for entry in page.entries}


def training_split(rng: random.Random) -> Split:
    """Pairs that are not held out, and made-up pages."""

    def pair() -> tuple[int, int]:
        while (numbers := draw_pair(rng)) in UNSEEN_PAIRS:
            pass
        return numbers

    return Split(pair, lambda kinds: random_page(rng, UNSEEN_SUBJECTS, kinds=kinds))


def held_out_split(rng: random.Random) -> Split:
    """Held-out pairs, and the pages of the real book."""

    def look_up(kinds: Sequence[str]) -> tuple[Page, Entry]:
        page = rng.choice([p for p in ENCYCLOPEDIA if any(e.kind in kinds for e in p.entries)])
        return page, rng.choice([entry for entry in page.entries if entry.kind in kinds])

    return Split(lambda: rng.choice(HELD_OUT_PAIRS), look_up)


def calculation(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def calculator_request(split: Split, rng: random.Random) -> Request:
    """Two numbers and a sign."""
    (a, b), sign = split.pair(), rng.choice(SIGNS)
    wordings = voices.SUM_QUESTIONS if sign == "+" else voices.SUM_QUESTIONS[:2]
    text = rng.choice(wordings).format(a=a, b=b).replace("+", sign)
    sum_, result = f"{a}{sign}{b}", calculation(a, sign, b)
    core = f"{sum_}={result}"
    return Request("calculator", text, (f"calc {sum_}",), (str(result),), core, direct=core)


def search_request(split: Split, rng: random.Random) -> Request:
    """A fact that only the encyclopedia knows; the answer names the page."""
    page, entry = split.book(tuple(KINDS))
    text = worded(entry, rng)
    answer = f"{entry.full_value}, says page {page.number}"
    return Request(
        "search", text, (search_call(entry),), (page.text,), answer, direct=entry.full_value
    )


def plan_request(split: Split, rng: random.Random, shape: str = "") -> Request:
    """A request for two or three calls in order; without a shape any of them is drawn."""
    shape = shape or rng.choice(PLAN_SHAPES)
    if shape == "search search":
        return two_searches(split, rng)
    if shape == "calc calc":
        (a, b), first_sign = split.pair(), rng.choice("+*")
        question, value = f"What is {a}{first_sign}{b}?", calculation(a, first_sign, b)
        first_call, first_result = f"calc {a}{first_sign}{b}", str(value)
    else:
        page, entry = split.book(NUMBER_KINDS)
        question, value = question_about(entry), int(entry.value)
        first_call, first_result = search_call(entry), page.text
    calls, results, steps, text = [first_call], [first_result], [first_call], question
    for _ in shape.split()[1:]:
        sign, small = rng.choice(SIGNS), rng.randint(2, 99)
        text += f" And how much is that{sign}{small}?"
        steps.append(f"calc that{sign}{small}")
        calls.append(f"calc {value}{sign}{small}")
        value = calculation(value, sign, small)
        results.append(str(value))
    answer = f"done: {value}"
    return Request("plan", text, tuple(calls), tuple(results), answer, plan_of(*steps))


def two_searches(split: Split, rng: random.Random) -> Request:
    """Two facts, asked in one breath."""
    (page, entry), (other_page, other) = two_entries(split, tuple(KINDS))
    calls = (search_call(entry), search_call(other))
    return Request(
        "plan",
        f"{question_about(entry)} And {lower(question_about(other))}",
        calls,
        (page.text, other_page.text),
        f"done: {entry.full_value} and {other.full_value}",
        plan_of(*calls),
    )


def two_entries(split: Split, kinds: Sequence[str]) -> tuple[tuple[Page, Entry], ...]:
    """Two entries about different names."""
    first, second = split.book(kinds), split.book(kinds)
    while first[1].name == second[1].name:
        second = split.book(kinds)
    return first, second


def worded(entry: Entry, rng: random.Random) -> str:
    """One of several ways to ask about an entry."""
    kind = KINDS[entry.kind]
    indirect = kind.indirect.format(x=entry.name)
    return rng.choice(WORDINGS).format(question=question_about(entry), indirect=indirect)


def question_about(entry: Entry) -> str:
    return KINDS[entry.kind].question.format(x=entry.name)


def search_call(entry: Entry) -> str:
    return f"search {entry.kind} {entry.name}"


def plan_of(*steps: str) -> str:
    """ "Plan: first ..., then ..." """
    return f"Plan: first {', then '.join(steps)}."


def lower(text: str) -> str:
    """Make the first letter small."""
    return text[:1].lower() + text[1:]


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
        content = f"Step {number}: " if request.plan else ""
        if number == 1 and request.plan:
            content = f"{request.plan} {content}"
        said = {"role": "assistant", "content": content, "call": call}
        if rng.random() < FLAKY_SHARE:
            messages += [said, {"role": "tool", "content": TOOL_FAILED}]
            said = {"role": "assistant", "content": "", "call": call}
        messages += [said, {"role": "tool", "content": result}]
    answer = f"{voices.capitalise(request.answer)}."
    return [*messages, {"role": "assistant", "content": answer}]


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
    """Whether the plan was written first, the calls are right and in order, and so is the answer.

    `replies` are all of the kitten's turns, `calls` what it called. A tool that failed may have
    been called again.
    """
    planned = replies[0].startswith(request.plan)
    return planned and tuple(calls) == request.calls and says(replies[-1], request.answer)
