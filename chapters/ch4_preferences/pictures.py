"""The pictures of chapter 4: what the three methods learn, and what the gold judge thinks of it."""

from chapters.common.pairs import LabelledPair
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.runs.run import Run

METHODS = ("dpo", "ipo", "orpo")


def draw_training(chapter: Run, watched: list[LabelledPair]) -> None:
    """training.png: chosen and rejected apart, then margin and accuracy, on unseen pairs."""
    histories = {name: chapter.history(name, "accuracy") for name in METHODS}

    def curve(name: str, key: str, start_value: float) -> tuple[list, list]:
        looks = [entry for entry in histories[name] if entry.get(key) is not None]
        steps = [0] + [entry["step"] + 1 for entry in looks]
        return steps, [start_value] + [entry[key] for entry in looks]

    panels = [
        plots.Panel(
            {part: curve(name, f"unseen_{part}", 0.0) for part in ("chosen", "rejected")},
            f"{name.upper()}: log p(reply)",
            y_label="change, nats per reply",
            reference_lines={"chat kitten": 0.0},
        )
        for name in METHODS
    ]
    known = [pair.best_accuracy for pair in watched if pair.best_accuracy is not None]
    panels += [
        plots.Panel(
            {name.upper(): curve(name, "unseen_margin", 0.0) for name in METHODS},
            "Margin: chosen - rejected",
            y_label="nats",
        ),
        plots.Panel(
            {name.upper(): curve(name, "unseen_accuracy", 0.5) for name in METHODS},
            "Accuracy on unseen pairs",
            reference_lines={"best possible, on average": sum(known) / len(known)}
            if known
            else None,
        ),
        plots.Panel(
            {
                name.upper(): (
                    [entry["step"] + 1 for entry in histories[name]],
                    plots.moving_average([entry["accuracy"] for entry in histories[name]], 10),
                )
                for name in METHODS
            },
            "Accuracy on the pairs of the step",
        ),
    ]
    plots.panels(
        chapter.folder / "training.png",
        panels,
        title="Learning from preferences",
        note="ORPO's accuracy on its own pairs is that of its odds, as it has no reference",
    )


def draw_gold(chapter: Run, keys: dict) -> None:
    """gold.png: the chat kitten, the three methods, the best that is possible."""
    heights = {"chat kitten": keys["dpo"]["gold_before"]}
    errors = {"chat kitten": keys["dpo"]["gold_before_stderr"]}
    for name in METHODS:
        heights[name.upper()] = keys[name]["gold_after"]
        errors[name.upper()] = keys[name]["gold_after_stderr"]
    heights["best possible"], errors["best possible"] = keys["gold_best"], 0.0
    plots.bars(
        chapter.folder / "gold.png",
        {"gold score": heights},
        errors={"gold score": errors},
        title="Held-out questions: the gold judge's mean score",
        y_label="gold score",
    )


def report(keys: dict) -> str:
    """The three methods side by side, in 80 columns."""
    rows = (
        ("gold score before", "gold_before", 2),
        ("gold score after", "gold_after", 2),
        ("wins against the chat kitten", "win_rate", 3),
        ("KL to it, nats per reply", "kl", 2),
        ("safe", "safe_rate_after", 3),
        ("allows what is fine, before", "allowed_rate_before", 3),
        ("allows what is fine", "allowed_rate_after", 3),
        ("small talk, unknowns and wishes", "talk_rate_after", 3),
        ("facts and sums right, before", "answer_accuracy_before", 3),
        ("facts and sums right", "answer_accuracy_after", 3),
        ("log p(chosen) changed by", "chosen_logprob_change", 2),
        ("log p(rejected) changed by", "rejected_logprob_change", 2),
    )
    lines = [f"{'held-out questions, unseen pairs':<34}" + "".join(f"{m:>15}" for m in METHODS)]
    for label, key, digits in rows:
        line = f"{label:<34}"
        for method in METHODS:
            value, error = keys[method][key], keys[method][f"{key}_stderr"]
            line += with_error(value, error, f".{digits}f").rjust(15)
        lines.append(line)
    speeds = "".join(f"{keys[method]['pairs_per_second']:>15.0f}" for method in METHODS)
    lines.append(f"{'pairs per second':<34}{speeds}")
    lines.append(f"the best possible replies have a gold score of {keys['gold_best']:.2f}")
    lines.append(ERRORS_MEAN)
    return "\n".join(lines)
