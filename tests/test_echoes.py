"""Saying after: six shapes of text in which something is said again."""

import math
import random
import re
from collections import Counter

import pytest

from kittenllm.kitten_town import echoes
from kittenllm.kitten_town.echoes import (
    ITEM_WEIGHTS,
    MOST_ITEMS,
    PRACTICE_ITEMS,
    PRACTICE_WEIGHTS,
    VALUES,
    echo_item,
)
from kittenllm.kitten_town.facts import KITTENS, PEOPLE

MADE_UP = re.compile(f"({'|'.join(echoes.SYLLABLES)}){{2,3}}")


@pytest.mark.parametrize(
    "named, most", [({}, MOST_ITEMS), ({"most": PRACTICE_ITEMS}, PRACTICE_ITEMS)]
)
def test_what_is_practised_is_longer_than_what_is_asked(named, most):
    rng = random.Random(8)
    lengths = Counter(len(echoes.echo_items(rng, **named)) for _ in range(1000))
    assert lengths.keys() == set(range(1, most + 1)) and (MOST_ITEMS, PRACTICE_ITEMS) == (6, 8)
    for length, count in lengths.items():
        assert abs(count - 1000 / most) < 4 * math.sqrt(1000 / most), length


@pytest.mark.parametrize(
    "weights, shares",
    [
        (ITEM_WEIGHTS, (8, 8, 8, 1, 1, 1)),
        (PRACTICE_WEIGHTS, (7, 7, 7, 1, 1, 4)),  # made-up words are the hard ones
    ],
    ids=["asked", "practised"],
)
def test_items_are_names_words_numbers_sums_and_made_up_words(weights, shares):
    """So many of 27: names, words, small numbers, larger numbers, sums, made-up words."""
    draws = 2700
    assert sum(shares) == 27
    rng = random.Random(1)
    found = Counter()
    for _ in range(draws):
        item = echo_item(rng, weights)
        if item in KITTENS + PEOPLE:
            found["name"] += 1
        elif item in VALUES and item not in PEOPLE:
            found["word"] += 1
        elif item.isdigit():
            found["number"] += 1
            assert 0 <= int(item) <= 999
        elif re.fullmatch(r"\d{2,3}[+-]\d{1,3}", item):
            found["sum"] += 1
        else:
            found["made up"] += 1
            assert MADE_UP.fullmatch(item)
    names, values, small, large, sums, made_up = (share / 27 for share in shares)
    people = values * len(PEOPLE) / len(VALUES)  # the values that are the name of a person
    expected = {"name": names + people, "word": values - people, "number": small + large}
    expected |= {"sum": sums, "made up": made_up}
    assert found.keys() == expected.keys() and math.isclose(sum(expected.values()), 1.0)
    for kind, share in expected.items():
        error = math.sqrt(draws * share * (1 - share))
        assert abs(found[kind] - draws * share) < 4 * error, kind


def test_an_item_is_asked_with_the_weights_of_the_exam():
    assert echo_item(random.Random(9)) == echo_item(random.Random(9), ITEM_WEIGHTS)
    asked = echoes.echo_items(random.Random(9), 30, 30)
    assert asked == echoes.echo_items(random.Random(9), 30, 30, ITEM_WEIGHTS)
    assert asked != echoes.echo_items(random.Random(9), 30, 30, PRACTICE_WEIGHTS)


@pytest.mark.parametrize("shape", echoes.SHAPES)
def test_an_echo_says_the_same_thing_again(shape):
    """Cut at the words that stand between, what was said is what is said again, each time."""
    rng = random.Random(3)
    numbers_of_items, made_up, said = set(), 0, 0
    for _ in range(300):
        text = echoes.shaped(shape, rng)
        between = [part for part in re.split(r"\{said\}", echoes.SHAPES[shape]) if part]
        pattern = "(.+)".join(re.escape(part).replace(r"\{p\}", r"\w+") for part in between)
        pattern += "" if echoes.SHAPES[shape].endswith(between[-1]) else "(.+)"
        first, *again = re.fullmatch(pattern, text).groups()
        assert len(again) >= 2 and set(again) == {first}
        if ";" not in first and "{" not in first:
            numbers_of_items.add(len(first.split()))
            said += len(first.split())
            made_up += sum(bool(MADE_UP.fullmatch(item)) for item in first.split())
    assert numbers_of_items == set(range(1, PRACTICE_ITEMS + 1))
    share = 4 / 27
    assert abs(made_up - said * share) < 4 * math.sqrt(said * share * (1 - share))


def test_half_of_the_copies_are_code():
    rng = random.Random(4)
    copies = [echoes.shaped("copy", rng) for _ in range(400)]
    code = sum(";" in text for text in copies)
    assert abs(code - 200) < 40
    rng = random.Random(5)
    others = [echoes.shaped(shape, rng) for shape in echoes.SHAPES for _ in range(50)]
    assert not any(";" in text for text in others if not text.startswith("Copy this"))


def test_every_shape_comes_up():
    rng = random.Random(6)
    texts = [echoes.echo_text(rng) for _ in range(600)]
    for shape in echoes.SHAPES.values():
        between = shape.split("{said}")[1].split("{p}")[-1]  # the first and the second time
        found = sum(between in text for text in texts)
        assert abs(found - 100) < 4 * math.sqrt(600 * 1 / 6 * 5 / 6), shape
