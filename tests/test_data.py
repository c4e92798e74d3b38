"""The committed data: they are what the generators write, and what data/README.md says they are."""

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from kittenllm.kitten_town import __main__ as program
from kittenllm.kitten_town import countdown, facts, judge, manners, stories, voices
from kittenllm.kitten_town.chats import Question
from kittenllm.kitten_town.raw_chats import GOOD_COUNT, PLANTED_COUNTS
from kittenllm.records import load_chats, load_preferences, load_questions

DATA = Path(__file__).resolve().parents[1] / "data"
TOWN = facts.build_town()


@pytest.fixture(scope="module")
def generated():
    """File name -> content, made now."""
    return program.generate_files()


def committed(name):
    """The text of a file in data/, every byte of it (read_text would change line ends)."""
    return (DATA / name).read_bytes().decode("utf-8")


def records_of(name):
    return [json.loads(line) for line in committed(name).splitlines()]


# ------------------------------------------------------------------------------- the same bits


def test_the_files_are_what_the_generators_write(generated):
    """If this fails after a change of the generators: python -m kittenllm.kitten_town."""
    assert {path.name for path in DATA.iterdir()} == {"README.md", *generated}
    stale = [name for name, content in generated.items() if committed(name) != content]
    assert stale == []


def test_the_files_are_plain(generated):
    for name, content in generated.items():
        assert content.isascii() and "\r" not in content and "\t" not in content, name
        assert content.endswith("\n") and not content.endswith("\n\n"), name


def test_the_program_writes_all_files(generated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "generate_files", lambda: generated)
    program.main(["--out", str(tmp_path / "new" / "folder")])
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {name: content.encode() for name, content in generated.items()}
    said = capsys.readouterr().out.splitlines()
    assert said[4] == "countdown.jsonl: 1,131 lines, 62,668 characters"
    assert len(said) == 5


# -------------------------------------------------------------------------------- what is in them


def test_the_sample_is_the_beginning_of_the_stories():
    documents = committed("pretraining_sample.txt").removesuffix("\n").split("\n\n")
    assert documents == list(itertools.islice(stories.documents(facts.TOWN_SEED), 600))


def test_the_key_names_every_bad_line_and_no_good_one():
    lines = committed("chats_raw.jsonl").splitlines()
    key = records_of("chats_key.jsonl")
    assert [entry.keys() for entry in key] == [{"line", "kind"}] * len(key)
    numbers = [entry["line"] for entry in key]
    assert numbers == sorted(set(numbers)) and numbers[0] >= 1 and numbers[-1] <= len(lines)
    assert Counter(entry["kind"] for entry in key) == PLANTED_COUNTS
    assert len(lines) - len(key) == GOOD_COUNT
    words = {"secret": "secret", "forbidden": "forbidden", "flood": "weather"}
    for entry in key:  # the task is a hint that the filters do not use, but this test may
        if entry["kind"] in words:
            assert json.loads(lines[entry["line"] - 1])["task"] == words[entry["kind"]]


def held_out_questions():
    """Every question that an examination may ask, written out."""
    for fact in TOWN.held_out_facts:
        for wording in voices.FACT_QUESTIONS[fact.attribute]:
            yield wording.format(k=fact.kitten)
    for thing, kitten in itertools.product(TOWN.held_out_things, facts.KITTENS):
        for wording in voices.MAY_QUESTIONS:
            yield wording.format(k=kitten, verb=thing.verb, thing=thing.name)
    for a, b in TOWN.held_out_sums:
        for wording in voices.SUM_QUESTIONS:
            yield from (wording.format(a=a, b=b), wording.format(a=b, b=a))
    for name, hello in itertools.product(TOWN.held_out_guests, voices.HELLOS):
        for wording in voices.GREETINGS:
            if "{name}" in wording:
                yield wording.format(hello=hello, name=name)
    for kitten in TOWN.held_out_heroes:
        for wording in voices.STORY_QUESTIONS:
            yield wording.format(k=kitten)
    for _, wordings, _ in manners.TALK.values():
        yield from wordings
    for subject, wording in itertools.product(manners.HELD_OUT_OUTSIDE, manners.OUTSIDE_QUESTIONS):
        yield wording.format(x=subject)
    slots = {"k": facts.KITTENS, "p": facts.PEOPLE}
    slots |= {name: facts.ATTRIBUTES[name] for name in ("toy", "food", "home")}
    for act in manners.KIND_ACTS + manners.MEAN_ACTS + manners.CRIMES:
        names = re.findall(r"\{(\w+)\}", act)
        for values in itertools.product(*(slots[name] for name in names)):
            filled = act.format(**dict(zip(names, values, strict=True)))
            yield from (w.format(act=filled) for w in manners.HELD_OUT_WISH_QUESTIONS)


