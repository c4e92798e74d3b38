"""What the kitten reads about Countdown before RL: sums, comparisons, and scribbled attempts.

One idea: RL can only make likelier what a model already does now and then. These texts show every
single skill of the game, but never how long to go on: a scribble gives up with probability 1/2
after each failed attempt. To go on is what RL has to find.

    attempt    3*5=15 left 8,15+8=23 vs 19 no
    scribble   use 3, 5, 8 make 19: 3*5=15 left 8,15+8=23 vs 19 no wait 3*5=15 left 8,15-8=7 vs 19
               no so 3*5=15,15-8=7.                       it gave up: its answer is its last attempt

Why attempts look like this, for a reader with three layers and 128 channels:
  * " left 8" names the number not used yet before it is needed, so that none is used twice.
  * "23 vs 19 no" puts result and target side by side; the comparison drills show the same, half of
    them equal, because in scribbles "yes" is rare and would be learned last.
  * Every attempt has the same 18 tokens, 20 with " wait ". What an attempt needs from the one
    before, and what the answer needs from the last attempt, stands at a fixed distance.
  * The answer is always the last attempt, hit or not: one rule to learn, and the format stays right
    when the kitten gives up. Only "go on or stop" then decides about the reward.
  * Attempts follow a *lap* through all chains, from a random start. Each next attempt can be read
    off the one before (same numbers with the next operators, or the numbers moved on by one), so no
    chain is tried twice. Eight attempts fit into a reply; a lap has at most ten.

Read before: countdown.py. Left out: attempts with mistakes, and clever guesses. The first attempt
is uniform over the lap, so it hits as often as chance: about 13 in 100.
"""

import random
from collections.abc import Collection, Mapping
from typing import NamedTuple

from kittenllm.kitten_town.countdown import (
    LARGEST_VALUE,
    OPERATOR_PAIRS,
    TRIPLES,
    Chain,
    Problem,
    Triple,
    calculate,
    draw_problem,
    make_chain,
)

MAX_ATTEMPTS = 8  # 20 tokens each and 14 around them: 174 of the 192 tokens of a reply
LAP_OPERATORS = (
    ("+", "+"),
    ("*", "+"),
    ("*", "-"),
    ("+", "-"),
)  # the order inside a lap
WAIT = " wait "  # stands between two attempts
ORDERS = ("lap", "shuffle")

# Shares of the documents that `drills` returns; all have 45-65 tokens on average.
DRILL_SHARES = {"scribbles": 0.5, "sums": 0.2, "comparisons": 0.15, "lefts": 0.15}
SUMS_PER_DRILL = 8
COMPARISONS_PER_DRILL = 10
LEFTS_PER_DRILL = 3


class Scribble(NamedTuple):
    """One problem with the thinking about it; `think` and `answer` go between their tags."""

    problem: Problem
    think: str
    answer: str
    attempts: int
    hit: bool

    @property
    def line(self) -> str:
        """The scribble as plain text, without special tokens, for pretraining."""
        return f"{self.problem.prompt}: {self.think} so {self.answer}."


def attempt_text(chain: Chain, target: int) -> str:
    """One attempt: the chain, the number left after its first step, and the comparison."""
    verdict = "yes" if chain.second.result == target else "no"
    left_over = chain.second.right
    return f"{chain.first.text} left {left_over},{chain.second.text} vs {target} {verdict}"


def lap(numbers: Triple) -> list[Chain]:
    """Every chain of the three numbers once, in an order that is easy to follow.

    x+y+z, then for (x, y) left z, for (y, z) left x and for (z, x) left y: x*y+z, x*y-z, x+y-z.
    Left out are chains below 0, and those that equal numbers would repeat. At most ten chains.
    """
    x, y, z = numbers
    chains: list[Chain] = []
    seen: set[tuple[tuple[str, str], int]] = set()
    for turned in ((x, y, z), (y, z, x), (z, x, y)):
        for operators in LAP_OPERATORS:
            chain = make_chain(turned, operators)
            left_over = 0 if operators == ("+", "+") else turned[2]  # x+y+z needs only one order
            if chain is not None and (operators, left_over) not in seen:
                seen.add((operators, left_over))
                chains.append(chain)
    return chains


