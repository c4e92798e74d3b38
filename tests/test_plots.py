"""Pictures: whatever text and numbers come in, one whole PNG comes out, without a warning."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from kittenllm.plots import (
    Panel,
    attention_heatmap,
    bars,
    curves,
    frontier,
    histogram,
    moving_average,
    panels,
    token_rows,
)
from kittenllm.runs.checkpoints import CheckpointError

pytestmark = pytest.mark.filterwarnings("error")

NASTY = "$5 and $x_1^2$ \\frac a_b <b> \x1b[31m\n 小猫 \U0001f431"


def draw_curves(path, label="loss"):
    curves(
        path,
        {label: ([0, 1, 2], [3.0, math.nan, 1.0]), "other": ([0, 2], [None, 1.0])},
        title=label,
        x_label=label,
        y_label=label,
        reference_lines={label: 1.5, "absent": None},
        note=label,
    )


def draw_panels(path, label="loss"):
    plots = [Panel({label: ([0, 1], [1.0, 2.0])}, label, label, label, {label: 1.0})] * 4
    panels(path, plots, title=label, note=label)


def draw_histogram(path, label="scores"):
    groups = {label: [1.0, 2.0, math.inf], "none": [], "same": torch.ones(3)}
    histogram(path, groups, title=label, x_label=label, note=label)


def draw_bars(path, label="safe"):
    groups = {"SFT": {label: 0.5, "facts": -0.2}, label: {label: 0.9, "facts": None}}
    bars(path, groups, title=label, y_label=label, errors={"SFT": {label: 0.1}}, note=label)


def draw_attention(path, label="cat"):
    attention_heatmap(path, [label, " the", ""], torch.eye(3), label, note=label)


def draw_token_rows(path, label="cat"):
    rows = {label: [1.0, -2.0, None], "zero": [0.0, 0.0, math.nan]}
    token_rows(path, [label, " the", ""], rows, label, per_line=2, note=label)


def draw_frontier(path, label="DPO"):
    groups = {label: [(0.0, -1.0), (1.0, 0.5, label)], "none": []}
    frontier(path, groups, title=label, reference_lines={label: 1.0}, note=label)


DRAWINGS = [
    draw_curves,
    draw_panels,
    draw_histogram,
    draw_bars,
    draw_attention,
    draw_token_rows,
    draw_frontier,
]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nasty_text_is_shown_as_it_is(tmp_path, caplog, draw):
    with caplog.at_level(logging.WARNING):
        draw(tmp_path / "new folder" / "picture.png", NASTY)
    picture = imread(tmp_path / "new folder" / "picture.png")
    assert picture.shape[0] > 200 and picture.shape[1] > 200
    assert picture.std() > 0.01  # something was drawn
    assert not caplog.records


@pytest.mark.parametrize("draw", DRAWINGS)
def test_the_same_numbers_give_the_same_file(tmp_path, draw):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_empty_and_single_point_series(tmp_path):
    curves(
        tmp_path / "a.png", {"none": ([], [])}, title="nothing yet", x_label="step", y_label="nats"
    )
    curves(tmp_path / "b.png", {"one": ([3], [1.0])}, title="one", x_label="step", y_label="nats")
    histogram(tmp_path / "c.png", {}, title="nothing", x_label="score")
    token_rows(tmp_path / "d.png", [], {"advantage": []}, "nothing")


def test_a_full_disk_keeps_the_old_picture(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    draw_curves(tmp_path / "a.png")
    old = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="a.png"):
        draw_curves(tmp_path / "a.png", "new")
    assert (tmp_path / "a.png").read_bytes() == old
    assert os.listdir(tmp_path) == ["a.png"]


def test_credit_is_orange_above_zero_and_purple_below(tmp_path):
    """Three tokens, one row: the colours are those of +1, -1 and 0, from the row's own scale."""
    token_rows(tmp_path / "a.png", ["a", "b", "c"], {"advantage": [0.5, -0.5, 0.0]}, "credit")
    pixels = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    common = {tuple(colour) for colour in colours[counts > 1000]}
    orange = {c for c in common if c[0] > c[2] + 60}
    purple = {c for c in common if c[2] > c[1] + 60}
    assert len(orange) == 1 and len(purple) == 1
    assert (247, 247, 246) in common  # the middle of the scale


def test_wrong_shapes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"2 tokens .*\(3, 3\)"):
        attention_heatmap(tmp_path / "a.png", ["a", "b"], torch.eye(3), "attention")
    with pytest.raises(ValueError, match=r"'advantage' has \(1,\) values for 2 tokens"):
        token_rows(tmp_path / "a.png", ["a", "b"], {"advantage": [1.0]}, "credit")


def test_moving_average_by_hand():
    assert moving_average([1.0, 3.0, 5.0, 9.0], 2) == [1.0, 2.0, 4.0, 7.0]
    assert moving_average([], 2) == []
    with pytest.raises(ValueError, match="0"):
        moving_average([1.0], 0)


def test_pyplot_and_its_global_state_are_never_loaded():
    code = "import sys, kittenllm.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
