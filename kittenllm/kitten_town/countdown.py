"""Countdown, the number game of the reasoning chapter: its problems, its chains and its checker.

One idea: a problem whose answers are hard to find but easy to check can be learned from a rule
alone, without a teacher who writes answers.

    problem   use 3, 5, 8 make 19       three numbers 1-9, each to be used exactly once
    chain     3*8=24,24-5=19            two steps, the second starts from the first one's result

A chain is `x*y` then `+z` or `-z`, or `x+y` then `+z` or `-z`, and no value leaves 0-99: two digits
are one token. A *triple* is the three numbers in rising order. Some triples reach few targets and
would make dull problems: under 5 they are left out. 144 triples and 1,131 problems remain, and
every fourth triple is held out: no training text and no training step ever uses it.

The numbers of a drawn problem stand in a random order. That helps the learner: "look at the second
number" works for every problem, while a rising order invites it to learn the 108 triples by heart.

The game is the one of TinyZero (Pan et al. 2025), which repeated DeepSeek-R1-Zero in small.
Read before: nothing. Left out: division, numbers above 9, chains of more than two steps.

Letters: x, y the numbers of the first step, z the number of the second.
"""

import random
import re
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

Triple = tuple[int, int, int]

LARGEST_VALUE = 99  # of any result: numbers up to here are single tokens
FEWEST_TARGETS = 5  # triples that reach fewer are left out
HELD_OUT_SHARE = 0.25
EXAM_SEED = 97  # every kitten takes the same exam
SPLIT_SEED = 2025  # fixes which triples are held out, in every run of the project
OPERATOR_PAIRS = (("*", "+"), ("*", "-"), ("+", "-"), ("+", "+"))

NUMBER = "(0|[1-9][0-9]?)"  # [0-9], because \d also matches the digits of other scripts
STEP = NUMBER + r"([*+-])" + NUMBER + "=" + NUMBER
CHAIN = re.compile(STEP + "," + STEP)


