"""Reading the user's own files: text, conversations, preferences, questions.

One idea: real files are dirty, and a program that dies on line 7,000 is as bad as one that trains
on rubbish without a word. A bad record is skipped and reported as a `Problem` with its line, its
reason and the file; a file that cannot be used at all is a `RecordError` that says what to do.

Two file forms, told apart by looking: JSON (a list of records) and JSONL (one record per line).

    load_text          any plain text
    load_chats         {"messages": [{"role", "content"}]}, ShareGPT {"conversations": [{"from",
                       "value"}]}, Alpaca {"instruction", "input", "output"}
    load_preferences   {"prompt", "chosen", "rejected"}, as strings or as message lists
    load_questions     GSM8K {"question", "answer"}, the final answer behind ####

Each takes a path, or a file that was read already (data_file.py).

Read before:  data_file.py; chat.py, for what makes a conversation valid.
Left out:  compressed files.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kittenllm.chat import check_messages
from kittenllm.data_file import DataFile, RecordError, read_data_file

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_SPACE = re.compile(r"[ \t\n\r]*")
MAX_NAMED = 60  # characters of a file's own words that a message repeats


@dataclass(frozen=True)
class Problem:
    """One record that was skipped: where it stands (lines count from 1) and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


def report_problems(problems: list[Problem], limit: int = 5) -> str:
    """The first `limit` problems, one per line, and how many more there are; "" if none."""
    if not problems:
        return ""
    many = "1 record was" if len(problems) == 1 else f"{len(problems)} records were"
    lines = [f"{many} skipped:", *(f"  {problem}" for problem in problems[:limit])]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)


def load_text(path: str | Path | DataFile) -> str:
    """Read a plain UTF-8 text; a byte order mark is dropped, every line end becomes \\n.

    Raises:  RecordError for a file that is missing, empty, packed, binary or no UTF-8.
    """
    return read_data_file(path).text


def load_chats(
    path: str | Path | DataFile, *, strict: bool = False
) -> tuple[list[dict[str, list]], list[Problem]]:
    """Read conversations -> ([{"messages": [{"role", "content"}, ...], "line": 3}, ...], problems).

    A record's "task", a word that says what the conversation is about, is kept where there is one.

    Raises:  RecordError if the file cannot be read or no record is good; with strict=True already
        at the first bad record.
    """
    return _load(path, _read_chat, strict=strict)


def load_preferences(
    path: str | Path | DataFile, *, strict: bool = False
) -> tuple[list[dict[str, list | str]], list[Problem]]:
    """Read pairs -> ([{"prompt": messages, "chosen": str, "rejected": str}, ...], problems).

    Raises:  as `load_chats`.
    """
    return _load(path, _read_preference, strict=strict)


def load_questions(
    path: str | Path | DataFile, *, strict: bool = False
) -> tuple[list[dict[str, str]], list[Problem]]:
    """Read word problems -> ([{"question", "solution", "answer"}, ...], problems).

    `solution` is the text before ####, `answer` what stands behind it, without commas: "1200".

    Raises:  as `load_chats`.
    """
    return _load(path, _read_question, strict=strict)


# ---------------------------------------------------------------------- one record of each kind


def _text_of(record: dict, key: str) -> str:
    """The non-empty string under `key`, or ValueError."""
    if key not in record:
        raise ValueError(f'the key "{key}" is missing, there is {_named(list(record))}')
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f'"{key}" must be a string, got {type(value).__name__}')
    if not value.strip():
        raise ValueError(f'"{key}" is empty')
    return value


def _read_chat(record: dict) -> dict[str, list]:
    """One conversation in any of the three forms -> {"messages": [...]}, or ValueError."""
    if "messages" in record:
        messages = _plain_messages(record["messages"])
    elif "conversations" in record:
        messages = _sharegpt_messages(record["conversations"])
    elif "instruction" in record:
        question = _text_of(record, "instruction")
        if record.get("input", "") != "":
            more = record["input"]
            if not isinstance(more, str):
                raise ValueError(f'"input" must be a string, got {type(more).__name__}')
            question = f"{question}\n\n{more}"
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": _text_of(record, "output")},
        ]
    else:
        raise ValueError(
            'no "messages", "conversations" or "instruction" in this record, '
            f"there is {_named(list(record))}"
        )
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("the assistant says nothing, so there is nothing to learn")
    task = record.get("task")
    return {"messages": messages} | ({"task": task} if isinstance(task, str) else {})


def _plain_messages(messages: object) -> list[dict[str, str]]:
    """Checked messages with nothing but role and content."""
    check_messages(messages)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _sharegpt_messages(turns: object) -> list[dict[str, str]]:
    """ShareGPT's {"from": "human", "value": "hi"} -> {"role": "user", "content": "hi"}."""
    if not isinstance(turns, list):
        raise ValueError(f'"conversations" must be a list, got {type(turns).__name__}')
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise ValueError(f'turn {number} must be {{"from": ..., "value": ...}}')
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise ValueError(f"turn {number} is from {_named(speaker)}; known: {known}")
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn["value"]})
    return _plain_messages(messages)


def _read_preference(record: dict) -> dict[str, list | str]:
    """One pair of replies, or ValueError."""
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        messages = _plain_messages(prompt)
        if messages[-1]["role"] not in ("user", "tool"):
            raise ValueError("the prompt must end with the user, so that a reply can follow")
    else:
        messages = [{"role": "user", "content": _text_of(record, "prompt")}]
    chosen = _reply_of(record, "chosen", messages)
    rejected = _reply_of(record, "rejected", messages)
    if chosen.strip() == rejected.strip():
        raise ValueError('"chosen" and "rejected" are equal')
    return {"prompt": messages, "chosen": chosen, "rejected": rejected}


