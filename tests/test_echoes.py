"""The drill of saying after, and how it is mixed into the conversations with tools."""

import math
import random
import re
from collections import Counter

import pytest

from chapters.ch1_language import story as ch1_language
from chapters.ch1_tools.story import tool_chat
from chapters.common.kitten import echo, with_echoes
from kittenllm.kitten_town import echoes
from kittenllm.kitten_town.echoes import (
    ITEM_WEIGHTS,
    MOST_ITEMS,
    PRACTICE_ITEMS,
    PRACTICE_WEIGHTS,
    TIMES,
    VALUES,
    echo_chat,
    echo_item,
)
from kittenllm.kitten_town.facts import KITTENS, PEOPLE
from kittenllm.kitten_town.meow_tasks import draw_code, is_held_out
from kittenllm.skills.meowscript import parse

MADE_UP = re.compile(f"({'|'.join(echoes.SYLLABLES)}){{2,3}}")


def test_an_echo_says_three_times_what_was_asked():
    rng = random.Random(0)
    numbers_of_items = set()
    for _ in range(300):
        question, answer = echo_chat(rng)
        assert (question["role"], answer["role"]) == ("user", "assistant")
        said = question["content"].removeprefix("Say three times: ")
        assert said != question["content"]
        numbers_of_items.add(len(said.split()))
        assert answer["content"] == " ".join([f"{said}."] * TIMES)
    assert numbers_of_items == {1, 2, 3}  # in the chats; the exam asks up to MOST_ITEMS


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


def test_the_same_dice_make_the_same_drill():
    assert echo_chat(random.Random(2)) == echo_chat(random.Random(2))
    assert echo_chat(random.Random(2)) != echo_chat(random.Random(3))


def test_the_share_of_drills_is_the_setting(town_tokenizer):
    def count_of(fraction: float) -> int:
        made = with_echoes(tool_chat, echo, fraction)
        rng = random.Random(4)
        chats = [made(town_tokenizer, rng) for _ in range(200)]
        return sum("three times" in town_tokenizer.decode(chat.tokens) for chat in chats)

    assert count_of(0.0) == 0 and count_of(1.0) == 200
    assert 30 < count_of(0.25) < 75


def test_only_the_echo_is_trained(town_tokenizer):
    chat = echo(town_tokenizer, random.Random(5))
    trained = [t for t, mask in zip(chat.tokens, chat.loss_mask, strict=True) if mask]
    text = town_tokenizer.decode(trained)
    assert "Say" not in text and text.count(".") == TIMES and text.endswith("<|im_end|>")


def test_code_to_be_said_after_is_taught_code_that_can_be_read():
    rng = random.Random(6)
    codes = [draw_code(rng) for _ in range(300)]
    assert all(parse(code).parts and not is_held_out(code) for code in codes)
    lines = sum(len(parse(code).parts) == 1 for code in codes)
    assert 180 < lines < 270  # seven in ten, and the programs of one statement


def test_a_share_of_the_language_drill_is_code(town_tokenizer):
    rng = random.Random(7)
    chats = [ch1_language.echo(town_tokenizer, rng) for _ in range(300)]
    code = sum(";" in town_tokenizer.decode(chat.tokens) for chat in chats)
    assert 65 < code < 115  # three in ten
