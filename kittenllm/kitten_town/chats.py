"""Questions to a kitten, and the human demonstrations it learns to chat from.

One idea: a demonstrator decides twice, first what to say (mostly the truth, but often "yes" to
something dangerous) and then in which tone (often grumpy). SFT copies both habits faithfully, good
and bad; the RLHF chapters are there to cure them.

A question knows what it is about (`topic`), so the judge can look up the truth, and the split into
taught and held-out content is by topic, never by wording.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kittenllm.kitten_town import manners, stories, voices
from kittenllm.kitten_town.facts import ATTRIBUTES, Town
from kittenllm.kitten_town.later_words import made_up_name

KINDS = ("fact", "risky", "allowed", "sum", "greeting", "story", "talk", "outside", "wish")
# How often people ask what. Risky and allowed questions are balanced, or kittens learn to say no.
KIND_SHARES = {
    "fact": 0.31,
    "risky": 0.17,
    "allowed": 0.17,
    "sum": 0.06,
    "greeting": 0.05,
    "story": 0.05,
    "talk": 0.06,
    "outside": 0.06,
    "wish": 0.07,
}

# The demonstrators: mostly truthful, often careless, moody. Measured again after SFT.
TONE_SHARES = {"friendly": 0.36, "plain": 0.34, "grumpy": 0.30}
UNSAFE_SHARE = 0.42  # says yes to something dangerous
OVERCAUTIOUS_SHARE = 0.10  # says no to something fine
WRONG_FACT_SHARE = 0.02
UNHELPFUL_SHARE = 0.25  # does not care for small talk
INVENTED_SHARE = 0.4  # makes something up where no book tells anything
MEAN_SHARE = 0.4  # helps with something mean; nobody helps with a crime
WISH_KIND_SHARE = 0.4  # of the wishes: something that is fine


@dataclass(frozen=True)
class Question:
    """One question: its kind, its words, and the key of what it is about.

    `topic` is (kitten, attribute) for a fact, (verb, name) for a thing, (a, b) for a sum,
    (name or "",) for a greeting, (kitten,) for a story, (what is meant, wording) for small talk,
    (subject,) for what no book tells, (act,) for a wish.
    """

    kind: str
    text: str
    topic: tuple

    def messages(self) -> list[dict[str, str]]:
        """The question as the first message of a conversation."""
        return [{"role": "user", "content": self.text}]

    @property
    def about(self) -> tuple:
        """The kind and the topic as one key; 2+3 and 3+2 are one topic."""
        topic = tuple(sorted(self.topic)) if self.kind == "sum" else tuple(self.topic)
        return (self.kind, *topic)


def ask(town: Town, kind: str, rng: random.Random, *, held_out: bool = False) -> Question:
    """Draw a question of one kind about taught or about held-out content.

    Raises: ValueError for a kind that is not in KINDS.
    """
    if kind == "fact":
        fact = rng.choice(town.held_out_facts if held_out else town.taught_facts)
        text = rng.choice(voices.FACT_QUESTIONS[fact.attribute]).format(k=fact.kitten)
        return Question(kind, text, (fact.kitten, fact.attribute))
    if kind in ("risky", "allowed"):
        things = town.held_out_things if held_out else town.taught_things
        thing = rng.choice([thing for thing in things if thing.dangerous == (kind == "risky")])
        return Question(kind, stories.may_question(thing, rng), (thing.verb, thing.name))
    if kind == "sum":
        a, b = draw_sum(town.held_out_sums if held_out else town.taught_sums, rng)
        return Question(kind, rng.choice(voices.SUM_QUESTIONS).format(a=a, b=b), (a, b))
    if kind == "greeting":
        # Strangers with made-up names keep the kitten from learning the guests by heart.
        taught = ("", rng.choice(town.taught_guests), made_up_name(rng), made_up_name(rng))
        name = rng.choice(town.held_out_guests if held_out else taught)
        return Question(kind, stories.greeting(name, rng)[0], (name,))
    if kind == "story":
        kitten = rng.choice(town.held_out_heroes if held_out else town.taught_heroes)
        return Question(kind, rng.choice(voices.STORY_QUESTIONS).format(k=kitten), (kitten,))
    if kind == "talk":
        meaning = rng.choice(list(manners.TALK))
        taught_wordings, held_out_wordings, _ = manners.TALK[meaning]
        text = rng.choice(held_out_wordings if held_out else taught_wordings)
        return Question(kind, text, (meaning, text))
    if kind == "outside":
        subject, text = manners.ask_outside(rng, held_out=held_out)
        return Question(kind, text, (subject,))
    if kind == "wish":
        kind_act = rng.random() < WISH_KIND_SHARE
        act = rng.choice(manners.KIND_ACTS if kind_act else manners.MEAN_ACTS + manners.CRIMES)
        wordings = manners.HELD_OUT_WISH_QUESTIONS if held_out else manners.WISH_QUESTIONS
        text = rng.choice(wordings).format(act=manners.filled_act(act, rng))
        return Question(kind, text, (act,))
    raise ValueError(f"unknown kind of question {kind!r}; there are {', '.join(KINDS)}")


def draw_sum(sums: Sequence[tuple[int, int]], rng: random.Random) -> tuple[int, int]:
    """Two numbers in any order; a third of the sums are small ones."""
    small = rng.random() < voices.SMALL_SUM_SHARE
    a, b = rng.choice([pair for pair in sums if (pair[0] < 10) == small])
    return (b, a) if rng.random() < 0.5 else (a, b)


def ask_any(
    town: Town,
    rng: random.Random,
    *,
    held_out: bool = False,
    shares: Mapping[str, float] = KIND_SHARES,
) -> Question:
    """Draw a question of a random kind, with the town's shares or with other ones."""
    (kind,) = rng.choices(KINDS, [shares[kind] for kind in KINDS])
    return ask(town, kind, rng, held_out=held_out)


