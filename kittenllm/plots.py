"""The chapters' pictures, all in one modest style.

Every function writes one PNG, completely or not at all, and keeps no state: it builds a matplotlib
Figure of its own and never touches pyplot. How things look is decided in plot_style.py.

Read before: nothing. Left out: interactive pictures, other formats than PNG.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kittenllm.plot_style import (
    DASHES,
    DIVERGING,
    GREY,
    MARKERS,
    add_legend,
    label_axes,
    look,
    new_figure,
    numbers,
    plain,
    save,
    visible,
)

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> (xs, ys)


@dataclass(frozen=True)
class Panel:
    """What one small plot shows: lines, with optional horizontal lines for comparison.

    series: label -> (xs, ys); NaN or None makes a gap. reference_lines: label -> y.
    """

    series: Series
    title: str = ""
    x_label: str = "step"
    y_label: str = ""
    reference_lines: Mapping[str, float] | None = None


def curves(
    path: str | Path,
    series: Series,
    *,
    title: str,
    x_label: str,
    y_label: str,
    reference_lines: Mapping[str, float] | None = None,
    note: str | None = None,
) -> None:
    """One plot with a line per series; `note` stands in small letters below it."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    _draw_panel(axes, Panel(series, title, x_label, y_label, reference_lines))
    save(figure, path, note)


