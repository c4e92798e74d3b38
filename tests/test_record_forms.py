"""Every form of record that people bring: read whole, or refused with a reason."""

import json

import pytest

from kittenllm.chat import encode_chat
from kittenllm.records import (
    RecordError,
    load_chats,
    load_preferences,
    load_questions,
    report_problems,
    skipped,
)
from kittenllm.tokenizer import Tokenizer

LETTERS = Tokenizer({bytes([byte]): byte for byte in range(256)})
HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "meow"}]


@pytest.fixture
def load(tmp_path):
    """load(reader, record, ...) -> (records without their lines, all reasons)."""

    def load_records(reader, *records, content=None):
        path = tmp_path / "file.jsonl"
        path.write_text(content or "\n".join(map(json.dumps, records)), encoding="utf-8")
        try:
            found, problems = reader(path)
        except RecordError as error:
            return [], [str(error)]
        for record in found:
            del record["line"]
        return found, [problem.reason for problem in problems]

    return load_records


def talk(*said, system=None):
    """user, assistant, user, ... as messages, behind a system message if there is one."""
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": words}
        for number, words in enumerate(said)
    ]
    return ([{"role": "system", "content": system}] if system else []) + turns


def spoken(record):
    """The messages without the marks of what is trained."""
    return [{"role": m["role"], "content": m["content"]} for m in record["messages"]]


# --------------------------------------------------------------------------- forms of conversations

HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant: {}"


@pytest.mark.parametrize(
    "record, messages",
    [
        ({"instruction": "q", "input": "x", "output": "a"}, talk("q\n\nx", "a")),
        ({"instruction": "q", "context": "x", "response": "a"}, talk("q\n\nx", "a")),  # Dolly
        ({"instruction": "q", "context": "", "response": "a"}, talk("q", "a")),
        (
            {"instruction": "q", "output": "a", "system": "s", "history": [["b", "c"], ["d", "e"]]},
            talk("b", "c", "d", "e", "q", "a", system="s"),
        ),
        ({"prompt": "q", "response": "a"}, talk("q", "a")),
        ({"prompt": "q", "completion": "a", "system": "s"}, talk("q", "a", system="s")),
        ({"prompt": HI[:1], "completion": HI[1:]}, HI),
        ({"prompt": HH.format(""), "response": "ciao"}, talk("hi", "hello", "bye", "ciao")),
        ({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt",
          "value": "a"}]}, talk("q", "a", system="s")),
        ({"conversations": HI, "system_prompt": "s"}, talk("hi", "meow", system="s")),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         talk("q", "a")),
        ({"messages": talk("q", "a", system="s"), "system": "s"}, talk("q", "a", system="s")),
        ({"messages": [{"role": "developer", "content": "s"}, *HI]},
         talk("hi", "meow", system="s")),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, HI[1]]},
         talk("a\nb", "meow")),
        ({"system": [{"type": "text", "text": "s"}], "messages": HI},
         talk("hi", "meow", system="s")),
        ({"id": "7", "data": ["q", "a", "b", "c"]}, talk("q", "a", "b", "c")),  # UltraChat
        ({"data": ["q", "a"], "system": "s"}, talk("q", "a", system="s")),
    ],
)  # fmt: skip
def test_a_conversation_is_read_whole(load, record, messages):
    [found], problems = load(load_chats, record)
    assert spoken(found) == messages and problems == []


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"messages": talk("q", "a", system="s"), "system": "t"}, "message 2 is 'system'"),
        ({"messages": HI, "system": 5}, '"system" must be a string, got int'),
        ({"instruction": "q", "output": "a", "history": "b"}, '"history" must be a list, got str'),
        ({"instruction": "q", "output": "a", "history": [["b"]]}, "exchange 1 must be [question"),
        ({"instruction": "q", "output": "a", "history": [["b", None]]}, "message 2"),
        ({"prompt": "q", "response": None}, '"response" must be a string, got NoneType'),
        ({"prompt": "q", "chosen": "a"}, 'the key "response" is missing'),
        ({"id": "7", "data": "q"}, '"data" must be a list of texts'),
        ({"id": "7", "data": ["q", {"a": 1}]}, '"data" must be a list of texts'),
        ({"id": "7", "data": ["q", " "]}, "message 2 (assistant) is empty"),
        ({"id": "7", "data": ["q"]}, "the assistant says nothing"),
        ({"prompt": HI, "response": "a"}, "the prompt must end with the user"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, HI[1]]},
            "message 1: a part of the content is 'image_url', only text is read",
        ),
        ({"messages": [{"role": "user", "content": [7]}, HI[1]]}, "a part of the content is 7"),
        ({"messages": [{"role": "user", "content": []}, HI[1]]}, "message 1 (user) is empty"),
        (
            {"messages": [HI[0], HI[1] | {"tool_calls": [{"function": {"name": "f"}}]}]},
            'message 2 has "tool_calls"',
        ),
        (
            {"messages": [HI[0], HI[1] | {"content": None, "function_call": {"name": "f"}}]},
            'message 2 has "function_call"',
        ),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_read_whole_is_refused(load, record, reason):
    found, problems = load(load_chats, record, {"messages": HI})
    assert len(found) == 1 and reason in problems[0]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "hi", "input": None, "output": "meow", "history": None, "system": None},
        {"instruction": "hi", "context": None, "response": "meow", "output": None},
        {"messages": None, "conversations": [{"from": "human", "value": "hi"},
                                             {"from": "gpt", "value": "meow", "weight": None}]},
        {"messages": None, "conversations": None, "instruction": "hi", "output": "meow"},
        {"prompt": "hi", "response": None, "completion": "meow", "messages": None, "task": None},
        {"messages": [{**turn, "tool_calls": None, "train": None, "name": None} for turn in HI]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "image": None}]},
                      HI[1] | {"tool_calls": []}], "weight": None},
    ],
)  # fmt: skip
def test_null_is_absent(load, record):
    assert load(load_chats, record) == ([{"messages": HI}], [])


