"""The state of a ranking session and the files of labels: what chapters.rank shows and saves.

A label is a pair, a line of a preferences file: {"prompt", "chosen", "rejected"}. Three or four
replies give several pairs, and each of their lines also keeps the whole "ranking" as it was typed:
a list of places, best first, with the replies that share a place side by side. Two replies to one
prompt are the same pair for everybody, in whatever order they were shown.
"""

import json
import os
import re
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from chapters.common.terminal import with_error
from kittenllm.data_file import DataFile
from kittenllm.evaluation import mean_and_error
from kittenllm.records import load_preferences, report_problems
from kittenllm.reward_model import ranking_to_pairs
from kittenllm.runs.checkpoints import CheckpointError, write_bytes_atomic, write_text_atomic
from kittenllm.runs.json_files import parse_json
from kittenllm.runs.locks import Locked, lock_file


@dataclass(frozen=True)
class Choice:
    """Two to four replies to one prompt, in the order in which they are shown."""

    prompt: str | list[dict[str, str]]  # a question, or the messages of a whole conversation
    replies: tuple[str, ...]
    golds: tuple[float, ...] = ()  # the judge's score of each reply; () where nobody knows

    @property
    def key(self) -> tuple:
        """The same for everybody who ranks these replies, in whatever order."""
        return replies_key(self.prompt, *self.replies)

    @property
    def pair_keys(self) -> list[tuple]:
        """The key of every pair that a ranking of these replies can give."""
        return [replies_key(self.prompt, *pair) for pair in combinations(self.replies, 2)]

    def records(self, places: list[list[int]]) -> list[dict]:
        """A ranking as lines of a preferences file: a pair for each two replies that do not tie.

        `places` holds the numbers of the replies, best place first: [[2], [1, 4], [3]].
        """
        ranking = [[self.replies[number - 1] for number in place] for place in places]
        pairs: list[tuple[str, str]] = []
        for better_place, worse_place in ranking_to_pairs(ranking):
            pairs += product(better_place, worse_place)
        kept = {"ranking": ranking} if len(self.replies) > 2 else {}
        return [
            {"prompt": self.prompt, "chosen": better, "rejected": worse, **kept}
            for better, worse in pairs
        ]


def parse_ranking(typed: str, count: int) -> list[list[int]]:
    """What was typed about `count` replies, best first, as the numbers at each place.

    >>> parse_ranking("2 1 4 3", 4), parse_ranking("2>1=4>3", 4), parse_ranking("1", 2)
    ([[2], [1], [4], [3]], [[2], [1, 4], [3]], [[1], [2]])

    Raises: ValueError if it is no ranking of 1 to `count`, or puts all of them at one place.
    """
    typed = typed.strip()
    if count == 2 and typed in ("1", "2"):  # the quick way: only the better one
        typed += ">1" if typed == "2" else ">2"
    if typed.isdecimal() and len(typed) == count:
        typed = " ".join(typed)  # 2143
    places = []
    for place in re.split(r"[>,\s]+", re.sub(r"\s*=\s*", "=", typed)):
        numbers = place.split("=")
        if not all(number.isdecimal() and len(number) < 5 for number in numbers):
            raise ValueError(f"{typed!r} is no ranking")
        places.append([int(number) for number in numbers])
    ranked = [number for place in places for number in place]
    for number in ranked:
        if not 1 <= number <= count:
            raise ValueError(f"there is no reply {number}")
        if ranked.count(number) > 1:
            raise ValueError(f"reply {number} has two places")
    for number in range(1, count + 1):
        if number not in ranked:
            raise ValueError(f"reply {number} has no place")
    if len(places) == 1:
        raise ValueError("all at one place: nothing can be learnt from that, s skips")
    return places


def replies_key(prompt: str | list[dict[str, str]], *replies: str) -> tuple:
    """What replies to one prompt have in common, in whatever order; all messages count."""
    turns = tuple((turn["role"], turn["content"].strip()) for turn in prompt_messages(prompt))
    return turns, *sorted(reply.strip() for reply in replies)


