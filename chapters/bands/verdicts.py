"""Verdicts: is a number of this run where the numbers of other seeds were?

Every chapter ends with one for each of its key numbers. Bands hold for full runs with default
settings. Other settings: the verdict says so.

Read before: key_numbers.py, file.py.
"""

import shutil
from dataclasses import dataclass

from chapters.bands.file import CurveBand, read_bands
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import KeyNumber, number_of, shown
from chapters.bands.rounding import threads_text
from chapters.common.terminal import wrap
from kittenllm.runs.json_files import DamagedFile
from kittenllm.runs.run import differences

WIDEST = 80
# Settings that choose other data or another judge: then the numbers mean something else.
OTHER_DATA = ("text", "chats", "preferences", "questions", "reward_model")
# Settings that add experiments and change none of the key numbers.
EXTRAS = ("compare", "strict")


@dataclass(frozen=True)
class Verdict:
    """One number of a run beside its band."""

    key: str
    value: float
    low: float
    high: float
    inside: bool
    text: str  # "inside the band, 0.62 to 0.68", or where it is and the likeliest causes


def verdicts(chapter: str, summary: dict, bands: dict | None = None) -> list[Verdict]:
    """A verdict for every key number that the run has and a band exists for.

    Empty for quick runs, other model sizes and data of the user's own: no band fits those.
    """
    band = (read_bands() if bands is None else bands).get(chapter)
    if band is None or why_incomparable(band, summary):
        return []
    changed = changed_settings(band, summary)
    found = []
    for number in KEY_NUMBERS.get(chapter, ()):
        value = number_of(summary, number.key)
        limits = band["numbers"].get(number.key)
        if value is None or limits is None:
            continue
        low, high = limits["low"], limits["high"]
        text = verdict_text(number, value, low, high, changed)
        found.append(Verdict(number.key, value, low, high, low <= value <= high, text))
    return found


def verdict_text(number: KeyNumber, value: float, low: float, high: float, changed: str) -> str:
    """Where the number is; outside of the band the likeliest causes, a changed setting first."""
    limits = f"{shown(low)} to {shown(high)}"
    if low <= value <= high:
        return f"inside the band, {limits}"
    side, causes = ("below", number.low) if value < low else ("above", number.high)
    first = f"changed settings ({changed}); " if changed else ""
    return f"{side} the band, {limits}. Likely: {first}{causes}."


def print_verdicts(chapter: str, summary: dict, bands: dict | None = None) -> None:
    """The verdicts as lines that fit a narrow terminal; one line if no band fits this run."""
    try:
        band = (read_bands() if bands is None else bands).get(chapter)
    except DamagedFile as error:
        print(f"no verdict: {error}")
        return
    if band is None or "config" not in summary:
        return
    width = max(40, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))
    reason = why_incomparable(band, summary)
    if reason:
        print(wrap(f"{chapter}: no verdict, {reason}", width, indent="  ", first=""))
        return
    count, threads = len(band["seeds"]), band.get("threads")
    seeds = "1 other seed" if count == 1 else f"{count} seeds"
    seeds += f" on {threads_text(threads)}" if threads else ""
    lines = [f"{chapter} beside the runs of {seeds}:"]
    if changed := changed_settings(band, summary):
        lines.append(f"other settings than theirs ({changed}), so take it as a yardstick only")
    found = verdicts(chapter, summary, bands)
    lines += [f"{v.key} {shown(v.value)}: {v.text}" for v in found]
    print("\n".join(wrap(line, width, indent="    ", first="  ") for line in lines).lstrip())


def why_incomparable(band: dict, summary: dict) -> str:
    """Why no band fits a run at all, "" if one does."""
    if summary.get("quick"):
        return "the bands are about full runs, not about --quick."
    if summary.get("size") != "small":
        return f"the bands are about --size small, not {summary.get('size')}."
    config = summary.get("config", {})
    given = [name for name in OTHER_DATA if config.get(name) != band["config"].get(name)]
    if given:
        return f"the bands are about the town's own data, not about --{given[0].replace('_', '-')}."
    return ""


def changed_settings(band: dict, summary: dict) -> str:
    """Settings that differ from those of the bands, as `steps: 55, now 10`."""
    here = {name: value for name, value in summary["config"].items() if name not in EXTRAS}
    there = {name: value for name, value in band["config"].items() if name not in EXTRAS}
    return differences(there, here)


def curve_bands(chapter: str, bands: dict | None = None) -> list[CurveBand]:
    """The curves of the reference runs, for a picture."""
    band = (read_bands() if bands is None else bands).get(chapter, {"curves": []})
    return [CurveBand(**curve) for curve in band["curves"]]
