"""Predict, then run: a question, your guess, and the package computes the answer before your eyes.

python -m chapters.quiz                      all 40 questions, chapter by chapter
python -m chapters.quiz --chapter ch3_ppo    those of one chapter
python -m chapters.quiz --language zh        in Chinese
python -m chapters.quiz --answers            no questions asked: everything with its answer

Type the number of your choice. Enter alone gives up on a question, q ends the quiz. No answer is
stored anywhere: the few lines of code under it are run, and the choice that fits is the right one.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence

import torch

from chapters.common.runner import exit_code
from chapters.common.terminal import fold, make_output_forgiving, safe_text
from chapters.quiz import cards_ch0, cards_ch1, cards_ch2, cards_ch3, cards_ch4, cards_ch5
from chapters.quiz.card import LANGUAGES, Card, shown_result
from kittenllm.door import Parser, nearest

DECKS = [file.deck for file in (cards_ch0, cards_ch1, cards_ch2, cards_ch3, cards_ch4, cards_ch5)]
CARDS = [card for deck in DECKS for card in deck]
CHAPTERS = [deck.chapter for deck in DECKS]

WORDS = {  # what the program itself says: English, Chinese
    "guess": (
        "Your guess (1-{}; Enter: give up, q: stop)",
        "你猜哪个（1-{}；回车：放弃，q：结束）",
    ),
    "again": ("A number from 1 to {}, please.", "请输入 1 到 {} 的数字。"),
    "run": ("The package computes:", "让代码来算："),
    "right": ("Right!", "对了！"),
    "wrong": ("No, it is {}.", "不对，是 {}。"),
    "is": ("It is {}.", "是 {}。"),
    "score": ("{} of {} right.", "{} / {} 题答对。"),
    "read": ("Read again: chapters/{}/lesson.md", "再读一遍：chapters/{}/lesson.md"),
}


def say(key: str, language: str, *values: object) -> str:
    """A sentence of the program itself."""
    return WORDS[key][LANGUAGES.index(language)].format(*values)


# ------------------------------------------------------------------------------ on the screen


def screen_width() -> int:
    """Columns to write in: those of the terminal, from 30 to 80."""
    return max(30, min(80, shutil.get_terminal_size((80, 24)).columns))


def card_text(card: Card, number: str, language: str, width: int) -> str:
    """The question and its numbered choices."""
    lines = [f"[{number}] {card.chapter}", fold(card.question(language), width)]
    for place, choice in enumerate(card.choices, start=1):
        lines.append(fold(choice.text(language), width, first=f"  {place}  ", indent="     "))
    return "\n".join(lines)


def computed_text(card: Card, result: object, language: str, width: int) -> str:
    """The code, line by line, and what it gave."""
    lines = [say("run", language)]
    for line in card.code().splitlines():
        deeper = " " * (len(line) - len(line.lstrip()) + 6)
        lines.append(fold(line.lstrip(), width, first=deeper[:-4], indent=deeper))
    return "\n".join([*lines, fold(shown_result(result), width, first="  -> ", indent="     ")])


# ------------------------------------------------------------------------------------- the quiz


def ask(card: Card, language: str) -> int | None:
    """The place of the chosen answer, from 0; None for Enter. Raises: EOFError for q."""
    while True:
        typed = input(f"{say('guess', language, len(card.choices))}: ").strip().lower()
        if typed == "q":
            raise EOFError
        if not typed:
            return None
        if typed.isascii() and typed.isdigit() and 1 <= int(typed[:4]) <= len(card.choices):
            return int(typed) - 1
        print(say("again", language, len(card.choices)))


def play(cards: Sequence[Card], language: str, *, answers: bool) -> dict[str, list[bool]]:
    """Card after card -> chapter -> which of its guesses were right. Ends at q or at the end of
    what is typed."""
    width = screen_width()
    guesses: dict[str, list[bool]] = {}
    for number, card in enumerate(cards, start=1):
        print("\n" + card_text(card, f"{number}/{len(cards)}", language, width))
        guess = None
        if not answers:
            try:
                guess = ask(card, language)
            except (EOFError, KeyboardInterrupt):
                print()
                break
        result, right = card.answer()
        print(computed_text(card, result, language, width))
        shown = f"{right + 1}: {card.choices[right].text(language)}"
        if answers:
            verdict = say("is", language, shown)
        else:
            verdict = say("right" if guess == right else "wrong", language, shown)
            guesses.setdefault(card.chapter, []).append(guess == right)
        print(fold(f"{verdict} {card.reason(language)}", width))
    return guesses


def result_text(guesses: dict[str, list[bool]], language: str) -> str:
    """How many were right, and the lesson of the chapter in which most were wrong."""
    everything = [hit for hits in guesses.values() for hit in hits]
    lines = ["", say("score", language, sum(everything), len(everything))]
    if everything and not all(everything):
        worst = min(guesses, key=lambda chapter: sum(guesses[chapter]) / len(guesses[chapter]))
        lines.append(say("read", language, worst))
    return "\n".join(lines)


def chapter_name(text: str) -> str:
    """A chapter of the quiz; "ch3" and "ppo" are understood.  Raises: ArgumentTypeError."""
    near = [name for name in CHAPTERS if text and text.lower() in name]
    if len(near) == 1:
        return near[0]
    meant = nearest(text, CHAPTERS)
    hint = f"did you mean {meant}?" if meant else f"there are {', '.join(CHAPTERS)}"
    raise argparse.ArgumentTypeError(f"no questions about {safe_text(text)!r}: {hint}")


def quiz(argv: Sequence[str] | None = None) -> None:
    """The whole program."""
    parser = Parser(
        prog="python -m chapters.quiz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--chapter", type=chapter_name, help="only the questions of this chapter")
    add("--language", choices=LANGUAGES, default="en", help="en or zh (default: en)")
    add("--answers", action="store_true", help="ask nothing, show everything")
    options = parser.parse_args(argv)
    make_output_forgiving()
    torch.set_num_threads(1)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # letters that are no UTF-8 end nothing
    cards = [card for card in CARDS if options.chapter in (None, card.chapter)]
    guesses = play(cards, options.language, answers=options.answers)
    if not options.answers:
        print(result_text(guesses, options.language))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: quiz(argv))


if __name__ == "__main__":
    sys.exit(main())
