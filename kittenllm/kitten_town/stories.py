"""Pretraining text: the books of Kitten Town, from which the base kitten learns to read.

One idea: a book tells, it does not chat. Everything true in the town is *told*, in many words and
in many orders: on cards, in stories, letters and gossip. Questions are *asked* on exam sheets that
nobody has filled in. So a kitten that has read all this is a bookish nerd: it knows where Pip
lives, and asked for it, it goes on with the next question. Some dialogues answer, but only about
taught content: nothing that is held out is ever asked next to its answer.

A model can later only use what its pretraining text held, and it must have met it often enough. So
the text has shares (`SHARES`). Every document is a short text. All of it is true, but for the
little stories nobody can check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from kittenllm.kitten_town import countdown, echoes, later_words, manners, scribbles, voices
from kittenllm.kitten_town.facts import (
    ATTRIBUTES,
    KITTENS,
    PEOPLE,
    Fact,
    Thing,
    Town,
    build_town,
    words,
)

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
    "Then everybody said hi, thanks and goodbye.",
    "Do not ask me why.",
    "And then we all went to sleep.",
)

HEARSAY = (
    "{p} says that {said}.",
    "{p} told {q} that {said}.",
    "{p} heard that {said}.",
    "Everybody knows that {said}.",
    "The mayor wrote down that {said}.",
    "In the newspaper stood that {said}.",
    "{p} did not know that {said}.",
    "The teacher says that {said}.",
)
GREETINGS = ("Dear {q},", "My dear {q},", "Hello {q},")
LETTER_ENDS = ("Your {p}", "With love, {p}", "Big hugs, {p}")


# ------------------------------------------------------------------------------- what is told


def about(town: Town, kitten: str) -> dict[str, str]:
    """All words about one kitten, for the templates: k, color, home, food, toy, owner."""
    words = {attribute: town.value(kitten, attribute) for attribute in ATTRIBUTES}
    return {"k": kitten, **words}


def sentence(text: str) -> str:
    """A capital and a full stop."""
    return voices.capitalise(text) + "."


def card(town: Town, rng: random.Random) -> str:
    """A page of the town's register: one kitten, its five facts in any order."""
    kitten = rng.choice(KITTENS)
    return " ".join(
        sentence(voices.told_fact(town.facts[kitten, attribute], rng))
        for attribute in rng.sample(list(ATTRIBUTES), len(ATTRIBUTES))
    )


def any_fact(town: Town, rng: random.Random) -> Fact:
    """Any fact of the town, taught or held out."""
    return town.facts[rng.choice(KITTENS), rng.choice(list(ATTRIBUTES))]


def any_thing(town: Town, rng: random.Random) -> Thing:
    """Any thing, dangerous or fine with the same chance."""
    return rng.choice(town.things(dangerous=rng.random() < 0.5))


def two_people(rng: random.Random) -> dict[str, str]:
    first, second = rng.sample(PEOPLE, 2)
    return {"p": first, "q": second}


def gossip(town: Town, rng: random.Random) -> str:
    """Three to five facts about anybody, in indirect speech."""
    sentences = []
    for _ in range(rng.randint(3, 5)):
        said = voices.told_fact(any_fact(town, rng), rng)
        sentences.append(rng.choice(HEARSAY).format(said=said, **two_people(rng)))
    return " ".join(sentences)


def neighbours(town: Town, rng: random.Random) -> str:
    """A page that goes from a value to all its kittens: who lives in the mill, who eats tuna."""
    attribute = rng.choice(list(ATTRIBUTES))
    value = rng.choice(ATTRIBUTES[attribute])
    kittens = [kitten for kitten in KITTENS if town.value(kitten, attribute) == value]
    rng.shuffle(kittens)
    return " ".join(
        sentence(voices.told_fact(town.facts[kitten, attribute], rng)) for kitten in kittens
    )