def _reply_of(record: dict, key: str, prompt: list[dict[str, str]]) -> str:
    """The reply under `key`: a string, [assistant message], or prompt + [assistant message]."""
    reply = record.get(key)
    if not isinstance(reply, list):
        return _text_of(record, key)
    repeats_prompt = len(reply) > 1
    messages = _plain_messages(reply if repeats_prompt else [*prompt, *reply])
    if messages[:-1] != prompt or messages[-1]["role"] != "assistant":
        raise ValueError(f'"{key}" must be one assistant message, with or without the prompt')
    return messages[-1]["content"]


def _read_question(record: dict) -> dict[str, str]:
    """One word problem, or ValueError."""
    question = _text_of(record, "question")
    solution, mark, answer = _text_of(record, "answer").rpartition("####")
    answer = answer.strip().replace(",", "")
    if not mark or not answer:
        raise ValueError('"answer" has no final answer behind ####')
    return {"question": question, "solution": solution.strip(), "answer": answer}


# ----------------------------------------------------------------------------- files of records


def _load(
    source: str | Path | DataFile, read: Callable[[dict], dict], *, strict: bool
) -> tuple[list[dict], list[Problem]]:
    """Read every record of a file with `read`; its ValueErrors become problems."""
    data = read_data_file(source)
    path = data.path
    records: list[dict] = []
    problems: list[Problem] = []
    for line, value, reason in _json_values(data.text):
        try:
            if reason:
                raise ValueError(reason)
            if not isinstance(value, dict):
                raise ValueError(f"a record must be a JSON object, this is {_named(value)}")
            record = read(value)
            _check_surrogates(record)
            records.append({**record, "line": line})
        except (ValueError, RecursionError) as error:  # the latter from repr of deep brackets
            problem = Problem(path, line, str(error))
            if strict:
                raise RecordError(f"{problem}; correct or remove this record") from error
            problems.append(problem)
    if not records:
        why = f"line {problems[0].line}: {problems[0].reason}" if problems else "the list is empty"
        raise RecordError(f"{path}: there is no usable JSON or JSONL record in it; {why}")
    return records, problems


def _check_surrogates(record: dict) -> None:
    """Refuse text with half a character, "\\ud83d", that no file or terminal can show."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half a surrogate pair, a broken character") from error


def _named(value: object) -> str:
    """A value from a file as it may stand in a message: on one line and not too long."""
    shown = repr(value)
    return shown if len(shown) <= MAX_NAMED else shown[:MAX_NAMED] + "..."


# ------------------------------------------------------------------------------ JSON and JSONL


def _json_values(text: str) -> Iterator[tuple[int, object, str]]:
    """The values of a JSON or JSONL text as (line, value, "") or (line, None, what is wrong)."""
    start = _skip_space(text, 0)
    if text.startswith("[", start):
        yield from _list_values(text, start + 1)
        return
    value, end, reason = _decode(text, start)
    if end is not None and _skip_space(text, end) == len(text):  # the whole file is one record
        yield text.count("\n", 0, start) + 1, value, reason
        return
    # Only \n ends a line of JSONL: str.splitlines would also cut at U+2028, allowed in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            value, end, reason = _decode(line, _skip_space(line, 0))
            if end is not None and _skip_space(line, end) < len(line):
                reason = reason or f"something follows the record: {_named(line[end:].strip())}"
            yield number, value, reason


def _list_values(text: str, at: int) -> Iterator[tuple[int, object, str]]:
    """The same for a JSON list, whose "[" stands just before `at`."""
    line = text.count("\n", 0, at) + 1
    comma = ","
    while comma == ",":
        start = _skip_space(text, at)
        line += text.count("\n", at, start)
        if text.startswith("]", start):  # an empty list, or a comma too many
            at, comma = start + 1, "]"
            break
        value, end, reason = _decode(text, start)
        if end is None:
            yield line, None, f"{reason}; the file was not read from here on"
            return
        yield line, value, reason
        at = _skip_space(text, end)
        line += text.count("\n", start, at)
        comma = text[at : at + 1]
        at += 1
    if comma != "]" or _skip_space(text, at) < len(text):
        yield line, None, 'here "," or the end of the list was expected; the rest was not read'


def _skip_space(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no white space of JSON."""
    return _SPACE.match(text, at).end()


def _decode(text: str, start: int) -> tuple[object, int | None, str]:
    """One JSON value from `start` on -> (value, its end, ""), (value, its end, what is wrong with
    it), or (None, None, what is wrong) if one cannot even tell where it ends."""
    faults = []

    def refuse_constant(name: str) -> None:
        faults.append(f"{name} is no JSON number")

    def refuse_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
        record = dict(pairs)
        if len(record) < len(pairs):
            [(twin, _)] = Counter(key for key, _ in pairs).most_common(1)
            faults.append(f"the key {_named(twin)} occurs twice")
        return record

    decoder = json.JSONDecoder(parse_constant=refuse_constant, object_pairs_hook=refuse_twins)
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        place = error.pos - start + 1
        return None, None, f"no valid JSON, character {place} of the record: {error.msg}"
    except RecursionError:
        return None, None, "brackets are nested too deeply"
    except ValueError as error:  # a whole number of thousands of digits
        return None, None, f"no valid JSON: {error}"
    return value, end, faults[0] if faults else ""
