"""The facts of Kitten Town, and which of them chats may teach.

One idea: truth is a table. 40 kittens have 5 attributes each, 200 facts, and 48 things are either
dangerous for a kitten or fine. Pretraining text tells all of it. A quarter of the *content* (facts,
things, sums) is held out: no chat, preference or reward ever asks about it before evaluation, so a
right answer there shows that the kitten uses what it read, not what it was drilled on.

The table is drawn once with a fixed seed: the town is the same for everybody, whatever `--seed` a
run has. A run's seed changes the stories told about the town, never the town.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TOWN_SEED = 2025
HELD_OUT_SHARE = 0.25


def words(text: str) -> tuple[str, ...]:
    """The words of a text, as a tuple."""
    return tuple(text.split())


KITTENS = words(
    "Miso Pip Luna Biscuit Mochi Toffee Olive Pepper Ziggy Coco Waffle Noodle Maple Hazel "
    "Juno Felix Oscar Ruby Willow Ginger Bean Cleo Dusty Echo Fern Gizmo Iris Jasper Kiwi "
    "Lemon Nori Otis Poppy Quill Rolo Sage Tango Umi Velvet Winnie"
)
PEOPLE = words("Anna Boris Clara David Emma Farid Greta Hugo Ines Jonas Karin Leo")

ATTRIBUTES = {
    "color": words("black white grey orange cream brown silver golden striped spotted"),
    "home": words(
        "mill bakery library harbor barn school lighthouse tower market garden museum inn"
    ),
    "food": words(
        "tuna salmon chicken shrimp pumpkin cheese eggs turkey sardines porridge ham pie"
    ),
    "toy": words("ball feather bell bucket cork leaf sock box kite drum spoon hat"),
    "owner": PEOPLE,
}

# (what a kitten might do with it, the thing). The thing alone decides whether it is dangerous.
DANGEROUS = (
    *(("eat", thing) for thing in words("chocolate garlic soap glue chalk lilies pills grapes")),
    *(("drink", thing) for thing in words("wine paint coffee ink")),
    *(("chew", f"the {thing}") for thing in words("wire nail pin")),
    *(("touch", f"the {thing}") for thing in words("stove iron fire")),
    *(("play with", f"the {thing}") for thing in words("knife snake saw")),
    *(("climb", f"the {thing}") for thing in words("crane cliff roof")),
)
ALLOWED = (
    *(("eat", thing) for thing in words("rice peas oats melon beef trout corn bread")),
    *(("drink", thing) for thing in words("water milk tea juice")),
    *(("chew", f"the {thing}") for thing in words("straw grass bone")),
    *(("touch", f"the {thing}") for thing in words("snow sand moss")),
    *(("play with", f"the {thing}") for thing in words("rope wool stick")),
    *(("climb", f"the {thing}") for thing in words("sofa fence shelf")),
)
PLURALS = words("lilies pills grapes peas oats")


@dataclass(frozen=True)
class Fact:
    """One true sentence about one kitten: `kitten`'s `attribute` is `value`."""

    kitten: str
    attribute: str
    value: str


@dataclass(frozen=True)
class Thing:
    """Something a kitten may or must not do: `verb` is "eat", `name` is "chocolate"."""

    verb: str
    name: str
    dangerous: bool

    @property
    def noun(self) -> str:
        """The bare word that tells this thing from all others ("the wire" -> "wire")."""
        return self.name.removeprefix("the ")

    @property
    def is_(self) -> str:
        """The verb that fits the name: "chocolate is", "grapes are"."""
        return "are" if self.noun in PLURALS else "is"


@dataclass(frozen=True)
class Town:
    """All content, and for each sort of content what is taught and what is held out."""

    facts: dict[tuple[str, str], Fact]
    taught_facts: tuple[Fact, ...]
    held_out_facts: tuple[Fact, ...]
    taught_things: tuple[Thing, ...]
    held_out_things: tuple[Thing, ...]
    taught_sums: tuple[tuple[int, int], ...]
    held_out_sums: tuple[tuple[int, int], ...]
    taught_heroes: tuple[str, ...]  # kittens of asked-for stories
    held_out_heroes: tuple[str, ...]
    taught_guests: tuple[str, ...]  # people who say hello
    held_out_guests: tuple[str, ...]

    def value(self, kitten: str, attribute: str) -> str:
        """The true value of a kitten's attribute."""
        return self.facts[kitten, attribute].value

    def things(self, *, dangerous: bool) -> list[Thing]:
        """All dangerous things, or all that are fine; taught ones first."""
        both = self.taught_things + self.held_out_things
        return [thing for thing in both if thing.dangerous == dangerous]


def build_town() -> Town:
    """The one Kitten Town there is; the same on every call."""
    rng = random.Random(TOWN_SEED)
    facts = {}
    for attribute, values in ATTRIBUTES.items():
        # Every value is used about equally often, so guessing the commonest one does not pay.
        column = [values[index % len(values)] for index in range(len(KITTENS))]
        rng.shuffle(column)
        for kitten, value in zip(KITTENS, column, strict=True):
            facts[kitten, attribute] = Fact(kitten, attribute, value)

    # Hold out within each attribute and each sort of thing, so that both sides look alike.
    taught_facts, held_out_facts = [], []
    for attribute in ATTRIBUTES:
        of_attribute = [facts[kitten, attribute] for kitten in KITTENS]
        split_off(of_attribute, taught_facts, held_out_facts, rng)
    taught_things, held_out_things = [], []
    for pairs, dangerous in ((DANGEROUS, True), (ALLOWED, False)):
        things = [Thing(verb, name, dangerous) for verb, name in pairs]
        split_off(things, taught_things, held_out_things, rng)
    taught_sums, held_out_sums = [], []
    split_off(
        [(a, b) for a in range(1, 10) for b in range(1, a + 1)], taught_sums, held_out_sums, rng
    )
    taught_heroes, held_out_heroes = [], []
    split_off(list(KITTENS), taught_heroes, held_out_heroes, rng)
    taught_guests, held_out_guests = [], []
    split_off(list(PEOPLE), taught_guests, held_out_guests, rng)
    return Town(
        facts=facts,
        taught_facts=tuple(taught_facts),
        held_out_facts=tuple(held_out_facts),
        taught_things=tuple(taught_things),
        held_out_things=tuple(held_out_things),
        taught_sums=tuple(taught_sums),
        held_out_sums=tuple(held_out_sums),
        taught_heroes=tuple(taught_heroes),
        held_out_heroes=tuple(held_out_heroes),
        taught_guests=tuple(taught_guests),
        held_out_guests=tuple(held_out_guests),
    )


def split_off(items: list, taught: list, held_out: list, rng: random.Random) -> None:
    """Append a random quarter of `items` to `held_out` and the rest to `taught`."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    count = round(HELD_OUT_SHARE * len(shuffled))
    held_out.extend(shuffled[:count])
    taught.extend(shuffled[count:])
