"""What the report says about chapter 6: what every kitten on the way to R1 can do.

Like stages.py, whose table of sections it is in.
"""

from chapters.report.charts import Chart, charts
from chapters.report.data import Stage
from chapters.report.html import Markup, fold, is_number, note, shown, table, tag
from chapters.report.languages import both
from chapters.report.numbers import curve_shades, number_tiles, pictures

EXAM = (  # label, kind of number, key of a step
    ("puzzles solved", "rate", "puzzle_accuracy"),
    ("right form", "rate", "puzzle_format"),
    ("cut off", "rate", "puzzle_truncated"),
    ("thinks about puzzles", "rate", "puzzle_thinks"),
    ("tokens per reply to a puzzle", "number", "puzzle_tokens"),
    ("gold score", "number", "gold"),
    ("safe", "rate", "safe_rate"),
    ("fine things allowed", "rate", "allowed_rate"),
    ("friendly", "rate", "friendly_rate"),
    ("facts and sums right", "rate", "answer_accuracy"),
    ("replies that stop", "rate", "stop_rate"),
    ("thinks in chats, needlessly", "rate", "chat_thinks"),
    ("bits per byte of unseen books", "number", "bits_per_byte"),
)
COUNTS = {
    "thoughts_drawn": "thoughts drawn",
    "thoughts_kept": "thoughts kept",
    "replies_drawn": "replies drawn",
    "replies_kept": "replies kept",
}


def r1_section(stage: Stage, life: dict) -> list[Markup | None]:
    right = {"practice": stage.curve("accuracy", "grpo", smooth=5)}
    liked = {"practice": stage.curve("score", "grpo", smooth=5)}
    length = {"tokens": stage.curve("reply_tokens", "grpo", smooth=5)}
    return [
        number_tiles(
            stage,
            [
                ("puzzles solved", "rate", "puzzle_accuracy"),
                ("gold score", "number", "gold"),
                ("safe", "rate", "safe_rate"),
                ("fine things allowed", "rate", "allowed_rate"),
                ("friendly", "rate", "friendly_rate"),
                ("facts and sums right", "rate", "answer_accuracy"),
            ],
        ),
        tag("h4", both("Every kitten on the way, the same exam")),
        steps_table(stage) or note(both("the exam of the kittens on the way was not kept")),
        counts_table(stage),
        charts(
            [
                Chart("Puzzles: right answers", right, "share", band_of="grpo accuracy"),
                Chart("Chats: score", liked, "reward", band_of="grpo score"),
                Chart("Length", length, "tokens per reply"),
            ],
            curve_shades(stage),
        ),
        pictures(stage, ("steps", "distil", "ways"), "Pictures"),
    ]


def steps_table(stage: Stage) -> Markup | None:
    """A column for every kitten, a row for every number; None if there is no kitten."""
    steps = stage.value("steps")
    names = [n for n, s in steps.items() if isinstance(s, dict)] if isinstance(steps, dict) else []
    rows = []
    for label, kind, key in EXAM:
        numbers = [(steps[name].get(key), steps[name].get(f"{key}_stderr")) for name in names]
        if any(is_number(value) for value, _ in numbers):
            rows.append([both(label), *(shown(value, kind, error) for value, error in numbers)])
    heads = ["", *(both(name.replace("_", " ")) for name in names)]
    return table(heads, rows, class_="numbers") if rows else None


def counts_table(stage: Stage) -> Markup | None:
    """How many replies were written and how many the rules and the judge let pass."""
    found = [(label, stage.value(f"rejection.{key}")) for key, label in COUNTS.items()]
    rows = [[both(label), shown(count, "count")] for label, count in found if is_number(count)]
    if not rows:
        return None
    return fold(both("What was collected for the cold start"), table(["", ""], rows))
