"""The look of all pictures: colours, dashes, text as it is, and one way to write a file.

Lines differ in colour *and* in dash, so that they can be told apart in black-and-white print and by
colour-blind readers (the colours are those of Okabe and Ito 2008). Text from models and data is
shown as it is: "$" starts no formula, and a letter that the font lacks becomes a box without a
warning.

Read before: nothing. Its user is plots.py. Left out: themes to choose from.
"""

import io
import logging
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kittenllm.runs.checkpoints import write_bytes_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
DIVERGING = "PuOr_r"  # purple below zero, white at zero, orange above
DOTS_PER_INCH = 130


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches, that belongs to nobody but its caller."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_axes(axes: Axes, title, x_label, y_label, *, small=False, grid=True) -> None:
    axes.set_title(plain(title), fontsize=10 if small else 12)
    axes.set_xlabel(plain(x_label), fontsize=8.5 if small else 10)
    axes.set_ylabel(plain(y_label), fontsize=8.5 if small else 10)
    axes.spines[["top", "right"]].set_visible(False)
    if small:
        axes.tick_params(labelsize=8)
    if grid:
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)


def add_legend(axes: Axes, *, small: bool = False) -> None:
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(fontsize=7.5 if small else 9, handlelength=3)
        legend.get_frame().set(facecolor="white", edgecolor="none", alpha=0.8)


def look(number: int) -> tuple:
    """Colour and dash of the `number`-th line."""
    return COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]


def numbers(values) -> np.ndarray:
    """Any sequence of numbers as float64; None becomes NaN."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=np.float64)


def plain(text: str) -> str:
    """Text in which "$" does not start a formula."""
    return str(text).replace("$", r"\$")


def visible(token: str) -> str:
    """A token as a label: a space at its edge becomes visible, control characters are spelled
    out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
    if shown.startswith(" "):
        shown = "\u00b7" + shown[1:]
    if len(shown) > 12:
        shown = shown[:11] + "\u2026"
    return plain(shown or "(empty)")


def save(figure: Figure, path: str | Path, note: str | None) -> None:
    """Draw and write atomically.  Raises: CheckpointError if the file cannot be written."""
    if note:
        figure.supxlabel(plain(note), fontsize=8, color=GREY)
    buffer = io.BytesIO()
    font_log = logging.getLogger("matplotlib.font_manager")
    level = font_log.level
    font_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(buffer, format="png", metadata={"Software": None})
    finally:
        font_log.setLevel(level)
    write_bytes_atomic(path, buffer.getvalue())
