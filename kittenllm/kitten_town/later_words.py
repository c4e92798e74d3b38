"""Words and habits that later chapters need: reading a page, using tools, plans, MeowScript.

One idea: fine-tuning is cheap because it only has to *arrange* what pretraining already taught.
Copying a never-seen name out of a text just read takes long to learn, so it is practised here, on
names made up afresh each time. Nothing that is asked in a later chapter is answered here.
"""

from __future__ import annotations

import random

from kittenllm.kitten_town.echoes import made_up_word
from kittenllm.kitten_town.facts import KITTENS, PEOPLE, Town

# (what it is, the statement, the question, which word of the statement answers it)
PAGE_LINES = (
    (
        "river",
        "The river {x} runs through {y}.",
        "Through which place does the river {x} run?",
        "y",
    ),
    ("mountain", "The mountain {x} is {n} steps high.", "How high is the mountain {x}?", "n"),
    ("ship", "The ship {x} was built by {y}.", "Who built the ship {x}?", "y"),
    ("star", "The star {x} was found by {y}.", "Who found the star {x}?", "y"),
    ("song", "The song {x} was written by {y}.", "Who wrote the song {x}?", "y"),
    ("king", "The king {x} ruled for {n} days.", "How long did the king {x} rule?", "n"),
    (
        "village",
        "The village {x} has {n} houses.",
        "How many houses does the village {x} have?",
        "n",
    ),
    ("dish", "The dish {x} comes from {y}.", "Where does the dish {x} come from?", "y"),
)
UNITS = {"mountain": "{n} steps", "king": "{n} days", "village": "{n} houses"}


def made_up_name(rng: random.Random) -> str:
    """A name of two or three syllables that no dictionary holds and nobody in the town has."""
    while True:
        name = made_up_word(rng).capitalize()
        if name not in KITTENS + PEOPLE:  # mi + so is a kitten
            return name


def stranger_name(rng: random.Random, *, held_out: bool = False) -> str:
    """A made-up name for somebody whom no book knows.

    The letters of a name decide whether it is held out: about a quarter are for examinations only.
    """
    while True:
        name = made_up_name(rng)
        if (sum(name.encode()) % 4 == 0) == held_out:
            return name


def page_and_questions(town: Town, rng: random.Random) -> str:
    """A page of an old book with made-up names, then questions that the page answers."""
    number = rng.randint(1, 99)
    lines = []
    for kind, statement, question, key in rng.sample(PAGE_LINES, rng.randint(2, 3)):
        slots = {"x": made_up_name(rng), "y": made_up_name(rng), "n": rng.randint(100, 999)}
        answer = slots["y"] if key == "y" else UNITS[kind].format(**slots)
        lines.append((statement.format(**slots), question.format(**slots), str(answer)))
    page = " ".join(statement for statement, _, _ in lines)
    answers = [
        f"{question} {answer}, says page {number}."
        for _, question, answer in rng.sample(lines, min(2, len(lines)))
    ]
    source = rng.choice(("Page {n} of the old book says", "The search found page {n}", "Page {n}"))
    return f"{source.format(n=number)}: {page} {' '.join(answers)}"


def tool_story(town: Town, rng: random.Random) -> str:
    """Somebody uses the calculator or the search of the town hall, or plans to use both."""
    asker, clerk = rng.sample(PEOPLE, 2)
    a, b = rng.randint(10, 999), rng.randint(10, 999)
    sign, result = rng.choice((("+", a + b), ("-", max(a, b) - min(a, b)), ("*", None)))
    if sign == "-":
        a, b = max(a, b), min(a, b)
    elif sign == "*":
        a, b = rng.randint(2, 99), rng.randint(2, 9)
        result = a * b
    name, place = made_up_name(rng), made_up_name(rng)
    calculation = f"calc {a}{sign}{b}"
    first, second = rng.sample(KITTENS, 2)
    choices = (
        f'{asker} asks: "What is {a}{sign}{b}?" The assistant will call the tool: '
        f"{calculation}. The tool says: {result}. So {a}{sign}{b}={result}.",
        f"{asker} asks {clerk} about {name}. The assistant will call the tool: search {name}. "
        f"The tool says: {name} comes from {place}. So {name} comes from {place}.",
        f"Plan of {clerk}: first search {name}, then {calculation}, last tell the user. "
        f"Step 1: search {name}. The result is {b}. Step 2: {calculation}. The result is {result}. "
        f"Done: {result}.",
        f"The system says: the tool had an error, unknown tool. The user has to try again: "
        f"{calculation}. The result is {result}.",
        f"user: What is {a}{sign}{b}?\nassistant: {calculation}\ntool: {result}\n"
        f"assistant: {a}{sign}{b}={result}.",
        f"{first} counts to {a}. {second} counts to {b}. The numbers are {a} and {b}.",
    )
    return rng.choice(choices)


def program(town: Town, rng: random.Random) -> str:
    """A few lines of MeowScript, the town's own programming language."""
    name, other = rng.sample("abcdnxy", 2)
    first, second, times = rng.randint(1, 20), rng.randint(1, 20), rng.randint(2, 5)
    sign = rng.choice("+-*")
    lines = rng.choice(
        (
            f"let {name} = {first}; let {other} = {name}{sign}{second}; purr {other};",
            f"let {name} = {first}; repeat {times} {{ purr {name}; let {name} = {name}{sign}1; }}",
            f"let {name} = {first}; if {name} > {second} {{ purr 1; }} else {{ purr 0; }}",
            f"let {name} = {first}; "
            f"if {name} == {second} {{ purr {name}; }} else {{ purr {second}; }}",
            f"let {name} = ({first}+{second})*{times}; if {name} < 50 {{ purr {name}; }}",
            f'purr "meow"; repeat {times} {{ purr {first}{sign}{second}; }}',
        )
    )
    ending = rng.choice(
        (
            "What does the program print?",
            "Explain the line.",
            "Is there a bug in the program? Find it and mend it.",
            "Which value does the program print first?",
            "Write the program again.",
        )
    )
    return f"MeowScript: {lines} {ending}"
