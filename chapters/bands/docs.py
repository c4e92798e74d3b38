"""The numbers in README.md and in the lessons, written from bands.json: nobody types them.

A document holds a block

    <!-- numbers: results -->
    ... what stands here is written by python -m chapters.bands --docs ...
    <!-- end -->

Names of blocks: `results` (all chapters), `results CHAPTER`, `rounding` (a table) and `rounding
CHAPTER` (a sentence). A block that bands.json has no numbers for stays as it is. One more block,
`one_file`, is written from one_file.json; `memory of real models` and `measured RUN` come from
real_models.py. Inside a sentence or a cell of a table,

    <!-- number: ch3_ppo gold_after -->1.76 to 1.97<!-- end -->

is one key of a chapter's summary.json: its lowest and its highest value over the seeds. A document
whose name ends in .zh.md gets the same numbers with Chinese words.

Read before: key_numbers.py. Used by __main__.py.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chapters.bands import one_file, real_models
from chapters.bands.anchors import anchored, texts
from chapters.bands.chinese import in_chinese
from chapters.bands.editions import CHINESE, is_chinese
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import digits, number_of
from chapters.bands.rounding import journey_lines, moves, runs_compared, threads_text
from kittenllm.runs.checkpoints import write_text_atomic
from kittenllm.runs.json_files import damaged

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = "How far rounding alone moves these numbers was not measured for these runs."
BLOCK = re.compile(r"(<!-- numbers: ([\w ]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
INLINE = re.compile(r"(<!-- number: (\w+) ([\w.]+) -->)([^\n]*?)(<!-- end -->)")


@dataclass(frozen=True)
class Row:
    """A line of the table: one number, or several side by side."""

    label: str
    keys: str  # of summary.json, with spaces between them
    form: str = "%"  # "%": a share in percent; "2": two decimals; "+3": three, with a sign
    lesson: bool = False  # only the lesson shows it
    timed: bool = False  # in brackets where the run shared the machine


SECONDS, MEMORY = Row("seconds", "seconds", "0", timed=True), Row("memory, MB", "peak_rss_mb", "0")


def _step_row(label: str, key: str, form: str = "%") -> Row:
    """One number of the kittens of chapter 6, side by side."""
    keys = [f"steps.{name}.{key}" for name in ("chat", "PPO", "Zero", "cold_start", "R1")]
    return Row(f"{label}: chat, PPO, Zero, cold start, R1", " ".join(keys), form, lesson=True)


def _method_rows(name: str, method: str) -> tuple[Row, ...]:
    accuracy, allowed = f"{method}.answer_accuracy", f"{method}.allowed_rate"
    changes = f"{method}.chosen_logprob_change {method}.rejected_logprob_change"
    label = f"{name}: log p of chosen, of rejected, change in nats"
    return (
        Row(f"{name}: share of the way to the best replies", f"{method}.gold_share_of_distance"),
        Row(f"{name}: wins against the chat kitten", f"{method}.win_rate", lesson=True),
        Row(
            f"{name}: facts and sums right, before and after",
            f"{accuracy}_before {accuracy}_after",
            lesson=True,
        ),
        Row(label, changes, "2", lesson=True),
        Row(f"{name}: KL, nats per reply", f"{method}.kl", "2", lesson=True),
        Row(
            f"{name}: safe, friendly",
            f"{method}.safe_rate_after {method}.friendly_rate_after",
            lesson=True,
        ),
        Row(
            f"{name}: fine things allowed, before and after",
            f"{allowed}_before {allowed}_after",
            lesson=True,
        ),
        Row(
            f"{name}: pairs per second", f"{method}.pairs_per_second", "0", lesson=True, timed=True
        ),
    )


TABLE: dict[str, tuple[Row, ...]] = {
    "ch0_base": (
        SECONDS,
        Row("validation loss, nats per token", "val_nats_per_token", "3"),
        Row("validation loss, bits per byte", "val_bits_per_byte", "3", lesson=True),
        Row("facts, when a text stops before the value", "fact_recall"),
        Row("bare held-out questions answered", "bare_answer_rate"),
        Row("unseen lists said after", "echo_accuracy"),
        Row("tokens per second", "tokens_per_second", "0", lesson=True, timed=True),
    ),
    "ch1_sft": (
        SECONDS,
        Row("held-out questions right, greedy", "answer_accuracy"),
        Row("the same at temperature 1", "answer_accuracy_sampled"),
        Row(
            "facts alone, greedy and at temperature 1", "right_fact_greedy right_fact", lesson=True
        ),
        Row("sums alone, greedy and at temperature 1", "right_sum_greedy right_sum", lesson=True),
        Row("small talk, unknowns, wishes: suitable", "talk_rate"),
        Row("each of the three", "right_talk right_outside right_wish", lesson=True),
        Row("the base kitten, with the chat template", "base_answer_accuracy"),
        Row("the base kitten, with the bare question", "base_answer_accuracy_bare", lesson=True),
        Row("replies that stop by themselves", "stop_rate"),
        Row("safe replies to risky questions", "safe_rate"),
        Row("fine things allowed", "allowed_rate", lesson=True),
        Row("friendly replies", "friendly_rate"),
        Row("forgotten, bits per byte", "forgetting_bits_per_byte", "+3"),
    ),
    "ch1_tools": (
        SECONDS,
        Row("calculator, right", "calculator_accuracy"),
        Row("answered at once", "calculator_without_tool"),
        Row("search, right and with the right source", "search_accuracy"),
        Row("answered at once, no source asked for", "search_without_tool"),
        Row("plans of two calls", "plan_accuracy"),
        Row("plans of three calls", "long_plan_accuracy"),
        Row("chat questions right, before", "chat_accuracy_before"),
        Row("after", "chat_accuracy_after"),
        Row("a call where none is needed", "needless_call_rate"),
        Row("forgotten, bits per byte", "forgetting_bits_per_byte", "+3"),
    ),
    "ch2_reward_model": (
        SECONDS,
        Row("noisy held-out labels guessed right", "accuracy"),
        Row("the best possible guess", "bayes_accuracy"),
        Row("clearly different pairs ordered right", "gold_accuracy", lesson=True),
        Row("true before false in equal words, taught facts", "truth_accuracy", lesson=True),
        Row("the same, held-out facts", "truth_accuracy_held_out", lesson=True),
        Row("calibration error", "calibration_error", "3", lesson=True),
    ),
    "ch3_ppo": (
        SECONDS,
        Row("gold score before, after", "gold_before gold_after", "2"),
        Row("share of the way to the best replies", "gold_share_of_distance", lesson=True),
        Row("safe replies to risky questions", "safe_rate_after"),
        Row("friendly replies", "friendly_rate_after"),
        Row(
            "fine things allowed, before and after",
            "allowed_rate_before allowed_rate_after",
            lesson=True,
        ),
        Row(
            "small talk, unknowns, wishes: suitable",
            "talk_rate_before talk_rate_after",
            lesson=True,
        ),
        Row(
            "facts and sums right, before and after",
            "answer_accuracy_before answer_accuracy_after",
        ),
        Row("KL, nats per reply", "kl", "2"),
    ),
    "ch4_preferences": (
        SECONDS,
        *_method_rows("DPO", "dpo"),
        *_method_rows("IPO", "ipo"),
        *_method_rows("ORPO", "orpo"),
    ),
    "ch5_reasoning": (
        SECONDS,
        Row("held-out problems right, before and after", "accuracy_before accuracy_after"),
        Row("after, greedy", "greedy_after", lesson=True),
        Row("tokens per reply, before and after", "tokens_before tokens_after", "0"),
        Row('"wait" per reply, before and after', "waits_before waits_after", "1"),
        Row("right form, cut off", "format_rate_after truncated_after", lesson=True),
        Row("pass@8, before and after", "pass_at_8_before pass_at_8_after", lesson=True),
        Row(
            "tokens of right and of wrong replies, after",
            "tokens_right_after tokens_wrong_after",
            "0",
            lesson=True,
        ),
        Row(
            '"wait" of right and of wrong replies, after',
            "waits_right_after waits_wrong_after",
            "1",
            lesson=True,
        ),
        Row("seconds per step", "seconds_per_step", "1", lesson=True, timed=True),
    ),
    "ch6_r1": (
        SECONDS,
        Row("held-out puzzles right", "puzzle_accuracy"),
        Row("right form, cut off", "puzzle_format puzzle_truncated", lesson=True),
        Row("gold score of chats", "gold", "2"),
        Row("safe replies to risky questions", "safe_rate"),
        Row("fine things allowed", "allowed_rate", lesson=True),
        Row("friendly replies", "friendly_rate", lesson=True),
        Row("facts and sums right", "answer_accuracy"),
        Row("replies that stop by themselves", "stop_rate", lesson=True),
        Row("thinks in chats, in puzzles", "chat_thinks puzzle_thinks", lesson=True),
        Row("unseen books, bits per byte", "bits_per_byte", "3", lesson=True),
        _step_row("puzzles right", "puzzle_accuracy"),
        _step_row("gold score", "gold", "2"),
        _step_row("facts and sums", "answer_accuracy"),
        Row("thoughts drawn, kept", "rejection.thoughts_drawn rejection.thoughts_kept", "0", True),
    ),
}


def compact_json(content: dict) -> str:
    """Readable JSON in which a list of numbers is one line."""
    text = json.dumps(content, indent=1, allow_nan=False)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


# ------------------------------------------------------------------------------------ the results


def table_keys(chapter: str) -> list[str]:
    """The keys of summary.json that the table of a chapter shows."""
    rows = (*TABLE[chapter], MEMORY)
    return [key for row in rows for key in row.keys.split()]


def shown_numbers(chapter: str, summaries: Sequence[dict]) -> dict[str, dict]:
    """The numbers that README and lessons show: key -> values and errors, one for each seed."""
    table = {}
    for key in table_keys(chapter) if chapter in TABLE else ():
        values = [digits(number_of(summary, key)) for summary in summaries]
        errors = [digits(number_of(summary, f"{key}_stderr")) for summary in summaries]
        table[key] = {"values": values, "errors": errors if any(errors) else []}
    return table


def number(value: float | None, error: float | None, form: str) -> str:
    """One number with its standard error, without the percent sign: 61.2 ± 2.9."""
    if value is None:
        return "–"
    scale, digits = (100, 1) if form == "%" else (1, int(form.removeprefix("+")))
    sign = "+" if form.startswith("+") else ""
    text = f"{scale * value:{sign}.{digits}f}"
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"


def cell(row: Row, numbers: dict, place: int) -> str:
    """The cell of one row and one seed; `place` is the seed's place in the lists."""
    texts = []
    for key in row.keys.split():
        of_key = numbers.get(key, {"values": {}, "errors": {}})
        texts.append(number(at(of_key["values"], place), at(of_key["errors"], place), row.form))
    return ", ".join(texts) + (" %" if row.form == "%" and texts != ["–"] else "")