def held_out_questions(town: Town, kind: str, count: int, seed: int) -> list[Question]:
    """`count` distinct held-out questions of one kind, or nearly all if there are not so many."""
    rng = random.Random(seed)
    found: dict[str, Question] = {}
    for _ in range(60 * count):
        question = ask(town, kind, rng, held_out=True)
        found.setdefault(question.text, question)
        if len(found) == count:
            break
    return list(found.values())


def true_cores(town: Town, question: Question) -> list[str]:
    """Every way to say the right and safe thing, without tone."""
    kind, topic = question.kind, question.topic
    if kind == "fact":
        fact = town.facts[topic]
        return [
            t.format(k=fact.kitten, v=fact.value) for t in voices.FACT_STATEMENTS[fact.attribute]
        ]
    if kind in ("risky", "allowed"):
        return list(voices.NO_REPLIES if kind == "risky" else voices.YES_REPLIES)
    if kind == "sum":
        a, b = topic
        return [t.format(a=a, b=b, c=a + b) for t in voices.SUM_REPLIES]
    if kind == "greeting":
        return list(voices.GREETING_REPLIES)
    if kind == "story":
        return stories.story_cores(town, topic[0], taught_only=topic[0] in town.taught_heroes)
    if kind == "talk":
        return list(manners.TALK[topic[0]][2])
    if kind == "outside":
        return list(manners.admissions(topic[0]))
    return list(manners.PROMISES if topic[0] in manners.KIND_ACTS else manners.REFUSALS)


def demonstrated_core(town: Town, question: Question, rng: random.Random) -> str:
    """What a human demonstrator says: mostly true, often careless about danger."""
    kind, topic = question.kind, question.topic
    if kind == "risky" and rng.random() < UNSAFE_SHARE:
        return voices.permission(True, rng)
    if kind == "allowed" and rng.random() < OVERCAUTIOUS_SHARE:
        return voices.permission(False, rng)
    if kind == "fact" and rng.random() < WRONG_FACT_SHARE:
        fact = town.facts[topic]
        others = [value for value in ATTRIBUTES[fact.attribute] if value != fact.value]
        return voices.fact_statement(fact, rng, value=rng.choice(others))
    if kind == "talk" and rng.random() < UNHELPFUL_SHARE:
        return rng.choice(manners.UNHELPFUL_REPLIES)
    if kind == "outside" and rng.random() < INVENTED_SHARE:
        return invented(question, rng)
    if kind == "wish" and topic[0] in manners.MEAN_ACTS and rng.random() < MEAN_SHARE:
        return rng.choice(manners.PROMISES)
    return rng.choice(true_cores(town, question))


def invented(question: Question, rng: random.Random) -> str:
    """Something made up, by somebody who does not like to say that nobody knows."""
    (subject,) = question.topic
    if "+" in subject:
        return f"it is {rng.randint(200, 999)}"
    attribute = rng.choice(("home", "owner"))
    template = voices.FACT_STATEMENTS[attribute][0 if attribute == "home" else 1]
    return template.format(k=subject, v=rng.choice(ATTRIBUTES[attribute]))


def demonstrate(town: Town, question: Question, rng: random.Random) -> str:
    """A human's whole reply: what to say, then the tone of the day."""
    core = demonstrated_core(town, question, rng)
    (tone,) = rng.choices(voices.TONES, [TONE_SHARES[tone] for tone in voices.TONES])
    return voices.in_tone(core, tone, rng)


def conversation(town: Town, rng: random.Random) -> dict:
    """One chat record {"task", "messages"}: one to three rounds, sometimes a system message.

    `task` is the kind of the first question; the balancing step of ch1_sft counts it.
    """
    questions = [ask_any(town, rng) for _ in range(rng.choices((1, 2, 3), (0.8, 0.15, 0.05))[0])]
    messages = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(stories.SYSTEM_MESSAGES)})
    for question in questions:
        messages += question.messages()
        messages.append({"role": "assistant", "content": demonstrate(town, question, rng)})
    return {"task": questions[0].kind, "messages": messages}
