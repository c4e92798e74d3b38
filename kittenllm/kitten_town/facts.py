"""The facts of Kitten Town, and which of them chats may teach.

One idea: truth is a table. 40 kittens have 5 attributes each, 200 facts, and 96 things are either
dangerous for a kitten or fine. Pretraining text *tells* all of it. A part of the *content* (a third
of facts and things, more of the sums) is held out: no text of any training step, pretraining
included, asks about it next to its answer. A right answer there shows that the kitten uses what it
was told, not what it was drilled on.

The table is drawn once with a fixed seed: the town is the same for everybody, whatever `--seed` a
run has. A run's seed changes the stories told about the town, never the town.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

TOWN_SEED = 2025
HELD_OUT_SHARE = 1 / 3
HELD_OUT_SUM_SHARE = 0.42


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
DANGEROUS_NAMES = {
    "eat": words(
        "chocolate garlic soap glue chalk lilies pills grapes onions raisins wax salt ivy dough "
        "candy gum"
    ),
    "drink": words("wine paint coffee ink beer vinegar oil bleach"),
    "chew": words("wire nail pin cable needle battery"),
    "touch": words("stove iron fire candle oven cactus"),
    "play with": words("knife snake saw axe wasp razor"),
    "climb": words("crane cliff roof chimney mast ladder"),
}
ALLOWED_NAMES = {
    "eat": words(
        "rice peas oats melon beef trout corn bread carrots apples butter duck crab liver beans "
        "yogurt"
    ),
    "drink": words("water milk tea juice broth soup dew nectar"),
    "chew": words("straw grass bone twig reed rag"),
    "touch": words("snow sand moss petal clay stone"),
    "play with": words("rope wool stick ribbon marble puppet"),
    "climb": words("sofa fence shelf tree bench log"),
}
WITHOUT_ARTICLE = ("eat", "drink")  # "chew the wire", but "eat rice"
PLURALS = words("lilies pills grapes onions raisins peas oats carrots apples beans")


def thing_pairs(names: dict[str, tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
    """(what a kitten might do with it, the thing): ("eat", "rice"), ("chew", "the wire")."""
    return tuple(
        (verb, noun if verb in WITHOUT_ARTICLE else f"the {noun}")
        for verb, nouns in names.items()
        for noun in nouns
    )


# The thing alone decides whether it is dangerous, never the verb.
DANGEROUS = thing_pairs(DANGEROUS_NAMES)
ALLOWED = thing_pairs(ALLOWED_NAMES)


SMALL_SUMS = tuple((a, b) for a in range(1, 10) for b in range(1, a + 1))
LARGE_SUMS = tuple((a, b) for a in range(10, 16) for b in range(1, 10))  # up to 24


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
    split_off(SMALL_SUMS, taught_sums, held_out_sums, rng, HELD_OUT_SUM_SHARE)
    split_off(LARGE_SUMS, taught_sums, held_out_sums, rng, HELD_OUT_SUM_SHARE)
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


def split_off(
    items: Sequence,
    taught: list,
    held_out: list,
    rng: random.Random,
    share: float = HELD_OUT_SHARE,
) -> None:
    """Append a random `share` of `items` to `held_out` and the rest to `taught`."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    count = round(share * len(shuffled))
    held_out.extend(shuffled[:count])
    taught.extend(shuffled[count:])
