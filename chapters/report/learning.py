"""What the report says about the chapters that learn from scores: PPO, preferences, reasoning.

Like stages.py, whose table of sections they are in: a section is a list of pieces, and a
piece whose numbers are not there is left out or replaced by a sentence.
"""

from chapters.report.charts import Chart, charts, frontier
from chapters.report.data import Stage, picture
from chapters.report.html import Markup, fold, is_number, join, note, shown, table, tag
from chapters.report.languages import both, read_back
from chapters.report.numbers import (
    before_after,
    change_table,
    curve_shades,
    number_tiles,
    pictures,
)
from chapters.report.sentences import (
    FRONTIER_ABOUT,
    FRONTIER_MISSING,
    GROUPS_ABOUT,
    GROUPS_MISSING,
)
from chapters.report.views import credit_view, measures_list, thinking_view
from kittenllm.runs.json_files import read_json_if_possible

METHODS = ("dpo", "ipo", "orpo")


def ppo_section(stage: Stage, life: dict) -> list[Markup | None]:
    def line(key: str, start: object = None) -> tuple[list, list]:
        return stage.curve(key, "train", start=start)

    rates = {
        "safe": "safe_rate",
        "fine things allowed": "allowed_rate",
        "friendly": "friendly_rate",
    }
    rates |= {"grumpy": "grumpy_rate", "facts and sums right": "answer_accuracy"}
    rates |= {"small talk, unknowns, wishes": "talk_rate"}
    rows = [(label, "rate", *before_after(stem)) for label, stem in rates.items()]
    rows.append(("gold score", "number", *before_after("gold")))
    rows.append(("reward model's score", "number", *before_after("reward")))
    rows.append(("tokens per reply", "number", *before_after("reply_tokens")))
    gold = {"held-out": line("gold", stage.value("gold_before"))}
    best = {"best possible": stage.value("gold_best")}
    scores = {"taught": line("score"), "held-out": line("proxy")}
    taught_kl = {"taught": line("kl"), "held-out": line("kl_held_out")}
    return [
        number_tiles(
            stage,
            [
                ("of the way to the best replies", "rate", "gold_share_of_distance"),
                ("nats per reply from the start", "number", "kl"),
                ("best possible gold score", "number", "gold_best"),
            ],
        ),
        change_table(stage, rows),
        charts(
            [
                Chart("Score", scores, "reward", band_of="train score"),
                Chart("Gold score: the truth", gold, "gold", levels=best),
                Chart("How far from the start", taught_kl, "nats per reply", band_of="train kl"),
                Chart("Entropy", {"policy": line("entropy")}, "nats per token"),
                Chart("Clip fraction", {"policy": line("clip_fraction")}, "share of tokens"),
                Chart("Explained variance", {"value model": line("explained_variance")}),
            ],
            curve_shades(stage),
        ),
        tag("h4", both("One score for a sentence, a credit for every token")),
        credit_part(stage),
        overoptimisation(stage),
    ]


def credit_part(stage: Stage) -> Markup:
    """The interactive picture; the PNG where its numbers were not written; or a sentence."""
    view = credit_view(read_json_if_possible(stage.folder / "token_credit.json"))
    if view is not None:
        static = tag("div", view, id="credit-static")
        meanings = fold(both("What the numbers say"), measures_list())
        return join(tag("div", id="credit-box"), static, meanings)
    figure = picture(stage.folder / "token_credit.png")
    hint = both("token_credit.json, which holds the numbers behind this picture, cannot be read")
    return join(figure, note(hint)) if figure else note(both("the token credit was not drawn"))


def overoptimisation(stage: Stage) -> Markup | None:
    """The run that goes wrong on purpose, if it was asked for."""
    numbers = stage.value("overoptimisation")
    if not isinstance(numbers, dict):
        return None
    words = {
        "gold at its best": "peak_gold",
        "gold at the end": "last_gold",
        "reward model then": "proxy_at_peak",
        "reward model at the end": "proxy_last",
    }
    rows = [[both(label), shown(numbers.get(key))] for label, key in words.items()]
    turned = numbers.get("turned") is True
    happened = "the score rises, the kitten gets worse" if turned else "not clearly worse this time"
    title = both("A judge that saw too little, and no leash: {what}", what=both(happened))
    figure = picture(stage.folder / "overoptimisation.png")
    return fold(title, table(["", ""], rows, class_="numbers"), figure, open_=True)


