"""A calculator that reads its sums by itself: no `eval`, nothing to break into, always an end.

One idea: a grammar, one function per rule, each of which reads its part of the text and says where
it stopped. What is not in the grammar cannot be written, so a text can only ever be a sum.

    sum      = product, then any number of  + product  or  - product
    product  = factor, then any number of   * factor   or  / factor
    factor   = number  or  ( sum )  or  - factor

Text, depth and results are bounded, so the time is, too.

Read before: nothing. Left out: fractions (a division has to come out even), powers, functions.
"""

import re

MAX_CHARACTERS = 60
MAX_DEPTH = 10  # of brackets and minus signs inside each other
MAX_VALUE = 10**12

PIECE = re.compile(r"[0-9]+|[-+*/()]")


class CalculatorError(ValueError):
    """A sum that cannot be calculated; the message is for whoever wrote the sum."""


def calculate(text: str) -> int:
    """The value of a sum of whole numbers.

    >>> calculate("237+48"), calculate("2*(3-10)"), calculate("-8/4")
    (285, -14, -2)

    Raises: CalculatorError for anything but a sum, for a division by zero or one that does not come
    out even, for a text or a number that is too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise CalculatorError(f"a sum has at most {MAX_CHARACTERS} characters, not {len(text)}")
    compact = text.replace(" ", "")
    pieces = PIECE.findall(compact)
    if not pieces or "".join(pieces) != compact:
        raise CalculatorError("only numbers, + - * / and ( ) can be calculated")
    value, end = _sum(pieces, 0, 0)
    if end < len(pieces):
        raise CalculatorError(f"an operator is missing before {pieces[end]}")
    return value


def _sum(pieces: list[str], start: int, depth: int) -> tuple[int, int]:
    """Read a sum from pieces[start] on -> (its value, the place behind it)."""
    value, place = _product(pieces, start, depth)
    while place < len(pieces) and pieces[place] in "+-":
        operator = pieces[place]
        right, place = _product(pieces, place + 1, depth)
        value = _bounded(value + right if operator == "+" else value - right)
    return value, place


def _product(pieces: list[str], start: int, depth: int) -> tuple[int, int]:
    value, place = _factor(pieces, start, depth)
    while place < len(pieces) and pieces[place] in "*/":
        operator = pieces[place]
        right, place = _factor(pieces, place + 1, depth)
        value = _bounded(value * right) if operator == "*" else _divide(value, right)
    return value, place


def _factor(pieces: list[str], start: int, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        raise CalculatorError(f"more than {MAX_DEPTH} brackets or signs inside each other")
    if start == len(pieces):
        raise CalculatorError("the sum ends too early")
    piece = pieces[start]
    if piece == "-":
        value, place = _factor(pieces, start + 1, depth + 1)
        return -value, place
    if piece == "(":
        value, place = _sum(pieces, start + 1, depth + 1)
        if place == len(pieces) or pieces[place] != ")":
            raise CalculatorError("a bracket is not closed")
        return value, place + 1
    if piece.isdigit():
        return _bounded(int(piece)), start + 1
    raise CalculatorError(f"a number is missing before {piece}")


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise CalculatorError("nothing can be divided by zero")
    if left % right:
        raise CalculatorError(f"{left}/{right} does not come out even")
    return left // right


def _bounded(value: int) -> int:
    if abs(value) > MAX_VALUE:
        raise CalculatorError("the number is too large")
    return value
