"""The drill of saying after, and how it is mixed into the conversations with tools."""

import math
import random
import re
from collections import Counter

import pytest

from chapters.ch1_language import story as ch1_language
from chapters.ch1_tools.story import tool_chat
from chapters.common.mixing import echo, with_echoes
from kittenllm.kitten_town import echoes
from kittenllm.kitten_town.echoes import MOST_ITEMS, TIMES, VALUES, echo_chat, echo_item
from kittenllm.kitten_town.facts import KITTENS, PEOPLE
from kittenllm.kitten_town.meow_tasks import draw_code, is_held_out
from kittenllm.skills.meowscript import parse


def test_an_echo_says_three_times_what_was_asked():
    rng = random.Random(0)
    for _ in range(300):
        question, answer = echo_chat(rng)
        assert (question["role"], answer["role"]) == ("user", "assistant")
        said = question["content"].removeprefix("Say three times: ")
        assert said != question["content"] and 1 <= len(said.split()) <= MOST_ITEMS
        assert answer["content"] == " ".join([f"{said}."] * TIMES)


def test_items_are_names_words_numbers_sums_and_made_up_words():
    """Six, six and six in 21 choices; one each for large numbers, sums and made-up words."""
    rng = random.Random(1)
    found = Counter()
    for _ in range(2100):
        item = echo_item(rng)
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
            syllables = "|".join(echoes.SYLLABLES)
            assert re.fullmatch(f"({syllables}){{2,3}}", item)
    # A value in five, and more exactly 12 of 66, is the name of a person.
    people = 600 * len(PEOPLE) / len(VALUES)
    expected = {"name": 600 + people, "word": 600 - people, "number": 700, "sum": 100}
    for kind, count in (expected | {"made up": 100}).items():
        assert abs(found[kind] - count) < 4 * math.sqrt(count), kind


@pytest.mark.parametrize("shape", echoes.SHAPES)
def test_an_echo_says_the_same_thing_again(shape):
    """Cut at the words that stand between, what was said is what is said again, each time."""
    rng = random.Random(3)
    numbers_of_items = set()
    for _ in range(300):
        text = echoes.shaped(shape, rng)
        between = [part for part in re.split(r"\{said\}", echoes.SHAPES[shape]) if part]
        pattern = "(.+)".join(re.escape(part).replace(r"\{p\}", r"\w+") for part in between)
        pattern += "" if echoes.SHAPES[shape].endswith(between[-1]) else "(.+)"
        first, *again = re.fullmatch(pattern, text).groups()
        assert len(again) >= 2 and set(again) == {first}
        if ";" not in first and "{" not in first:
            numbers_of_items.add(len(first.split()))
    assert numbers_of_items == set(range(1, 7))


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
        assert 60 < found < 140, shape  # 100 of each


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
