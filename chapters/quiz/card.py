"""A card of the quiz: a question, its choices, and the computation that answers it.

No card knows its answer. `compute` is a few lines that call the package; every choice has a test of
the result, and the right choice is the one whose test passes. If the package changes, the answer
changes with it; a card on which no choice fits, or more than one, is an error.

Read before: nothing. Left out: the cards themselves, see the cards_ files beside this one.
"""

import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Choice:
    """What one can answer, in both languages, and when it is right."""

    en: str
    zh: str
    fits: Callable[[Any], bool]

    def text(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True)
class Card:
    """One question. `compute` takes nothing and returns what `choices` are tested with."""

    chapter: str
    en: str
    zh: str
    choices: tuple[Choice, ...]
    en_reason: str
    zh_reason: str
    compute: Callable[[], Any]

    @property
    def name(self) -> str:
        """The name of the computation: "lam_zero"."""
        return self.compute.__name__

    def question(self, language: str) -> str:
        return self.zh if language == "zh" else self.en

    def reason(self, language: str) -> str:
        return self.zh_reason if language == "zh" else self.en_reason

    def code(self) -> str:
        """The lines of the computation, as they are run."""
        lines = textwrap.dedent(inspect.getsource(self.compute)).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("def "))
        return textwrap.dedent("\n".join(lines[first + 1 :]))

    def answer(self) -> tuple[Any, int]:
        """The result, and the number of the choice that fits to it, from 0.

        Raises: AssertionError if not exactly one choice fits.
        """
        result = self.compute()
        fitting = [place for place, choice in enumerate(self.choices) if choice.fits(result)]
        assert len(fitting) == 1, f"{self.name}: {len(fitting)} choices fit to {result}"
        return result, fitting[0]


def number(value: float, *, text: str = "") -> Choice:
    """The choice of a number; right if the result is it, to three digits."""
    shown = text or f"{value:g}"
    return Choice(shown, shown, lambda result: math.isclose(float(result), value, abs_tol=6e-4))


def numbers(*values: float) -> tuple[Choice, ...]:
    """A choice for each number."""
    return tuple(number(value) for value in values)


def says(en: str, zh: str, fits: Callable[[Any], bool]) -> Choice:
    """A choice in words."""
    return Choice(en, zh, fits)


def shown_result(result: Any) -> str:
    """A result as a reader sees it: numbers rounded to three digits, lists of them as lists."""
    if hasattr(result, "tolist"):
        result = result.detach().tolist()
    if isinstance(result, float):
        return f"{result:.3f}".rstrip("0").rstrip(".")
    if isinstance(result, list | tuple):
        return "[" + ", ".join(shown_result(part) for part in result) + "]"
    return str(result)


class Deck(list[Card]):
    """The cards of one file; `@deck.card(...)` above a computation makes a card of it."""

    def __init__(self, chapter: str):
        super().__init__()
        self.chapter = chapter

    def card(
        self, *choices: Choice, en: str, zh: str, en_reason: str, zh_reason: str
    ) -> Callable[[Callable], Callable]:
        """The card of the function below."""

        def note(compute: Callable) -> Callable:
            self.append(Card(self.chapter, en, zh, choices, en_reason, zh_reason, compute))
            return compute

        return note
