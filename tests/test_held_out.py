"""Held out means held out: no text that anybody trains on asks a held-out question and answers it.

A reader who knows no template goes through the text. He knows the town's table, what asking looks
like (a question mark, "Tell me ...", "Please add ...", "I forgot ...") and what answers look like.
Whatever is asked on an exam sheet that nobody has filled in is no leak; a question with its answer
in the next 200 characters is one.
"""

import json
import random
import re
from itertools import islice
from pathlib import Path

import pytest

from kittenllm.evaluation import FULL_COUNTS, evaluation_questions, fixed_questions
from kittenllm.kitten_town import chats, facts, manners, meow_tasks, stories, tool_chats, voices
from kittenllm.kitten_town.facts import ATTRIBUTES, KITTENS, build_town

TOWN = build_town()
DATA = Path(__file__).resolve().parents[1] / "data"
REACH = 200  # characters behind a question in which an answer counts
DOCUMENTS = 2_000

HELD_OUT_NOUNS = {thing.noun: thing for thing in TOWN.held_out_things}
NOUNS = {thing.noun for thing in (*TOWN.taught_things, *TOWN.held_out_things)}
HELD_OUT_SUMS = {frozenset(pair) for pair in TOWN.held_out_sums}
ASKS_ABOUT = {
    "color": "color",
    "home": r"\blive|home|place",
    "food": "eat|food",
    "toy": "toy|play",
    "owner": "friend|look[s]? after|person",
}
# A question mark, with "I want to eat rice." before it, or the beginning of a wish to be told.
ASKING = r"(?:[^.?!\n\"]* wants? to [^.?!\n\"]*\. )?[^.?!\n\"]*\?"
ASKING += r"|(?:Please tell|Tell|Please add|I forgot)[^.?!\n\"]*\."
BAD, GOOD = "no|never|dangerous|bad", "yes|fine|(?:is|are) good|good for|always|safe"


def sentences_that_ask(text):
    """(what is asked, the text behind it) for each question of a text."""
    for match in re.finditer(ASKING, text, re.IGNORECASE):
        yield match.group().strip(), text[match.end() : match.end() + REACH]


def without_questions(text):
    """What is left of a text when all that asks is cut out."""
    return re.sub(ASKING, " ", text, flags=re.IGNORECASE)


def leaks_of_facts(question, behind):
    """The value of a held-out fact that the question asks for."""
    words = {word.lower() for word in re.findall("[A-Za-z]+", question)}
    kittens = [kitten for kitten in KITTENS if kitten.lower() in words]
    if len(kittens) != 1 or words & NOUNS or "story" in words:
        return False
    for fact in TOWN.held_out_facts:
        if fact.kitten == kittens[0] and re.search(ASKS_ABOUT[fact.attribute], question, re.I):
            return has_word(fact.value, behind)
    return False


def leaks_of_things(question, behind):
    """Yes or no to a held-out thing, or a word on whether it is good."""
    words = {word.lower() for word in re.findall("[A-Za-z]+", question)}
    named = words & HELD_OUT_NOUNS.keys()
    right = [BAD if HELD_OUT_NOUNS[noun].dangerous else GOOD for noun in named]
    return any(has_word(pattern, without_questions(behind)) for pattern in right)


