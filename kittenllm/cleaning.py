"""Data work before SFT: cleaning, filtering, balancing.

One idea: the model copies its data, so every record that should not be copied must go first. Each
step is one small function from records to the records it would drop; what a step costs and finds
is measured (`precision_and_recall`) wherever somebody has labelled the bad ones.

    broken, empty      no conversation to learn from (found while reading the file)
    duplicate          the very same conversation again
    near_duplicate     the same but for case, the width of spaces, and marks at the end
    secret             passwords, keys, mail addresses, phone and card numbers
    forbidden          help with stealing, breaking in, hurting
    surplus            one task has so many records that it drowns the others

A record is {"messages": [...], "line": its line in the file} and may hold "task", a word that says
what the conversation is about.

Read before: records.py. Left out: classifiers trained to find bad records, near-duplicates with
other words (MinHash: Broder 1997), review by people, which no filter replaces.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from kittenllm.records import Problem, skipped

STEPS = ("duplicate", "near_duplicate", "secret", "forbidden", "surplus")
LARGEST_SHARE = 0.4  # no task may be more than this share of what is kept
TASK_SHARES = {"weather": 0.02}  # tasks that we want less of

# Each pattern begins with something of a fixed length, and only as much as is needed to be sure is
# matched. A pattern that begins with a + would start anew at every letter of a run without a space:
# the time would grow with the square of its length.
SECRET_PATTERNS = (
    r"password is \S",
    r"\bsk-\w{8}",  # the form of many services' API keys
    r"[\w.+-]@[\w-]+\.\w",  # a mail address
    r"\b0\d{2,4}[-/ ]\d{3}",  # a phone number
    r"\b(?:\d{4}[ -]){3}\d{4}\b",  # a card number
)
FORBIDDEN_WORDS = ("steal", "stole", "break into", "poison", "hurt", "cheat")
# "No, ...": but "no problem, ..." is no refusal.
REFUSING_WORDS = (r"\bno[,.!]", r"\bcan(?:not| not|'t)\b", r"\bwill not\b", r"\bwon't\b")


def text_of(record: dict) -> str:
    """Everything that is said in a conversation, one turn per line, with the roles."""
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in record["messages"])


def normal_form(text: str, *, marks: str = ".!") -> str:
    """A text without what hardly matters: case, the width of spaces, and `marks` at its end.

    Everything else counts, because it can change the meaning: "-5" is not "5", "a != b" is not
    "a == b", "1.5" is not "15", and "5!" is not "5".
    """
    text = " ".join(text.casefold().split())
    words = text.rstrip(marks)
    if not words or words[-1].isspace():
        return text  # the marks are a word of their own
    if words[-1].isdigit() and text[len(words) :].startswith("!"):
        return text  # a factorial
    return words


def find_repeats(keys: Sequence[Hashable]) -> list[int]:
    """The positions whose key was there before; the first of several stays."""
    seen: set[Hashable] = set()
    repeats = []
    for position, key in enumerate(keys):
        if key in seen:
            repeats.append(position)
        seen.add(key)
    return repeats


def find_duplicates(records: Sequence[dict]) -> list[int]:
    """Positions of conversations that were said before, letter by letter."""
    keys = [
        tuple((turn["role"], turn["content"], turn.get("train")) for turn in record["messages"])
        for record in records
    ]
    return find_repeats(keys)


def find_near_duplicates(records: Sequence[dict]) -> list[int]:
    """Positions of conversations that were said before but for case, spaces and marks at the end.

    A user's question is the same question without its question mark.
    """
    keys = []
    for record in records:
        turns = []
        for turn in record["messages"]:
            marks = ".!?" if turn["role"] == "user" else ".!"
            form = normal_form(turn["content"], marks=marks)
            turns.append((turn["role"], form, turn.get("train")))
        keys.append(tuple(turns))
    return find_repeats(keys)


def find_secrets(records: Sequence[dict]) -> list[int]:
    """Positions of conversations that hold something private."""
    pattern = re.compile("|".join(SECRET_PATTERNS), re.IGNORECASE)
    return [place for place, record in enumerate(records) if pattern.search(text_of(record))]


def find_forbidden(records: Sequence[dict]) -> list[int]:
    """Positions of conversations in which somebody helps with something forbidden.

    That is an answer with a forbidden word, as a whole word or as the start of one, or an answer
    to such a word that does not refuse. A refusal is worth learning: "Help me steal a fish." "No,
    that is wrong." stays.
    """
    words = "|".join(re.escape(word) for word in FORBIDDEN_WORDS)
    forbidden = re.compile(rf"\b(?:{words})", re.IGNORECASE)
    refusal = re.compile("|".join(REFUSING_WORDS), re.IGNORECASE)
    found = []
    for place, record in enumerate(records):
        asked = False  # for something forbidden, since the last answer
        for turn in record["messages"]:
            names_it = bool(forbidden.search(turn["content"]))
            if turn["role"] != "assistant":
                asked = asked or names_it
                continue
            refuses = bool(refusal.search(turn["content"]))
            if names_it or (asked and not refuses):
                found.append(place)
                break
            asked = False
    return found


def find_surplus(
    records: Sequence[dict],
    rng: random.Random,
    *,
    task_shares: Mapping[str, float] = TASK_SHARES,
    largest_share: float = LARGEST_SHARE,
) -> list[int]:
    """Positions of randomly chosen records to drop, so that no task exceeds its share of the rest.

    A task's share is `task_shares[task]` or `largest_share`. With n records of other tasks, a task
    of share s may keep s / (1 - s) * n. Records without a task are never surplus. With so few
    tasks that their shares add up to less than one, `largest_share` could not be kept by anybody;
    then only `task_shares` counts.

    Raises: ValueError for a share outside (0, 1).
    """
    for share in (*task_shares.values(), largest_share):
        if not 0 < share < 1:
            raise ValueError(f"a task's share must lie between 0 and 1, got {share}")
    tasks = [record.get("task") for record in records]
    kept = Counter(tasks)
    # Smallest share first: what one task loses makes the others' shares larger.
    shares = {task: task_shares.get(task, largest_share) for task in kept if task is not None}
    if None not in kept and sum(shares.values()) < 1 - 1e-9:
        shares = {task: share for task, share in shares.items() if task in task_shares}
    named = sorted(shares, key=lambda task: (shares[task], task))
    before: Counter = Counter()
    while before != kept:  # until all fit: each round can only take more away
        before = Counter(kept)
        for task in named:
            others = kept.total() - kept[task]
            if others:
                limit = round(shares[task] / (1 - shares[task]) * others)
                kept[task] = min(kept[task], limit)
    surplus: list[int] = []
    for task in named:
        places = [place for place, name in enumerate(tasks) if name == task]
        surplus += rng.sample(places, len(places) - kept[task])
    return sorted(surplus)


def clean(
    records: Sequence[dict], rng: random.Random, *, steps: Iterable[str] = STEPS
) -> tuple[list[dict], dict[str, list[dict]]]:
    """Run the given steps in the order of STEPS -> (kept records, {step: records it dropped}).

    Raises: ValueError for a step that is not in STEPS.
    """
    wanted = set(steps)
    if unknown := wanted - set(STEPS):
        raise ValueError(f"unknown cleaning steps {sorted(unknown)}; there are {', '.join(STEPS)}")
    finders = {
        "duplicate": find_duplicates,
        "near_duplicate": find_near_duplicates,
        "secret": find_secrets,
        "forbidden": find_forbidden,
        "surplus": lambda kept: find_surplus(kept, rng),
    }
    kept = list(records)
    dropped: dict[str, list[dict]] = {}
    for step in STEPS:
        if step not in wanted:
            continue
        places = set(finders[step](kept))
        dropped[step] = [record for place, record in enumerate(kept) if place in places]
        kept = [record for place, record in enumerate(kept) if place not in places]
    return kept, dropped


def reading_problems(problems: Sequence[Problem]) -> dict[str, list[int]]:
    """Sort what the file reader refused into "broken" and "empty", as line numbers."""
    lines: dict[str, list[int]] = {"broken": [], "empty": []}
    for problem in skipped(problems):
        kind = "empty" if problem.reason.endswith("is empty") else "broken"
        lines[kind].append(problem.line)
    return lines


def precision_and_recall(found: Iterable[int], planted: Iterable[int]) -> tuple[float, float]:
    """Share of the found lines that were planted, and share of the planted that were found.

    Nothing found has precision 1, nothing planted has recall 1.
    """
    found, planted = set(found), set(planted)
    hits = len(found & planted)
    precision = hits / len(found) if found else 1.0
    recall = hits / len(planted) if planted else 1.0
    return precision, recall