def order_chains(numbers: Triple, rng: random.Random, order: str) -> list[Chain]:
    """All chains in the order in which a scribble tries them; each may be the first.

    "lap" starts anywhere in the lap and goes round; "shuffle" is any order. Both repeat nothing.

    Raises: ValueError for another order.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    chains = lap(numbers)
    if order == "shuffle":
        return rng.sample(chains, len(chains))
    start = rng.randrange(len(chains))
    return chains[start:] + chains[:start]


def scribble(
    problem: Problem,
    rng: random.Random,
    *,
    give_up: float = 0.5,
    max_attempts: int = MAX_ATTEMPTS,
    order: str = "lap",
) -> Scribble:
    """Try chains until one hits, or until the kitten gives up.

    `give_up` is the probability of stopping after each failed attempt, 0 to 1. A hit is always
    seen and always ends the thinking. The answer is the last attempt.

    Raises: ValueError for a `give_up` outside [0, 1], no attempts, or an unknown order.
    """
    if not 0.0 <= give_up <= 1.0:
        raise ValueError(f"give_up is a probability, 0 to 1, got {give_up}")
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
    tried: list[Chain] = []
    hit = False
    for chain in order_chains(problem.numbers, rng, order)[:max_attempts]:
        tried.append(chain)
        hit = chain.second.result == problem.target
        if hit or rng.random() < give_up:
            break
    think = WAIT.join(attempt_text(chain, problem.target) for chain in tried)
    return Scribble(problem, think, tried[-1].text, len(tried), hit)


def sums(rng: random.Random, count: int = SUMS_PER_DRILL) -> str:
    """`count` lines with one sum each, such as "7+8=15", "3*8=24" or "24-5=19".

    One third are first steps of a chain, two thirds second steps: those have more to learn.
    """
    lines: list[str] = []
    while len(lines) < count:
        x, y, z = (rng.randint(1, 9) for _ in range(3))
        first_operator, second_operator = rng.choice(OPERATOR_PAIRS)
        left, operator, right = x, first_operator, y
        if rng.random() < 2 / 3:
            left, operator, right = calculate(x, first_operator, y), second_operator, z
        result = calculate(left, operator, right)
        if 0 <= result <= LARGEST_VALUE:
            lines.append(f"{left}{operator}{right}={result}")
    return "\n".join(lines)


def comparisons(rng: random.Random, count: int = COMPARISONS_PER_DRILL) -> str:
    """`count` lines such as "33 vs 37 no" and "8 vs 8 yes"; half of them, by chance, are equal."""
    lines: list[str] = []
    for _ in range(count):
        number = rng.randint(0, LARGEST_VALUE)
        if rng.random() < 0.5:
            lines.append(f"{number} vs {number} yes")
        else:
            shift = rng.randint(1, LARGEST_VALUE)  # never 0 modulo 100, so never the same number
            other = (number + shift) % (LARGEST_VALUE + 1)
            lines.append(f"{number} vs {other} no")
    return "\n".join(lines)


def training_triples(held_out_triples: Collection[Triple]) -> list[Triple]:
    """The triples that a text may use."""
    held_out = set(held_out_triples)
    return [triple for triple in TRIPLES if triple not in held_out]


def lefts(
    rng: random.Random,
    held_out_triples: Collection[Triple],
    count: int = LEFTS_PER_DRILL,
    *,
    largest: int = 9,
) -> str:
    """`count` lines such as "use 3, 8, 5: 8*5=40 left 3": copy two numbers, name the third.

    The numbers go round as they do in a lap: after the last told number comes the first. With a
    `largest` above 9, half of the lines hold a number from 10 to that. No problem of the game has
    one, so what is copied there cannot be known by heart.
    """
    triples = training_triples(held_out_triples)
    lines: list[str] = []
    while len(lines) < count:
        numbers = rng.sample(rng.choice(triples), 3)
        if largest > 9 and rng.random() < 0.5:
            numbers[rng.randrange(3)] = rng.randint(10, largest)
        told = ", ".join(str(number) for number in numbers)
        start = rng.randrange(3)
        x, y, z = numbers[start:] + numbers[:start]
        operator = rng.choice("*+")
        result = calculate(x, operator, y)
        if result <= LARGEST_VALUE:
            lines.append(f"use {told}: {x}{operator}{y}={result} left {z}")
    return "\n".join(lines)


def drills(
    rng: random.Random,
    held_out_triples: Collection[Triple],
    *,
    shares: Mapping[str, float] = DRILL_SHARES,
    give_up: float = 0.5,
    order: str = "lap",
    largest_left: int = 9,
) -> str:
    """One document for pretraining: a scribble, or a few lines of one kind of drill.

    `shares` holds the weight of each kind; kinds that it leaves out do not come. No line uses one
    of the held-out triples. `largest_left` is the largest number of `lefts`.

    Raises: ValueError for an unknown kind, a negative weight, or weights that are all 0.
    """
    unknown = set(shares) - set(DRILL_SHARES)
    if unknown:
        raise ValueError(f"shares knows {tuple(DRILL_SHARES)}, got {sorted(unknown)}")
    if min(shares.values(), default=0.0) < 0 or sum(shares.values()) == 0:
        raise ValueError(f"shares must be at least 0 and not all 0, got {dict(shares)}")
    kind = rng.choices(list(shares), weights=list(shares.values()))[0]
    if kind == "sums":
        return sums(rng)
    if kind == "comparisons":
        return comparisons(rng)
    if kind == "lefts":
        return lefts(rng, held_out_triples, largest=largest_left)
    problem = draw_problem(rng, training_triples(held_out_triples))
    return scribble(problem, rng, give_up=give_up, order=order).line