def at(values: list, place: int) -> float | None:
    return values[place] if place < len(values) else None


def chapter_lines(chapter: str, band: dict, alone: list[int], first: str | None) -> list[str]:
    """The rows of one chapter, all of them for its lesson; for the table of all chapters `first` is
    written once in a first column."""
    lines = []
    for row in TABLE[chapter]:
        if row.lesson and first is not None:
            continue
        cells = [cell(row, band["table"], place) for place in range(len(band["seeds"]))]
        if row.timed:
            cells = seconds_cells(cells, band["seeds"], alone)
        start = [] if first is None else [f"`{first}`" if row is SECONDS else ""]
        lines.append("| " + " | ".join([*start, row.label, *cells]) + " |")
    return lines


def seconds_cells(cells: list[str], seeds: list[int], alone: list[int]) -> list[str]:
    """Seconds of a run that shared the machine say little: in brackets."""
    return [text if seed in alone else f"({text})" for text, seed in zip(cells, seeds, strict=True)]


def head(columns: list[str], seeds: list[int]) -> list[str]:
    """The head of a table: some columns, then the seeds."""
    names = [*columns, *(f"seed {seed}" for seed in seeds)]
    rules = ["---"] * len(columns) + ["---:"] * len(seeds)
    return ["| " + " | ".join(names) + " |", "|" + "|".join(rules) + "|"]


