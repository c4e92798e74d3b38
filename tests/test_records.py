"""Reading the user's files: every form of record, and every kind of dirt."""

import json
from pathlib import Path

import pytest

from kittenllm.chat import check_messages
from kittenllm.records import (
    Problem,
    RecordError,
    load_chats,
    load_preferences,
    load_questions,
    load_text,
    report_problems,
)

DATA = Path(__file__).parent / "data"
GOOD = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "meow"}]}'
GOOD_CHAT = json.loads(GOOD)


def at(line, record=None):
    """A record as the loaders return it: with the line of the file where it begins."""
    return {**(GOOD_CHAT if record is None else record), "line": line}


@pytest.fixture
def write(tmp_path):
    """write("text" or b"bytes") -> path of a file that holds it."""

    def write_file(content):
        path = tmp_path / "file.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def reasons(problems):
    return {problem.line: problem.reason for problem in problems}


# ---------------------------------------------------------------------------------------- text


def test_text_comes_as_it_is(write):
    assert load_text(DATA / "story.txt") == (DATA / "story.txt").read_text(encoding="utf-8")
    assert load_text(write("miau 🐱\u2028 <|pad|> \x0c")) == "miau 🐱\u2028 <|pad|> \x0c"


def test_byte_order_mark_and_line_ends(write):
    assert load_text(write(b"\xef\xbb\xbfone\r\ntwo\rthree\n")) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "the file is empty"),
        (b" \r\n\t", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"cat\x00fish", "byte 3 is zero"),
        (b"caf\xe9 au lait", r"byte 3 \(0xe9\) is no UTF-8; save the file as UTF-8"),
        (b"\xf0\x9f\x90", r"byte 0 \(0xf0\) is no UTF-8"),
        ("cat".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is no text"),
    ],
)
@pytest.mark.parametrize("load", [load_text, load_chats, load_preferences, load_questions])
def test_files_that_are_no_text(write, load, content, complaint):
    path = write(content)
    with pytest.raises(RecordError, match=complaint) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        load_text(tmp_path / "nothing")
    with pytest.raises(RecordError, match="cannot be read"):
        load_text(tmp_path)


# --------------------------------------------------------------------------------------- chats


def test_chats():
    chats, problems = load_chats(DATA / "chats.jsonl")
    assert [len(chat["messages"]) for chat in chats] == [2, 5, 2]
    assert [chat["line"] for chat in chats] == [1, 2, 9]
    assert all(chat.keys() == {"messages", "line"} for chat in chats)
    assert chats[2]["messages"][1] == {"role": "assistant", "content": "23 🐟"}
    found = reasons(problems)
    assert list(found) == [3, 5, 6, 7, 8]  # line 4 is blank, and that is no problem
    assert "'assistant' at the beginning" in found[3]
    assert "'user' after 'user'" in found[5]
    assert "(assistant) is empty" in found[6]
    assert "unknown role 'pirate'" in found[7]
    assert "no valid JSON" in found[8]


def test_sharegpt():
    chats, problems = load_chats(DATA / "chats_sharegpt.json")
    roles = [[message["role"] for message in chat["messages"]] for chat in chats]
    assert roles == [["system", "user", "assistant"], ["user", "assistant", "tool", "assistant"]]
    assert chats[0]["messages"][1]["content"] == "who caught the fish?"
    assert [chat["line"] for chat in chats] == [2, 17]
    assert reasons(problems).keys() == {10}  # the line where that record begins
    assert "turn 2 is from 'parrot'" in problems[0].reason


def test_alpaca():
    chats, problems = load_chats(DATA / "chats_alpaca.json")
    assert [chat["messages"][0]["content"] for chat in chats] == [
        "Name a food that kittens like.",
        "Repair the sentence.\n\nthe cat sit on wall",
    ]
    assert chats[1] == {
        "messages": [
            {"role": "user", "content": "Repair the sentence.\n\nthe cat sit on wall"},
            {"role": "assistant", "content": "The cat sits on the wall."},
        ],
        "line": 3,
    }
    assert reasons(problems) == {4: '"output" is empty'}


