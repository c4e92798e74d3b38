"""Key numbers on the page: tiles, before and after, and the bands of the reference runs.

One idea: a number alone says little. Its standard error stands beside it, and, where
chapters/bands knows the chapter, so does the band in which other seeds ended.

Used by stages.py.
"""

from chapters.bands import verdicts as bands
from chapters.report.charts import band_strip, way
from chapters.report.data import Stage, picture
from chapters.report.html import Markup, fold, is_number, note, shown, table, tag
from chapters.report.languages import Both, both, listed, read_back

Row = tuple[str, str, str]  # label, kind of number, key of summary.json


def number_tiles(stage: Stage, rows: list[Row]) -> Markup:
    """Single numbers, each in a tile."""
    tiles = []
    for label, kind, key in rows:
        value, error = stage.value(key), stage.value(f"{key}_stderr")
        number, _, plus_minus = shown(value, kind, error).partition(" \u00b1")
        small = tag("small", f" \u00b1{plus_minus}") if plus_minus else None
        tiles.append(tag("div", tag("b", number, small), tag("span", both(label)), class_="tile"))
    return tag("div", *tiles, class_="tiles")


def change_table(stage: Stage, rows: list[tuple[str, str, str, str]]) -> Markup:
    """Numbers before and after; rates also as a way from 0 to 100 %."""
    lines = []
    for label, kind, before_key, after_key in rows:
        before, after = stage.value(before_key), stage.value(after_key)
        cells = [
            shown(value, kind, stage.value(f"{key}_stderr"))
            for value, key in ((before, before_key), (after, after_key))
        ]
        lines.append([both(label), *cells, way(before, after) if kind == "rate" else ""])
    heads = ["", both("before"), both("after"), both("0 to 100 %")]
    return table(heads, lines, class_="numbers")


def before_after(stem: str) -> tuple[str, str]:
    """The two keys of a number that was measured twice."""
    return f"{stem}_before", f"{stem}_after"


def pictures(stage: Stage, names: tuple[str, ...], title: str) -> Markup | None:
    """Some PNG pictures of the chapter behind a fold; those that are not there are left out."""
    found = [picture(stage.folder / f"{name}.png") for name in names]
    found = [figure for figure in found if figure is not None]
    return fold(both(title), tag("div", *found, class_="pngs")) if found else None


def bands_view(stage: Stage) -> Markup | None:
    """This run beside the reference runs; None where no band fits it."""
    try:
        verdicts = bands.verdicts(stage.name, stage.summary)
    except (KeyError, TypeError, ValueError, AttributeError):
        return note(both("summary.json lacks what the reference bands are compared with"))
    if not verdicts:
        return None
    rows = []
    for verdict in verdicts:
        strip = band_strip(verdict.low, verdict.high, verdict.value, verdict.inside)
        name = verdict.key.replace("_", " ").replace(".", " ")
        name = tag("span", name, translate="no")
        rows.append([name, bands.shown(verdict.value), strip, in_words(verdict.text)])
    inside = sum(verdict.inside for verdict in verdicts)
    title = both(
        "Beside the reference runs: {inside} of {all} numbers inside their band",
        inside=inside,
        all=len(rows),
    )
    grid = table(["", both("this run"), both("band"), ""], rows, class_="numbers bands")
    return fold(title, grid, open_=inside < len(rows))


def in_words(verdict: str) -> Both:
    """The sentence of a verdict; of its likely causes each is translated by itself."""
    place, _, causes = verdict.partition(" Likely: ")
    if not causes:
        return read_back(verdict)
    each = listed(map(read_back, causes.removesuffix(".").split("; ")), "; ", "；")
    return both("{place} Likely: {causes}.", place=read_back(place), causes=each)


def curve_shades(stage: Stage) -> dict[str, tuple[list, list, list]]:
    """ "train loss" -> steps, lowest and highest value of the reference runs, if they fit."""
    try:
        if not bands.verdicts(stage.name, stage.summary):
            return {}
        curves = bands.curve_bands(stage.name)
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    shades = {}
    for curve in curves:
        sizes = {len(curve.steps), len(curve.low), len(curve.high)}
        if len(sizes) == 1 and all(map(is_number, [*curve.steps, *curve.low, *curve.high])):
            steps = [step + 1 for step in curve.steps]
            shades[f"{curve.stage} {curve.key}"] = (steps, curve.low, curve.high)
    return shades