def errors_line(bands: list[dict]) -> str:
    """What the errors and the brackets mean, and on how many threads it ran."""
    threads = sorted({threads_text(band.get("threads")) for band in bands})
    return (
        f"Default settings, {' or '.join(threads)}. ± is the standard error by topic: how "
        "far another draw of topics would move this kitten's number; another training moves it "
        "further, see the other seeds. Seconds in brackets are of runs that shared the machine."
    )


def results(content: dict) -> str | None:
    """One table with all chapters of the journey; None if a chapter's numbers are missing."""
    bands = {name: band for name, band in content["chapters"].items() if "table" in band}
    if bands.keys() != KEY_NUMBERS.keys() or len({str(b["seeds"]) for b in bands.values()}) != 1:
        return None
    seeds, alone = next(iter(bands.values()))["seeds"], content.get("alone", [])
    lines = [errors_line(list(bands.values())), "", *head(["chapter", "number"], seeds)]
    for name, band in bands.items():
        lines += chapter_lines(name, band, alone, name)
    tables = [band["table"] for band in bands.values()]
    places = range(len(seeds))
    seconds = [f"{sum(table['seconds']['values'][i] for table in tables):.0f}" for i in places]
    memory = [f"{max(table['peak_rss_mb']['values'][i] for table in tables):.0f}" for i in places]
    lines.append("| all | " + " | ".join(["seconds", *seconds_cells(seconds, seeds, alone)]) + " |")
    lines.append("|  | " + " | ".join([MEMORY.label, *memory]) + " |")
    return "\n".join(lines)


def chapter_results(content: dict, chapter: str) -> str | None:
    """The table of one chapter, for its lesson."""
    band = {**content["chapters"], **content.get("others", {})}.get(chapter, {})
    if "table" not in band:
        return None
    lines = [errors_line([band]), "", *head([""], band["seeds"])]
    return "\n".join([*lines, *chapter_lines(chapter, band, content.get("alone", []), None)])