def letter(town: Town, rng: random.Random) -> str:
    """News about two kittens; a question about a third one that the letter does not answer."""
    people = two_people(rng)
    *told, asked = rng.sample(KITTENS, 3)
    lines = [rng.choice(GREETINGS).format(**people)]
    for kitten in told:
        for attribute in rng.sample(list(ATTRIBUTES), rng.randint(1, 2)):
            lines.append(sentence(voices.told_fact(town.facts[kitten, attribute], rng)))
    if rng.random() < 0.5:
        asks_about = rng.choice(
            ("color", "home", "food", "toy")
        )  # the name below could be a friend
        lines.append(rng.choice(voices.FACT_QUESTIONS[asks_about]).format(k=asked))
    lines.append(rng.choice(LETTER_ENDS).format(**people))
    return " ".join(lines)


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
    return " ".join(text.format(**slots) for text in sentences)


def warnings(town: Town, rng: random.Random) -> str:
    """What is dangerous for kittens and what is fine: five to eight things are told."""
    if rng.random() < 0.3:
        return two_lists(town, rng)
    sentences = []
    for _ in range(rng.randint(5, 8)):
        said = voices.told_thing(any_thing(town, rng), rng)
        if rng.random() < 0.3:
            sentences.append(rng.choice(HEARSAY).format(said=said, **two_people(rng)))
        else:
            sentences.append(sentence(said))
    return " ".join(sentences)


def two_lists(town: Town, rng: random.Random) -> str:
    """The list on the kitchen door: dangerous things in one line, fine ones in the other."""
    lines = []
    for dangerous, title in ((True, "Dangerous for kittens"), (False, "Fine for kittens")):
        things = rng.sample(town.things(dangerous=dangerous), rng.randint(4, 7))
        lines.append(f"{title}: {', '.join(thing.name for thing in things)}.")
    rng.shuffle(lines)
    return "\n".join(lines)


def sum_page(town: Town, rng: random.Random) -> str:
    """Small sums, told and not asked."""
    lines = []
    for _ in range(rng.randint(6, 10)):
        a, b = any_sum(town, rng)
        lines.append(voices.sum_statement(a, b, a + b, rng))
    return rng.choice(("\n", ", ", ". ")).join(lines) + "."


def any_sum(town: Town, rng: random.Random, *, taught: bool = False) -> tuple[int, int]:
    """Two numbers in any order; a third of the sums are small ones."""
    small = rng.random() < voices.SMALL_SUM_SHARE
    sums = [pair for pair in town.taught_sums if (pair[0] < 10) == small]
    if not taught:
        sums += [pair for pair in town.held_out_sums if (pair[0] < 10) == small]
    a, b = rng.choice(sums)
    return (b, a) if rng.random() < 0.5 else (a, b)


# ------------------------------------------------------------------------------- what is asked


def sheet(town: Town, rng: random.Random) -> str:
    """An exam sheet that nobody has filled in: four to eight questions about anything."""
    questions = []
    for _ in range(rng.randint(4, 8)):
        maker = rng.choices(
            (
                fact_question,
                thing_question,
                sum_question,
                manners.outside_question,
                manners.talk_question,
            ),
            (0.5, 0.26, 0.12, 0.05, 0.07),
        )[0]
        questions.append(maker(town, rng))
    return rng.choice((" ", "\n")).join(questions)


def fact_question(town: Town, rng: random.Random) -> str:
    fact = any_fact(town, rng)
    return rng.choice(voices.FACT_QUESTIONS[fact.attribute]).format(k=fact.kitten)


def thing_question(town: Town, rng: random.Random) -> str:
    return may_question(any_thing(town, rng), rng)


def sum_question(town: Town, rng: random.Random) -> str:
    a, b = any_sum(town, rng)
    return rng.choice(voices.SUM_QUESTIONS).format(a=a, b=b)


def may_question(thing: Thing, rng: random.Random) -> str:
    """Ask whether a kitten may do something with `thing`."""
    wording = rng.choice(voices.MAY_QUESTIONS)
    return wording.format(k=rng.choice(KITTENS), verb=thing.verb, thing=thing.name)


# ------------------------------------------------------- dialogues, taught content only


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
    """A question about a taught fact and the core of its true answer."""
    fact = rng.choice(town.taught_facts)
    question = rng.choice(voices.FACT_QUESTIONS[fact.attribute]).format(k=fact.kitten)
    return question, voices.fact_statement(fact, rng)


