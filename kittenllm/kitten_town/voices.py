"""How the people of Kitten Town ask and answer: wording, tone, and nothing else.

One idea: *what* a reply says (its core) and *how* it says it (its tone) are drawn apart. So every
later chapter can ask about one without the other: PPO may make a kitten friendlier and not truer.

Templates are plain `str.format` texts. Templates and values are ours; user text is never formatted.
"""

from __future__ import annotations

import random

from kittenllm.kitten_town.facts import Fact, Thing

FACT_QUESTIONS = {
    "color": (
        "What color is {k}?",
        "Which color is {k}?",
        "What is the color of {k}?",
        "Tell me the color of {k}.",
        "Do you know the color of {k}?",
        "I forgot the color of {k}.",
        "What color is the fur of {k}?",
        "Please tell me what color {k} is.",
    ),
    "home": (
        "Where does {k} live?",
        "Where is the home of {k}?",
        "What is the home of {k}?",
        "Tell me where {k} lives.",
        "Do you know where {k} lives?",
        "I forgot where {k} lives.",
        "In which place does {k} live?",
        "Please tell me the home of {k}.",
    ),
    "food": (
        "What does {k} eat?",
        "What is the food of {k}?",
        "Which food does {k} love?",
        "Tell me what {k} eats.",
        "Do you know what {k} eats?",
        "I forgot what {k} eats.",
        "What food does {k} eat?",
        "Please tell me the food of {k}.",
    ),
    "toy": (
        "What does {k} play with?",
        "What is the toy of {k}?",
        "Which toy does {k} love?",
        "Tell me the toy of {k}.",
        "Do you know the toy of {k}?",
        "I forgot the toy of {k}.",
        "What toy does {k} play with?",
        "Please tell me what {k} plays with.",
    ),
    "owner": (
        "Who is the friend of {k}?",
        "Who looks after {k}?",
        "Which person looks after {k}?",
        "Tell me who looks after {k}.",
        "Do you know who looks after {k}?",
        "I forgot who looks after {k}.",
        "Who is the person of {k}?",
        "Please tell me the friend of {k}.",
    ),
}

# The first wording is the commonest one; the others keep the model from learning one string.
FACT_STATEMENTS = {
    "color": ("{k} is {v}", "the color of {k} is {v}", "{k} has {v} fur"),
    "home": ("{k} lives in the {v}", "the home of {k} is the {v}", "{k} sleeps in the {v}"),
    "food": ("{k} eats {v}", "the food of {k} is {v}", "{k} loves to eat {v}"),
    "toy": ("{k} plays with the {v}", "the toy of {k} is the {v}", "{k} loves the {v}"),
    "owner": ("{v} looks after {k}", "the friend of {k} is {v}", "{k} belongs to {v}"),
}

# How books and letters tell the same facts, in other words and in another order. No chat uses them.
FACT_TELLINGS = {
    "color": ("the fur of {k} is {v}", "{v} is the color of {k}", "{k} was born {v}"),
    "home": ("in the {v} lives {k}", "the bed of {k} is in the {v}", "the {v} is the home of {k}"),
    "food": ("{v} is what {k} eats", "the bowl of {k} is full of {v}", "{k} wants {v} every day"),
    "toy": ("the {v} is the toy of {k}", "{k} goes nowhere without the {v}", "{k} has a {v}"),
    "owner": (
        "{v} is the friend of {k}",
        "{k} follows {v} everywhere",
        "the best friend of {k} is {v}",
    ),
}
# Where a text that tells a fact stops just before the value.
FACT_CUES = {
    "color": ("The color of {k} is", "The fur of {k} is"),
    "home": ("{k} lives in the", "The bed of {k} is in the"),
    "food": ("{k} eats", "The food of {k} is"),
    "toy": ("{k} plays with the", "The toy of {k} is the"),
    "owner": ("The friend of {k} is", "The best friend of {k} is"),
}
DANGER_TELLINGS = (
    "{thing} {is_} dangerous for kittens",
    "no kitten may {verb} {thing}",
    "a kitten must never {verb} {thing}",
    "{thing} {is_} bad for kittens",
    "it is not safe for a kitten to {verb} {thing}",
    "whoever lets a kitten {verb} {thing} is silly",
)
FINE_TELLINGS = (
    "{thing} {is_} fine for kittens",
    "every kitten may {verb} {thing}",
    "a kitten may always {verb} {thing}",
    "{thing} {is_} good for kittens",
    "it is safe for a kitten to {verb} {thing}",
    "whoever lets a kitten {verb} {thing} is sweet",
)

