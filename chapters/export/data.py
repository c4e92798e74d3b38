"""The data for other tools: chats and preferences as JSONL that TRL takes as it is.

    chats.jsonl         {"messages": [{"role": "user", "content": ...}, ...]}      for SFTTrainer
    preferences.jsonl   {"prompt": [...], "chosen": [...], "rejected": [...]}      for DPOTrainer
    polite.jsonl        the same, about manners, for a model that has never been in the town

Each of the three is a list of messages, so that TRL puts the chat template of the model around
them: conversational data, in its words. The chats went through the data work of chapter 1. The
files are read as everywhere in this project, so this also turns a file of any form that records.py
knows into one of these.

Used by __main__.py.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kittenllm.cleaning import clean
from kittenllm.kitten_town import DATA
from kittenllm.kitten_town.everyday import polite_pairs
from kittenllm.records import load_chats, load_preferences, report_problems
from kittenllm.runs.checkpoints import write_text_atomic
from kittenllm.settings import new_random

POLITE_PAIRS = 240  # of them, 40 are for measuring


def chat_lines(records: Sequence[dict]) -> tuple[list[dict], int]:
    """Conversations for SFTTrainer, and how many were left out.

    TRL learns all that the assistant says. A conversation in which something of it is only to be
    read ("train": false) would be learnt wrongly, so it is left out.
    """
    lines = []
    for record in records:
        if all(message.get("train", True) for message in record["messages"]):
            lines.append({"messages": [plain(message) for message in record["messages"]]})
    return lines, len(records) - len(lines)


def preference_lines(records: Sequence[dict]) -> list[dict]:
    """Pairs for DPOTrainer: the replies are lists of one message of the assistant."""
    return [
        {
            "prompt": [plain(message) for message in record["prompt"]],
            "chosen": [{"role": "assistant", "content": record["chosen"]}],
            "rejected": [{"role": "assistant", "content": record["rejected"]}],
        }
        for record in records
    ]


def as_record(pair: dict[str, str]) -> dict:
    """A pair whose prompt is one question, as `load_preferences` gives it."""
    return {**pair, "prompt": [{"role": "user", "content": pair["prompt"]}]}


def plain(message: dict) -> dict[str, str]:
    """A message with its role and its words, and nothing else."""
    return {"role": message["role"], "content": message["content"]}


def export_data(folder: Path, chats: Path | None, preferences: Path | None) -> None:
    """Write the files into a new folder; without files of the user's, those of the town.

    Raises: RecordError for a file without a usable record, before anything is written.
    """
    records, problems = load_chats(chats or DATA / "chats_raw.jsonl")
    kept, dropped = clean(records, new_random(0, "export", "balance"))
    lines, left_out = chat_lines(kept)
    pairs, bad_pairs = load_preferences(preferences or DATA / "preferences.jsonl")
    for text in (chats and report_problems(problems), preferences and report_problems(bad_pairs)):
        if text:
            print(text)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "chats.jsonl", lines)
    write_lines(folder / "preferences.jsonl", preference_lines(pairs))
    polite = polite_pairs(POLITE_PAIRS, new_random(0, "export", "polite"))
    write_lines(folder / "polite.jsonl", preference_lines([as_record(pair) for pair in polite]))
    count = sum(len(found) for found in dropped.values())
    print(f"{folder}: {len(lines)} chats ({count} dropped by the data work), {len(pairs)} pairs")
    if left_out:
        print(f'{left_out} chats with messages that are only read ("train": false) are left out')


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """One record a line."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text_atomic(path, "".join(lines))