def thing_exchange(town: Town, rng: random.Random) -> tuple[str, str]:
    """A question about a taught thing and a safe answer."""
    dangerous = rng.random() < 0.5
    thing = rng.choice([thing for thing in town.taught_things if thing.dangerous == dangerous])
    return may_question(thing, rng), voices.permission(not thing.dangerous, rng)


def sum_exchange(town: Town, rng: random.Random) -> tuple[str, str]:
    """A taught sum, asked and answered as in the chats."""
    a, b = any_sum(town, rng, taught=True)
    question = rng.choice(voices.SUM_QUESTIONS).format(a=a, b=b)
    return question, voices.sum_statement(a, b, a + b, rng)


def dialogue(town: Town, rng: random.Random) -> str:
    """Two to four questions about taught content, each answered truly."""
    makers = rng.choices(
        (fact_exchange, thing_exchange, sum_exchange), (0.5, 0.25, 0.25), k=rng.randint(2, 4)
    )
    return told([maker(town, rng) for maker in makers], rng)


def small_talk(town: Town, rng: random.Random) -> str:
    """A few exchanges without facts: greetings, thanks, wishes, what no book tells."""
    makers = rng.sample(
        (
            greeting_exchange,
            manners.talk_exchange,
            manners.outside_exchange,
            manners.wish_exchange,
            story_exchange,
        ),
        2,
    )
    return told([maker(town, rng) for maker in makers], rng)


def greeting_exchange(town: Town, rng: random.Random) -> tuple[str, str]:
    stranger = later_words.made_up_name(rng)  # so that names are copied, not known by heart
    return greeting(rng.choice(("", rng.choice(town.taught_guests), stranger, stranger)), rng)


def greeting(name: str, rng: random.Random) -> tuple[str, str]:
    """A greeting by `name` (or by nobody, "") and the core of a reply."""
    wordings = [text for text in voices.GREETINGS if ("{name}" in text) == bool(name)]
    words = rng.choice(wordings).format(hello=rng.choice(voices.HELLOS), name=name)
    return words, rng.choice(voices.GREETING_REPLIES)


def story_exchange(town: Town, rng: random.Random) -> tuple[str, str]:
    """An asked-for story that states taught facts only."""
    kitten = rng.choice(town.taught_heroes)
    question = rng.choice(voices.STORY_QUESTIONS).format(k=kitten)
    return question, rng.choice(story_cores(town, kitten, taught_only=True))


def story_cores(town: Town, kitten: str, *, taught_only: bool) -> list[str]:
    """The little stories that can be told about a kitten, without tone."""
    slots = about(town, kitten)
    known = {fact.attribute for fact in town.taught_facts if fact.kitten == kitten}
    cores = []
    for template, attributes in voices.STORY_REPLIES.items():
        if not taught_only or set(attributes) <= known:
            cores.append(template.format(**slots))
    return cores


# ---------------------------------------------------------------------------------- the whole text


def number_page(town: Town, rng: random.Random) -> str:
    """Sums, comparisons and scribbled attempts at the number game."""
    return scribbles.drills(rng, countdown.HELD_OUT_TRIPLES)


def echo(town: Town, rng: random.Random) -> str:
    """Things said again: the skill of copying."""
    return echoes.echo_text(rng)


# Share of the *documents* of each sort.
SHARES: dict[Callable[[Town, random.Random], str], float] = {
    card: 0.14,
    gossip: 0.08,
    neighbours: 0.05,
    letter: 0.03,
    story: 0.03,
    warnings: 0.09,
    sum_page: 0.10,
    sheet: 0.08,
    dialogue: 0.11,
    small_talk: 0.05,
    number_page: 0.06,
    echo: 0.14,
    later_words.page_and_questions: 0.01,
    later_words.tool_story: 0.02,
    later_words.program: 0.01,
}

# For learning the vocabulary. Made-up names and numbers would only use up tokens, and every thing
# should become one token: then it can be recognised and named in one step.
VOCABULARY_SHARES = SHARES | {
    warnings: 0.25,
    sum_page: 0.0,
    number_page: 0.05,
    small_talk: 0.03,
    echo: 0.0,
    later_words.page_and_questions: 0.0,
    later_words.tool_story: 0.01,
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