def preference_section(stage: Stage, life: dict) -> list[Markup | None]:
    heads = [both("held-out questions"), *(name.upper() for name in METHODS)]
    rows = []
    for label, kind, key in (
        ("gold score before", "number", "gold_before"),
        ("gold score after", "number", "gold_after"),
        ("of the way to the best", "rate", "gold_share_of_distance"),
        ("wins against the chat kitten", "rate", "win_rate"),
        ("nats per reply from the start", "number", "kl"),
        ("safe", "rate", "safe_rate_after"),
        ("fine things allowed", "rate", "allowed_rate_after"),
        ("facts and sums right", "rate", "answer_accuracy_after"),
        ("small talk, unknowns, wishes", "rate", "talk_rate_after"),
        ("log p(chosen) changed by", "number", "chosen_logprob_change"),
        ("log p(rejected) changed by", "number", "rejected_logprob_change"),
        ("pairs per second", "count", "pairs_per_second"),
        ("seconds", "count", "seconds"),
    ):
        keys = [f"{name}.{key}" for name in METHODS]
        cells = [shown(stage.value(k), kind, stage.value(f"{k}_stderr")) for k in keys]
        rows.append([both(label), *cells])

    def line(name: str, key: str, start: float) -> tuple[list, list]:
        return stage.curve(key, name, start=start)

    found = []
    for name in METHODS:
        lines = {part: line(name, f"unseen_{part}", 0.0) for part in ("chosen", "rejected")}
        title = both("{method}: log p of a reply", method=name.upper())
        found.append(Chart(title, lines, "change, nats"))
    margins = {name.upper(): line(name, "unseen_margin", 0.0) for name in METHODS}
    right = {name.upper(): line(name, "unseen_accuracy", 0.5) for name in METHODS}
    found.append(Chart("Margin: chosen - rejected", margins, "nats"))
    found.append(Chart("Accuracy on unseen pairs", right, "share"))
    best = both(
        "The best possible replies have a gold score of {n}.", n=shown(stage.value("gold_best"))
    )
    parts = [table(heads, rows, class_="numbers"), tag("p", best, class_="small"), charts(found)]
    return [*parts, tag("h4", both("The frontier: gain against distance")), frontier_part(stage)]


def frontier_part(stage: Stage) -> Markup:
    """Every method's path of gold score over KL; a sentence if nobody asked for it."""
    paths = stage.value("frontier")
    groups = {}
    for method, points in paths.items() if isinstance(paths, dict) else ():
        good = [
            (point["kl"], point["gold"], str(point.get("label", "")))
            for point in (points if isinstance(points, list) else [])
            if isinstance(point, dict)
            and is_number(point.get("kl"))
            and is_number(point.get("gold"))
        ]
        if good:
            groups[str(method)] = good
    if not groups:
        return note(both(FRONTIER_MISSING))
    levels = {"chat": stage.value("dpo.gold_before"), "best possible": stage.value("gold_best")}
    words = both(FRONTIER_ABOUT)
    drawn = frontier(groups, "KL, nats per reply", "gold score", levels)
    rows = [
        [method, label, shown(kl), shown(gold)]
        for method, points in groups.items()
        for kl, gold, label in points
    ]
    heads = [both("method"), both("setting"), "KL", both("gold score")]
    grid = table(heads, rows, class_="numbers")
    return join(tag("p", words, class_="small"), drawn, fold(both("All points as a table"), grid))


def reasoning_section(stage: Stage, life: dict) -> list[Markup | None]:
    def line(key: str) -> tuple[list, list]:
        return stage.curve(key, "grpo", smooth=5)

    rates = {"right answers": "accuracy", "right within 8 tries": "pass_at_8"}
    rates |= {"right form": "format_rate", "cut off": "truncated"}
    rows = [(label, "rate", *before_after(stem)) for label, stem in rates.items()]
    rows.append(("tokens per reply", "number", *before_after("tokens")))
    rows.append(('"wait" per reply', "number", *before_after("waits")))
    warnings = stage.value("warnings")
    told = warnings if isinstance(warnings, list) else []
    warned = [note(read_back(str(text)), "warning") for text in told]
    return [
        number_tiles(
            stage,
            [
                ("right without dice, at the end", "rate", "greedy_after"),
                ("tokens of right replies, at the end", "number", "tokens_right_after"),
                ("tokens of wrong replies, at the end", "number", "tokens_wrong_after"),
                ("seconds per round", "number", "seconds_per_step"),
            ],
        ),
        change_table(stage, rows),
        tag("h4", both("The growth of thinking")),
        charts(
            [
                Chart(
                    "Right answers",
                    {"practice": line("accuracy")},
                    "share of replies",
                    band_of="grpo accuracy",
                ),
                Chart(
                    "Length",
                    {"tokens": line("reply_tokens")},
                    "tokens per reply",
                    band_of="grpo reply_tokens",
                ),
                Chart('How often it says "wait"', {"waits": line("waits")}, "per reply"),
                Chart("Right form", {"practice": line("format")}, "share of replies"),
                Chart("Cut off", {"practice": line("truncated")}, "share of replies"),
                Chart("Entropy", {"policy": line("entropy")}, "nats per token"),
                Chart("All siblings alike: no signal", {"groups": line("no_signal")}, "share"),
                Chart("Warm-up: loss", {"loss": stage.curve("loss", "warm_up")}, "nats per token"),
                pass_chart(stage),
            ],
            curve_shades(stage),
        ),
        tag("h4", both("Replies judge their siblings")),
        tag("p", both(GROUPS_ABOUT)),
        tag("div", note(both(GROUPS_MISSING)), id="groups-box"),
        tag("h4", both("Two problems, all that was thought about them")),
        thinking_view(stage) or note(both("no problems were kept")),
        fold(both("Warnings while it trained"), *warned) if warned else None,
        pictures(stage, ("lengths",), "How long right and wrong replies are"),
        pictures(stage, ("provenance", "normalisations", "budget", "votes"), "The experiments"),
    ]


def pass_chart(stage: Stage) -> Chart:
    """At least one of k replies is right, before and after."""
    lines = {}
    for name, key in (("warm-up", "pass_at_k_before"), ("after GRPO", "pass_at_k_after")):
        found = stage.value(key)
        pairs = (
            [(int(k), v) for k, v in found.items() if k.isdecimal() and is_number(v)]
            if isinstance(found, dict)
            else []
        )
        lines[name] = ([k for k, _ in pairs], [v for _, v in pairs])
    return Chart("One of k replies is right", lines, "share of problems", x_label="k")
