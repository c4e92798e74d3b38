"""The pictures of the reward model: its scores, how sure it may be, and how it learnt.

Used by story.py.
"""

import torch

from kittenllm import plots
from kittenllm.calibration import calibration_bins
from kittenllm.runs.run import Run


def draw_judge(chapter: Run, chosen: torch.Tensor, rejected: torch.Tensor, keys: dict) -> None:
    """scores.png, calibration.png and accuracy.png."""
    plots.histogram(
        chapter.folder / "scores.png",
        {"preferred": chosen, "rejected": rejected},
        title="What the reward model thinks of held-out replies",
        x_label="reward",
    )
    margin = chosen - rejected
    predicted, observed, counts = calibration_bins(
        torch.cat([margin, -margin]).sigmoid(),
        torch.cat([torch.ones_like(margin), torch.zeros_like(margin)]),
    )
    filled = counts > 0
    plots.curves(
        chapter.folder / "calibration.png",
        {
            "reward model": (predicted[filled].tolist(), observed[filled].tolist()),
            "perfectly calibrated": ([0, 1], [0, 1]),
        },
        title="How sure it is, and how often it is right",
        x_label="predicted probability that a reply is preferred",
        y_label="how often it was preferred",
        note=f"calibration error {keys['calibration_error']:.3f}",
    )
    history = [entry for entry in chapter.history("train") if entry.get("accuracy") is not None]
    steps = [entry["step"] for entry in history]
    watched = [entry for entry in history if entry.get("held_out_accuracy") is not None]
    smooth = plots.moving_average([entry["accuracy"] for entry in history], 10)
    plots.curves(
        chapter.folder / "accuracy.png",
        {
            "training pairs, before learning from them": (steps, smooth),
            "held-out pairs": (
                [entry["step"] for entry in watched],
                [entry["held_out_accuracy"] for entry in watched],
            ),
        },
        title="Guessing which reply people prefer",
        x_label="step",
        y_label="accuracy on noisy labels",
        reference_lines={"best possible, on average": keys["bayes_accuracy"]},
    )