class Step(NamedTuple):
    """One step as it is written, `left operator right = result`, right or wrong."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def text(self) -> str:
        """For example "3*8=24"."""
        return f"{self.left}{self.operator}{self.right}={self.result}"


class Chain(NamedTuple):
    """Two steps as they are written, right or wrong."""

    first: Step
    second: Step

    @property
    def text(self) -> str:
        """For example "3*8=24,24-5=19", the form of an answer."""
        return f"{self.first.text},{self.second.text}"

    @property
    def numbers(self) -> Triple:
        """x, y, z: the numbers that the chain took from the problem."""
        return (self.first.left, self.first.right, self.second.right)


class Problem(NamedTuple):
    """Three numbers, in the order in which they are told, and what to make of them."""

    numbers: Triple
    target: int

    @property
    def prompt(self) -> str:
        """For example "use 3, 5, 8 make 19"."""
        x, y, z = self.numbers
        return f"use {x}, {y}, {z} make {self.target}"

    @property
    def triple(self) -> Triple:
        """The numbers in rising order."""
        return sorted_triple(self.numbers)


def sorted_triple(numbers: Sequence[int]) -> Triple:
    """The three numbers in rising order. Raises: ValueError unless they are three of 1-9."""
    if len(numbers) != 3 or any(number not in range(1, 10) for number in numbers):
        raise ValueError(f"a triple is three numbers from 1 to 9, got {tuple(numbers)}")
    smallest, middle, largest = sorted(numbers)
    return (smallest, middle, largest)


def calculate(left: int, operator: str, right: int) -> int:
    """Our own arithmetic: `eval` would run whatever a model writes.

    Raises: ValueError for an operator other than * + -.
    """
    if operator == "*":
        return left * right
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    raise ValueError(f"operator must be one of * + -, got {operator!r}")


def make_chain(numbers: Triple, operators: tuple[str, str]) -> Chain | None:
    """The chain of x, y, z with right arithmetic, or None if a value leaves 0-99.

    Raises: ValueError for a pair of operators that is no chain of this game.
    """
    if operators not in OPERATOR_PAIRS:
        raise ValueError(f"operators must be one of {OPERATOR_PAIRS}, got {operators}")
    x, y, z = numbers
    first_result = calculate(x, operators[0], y)
    second_result = calculate(first_result, operators[1], z)
    if not (0 <= first_result <= LARGEST_VALUE and 0 <= second_result <= LARGEST_VALUE):
        return None
    first = Step(x, operators[0], y, first_result)
    second = Step(first_result, operators[1], z, second_result)
    return Chain(first, second)


def reachable(triple: Sequence[int]) -> dict[int, list[Chain]]:
    """All targets that the three numbers can make, each with the chains that make it.

    x*y and y*x are one chain, written with the smaller number first. Targets in rising order.

    Raises: ValueError unless they are three numbers from 1 to 9.
    """
    a, b, c = sorted_triple(triple)
    orders = sorted({(a, b, c), (a, c, b), (b, c, a)})  # equal numbers give equal orders
    chains_of: dict[int, list[Chain]] = {}
    for numbers in orders:
        for operators in OPERATOR_PAIRS:
            chain = make_chain(numbers, operators)
            if chain is not None:
                chains_of.setdefault(chain.second.result, []).append(chain)
    return dict(sorted(chains_of.items()))


def find_triples() -> tuple[Triple, ...]:
    """All triples that reach at least FEWEST_TARGETS targets, in rising order."""
    every_triple = combinations_with_replacement(range(1, 10), 3)
    return tuple(t for t in every_triple if len(reachable(t)) >= FEWEST_TARGETS)


def split_triples(triples: Sequence[Triple], seed: int) -> tuple[tuple[Triple, ...], ...]:
    """(training, held out): the same split for the same seed, each part in rising order."""
    shuffled = list(triples)
    random.Random(seed).shuffle(shuffled)
    held_out_count = round(HELD_OUT_SHARE * len(shuffled))
    held_out = shuffled[:held_out_count]
    training = shuffled[held_out_count:]
    return tuple(sorted(training)), tuple(sorted(held_out))


TRIPLES = find_triples()
TRAINING_TRIPLES, HELD_OUT_TRIPLES = split_triples(TRIPLES, SPLIT_SEED)


def problems_of(triples: Iterable[Triple]) -> list[Problem]:
    """Every problem of these triples: each with each of its targets, numbers in rising order."""
    return [Problem(triple, target) for triple in triples for target in reachable(triple)]


def shuffle_numbers(problem: Problem, rng: random.Random) -> Problem:
    """The same problem with its numbers in a random order."""
    x, y, z = rng.sample(problem.numbers, 3)
    return Problem((x, y, z), problem.target)


def exam_problems() -> list[list[Problem]]:
    """All 283 problems of the held-out triples, each in one or two orders of its numbers."""
    rng = random.Random(EXAM_SEED)
    problems = problems_of(HELD_OUT_TRIPLES)
    rng.shuffle(problems)
    orders = [[shuffle_numbers(problem, rng) for _ in range(2)] for problem in problems]
    return [list(dict.fromkeys(order)) for order in orders]


def draw_problem(rng: random.Random, triples: Sequence[Triple]) -> Problem:
    """A triple, each equally likely, then one of its targets; the numbers in a random order.

    Raises: ValueError if there is no triple to draw.
    """
    if not triples:
        raise ValueError("triples must hold at least one triple, got none")
    triple = rng.choice(triples)
    target = rng.choice(list(reachable(triple)))
    return shuffle_numbers(Problem(triple, target), rng)


def parse_chain(text: str) -> Chain | None:
    """Read a chain such as "3*8=24,24-5=19"; None for any other text. Nothing is checked yet.

    Strict on purpose: ASCII digits, at most two of them, no leading zero, no space, nothing around.
    """
    found = CHAIN.fullmatch(text)
    if found is None:
        return None
    left, operator, right, result, next_left, next_operator, next_right, last = found.groups()
    first = Step(int(left), operator, int(right), int(result))
    second = Step(int(next_left), next_operator, int(next_right), int(last))
    return Chain(first, second)


def check_answer(answer_text: str, problem: Problem) -> bool:
    """True only for a chain that uses each number once, calculates right and hits the target.

    The chain that these numbers and operators make is written down afresh and must be the answer,
    so a wrong result or a second step that starts elsewhere cannot pass.
    """
    chain = parse_chain(answer_text)
    if chain is None:
        return False
    if sorted(chain.numbers) != sorted(problem.numbers):
        return False
    operators = (chain.first.operator, chain.second.operator)
    if operators not in OPERATOR_PAIRS:
        return False
    hits_target = chain.second.result == problem.target
    return hits_target and chain == make_chain(chain.numbers, operators)
