"""Saying after: what teaches a kitten to copy what it has just read.

One idea: whoever cannot copy cannot use what is in front of it: a name in a question, a result of a
tool, a line of a program. Copying is a skill of attention ("find where this token stood before, and
say what stood behind it": an induction head, Olsson et al. 2022, arXiv 2209.11895), and it grows on
text that can be foretold in no other way: names, numbers and made-up words in no order, said again.
So chapter 0 begins with echoes, in six shapes, and keeps some of them among the books.

    The well: 48 Pip tuna lomi. And the well says: 48 Pip tuna lomi.

Read before: facts.py. Left out: copying with changes (backwards, sorted, counted).
"""

from __future__ import annotations

import random

from kittenllm.kitten_town.facts import ATTRIBUTES, KITTENS, PEOPLE, words

FEWEST_ITEMS, MOST_ITEMS = 1, 6
ITEM_WEIGHTS = (8, 8, 8, 1, 1, 1)  # see echo_item
# What is practised is harder than what is asked: longer lists, and oftener made-up words.
PRACTICE_ITEMS = 8
PRACTICE_WEIGHTS = (7, 7, 7, 1, 1, 4)
SYLLABLES = words(
    "ba do fi gu ka lo mi nu pa ri so tu va ze "
    "bel dor fin gar kel lan mor nim pol rek sil tan vor zim"
)
VALUES = tuple(value for values in ATTRIBUTES.values() for value in values)


def made_up_word(rng: random.Random) -> str:
    """Two or three syllables that no dictionary holds."""
    return "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3))))


def echo_item(rng: random.Random, weights: tuple[int, ...] = ITEM_WEIGHTS) -> str:
    """A name, a word of the town, or a number; now and then a sum or a made-up word."""
    number, other = rng.randint(10, 999), rng.randint(2, rng.choice((99, 999)))
    makers = (
        lambda: rng.choice(KITTENS + PEOPLE),
        lambda: rng.choice(VALUES),
        lambda: str(rng.randint(0, 99)),
        lambda: str(number),
        lambda: f"{number}{rng.choice('+-')}{other}",
        lambda: made_up_word(rng),
    )
    return rng.choices(makers, weights)[0]()


def echo_items(
    rng: random.Random,
    fewest: int = FEWEST_ITEMS,
    most: int = MOST_ITEMS,
    weights: tuple[int, ...] = ITEM_WEIGHTS,
) -> list[str]:
    """A list of any items, in no order."""
    return [echo_item(rng, weights) for _ in range(rng.randint(fewest, most))]


def code_line(rng: random.Random) -> str:
    """A line that looks like a program."""
    name, other = rng.sample("abcdnxy", 2)
    first, second = rng.randint(1, 20), rng.randint(1, 20)
    return rng.choice(
        (
            f"let {name} = {first}; let {other} = {name}{rng.choice('+-*')}{second};",
            f"if {name} < {first} {{ purr {other}; }} else {{ purr {second}; }}",
            f"repeat {first} {{ purr {name}{rng.choice('+-*')}{second}; }}",
        )
    )


def echo_text(rng: random.Random) -> str:
    """One document for pretraining: one echo in one of the six `SHAPES`."""
    return shaped(rng.choice(list(SHAPES)), rng)


SHAPES = {
    "well": "The well: {said}. And the well says: {said}. And again: {said}.",
    "parrot": "{p} says: {said}. The parrot says: {said}. The parrot says again: {said}.",
    "list": "List: {said}. The same list: {said}. Once more: {said}.",
    "please": "Again, please: {said}. Here it is: {said}. And here: {said}.",
    "copy": "Copy this: {said}\nA copy: {said}\nAnother copy: {said}",
    "note": "The note says: {said}. {p} reads: {said}. {p} reads again: {said}.",
}


def shaped(shape: str, rng: random.Random) -> str:
    """One echo of this shape; half of the copies are code."""
    said = " ".join(echo_items(rng, most=PRACTICE_ITEMS, weights=PRACTICE_WEIGHTS))
    if shape == "copy" and rng.random() < 0.5:
        said = code_line(rng)
    return SHAPES[shape].format(said=said, p=rng.choice(PEOPLE))