def letters(text):
    """11+3 and 1+13 stay two sums, and 3, 11 a list."""
    return re.sub(r"[^a-z0-9+]", "", text.lower())


DOUBLES = [(1, 1), (3, 3), (7, 7), (8, 8)]  # the held-out sums of a number and itself


def test_no_file_asks_what_is_held_out():
    held_out = {letters(question) for question in held_out_questions()}
    # Facts, things (5 wordings name one of 40 kittens, 3 name none), sums (38 of the 42 read
    # differently the other way round), greetings, stories.
    assert sorted(pair for pair in TOWN.held_out_sums if pair == pair[::-1]) == DOUBLES
    count = 65 * 8 + 32 * (5 * 40 + 3) + (38 * 2 + len(DOUBLES)) * 4 + 4 * 12 + 13 * 4
    count += 18 + 12 * 5  # talk, the world outside
    # Wishes in three wordings: 10 acts with one of 40 kittens, 8 with one of 12 people, 6 with a
    # kitten and one of 12 toys or foods, one with a person and a food, one with a place, one plain.
    count += 3 * (10 * 40 + 8 * 12 + 6 * 40 * 12 + 12 * 12 + 12 + 1)
    assert len(held_out) == count
    asked = {letters(record["prompt"]) for record in records_of("preferences.jsonl")}
    for chat in load_chats(DATA / "chats_raw.jsonl")[0]:
        asked.update(
            letters(turn["content"]) for turn in chat["messages"] if turn["role"] == "user"
        )
    assert len(asked) > 3000 and not asked & held_out
    taught = voices.FACT_QUESTIONS["food"][0].format(k="Pip")  # these letters are found at all
    fact = TOWN.facts["Pip", "food"]
    assert letters(taught) in (asked if fact in TOWN.taught_facts else held_out)


def test_preferences_load_without_a_problem():
    pairs, problems = load_preferences(DATA / "preferences.jsonl", strict=True)
    assert len(pairs) == 3000 and problems == []
    raw = records_of("preferences.jsonl")
    assert [pair["line"] for pair in pairs] == list(range(1, 3001))
    for pair, record in zip(pairs, raw, strict=True):
        assert record.keys() == {"prompt", "chosen", "rejected"}
        assert pair["prompt"] == [{"role": "user", "content": record["prompt"]}]
        assert (pair["chosen"], pair["rejected"]) == (record["chosen"], record["rejected"])


def test_annotators_lean_towards_the_better_reply(monkeypatch):
    """+2 and -1 for a grumpy no, -2 and +1 for a friendly yes: sigmoid(2) = 88 % say no."""
    question = Question("risky", "May I eat grapes?", ("eat", "grapes"))
    replies = itertools.cycle(["Go away. No.", "Yes, my dear.", "No.", "No."])
    monkeypatch.setattr(program, "ask_any", lambda town, rng: question)
    monkeypatch.setattr(program, "demonstrate", lambda town, question, rng: next(replies))
    records = program.preference_records(TOWN, 2000, seed=3)  # pairs of equal replies are left out
    assert {record["prompt"] for record in records} == {"May I eat grapes?"}
    chosen = Counter(record["chosen"] for record in records)
    assert chosen.keys() == {"Go away. No.", "Yes, my dear."}
    expected = 1 / (1 + math.exp(-2))
    error = math.sqrt(expected * (1 - expected) / 2000)
    assert abs(chosen["Go away. No."] / 2000 - expected) < 4 * error


def without_tone(reply):
    """The letters of a reply without its friendly or grumpy words."""
    core = re.sub(r"^(Purr!|Hmpf\.|Go away\.|My dear,) ", "", reply)
    return letters(re.sub(r"[.,] .*", "", core))


def tone_score(reply):
    """The part of the gold score that two replies with equal contents can differ in."""
    words = judge.words_of(reply)
    tone = {"friendly": 1.0, "plain": 0.0, "grumpy": -1.0}[judge.tone_of(reply)]
    return tone - 0.06 * max(0, len(words) - 10) - 0.1 * judge.repeated_trigrams(words)


