"""Reference bands: is a number of this run where the numbers of other seeds were?

python -m chapters.bands RUNS_DIR...  makes bands.json from finished runs of different seeds; every
chapter then ends with a verdict for each of its key numbers. A band goes from the smallest to the
largest of the seeds, widened by that distance on each side, and by two standard errors or 1 % of
the number if that is more. With five seeds, a sixth falls outside 3 times in 100 by chance.

Bands hold for full runs with default settings. Other settings: the verdict says so.

Read before: key_numbers.py. Left out: bands for seconds and memory, which belong to a machine.
"""

import argparse
import importlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median

from chapters.key_numbers import CURVES, KEY_NUMBERS, KeyNumber
from chapters.terminal import wrap
from kittenllm.checkpoints import plain_numbers, write_text_atomic
from kittenllm.door import Parser, path_argument
from kittenllm.json_files import (
    DamagedFile,
    damaged,
    is_number,
    read_json,
    read_metrics,
    unread_lines,
)
from kittenllm.runs import differences, read_summary

FILE = Path(__file__).with_name("bands.json")
FORMAT = 1
NO_BAND = {"seeds": [], "config": {}, "numbers": {}, "curves": []}
RULE = (
    "smallest to largest of the seeds; on each side the largest of these more: that distance, two "
    "standard errors, 1 % of the number"
)
ENOUGH_SEEDS = 5
POINTS = 20  # of a curve
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


@dataclass(frozen=True)
class CurveBand:
    """A curve over several seeds: at each step the smallest and the largest."""

    name: str
    stage: str
    key: str
    unit: str
    steps: list[float]
    low: list[float]
    high: list[float]


# ------------------------------------------------------------------------------------ the verdicts


def read_bands(path: Path = FILE) -> dict[str, dict]:
    """What bands.json says about each chapter; nothing if there is no such file.

    Raises: DamagedFile for a file that `build` did not make.
    """
    content = read_json(path) or {}
    if content.get("format") != FORMAT:
        return {}
    chapters = content.get("chapters")
    for name, band in chapters.items() if isinstance(chapters, dict) else [("chapters", None)]:
        if not isinstance(band, dict) or not is_band({**NO_BAND, **band}):
            raise damaged(path, f"{name!r} is no band")
    return {name: {**NO_BAND, **band} for name, band in chapters.items()}


def is_band(band: dict) -> bool:
    """Whether this has the keys that `chapter_band` writes, each of its type."""
    seeds, numbers, curves = band["seeds"], band["numbers"], band["curves"]
    if (
        not isinstance(band["config"], dict)
        or not isinstance(seeds, list)
        or not isinstance(numbers, dict)
        or not isinstance(curves, list)
    ):
        return False
    for limits in numbers.values():
        if not isinstance(limits, dict) or not is_number(limits.get("low")):
            return False
        if not is_number(limits.get("high")):
            return False
    for curve in curves:
        if not isinstance(curve, dict) or set(curve) != {f.name for f in fields(CurveBand)}:
            return False
        lists = [curve["steps"], curve["low"], curve["high"]]
        if not all(isinstance(part, list) and all(map(is_number, part)) for part in lists):
            return False
        if len({len(part) for part in lists}) != 1:
            return False
        if not all(isinstance(curve[key], str) for key in ("name", "stage", "key", "unit")):
            return False
    return True


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
    count = len(band["seeds"])
    seeds = "1 other seed" if count == 1 else f"{count} seeds"
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


def number_of(summary: dict, key: str) -> float | None:
    """summary["dpo"]["gold_after"] for "dpo.gold_after"; None if there is no number."""
    value = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if is_number(value) else None


def shown(value: float) -> str:
    """Three digits that matter: 0.649, 98.7, 124; 1 and 0 without any."""
    if value in (0, 1):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def curve_bands(chapter: str, bands: dict | None = None) -> list[CurveBand]:
    """The curves of the reference runs, for a picture."""
    band = (read_bands() if bands is None else bands).get(chapter, {"curves": []})
    return [CurveBand(**curve) for curve in band["curves"]]


# ---------------------------------------------------------------------------- making the JSON file


def build(folders: Sequence[Path], only: Sequence[str] = tuple(KEY_NUMBERS)) -> dict:
    """What bands.json holds, from runs folders that each hold the chapters of one seed.

    `only` names the chapters to look for; one that has not finished anywhere is left out.

    Raises: ValueError for no finished chapter, a run that is not a full one with default settings,
    or the same seed twice.
    """
    chapters = {}
    for chapter in only:
        runs = [Path(folder) / chapter for folder in folders]
        runs = [run for run in runs if (run / "summary.json").is_file()]
        if runs:
            chapters[chapter] = chapter_band(chapter, runs)
    if not chapters:
        raise ValueError("no finished chapter in these folders; each must be a runs folder")
    return {"format": FORMAT, "rule": RULE, "chapters": chapters}


