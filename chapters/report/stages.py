"""What the report says about each chapter: its story, key numbers, curves and special pictures.

One idea: a chapter's section is a list of pieces, and a piece whose numbers are not there is left
out or replaced by a sentence. `SECTIONS` at the end is the table of them.

Used by page.py.
"""

from collections.abc import Callable

from chapters.report.charts import Chart, bar, charts, value_of, way
from chapters.report.data import Stage
from chapters.report.html import Markup, fold, is_number, note, shown, table, tag
from chapters.report.languages import both, listed
from chapters.report.learning import ppo_section, preference_section, reasoning_section
from chapters.report.numbers import change_table, curve_shades, number_tiles, pictures
from chapters.report.r1 import r1_section
from chapters.report.views import mask_view


def base_section(stage: Stage, life: dict) -> list[Markup | None]:
    def line(key: str) -> tuple[list, list]:  # the echoes before it have steps of their own
        return stage.curve(key, "train")

    lines = {"training rows": line("loss"), "unseen text": line("val_loss")}
    return [
        number_tiles(
            stage,
            [
                ("nats per token on unseen text", "number", "val_nats_per_token"),
                ("bits per byte", "number", "val_bits_per_byte"),
                ("facts told when a text stops before them", "rate", "fact_recall"),
                ("bare questions answered", "rate", "bare_answer_rate"),
                ("lists said after", "rate", "echo_accuracy"),
                ("tokens read", "count", "train_tokens"),
                ("weights", "count", "parameters"),
                ("tokens per second", "count", "tokens_per_second"),
            ],
        ),
        charts(
            [
                Chart(
                    "Loss: how surprised it is", lines, "nats per token", band_of="train val_loss"
                ),
                Chart("Gradient norm", {"gradient": line("grad_norm")}),
                Chart("Learning rate", {"scale": line("lr_scale")}, "share of the full one"),
            ],
            curve_shades(stage),
        ),
        pictures(stage, ("attention",), "Where one head looks"),
    ]


def sft_section(stage: Stage, life: dict) -> list[Markup | None]:
    chats = {"chats": stage.curve("chat_loss", "train")}
    forgotten = {"pretraining text": stage.curve("base_bits_per_byte", "train")}
    before = ("held-out questions right, greedy", "rate", "base_answer_accuracy", "answer_accuracy")
    return [
        number_tiles(
            stage,
            [
                ("questions right with dice", "rate", "answer_accuracy_sampled"),
                ("small talk, unknowns, wishes", "rate", "talk_rate"),
                ("replies that stop", "rate", "stop_rate"),
                ("safe answers to risky questions", "rate", "safe_rate"),
                ("fine things allowed", "rate", "allowed_rate"),
                ("friendly", "rate", "friendly_rate"),
                ("bits per byte forgotten", "number", "forgetting_bits_per_byte"),
            ],
        ),
        change_table(stage, [before]),
        tag("h4", both("What is trained, and what is only read")),
        mask_view(life.get("mask"))
        or note(both("the conversation is shown once the kitten was asked")),
        charts(
            [
                Chart("Learned: the chats", chats, "nats per token", band_of="train chat_loss"),
                Chart(
                    "Forgotten: reading",
                    forgotten,
                    "bits per byte",
                    band_of="train base_bits_per_byte",
                ),
            ],
            curve_shades(stage),
        ),
        dropped_table(stage),
        pictures(stage, ("data_effects", "forgetting"), "What each step of the data work is worth"),
    ]


def dropped_table(stage: Stage) -> Markup | None:
    """What the data work took out of the raw file."""
    dropped, kept = stage.value("dropped"), stage.value("kept")
    if not isinstance(dropped, dict) or not is_number(kept):
        return None
    counts = {"kept": kept} | {k: v for k, v in dropped.items() if is_number(v)}
    largest = max(counts.values()) or 1
    rows = []
    for reason, count in counts.items():
        strip = bar(count / largest, "s2" if reason == "kept" else "s1")
        rows.append([both(reason.replace("_", " ")), shown(count, "count"), strip])
    title = both("The data work: what was kept and what was taken out")
    return fold(title, table([both("conversations"), "", ""], rows, class_="numbers"))


def reward_section(stage: Stage, life: dict) -> list[Markup | None]:
    best = {"best possible, on average": stage.value("bayes_accuracy")}
    by_kind = stage.value("gold_accuracy_by_kind")
    rows = []
    for kind, value in by_kind.items() if isinstance(by_kind, dict) else ():
        rows.append([both(kind), shown(value, "rate"), way(None, value)])
    heads = ("kind of question", "finds the better reply", "0 to 100 %")
    kinds = table([both(head) for head in heads], rows)
    right = stage.curve("accuracy", "train", smooth=10)
    loss = stage.curve("loss", "train", smooth=10)
    return [
        number_tiles(
            stage,
            [
                ("agrees with the noisy annotators", "rate", "accuracy"),
                ("best that anybody could", "rate", "bayes_accuracy"),
                ("finds the truly better reply", "rate", "gold_accuracy"),
                ("true before false, in equal words", "rate", "truth_accuracy"),
                ("the same, held-out facts", "rate", "truth_accuracy_held_out"),
                ("calibration error", "number", "calibration_error"),
                ("correlation with length", "number", "length_correlation"),
                ("pairs learnt from", "count", "pairs"),
            ],
        ),
        charts(
            [
                Chart("Loss", {"pairs": loss}, "nats per pair", band_of="train loss"),
                Chart(
                    "Agrees with the annotators",
                    {"pairs": right},
                    "share",
                    levels=best,
                    band_of="train accuracy",
                ),
                Chart("Margin", {"chosen - rejected": stage.curve("margin", "train", smooth=10)}),
            ],
            curve_shades(stage),
        ),
        fold(both("By kind of question"), kinds) if rows else None,
        pictures(stage, ("calibration", "scores"), "Calibration, and how scores are spread"),
    ]


def other_section(stage: Stage, life: dict) -> list[Markup | None]:
    """A chapter that this file does not know: its numbers and its pictures."""
    common = {"seed", "threads", "config", "seconds"}
    common |= {"train_seconds", "eval_seconds", "peak_rss_mb"}
    rows = []
    for key, value in stage.summary.items():
        if key not in common and is_number(value) and not key.endswith("_stderr"):
            number = shown(value, "number", stage.value(f"{key}_stderr"))
            rows.append([both(key.replace("_", " ")), number])
        elif isinstance(value, dict) and key not in common:
            numbers = [value_of(k.replace("_", " "), v) for k, v in value.items() if is_number(v)]
            if numbers:
                rows.append([both(key.replace("_", " ")), listed(numbers)])
    names = tuple(sorted(path.stem for path in stage.folder.glob("*.png")))
    found = table(["", ""], rows, class_="numbers") if rows else None
    return [found, pictures(stage, names, "Pictures")]


Section = Callable[[Stage, dict], list[Markup | None]]
SECTIONS: dict[str, Section] = {
    "ch0_base": base_section,
    "ch1_sft": sft_section,
    "ch2_reward_model": reward_section,
    "ch3_ppo": ppo_section,
    "ch4_preferences": preference_section,
    "ch5_reasoning": reasoning_section,
    "ch6_r1": r1_section,
}
