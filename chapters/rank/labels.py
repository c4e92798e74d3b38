"""The state of a ranking session and the files of labels: what chapters.rank shows and saves.

A label is a line of a preferences file, {"prompt", "chosen", "rejected"}, and nothing else is kept:
two replies to one prompt are the same pair for everybody, in whatever order they were shown.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chapters.common.terminal import with_error
from kittenllm.data_file import DataFile
from kittenllm.evaluation import mean_and_error
from kittenllm.records import load_preferences, report_problems
from kittenllm.runs.checkpoints import CheckpointError, write_bytes_atomic, write_text_atomic
from kittenllm.runs.json_files import parse_json
from kittenllm.runs.locks import Locked, lock_file


@dataclass(frozen=True)
class Choice:
    """Two replies to one prompt, in the order in which they are shown."""

    prompt: str | list[dict[str, str]]  # a question, or the messages of a whole conversation
    first: str
    second: str
    better: int = 0  # 1 or 2 in the judge's eyes; 0: equally good, or nobody knows

    @property
    def key(self) -> tuple:
        """The same for everybody who ranks these replies, in whatever order."""
        return pair_key(self.prompt, self.first, self.second)

    def record(self, picked: int) -> dict[str, str]:
        """The choice as a line of a preferences file."""
        replies = (self.first, self.second)
        return {
            "prompt": self.prompt,
            "chosen": replies[picked - 1],
            "rejected": replies[2 - picked],
        }


def pair_key(prompt: str | list[dict[str, str]], reply: str, other: str) -> tuple:
    """What two replies to one prompt have in common, in whatever order; all messages count."""
    turns = tuple((turn["role"], turn["content"].strip()) for turn in prompt_messages(prompt))
    return turns, *sorted((reply.strip(), other.strip()))


def prompt_messages(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """The prompt as messages; a string is what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class Ranking:
    """The state of a session: what is labelled, what comes next, what can be undone.

    `save` is called with all records after every change.
    """

    def __init__(
        self,
        choices: list[Choice],
        records: list[dict[str, str]],
        save: Callable[[list[dict[str, str]]], None],
    ):
        self.records = records
        self.save = save
        done = {record_key(record) for record in records}
        self.total = len(choices)
        self.waiting = [choice for choice in choices if choice.key not in done]
        known = {choice.key: choice for choice in choices}
        # Labels of an earlier session can be undone as well, as long as their pairs are here.
        self.history = [
            (known[record_key(record)], True) for record in records if record_key(record) in known
        ]

    @property
    def current(self) -> Choice | None:
        """The pair to look at, None when all are ranked or skipped."""
        return self.waiting[0] if self.waiting else None

    @property
    def labelled(self) -> int:
        """How many of the pairs have a label."""
        return sum(labelled for _, labelled in self.history)

    def pick(self, number: int) -> None:
        """The current pair's better reply is 1 or 2."""
        choice = self.waiting.pop(0)
        self.records.append(choice.record(number))
        self.history.append((choice, True))
        self.save(self.records)

    def skip(self) -> None:
        """No opinion: the pair comes again in the next session."""
        self.history.append((self.waiting.pop(0), False))

    def undo(self) -> bool:
        """Take back the last pick or skip; False if there is none."""
        if not self.history:
            return False
        choice, labelled = self.history.pop()
        self.waiting.insert(0, choice)
        if labelled:
            last = max(i for i, r in enumerate(self.records) if record_key(r) == choice.key)
            del self.records[last]
            self.save(self.records)
        return True


def record_key(record: dict[str, str]) -> tuple:
    return pair_key(record["prompt"], record["chosen"], record["rejected"])


# ------------------------------------------------------------------------------- files of labels


def read_labels(path: Path | DataFile) -> list[dict[str, str]]:
    """The records of a file of labels; bad ones are reported and left out.

    A prompt of one user message is a string, any other a list of messages.
    """
    records, problems = load_preferences(path)
    if problems:
        print(report_problems(problems))
    return [
        {
            "prompt": record["prompt"]
            if len(record["prompt"]) > 1
            else record["prompt"][0]["content"],
            "chosen": record["chosen"],
            "rejected": record["rejected"],
        }
        for record in records
    ]


def write_labels(path: Path, records: list[dict[str, str]]) -> None:
    """All labels as JSONL, completely or not at all."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text_atomic(path, "".join(lines))


class LabelFile:
    """The labels of one person, in a file that only one session can write to at a time.

    A label is added as a line at the end; undo takes one line out. Every other line stays as it is,
    also one that this program cannot read.

    Raises: ValueError if another session is ranking under this name, CheckpointError if the file
    cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(path.with_name(f".{path.name}.lock"))
        except Locked as error:
            raise ValueError(
                f"{path}: another session is ranking under this name. End it first, or choose "
                "another name with --name."
            ) from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written ({error.strerror}).") from error
        has_labels = path.is_file() and path.stat().st_size > 0
        self.records = read_labels(path) if has_labels else []
        self._saved = list(self.records)

    def close(self) -> None:
        """Let others rank under this name."""
        self._lock.close()

    def save(self, records: list[dict[str, str]]) -> None:
        """After a change: one more label at the end of `records`, or one that was taken out."""
        if len(records) > len(self._saved):
            self._append(records[-1])
        else:
            pairs = zip(self._saved, records, strict=False)
            same = [old is new or old == new for old, new in pairs]
            self._take_out(self._saved[same.index(False) if False in same else -1])
        self._saved = list(records)

    def _append(self, record: dict[str, str]) -> None:
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if file.read(1) not in (b"", b"\n"):
                    line = b"\n" + line  # the last line has no end: it stays a line of its own
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)  # half a label would spoil the next one
                    raise
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the label could not be saved ({error.strerror}). Make room on the "
                "disk; the labels before it are untouched."
            ) from error

    def _take_out(self, record: dict[str, str]) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        found = [number for number, line in enumerate(lines) if is_label(line, record)]
        if found:
            del lines[found[-1]]
            write_bytes_atomic(self.path, b"".join(lines))


def is_label(line: bytes, record: dict[str, str]) -> bool:
    """Whether a line of a file of labels says what this record says."""
    try:
        value = parse_json(line)
        same_pair = record_key(value) == record_key(record)
        return same_pair and value["chosen"].strip() == record["chosen"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):  # not a label at all
        return False


def agreement(path_a: Path, path_b: Path) -> tuple[int, float, float | None]:
    """How many pairs both files have labelled, the share on which they agree, and its standard
    error by prompt.

    Raises: ValueError if they have no pair in common.
    """
    picks = [
        {record_key(record): record["chosen"].strip() for record in read_labels(path)}
        for path in (path_a, path_b)
    ]
    both = picks[0].keys() & picks[1].keys()
    if not both:
        raise ValueError(
            f"{path_a} and {path_b} have no pair in common. Rank with the same --seed and the "
            "same kitten, or with the same --pairs-file."
        )
    keys = sorted(both)
    agree = [float(picks[0][key] == picks[1][key]) for key in keys]
    return len(both), *mean_and_error(agree, [key[0] for key in keys])


def agreement_line(count: int, share: float, error: float | None) -> str:
    """The agreement in words; kappa is 0 for two people who toss coins and 1 for full agreement."""
    agreed = with_error(share, error, ".0%")
    return (
        f"{count} pairs were ranked by both; they agree on {agreed} of them "
        f"(coins: 50%; kappa {2 * share - 1:+.2f})"
    )
