"""Reading the user's own files: text, conversations, preferences, questions.

One idea: real files are dirty, and a program that dies on line 7,000 is as bad as one that trains
on rubbish without a word. A bad record is skipped and reported as a `Problem` with its line, its
reason and the file; a file that cannot be used at all is a `RecordError` that says what to do.

What the records of a file hold and nobody uses is named once, as `Unused`.

File forms, told apart by looking: JSON (a list of records, also inside {"data": [...]}) and JSONL
(one record per line). The forms of a record are in record_forms.py.

    load_text          any plain text
    load_chats         conversations
    load_preferences   prompts, each with a better and a worse reply
    load_questions     word problems with a final answer behind ####

Each takes a path, or a file that was read already (data_file.py).

Read before:  data_file.py, record_forms.py.
Left out:  compressed files.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kittenllm.data_file import DataFile, RecordError, read_data_file
from kittenllm.record_forms import named, read_chat, read_preference, read_question

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Problem:
    """One record that was skipped: where it stands (lines count from 1) and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Unused(Problem):
    """A key that good records have and nobody uses; `line` is the first of them."""


def skipped(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that cost a record."""
    return [problem for problem in problems if not isinstance(problem, Unused)]


def report_problems(problems: list[Problem], limit: int = 5) -> str:
    """The first `limit` skipped records, one per line, and how many more there are; then the keys
    that are not used, likewise; "" if there is neither."""
    bad = skipped(problems)
    unused = [problem for problem in problems if isinstance(problem, Unused)]
    lines = []
    if bad:
        many = "1 record was" if len(bad) == 1 else f"{len(bad)} records were"
        lines.append(f"{many} skipped:")
    for few in (bad, unused):
        lines += [f"  {problem}" if few is bad else str(problem) for problem in few[:limit]]
        if len(few) > limit:
            lines.append(f"  ... and {len(few) - limit} more")
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
    return _load(path, read_chat, strict=strict)


def load_preferences(
    path: str | Path | DataFile, *, strict: bool = False
) -> tuple[list[dict[str, list | str]], list[Problem]]:
    """Read pairs -> ([{"prompt": messages, "chosen": str, "rejected": str}, ...], problems).

    Raises:  as `load_chats`.
    """
    return _load(path, read_preference, strict=strict)


def load_questions(
    path: str | Path | DataFile, *, strict: bool = False
) -> tuple[list[dict[str, str]], list[Problem]]:
    """Read word problems -> ([{"question", "solution", "answer"}, ...], problems).

    `solution` is the text before ####, `answer` what stands behind it, without commas: "1200".

    Raises:  as `load_chats`.
    """
    return _load(path, read_question, strict=strict)


# ----------------------------------------------------------------------------- files of records


def _load(
    source: str | Path | DataFile, read: Callable[[dict, set[str]], dict], *, strict: bool
) -> tuple[list[dict], list[Problem]]:
    """Read every record of a file with `read`; its ValueErrors become problems."""
    data = read_data_file(source)
    path = data.path
    records: list[dict] = []
    problems: list[Problem] = []
    lines_with: dict[str, list[int]] = {}  # a key that is not used -> the lines of its records
    for line, value, reason in _json_values(data.text):
        try:
            if reason:
                raise ValueError(reason)
            if isinstance(value, list) and read is read_chat:
                value = {"messages": value}
            if not isinstance(value, dict):
                raise ValueError(f"a record must be a JSON object, this is {named(value)}")
            unused: set[str] = set()
            record = read(value, unused)
            _check_surrogates(record)
            records.append({**record, "line": line})
            for key in unused:
                lines_with.setdefault(key, []).append(line)
        except (ValueError, RecursionError) as error:  # the latter from repr of deep brackets
            problem = Problem(path, line, str(error))
            if strict:
                raise RecordError(f"{problem}; correct or remove this record") from error
            problems.append(problem)
    if not records:
        why = f"line {problems[0].line}: {problems[0].reason}" if problems else "the list is empty"
        raise RecordError(f"{path}: there is no usable JSON or JSONL record in it; {why}")
    for key in sorted(lines_with, key=lambda key: (lines_with[key][0], key)):
        lines = lines_with[key]
        many = "1 record has" if len(lines) == 1 else f"{len(lines)} records have"
        shown = key if key.isidentifier() and len(key) < 40 else named(key)
        problems.append(Unused(path, lines[0], f"{many} {shown}: not used"))
    return records, problems


def _check_surrogates(record: dict) -> None:
    """Refuse text with half a character, "\\ud83d", that no file or terminal can show."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half a surrogate pair, a broken character") from error


# ------------------------------------------------------------------------------ JSON and JSONL


def _json_values(text: str) -> Iterator[tuple[int, object, str]]:
    """The values of a JSON or JSONL text as (line, value, "") or (line, None, what is wrong)."""
    start = _skip_space(text, 0)
    if text.startswith("[", start) and not _is_bare_conversation(text, start):
        yield from _list_values(text, start + 1)
        return
    value, end, reason = _decode(text, start)
    if end is not None and _skip_space(text, end) == len(text):  # the whole file is one value
        if not reason and isinstance(value, dict) and (key := _wrapper_key(value)):
            yield from _wrapped_values(text, start, key)
            return
        yield text.count("\n", 0, start) + 1, value, reason
        return
    # Only \n ends a line of JSONL: str.splitlines would also cut at U+2028, allowed in a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            value, end, reason = _decode(line, _skip_space(line, 0))
            if end is not None and _skip_space(line, end) < len(line):
                reason = reason or f"something follows the record: {named(line[end:].strip())}"
            yield number, value, reason


def _is_bare_conversation(text: str, start: int) -> bool:
    """Does the "[" at `start` open a list of messages, and not the list of all records?"""
    first_line, _, others = text[start:].partition("\n")
    if others.lstrip().startswith("[") and first_line.rstrip()[-1] not in "[,":
        return True  # JSONL: the second line is a list as well
    first, _, _ = _decode(text, _skip_space(text, start + 1))
    return isinstance(first, dict) and ({"role", "content"} <= first.keys() or "from" in first)


def _wrapper_key(value: dict) -> str | None:
    """The key of the list of records in {"data": [...]}, None if this is no such wrapper."""
    for key in ("data", "examples", "records", "rows", "items"):
        inner = value.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], (dict, list)):
            return key
    return None


def _wrapped_values(text: str, start: int, wanted: str) -> Iterator[tuple[int, object, str]]:
    """The values of the list under the key `wanted` of the valid JSON object at `start`.

    Other lists and objects in the wrapper are refused, for they may be records as well.
    """
    at, line = 0, 1
    end = start + 1
    while True:
        before, at = at, _skip_space(text, end)
        at = _skip_space(text, at + text.startswith(",", at))
        if text.startswith("}", at):
            break
        line += text.count("\n", before, at)
        key, key_end, _ = _decode(text, at)
        assert key_end is not None  # the object is valid
        begin = _skip_space(text, _skip_space(text, key_end) + 1)  # behind the colon
        value, value_end, _ = _decode(text, begin)
        assert value_end is not None
        end = value_end
        if key == wanted:
            yield from _list_values(text[:end], begin + 1)
        elif value and isinstance(value, (dict, list)):
            yield line, None, f"{named(key)} beside {named(wanted)} was not read"


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
    space = _SPACE.match(text, at)
    assert space is not None  # it also matches nothing at all
    return space.end()


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
            faults.append(f"the key {named(twin)} occurs twice")
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