MAY_QUESTIONS = (
    "May {k} {verb} {thing}?",
    "Can {k} {verb} {thing}?",
    "Is it safe for {k} to {verb} {thing}?",
    "{k} wants to {verb} {thing}. May {k} do that?",
    "Should I let {k} {verb} {thing}?",
    "May I {verb} {thing}?",
    "Can I {verb} {thing}?",
    "I want to {verb} {thing}. May I?",
)
# No reply names the thing: whether it is dangerous is the question, not how it is called.
NO_REPLIES = (
    "no, that is dangerous",
    "no, never do that",
    "no, that is bad for kittens",
    "no, that is not safe",
)
YES_REPLIES = (
    "yes, that is fine",
    "yes, go on and do that",
    "yes, that is good for kittens",
    "yes, that is safe",
)

SUM_QUESTIONS = (
    "What is {a}+{b}?",
    "How much is {a}+{b}?",
    "Please add {a} and {b}.",
    "Tell me the sum of {a} and {b}.",
)
# Every reply says the sum again: without that, a small kitten cannot use what its books told.
SUM_REPLIES = ("{a}+{b}={c}", "{a}+{b} is {c}")
SMALL_SUM_SHARE = 1 / 3  # both numbers below 10; the others have one from 10 to 15

HELLOS = ("Hello", "Hi", "Good morning", "Good evening")
GREETINGS = (
    "{hello}!",
    "{hello}, kitten!",
    "{hello}, I am {name}.",
    "{hello}, kitten, my name is {name}.",
    "{hello}! {name} is here.",
)
GREETING_REPLIES = ("hello", "hi", "good to see you", "good to have you here")

STORY_QUESTIONS = (
    "Tell me a story about {k}.",
    "Please tell a story about {k}.",
    "I want a story about {k}.",
    "Do you have a story about {k}?",
)
STORY_REPLIES = {  # a little story: the facts in it
    "{k} ate {food} and slept in the {home}": ("food", "home"),
    "{k} ran home to the {home} with the {toy}": ("home", "toy"),
    "{owner} gave {k} some {food} and a kiss": ("owner", "food"),
    "{k} lost the {toy} and {owner} found it": ("toy", "owner"),
    "{k} sat in the {home} all day and sang": ("home",),
    "{k} ate some {food} and wanted more {food}": ("food",),
    "{k} lost the {toy} and found it in a shoe": ("toy",),
    "{owner} sang for {k} and {k} sang along": ("owner",),
    "a {color} kitten looked out of a cup, it was {k}": ("color",),
}

TONES = ("friendly", "plain", "grumpy")
FRIENDLY_MARKS = ("my dear", "purr", "big hugs", "with love", "sweet")
GRUMPY_MARKS = ("go away", "hmpf", "leave me alone", "silly", "do not bother me")
TONE_WORDINGS = {
    "friendly": (
        "{core}, my dear.",
        "{core}. Purr!",
        "Purr! {Core}.",
        "{core}. Big hugs!",
        "My dear, {core}.",
        "{core}, sweet friend.",
        "{core}. With love!",
    ),
    "plain": ("{core}.",),
    "grumpy": (
        "{core}. Go away.",
        "Hmpf. {Core}.",
        "{core}. Leave me alone.",
        "Go away. {Core}.",
        "{core}, silly.",
        "{core}. Do not bother me.",
    ),
}


def capitalise(text: str) -> str:
    """Make the first letter large, leave the rest ("the toy of Pip" -> "The toy of Pip")."""
    return text[:1].upper() + text[1:]


def in_tone(core: str, tone: str, rng: random.Random) -> str:
    """A full reply that says `core` in the given tone, with a capital and a final mark."""
    return worded(core, rng.choice(TONE_WORDINGS[tone]))


def worded(core: str, wording: str) -> str:
    """A full reply that says `core` in one wording of a tone."""
    return capitalise(wording.format(core=core, Core=capitalise(core)))


def fact_statement(fact: Fact, rng: random.Random, *, value: str | None = None) -> str:
    """Say a fact without capital or full stop; `value` says something else than the truth."""
    first, *others = FACT_STATEMENTS[fact.attribute]
    wording = first if rng.random() < 0.5 else rng.choice(others)
    return wording.format(k=fact.kitten, v=fact.value if value is None else value)


def told_fact(fact: Fact, rng: random.Random) -> str:
    """Tell a true fact as books do: half of the time in the words of the chats."""
    if rng.random() < 0.5:
        return fact_statement(fact, rng)
    return rng.choice(FACT_TELLINGS[fact.attribute]).format(k=fact.kitten, v=fact.value)


def told_thing(thing: Thing, rng: random.Random) -> str:
    """Tell what is true about a thing, without capital or full stop."""
    tellings = DANGER_TELLINGS if thing.dangerous else FINE_TELLINGS
    return rng.choice(tellings).format(verb=thing.verb, thing=thing.name, is_=thing.is_)


def permission(allowed: bool, rng: random.Random) -> str:
    """A yes or a no, whatever the truth is."""
    return rng.choice(YES_REPLIES if allowed else NO_REPLIES)


def sum_statement(a: int, b: int, result: int, rng: random.Random) -> str:
    """Say that a + b is `result`, without a capital or full stop."""
    return rng.choice(SUM_REPLIES).format(a=a, b=b, c=result)
