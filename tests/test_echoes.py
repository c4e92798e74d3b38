"""The drill of saying after, and how it is mixed into the conversations with tools."""

import random
import re

from chapters.ch1_language import story as ch1_language
from chapters.ch1_tools.story import tool_chat
from chapters.common.mixing import echo, with_echoes
from kittenllm.kitten_town.echoes import MOST_ITEMS, TIMES, echo_chat, echo_item
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


def test_items_are_names_numbers_and_sums():
    rng = random.Random(1)
    found = {"name": 0, "number": 0, "sum": 0}
    for _ in range(800):
        item = echo_item(rng)
        if item in KITTENS + PEOPLE:
            found["name"] += 1
        elif item.isdigit():
            found["number"] += 1
            assert 10 <= int(item) <= 999
        else:
            found["sum"] += 1
            assert re.fullmatch(r"\d{2,3}[+-]\d{1,3}", item)
    assert 320 < found["name"] < 480  # a half: one choice in four for kittens, one for people
    assert 140 < found["number"] < 260 and 140 < found["sum"] < 260


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
