"""Our own JSON files, read with care: whatever they hold, the answer is a value or one sentence.

A run folder lives for weeks: disks fill up, people edit files, programs of other versions write
into them. Everything that a program of ours reads back (summary.json, run.json, samples.json,
metrics.jsonl, bands.json ...) is read here, under the same few rules: an ordinary file, not too
large, UTF-8, whole JSON, and not nested too deeply. A number that we never write (NaN, infinity,
400 digits) is read as None, which is what checkpoints.py writes for it. What is left to the caller
is which keys there must be and of which type.

Read before: nothing. Left out: the files that people bring (records.py).
"""

import json
import stat
from collections.abc import Iterable
from pathlib import Path

LARGEST_FILE = 64 * 2**20  # bytes; our largest is a metrics.jsonl of some megabytes
DEEPEST = 40  # lists and dicts inside each other; ours are 6 deep at most
LARGEST_NUMBER = 1e100  # far above all that is measured; sums and squares of it are still floats


class DamagedFile(ValueError):
    """A file of ours that cannot be used; the message names the file, the reason and a remedy."""


def parse_json(text: str | bytes):
    """The value of a JSON text; NaN and numbers beyond 1e100 are None.

    Raises: ValueError with a short reason, also for deep nesting.
    """
    try:
        value = json.loads(
            text,
            parse_constant=lambda name: None,
            parse_int=lambda digits: _number(digits, int),
            parse_float=lambda digits: _number(digits, float),
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:  # broken JSON, or bytes that are no UTF-8
        raise ValueError(f"no JSON: {error}"[:200]) from error
    _check_depth(value)
    return value


def read_bytes(path) -> bytes | None:
    """What is in an ordinary file; None if there is nothing of that name.

    Raises: DamagedFile for a folder, a pipe, a file that is too large or cannot be read.
    """
    path = Path(path)
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise DamagedFile(f"{path}: not a file. Move it away.")
        if kind.st_size > LARGEST_FILE:
            raise DamagedFile(
                f"{path}: {kind.st_size:,} bytes are too many for a file of KittenLLM "
                f"(at most {LARGEST_FILE:,}). Move it away."
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be read ({error.strerror}).") from error


def read_json(path) -> dict | None:
    """The JSON object in a file; None if there is no such file.

    Raises: DamagedFile for everything that is no whole JSON object; the file stays as it is.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        value = parse_json(content)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise damaged(path, f"a {type(value).__name__} where an object belongs")
    return value


def read_json_if_possible(path) -> dict:
    """The same for readers who can do without: {} for a missing or damaged file."""
    try:
        return read_json(path) or {}
    except DamagedFile:
        return {}


def damaged(path, reason: str) -> DamagedFile:
    """The one sentence about a file that is not what its program wrote."""
    return DamagedFile(
        f"{path}: damaged ({printable(reason)}). The file was left as it is; move it away, or "
        "delete it, and run the same command again."
    )


def metric_lines(path) -> list[bytes]:
    """The lines of a metrics.jsonl, each with its line end; [] without a file.

    Raises: DamagedFile as `read_bytes`.
    """
    return (read_bytes(path) or b"").splitlines(keepends=True)


def metric_entry(line: bytes) -> dict | None:
    """One line of metrics.jsonl: {"stage": str, "step": 0, 1, ..., and numbers or None}.

    None for any other line: half a line after a kill, or damage.
    """
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("stage"), str):
        return None
    step = entry.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return None
    others = [value for key, value in entry.items() if key not in ("stage", "step")]
    return entry if all(value is None or is_number(value) for value in others) else None


def read_metrics(path) -> tuple[list[dict], int]:
    """The entries of a metrics.jsonl, and how many of its lines cannot be read.

    Everybody who reads such a file keeps to one rule: use the good lines, and say how many are not.
    Raises: DamagedFile as `read_bytes`.
    """
    entries = [metric_entry(line) for line in metric_lines(path)]
    good = [entry for entry in entries if entry is not None]
    return good, len(entries) - len(good)


def unread_lines(path, count: int) -> str:
    """The sentence about lines of a metrics.jsonl that were left out."""
    lines = "1 line" if count == 1 else f"{count} lines"
    return f"{lines} of {path} cannot be read and are left out; the file stays as it is"


def missing_number(entry: dict, keys: Iterable[str]) -> str:
    """The first of the keys that holds no number in this entry, "" if all do."""
    return next((key for key in keys if not is_number(entry.get(key))), "")


def is_number(value: object) -> bool:
    """An int or a finite float; a bool is no number, and neither is one beyond 1e100."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -LARGEST_NUMBER <= value <= LARGEST_NUMBER  # False for NaN


def is_file_name(value: object) -> bool:
    """A plain name such as model.pt, which cannot lead out of its folder."""
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        return False
    return value not in ("", ".", "..") and not any(mark in value for mark in "/\\:")


def printable(text: object, length: int = 300) -> str:
    """Any value as one short line that cannot play tricks on a terminal."""
    shown = str(text)
    shown = shown if len(shown) <= length else shown[:length] + " ..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _number(digits: str, kind: type):
    """The number, or None for one that we never write."""
    if len(digits) > 100:  # int() of thousands of digits is slow, or an error
        return None
    number = kind(digits)
    return number if is_number(number) else None


def _check_depth(value) -> None:
    """Refuses deep nesting; walks without recursion."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, (dict, list)):
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
            inside = item.values() if isinstance(item, dict) else item
            waiting += [(part, depth + 1) for part in inside]
