"""summary.json, the file that makes a run finished: written with a checksum, read with care.

Read before: json_files.py. Used by run.py, which says what is in it.
"""

import hashlib
import json
import sys
from pathlib import Path

from kittenllm.runs.checkpoints import plain_numbers, write_json_atomic
from kittenllm.runs.json_files import (
    damaged,
    is_file_name,
    is_number,
    read_json,
    read_metrics,
    unread_lines,
)


def digest(value) -> str:
    """A short hash of plain containers; the order of keys does not matter."""
    text = json.dumps(plain_numbers(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_summary(path, summary: dict) -> dict:
    """Write a summary.json with a checksum of its keys; returns what is in it then."""
    content = with_checksum(plain_numbers(summary))
    write_json_atomic(path, content)
    return content


def with_checksum(summary: dict) -> dict:
    """The summary, and under "checksum" a hash of all its other keys."""
    others = {key: value for key, value in summary.items() if key != "checksum"}
    return {**others, "checksum": digest(others)}


def read_summary(path) -> dict | None:
    """A summary.json whose keys that every chapter writes have their types, and whose checksum is
    right if it has one; None without such a file.

    Raises: DamagedFile for anything else in it; the file stays as it is.
    """
    summary = read_json(path)
    for key, value in (summary or {}).items():
        wrong = _wrong_fact(key, value)
        if wrong:
            raise damaged(path, f"{key!r} {wrong}")
    if summary and "checksum" in summary and summary != with_checksum(summary):
        raise damaged(path, "changed after it was written: its checksum does not match")
    return summary


def _wrong_fact(key: str, value) -> str:
    """What is wrong with a value that every summary.json has, "" if nothing is."""
    if key in ("chapter", "size", "device", "version", "fingerprint"):
        return "" if isinstance(value, str) else "must be a text"
    if key in ("seconds", "peak_rss_mb") or key.endswith("_seconds"):
        right = value is None or (is_number(value) and value >= 0)
        return "" if right else "must be a number of 0 or more"
    if key == "quick":
        return "" if isinstance(value, bool) else "must be true or false"
    if key == "seed":
        return "" if type(value) is int and value >= 0 else "must be a number of 0 or more"
    if key == "config":
        return "" if isinstance(value, dict) else "must be an object"
    if key == "model":
        return "" if value is None or is_file_name(value) else "must be the name of a file"
    return ""


def read_history(path: Path) -> list[dict]:
    """The entries of a metrics.jsonl; lines that cannot be read are left out, and that is said."""
    entries, bad = read_metrics(path)
    if bad:
        print(f"note: {unread_lines(path, bad)}", file=sys.stderr)
    return entries
