"""Reference bands: is a number of this run where the numbers of other seeds were?

python -m chapters.bands RUNS_DIR...  makes bands.json from finished runs of different seeds; every
chapter then ends with a verdict for each of its key numbers. --rounding RUNS_DIR... adds how far
the same seeds move with another number of threads. --docs writes the numbers into README.md and
the lessons. A band goes from the smallest to the largest of the seeds, widened by that distance on
each side, and by two standard errors or 1 % of the number if that is more. With five seeds, a sixth
falls outside 3 times in 100 by chance.

Bands hold for full runs with default settings. Other settings: the verdict says so.

Read before: key_numbers.py. Left out: bands for seconds and memory, which belong to a machine.
"""

import argparse
import importlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from chapters.bands_docs import TABLE, compact_json, shown_numbers, write_documents
from chapters.bands_file import FILE, FORMAT, CurveBand, read_bands
from chapters.bands_rounding import common_threads, compare
from chapters.key_numbers import CURVES, KEY_NUMBERS, KeyNumber, digits, number_of, shown
from chapters.terminal import wrap
from kittenllm.checkpoints import plain_numbers, write_text_atomic
from kittenllm.door import Parser, path_argument
from kittenllm.json_files import (
    DamagedFile,
    read_json,
    read_metrics,
    unread_lines,
)
from kittenllm.runs import differences, read_summary

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


# ------------------------------------------------------------------------------------ the verdicts


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
    seeds += f" on {threads} threads" if threads else ""
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


# ---------------------------------------------------------------------------- making the JSON file


def build(folders: Sequence[Path], only: Sequence[str] = tuple(KEY_NUMBERS)) -> dict:
    """What bands.json holds, from runs folders that each hold the chapters of one seed.

    `only` names the chapters to look for; one that has not finished anywhere is left out.

    Raises: ValueError for no finished chapter, a run that is not a full one with default settings,
    the same seed twice, or runs on different numbers of threads.
    """
    found: dict[str, dict] = {}
    for chapter in dict.fromkeys([*only, *TABLE]):
        runs = finished_runs(chapter, folders)
        if runs and (chapter in only or chapter not in KEY_NUMBERS):
            found[chapter] = chapter_band(chapter, runs)
    chapters = {name: band for name, band in found.items() if name in KEY_NUMBERS}
    others = {name: band for name, band in found.items() if name not in KEY_NUMBERS}
    if not chapters:
        raise ValueError("no finished chapter in these folders; each must be a runs folder")
    content = {"format": FORMAT, "rule": RULE, "chapters": chapters}
    return {**content, "others": others} if others else content


def finished_runs(chapter: str, folders: Sequence[Path]) -> list[Path]:
    """The folders of a chapter that has finished."""
    runs = [Path(folder) / chapter for folder in folders]
    return [run for run in runs if (run / "summary.json").is_file()]


def chapter_band(chapter: str, runs: Sequence[Path]) -> dict:
    """The band of one chapter, from its run folders."""
    config = default_config(chapter)
    summaries: dict[int, dict] = {}
    histories: dict[int, list[dict]] = {}
    for run in runs:
        summary = reference_summary(run, config)
        seed = summary["seed"]
        if seed in summaries:
            raise ValueError(f"{run}: seed {seed} is there twice; every folder needs its own")
        summaries[seed] = summary
        histories[seed] = read_history(run / "metrics.jsonl")
    seeds = sorted(summaries)
    numbers, errors_of = {}, {}
    for number in KEY_NUMBERS.get(chapter, ()):
        values = [number_of(summaries[seed], number.key) for seed in seeds]
        if None not in values:
            errors = [number_of(summaries[seed], f"{number.key}_stderr") for seed in seeds]
            low, high = widened(values, [e or 0.0 for e in errors], share=number.share)
            numbers[number.key] = {"low": low, "high": high, "values": [digits(v) for v in values]}
            if errors != [None] * len(seeds):
                errors_of[number.key] = [digits(error) for error in errors]
    return {
        "seeds": seeds,
        "threads": common_threads(chapter, summaries),
        "version": summaries[seeds[0]]["version"],
        "config": config,
        "numbers": numbers,
        "errors": errors_of,
        "table": shown_numbers(chapter, [summaries[seed] for seed in seeds]),
        "curves": chapter_curves(chapter, [histories[seed] for seed in seeds]),
    }


