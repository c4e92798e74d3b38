"""Making bands.json: a band for every key number, from finished runs of different seeds.

Read before: key_numbers.py, verdicts.py. Left out: bands for seconds and memory, which belong to a
machine.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

from chapters.bands import conversation
from chapters.bands.curves import CURVES
from chapters.bands.docs import shown_numbers
from chapters.bands.file import FORMAT
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import digits, number_of
from chapters.bands.rounding import common_threads, compare
from chapters.bands.rows import TABLE
from chapters.bands.verdicts import changed_settings
from chapters.common.runner import default_settings
from kittenllm.runs.checkpoints import plain_numbers
from kittenllm.runs.run import read_summary
from kittenllm.runs.summaries import read_history
from kittenllm.settings import Common, main_values

RULE = (
    "smallest to largest of the seeds; on each side the largest of these more: that distance, two "
    "standard errors, 1 % of the number"
)
POINTS = 20  # of a curve


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
    if conversation.CHAPTERS[-1] in only and (said := conversation.of_lowest_seed(folders)):
        content["conversation"] = said
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
    return plain_numbers(main_values(default_settings(chapter, Common())))
