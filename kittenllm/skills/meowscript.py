"""MeowScript, a tiny language of our own: text becomes tokens, tokens a tree, and the tree is run.

One idea: a program is understood before it is run. The *parser* only asks "what is this?" and
builds a tree; the *machine* walks through the tree and does what stands there. Every mistake ends
as a `MeowError` with line and column, and every program ends: its length, its steps and its
numbers are bounded. The whole language on one page: chapters/ch1_language/MEOWSCRIPT.md.

    run("let x = 2; repeat 3 { let x = x*2; } purr x;")          ["16"]

Read before: nothing; meowscript_format.py writes trees back as text. Left out: functions, input.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from operator import add, eq, gt, lt, mul, sub
from typing import NamedTuple

MOST_TOKENS, MOST_STEPS, MOST_DIGITS = 300, 5_000, 9  # of a program, of a run, of a number
STATEMENTS = ("let", "purr", "repeat", "if")
KINDS = ("space", "number", "name", "text", "mark", "end", "unknown")
PIECES = re.compile(r'(\s+)|([0-9]+)|([A-Za-z]+)|("[^"\n]*"?)|(==|[-+*=<>;{}()])|(\Z)|(.)')
SIGNS = {"<": lt, ">": gt, "==": eq, "+": add, "-": sub, "*": mul}
STRENGTH = {"<": 1, ">": 1, "==": 1, "+": 2, "-": 2, "*": 3}  # the stronger sign is done first


class MeowError(Exception):
    """A mistake in a program; the message says where, counted from 1, and what."""

    def __init__(self, message: str, token: "Token"):
        super().__init__(f"line {token.line}, column {token.column}: {message}")
        self.line, self.column = token.line, token.column


class Token(NamedTuple):
    """A piece of the text and where it begins. Marks and keywords are kinds of their own."""

    kind: str
    text: str
    line: int
    column: int


class Node(NamedTuple):
    """A piece of the tree, named by its token.

    7  x  "meow"           no parts
    +  -  *  <  >  ==      left, right
    let                    value, name
    purr                   value
    repeat                 count, block
    if                     value, block, and perhaps a second block
    {  start               the statements of a block, of the program
    """

    token: Token
    parts: "tuple[Node, ...]" = ()


def tokens_of(source: str) -> list[Token]:
    """Cuts a program into tokens. Raises MeowError."""
    tokens = [Token("start", "start", 1, 1)]
    for match in PIECES.finditer(source):
        assert match.lastindex is not None  # the group that has matched
        text, start, kind = match[0], match.start(), KINDS[match.lastindex - 1]
        kind = text if kind == "mark" or text in (*STATEMENTS, "else") else kind
        line, column = source.count("\n", 0, start) + 1, start - source.rfind("\n", 0, start)
        token = Token(kind, text or "the end", line, column)
        if kind == "unknown" or text.count('"') == 1:
            raise MeowError(f"cannot read {text[:20]!r}", token)
        if len(tokens) > MOST_TOKENS or (kind == "number" and len(text) > MOST_DIGITS):
            raise MeowError(f"more than {MOST_TOKENS} tokens or {MOST_DIGITS} digits", token)
        if kind != "space":
            tokens.append(token)
    return tokens


class Parser:
    """Reads the tokens from left to right; each method reads what it is named after."""

    def __init__(self, source: str):
        self.tokens, self.place = tokens_of(source), 0  # place: which token comes next

    def sees(self, *wanted: str) -> bool:
        """Is the next token of one of these kinds?"""
        return self.tokens[self.place].kind in wanted

    def take(self, *wanted: str) -> Token:
        """The next token, which must be of one of these kinds. Raises MeowError."""
        token, before = self.tokens[self.place], self.tokens[self.place - 1]
        if token.kind in wanted:
            self.place += 1
            return token
        hints = [f", do you mean {near}?" for near in get_close_matches(token.text, wanted, 1)]
        if not wanted[0].isalpha():  # a mark is missing right behind the token before
            token = token._replace(line=before.line, column=before.column + len(before.text))
        found = token.text[:20] + "".join(hints)
        raise MeowError(f"expected {' or '.join(wanted)}, found {found}", token)

    def block(self, first: str = "{", last: str = "}") -> Node:
        """{ statements }"""
        token, statements = self.take(first), []
        while not self.sees(last, "end"):
            statements.append(self.statement())
        self.take(last)
        return Node(token, tuple(statements))

    def statement(self) -> Node:
        """One let, purr, repeat or if."""
        word, parts = self.take(*STATEMENTS), []
        if word.kind == "let":
            parts = [Node(self.take("name"))]
            self.take("=")
        is_text = word.kind == "purr" and self.sees("text")
        parts.insert(0, Node(self.take("text")) if is_text else self.calculation())
        if word.kind in ("let", "purr"):
            self.take(";")
        else:
            parts.append(self.block())
        if word.kind == "if" and self.sees("else") and self.take("else"):
            parts.append(self.block())
        return Node(word, tuple(parts))

    def calculation(self, strength: int = 0) -> Node:
        """Numbers, names and (calculations), with signs stronger than `strength` between them."""
        if self.sees("("):
            self.take("(")
            left = self.calculation()
            self.take(")")
        else:
            left = Node(self.take("number", "name"))
        while STRENGTH.get(self.tokens[self.place].kind, 0) > strength:
            sign = self.take(*SIGNS)
            left = Node(sign, (left, self.calculation(STRENGTH[sign.kind])))
        return left


def parse(source: str) -> Node:
    """A program as a tree. Raises MeowError."""
    return Parser(source).block("start", "end")


class Machine:
    """Carries out a tree. `names` holds the value of every name, `printed` what was purred.

    `watch(node, value, names)` is told what is about to be carried out, with the value that a
    statement depends on (None for a block).
    """

    def __init__(self, watch):
        self.names, self.printed, self.steps, self.watch = {}, [], 0, watch

    def value(self, node: Node) -> int | str:
        """What a text or a calculation is; a comparison is 1 or 0. Raises MeowError."""
        token = node.token
        if node.parts:
            result = int(SIGNS[token.kind](*map(self.value, node.parts)))
            if abs(result) >= 10**MOST_DIGITS:
                raise MeowError(f"the result has more than {MOST_DIGITS} digits", token)
            return result
        if token.kind != "name":
            return int(token.text) if token.kind == "number" else token.text.strip('"')
        if token.text not in self.names:
            raise MeowError(f"{token.text[:20]} has no value yet", token)
        return self.names[token.text]

    def run(self, node: Node) -> None:
        """Carries out one statement or all of a block, a step each. Raises MeowError."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise MeowError(f"stopped after {MOST_STEPS} steps", node.token)
        kind, parts = node.token.kind, node.parts
        inside: Iterable[Node] = ()
        value = self.value(parts[0]) if kind in STATEMENTS else None
        self.watch(node, value, self.names)
        if kind == "let":
            self.names[parts[1].token.text] = value
        elif kind == "purr":
            self.printed.append(str(value))
        elif kind == "if":
            inside = parts[1:2] if value else parts[2:]
        elif kind == "repeat":
            assert isinstance(value, int)  # only purr takes a text
            inside = (parts[1] for _ in range(value))
        else:
            inside = parts
        for statement in inside:
            self.run(statement)


def run(source: str, watch=lambda node, value, names: None) -> list[str]:
    """Runs a program and returns what it printed, one text for each purr. Raises MeowError."""
    machine = Machine(watch)
    machine.run(parse(source))
    return machine.printed