def reference_summary(run: Path, config: dict) -> dict:
    """The summary of a full run with default settings.  Raises: ValueError for any other run."""
    summary = read_summary(run / "summary.json") or {}
    if missing := {"quick", "size", "seed", "config", "version"} - set(summary):
        raise ValueError(f"{run}: summary.json cannot be used, {min(missing)!r} is missing")
    if summary["quick"] or summary["size"] != "small":
        raise ValueError(f"{run}: not a full run of --size small")
    if changed := changed_settings({"config": config}, summary):
        raise ValueError(f"{run}: not the default settings (default first: {changed})")
    return summary


def rounding(folders: Sequence[Path], others: Sequence[Path]) -> dict[str, list[dict]]:
    """chapter -> for each run of `others` the key numbers beside those of its partner of the same
    seed among `folders`, which ran on another number of threads.

    Raises: ValueError for runs that cannot be compared.
    """
    compared = {}
    for chapter in KEY_NUMBERS:
        config = default_config(chapter)
        partners = [reference_summary(run, config) for run in finished_runs(chapter, folders)]
        if runs := finished_runs(chapter, others):
            summaries = {str(run): reference_summary(run, config) for run in runs}
            compared[chapter] = compare(chapter, partners, summaries)
    if not compared:
        raise ValueError("--rounding: no finished chapter in these folders")
    return compared


def refuse_fewer_seeds(content: dict, only: Sequence[str]) -> None:
    """The shipped bands are not replaced by those of fewer seeds.  Raises: ValueError."""
    for chapter, shipped in read_bands().items():
        if chapter not in only:
            continue
        new = len(content["chapters"].get(chapter, {"seeds": []})["seeds"])
        if new < len(shipped["seeds"]):
            raise ValueError(
                f"{FILE} holds {chapter} with {len(shipped['seeds'])} seeds, these folders hold "
                f"{new}. Give more runs folders, or another file with --output."
            )


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


def report(content: dict) -> str:
    """What was built, a line per chapter."""
    lines = []
    for chapter, band in content["chapters"].items():
        seeds, numbers = band["seeds"], len(band["numbers"])
        note = "" if len(seeds) >= ENOUGH_SEEDS else f" (better {ENOUGH_SEEDS})"
        threads = f" on {band['threads']} threads" if band.get("threads") else ""
        lines.append(f"{chapter:<18}{numbers:>3} numbers from seeds {seeds}{threads}{note}")
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
        nargs="*",
        type=path_argument,
        metavar="RUNS_DIR",
        help="a runs folder, one for each seed",
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="default: chapters/bands.json"
    )
    parser.add_argument(
        "--rounding",
        nargs="+",
        type=path_argument,
        metavar="RUNS_DIR",
        help="runs of some of the same seeds on another number of threads",
    )
    parser.add_argument(
        "--alone",
        nargs="+",
        type=int,
        default=[],
        metavar="SEED",
        help="seeds that had the machine to themselves; the seconds of the others get brackets",
    )
    parser.add_argument(
        "--docs", action="store_true", help="write the numbers into README.md and the lessons"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(KEY_NUMBERS),
        metavar="CHAPTER",
        help="make this chapter's band anew and keep the others (may be given again)",
    )
    arguments = parser.parse_args(argv)
    output = arguments.output or FILE
    if arguments.runs:
        content = build_again(arguments, output)
        write_text_atomic(output, compact_json(content))
        print(report(content))
    elif arguments.rounding or arguments.only or not arguments.docs:
        parser.error("give the runs folders, one for each seed, or --docs")
    if arguments.docs:
        changed = write_documents(read_json(output) or {}, output)
        print(f"numbers written into {', '.join(changed) or 'no file: all are up to date'}")


def build_again(arguments: argparse.Namespace, output: Path) -> dict:
    """What the file shall hold; with --only, the other chapters stay as they are."""
    only = tuple(arguments.only or KEY_NUMBERS)
    content = build(arguments.runs, only)
    if arguments.output is None:
        refuse_fewer_seeds(content, only)
    earlier = (read_json(output) or {}) if arguments.only else {}
    for part in ("chapters", "others", "rounding"):
        kept = {**earlier.get(part, {}), **content.get(part, {})}
        if part == "rounding":
            kept = {name: rows for name, rows in kept.items() if name not in only}
            kept |= rounding(arguments.runs, arguments.rounding) if arguments.rounding else {}
        if kept:
            content[part] = {name: kept[name] for name in (*KEY_NUMBERS, *TABLE) if name in kept}
    content["alone"] = arguments.alone or earlier.get("alone", [])
    return content


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    from chapters.runner import exit_code  # the runner itself prints verdicts

    return exit_code(lambda: bands(argv))


if __name__ == "__main__":
    sys.exit(main())
