"""`python -m kittenllm.kitten_town` rewrites every generated file in `data/`, bit for bit.

The data are committed, so nobody has to run this; a test checks that the files are what it writes.
"""

from __future__ import annotations

import json
import random

from kittenllm.door import Parser, path_argument
from kittenllm.kitten_town import DATA, countdown, stories
from kittenllm.kitten_town.chats import ask_any, demonstrate
from kittenllm.kitten_town.facts import TOWN_SEED, Town, build_town
from kittenllm.kitten_town.judge import judge, prefers_first, words_of
from kittenllm.kitten_town.raw_chats import raw_chats
from kittenllm.runs.checkpoints import write_text_atomic

SAMPLE_DOCUMENTS = 600
PREFERENCE_PAIRS = 3_000


def json_lines(records: list[dict]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(record) + "\n" for record in records)


def preference_records(town: Town, count: int, seed: int) -> list[dict]:
    """Pairs of two different demonstrations, ordered by one noisy annotator each."""
    rng = random.Random(seed)
    records = []
    while len(records) < count:
        question = ask_any(town, rng)
        replies = [demonstrate(town, question, rng) for _ in range(2)]
        if replies[0] == replies[1]:
            continue
        # Words stand in for tokens here: there is no tokenizer before the base kitten is trained.
        first, second = (judge(town, question, reply, words_of(reply)).score for reply in replies)
        if not prefers_first(first, second, rng):
            replies.reverse()
        records.append({"prompt": question.text, "chosen": replies[0], "rejected": replies[1]})
    return records


def countdown_records() -> list[dict]:
    """Every Countdown problem, with its split."""
    records = []
    splits = {"train": countdown.TRAINING_TRIPLES, "held_out": countdown.HELD_OUT_TRIPLES}
    for split, triples in splits.items():
        for problem in countdown.problems_of(triples):
            numbers = list(problem.numbers)
            records.append({"numbers": numbers, "target": problem.target, "split": split})
    return records


def generate_files() -> dict[str, str]:
    """File name -> content, for everything in `data/` but its README."""
    town = build_town()
    documents = stories.documents(TOWN_SEED)
    sample = [next(documents) for _ in range(SAMPLE_DOCUMENTS)]
    planted = raw_chats(town, TOWN_SEED)
    key = [
        {"line": number, "kind": kind} for number, (_, kind) in enumerate(planted, start=1) if kind
    ]
    return {
        "pretraining_sample.txt": "\n\n".join(sample) + "\n",
        "chats_raw.jsonl": "".join(line + "\n" for line, _ in planted),
        "chats_key.jsonl": json_lines(key),
        "preferences.jsonl": json_lines(preference_records(town, PREFERENCE_PAIRS, TOWN_SEED)),
        "countdown.jsonl": json_lines(countdown_records()),
    }


def main(argv: list[str] | None = None) -> None:
    """Write the files into `data/`, or into another folder."""
    parser = Parser(prog="python -m kittenllm.kitten_town", description=__doc__)
    parser.add_argument(
        "--out", type=path_argument, default=DATA, help="folder to write to (default: data)"
    )
    out = parser.parse_args(argv).out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {out}: {error.strerror}")
    for name, content in generate_files().items():
        write_text_atomic(out / name, content)
        print(f"{name}: {content.count(chr(10)):,} lines, {len(content):,} characters")


if __name__ == "__main__":
    main()