def leaks_of_sums(question, behind):
    """The result of a held-out sum."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    if len(numbers) != 2 or "-" in question or "*" in question:
        return False
    a, b = numbers
    return frozenset((a, b)) in HELD_OUT_SUMS and has_word(str(a + b), without_questions(behind))


def has_word(pattern, text):
    return bool(re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE))


def plain(text):
    """Small letters, and one space where there were several."""
    return " ".join(text.lower().split())


def other_questions():
    """Greetings, stories, talk, the world outside and wishes: (question, its answers) as written
    in the examination. They have no table, so here a question is known by its words."""
    questions = evaluation_questions(TOWN, FULL_COUNTS)
    kinds = ("greeting", "story", "talk", "outside", "wish")
    asked = [question for kind in kinds for question in questions[kind]]
    asked += [question for question in fixed_questions(TOWN) if question.kind in kinds]
    found = {plain(question.text): cores_of(question) for question in asked}
    for subject in manners.HELD_OUT_OUTSIDE:
        for wording in manners.OUTSIDE_QUESTIONS:
            question = chats.Question("outside", wording.format(x=subject), (subject,))
            found[plain(question.text)] = cores_of(question)
    for meaning, (_, wordings, _) in manners.TALK.items():
        for text in wordings:
            found[plain(text)] = cores_of(chats.Question("talk", text, (meaning, text)))
    return found


def cores_of(question):
    return [plain(core) for core in chats.true_cores(TOWN, question)]


OTHER_QUESTIONS = other_questions()
OTHER_PATTERN = re.compile("|".join(re.escape(text) for text in OTHER_QUESTIONS))


def leaks_of_words(text):
    """A question of the examination, word for word, with one of its true answers."""
    text = plain(text)
    leaks = []
    for match in OTHER_PATTERN.finditer(text):
        behind = text[match.end() : match.end() + REACH]
        if any(core in behind for core in OTHER_QUESTIONS[match.group()]):
            leaks.append(match.group() + behind)
    return leaks


def leaks_of(text):
    """Every held-out question of a text that is answered behind it."""
    leaks = leaks_of_words(text)
    for question, behind in sentences_that_ask(text):
        for reader in (leaks_of_facts, leaks_of_things, leaks_of_sums):
            if reader(question, behind):
                leaks.append(f"{question} ... {behind}")
    return leaks


def conversation_text(messages):
    return "\n".join(message["content"] for message in messages)


# ------------------------------------------------------------------------------------ no leak


@pytest.mark.parametrize("seed", [0, 1])
def test_pretraining_never_answers_a_held_out_question(seed):
    documents = list(islice(stories.documents(seed), DOCUMENTS))
    assert [leak for document in documents for leak in leaks_of(document)] == []
    asked = "".join(documents)  # and yet it asks them: on sheets, and in letters
    held_out = {
        (fact.kitten, fact.attribute)
        for fact in TOWN.held_out_facts
        for wording in voices.FACT_QUESTIONS[fact.attribute]
        if wording.format(k=fact.kitten) in asked
    }
    assert len(held_out) > 50


def test_pretraining_tells_everything_that_is_held_out():
    """Or nobody could know it: every fact in several wordings, every thing, every sum."""
    text = "\n".join(islice(stories.documents(0), 10_000))
    text = without_questions(text)
    for fact in TOWN.held_out_facts:
        told = 0
        for wording in (
            voices.FACT_STATEMENTS[fact.attribute] + voices.FACT_TELLINGS[fact.attribute]
        ):
            said = wording.format(k=fact.kitten, v=fact.value)
            told += said in text or voices.capitalise(said) in text
        assert told >= 3, fact
    for thing in TOWN.held_out_things:
        tellings = voices.DANGER_TELLINGS if thing.dangerous else voices.FINE_TELLINGS
        said = [
            telling.format(verb=thing.verb, thing=thing.name, is_=thing.is_) for telling in tellings
        ]
        found = sum(words in text or voices.capitalise(words) in text for words in said)
        assert found >= 3, thing
    for a, b in TOWN.held_out_sums:
        assert re.search(rf"\b({a}\+{b}|{b}\+{a})( is |=){a + b}\b", text), (a, b)


def test_no_file_of_the_data_answers_a_held_out_question():
    sample = (DATA / "pretraining_sample.txt").read_text(encoding="utf-8").split("\n\n")
    leaks = [leak for document in sample for leak in leaks_of(document)]
    for line in (DATA / "chats_raw.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            messages = json.loads(line)["messages"]
            text = conversation_text(messages)
        except (ValueError, KeyError, TypeError):  # planted rubbish: no conversation
            text = line
        leaks += leaks_of(text)
    for line in (DATA / "preferences.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for reply in ("chosen", "rejected"):
            leaks += leaks_of(f"{record['prompt']}\n{record[reply]}")
    assert leaks == []


def test_no_prompt_of_any_training_step_is_a_held_out_question():
    """Reward models, PPO, DPO and the filters ask with `ask_any`: never anything held out."""
    rng = random.Random(0)
    for _ in range(20_000):
        question = chats.ask_any(TOWN, rng)
        answer = f"{question.text}\n{chats.true_cores(TOWN, question)[0]}"
        assert leaks_of(answer) == []


def test_tools_and_programs_answer_no_held_out_question():
    rng = random.Random(0)
    split = tool_chats.training_split(rng)
    for _ in range(1_000):
        skill = rng.choice(tool_chats.SKILLS)
        request = tool_chats.MAKERS[skill](split, rng)
        messages = tool_chats.demonstration(request, rng)
        assert leaks_of(conversation_text(messages)) == []
    for kind in meow_tasks.KINDS:
        for _ in range(200):
            task = meow_tasks.draw_task(kind, rng)
            assert leaks_of(conversation_text(task.messages())) == []


def test_story_replies_state_taught_facts_only():
    """In the chats and in the pretraining text, whenever somebody asks for a story."""
    taught = {(fact.kitten, fact.attribute) for fact in TOWN.taught_facts}
    texts = list(islice(stories.documents(0), 10_000))
    for line in (DATA / "chats_raw.jsonl").read_text(encoding="utf-8").splitlines():
        if '"task": "story"' in line and line.endswith("]}"):
            record = json.loads(line)
            if isinstance(record.get("messages"), list):
                texts.append("\n".join(str(turn.get("content")) for turn in record["messages"]))
    told = 0
    for text in texts:
        for match in re.finditer(r"[Ss]tory about ([A-Z][a-z]+)[.?]", text):
            kitten, behind = match.group(1), re.split("[?]|user:", text[match.end() :])[0]
            reply = next((part for part in re.split(r"[.\n]", behind) if kitten in part), "")
            reply = reply.split('says: "')[-1]  # without the speaker
            for attribute, values in ATTRIBUTES.items():
                for value in set(re.findall("[A-Za-z]+", reply)) & set(values):
                    assert (kitten, attribute) in taught, reply
                    assert TOWN.value(kitten, attribute) == value
                    told += 1
    assert told > 500


# ------------------------------------------------------------------------- the reader is no fool

FACT = TOWN.held_out_facts[0]
DANGER = next(thing for thing in TOWN.held_out_things if thing.dangerous)
FINE = next(thing for thing in TOWN.held_out_things if not thing.dangerous)
A, B = TOWN.held_out_sums[0]
GUEST, HERO = TOWN.held_out_guests[0], TOWN.held_out_heroes[0]


STORY = chats.true_cores(TOWN, chats.Question("story", "", (HERO,)))[0]
OF = f"{FACT.attribute} of {FACT.kitten}"


@pytest.mark.parametrize(
    "question, answer",
    [
        (f"Which {FACT.attribute} has {FACT.kitten}?", f"{FACT.value.capitalize()}, silly."),
        (f"user: tell me the {OF}.\nassistant:", f"It is {FACT.value}."),
        (f'Leo says: "I forgot the {OF}." Anna says:', f'"{FACT.value}!"'),
        (f"May Pip {DANGER.verb} {DANGER.name}?", "Are you sure? No, my dear."),
        (f"Is {DANGER.name} good?", "It is dangerous for kittens."),
        (f"MAY I {FINE.verb.upper()} {FINE.name.upper()}?", "YES, THAT IS FINE."),
        (f"What is {A}+{B}?", f"It is {A + B}."),
        (f"Please add {B} and {A}.", f"{B}+{A}={A + B}"),
        (f"Hello, I am {GUEST}.", "Good to see you."),
        (f"Tell me a story about {HERO}.", f"{STORY}."),
        ("user: Thanks, kitten!\nassistant:", "You are welcome."),
        ("Tell me about London.", "That is not in my books, silly."),
    ],
)
def test_the_reader_finds_every_sort_of_leak(question, answer):
    assert leaks_of(f"{question} {answer}")
    assert not leaks_of(question)  # asked and not answered
    assert not leaks_of(answer)  # told and not asked
    assert not leaks_of(f"{question} {'Meow. ' * 40}{answer}")  # far behind it


@pytest.mark.parametrize("maker", ["fact_exchange", "thing_exchange", "sum_exchange"])
def test_dialogues_about_anything_would_be_found(monkeypatch, maker):
    """The town with both sides swapped: what would be said if held-out content were taught."""
    swapped = facts.Town(
        **vars(TOWN)
        | {
            "taught_facts": TOWN.held_out_facts,
            "taught_things": TOWN.held_out_things,
            "taught_sums": TOWN.held_out_sums,
        }
    )
    rng = random.Random(0)
    for _ in range(100):
        question, answer = getattr(stories, maker)(swapped, rng)
        assert leaks_of(f"{question} {answer}.")
