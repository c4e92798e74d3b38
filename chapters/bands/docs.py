"""The numbers in README.md and in the lessons, written from bands.json: nobody types them.

A document holds a block

    <!-- numbers: results -->
    ... what stands here is written by python -m chapters.bands --docs ...
    <!-- end -->

Names of blocks: `results` (all chapters), `results CHAPTER`, `rounding` (a table) and `rounding
CHAPTER` (a sentence). A block that bands.json has no numbers for stays as it is. One more block,
`one_file`, is written from one_file.json; `memory of real models` and `measured RUN` come from
real_models.py, `conversation` from conversation.py. Inside a sentence or a cell of a table,

    <!-- number: ch3_ppo gold_after -->1.76 to 1.97<!-- end -->

is one key of a chapter's summary.json: its lowest and its highest value over the seeds. A document
whose name ends in .zh.md gets the same numbers with Chinese words.

Read before: key_numbers.py. Used by __main__.py.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from chapters.bands import conversation, one_file, real_models
from chapters.bands.anchors import anchored, texts
from chapters.bands.chinese import in_chinese
from chapters.bands.editions import CHINESE, is_chinese
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import digits, number_of
from chapters.bands.rounding import journey_lines, moves, runs_compared, threads_text
from chapters.bands.rows import MEMORY, SECONDS, TABLE, Row
from kittenllm.runs.checkpoints import write_text_atomic
from kittenllm.runs.json_files import damaged

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = "How far rounding alone moves these numbers was not measured for these runs."
BLOCK = re.compile(r"(<!-- numbers: ([\w ]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
INLINE = re.compile(r"(<!-- number: (\w+) ([\w.]+) -->)([^\n]*?)(<!-- end -->)")


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
    if set(texts) == {"–"}:
        return "–"
    return ", ".join(texts) + (" %" if row.form == "%" else "")


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
    """One table with the chapters of the journey; None if a chapter's numbers are missing.

    A chapter that was run with fewer seeds than the first one stands in its lesson only.
    """
    bands = {name: band for name, band in content["chapters"].items() if "table" in band}
    if bands.keys() != KEY_NUMBERS.keys():
        return None
    seeds, alone = next(iter(bands.values()))["seeds"], content.get("alone", [])
    fewer = [name for name, band in bands.items() if band["seeds"] != seeds]
    bands = {name: band for name, band in bands.items() if name not in fewer}
    lines = [errors_line(list(bands.values())), "", *head(["chapter", "number"], seeds)]
    for name, band in bands.items():
        lines += chapter_lines(name, band, alone, name)
    tables = [band["table"] for band in bands.values()]
    places = range(len(seeds))
    seconds = [f"{sum(table['seconds']['values'][i] for table in tables):.0f}" for i in places]
    memory = [f"{max(table['peak_rss_mb']['values'][i] for table in tables):.0f}" for i in places]
    lines.append("| all | " + " | ".join(["seconds", *seconds_cells(seconds, seeds, alone)]) + " |")
    lines.append("|  | " + " | ".join([MEMORY.label, *memory]) + " |")
    if fewer:
        lines += ["", f"Measured with fewer seeds, see the lesson: {', '.join(fewer)}."]
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
    if name == "assistant":
        return real_models.headline()
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
        if found[2] == "conversation":
            said = content.get("conversation")
            inside = said and conversation.block(said, "zh" if chinese else "en")
        else:
            inside = block(found[2], content)
            inside = in_chinese(inside) if inside and chinese else inside
        return f"{found[1]}{inside}\n{found[4]}" if inside else found[0]

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