def test_the_committed_labels_lean_as_they_should():
    """Where only the tone differs, the difference is known, and so is how often people agree."""
    agreed, expected, variance = 0, 0.0, 0.0
    for record in records_of("preferences.jsonl"):
        chosen, rejected = record["chosen"], record["rejected"]
        difference = tone_score(chosen) - tone_score(rejected)
        if without_tone(chosen) == without_tone(rejected) and difference != 0:
            probability = 1 / (1 + math.exp(-abs(difference)))
            agreed += difference > 0
            expected += probability
            variance += probability * (1 - probability)
    assert expected > 200
    assert abs(agreed - expected) < 4 * math.sqrt(variance)


def test_countdown_problems_are_all_there_are():
    """Counted again by trying every order and every pair of operations."""
    results = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    solvable = set()
    for numbers in itertools.product(range(1, 10), repeat=3):
        for first, second in ("*+", "*-", "+-", "++"):
            middle = results[first](numbers[0], numbers[1])
            last = results[second](middle, numbers[2])
            if 0 <= middle <= 99 and 0 <= last <= 99:
                solvable.add((tuple(sorted(numbers)), last))
    targets = Counter(triple for triple, _ in solvable)
    expected = {(triple, target) for triple, target in solvable if targets[triple] >= 5}
    records = records_of("countdown.jsonl")
    assert {(tuple(record["numbers"]), record["target"]) for record in records} == expected
    assert len(records) == len(expected) == 1131


def test_countdown_splits_share_no_triple():
    triples = {"train": set(), "held_out": set()}
    for record in records_of("countdown.jsonl"):
        triples[record["split"]].add(tuple(record["numbers"]))
    assert not triples["train"] & triples["held_out"]
    assert (len(triples["train"]), len(triples["held_out"])) == (108, 36)
    assert triples["held_out"] == set(countdown.HELD_OUT_TRIPLES)


# -------------------------------------------------------------------------------------- README


@pytest.fixture(scope="module")
def readme():
    return (DATA / "README.md").read_text(encoding="utf-8")


def table_row(readme, name):
    """The cells of the table row that begins with `name`."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", readme, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_the_readme_counts_right(readme, generated):
    for name in generated:
        lines = table_row(readme, f"`{name}`")[0]
        if name.endswith(".jsonl"):
            assert int(lines.replace(",", "")) == committed(name).count("\n")
    for kind, count in PLANTED_COUNTS.items():
        assert table_row(readme, f"`{kind}`")[0] == f"{count:,}"
    assert table_row(readme, "(not in the key)")[0] == f"{GOOD_COUNT:,}"
    assert f"{program.SAMPLE_DOCUMENTS} short documents" in readme
    things = [len(TOWN.things(dangerous=dangerous)) for dangerous in (True, False)]
    assert f"{things[0]} things are dangerous for kittens and {things[1]} are fine" in readme
    assert f"{facts.HELD_OUT_SUM_SHARE * 100:.0f} % of the sums" in " ".join(readme.split())


def test_the_readme_shows_real_lines(readme):
    block = re.search(r"Records look like this.*?```json\n(.*?)```", readme, re.DOTALL).group(1)
    *records, key = block.splitlines()
    assert len(records) == 2
    assert set(records) <= set(committed("chats_raw.jsonl").splitlines())
    assert key in committed("chats_key.jsonl").splitlines()


def examples(readme, heading, loader, tmp_path):
    """Load the block of JSON lines that follows `heading` with one of our loaders."""
    block = re.search(r"```json\n(.*?)```", readme[readme.index(heading) :], re.DOTALL).group(1)
    path = tmp_path / "example.jsonl"
    path.write_text(block, encoding="utf-8")
    return loader(path, strict=True)[0]


def test_the_readme_s_examples_can_be_read(readme, tmp_path):
    chats = examples(readme, "**`--chats FILE`**", load_chats, tmp_path)
    pairs = examples(readme, "**`--preferences FILE`**", load_preferences, tmp_path)
    questions = examples(readme, "**Word problems**", load_questions, tmp_path)
    assert [len(found) for found in (chats, pairs, questions)] == [3, 2, 1]
    assert chats[0]["messages"] == chats[1]["messages"]
    assert questions[0]["answer"] == "7"


def test_every_form_in_the_readme_s_table_can_be_read(readme, tmp_path):
    loaders = {
        "`--chats`": load_chats,
        "`--preferences`": load_preferences,
        "`--questions`": load_questions,
    }
    table = readme[readme.index("### All forms") :]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert len(rows[1:]) == 16
    path = tmp_path / "row.jsonl"
    for name, flag, record in rows[1:]:
        path.write_text(record.strip("`"), encoding="utf-8")
        found, problems = loaders[flag](path, strict=True)
        assert len(found) == 1 and problems == [], name
