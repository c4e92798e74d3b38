"""Exercises in MeowScript: write a program, say what it prints, mend it, explain a line.

One idea: a generator that draws a *program* first can ask four different questions about it, and
knows the answer to each, because it can run the program. The same machine then grades: a program
counts as right when it runs and prints the right thing, whatever it looks like.

A program is held out or taught, never both, whatever is asked about it: the split goes by its
content without the names of its variables, so that `let a = 3;` and `let b = 3;` are on one side.

Read before: skills/meowscript.py, skills/meowscript_format.py. Left out: brackets, and calculations
with more than one sign, of which MeowScript could do more.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import product

from kittenllm.skills.meowscript import MeowError, Node, parse, run, tokens_of
from kittenllm.skills.meowscript_format import diary, format_program

KINDS = ("write", "output", "repair", "explain")
# Each name and each text is one token of the kitten's vocabulary: what is one token and always
# looks the same is copied easily. " x" would be two.
NAMES = "abcn"
TEXTS = ("Go", "Hmpf", "Leo", "Emma")
LARGEST_FIRST = 9  # first value of a name; also what it is compared with
LARGEST_STEP, LARGEST_FACTOR = 5, 3  # what is added or taken away; multiplied by
LARGEST_VALUE = 24  # of any result: sums that a kitten can practise
HELD_OUT_OF = 5  # every fifth program is held out

ORDERS = {
    "write": ("Please write: {words}.", "Can you write this? {words}."),
    "output": ("What does it say? {program}", "What will it say? {program}"),
    "repair": ("Please mend: {program}", "Find the bug: {program}"),
    "explain": ("Tell me about: {program}", "What does it do? {program}"),
}
PRINTS, MENDED = "It says ", "Mended: "  # what the checked part of a reply stands behind

TYPOS = {
    "let": ("lat", "lte"),
    "purr": ("prur",),
    "repeat": ("repat",),
    "if": ("fi",),
    "else": ("esle",),
}
WORDS_OF_SIGN = {"+": "plus", "-": "minus", "*": "times"}
OPPOSITE = {"+": "-", "-": "+"}
COMPARED = {"<": "is below", ">": "is above", "==": "is"}


@dataclass(frozen=True)
class Task:
    """One exercise.

    program   the right program, in one line (or the line to explain)
    text      what the kitten is asked
    reply     how a good kitten answers
    """

    kind: str
    program: str
    text: str
    reply: str

    @property
    def about(self) -> str:
        """The topic: the program, however it was broken or asked about."""
        return self.program

    def messages(self) -> list[dict[str, str]]:
        """The exercise and its answer as a conversation."""
        return [
            {"role": "user", "content": self.text},
            {"role": "assistant", "content": self.reply},
        ]


# -------------------------------------------------------------------------------------- programs


def draw_program(rng: random.Random) -> str:
    """A program of one to five statements that prints small numbers, or texts."""
    makers = (straight, two_names, sum_in_a_loop, prints_in_a_loop, speech, choice)
    (maker,) = rng.choices(makers, (3, 2, 2, 2, 1, 3))
    while True:
        program = format_program(maker(rng), one_line=True)
        try:
            printed = run(program)
        except MeowError:
            continue
        if all(text.isalpha() or 0 <= int(text) <= LARGEST_VALUE for text in printed):
            return program


def step(rng: random.Random, name: str, value: int) -> tuple[str, int]:
    """A calculation with `name`, whose value is `value`, and its result, 0 to LARGEST_VALUE."""
    while True:
        sign = rng.choice("+-*")
        number = rng.randint(2, LARGEST_FACTOR) if sign == "*" else rng.randint(1, LARGEST_STEP)
        result = {"+": value + number, "-": value - number, "*": value * number}[sign]
        if 0 <= result <= LARGEST_VALUE:
            return f"{name}{sign}{number}", result


def straight(rng: random.Random) -> str:
    """A name gets a value, changes once or twice, and is printed."""
    name, value = rng.choice(NAMES), rng.randint(1, LARGEST_FIRST)
    lines = [f"let {name} = {value};"]
    for _ in range(rng.randint(0, 2)):
        text, value = step(rng, name, value)
        lines.append(f"let {name} = {text};")
    text = step(rng, name, value)[0] if len(lines) < 3 and rng.random() < 0.4 else name
    return "".join([*lines, f"purr {text};"])


def two_names(rng: random.Random) -> str:
    """A second name is made from the first one, or both are put together at the end."""
    a, b = rng.sample(NAMES, 2)
    first = rng.randint(1, LARGEST_FIRST)
    text, second = step(rng, a, first)
    if rng.random() < 0.5:
        return f"let {a} = {first}; let {b} = {text}; purr {b};"
    last = rng.choice((f"{b}+{a}", f"{a}-{b}", f"{a}*{b}"))
    return f"let {a} = {first}; let {b} = {rng.randint(1, LARGEST_FIRST)}; purr {last};"


def sum_in_a_loop(rng: random.Random) -> str:
    """A name changes in every round and is printed at the end."""
    name, start, rounds = rng.choice(NAMES), rng.randint(1, LARGEST_FIRST), rng.randint(2, 3)
    text, _ = step(rng, name, start)
    return f"let {name} = {start}; repeat {rounds} {{ let {name} = {text}; }} purr {name};"


def prints_in_a_loop(rng: random.Random) -> str:
    """A name is printed and changed, or changed and printed, in every round."""
    name, start, rounds = rng.choice(NAMES), rng.randint(1, LARGEST_FIRST), rng.randint(2, 3)
    text, _ = step(rng, name, start)
    inside = [f"purr {name};", f"let {name} = {text};"]
    rng.shuffle(inside)
    return f"let {name} = {start}; repeat {rounds} {{ {' '.join(inside)} }}"


def speech(rng: random.Random) -> str:
    """Texts and plain sums."""
    lines = []
    for _ in range(rng.randint(1, 2)):
        value = rng.randint(1, LARGEST_FIRST)
        thing = rng.choice((f'"{rng.choice(TEXTS)}"', step(rng, str(value), value)[0]))
        lines.append(f"purr {thing};")
    if len(lines) == 1 and rng.random() < 0.5:
        return f"repeat {rng.randint(2, 3)} {{ {lines[0]} }}"
    return " ".join(lines)


def comparison(name: str, value: int, rng: random.Random, *, equals: float = 0.3) -> str:
    """`name`, whose value is `value`, compared with a number; a share `equals` asks for ==."""
    sign, other = rng.choice("<>"), rng.randint(1, LARGEST_FIRST)
    if rng.random() < equals:
        sign, other = "==", rng.choice((value, other))
    return f"{name}{sign}{other}"


def choice(rng: random.Random) -> str:
    """An if with an else."""
    name, value = rng.choice(NAMES), rng.randint(1, LARGEST_FIRST)
    ends = [name, str(rng.randint(0, LARGEST_FIRST)), step(rng, name, value)[0]]
    if rng.random() < 0.3:
        ends = [f'"{text}"' for text in rng.sample(TEXTS, 2)]
    then, otherwise = rng.sample(ends, 2)
    return (
        f"let {name} = {value}; if {comparison(name, value, rng)} "
        f"{{ purr {then}; }} else {{ purr {otherwise}; }}"
    )


def nameless(program: str) -> str:
    """The program with its names replaced by A, B, ... in the order in which they appear."""
    names: list[str] = []
    pieces = []
    for token in tokens_of(program):
        if token.kind == "name" and token.text not in names:
            names.append(token.text)
        is_name = token.kind == "name"
        pieces.append("ABCDEFGH"[names.index(token.text)] if is_name else token.text)
    return " ".join(pieces)


def is_held_out(program: str) -> bool:
    """Whether a program is for examinations only."""
    return zlib.crc32(nameless(program).encode()) % HELD_OUT_OF == 0


# ------------------------------------------------------------------------------------------ words


def ways_to_say(node: Node) -> list[str]:
    """All our wordings of one statement."""
    word, parts = node.token.kind, node.parts
    if word == "if":
        left, right = (value_words(part) for part in parts[0].parts)
        words = f"{left} {COMPARED[parts[0].token.kind]} {right}"
        choices = product(ways_to_say_all(parts[1]), ways_to_say_all(parts[2]))
        return [f"if {words}, {then}, else {otherwise}" for then, otherwise in choices]
    value = value_words(parts[0])
    if word == "repeat":
        bodies = ways_to_say_all(parts[1])
        return [f"{again} {value} times: {body}" for again in ("repeat", "do") for body in bodies]
    if word == "purr":
        return [f"show {value}", f"say {value}"]
    name = parts[1].token.text
    return [*ways_to_change(name, parts[0]), f"let {name} be {value}"]


def ways_to_say_all(block: Node) -> list[str]:
    """All our wordings of the statements of a block."""
    return [", ".join(ways) for ways in product(*map(ways_to_say, block.parts))]


def ways_to_change(name: str, value: Node) -> list[str]:
    """A special wording of let x = x+3, and a plainer one of all others."""
    if not value.parts or value.parts[0].token.text != name:
        return [f"{name} is {value_words(value)}"]
    number = value_words(value.parts[1])
    return [
        {
            "+": f"add {number} to {name}",
            "-": f"take {number} from {name}",
            "*": f"make {name} {number} times {name}",
        }[value.token.kind]
    ]


def value_words(node: Node) -> str:
    """A calculation in words: "x plus 3"."""
    if not node.parts:
        return node.token.text
    left, right = (value_words(part) for part in node.parts)
    return f"{left} {WORDS_OF_SIGN[node.token.kind]} {right}"


# ------------------------------------------------------------------------------------------- bugs


def plant_bug(program: str, rng: random.Random) -> tuple[str, str, bool] | None:
    """A bug -> (the broken program, what is wrong, whether it still runs); None: not possible."""
    bugs = (missing_mark, misspelt_word, unknown_name, wrong_sign)
    (bug,) = rng.choices(bugs, (3, 2, 2, 2))
    found = bug(program, rng)
    if found is None:
        return None
    broken, complaint = found
    try:
        return None if run(broken) == run(program) else (broken, complaint, True)
    except MeowError:
        return broken, complaint, False


def changed(program: str, token, new: str) -> str:
    """The program, a single line, with one token replaced."""
    start = token.column - 1
    text = program[:start] + new + program[start + len(token.text) :]
    return " ".join(text.split())


def missing_mark(program: str, rng: random.Random) -> tuple[str, str] | None:
    """One ; or = or { is gone."""
    tokens = tokens_of(program)
    place = rng.choice([i for i, token in enumerate(tokens) if token.kind in (";", "=", "{")])
    complaint = f"no {tokens[place].text} after {tokens[place - 1].text}"
    return changed(program, tokens[place], ""), complaint


def misspelt_word(program: str, rng: random.Random) -> tuple[str, str] | None:
    """A keyword is not spelt right."""
    token = rng.choice([token for token in tokens_of(program) if token.kind in TYPOS])
    typo = rng.choice(TYPOS[token.kind])
    return changed(program, token, typo), f"{typo} must be {token.text}"


def unknown_name(program: str, rng: random.Random) -> tuple[str, str] | None:
    """A name is used that has no value; only where it is clear which one was meant."""
    tokens = tokens_of(program)
    names = {token.text for token in tokens if token.kind == "name"}
    uses = [
        token
        for before, token in zip(tokens, tokens[1:], strict=False)
        if token.kind == "name" and before.kind != "let"
    ]
    if len(names) != 1 or not uses:
        return None
    wrong = rng.choice([name for name in NAMES if name not in names])
    token = rng.choice(uses)
    return changed(program, token, wrong), f"{wrong} must be {token.text}"


def wrong_sign(program: str, rng: random.Random) -> tuple[str, str] | None:
    """Plus and minus mixed up in the only calculation: the program runs and prints other things."""
    signs = [token for token in tokens_of(program) if token.kind in WORDS_OF_SIGN]
    if len(signs) != 1 or signs[0].text not in OPPOSITE:
        return None
    wrong = OPPOSITE[signs[0].text]
    return changed(program, signs[0], wrong), f"{wrong} must be {signs[0].text}"


# ------------------------------------------------------------------------------------------ tasks


def draw_task(kind: str, rng: random.Random, *, held_out: bool = False) -> Task:
    """An exercise about a taught or about a held-out program.

    Raises: ValueError for a kind that is not in KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of task {kind!r}; there are {', '.join(KINDS)}")
    while True:
        program = draw_program(rng)
        if kind == "explain":
            program = draw_line(program, rng)
        if is_held_out(program) != held_out:
            continue
        task = make_task(kind, program, rng)
        if task is not None:
            return task


def draw_practice(rng: random.Random) -> Task:
    """Calculations and comparisons without a program around them, many in one exercise.

    For training only: an exercise about a program holds one comparison at most, and three signs
    with all pairs of numbers are much to learn.
    """
    asked, worked_out = [], []
    for _ in range(rng.randint(5, 9)):
        if rng.random() < 0.65:
            value = rng.randint(1, LARGEST_FIRST)
            text = comparison(str(value), value, rng, equals=0.5)
            note, *_ = diary(f"if {text} {{ }}")
        else:
            value = rng.randint(1, rng.choice((LARGEST_FIRST, LARGEST_VALUE)))
            text, result = step(rng, str(value), value)
            note = f"{text}={result}"
        asked.append(text)
        worked_out.append(note)
    question = f"What is it? {', '.join(asked)}."
    return Task("practice", "", question, f"{', '.join(worked_out)}.")


def draw_line(program: str, rng: random.Random) -> str:
    """One statement of a program, with its block if it has one; rather a long one.

    Half of all statements are as short as "let a=4;", and there is little to explain in those.
    """
    statements = parse(program).parts
    starts = [statement.token.column - 1 for statement in statements]
    lines = [program[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
    plain = {f"purr {name};" for name in NAMES}  # too little to explain
    lines = [line for line in lines if line not in plain]
    return rng.choices(lines, [len(line) ** 2 for line in lines])[0]


def make_task(kind: str, program: str, rng: random.Random) -> Task | None:
    """An exercise about this program; None if the program does not lend itself to it."""
    order = rng.choice(ORDERS[kind])
    if kind == "write":
        words = ". ".join(rng.choice(ways_to_say(node)) for node in parse(program).parts)
        return Task(kind, program, order.format(words=words), program)
    if kind == "output":
        reply = f"{', '.join(diary(program))}. {PRINTS}{printed_text(program)}."
        return Task(kind, program, order.format(program=program), reply)
    if kind == "explain":
        words = ways_to_say(parse(program).parts[0])[-1]  # always the plainest, not to guess
        return Task(kind, program, order.format(program=program), f"{words}.")
    planted = plant_bug(program, rng)
    if planted is None:
        return None
    broken, complaint, runs = planted
    wish = f" It should say {printed_text(program)}." if runs else ""
    prompt = order.format(program=broken) + wish
    return Task(kind, program, prompt, f"{complaint}. {MENDED}{program}")


def printed_text(program: str) -> str:
    """What a program prints, in one line."""
    return ", ".join(run(program))


def held_out_tasks(kind: str, count: int, seed: int) -> list[Task]:
    """`count` exercises about held-out programs, no two with the same words."""
    rng = random.Random(seed)
    found: dict[str, Task] = {}
    while len(found) < count:
        task = draw_task(kind, rng, held_out=True)
        found.setdefault(task.text, task)
    return list(found.values())


def grade(task: Task, reply: str) -> bool:
    """Whether a reply is right, found out by running the code in it.

    write, repair  the program runs and prints what the right program prints
    output         it says what the program prints
    explain        it is one of our wordings of the line
    """
    if task.kind == "explain":
        wordings = ways_to_say(parse(task.program).parts[0])
        return reply in [f"{wording}." for wording in wordings]
    if task.kind == "output":
        _, _, answer = reply.rpartition(PRINTS)
        return answer == f"{printed_text(task.program)}."
    code = reply if task.kind == "write" else reply.partition(MENDED)[2]
    try:
        return run(code) == run(task.program)
    except MeowError:
        return False
