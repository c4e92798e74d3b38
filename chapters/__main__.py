"""The journey: from random weights to a kitten that chats, is kind, and thinks.

Runs the chapters in order, reuses what has finished, and shows at the end one table and what the
kitten said to the same prompts after each stage. report.html tells the same and more, with
pictures, as one page for a browser.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from chapters.bands.verdicts import print_verdicts
from chapters.common.runner import (
    Chapter,
    available_chapters,
    chosen_chapters,
    default_settings,
    exit_code,
    run_chapter,
)
from chapters.common.samples import side_by_side
from chapters.common.terminal import wrap
from chapters.report.page import write_report
from kittenllm.runs.json_files import is_number
from kittenllm.settings import Common, new_parser, read_common

WIDTH = 80


def main(argv=None) -> int:
    """The command line of the journey; returns the exit code."""
    return exit_code(lambda: journey(argv))


def journey(argv=None) -> None:
    parser = new_parser(__doc__, prog="chapters")
    parser.add_argument("--list", action="store_true", help="list the chapters and stop")
    parser.add_argument(
        "chapter", nargs="*", help="only these chapters and what they need (default: the journey)"
    )
    arguments = vars(parser.parse_args(argv))
    if arguments["list"]:
        print(chapter_list())
        return
    try:
        chapters = chosen_chapters(arguments["chapter"])
    except ValueError as error:
        parser.error(str(error))
    common = replace(read_common(parser, arguments), after_chapter=print_verdicts)
    started = time.monotonic()
    rows = []
    for number, chapter in enumerate(chapters, start=1):
        print(f"\n== {number} of {len(chapters)}: {chapter.name}, {chapter.title} ==", flush=True)
        summary, reused = run_chapter(chapter.name, default_settings(chapter.name, common), common)
        if reused:
            print(f"{chapter.name}: finished earlier, reused ({common.folder(chapter.name)})")
        rows.append((chapter, summary, reused))
    folders = [common.folder(chapter.name) for chapter in chapters]
    print(f"\n== What the kitten said ==\n\n{side_by_side(folders, WIDTH)}")
    print(f"\n== The journey ==\n\n{table(rows)}")
    print(f"\nThe whole story, for a browser: {write_report(folders[0].parent)}")
    print(f"\n{closing_line(common, time.monotonic() - started)}")


def chapter_list() -> str:
    """One line per chapter."""
    lines = ["python -m chapters runs the journey; python -m chapters.<name> runs one of:", ""]
    for chapter in available_chapters():
        note = "" if chapter.in_journey else " (not in the journey)"
        lines.append(f"  {chapter.name:<18}{chapter.title}{note}")
    lines += ["", "Add --help to any of them. python -m chapters.chat talks to the kitten."]
    return "\n".join(lines)


def table(rows: list[tuple[Chapter, dict, bool]]) -> str:
    """Stage, seconds and key numbers in 80 columns; rows are (chapter, summary, reused)."""
    lines = [f"{'stage':<18}{'seconds':>8}  key numbers", "-" * WIDTH]
    total = 0.0
    for chapter, summary, reused in rows:
        seconds = summary.get("seconds") or 0.0
        total += seconds
        numbers = [shown_number(summary, key) for key in chapter.shows]
        text = ", ".join(number for number in numbers if number) or "-"
        mark = "*" if reused else " "
        first = f"{chapter.name:<18}{seconds:>8.1f}{mark} "
        lines.append(wrap(text, WIDTH, indent=" " * 28, first=first))
    lines += ["-" * WIDTH, f"{'all':<18}{total:>8.1f}  {peak(rows)}"]
    if any(reused for _, _, reused in rows):
        lines.append("* finished earlier and reused; its seconds are those of back then")
    return "\n".join(lines)


def shown_number(summary: dict, key: str) -> str:
    """`safe rate 0.52 +- 0.01`; "dpo.gold_after" looks into the dict under "dpo"."""
    value, error = summary, None
    for part in key.split("."):
        if not isinstance(value, dict):
            return ""
        value, error = value.get(part), value.get(f"{part}_stderr")
    if not is_number(value):
        return ""
    name = key.replace(".", " ").replace("_", " ")
    number = f"{value:.4g}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3f}"
    return f"{name} {number}" + (f" +- {error:.3f}" if is_number(error) else "")


def peak(rows: list[tuple[Chapter, dict, bool]]) -> str:
    """The largest memory need of all stages."""
    values = [summary.get("peak_rss_mb") for _, summary, _ in rows]
    known = [value for value in values if value is not None]
    return f"at most {max(known):.0f} MB of memory" if known else ""


def closing_line(common: Common, seconds: float) -> str:
    where = common.folder("x").parent
    talk = ["python -m chapters.chat"]
    if common.runs != Path("runs"):
        talk.append(f"--runs {common.runs}")
    if common.quick:
        talk.append("--quick")
    return f"{seconds:.0f} s in all; files in {where}. Talk to the kitten: {' '.join(talk)}"


if __name__ == "__main__":
    sys.exit(main())
