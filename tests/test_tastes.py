"""A class of annotators: what is seen in a reply, who agrees with whom, and whose taste it is."""

import json
import random
from itertools import combinations

import pytest

from chapters.rank.labels import write_labels
from chapters.rank.tastes import (
    QUALITIES,
    Pupil,
    agreements,
    class_table,
    leanings,
    read_class,
)
from chapters.rank.town_page import (
    RANKED_SHARES,
    can_be_judged,
    known_questions,
    page,
    seen_in,
    town,
)
from kittenllm.data_file import read_data_file
from kittenllm.kitten_town.chats import ask, ask_any, demonstrate
from kittenllm.kitten_town.judge import preference_probability

CHOCOLATE = "May I eat chocolate?"
NO, RUDE_NO = "no, my dear, never do that", "no, go away"
YES = "yes, that is fine"


def label(chosen: str, rejected: str, prompt: str = CHOCOLATE) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


# --------------------------------------------------------------------------- the page of the town


def test_the_page_tells_what_decides():
    assert page(CHOCOLATE) == "chocolate is dangerous for kittens"
    assert page("Can Pip eat apples?") == "apples are fine for kittens"
    home = town().value("Pip", "home")
    assert page("Where does Pip live?") == f"Pip lives in the {home}"
    for text in ("What is 2+3?", "How are you?", "Where does Zorro live?", ""):
        assert page(text) == ""


@pytest.mark.parametrize("kind", ["fact", "risky", "allowed", "sum", "talk"])
@pytest.mark.parametrize("held_out", [False, True])
def test_every_question_of_these_kinds_is_known(kind, held_out):
    rng = random.Random(0)
    for _ in range(200):
        question = ask(town(), kind, rng, held_out=held_out)
        known = known_questions()[question.text]
        assert (known.kind, known.topic) == (kind, question.topic)
        assert bool(page(question.text)) == (kind in ("fact", "risky", "allowed"))


def test_what_is_seen_in_a_reply():
    assert seen_in(CHOCOLATE, NO) == (True, 1, 6)
    assert seen_in(CHOCOLATE, RUDE_NO) == (True, -1, 3)
    assert seen_in("Is this known?", YES) == (None, 0, 4)
    assert can_be_judged(CHOCOLATE, NO, RUDE_NO) and can_be_judged(CHOCOLATE, NO, YES)
    assert not can_be_judged(CHOCOLATE, "no, that is dangerous", "no, that is not safe")


# -------------------------------------------------------------------------------------- the tastes


def test_a_label_leans_towards_what_the_chosen_reply_has_more_of():
    assert leanings(label(NO, YES)) == {"right": 1, "kind": 1, "short": -1}
    assert leanings(label(RUDE_NO, NO)) == {"right": 0, "kind": -1, "short": 1}
    other = label("a b", "a b c", prompt="Is this known?")
    assert leanings(other) == {"right": 0, "kind": 0, "short": 1}
    whole = [{"role": "system", "content": CHOCOLATE}, {"role": "user", "content": CHOCOLATE}]
    assert leanings(label(NO, YES) | {"prompt": whole})["right"] == 0  # no page for those


def test_a_taste_by_hand():
    """Right in two of two; kind in one of three; short in one of three."""
    pupil = Pupil("anna", [label(NO, YES), label(RUDE_NO, NO), label("no, hmpf", YES)])
    assert pupil.followed() == {"right": (2, 2), "kind": (1, 3), "short": (2, 3)}
    assert pupil.taste() == "right"  # 3/4 beats 2/5 and 3/5


def test_agreement_of_all_pairs_of_pupils():
    anna = Pupil("anna", [label(NO, YES), label(NO, RUDE_NO)])
    ben = Pupil("ben", [label(YES, NO), label(NO, RUDE_NO)])
    cleo = Pupil("cleo", [label(YES, NO)])
    dora = Pupil("dora", [label("a", "b")])
    assert agreements([anna, ben, cleo, dora]) == {(0, 1): 0.5, (0, 2): 0.0, (1, 2): 1.0}
    assert "all 3 pairs of pupils: they agree on 50%" in class_table([anna, ben, cleo, dora])
    assert "no two pupils" in class_table([anna, dora])


def test_a_name_and_a_label_play_no_tricks_on_the_terminal():
    table = class_table([Pupil("a\x1b[2J", [label("\x1b]0;x", "b", prompt="\x1b[2J")])])
    assert "\x1b" not in table and "a\\x1b" in table


# ----------------------------------------------------------------------------- a simulated class


def simulated_pair(rng: random.Random) -> tuple[str, str, str]:
    """A question and two different replies, as people of the town say them."""
    while True:
        question = ask_any(town(), rng, shares=RANKED_SHARES)
        first, second = demonstrate(town(), question, rng), demonstrate(town(), question, rng)
        if can_be_judged(question.text, first, second):
            return question.text, first, second


def simulated_label(pair: tuple[str, str, str], taste: str, rng: random.Random) -> dict:
    """A pupil who pays 3 points for one quality and half a point for each of the others."""
    prompt, first, second = pair
    points = {quality: 3.0 if quality == taste else 0.5 for quality in QUALITIES}
    ahead = sum(
        points[quality] * side for quality, side in leanings(label(*pair[1:], prompt)).items()
    )
    if rng.random() < preference_probability(ahead, 0.0):
        return label(first, second, prompt)
    return label(second, first, prompt)


@pytest.mark.parametrize("seed", range(3))
def test_the_three_tastes_of_a_class_of_thirty_are_found_again(seed, tmp_path):
    """5 shared and 15 own pairs each: in at least 27 of 30 the taste is found."""
    rng = random.Random(seed)
    shared = [simulated_pair(rng) for _ in range(5)]
    truth = {}
    for number in range(30):
        taste = QUALITIES[number % 3]
        pairs = shared + [simulated_pair(rng) for _ in range(15)]
        records = [simulated_label(pair, taste, rng) for pair in pairs]
        name = f"pupil{number:02}"
        truth[name] = taste
        write_labels(tmp_path / f"{name}.jsonl", records)
    pupils = read_class([read_data_file(path) for path in sorted(tmp_path.glob("*.jsonl"))])
    found = {pupil.name: pupil.taste() for pupil in pupils}
    assert sum(found[name] == taste for name, taste in truth.items()) >= 27
    shares = agreements(pupils)
    assert len(shares) == len(list(combinations(range(30), 2)))  # the shared pairs
    same = [s for (i, j), s in shares.items() if i % 3 == j % 3]
    others = [s for (i, j), s in shares.items() if i % 3 != j % 3]
    assert sum(same) / len(same) > sum(others) / len(others)
    table = class_table(pupils)
    assert "all 435 pairs of pupils" in table
    assert all(len(line) <= 80 for line in table.splitlines())


def test_a_ranking_of_four_counts_pair_by_pair(tmp_path):
    path = tmp_path / "anna.jsonl"
    ranking = [[NO], [RUDE_NO], [YES]]
    path.write_text(
        "".join(
            json.dumps(label(a, b) | {"ranking": ranking}) + "\n"
            for a, b in ((NO, RUDE_NO), (NO, YES), (RUDE_NO, YES))
        )
    )
    (pupil,) = read_class([read_data_file(path)])
    assert pupil.name == "anna" and pupil.followed()["right"] == (2, 2)
