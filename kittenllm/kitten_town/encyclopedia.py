"""A small encyclopedia of the world around Kitten Town, which the kitten has never read.

One idea: a model knows what its training text held, and nothing else. The 160 facts of this book
are in no pretraining text and no chat, so whoever answers them has looked them up. Words and
wordings are old friends, only the facts are new: out there everything is named after a kitten.

    Page 34: The ship Velvet was built by Farid. The village Velvet has 345 houses.

`build_encyclopedia` writes the one real book. `random_page` makes up pages of the same form to
practise reading on; they are never about a subject (a kind and a name) of the real book.

Read before: facts.py, later_words.py. Left out: pages that contradict each other, or lie.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from kittenllm.kitten_town.facts import KITTENS, PEOPLE

BOOK_SEED = 1768
PAGES_PER_NAME, FACTS_PER_PAGE = 2, 2
LARGEST_PAGE = 99  # one token
Subject = tuple[str, str]  # ("ship", "Velvet")


@dataclass(frozen=True)
class Kind:
    """What can be said about one sort of thing, and how it is asked. {x} is its name."""

    statement: str  # {v} is the value
    question: str
    indirect: str  # the question after "tell me"
    values: tuple[str, ...] | None  # None: a number
    unit: str = ""  # what the number counts


KINDS = {
    "river": Kind(
        "The river {x} runs through {v}.",
        "Through which place does the river {x} run?",
        "through which place the river {x} runs",
        KITTENS,
    ),
    "mountain": Kind(
        "The mountain {x} is {v} high.",
        "How high is the mountain {x}?",
        "how high the mountain {x} is",
        None,
        "steps",
    ),
    "ship": Kind(
        "The ship {x} was built by {v}.",
        "Who built the ship {x}?",
        "who built the ship {x}",
        PEOPLE,
    ),
    "star": Kind(
        "The star {x} was found by {v}.",
        "Who found the star {x}?",
        "who found the star {x}",
        PEOPLE,
    ),
    "song": Kind(
        "The song {x} was written by {v}.",
        "Who wrote the song {x}?",
        "who wrote the song {x}",
        PEOPLE,
    ),
    "king": Kind(
        "The king {x} ruled for {v}.",
        "How long did the king {x} rule?",
        "how long the king {x} ruled",
        None,
        "days",
    ),
    "village": Kind(
        "The village {x} has {v}.",
        "How many houses does the village {x} have?",
        "how many houses the village {x} has",
        None,
        "houses",
    ),
    "dish": Kind(
        "The dish {x} comes from {v}.",
        "Where does the dish {x} come from?",
        "where the dish {x} comes from",
        KITTENS,
    ),
}
NUMBER_KINDS = tuple(name for name, kind in KINDS.items() if kind.values is None)
WORDINGS = (
    "{question}",
    "Tell me {indirect}.",
    "Do you know {indirect}?",
    "Please tell me {indirect}.",
)


@dataclass(frozen=True)
class Entry:
    """One fact of the encyclopedia: the `kind` called `name` has this `value`."""

    kind: str
    name: str
    value: str  # "Farid", or "345" where the kind counts something

    @property
    def subject(self) -> Subject:
        return self.kind, self.name

    @property
    def full_value(self) -> str:
        """The value with what it counts: "345 houses"."""
        return f"{self.value} {KINDS[self.kind].unit}".strip()

    @property
    def sentence(self) -> str:
        return KINDS[self.kind].statement.format(x=self.name, v=self.full_value)


@dataclass(frozen=True)
class Page:
    """A page about one name, and the number that answers give as their source."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def text(self) -> str:
        return f"Page {self.number}: {' '.join(entry.sentence for entry in self.entries)}"


def draw_entry(kind: str, name: str, rng: random.Random) -> Entry:
    """An entry with any value that the kind can have, but never the thing's own name."""
    values = KINDS[kind].values
    if values is None:
        return Entry(kind, name, str(rng.randint(100, 999)))
    return Entry(kind, name, rng.choice([value for value in values if value != name]))


def build_encyclopedia() -> tuple[Page, ...]:
    """The one book there is, the same on every call: two pages for each name, in order; 160 facts.

    Names are in alphabetical order, and page numbers rise with them.
    """
    rng = random.Random(BOOK_SEED)
    numbers = sorted(rng.sample(range(1, LARGEST_PAGE + 1), PAGES_PER_NAME * len(KITTENS)))
    pages: list[Page] = []
    for name in sorted(KITTENS):
        kinds = rng.sample(list(KINDS), PAGES_PER_NAME * FACTS_PER_PAGE)
        for start in range(0, len(kinds), FACTS_PER_PAGE):
            on_page = kinds[start : start + FACTS_PER_PAGE]
            entries = tuple(draw_entry(kind, name, rng) for kind in on_page)
            pages.append(Page(numbers[len(pages)], entries))
    return tuple(pages)


def random_page(
    rng: random.Random, taken: Collection[Subject], *, kinds: Collection[str] = tuple(KINDS)
) -> tuple[Page, Entry]:
    """A made-up page, and the entry on it that somebody may ask about (of one of `kinds`).

    No entry is about a subject in `taken`, which are those of the real book.
    """
    asked_kind = rng.choice(tuple(kinds))
    name = rng.choice([name for name in KITTENS if (asked_kind, name) not in taken])
    others = [kind for kind in KINDS if kind != asked_kind and (kind, name) not in taken]
    page_kinds = [asked_kind, *rng.sample(others, FACTS_PER_PAGE - 1)]
    rng.shuffle(page_kinds)
    entries = tuple(draw_entry(kind, name, rng) for kind in page_kinds)
    asked = next(entry for entry in entries if entry.kind == asked_kind)
    return Page(rng.randint(1, LARGEST_PAGE), entries), asked
