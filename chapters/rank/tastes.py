"""A class of annotators: who agrees with whom, and what each of them pays for.

Nobody is asked for a reason. But where one of two replies is right and the other one is not, the
choice tells how much truth counts, and in the same way for kindness and for short replies. A
pupil's taste is the quality that was followed most often.

All pairs of a class go into one reward model, whatever their tastes: it learns the average. That is
what large labs do, too (Ouyang et al. 2022, arXiv 2203.02155, section 5.2, asks whose preferences
these are).

Used by: chapters.rank --train-on FOLDER. Left out: a reward model for each taste.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

from chapters.common.terminal import safe_text
from chapters.rank.labels import prompt_messages, read_labels, record_key
from chapters.rank.town_page import seen_in
from kittenllm.data_file import DataFile

QUALITIES = ("right", "kind", "short")


@dataclass(frozen=True)
class Pupil:
    """One annotator and the labels."""

    name: str
    records: list[dict]

    def followed(self) -> dict[str, tuple[int, int]]:
        """Quality -> how often the choice followed it, and in how many pairs it could."""
        counts = dict.fromkeys(QUALITIES, (0, 0))
        for record in self.records:
            for quality, side in leanings(record).items():
                hits, pairs = counts[quality]
                counts[quality] = (hits + (side > 0), pairs + (side != 0))
        return counts

    def taste(self) -> str:
        """The quality that was followed most often.

        One that could be followed once and was, says little: each share is drawn towards one half,
        as if two more pairs had been split evenly.
        """
        counts = self.followed()
        return max(QUALITIES, key=lambda q: (counts[q][0] + 1) / (counts[q][1] + 2))

    def choices(self) -> dict[tuple, str]:
        """Pair -> the reply that was chosen."""
        return {record_key(record): record["chosen"].strip() for record in self.records}


def leanings(record: dict) -> dict[str, int]:
    """Of a label: 1 where the chosen reply has more of a quality, -1 where it has less, else 0."""
    messages = prompt_messages(record["prompt"])
    prompt = (
        messages[-1]["content"] if len(messages) == 1 else ""
    )  # the page knows single questions
    chosen, rejected = seen_in(prompt, record["chosen"]), seen_in(prompt, record["rejected"])
    right = 0 if chosen.right is None else int(chosen.right) - int(rejected.right)
    shorter = rejected.words - chosen.words
    return {
        "right": right,
        "kind": sign(chosen.kindness - rejected.kindness),
        "short": sign(shorter),
    }


def sign(number: int) -> int:
    """-1, 0 or 1."""
    return (number > 0) - (number < 0)


def read_class(files: Sequence[DataFile]) -> list[Pupil]:
    """One pupil for each file, named after it."""
    return [Pupil(Path(file.path).stem, read_labels(file)) for file in files]


def agreements(pupils: Sequence[Pupil]) -> dict[tuple[int, int], float]:
    """(i, j) -> the share of their common pairs on which two pupils agree; only where there are
    some."""
    choices = [pupil.choices() for pupil in pupils]
    shares = {}
    for i, j in combinations(range(len(pupils)), 2):
        common = choices[i].keys() & choices[j].keys()
        if common:
            shares[i, j] = fmean(choices[i][key] == choices[j][key] for key in common)
    return shares


def class_table(pupils: Sequence[Pupil]) -> str:
    """A line for each pupil, those of one taste together; then the agreement of all pairs."""
    shares = agreements(pupils)
    lines = [f"{'pupil':<16}{'labels':>7}{'agrees':>8}" + "".join(f"{q:>7}" for q in QUALITIES)]
    lines[0] += "  pays most for"
    order = sorted(range(len(pupils)), key=lambda i: (pupils[i].taste(), pupils[i].name))
    for i in order:
        pupil = pupils[i]
        with_others = [share for pair, share in shares.items() if i in pair]
        cells = [percent(sum(with_others), len(with_others))]
        cells += [percent(*pupil.followed()[quality]) for quality in QUALITIES]
        name = safe_text(pupil.name)[:15]
        row = f"{name:<16}{len(pupil.records):>7}{cells[0]:>8}"
        lines.append(row + "".join(f"{cell:>7}" for cell in cells[1:]) + f"  {pupil.taste()}")
    lines += ["", *agreement_lines(pupils, shares)]
    return "\n".join(lines)


def agreement_lines(pupils: Sequence[Pupil], shares: dict[tuple[int, int], float]) -> list[str]:
    """The mean agreement of all pairs of pupils, and of those with the same and another taste."""
    if not shares:
        return ["no two pupils ranked the same pair: nothing can be said about agreement"]
    alike = [s for (i, j), s in shares.items() if pupils[i].taste() == pupils[j].taste()]
    others = [s for (i, j), s in shares.items() if pupils[i].taste() != pupils[j].taste()]
    lines = [
        f"all {len(shares)} pairs of pupils: they agree on {fmean(shares.values()):.0%} "
        "(coins: 50%)"
    ]
    if alike and others:
        lines.append(f"of one taste: {fmean(alike):.0%}; of two tastes: {fmean(others):.0%}")
    return lines


def percent(part: float, whole: int) -> str:
    """A share in percent, "-" of nothing."""
    return f"{part / whole:.0%}" if whole else "-"
