"""What the stages left in their run folders, read so that nothing can go wrong.

One idea: a report is made of whatever is there. A file that is missing, cut off or not what it
should be becomes a sentence in `notes`; what can be read is used.

Used by page.py and its parts. The files are those of kittenllm/runs/run.py and common/samples.py.
"""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from chapters.common.samples import read_samples
from chapters.report.html import Markup, is_number, tag
from chapters.report.languages import both, read_back, reported
from kittenllm.plots import moving_average
from kittenllm.runs.json_files import DamagedFile, read_metrics, unread_lines
from kittenllm.runs.run import read_summary

LARGEST_PICTURE = 2_000_000  # bytes; larger files are not put into the page


@dataclass(frozen=True)
class Stage:
    """One chapter's run folder.

    state: "finished", "unfinished" (started, no summary), "missing" or "broken" (bad summary).
    """

    name: str
    title: str
    folder: Path
    state: str
    summary: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    samples: dict = field(default_factory=dict)  # before_title, after_title, samples
    notes: list[str] = field(default_factory=list)

    def value(self, key: str) -> object:
        """What the summary holds under a key; "dpo.kl" looks into the dict under "dpo"."""
        found: object = self.summary
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def curve(
        self, key: str, stage: str | None = None, *, smooth: int = 1, start: object = None
    ) -> tuple[list[float], list[float]]:
        """Finished steps and values of one number of metrics.jsonl, where it was measured.

        `smooth` averages over so many values; `start` is the value before the first step.
        """
        steps, values = [], []
        for entry in self.history:
            if stage is None or entry.get("stage") == stage:
                step, value = entry.get("step"), entry.get(key)
                if is_number(step) and is_number(value):
                    steps.append(step + 1)
                    values.append(value)
        values = moving_average(values, smooth) if values else []
        if is_number(start) and values:
            steps, values = [0, *steps], [start, *values]
        return steps, values


def read_stage(name: str, title: str, folder: Path) -> Stage:
    """Everything the report needs from one run folder; never an error."""
    if not folder.is_dir():
        return Stage(name, title, folder, "missing")
    notes: list[str] = []
    try:
        summary = read_summary(folder / "summary.json")
        state = "unfinished" if summary is None else "finished"
    except DamagedFile as error:
        summary, state = None, "broken"
        notes.append(reported(error))
    history = read_history(folder / "metrics.jsonl", notes)
    samples = read_samples(folder)
    if not samples and (folder / "samples.json").exists():
        notes.append(both("samples.json cannot be read, so its replies are left out"))
    return Stage(name, title, folder, state, summary or {}, history, samples, notes)


def read_history(path: Path, notes: list[str]) -> list[dict]:
    """The readable lines of a metrics.jsonl; how many were not becomes a note."""
    try:
        entries, bad = read_metrics(path)
    except DamagedFile as error:
        notes.append(reported(error))
        return []
    if bad:
        notes.append(read_back(unread_lines(path.name, bad)))
    return entries


def picture(path: Path) -> Markup | None:
    """A PNG inside the page; None if there is none, or if it is no PNG or a huge one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(b"\x89PNG") or len(content) > LARGEST_PICTURE:
        return None
    address = Markup("data:image/png;base64," + base64.b64encode(content).decode())
    name = both(path.stem.replace("_", " "))
    return tag("figure", tag("img", src=address, alt=name), tag("figcaption", name), class_="png")
