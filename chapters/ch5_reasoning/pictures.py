"""What a training with rules looks like: warnings in plain words, pictures, and the numbers.

Used by story.py.
"""

from pathlib import Path

from chapters.common.exam import PASS_KS
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.plots import Panel, moving_average

WINDOW = 5  # steps that a warning looks back on
SMOOTH = 5  # steps in a moving average of the curves

# What the curves show: (key of metrics.jsonl, title, label of the y axis)
WATCHED = (
    ("accuracy", "Right answers", "share of the replies"),
    ("reply_tokens", "Length", "tokens per reply"),
    ("waits", 'How often it says "wait"', "per reply"),
    ("format", "Right form", "share of the replies"),
    ("truncated", "Cut off", "share of the replies"),
    ("no_signal", "No signal: all siblings alike", "share of the groups"),
    ("entropy", "Entropy", "nats per token"),
    ("seconds", "Time", "seconds per step"),
)
NEEDED = (*(key for key, _, _ in WATCHED), "right_tokens")  # of every step


def warnings_in(history: list[dict]) -> dict[str, str]:
    """What the last few steps give reason to worry about: name -> one sentence in plain words."""
    if len(history) < WINDOW:
        return {}
    last, first = history[-WINDOW:], history[:WINDOW]
    now = {key: mean_of(last, key) for key, _, _ in WATCHED}
    step, found = history[-1]["step"] + 1, {}
    if now["no_signal"] > 0.8:
        found["no_signal"] = (
            f"in {now['no_signal']:.0%} of the groups all replies earned the same, so they teach "
            "nothing. The problems are too hard or too easy, or the groups are too small "
            "(--group-size)."
        )
    if now["truncated"] > 0.2:
        found["truncated"] = (
            f"{now['truncated']:.0%} of the replies were cut off and earned nothing. Allow longer "
            "ones (--max-new-tokens), or the kitten learns to be brief for the wrong reason."
        )
    if now["entropy"] < 0.2 * mean_of(first, "entropy"):
        found["entropy"] = (
            f"entropy fell to {now['entropy']:.3f} nats per token: all replies are nearly the "
            "same, and there is nothing left to compare. A smaller learning rate keeps more "
            "variety; so does --clip-eps-high 0.28, which lets rare tokens grow faster."
        )
    if now["format"] < min(0.9, mean_of(first, "format")):
        found["format"] = (
            f"only {now['format']:.0%} of the replies have the right form, fewer than at first. "
            "Lower the learning rate, or pay more for the form (--format-weight)."
        )
    return {name: f"warning at step {step}: {text}" for name, text in found.items()}


def mean_of(entries: list[dict], key: str) -> float:
    """The mean of one number over some steps."""
    return sum(entry[key] for entry in entries) / len(entries)


def all_warnings(history: list[dict]) -> list[str]:
    """Each warning of a whole training once, at the step where it came up first."""
    found: dict[str, str] = {}
    for end in range(WINDOW, len(history) + 1):
        for name, text in warnings_in(history[:end]).items():
            found.setdefault(name, text)
    return list(found.values())


def curve(history: list[dict], key: str) -> tuple[list, list]:
    """Steps and smoothed values of one number."""
    history = [entry for entry in history if entry.get(key) is not None]
    values = moving_average([entry[key] for entry in history], SMOOTH)
    return [entry["step"] + 1 for entry in history], values


def length_by_result(history: list[dict]) -> dict[str, tuple[list, list]]:
    """Mean tokens of right and of wrong replies, from the means that the training logs."""
    steps, right, wrong = [], [], []
    for end in range(1, len(history) + 1):
        window = history[max(0, end - SMOOTH) : end]
        accuracy = mean_of(window, "accuracy")
        tokens, right_tokens = mean_of(window, "reply_tokens"), mean_of(window, "right_tokens")
        steps.append(window[-1]["step"] + 1)
        right.append(right_tokens / accuracy if accuracy > 0 else None)
        wrong.append((tokens - right_tokens) / (1 - accuracy) if accuracy < 1 else None)
    return {"right replies": (steps, right), "wrong replies": (steps, wrong)}