def chapter_band(chapter: str, runs: Sequence[Path]) -> dict:
    """The band of one chapter, from its run folders."""
    config = default_config(chapter)
    summaries: dict[int, dict] = {}
    histories: dict[int, list[dict]] = {}
    for run in runs:
        summary = read_summary(run / "summary.json") or {}
        if missing := {"quick", "size", "seed", "config", "version"} - set(summary):
            raise ValueError(f"{run}: summary.json cannot be used, {min(missing)!r} is missing")
        if summary["quick"] or summary["size"] != "small":
            raise ValueError(f"{run}: not a full run of --size small")
        if changed := changed_settings({"config": config}, summary):
            raise ValueError(f"{run}: not the default settings (default first: {changed})")
        seed = summary["seed"]
        if seed in summaries:
            raise ValueError(f"{run}: seed {seed} is there twice; every folder needs its own")
        summaries[seed] = summary
        histories[seed] = read_history(run / "metrics.jsonl")
    seeds = sorted(summaries)
    numbers = {}
    for number in KEY_NUMBERS[chapter]:
        values = [number_of(summaries[seed], number.key) for seed in seeds]
        if None not in values:
            errors = [number_of(summaries[seed], f"{number.key}_stderr") or 0.0 for seed in seeds]
            low, high = widened(values, errors, share=number.share)
            numbers[number.key] = {"low": low, "high": high, "values": [digits(v) for v in values]}
    return {
        "seeds": seeds,
        "version": summaries[seeds[0]]["version"],
        "config": config,
        "numbers": numbers,
        "curves": chapter_curves(chapter, [histories[seed] for seed in seeds]),
    }


def widened(values: list[float], errors: list[float], *, share: bool) -> tuple[float, float]:
    """The band of some values, by the rule at the top of this file."""
    smallest, largest = min(values), max(values)
    margin = max(largest - smallest, 2 * max(errors), 0.01 * abs(fmean(values)))
    low, high = smallest - margin, largest + margin
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return digits(low), digits(high)


def chapter_curves(chapter: str, histories: list[list[dict]]) -> list[dict]:
    """Curves of one chapter over its seeds, each at the same points of the training."""
    bands = []
    for curve in CURVES.get(chapter, ()):
        sampled = [sample_curve(history, curve.stage, curve.key) for history in histories]
        if not all(sampled):
            continue
        points = min(len(curve_of_seed) for curve_of_seed in sampled)
        columns = [[curve_of_seed[i] for curve_of_seed in sampled] for i in range(points)]
        band = {
            "steps": [median(step for step, _ in column) for column in columns],
            "low": [digits(min(value for _, value in column)) for column in columns],
            "high": [digits(max(value for _, value in column)) for column in columns],
        }
        bands.append({**asdict(curve), **band})
    return bands


def sample_curve(history: list[dict], stage: str, key: str) -> list[tuple[float, float]]:
    """About 20 points (step, value): the means over equal parts of the training."""
    entries = [(e["step"], e[key]) for e in history if e["stage"] == stage and key in e]
    entries = [(step, value) for step, value in entries if value is not None]
    count = min(POINTS, len(entries))
    points = []
    for i in range(count):
        part = entries[i * len(entries) // count : (i + 1) * len(entries) // count]
        steps, values = zip(*part, strict=True)
        points.append((fmean(steps), fmean(values)))
    return points


def default_config(chapter: str) -> dict:
    """A chapter's settings when nobody gave a flag, as summary.json writes them."""
    module = importlib.import_module(f"chapters.{chapter}")
    return plain_numbers(asdict(module.Settings()))


def read_history(path: Path) -> list[dict]:
    """The entries of a metrics.jsonl; lines that cannot be read are left out, and that is said."""
    entries, bad = read_metrics(path)
    if bad:
        print(f"note: {unread_lines(path, bad)}", file=sys.stderr)
    return entries


def digits(value: float) -> float:
    """Five digits are enough for a band, and the file stays small."""
    return float(f"{value:.5g}")


def compact_json(content: dict) -> str:
    """Readable JSON in which a list of numbers is one line."""
    text = json.dumps(content, indent=1, allow_nan=False)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def report(content: dict) -> str:
    """What was built, a line per chapter."""
    lines = []
    for chapter, band in content["chapters"].items():
        seeds, numbers = band["seeds"], len(band["numbers"])
        note = "" if len(seeds) >= ENOUGH_SEEDS else f" (better {ENOUGH_SEEDS})"
        lines.append(f"{chapter:<18}{numbers:>3} numbers from seeds {seeds}{note}")
    missing = [chapter for chapter in KEY_NUMBERS if chapter not in content["chapters"]]
    return "\n".join(lines + [f"{chapter:<18}not finished in any folder" for chapter in missing])


def bands(argv=None) -> None:
    """The whole program."""
    parser = Parser(
        prog="chapters.bands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=path_argument,
        metavar="RUNS_DIR",
        help="a runs folder, one for each seed",
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        default=FILE,
        metavar="FILE",
        help="default: chapters/bands.json",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(KEY_NUMBERS),
        metavar="CHAPTER",
        help="make this chapter's band anew and keep the others (may be given again)",
    )
    arguments = parser.parse_args(argv)
    content = build(arguments.runs, arguments.only or tuple(KEY_NUMBERS))
    if arguments.only:
        found = {**read_bands(arguments.output), **content["chapters"]}
        content["chapters"] = {name: found[name] for name in KEY_NUMBERS if name in found}
    write_text_atomic(arguments.output, compact_json(content))
    print(report(content))


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    from chapters.runner import exit_code  # the runner itself prints verdicts

    return exit_code(lambda: bands(argv))


if __name__ == "__main__":
    sys.exit(main())