def test_every_chat_that_is_returned_is_valid():
    for name in ["chats.jsonl", "chats_sharegpt.json", "chats_alpaca.json"]:
        for chat in load_chats(DATA / name)[0]:
            check_messages(chat["messages"])


@pytest.mark.parametrize(
    "bad, reason",
    [
        ("hello", "no valid JSON, character 1 of the record"),
        ('"hello"', "a record must be a JSON object, this is 'hello'"),
        ("null", "must be a JSON object, this is None"),
        ("17", "must be a JSON object"),
        ("{}", 'no "messages", "conversations" or "instruction" in this record, there is []'),
        ('{"text": "x"}', "there is ['text']"),
        ('{"messages": "hi"}', "messages must be a list, got str"),
        ('{"messages": [[]]}', "message 1 must be a dict, got list"),
        ('{"messages": []}', "no messages"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "the assistant says nothing"),
        ('{"messages": [{"role": "user", "content": 7}]}', '"content" must be a string, got int'),
        ('{"messages": [{"role": "user", "text": "hi"}]}', 'message 1 has no key "content"'),
        ('{"messages": NaN}', "NaN is no JSON number"),
        ('{"messages": [], "score": -Infinity}', "-Infinity is no JSON number"),
        ('{"messages": [], "messages": []}', "the key 'messages' occurs twice"),
        ('{"messages": [{"role": "user", "role": "tool"}]}', "the key 'role' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"messages": ' + "[" * 100_000, "nested too deeply"),
        *[("[" * deep + "]" * deep, "") for deep in range(880, 1000, 7)],  # near Python's limit
        ('{"conversations": [{"value": "", "from": ' + "[" * 950 + "]" * 950 + "}]}", ""),
        ('{"messages": ' + "9" * 10_000 + "}", ""),  # too many digits, or a number: both are wrong
        (GOOD + GOOD, 'something follows the record: \'{"messages"'),
        (GOOD[:-2], "no valid JSON"),
        (GOOD.replace("meow", "\\ud83d"), "half a surrogate pair"),
        (GOOD.replace("meow", "me\tow"), "Invalid control character"),
        ('{"conversations": {}}', '"conversations" must be a list, got dict'),
        ('{"conversations": ["hi"]}', 'turn 1 must be {"from": ..., "value": ...}'),
        ('{"conversations": [{"from": ["a"], "value": "b"}]}', "turn 1 is from ['a']"),
        ('{"conversations": [{"from": "human", "value": 1}]}', '"content" must be a string'),
        ('{"instruction": 5, "output": "x"}', '"instruction" must be a string, got int'),
        ('{"instruction": "x"}', "the key \"output\" is missing, there is ['instruction']"),
        ('{"instruction": "x", "input": 5, "output": "x"}', '"input" must be a string, got int'),
    ],
)
def test_a_bad_record_is_reported_and_skipped(write, bad, reason):
    path = write(f"{GOOD}\n{bad}\n{GOOD}\n")
    chats, problems = load_chats(path)
    assert chats == [at(1), at(3)]
    assert [(problem.file, problem.line) for problem in problems] == [(str(path), 2)]
    assert reason in problems[0].reason
    assert len(problems[0].reason) < 250 and problems[0].reason.isprintable()
    with pytest.raises(RecordError, match="line 2: .*; correct or remove this record"):
        load_chats(path, strict=True)


def test_other_keys_are_left_out(write):
    record = {"id": 7, "messages": [message | {"weight": 1} for message in GOOD_CHAT["messages"]]}
    assert load_chats(write(json.dumps(record))) == ([at(1)], [])


@pytest.mark.parametrize("form", ["messages", "conversations", "alpaca"])
def test_a_task_is_kept(write, form):
    """The balancing step of the SFT chapter counts tasks."""
    question, reply = (message["content"] for message in GOOD_CHAT["messages"])
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    record = {
        "messages": GOOD_CHAT,
        "conversations": {"conversations": turns},
        "alpaca": {"instruction": question, "output": reply},
    }[form]
    chats, problems = load_chats(write(json.dumps({"task": "greeting"} | record)))
    assert chats == [at(1, GOOD_CHAT | {"task": "greeting"})] and not problems


@pytest.mark.parametrize("task", [7, None, True, ["greeting"], {"name": "greeting"}])
def test_a_task_that_is_no_word_is_left_out(write, task):
    """Like any other key that we do not know: it does not make the conversation bad."""
    assert load_chats(write(json.dumps(GOOD_CHAT | {"task": task}))) == ([at(1)], [])


def test_a_line_in_the_file_is_not_believed(write):
    assert load_chats(write(json.dumps(GOOD_CHAT | {"line": 99}))) == ([at(1)], [])


# ------------------------------------------------------------------------------- JSON and JSONL


@pytest.mark.parametrize(
    "content, lines",
    [
        (f"{GOOD}\n{GOOD}", (1, 2)),
        (f"\ufeff{GOOD}\r\n\r\n  {GOOD}  \r\n\r\n", (1, 3)),  # byte order mark, blank lines
        (f"[{GOOD}, {GOOD}]", (1, 1)),
        (f"\n [\n{GOOD}\n,\n{GOOD}\n]\n", (3, 5)),
        (json.dumps([GOOD_CHAT, GOOD_CHAT], indent=4), (2, 14)),  # where each record begins
    ],
)
def test_all_file_forms_hold_the_same(write, content, lines):
    assert load_chats(write(content)) == ([at(line) for line in lines], [])


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_one_record(write, indent):
    assert load_chats(write(json.dumps(GOOD_CHAT, indent=indent))) == ([at(1)], [])
    assert load_chats(write("\n\n" + json.dumps(GOOD_CHAT, indent=indent))) == ([at(3)], [])


def test_only_line_breaks_end_a_line(write):
    odd = GOOD.replace("meow", "one\u2028two\x85three")  # str.splitlines would cut here
    chats, problems = load_chats(write(f"{odd}\n{odd}"))
    assert [chat["line"] for chat in chats] == [1, 2] and not problems


@pytest.mark.parametrize(
    "content, line, reason",
    [
        (f"[\n{GOOD},\n{GOOD}", 3, 'here "," or the end of the list was expected'),
        (f"[\n{GOOD},\n{GOOD},\n", 4, "no valid JSON"),
        (f"[\n{GOOD},\n{GOOD}\n{GOOD}]", 4, "expected; the rest was not read"),
        (f"[\n{GOOD},\n{GOOD},]\n[]", 3, "expected; the rest was not read"),
        (f"[\n{GOOD},\n{GOOD}]\n[]", 3, "expected; the rest was not read"),
        (f'[\n{GOOD},\n{GOOD},\n{{"messages": oops}}, {GOOD}]', 4, "was not read from here on"),
        (f'[\n{GOOD},\n{{"messages": NaN}},\n{GOOD}]', 3, "NaN is no JSON number"),
        (f"[\n{GOOD},\n{'[' * 100_000}\n{GOOD}]", 3, "nested too deeply"),
    ],
)
def test_a_broken_list_keeps_what_was_good(write, content, line, reason):
    chats, problems = load_chats(write(content))
    assert chats[0] == at(2)
    assert [problem.line for problem in problems] == [line]
    assert reason in problems[0].reason
    if "nested" not in reason and "oops" not in content:
        assert len(chats) == 2  # both records are there in all but the deep one


@pytest.mark.parametrize(
    "content, why",
    [
        ("[]", "the list is empty"),
        ('{"text": "x"}\n{"text": "y"}', 'line 1: no "messages"'),
        ("Once upon a time\nthere was a cat.", "line 1: no valid JSON"),
        ("[" * 1000_000, "line 1: brackets are nested too deeply"),
    ],
)
def test_a_file_without_a_usable_record(write, content, why):
    with pytest.raises(RecordError, match="no usable JSON or JSONL record") as caught:
        load_chats(write(content))
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_single_line_of_ten_megabytes(write):
    huge = json.loads(GOOD)
    huge["messages"][1]["content"] = "meow " * 2_000_000
    chats, problems = load_chats(write(json.dumps(huge)))
    assert chats == [at(1, huge)] and not problems
    path = write(GOOD + "\n" + json.dumps(huge)[:-3])
    chats, problems = load_chats(path)
    assert len(chats) == 1 and problems[0].line == 2 and len(problems[0].reason) < 200
    assert len(load_text(path)) > 10_000_000


def test_many_records_keep_their_line_numbers(write):
    lines = [GOOD] * 20_000
    lines[12_345] = "{}"
    for content in ["\n".join(lines), "[\n" + ",\n".join(lines) + "]"]:
        chats, problems = load_chats(write(content))
        assert len(chats) == 19_999
        first = 1 + content.startswith("[")
        assert problems[0].line == first + 12_345
        lines = [chat["line"] for chat in chats]
        assert lines == [first + place for place in range(20_000) if place != 12_345]


# ---------------------------------------------------------------------- preferences, questions


def test_preferences():
    pairs, problems = load_preferences(DATA / "preferences.jsonl")
    assert pairs == [
        {
            "prompt": [{"role": "user", "content": "may i eat chocolate?"}],
            "chosen": "no, chocolate is bad for cats.",
            "rejected": "sure, eat it all.",
            "line": 1,
        },
        {
            "prompt": [{"role": "user", "content": "hello"}],
            "chosen": "hello, my dear!",
            "rejected": "go away.",
            "line": 2,
        },
        {
            "prompt": [{"role": "user", "content": "hello"}],
            "chosen": "good day!",  # the file repeats the prompt before it
            "rejected": "what now?",
            "line": 3,
        },
    ]
    found = reasons(problems)
    assert '"chosen" and "rejected" are equal' in found[4]
    assert '"chosen" is empty' in found[5]
    assert 'the key "rejected" is missing' in found[6]
    assert "the prompt must end with the user" in found[7]
    assert '"chosen" must be one assistant message, with or without the prompt' in found[8]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"prompt": ""}, '"prompt" is empty'),
        ({"prompt": []}, "no messages"),
        ({"prompt": None}, '"prompt" must be a string, got NoneType'),
        ({"chosen": []}, '"chosen" must be one assistant message'),
        ({"chosen": [{"role": "user", "content": "hi"}]}, "message 2 is 'user' after 'user'"),
        ({"chosen": {"text": "hi"}}, '"chosen" must be a string, got dict'),
        ({"rejected": [7]}, "message 2 must be a dict, got int"),
    ],
)
def test_bad_preferences(write, change, reason):
    good = {"prompt": "hi", "chosen": "meow", "rejected": "grr"}
    pairs, problems = load_preferences(write(f"{json.dumps(good)}\n{json.dumps(good | change)}"))
    asked = [{"role": "user", "content": "hi"}]
    assert pairs == [{"prompt": asked, "chosen": "meow", "rejected": "grr", "line": 1}]
    assert problems[0].line == 2
    assert reason in problems[0].reason


def test_questions():
    questions, problems = load_questions(DATA / "questions.jsonl")
    assert questions == [
        {
            "question": "Tilly has 3 fish and catches 4 more. How many fish has she?",
            "solution": "She has 3 + 4 = 7 fish.",
            "answer": "7",
            "line": 1,
        },
        {
            "question": "A shop sells 12 boxes of 100 herrings. How many herrings?",
            "solution": "12 * 100 = 1200.",
            "answer": "1200",
            "line": 2,
        },
    ]
    found = reasons(problems)
    assert "no final answer behind ####" in found[3]
    assert "no final answer behind ####" in found[4]
    assert '"question" is empty' in found[5]


# ------------------------------------------------------------------------------------ reporting


def test_report_names_the_first_and_counts_the_rest():
    problems = [Problem("chats.jsonl", line, "is empty") for line in range(1, 9)]
    assert report_problems(problems, limit=2) == (
        "8 records were skipped:\n"
        "  chats.jsonl, line 1: is empty\n"
        "  chats.jsonl, line 2: is empty\n"
        "  ... and 6 more"
    )
    one = report_problems(problems[:1])
    assert one == "1 record was skipped:\n  chats.jsonl, line 1: is empty"
    assert report_problems([]) == ""