def draw_training(path: Path, history: list[dict]) -> None:
    """curves.png: everything that is watched while GRPO runs, and the length of right and wrong."""
    panels = [
        Panel({label: curve(history, key)}, title, y_label=label) for key, title, label in WATCHED
    ]
    lengths = Panel(length_by_result(history), "Length, right and wrong", y_label="tokens")
    panels.insert(2, lengths)
    note = f"practice problems, mean of up to {SMOOTH} steps"
    plots.panels(path, panels, title="GRPO with rules only", note=note)


def draw_comparison(path: Path, histories: dict[str, list[dict]], title: str) -> None:
    """The same curves of several trainings side by side."""
    keys = ("accuracy", "reply_tokens", "waits", "truncated", "entropy")
    names = {key: (heading, label) for key, heading, label in WATCHED}
    panels = []
    for key in keys:
        series = {name: curve(history, key) for name, history in histories.items()}
        panels.append(Panel(series, names[key][0], y_label=names[key][1]))
    wrong = {name: length_by_result(h)["wrong replies"] for name, h in histories.items()}
    panels.append(Panel(wrong, "Length of wrong replies", y_label="tokens"))
    plots.panels(path, panels, title=title)


def draw_exams(folder: Path, before: dict, after: dict) -> None:
    """pass_at_k.png and lengths.png: what the two exams say."""
    plots.curves(
        folder / "pass_at_k.png",
        {
            name: (list(PASS_KS), [scores["pass_at_k"][str(k)] for k in PASS_KS])
            for name, scores in (("warm-up", before), ("after GRPO", after))
        },
        title="At least one of k replies is right",
        x_label="k, replies to one problem",
        y_label="share of the held-out problems",
    )
    lengths = {"before, right": before["lengths"]["right"]}
    lengths["before, wrong"] = before["lengths"]["wrong"]
    lengths["after, right"] = after["lengths"]["right"]
    lengths["after, wrong"] = after["lengths"]["wrong"]
    plots.histogram(
        folder / "lengths.png",
        lengths,
        title="How long right and wrong replies are",
        x_label="tokens per reply",
    )


def draw_budgets(path: Path, found: dict[str, dict[str, dict]]) -> None:
    """budget.png: is longer more often right?  found[kitten and how][tokens]["accuracy"]"""
    series = {}
    for name, points in found.items():
        tokens = [int(budget) for budget in points]
        series[name] = (tokens, [point["accuracy"] for point in points.values()])
    plots.curves(
        path,
        series,
        title="Right answers against a forced budget of thinking",
        x_label="tokens between <think> and </think>",
        y_label="share of right answers",
    )


def draw_votes(path: Path, found: dict[str, dict[str, dict]]) -> None:
    """votes.png: what many samples buy, for the tokens that they cost."""
    groups = {
        name: [(point["tokens"], point["accuracy"], n) for n, point in points.items()]
        for name, points in found.items()
    }
    plots.frontier(
        path,
        groups,
        title="Thinking longer without training: n replies, one is picked",
        x_label="tokens spent on a problem",
        y_label="share of right answers",
        note="the small numbers are n",
    )


def table(before: dict, after: dict) -> str:
    """The two exams side by side, every number with its standard error."""
    rows = {
        "accuracy": "right answers",
        "tokens": "tokens per reply",
        "tokens_right": "  right replies",
        "tokens_wrong": "  wrong replies",
        "waits": '"wait" per reply',
        "waits_right": "  right replies",
        "waits_wrong": "  wrong replies",
        "format_rate": "right form",
        "truncated": "cut off",
    }
    lines = [f"{'held-out problems':<20}{'warm-up':>19}{'after GRPO':>19}"]
    for key, name in rows.items():
        cells = [shown(s[key], s[f"{key}_stderr"]) for s in (before, after)]
        lines.append(f"{name:<20}{cells[0]:>19}{cells[1]:>19}")
    for k in map(str, PASS_KS):
        cells = [shown(s["pass_at_k"][k], s["pass_at_k_stderr"][k]) for s in (before, after)]
        lines.append(f"{'pass@' + k:<20}{cells[0]:>19}{cells[1]:>19}")
    return "\n".join(lines)


def shown(value: float | None, error: float | None) -> str:
    """ "0.153 +- 0.009", or "-" for nothing."""
    if value is None:
        return "-"
    digits = 3 if abs(value) < 10 else 1
    return with_error(value, error, f".{digits}f")
