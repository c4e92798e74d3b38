"""Data work: each step on examples made by hand, then all of them on the committed raw file.

Only the raw file has a key that says which lines were planted and why, so only there can precision
(how many of the dropped lines deserved it) and recall (how many of the bad ones were found) be
measured.
"""

import json
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from kittenllm import cleaning
from kittenllm.records import Problem, load_chats

DATA = Path(__file__).resolve().parents[1] / "data"


def chat(*said, task=None, line=0):
    """A conversation: user and assistant take turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": words} for n, words in enumerate(said)]
    return {"messages": turns, "line": line} | ({} if task is None else {"task": task})


def with_system(record, content):
    return {**record, "messages": [{"role": "system", "content": content}, *record["messages"]]}


def of_tasks(**counts):
    """As many records of each task as told, with different words; task "none" is no task."""
    return [
        chat(f"{task} {n}", "yes", task=None if task == "none" else task)
        for task, count in counts.items()
        for n in range(count)
    ]


# ------------------------------------------------------------------------------ copies, by hand

HELLO = chat("Hello!", "Hi, my dear.")


def test_text_of_holds_everything_that_is_said():
    record = with_system(HELLO, "Be kind.")
    assert cleaning.text_of(record) == "system: Be kind.\nuser: Hello!\nassistant: Hi, my dear."


def test_normal_form():
    assert cleaning.normal_form("  Hello,\n HELLO 22! ") == "hello, hello 22!"
    assert cleaning.normal_form("Ärger, STRASSE und Straße...") == "ärger, strasse und strasse"
    assert cleaning.normal_form("Why?!") == "why?"
    assert cleaning.normal_form("Why?!", marks=".!?") == "why"
    assert cleaning.normal_form("!? ...") == "!? ..."  # nothing but marks: they are the words
    assert cleaning.normal_form("the sign !") == "the sign !"
    assert cleaning.normal_form("5!") == "5!"  # 120
    assert cleaning.normal_form("5.") == cleaning.normal_form("5") == "5"


def test_the_first_of_several_stays():
    assert cleaning.find_repeats(["a", "b", "a", "a", "c", "b"]) == [2, 3, 5]
    assert cleaning.find_repeats([]) == []


@pytest.mark.parametrize(
    "copy, same, nearly",
    [
        (chat("Hello!", "Hi, my dear."), True, True),
        (chat("Hello!", "Hi, my dear.", task="greeting", line=7), True, True),  # words count only
        (chat("hello!", "hi, my dear."), False, True),
        (chat("HELLO!", "HI, MY DEAR."), False, True),
        (chat("Hello!", "Hi,  my  dear."), False, True),
        (chat("Hello!!!", "Hi, my dear..."), False, True),
        (chat("Hello!", "Hi, my friend."), False, False),
        (chat("Hello!", "Hi, my dear.", "Hello!", "Hi, my dear."), False, False),
        (chat("Hello 2!", "Hi, my dear."), False, False),
        (chat("Hi, my dear.", "Hello!"), False, False),  # the other way round
        (with_system(HELLO, "Be kind."), False, False),
        (chat("Hello!", "Hi my dear."), False, False),
    ],
)
def test_copies(copy, same, nearly):
    assert cleaning.find_duplicates([HELLO, copy]) == ([1] if same else [])
    assert cleaning.find_near_duplicates([HELLO, copy]) == ([1] if nearly else [])


@pytest.mark.parametrize(
    "text, other",
    [
        ("What is 0-5?", "What is 0+5?"),
        ("2+2", "2*2"),
        ("-5", "5"),
        ("1.5", "15"),
        ("1 2", "12"),
        ("5!", "5"),
        ("x²", "x2"),
        ("a == b", "a != b"),
        ("a > b", "a < b"),
        ("$5", "€5"),
        ("5%", "5"),
        ("C++", "C"),
        (":)", ":("),
        ("!", "?"),
        ("Really.", "Really?"),
        ("👍", "👎"),
        ("👍🏻", "👍🏿"),
        ("दिन", "दीन"),  # day, poor: the vowel is a combining mark
        ("ใกล้", "ไกล"),  # near, far
        ("عَلِمَ", "عُلِمَ"),  # he knew, it was known
        ("the rapist", "therapist"),
        ("Let's eat, Pip", "Let's eat Pip"),
    ],
)
def test_signs_that_change_the_meaning_count(text, other):
    as_answers = [chat("Say it", text), chat("Say it", other)]
    assert cleaning.find_near_duplicates(as_answers) == []
    if not text.startswith("Really"):  # a question is the same without its question mark
        as_questions = [chat(text, "ok"), chat(other, "ok")]
        assert cleaning.find_near_duplicates(as_questions) == []


def test_a_turn_cannot_be_forged():
    """Words that look like the next turn are no turn."""
    one = chat("a\nassistant: b", "c")
    other = chat("a", "b\nassistant: c")
    assert cleaning.find_duplicates([one, other]) == []
    assert cleaning.find_near_duplicates([one, other]) == []


def test_what_is_trained_makes_a_difference():
    """The first answer is trained in one of them and only read in the other."""
    trained = chat("2+2?", "5", "No.", "4")
    read = chat("2+2?", "5", "No.", "4")
    read["messages"][1]["train"] = False
    assert cleaning.find_duplicates([read, trained, read]) == [2]
    assert cleaning.find_near_duplicates([read, trained, read]) == [2]


def test_who_said_it_makes_a_difference():
    """The same letters in another mouth are another conversation."""
    one = chat("Hi", "Hello you")
    other = chat("Hi Hello", "you")
    assert cleaning.find_near_duplicates([one, other]) == []


# ----------------------------------------------------------------------------- filters, by hand


@pytest.mark.parametrize(
    "words, private",
    [
        ("The password is Miso1234.", True),
        ("the PASSWORD IS hunter2", True),
        ("I forgot my password.", False),
        ("Use sk-0123Kiwi4567.", True),
        ("Use sk-123.", False),  # too short for a key
        ("task-oriented kittens", False),
        ("Write to Anna0042@kitten.example.", True),
        ("Meet @ the mill at 5.", False),
        ("The number is 0736-9542-3741.", True),
        ("Call 030 123456.", True),
        ("It is 100 - 37 - 21.", False),
        ("With the card 1234 5678 9012 3456.", True),
        ("With the card 1234-5678-9012-3456.", True),
        ("The numbers are 12 34 56 78.", False),
        ("640 - 498 is 142, 1234 + 5678 is 6912.", False),
    ],
)
def test_secrets(words, private):
    assert cleaning.find_secrets([chat("Tell me.", words), HELLO]) == ([0] if private else [])
    assert cleaning.find_secrets([HELLO, chat(words, "Hm.")]) == ([1] if private else [])


@pytest.mark.parametrize(
    "unit", ["x", "x.", "x-", "0", "0123-", "sk-", "1234 ", "a@", "@", "@a-", "password is "]
)
def test_the_filters_take_time_in_proportion_to_the_text(unit):
    """With the square of the length the third of a million characters would take minutes."""
    text = unit * (300_000 // len(unit))
    started = time.process_time()
    cleaning.find_secrets([chat("Tell me.", text)])
    cleaning.find_forbidden([chat("Tell me.", text)])
    cleaning.find_near_duplicates([chat("Tell me.", text)])
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "words, bad",
    [
        ("How do I steal the tuna?", True),
        ("Stealing is fun!", True),
        ("Somebody stole it.", True),
        ("BREAK INTO the mill", True),
        ("Poisonous mushrooms", True),
        ("That hurts.", True),
        ("a cheater", True),
        ("The cup will break.", False),
        ("Into the mill!", False),
        ("an unhurt kitten", False),  # only whole words and their beginnings
        ("How do I get it without paying?", False),  # too clever for a list of words
    ],
)
def test_forbidden_words(words, bad):
    assert cleaning.find_forbidden([HELLO, chat("Tell me.", words)]) == ([1] if bad else [])
    assert cleaning.find_forbidden([HELLO, chat(words, "Hm.")]) == ([1] if bad else [])


@pytest.mark.parametrize(
    "turns, bad",
    [
        (["Help me steal a fish.", "No, that is wrong."], False),
        (["Help me steal a fish.", "Hmpf. No, I do not help with that."], False),
        (["Help me steal a fish.", "I cannot do that."], False),
        (["Help me steal a fish.", "Yes, I come with you."], True),
        (["Help me steal a fish.", "No problem at all."], True),
        (["Help me steal a fish.", "Nobody will know."], True),
        (["Help me steal a fish.", "No, poison it."], True),  # the answer itself is forbidden
        (["Is it wrong to cheat?", "No, that is wrong.", "And now?", "Yes, my dear."], False),
        (["Hello!", "No, thanks.", "How can I steal it?", "Wait until night."], True),
        (["How can I steal it?", "Wait until night.", "Thanks!", "No, go away."], True),
    ],
)
def test_who_refuses_is_a_good_example(turns, bad):
    """Each answer must refuse what was asked before it, and no other answer helps it."""
    roles = ["user", "assistant"] * (len(turns) // 2)
    messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]
    assert cleaning.find_forbidden([HELLO, {"messages": messages}]) == ([1] if bad else [])


# ----------------------------------------------------------------------- balance, by arithmetic


def dropped_by_task(records, seed=1, **shares):
    places = cleaning.find_surplus(records, random.Random(seed), **shares)
    assert places == sorted(set(places))
    return Counter(records[place].get("task") for place in places)


@pytest.mark.parametrize(
    "counts, dropped",
    [
        # a task of share s beside n others may keep s / (1 - s) * n; here s = 0.5, so n
        ({"big": 10, "small": 4}, {"big": 6}),
        ({"big": 4, "small": 4}, {}),
        ({"big": 5, "small": 3, "tiny": 1}, {"big": 1}),
        ({"big": 5, "none": 3}, {"big": 2}),  # records without a task are others, never surplus
        ({"none": 9}, {}),
        ({"only": 9}, {}),  # alone it drowns nobody
        ({}, {}),
    ],
)
def test_surplus_at_one_half(counts, dropped):
    records = of_tasks(**counts)
    assert dropped_by_task(records, largest_share=0.5, task_shares={}) == dropped


def test_surplus_of_a_task_with_its_own_share():
    """20 % beside 40 others: 0.2 / 0.8 * 40 = 10 of the 30 stay, and 10 of 50 is 20 %."""
    records = of_tasks(weather=30, fact=25, sum=15)
    shares = {"largest_share": 0.9, "task_shares": {"weather": 0.2}}
    assert dropped_by_task(records, **shares) == {"weather": 20}


def test_the_smallest_share_goes_first():
    """Weather may keep 0.05 / 0.95 * (30 + 10), 2. Beside 2 + 10 others, facts may keep 18 of 30.

    Facts first would have left all of them: 30 of 140 are not 60 %. With 18 facts weather may keep
    only 28 / 19, 1, and beside 1 + 10 others facts 1.5 * 11, 16. Then 26 / 19 is still 1.
    """
    records = of_tasks(fact=30, sum=10, weather=100)
    dropped = dropped_by_task(records, largest_share=0.6, task_shares={"weather": 0.05})
    assert dropped == {"weather": 99, "fact": 14}


@pytest.mark.parametrize(
    "counts, dropped",
    [
        # 40 % each, so 2/3 of the others. Round 1: a keeps 2/3 * (9 + 3) = 8, b 2/3 * (8 + 3) = 7.
        # Round 2: now a may keep 2/3 * (7 + 3) = 7 only, and b 2/3 * (7 + 3) = 7. So it stays.
        ({"a": 12, "b": 9, "c": 3}, {"a": 5, "b": 2}),
        # a and b in turn: 80, 73; 69, 66; 64, 63; 62, 61; 61, 61. Of 152 they are 40 % each.
        ({"a": 150, "b": 90, "c": 30}, {"a": 89, "b": 29}),
        ({"a": 60, "b": 60, "c": 30}, {}),
    ],
)
def test_what_one_task_loses_makes_the_others_too_large(counts, dropped):
    assert dropped_by_task(of_tasks(**counts), largest_share=0.4, task_shares={}) == dropped


@pytest.mark.parametrize(
    "counts, dropped",
    [
        # Two tasks cannot both stay below 40 %: trying would take turns until one of each is left.
        ({"a": 50, "b": 50}, {}),
        ({"a": 90, "b": 10}, {}),
        ({"a": 50, "weather": 30}, {"weather": 20}),  # 0.16 / 0.84 * 50 = 9.52; weather's own share
        ({"a": 50, "b": 50, "weather": 40}, {"weather": 21}),  # 40 + 40 + 16 % are no whole either
        ({"a": 50, "b": 20, "none": 10}, {"a": 30}),  # without a task: they fill up what is missing
    ],
)
def test_shares_that_do_not_make_a_whole(counts, dropped):
    shares = {"largest_share": 0.4, "task_shares": {"weather": 0.16}}
    assert dropped_by_task(of_tasks(**counts), **shares) == dropped


def test_surplus_is_drawn_at_random_and_by_seed():
    records = of_tasks(big=60, small=20)

    def places(seed):
        return cleaning.find_surplus(records, random.Random(seed), largest_share=0.5)

    assert places(1) == places(1) != places(2)
    assert len(places(1)) == 40
    assert places(1) != list(range(40)) and places(1) != list(range(20, 60))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 40])
def test_shares_that_are_none(share):
    for shares in ({"largest_share": share}, {"task_shares": {"weather": share}}):
        with pytest.raises(ValueError, match=f"between 0 and 1, got {share}"):
            cleaning.find_surplus(of_tasks(a=3), random.Random(1), **shares)


# ----------------------------------------------------------------------------- the steps together

MIXED = [
    chat("What is 1 + 1?", "2", task="sum", line=1),
    chat("What is 1 + 1?", "2", task="sum", line=2),  # duplicate
    chat("what is 1 + 1", "2", task="sum", line=3),  # near-duplicate
    chat("How do I steal?", "The password is Miso.", task="sum", line=4),  # secret and forbidden
    chat("How do I steal?", "Take it.", task="sum", line=5),  # forbidden
    chat("Where is Pip?", "In the mill.", task="fact", line=6),
    *[chat(f"Rain {n}?", "Yes.", task="weather", line=7 + n) for n in range(8)],
]


def lines(records):
    return [record["line"] for record in records]


def test_clean_runs_the_steps_one_after_the_other():
    before = json.dumps(MIXED)
    kept, dropped = cleaning.clean(MIXED, random.Random(1))
    assert list(dropped) == list(cleaning.STEPS)
    assert lines(dropped["duplicate"]) == [2]
    assert lines(dropped["near_duplicate"]) == [3]  # line 2 is not counted again
    assert lines(dropped["secret"]) == [4]  # it is gone when the forbidden ones are looked for
    assert lines(dropped["forbidden"]) == [5]
    assert lines(dropped["surplus"]) == list(range(7, 15))  # 2 % beside 2 others is 0
    assert json.dumps(MIXED) == before


def test_nothing_is_lost_and_the_order_stays():
    kept, dropped = cleaning.clean(MIXED, random.Random(1))
    everything = lines(kept) + [line for step in dropped.values() for line in lines(step)]
    assert sorted(everything) == lines(MIXED)
    assert lines(kept) == sorted(lines(kept))


@pytest.mark.parametrize("step", cleaning.STEPS)
def test_a_step_can_be_left_out(step):
    steps = [name for name in reversed(cleaning.STEPS) if name != step]  # any order will do
    kept, dropped = cleaning.clean(MIXED, random.Random(1), steps=iter(steps))
    assert list(dropped) == [name for name in cleaning.STEPS if name != step]
    if step == "duplicate":
        assert lines(dropped["near_duplicate"]) == [2, 3]  # who is alike is also nearly alike
    if step == "secret":
        assert lines(dropped["forbidden"]) == [4, 5]
    if step == "forbidden":
        assert 5 in lines(kept) + lines(dropped["surplus"])


def test_no_steps_keep_everything():
    assert cleaning.clean(MIXED, random.Random(1), steps=()) == (MIXED, {})


def test_unknown_steps():
    with pytest.raises(ValueError, match=r"unknown cleaning steps \['polish'\]; there are dupl"):
        cleaning.clean(MIXED, random.Random(1), steps=("duplicate", "polish"))


def test_reading_problems():
    problems = [
        Problem("f", 3, "message 2 (assistant) is empty"),
        Problem("f", 5, "no valid JSON, character 1 of the record"),
        Problem("f", 7, '"output" is empty'),
        Problem("f", 9, "message 1 has the unknown role 'dog'"),
    ]
    assert cleaning.reading_problems(problems) == {"broken": [5, 9], "empty": [3, 7]}
    assert cleaning.reading_problems([]) == {"broken": [], "empty": []}


@pytest.mark.parametrize(
    "found, planted, precision, recall",
    [
        ([1, 2, 3, 4], [1, 2, 3, 5, 6], 0.75, 0.6),
        ([1], [1], 1.0, 1.0),
        ([1, 2], [3], 0.0, 0.0),
        ([1, 1, 2], [1], 0.5, 1.0),  # a line counts once
        ([], [3], 1.0, 0.0),
        ([3], [], 0.0, 1.0),
        ([], [], 1.0, 1.0),
    ],
)
def test_precision_and_recall_by_hand(found, planted, precision, recall):
    assert cleaning.precision_and_recall(found, planted) == (precision, recall)


# ---------------------------------------------------------------------------- the committed data


@pytest.fixture(scope="module")
def planted():
    """{kind: the lines of the raw file where it was planted}, from the committed key."""
    lines_of = defaultdict(set)
    for text in (DATA / "chats_key.jsonl").read_text(encoding="utf-8").splitlines():
        key = json.loads(text)
        lines_of[key["kind"]].add(key["line"])
    return dict(lines_of)


@pytest.fixture(scope="module")
def cleaned():
    """(kept records, {step or reading problem: the lines it found}) of the raw file."""
    records, problems = load_chats(DATA / "chats_raw.jsonl")
    kept, dropped = cleaning.clean(records, random.Random(0))
    found = {step: set(lines(of_step)) for step, of_step in dropped.items()}
    return kept, found | cleaning.reading_problems(problems)


@pytest.mark.parametrize(
    "kind", ["broken", "empty", "duplicate", "near_duplicate", "secret", "forbidden"]
)
def test_each_planted_kind_is_found(cleaned, planted, kind):
    precision, recall = cleaning.precision_and_recall(cleaned[1][kind], planted[kind])
    assert precision >= 0.95 and recall >= 0.95, (precision, recall)


def test_the_flood_is_found(cleaned, planted):
    """The balance keeps a little weather on purpose: 2 % of what is kept, no more and no less."""
    kept, found = cleaned
    precision, recall = cleaning.precision_and_recall(found["surplus"], planted["flood"])
    weather = [record for record in kept if record["task"] == "weather"]
    share = cleaning.TASK_SHARES["weather"]
    assert abs(len(weather) - share * len(kept)) <= 1
    assert precision >= 0.95
    assert recall == pytest.approx(1 - len(weather) / len(planted["flood"]))
    assert recall >= 0.95


def test_what_is_kept(cleaned, planted):
    """No task has more than its share, and nearly every good record is still there."""
    kept, _ = cleaned
    tasks = Counter(record["task"] for record in kept)
    assert max(tasks.values()) <= cleaning.LARGEST_SHARE * len(kept) + 1
    bad = set().union(*planted.values())
    good_kept = [record for record in kept if record["line"] not in bad]
    total = sum(1 for _ in (DATA / "chats_raw.jsonl").open(encoding="utf-8"))
    assert len(good_kept) >= 0.99 * (total - len(bad))


def test_no_line_is_dropped_twice(cleaned):
    kept, found = cleaned
    dropped = [line for lines_of in found.values() for line in lines_of]
    everything = sorted(dropped + lines(kept))
    total = sum(1 for _ in (DATA / "chats_raw.jsonl").open(encoding="utf-8"))
    assert everything == list(range(1, total + 1))