# ------------------------------------------------------------------------------- what is trained


def trained_text(record):
    chat = encode_chat(LETTERS, record["messages"])
    pairs = zip(chat.tokens, chat.loss_mask, strict=True)
    return LETTERS.decode([token for token, trained in pairs if trained])


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False},
     {"weight": 0, "train": False}, {"train": 0}],
)  # fmt: skip
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_a_marked_answer_is_read_but_not_trained(load, mark, form):
    messages = talk("2+2?", "BAD", "no", "4")
    messages[1] |= mark
    record = {"messages": messages}
    if form == "sharegpt":
        names = {"user": "human", "assistant": "gpt"}
        record = {"conversations": [
            {"from": names[m.pop("role")], "value": m.pop("content"), **m} for m in messages
        ]}  # fmt: skip
    [found], problems = load(load_chats, record)
    assert spoken(found) == talk("2+2?", "BAD", "no", "4") and problems == []
    assert trained_text(found) == "4<|im_end|>"


def test_what_is_to_be_trained_is_trained(load):
    messages = talk("2+2?", "4", "sure?", "yes")
    messages[1] |= {"weight": 1, "train": True}
    [found], problems = load(load_chats, {"messages": messages, "weight": 1, "train": True})
    assert found == {"messages": talk("2+2?", "4", "sure?", "yes")} and problems == []
    assert trained_text(found) == "4<|im_end|>yes<|im_end|>"


def test_a_prompt_is_read_only(load):
    [found], _ = load(load_chats, {"prompt": talk("hi", "BAD", "no"), "completion": "4"})
    assert trained_text(found) == "4<|im_end|>"


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"messages": [HI[0], HI[1] | {"weight": 0}]}, "all that the assistant says is marked as"),
        ({"messages": [HI[0], HI[1] | {"weight": 0.5}]}, '"weight" must be 0 or 1, false or true'),
        ({"messages": [HI[0], HI[1] | {"weight": -1}]}, "got -1"),
        ({"messages": [HI[0], HI[1] | {"train": "false"}]}, 'message 2: "train" must be 0 or 1'),
        ({"messages": [HI[0], HI[1] | {"weight": [0]}]}, "got [0]"),
        ({"messages": [HI[0], HI[1] | {"weight": 1, "train": False}]}, "contradict each other"),
        ({"messages": HI, "weight": 0}, "the record says that it is not to be trained"),
        ({"messages": HI, "train": False}, "the record says that it is not to be trained"),
        ({"messages": HI, "weight": 0.3}, '"weight" must be 0 or 1'),
    ],
)
def test_nothing_to_train_and_odd_marks_are_refused(load, record, reason):
    found, problems = load(load_chats, record, {"messages": HI})
    assert len(found) == 1 and reason in problems[0]