def prompt_messages(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """The prompt as messages; a string is what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class Ranking:
    """The state of a session: what is labelled, what comes next, what can be undone.

    Every change is written to the file of labels at once.
    """

    def __init__(self, choices: list[Choice], labels: "LabelFile"):
        self.labels = labels
        self.total = len(choices)
        said = {key for record in labels.records for key in compared_in(record)}
        last_of = {record_key(record): number for number, record in enumerate(labels.records)}
        self.waiting: list[Choice] = []
        # Labels of an earlier session can be undone as well, as long as their replies are here.
        earlier: list[tuple[Choice, list[int]]] = []
        for choice in choices:
            if said.issuperset(choice.pair_keys):
                numbers = sorted(last_of[key] for key in choice.pair_keys if key in last_of)
                earlier.append((choice, numbers))
            else:
                self.waiting.append(choice)
        earlier.sort(key=lambda entry: entry[1][-1:])  # in the order of the file
        self.history: list[tuple[Choice, list[dict]]] = [
            (choice, [labels.records[number] for number in numbers]) for choice, numbers in earlier
        ]

    @property
    def current(self) -> Choice | None:
        """The replies to look at, None when all are ranked or skipped."""
        return self.waiting[0] if self.waiting else None

    @property
    def labelled(self) -> int:
        """How many of the choices are ranked."""
        return sum(len(made) > 0 for _, made in self.history)

    def rank(self, places: list[list[int]]) -> None:
        """The order of the current replies, as `parse_ranking` gives it."""
        made = self.waiting[0].records(places)
        self.labels.add(made)
        self.history.append((self.waiting.pop(0), made))

    def skip(self) -> None:
        """No opinion: these replies come again in the next session."""
        self.history.append((self.waiting.pop(0), []))

    def undo(self) -> bool:
        """Take back the last ranking or skip; False if there is none."""
        if not self.history:
            return False
        choice, made = self.history.pop()
        self.waiting.insert(0, choice)
        if made:
            self.labels.take_out(made)
        return True


def record_key(record: dict) -> tuple:
    """The key of the pair that a label is about."""
    return replies_key(record["prompt"], record["chosen"], record["rejected"])


def compared_in(record: dict) -> list[tuple]:
    """The keys of all pairs that were compared when this label was made, ties included."""
    ranking = record.get("ranking", [[record["chosen"]], [record["rejected"]]])
    replies = [reply for place in ranking for reply in place]
    return [replies_key(record["prompt"], *pair) for pair in combinations(replies, 2)]


# ------------------------------------------------------------------------------- files of labels


def read_labels(path: Path | DataFile) -> list[dict]:
    """The records of a file of labels; bad ones are reported and left out.

    A prompt of one user message is a string, any other a list of messages.
    """
    records, problems = load_preferences(path)
    if problems:
        print(report_problems(problems))
    labels = []
    for record in records:
        label = {key: value for key, value in record.items() if key != "line"}
        if len(record["prompt"]) == 1:
            label["prompt"] = record["prompt"][0]["content"]
        labels.append(label)
    return labels


def write_labels(path: Path, records: list[dict]) -> None:
    """All labels as JSONL, completely or not at all."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text_atomic(path, "".join(lines))


class LabelFile:
    """The labels of one person, in a file that only one session can write to at a time.

    Labels are added as lines at the end; undo takes lines out. Every other line stays as it is,
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

    def close(self) -> None:
        """Let others rank under this name."""
        self._lock.close()

    def add(self, records: list[dict]) -> None:
        """The labels of one ranking, as lines at the end: all of them or none."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        text = "".join(lines).encode("utf-8", errors="replace")
        try:
            with open(self.path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if file.read(1) not in (b"", b"\n"):
                    text = b"\n" + text  # the last line has no end: it stays a line of its own
                try:
                    file.write(text)
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
        self.records += records

    def take_out(self, records: list[dict]) -> None:
        """Remove the last line that says what each of these records says."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        for record in records:
            found = [number for number, line in enumerate(lines) if is_label(line, record)]
            if found:
                del lines[found[-1]]
        write_bytes_atomic(self.path, b"".join(lines))
        self.records = [kept for kept in self.records if not any(kept is old for old in records)]


def is_label(line: bytes, record: dict) -> bool:
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
            f"{path_a} and {path_b} have no pair in common. Rank with the same --seed, "
            "--replies and kitten, or with the same --pairs-file."
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
