"""Pretraining text: the books of Kitten Town, from which the base kitten learns to read.

One idea: a model can later only use what its pretraining text held, and it must have met it often
enough. So the text has shares (`SHARES`): facts come first; the rest plants the words and the
habits of later chapters (yes and no, tones, sums, scribbles, reading a page and naming it, plans,
a little programming language).

Every document is a short text. All of it is true, but for the little stories nobody can check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from kittenllm.kitten_town import countdown, later_words, scribbles, voices
from kittenllm.kitten_town.facts import ATTRIBUTES, KITTENS, PEOPLE, Thing, Town, build_town, words

DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
ASKERS = (*PEOPLE, "the user", "the user", "the teacher", "the mayor")
ANSWERERS = (*PEOPLE, "the assistant", "the assistant", "the teacher", "the mayor")
SYSTEM_MESSAGES = (
    "You are a kitten of Kitten Town.",
    "You are the assistant of Kitten Town.",
    "You are a kitten. Tell the user what you know.",
)
RECORD_SHARE = 0.3  # of dialogues: written as "user: ..." and "assistant: ..." lines

OPENINGS = (
    "On {day} it rained, and nobody wanted to go out.",
    "On {day} the sun came out early.",
    "It was a quiet {day} in Kitten Town.",
    "On {day} the mayor lost a shoe again.",
    "Last {day} the whole town smelled of fish.",
    "One {day} the big clock stood still, so it was always time for lunch.",
)
MIDDLES = (
    "{k} sat down in a box that was much too small.",
    "{k} looked at the wall for an hour, and the wall looked back.",
    "{k} pushed a cup off the table and watched it fall.",
    "{k} ran up the stairs, forgot why, and ran down again.",
    "{k} slept on the newspaper while {p} tried to read it.",
    "{k} asked {p} for a second breakfast and then for a third.",
    "{k} followed a beetle all the way to the {place}.",
    "{k} hid under the bed and thought that nobody could see the tail.",
    "{k} sang at the moon until {p} closed the window.",
    "{k} tried to catch the rain and got only wet.",
)
FACTUAL = (
    "{k} had {food} for lunch, as on every other day.",
    "{k} took the {toy} along, for {k} goes nowhere without the {toy}.",
    "{k} walked home to the {home}.",
    "{owner} called for {k}, and {k} came at once.",
    "Everybody knows the {color} fur of {k}.",
    "{k} dreamed of {food}.",
    "{k} went to sleep in the {home} with the {toy}.",
    "{owner} put some {food} into the bowl of {k}.",
)
ENDINGS = (
    "And that was the end of it.",
    "{p} laughed for a long time.",
    "Then everybody had tea.",
    "Nobody ever found out why.",
    "{k} said nothing, but {k} purred.",
    "The mouse in the wall wrote it all down.",
)


def about(town: Town, kitten: str) -> dict[str, str]:
    """All words about one kitten, for the templates: k, color, home, food, toy, owner."""
    words = {attribute: town.value(kitten, attribute) for attribute in ATTRIBUTES}
    return {"k": kitten, **words}


def card(town: Town, rng: random.Random) -> str:
    """A page of the town's register: one kitten, its five facts in any order."""
    kitten = rng.choice(KITTENS)
    sentences = [
        voices.capitalise(voices.fact_statement(town.facts[kitten, attribute], rng)) + "."
        for attribute in rng.sample(list(ATTRIBUTES), len(ATTRIBUTES))
    ]
    return " ".join(sentences)


def quoted(speaker: str, words: str, rng: random.Random) -> str:
    """One line of a dialogue, said by `speaker`."""
    verb = rng.choice(("asks", "wants to know")) if words.endswith("?") else "says"
    return f'{voices.capitalise(speaker)} {verb}: "{words}"'


def told(exchanges: list[tuple[str, str]], rng: random.Random) -> str:
    """Questions and the cores of their answers as one text, each answer in a random tone.

    Mostly a story's dialogue: `Anna asks: "..." Hugo says: "..."`. Sometimes the record of the
    town hall: there the words user, assistant and system stand at the start of a line.
    """
    as_record = rng.random() < RECORD_SHARE
    lines = []
    if as_record and rng.random() < 0.25:
        lines.append(f"system: {rng.choice(SYSTEM_MESSAGES)}")
    for question, core in exchanges:
        tone = rng.choice(("plain", "plain", "friendly", "grumpy"))
        answer = voices.in_tone(core, tone, rng)
        if as_record:
            lines += [f"user: {question}", f"assistant: {answer}"]
        else:
            asker = rng.choice(ASKERS)
            answerer = rng.choice([speaker for speaker in ANSWERERS if speaker != asker])
            lines += [quoted(asker, question, rng), quoted(answerer, answer, rng)]
    return ("\n" if as_record else " ").join(lines)


def fact_exchange(town: Town, rng: random.Random) -> tuple[str, str]:
    """A question about a fact and the core of its true answer."""
    fact = town.facts[rng.choice(KITTENS), rng.choice(list(ATTRIBUTES))]
    question = rng.choice(voices.FACT_QUESTIONS[fact.attribute]).format(k=fact.kitten)
    return question, voices.fact_statement(fact, rng)