# ------------------------------------------------------------------------------------- preferences


@pytest.mark.parametrize(
    "record, prompt",
    [
        ({"chosen": HH.format("ciao"), "rejected": HH.format("no")}, talk("hi", "hello", "bye")),
        (
            {"prompt": HH.format(""), "chosen": "ciao", "rejected": "no"},
            talk("hi", "hello", "bye"),
        ),
        ({"prompt": None, "chosen": talk("q", "ciao"), "rejected": talk("q", "no")}, talk("q")),
        (
            {"chosen": talk("q", "ciao", system="s"), "rejected": talk("q", "no", system="s")},
            talk("q", system="s"),
        ),
        ({"system": "s", "prompt": "q", "chosen": "ciao", "rejected": "no"}, talk("q", system="s")),
        (
            {"system": "s", "prompt": "q", "chosen": talk("q", "ciao"), "rejected": "no"},
            talk("q", system="s"),
        ),
        ({"system": None, "prompt": "q", "chosen": "ciao", "rejected": "no"}, talk("q")),
        (
            {"prompt": "q", "chosen": talk("", "ciao")[1], "rejected": talk("", "no")[1]},
            talk("q"),
        ),
        (  # orca_dpo_pairs
            {"system": "s", "question": "q", "chosen": "ciao", "rejected": "no"},
            talk("q", system="s"),
        ),
        ({"system": "", "question": "q", "chosen": "ciao", "rejected": "no"}, talk("q")),
        (
            {"prompt": None, "question": "q", "chosen": talk("q", "ciao"), "rejected": "no"},
            talk("q"),
        ),
    ],
)
def test_a_pair_is_read_with_its_whole_prompt(load, record, prompt):
    [found], problems = load(load_preferences, record)
    assert found == {"prompt": prompt, "chosen": "ciao", "rejected": "no"} and problems == []


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"chosen": talk("q", "a"), "rejected": talk("p", "b")}, "must be the same but for the"),
        ({"chosen": HH.format("a"), "rejected": HH.format("")}, "message 4 (assistant) is empty"),
        ({"chosen": talk("q", "a"), "rejected": "b"}, ""),
        ({"chosen": "a", "rejected": "b"}, 'the key "prompt" is missing'),
        ({"question": "", "chosen": "a", "rejected": "b"}, '"question" is empty'),
        ({"question": "q", "chosen": talk("p", "a"), "rejected": "b"}, "must be one assistant"),
        ({"prompt": "q", "chosen": [HI[1] | {"weight": 0}], "rejected": "b"}, "not to be trained"),
        ({"prompt": "q", "chosen": [HI[1] | {"tool_calls": [1]}], "rejected": "b"}, "tool_calls"),
    ],
)
def test_a_pair_that_cannot_be_read_whole_is_refused(load, record, reason):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    found, problems = load(load_preferences, record, good)
    if reason:
        assert len(found) == 1 and reason in problems[0]
    else:  # a reply without its prompt is a reply
        assert found[0] == {"prompt": talk("q"), "chosen": "a", "rejected": "b"}


# ------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "written, read",
    [("1,200", "1200"), ("12,345,678", "12345678"), ("-1,200.50", "-1200.50"), ("$1,200", "$1200"),
     ("3,5", "3,5"), ("1,2", "1,2"), ("12,34", "12,34"), ("1.200,50", "1.200,50"),
     ("0,500", "0,500"), ("1,2,3", "1,2,3"), ("1200,500", "1200,500"), ("72", "72")],
)  # fmt: skip
def test_only_commas_of_thousands_go(load, written, read):
    [found], _ = load(load_questions, {"question": "q", "answer": f"s\n#### {written}"})
    assert found["answer"] == read


def test_what_the_system_says_stands_before_the_question(load):
    [found], problems = load(load_questions, {"system": "s", "question": "q", "answer": "#### 1"})
    assert found["question"] == "s\n\nq" and problems == []


