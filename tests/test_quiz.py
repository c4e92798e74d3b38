"""The quiz: every answer comes out of the package, both languages are whole, any screen will do."""

import io
import os
import re
from collections import Counter

import pytest
import torch

from chapters.common.terminal import columns, fold, one_line
from chapters.quiz import __main__ as quiz
from chapters.quiz.card import Card, Deck, number, shown_result
from kittenllm import dpo, ppo

CARDS = {card.name: card for card in quiz.CARDS}
LAM_ZERO = CARDS["lam_zero"]


def type_in(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))


def test_forty_questions_about_six_chapters():
    assert len(quiz.CARDS) == len(CARDS) == 40
    assert {card.chapter for card in quiz.CARDS} == set(quiz.CHAPTERS)
    assert min(Counter(card.chapter for card in quiz.CARDS).values()) >= 6


@pytest.mark.parametrize("name", CARDS)
def test_exactly_one_choice_fits_what_is_computed(name):
    card = CARDS[name]
    _, place = card.answer()
    assert 0 <= place < len(card.choices) and len(card.choices) in (2, 3, 4)


def test_the_right_choice_is_not_always_at_the_same_place():
    places = Counter(card.answer()[1] for card in quiz.CARDS)
    assert max(places.values()) <= 16 and len(places) == 4


@pytest.mark.parametrize("name", CARDS)
def test_both_languages_are_whole_and_the_numbers_are_the_same(name):
    card = CARDS[name]
    for text in (card.zh, card.zh_reason):
        assert re.search(r"[\u4e00-\u9fff]", text)
    for text in (card.en, card.en_reason):
        assert text.isascii()
    for choice in card.choices:
        assert choice.en and choice.zh
    assert sorted(set(re.findall(r"\d\.\d+", card.en))) == sorted(
        set(re.findall(r"\d\.\d+", card.zh))
    )
    assert len({choice.en for choice in card.choices}) == len(card.choices)


def test_the_answer_follows_the_package(monkeypatch):
    """If GAE were another, so would be the answer; a result that no choice fits is an error."""
    assert LAM_ZERO.choices[LAM_ZERO.answer()[1]].en == "the last"
    right = ppo.gae

    def always_one(*inputs, gamma, lam):
        return right(*inputs, gamma=gamma, lam=1.0)

    monkeypatch.setattr("chapters.quiz.cards_ch3.gae", always_one)
    assert LAM_ZERO.choices[LAM_ZERO.answer()[1]].en == "all three alike"
    monkeypatch.setattr("chapters.quiz.cards_ch4.dpo_loss", lambda *_, **__: (torch.ones(1) * 7,))
    with pytest.raises(AssertionError, match="dpo_at_the_start: 0 choices fit"):
        CARDS["dpo_at_the_start"].answer()
    assert dpo.dpo_loss is not None


def test_the_shown_code_is_what_runs():
    deck = Deck("ch0_base")

    @deck.card(number(1), number(2), en="1 + 1?", zh="1 + 1？", en_reason="so", zh_reason="是")
    def one_and_one():
        return 1 + 1

    (card,) = deck
    assert isinstance(card, Card) and card.name == "one_and_one"
    assert card.code() == "return 1 + 1" and card.answer() == (2, 1)


def test_results_are_rounded_for_the_eye():
    assert shown_result(0.1 + 0.2) == "0.3" and shown_result([0.5, 1.0]) == "[0.5, 1]"
    assert shown_result(torch.tensor([1 / 3])) == "[0.333]" and shown_result("mi") == "mi"


def test_a_round_of_one_chapter(monkeypatch, capsys):
    cards = [card for card in quiz.CARDS if card.chapter == "ch3_ppo"]
    right = [str(card.answer()[1] + 1) for card in cards]
    type_in(monkeypatch, "99", right[0], "", "no", *right[2:])
    assert quiz.main(["--chapter", "ppo"]) == 0
    screen = capsys.readouterr().out
    assert screen.count("A number from 1 to ") == 2
    assert screen.count("Right!") == len(cards) - 1
    assert f"{len(cards) - 1} of {len(cards)} right." in screen
    assert "chapters/ch3_ppo/lesson.md" in screen
    assert "advantages, _ = gae(AT_THE_END, values, THREE, gamma=1.0, lam=0.0)" in screen


@pytest.mark.parametrize("typed", [(), ("q",), ("\udce4",)])
def test_a_pipe_that_ends_is_a_quit(typed, monkeypatch, capsys):
    type_in(monkeypatch, *typed)
    assert quiz.main([]) == 0
    assert "0 of 0 right." in capsys.readouterr().out


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [30, 42, 80])
def test_every_card_fits_a_narrow_terminal(language, width, monkeypatch, capsys):
    monkeypatch.setattr(quiz.shutil, "get_terminal_size", lambda *_: os.terminal_size((width, 24)))
    assert quiz.main(["--answers", "--language", language]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(columns, lines)) <= width
    assert len(lines) > 400


def test_lines_are_folded_by_columns():
    assert columns("小猫 ok") == 7
    assert fold("one two three", 7) == "one two\nthree"
    assert fold("小猫小猫小猫", 8) == "小猫小猫\n小猫"
    assert fold("abcdefghij", 4, first="- ", indent="  ") == "- ab\n  cd\n  ef\n  gh\n  ij"
    assert fold("小猫小猫。", 8) == "小猫小\n猫。" and fold("小猫（猫）？", 10) == "小猫（\n猫）？"
    assert one_line("one\n  two\n") == "one two" and one_line("小猫\n 说 a\n b") == "小猫说 a b"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--chapter", "ch9"], "no questions about"),
        (["--chapter", ""], "no questions about"),
        (["--language", "fr"], "zh"),
    ],
)
def test_wrong_flags_are_one_line(flags, words, capsys):
    with pytest.raises(SystemExit):
        quiz.main(flags)
    screen = capsys.readouterr().err
    assert words in screen and screen.count("\n") == 1