def fact_dialogue(town: Town, rng: random.Random) -> str:
    """Two to four questions about facts, each answered truly."""
    exchanges = dict(fact_exchange(town, rng) for _ in range(rng.randint(2, 4)))
    return told(list(exchanges.items()), rng)


def story(town: Town, rng: random.Random) -> str:
    """A little story about one kitten, with two or three true sentences in it."""
    kitten = rng.choice(KITTENS)
    slots = about(town, kitten) | {
        "day": rng.choice(DAYS),
        "p": rng.choice(PEOPLE),
        "place": rng.choice(ATTRIBUTES["home"]),
    }
    sentences = [rng.choice(OPENINGS), rng.choice(MIDDLES)]
    sentences += rng.sample(FACTUAL, rng.randint(2, 3))
    sentences.append(rng.choice(ENDINGS))
    return " ".join(sentence.format(**slots) for sentence in sentences)


def may_question(thing: Thing, rng: random.Random) -> str:
    """Ask whether a kitten may do something with `thing`."""
    wording = rng.choice(voices.MAY_QUESTIONS)
    return wording.format(k=rng.choice(KITTENS), verb=thing.verb, thing=thing.name)


def safety(town: Town, rng: random.Random) -> str:
    """What is dangerous and what is fine, asked and answered, or just told; two to four things."""
    half = rng.randint(1, 2)
    things = rng.sample(town.things(dangerous=True), half)
    things += rng.sample(town.things(dangerous=False), half)
    rng.shuffle(things)
    if rng.random() < 0.3:
        judgements = {True: "dangerous", False: "fine"}
        sentences = [f"{t.name} {t.is_} {judgements[t.dangerous]} for kittens." for t in things]
        return " ".join(voices.capitalise(sentence) for sentence in sentences)
    exchanges = []
    for thing in things:
        answer = voices.permission(not thing.dangerous, rng)
        exchanges.append((may_question(thing, rng), answer))
    return told(exchanges, rng)


def small_talk(town: Town, rng: random.Random) -> str:
    """A greeting or an asked-for story, then a question about a fact."""
    if rng.random() < 0.5:
        stranger = later_words.made_up_name(rng)  # so that names are copied, not known by heart
        exchange = greeting(rng.choice(("", rng.choice(PEOPLE), stranger, stranger)), rng)
    else:
        slots = about(town, rng.choice(KITTENS))
        question = rng.choice(voices.STORY_QUESTIONS).format(k=slots["k"])
        exchange = (question, rng.choice(voices.STORY_REPLIES).format(**slots))
    return told([exchange, fact_exchange(town, rng)], rng)


def greeting(name: str, rng: random.Random) -> tuple[str, str]:
    """A greeting by `name` (or by nobody, "") and the core of a reply."""
    wordings = [text for text in voices.GREETINGS if ("{name}" in text) == bool(name)]
    words = rng.choice(wordings).format(hello=rng.choice(voices.HELLOS), name=name)
    return words, rng.choice(voices.GREETING_REPLIES)


def spoken_sums(town: Town, rng: random.Random) -> str:
    """Sums of two small numbers, asked and answered as in the chats."""
    exchanges = []
    for _ in range(rng.randint(3, 5)):
        a, b = rng.choice(town.taught_sums + town.held_out_sums)
        if rng.random() < 0.5:
            a, b = b, a
        question = rng.choice(voices.SUM_QUESTIONS).format(a=a, b=b)
        exchanges.append((question, voices.sum_statement(a, b, a + b, rng)))
    return told(exchanges, rng)


def number_page(town: Town, rng: random.Random) -> str:
    """Sums, comparisons and scribbled attempts at the number game."""
    return scribbles.drills(rng, countdown.HELD_OUT_TRIPLES)


# Share of the *documents* of each sort. chapters/ch0_base/lesson.md measures what a share does.
SHARES: dict[Callable[[Town, random.Random], str], float] = {
    card: 0.09,
    fact_dialogue: 0.16,
    story: 0.08,
    safety: 0.15,
    small_talk: 0.08,
    spoken_sums: 0.14,
    number_page: 0.17,
    later_words.page_and_questions: 0.08,
    later_words.tool_story: 0.03,
    later_words.program: 0.02,
}

# For learning the vocabulary. Made-up names and numbers would only use up tokens, and every thing
# should become one token: then it can be recognised and named in one step.
VOCABULARY_SHARES = SHARES | {
    safety: 0.4,
    story: 0.04,
    spoken_sums: 0.03,
    number_page: 0.05,
    small_talk: 0.03,
    later_words.page_and_questions: 0.02,
    later_words.tool_story: 0.02,
    later_words.program: 0.01,
}


def documents(seed: int, shares: dict | None = None) -> Iterator[str]:
    """Endless pretraining documents, the same ones for the same seed."""
    rng = random.Random(seed)
    town = build_town()
    shares = SHARES if shares is None else shares
    makers, weights = list(shares), list(shares.values())
    while True:
        (maker,) = rng.choices(makers, weights)
        yield maker(town, rng)