def panels(
    path: str | Path,
    plots: Sequence[Panel],
    *,
    columns: int = 3,
    title: str = "",
    note: str | None = None,
) -> None:
    """A grid of small plots, left to right, then down."""
    columns = min(columns, len(plots))
    rows = math.ceil(len(plots) / columns)
    figure = new_figure(3.4 * columns, 2.6 * rows + (0.4 if title else 0))
    if title:
        figure.suptitle(plain(title), fontsize=12)
    for number, panel in enumerate(plots, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_panel(axes, panel, small=True)
    save(figure, path, note)


def histogram(
    path: str | Path,
    groups: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str = "share of the group",
    bins: int = 30,
    note: str | None = None,
) -> None:
    """How the values of each group are spread, on common bins; each group's bars add up to 1."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    values = {label: numbers(group) for label, group in groups.items()}
    values = {label: group[np.isfinite(group)] for label, group in values.items()}
    everything = np.concatenate(list(values.values()) or [np.zeros(0)])
    edges = np.histogram_bin_edges(everything, bins=bins).tolist() if len(everything) else bins
    for number, (label, group) in enumerate(values.items()):
        if not len(group):
            continue
        colour, dash = look(number)
        weights = np.full(len(group), 1 / len(group))
        axes.hist(group, bins=edges, weights=weights, color=colour, alpha=0.25)
        axes.hist(
            group,
            bins=edges,
            weights=weights,
            histtype="step",
            color=colour,
            linestyle=dash,
            linewidth=1.6,
            label=plain(f"{label} (mean {group.mean():.2f})"),
        )
    label_axes(axes, title, x_label, y_label)
    add_legend(axes)
    save(figure, path, note)


def bars(
    path: str | Path,
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    y_label: str,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    note: str | None = None,
) -> None:
    """Bars side by side: groups[colour label][place on the x axis] = height.

    `errors` has the same form and gives the half length of the error bars; None draws none.
    """
    places = list(dict.fromkeys(place for heights in groups.values() for place in heights))
    figure = new_figure(max(4.8, 1.1 * len(places) + 1.5), 4.0)
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(groups))
    for number, (label, heights) in enumerate(groups.items()):
        colour, _ = look(number)
        offset = (number - (len(groups) - 1) / 2) * width
        shown = [place for place in places if heights.get(place) is not None]
        spread = (errors or {}).get(label, {})
        drawn = axes.bar(
            [places.index(place) + offset for place in shown],
            [heights[place] for place in shown],
            width,
            color=colour,
            edgecolor="black",
            linewidth=0.6,
            hatch=("", "///", "...", "xxx", "\\\\\\")[number % 5],
            alpha=0.85,
            yerr=[spread.get(place) or 0.0 for place in shown] if spread else None,
            capsize=3,
            label=plain(label),
        )
        axes.bar_label(drawn, fmt="%.2f", fontsize=8, padding=2)
    axes.set_xticks(range(len(places)), [plain(place) for place in places])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.15)
    label_axes(axes, title, "", y_label)
    if len(groups) > 1:
        add_legend(axes)
    save(figure, path, note)


def attention_heatmap(
    path: str | Path,
    tokens: Sequence[str],
    weights,
    title: str,
    *,
    note: str | None = None,
) -> None:
    """Who looks at whom: weights (T, T), row t is what token t looks at; each row adds up to 1."""
    weights = numbers(weights)
    if weights.shape != (len(tokens), len(tokens)):
        raise ValueError(f"{len(tokens)} tokens need weights of that square, not {weights.shape}")
    size = max(4.0, 0.3 * len(tokens) + 1.6)
    figure = new_figure(size + 0.8, size)
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Greys", vmin=0, vmax=max(weights.max(), 1e-9))
    labels = [visible(token) for token in tokens]
    axes.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=8, family="monospace")
    axes.set_yticks(range(len(tokens)), labels, fontsize=8, family="monospace")
    label_axes(axes, title, "looked at", "looking", grid=False)
    words = "attention weight: white is 0, the darkest is most"
    figure.colorbar(image, ax=axes, shrink=0.8, label=words)
    save(figure, path, note)


def token_rows(
    path: str | Path,
    tokens: Sequence[str],
    rows: Mapping[str, Sequence[float]],
    title: str,
    *,
    per_line: int = 12,
    note: str | None = None,
) -> None:
    """The token credit picture: a number and a colour for every token, one row per quantity.

    Every row has its own scale, the same on both sides of zero: orange is above, purple below,
    white is zero. Long texts continue below, `per_line` tokens in a line. NaN or None leaves a cell
    empty.
    """
    values = {name: numbers(row) for name, row in rows.items()}
    for name, row in values.items():
        if row.shape != (len(tokens),):
            raise ValueError(f"row {name!r} has {row.shape} values for {len(tokens)} tokens")
    lines = max(1, math.ceil(len(tokens) / per_line))
    columns = min(per_line, max(1, len(tokens)))
    name_width = 0.09 * max((len(name) for name in values), default=0) + 0.3
    height = (0.36 * (len(values) + 1) + 0.3) * lines + 0.9
    figure = new_figure(max(5.0, 0.75 * columns + name_width), height)
    figure.suptitle(plain(title), fontsize=12)
    scales = {name: _largest(row) for name, row in values.items()}
    for line in range(lines):
        axes = figure.add_subplot(lines, 1, line + 1)
        part = slice(line * per_line, (line + 1) * per_line)
        cells = {name: row[part] for name, row in values.items()}
        _draw_cells(axes, tokens[part], cells, scales, columns)
    save(figure, path, note)


def frontier(
    path: str | Path,
    groups: Mapping[str, Sequence[tuple]],
    *,
    title: str,
    x_label: str = "KL to the starting model, nats per reply",
    y_label: str = "gold score",
    reference_lines: Mapping[str, float] | None = None,
    note: str | None = None,
) -> None:
    """What was gained against how far the model moved: a path of points per method.

    groups[method] is a list of (kl, gold) or (kl, gold, label) in the order in which to join them.
    """
    figure = new_figure(6.8, 4.6)
    axes = figure.add_subplot()
    for number, (method, points) in enumerate(groups.items()):
        colour, dash = look(number)
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=colour,
            linestyle=dash,
            marker=MARKERS[number % len(MARKERS)],
            markersize=6,
            linewidth=1.3,
            label=plain(method),
        )
        for kl, gold, *label in points:
            if label:
                axes.annotate(
                    plain(str(label[0])),
                    (kl, gold),
                    xytext=(5, 5),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=colour,
                )
    _draw_reference_lines(axes, reference_lines)
    axes.margins(0.12)
    label_axes(axes, title, x_label, y_label)
    add_legend(axes)
    save(figure, path, note)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Each value's mean with up to `width` - 1 values before it: a noisy curve that can be read."""
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    means = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        means.append(sum(window) / len(window))
    return means


# Pieces of pictures.


def _draw_panel(axes: Axes, panel: Panel, *, small: bool = False) -> None:
    for number, (label, (xs, ys)) in enumerate(panel.series.items()):
        colour, dash = look(number)
        axes.plot(
            numbers(xs),
            numbers(ys),
            color=colour,
            linestyle=dash,
            linewidth=1.4 if small else 1.8,
            marker="o" if len(xs) == 1 else None,  # a single point is no line
            label=plain(label),
        )
    _draw_reference_lines(axes, panel.reference_lines)
    label_axes(axes, panel.title, panel.x_label, panel.y_label, small=small)
    if len(panel.series) > 1 or panel.reference_lines:
        add_legend(axes, small=small)


def _draw_reference_lines(axes: Axes, lines: Mapping[str, float] | None) -> None:
    for number, (label, y) in enumerate((lines or {}).items()):
        if y is not None:
            dash = DASHES[(number + 3) % len(DASHES)]
            axes.axhline(y, color=GREY, linestyle=dash, linewidth=1.2, label=plain(label))


def _draw_cells(axes: Axes, tokens, rows: dict, scales: dict, columns: int) -> None:
    """One line of the token credit picture: the tokens on top, a row of coloured cells each."""
    colours = colormaps[DIVERGING]
    for y, (name, row) in enumerate(rows.items()):
        for x, value in enumerate(row):
            if not np.isfinite(value):
                continue
            strength = value / scales[name]  # -1 .. 1
            face = colours(0.5 + 0.4 * strength)  # not quite to the dark ends of the scale
            cell = Rectangle((x - 0.5, y), 1, 1, facecolor=face, edgecolor="white", linewidth=1)
            axes.add_patch(cell)
            ink = "white" if sum(face[:3]) < 1.4 else "black"
            axes.text(x, y + 0.5, _short(value), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(len(rows), 0)  # the first row on top
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [plain(name) for name in rows])
    labels = [visible(token) for token in tokens]
    axes.set_xticks(range(len(tokens)), labels, fontsize=8.5, family="monospace")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _largest(row: np.ndarray) -> float:
    """The largest distance from zero, and 1 for a row of zeros: the scale of a row's colours."""
    finite = np.abs(row[np.isfinite(row)])
    largest = finite.max() if len(finite) else 0.0
    return float(largest) if largest > 0 else 1.0


def _short(value: float) -> str:
    """A number in at most six letters, without a minus before zero."""
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
    return "0.00" if text == "-0.00" else text