# ----------------------------------------------------------------------------- keys without a use


def test_a_key_without_a_use_is_named_once(load):
    chats = [{"messages": [HI[0], HI[1] | {"reasoning_content": "hm"}], "id": n} for n in range(12)]
    chats[3] |= {"tools": [{"name": "f"}], "source": "web", "conversations": HI}
    chats[4]["messages"][0] = HI[0] | {"name": "", "train": True}
    found, problems = load(load_chats, *chats)
    assert len(found) == 12
    assert problems == [
        "12 records have reasoning_content: not used",
        "1 record has conversations: not used",
        "1 record has tools: not used",
        "1 record has '\"train\" of a \\'user\\' message': not used",
    ]
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 0}
    assert load(load_preferences, pair)[1] == [
        "1 record has score_chosen: not used",
        "1 record has score_rejected: not used",
    ]
    question = {"question": "q", "answer": "#### 1", "context": "c"}
    assert load(load_questions, question)[1] == ["1 record has context: not used"]
    dolly = {"instruction": "q", "response": "a", "output": None, "category": "qa"}
    assert load(load_chats, dolly)[1] == ["1 record has category: not used"]


def test_a_key_without_a_use_costs_no_record(tmp_path):
    path = tmp_path / "file.jsonl"
    records = [{"messages": HI, "note": "x"}, {"messages": []}, {"messages": HI, "note": "y"}]
    path.write_text("\n".join(map(json.dumps, records)))
    _, problems = load_chats(path)
    assert [problem.line for problem in skipped(problems)] == [2]
    assert report_problems(problems) == (
        f"1 record was skipped:\n  {path}, line 2: the conversation has no messages\n"
        f"{path}, line 1: 2 records have note: not used"
    )
    path.write_text(json.dumps(records[0]))
    _, problems = load_chats(path, strict=True)  # not worth stopping for
    assert report_problems(problems) == f"{path}, line 1: 1 record has note: not used"


# ---------------------------------------------------------------------------------- forms of files


@pytest.mark.parametrize(
    "content, count",
    [
        (f"{json.dumps(HI)}\n{json.dumps(HI)}\n", 2),  # JSONL of bare lists
        (f"\n{json.dumps(HI)}\n\n{json.dumps(HI)}", 2),
        (json.dumps(HI), 1),
        (json.dumps(HI, indent=2), 1),
        (json.dumps([HI, HI]), 2),
        (json.dumps([HI, HI], indent=1), 2),
        (json.dumps({"data": [{"messages": HI}] * 2}), 2),
        (json.dumps({"version": "1", "data": [{"messages": HI}, HI], "n": 2}, indent=2), 2),
        (json.dumps({"records": [HI]}), 1),
    ],
)
def test_files_of_lists_and_wrapped_lists(load, content, count):
    assert load(load_chats, content=content) == ([{"messages": HI}] * count, [])


def test_the_lines_of_a_wrapped_list_are_right(tmp_path):
    path = tmp_path / "file.json"
    content = {"info": {"by": "me"}, "data": [{"messages": HI}, {"messages": []}]}
    path.write_text(json.dumps(content, indent=2))
    lines = path.read_text().split("\n")
    found, problems = load_chats(path)
    assert lines[found[0]["line"] - 1].strip() == "{"
    assert [(problem.line, problem.reason) for problem in problems] == [
        (2, "'info' beside 'data' was not read"),
        (found[0]["line"] + 12, "the conversation has no messages"),
    ]


def test_a_broken_bare_list_costs_only_itself(load):
    whole = json.dumps(HI)
    found, problems = load(load_chats, content=f"{whole[:-3]}\n{whole}\n{whole}")
    assert len(found) == 2 and len(problems) == 1


def test_a_prompt_wins_over_a_question_and_the_other_is_named(load):
    pair = {"prompt": "p", "question": "q", "chosen": "a", "rejected": "b"}
    [found], problems = load(load_preferences, pair)
    assert found["prompt"] == talk("p") and problems == ["1 record has question: not used"]


def test_bare_lists_are_no_preferences(load):
    found, problems = load(load_preferences, HI, HI)
    assert not found and "must be a JSON object" in problems[0]
