"""Saying after: the drill that teaches a kitten to copy what it has just read.

One idea: a tool is only useful to whoever can copy numbers and names from a question into a call,
and from a result into an answer. Copying is a skill of attention ("find where this token stood
before, and say what stood behind it": an induction head, Olsson et al. 2022, arXiv 2209.11895), and
it grows fastest on text that is nothing else: names and numbers in no order, said three times.

    user       Say three times: Dusty 48 Pip
    assistant  Dusty 48 Pip. Dusty 48 Pip. Dusty 48 Pip.

Read before: facts.py. Left out: long lists; they are learned far more slowly than short ones.
"""

from __future__ import annotations

import random

from kittenllm.kitten_town.facts import KITTENS, PEOPLE

FEWEST_ITEMS, MOST_ITEMS = 1, 3
TIMES = 3


def echo_chat(rng: random.Random) -> list[dict[str, str]]:
    """Some names, numbers and sums, to be said three times, as messages."""
    items = " ".join(echo_item(rng) for _ in range(rng.randint(FEWEST_ITEMS, MOST_ITEMS)))
    return said_after(items, f"{items}.")


def said_after(asked: str, said: str) -> list[dict[str, str]]:
    """Somebody asks for something to be said three times, and hears it, as messages."""
    return [
        {"role": "user", "content": f"Say three times: {asked}"},
        {"role": "assistant", "content": " ".join([said] * TIMES)},
    ]


def echo_item(rng: random.Random) -> str:
    """A name, a number, or a sum."""
    number, other = rng.randint(10, 999), rng.randint(2, rng.choice((99, 999)))
    sum_ = f"{number}{rng.choice('+-')}{other}"
    return rng.choice((rng.choice(KITTENS), rng.choice(PEOPLE), str(number), sum_))
