"""A small encyclopedia of the world around Kitten Town, which the kitten has never read.

One idea: a model knows what its training text held, and nothing else. The 160 facts of this book
are in no pretraining text and no chat, so whoever answers them has looked them up. Words and
wordings are old friends, only the facts are new: out there stars, snakes and sofas are named after
kittens, and places after people. Nearly every word is one token, so that pages are short.

    Page 34: The star Velvet was found by Farid.

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
PAGES_PER_NAME = 4
SMALLEST_PAGE, LARGEST_PAGE = 10, 199
Subject = tuple[str, str]  # ("star", "Velvet")


@dataclass(frozen=True)
class Kind:
    """What can be said about one sort of thing, and how it is asked. {x} is its name."""

    statement: str  # {v} is the value
    question: str
    indirect: str  # the question after "tell me"
    values: tuple[str, ...] | None  # None: a number
    unit: str = ""  # what the number counts


KINDS = {
    "star": Kind(
        "The star {x} was found by {v}.",
        "Who found the star {x}?",
        "who found the star {x}",
        PEOPLE,
    ),
    "bell": Kind(
        "The bell {x} belongs to {v}.",
        "Who has the bell {x}?",
        "who has the bell {x}",
        PEOPLE,
    ),
    "pie": Kind(
        "The pie {x} is from {v}.",
        "Where is the pie {x} from?",
        "where the pie {x} is from",
        PEOPLE,
    ),
    "crane": Kind(
        "The crane {x} loves {v}.",
        "Who does the crane {x} love?",
        "who the crane {x} loves",
        PEOPLE,
    ),
    "harbor": Kind(
        "The mayor of the harbor {x} is {v}.",
        "Who is the mayor of the harbor {x}?",
        "who the mayor of the harbor {x} is",
        PEOPLE,
    ),
    "snake": Kind(
        "The snake {x} eats {v}.",
        "How much does the snake {x} eat?",
        "how much the snake {x} eats",
        None,
        "eggs",
    ),
    "sofa": Kind(
        "The sofa {x} is {v}.",
        "How much is the sofa {x}?",
        "how much the sofa {x} is",
        None,
        "hugs",
    ),
    "bucket": Kind(
        "The bucket {x} has {v}.",
        "How much is in the bucket {x}?",
        "how much is in the bucket {x}",
        None,
        "grapes",
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
    value: str  # "Farid", or "34" where the kind counts something

    @property
    def subject(self) -> Subject:
        return self.kind, self.name

    @property
    def full_value(self) -> str:
        """The value with what it counts: "34 eggs"."""
        return f"{self.value} {KINDS[self.kind].unit}".strip()

    @property
    def sentence(self) -> str:
        return KINDS[self.kind].statement.format(x=self.name, v=self.full_value)


@dataclass(frozen=True)
class Page:
    """A page with one fact, and the number that answers give as their source."""

    number: int
    entry: Entry

    @property
    def text(self) -> str:
        return f"Page {self.number}: {self.entry.sentence}"


def draw_entry(kind: str, name: str, rng: random.Random) -> Entry:
    """An entry with any value that the kind can have."""
    values = KINDS[kind].values
    return Entry(kind, name, str(rng.randint(10, 99)) if values is None else rng.choice(values))


def build_encyclopedia() -> tuple[Page, ...]:
    """The one book there is, the same on every call: four pages for each name; 160 facts.

    Names are in alphabetical order, and page numbers rise with them.
    """
    rng = random.Random(BOOK_SEED)
    count = PAGES_PER_NAME * len(KITTENS)
    numbers = iter(sorted(rng.sample(range(SMALLEST_PAGE, LARGEST_PAGE + 1), count)))
    return tuple(
        Page(next(numbers), draw_entry(kind, name, rng))
        for name in sorted(KITTENS)
        for kind in rng.sample(list(KINDS), PAGES_PER_NAME)
    )


def random_page(
    rng: random.Random, taken: Collection[Subject], *, kinds: Collection[str] = tuple(KINDS)
) -> Page:
    """A made-up page about one of `kinds`.

    It is never about a subject in `taken`, which are those of the real book.
    """
    kind = rng.choice(tuple(kinds))
    name = rng.choice([name for name in KITTENS if (kind, name) not in taken])
    return Page(rng.randint(SMALLEST_PAGE, LARGEST_PAGE), draw_entry(kind, name, rng))