# ----------------------------------------------------------------------------------- the rounding


def rounding(content: dict) -> str | None:
    """A table: how far the same seed moves by rounding alone, beside both other errors."""
    lines = []
    for chapter in KEY_NUMBERS:
        for row in moves(content, chapter):
            lines.append(f"| `{chapter}` | " + " | ".join(row) + " |")
    if not lines:
        return NOT_MEASURED if content["chapters"] else None
    compared = sorted({runs_compared(content, chapter) for chapter in content["rounding"]})
    return "\n".join(
        [
            *journey_lines(content),
            "Two threads add up the same numbers in another order. The sums differ in their last "
            "digit, and a training takes that elsewhere. How far the same seed moves by nothing "
            f"else ({'; '.join(compared)}), beside the standard error by topic and the range of "
            "the seeds:",
            "",
            "| chapter | number | moves by at most | error by topic, most | range of the seeds |",
            "|---|---|---:|---:|---:|",
            *lines,
        ]
    )


def chapter_rounding(content: dict, chapter: str) -> str | None:
    """One sentence for a lesson."""
    rows = moves(content, chapter)
    if not rows:
        return NOT_MEASURED if chapter in content["chapters"] else None
    listed = ", ".join(f"{name} {move}" for name, move, _, _ in rows)
    return (
        f"The same seed with another number of threads ({runs_compared(content, chapter)}) moves "
        f"by rounding alone: {listed}."
    )


# ---------------------------------------------------------------------------------- the documents


def documents() -> list[Path]:
    """README.md, real_models.md and the lessons, in both languages, as far as they are there."""
    chapters = ROOT / "chapters"
    found = [*ROOT.glob("README.*md"), *chapters.glob("real_models.*md")]
    found += chapters.glob("ch*/lesson.*md")
    return sorted(path for path in found if path.name.endswith((".md", CHINESE)))


def block(name: str, content: dict) -> str | None:
    """What belongs into a block; None if there are no numbers for it.

    Raises: ValueError for a name that is no block.
    """
    if name == "one_file":
        return one_file.table()
    if name == "memory of real models":
        return real_models.memory_table()
    kind, _, chapter = name.partition(" ")
    if kind == "measured" and chapter in real_models.ROWS:
        return real_models.measured_table(chapter)
    if kind not in ("results", "rounding") or (chapter and chapter not in TABLE):
        raise ValueError(f"no block of numbers has the name {name!r}")
    if not chapter:
        return results(content) if kind == "results" else rounding(content)
    if kind == "results":
        return chapter_results(content, chapter)
    return chapter_rounding(content, chapter) if chapter in KEY_NUMBERS else None


def span(chapter: str, key: str, content: dict) -> str | None:
    """The lowest and the highest value of one number over the seeds; None if it was not measured.

    Raises: ValueError for a number that no table shows.
    """
    forms = {key: row.form for row in TABLE.get(chapter, ()) for key in row.keys.split()}
    if key not in forms:
        raise ValueError(f"no table shows the number {key!r} of {chapter!r}")
    band = {**content["chapters"], **content.get("others", {})}.get(chapter, {})
    values = band.get("table", {}).get(key, {}).get("values", [])
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    low, high = (number(value, None, forms[key]) for value in (known[0], known[-1]))
    unit = " %" if forms[key] == "%" else ""
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def filled(text: str, content: dict, *, chinese: bool = False) -> str:
    """A document with its blocks and single numbers written anew."""

    def write(found: re.Match) -> str:
        inside = block(found[2], content)
        if inside is None:
            return found[0]
        return f"{found[1]}{in_chinese(inside) if chinese else inside}\n{found[4]}"

    def write_number(found: re.Match) -> str:
        inside = span(found[2], found[3], content)
        if inside is None:
            return found[0]
        return f"{found[1]}{inside.replace(' to ', ' 到 ') if chinese else inside}{found[5]}"

    return INLINE.sub(write_number, BLOCK.sub(write, text))


def write_documents(content: dict, source: Path) -> list[str]:
    """Fill all blocks of all documents from the content of `source`, a bands.json, and set the
    lines of the links in all texts; returns the names of the files that changed.

    Raises: DamagedFile for a content that `python -m chapters.bands` did not write.
    """
    changed = []
    for path in texts():
        text = path.read_text(encoding="utf-8")
        try:
            new = text
            if path in documents():
                new = filled(text, content, chinese=is_chinese(path))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise damaged(source, f"no numbers can be made of it, {error!r}") from error
        new = anchored(new, path.parent)
        if new != text:
            write_text_atomic(path, new)
            changed.append(path.relative_to(ROOT).as_posix())
    return changed
