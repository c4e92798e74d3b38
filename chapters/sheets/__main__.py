"""Sheets for a class: the paper tasks of all lessons to print, and their solutions.

python -m chapters.sheets                 writes runs/sheets/tasks.html and solutions.html
python -m chapters.sheets --language zh   in Chinese: tasks.zh.html and solutions.zh.html
python -m chapters.sheets --rehearse      reads the lessons against the clock, runs their commands

Open a file in any browser and print it: every lesson is a page of A4 of its own. The tasks are
those of chapters/TEACHING.md and of its Chinese edition. Whoever changes a lesson writes the
minutes of both pages anew with --minutes.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from chapters.common.runner import exit_code
from chapters.sheets.lessons import EDITIONS, lessons
from chapters.sheets.minutes import note_seconds, write_minutes
from chapters.sheets.paper import document
from chapters.sheets.rehearsal import rehearsal_text, rehearse, run_here
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import write_text_atomic

FILES = {  # name -> the part of a lesson, and whether there is room to write
    "tasks": ("On paper", True),
    "solutions": ("Solution", False),
}


def write_sheets(folder: Path, language: str) -> list[Path]:
    """Write both files. Raises: CheckpointError if one cannot be written."""
    written = []
    suffix = ".html" if language == "en" else f".{language}.html"
    for name, (part, room) in FILES.items():
        path = folder / f"{name}{suffix}"
        write_text_atomic(path, document(lessons(language), part, room=room))
        written.append(path)
    return written


def rehearsed(language: str, number: int | None) -> dict[str, float]:
    """Rehearse one lesson or all, print their minutes -> the processor's seconds of what ran well;
    where the system does not tell them, those of the clock."""
    measured: dict[str, float] = {}

    def run(command: str) -> tuple[float, bool]:
        before = processor_seconds()
        took, well = run_here(command)
        if well:
            measured[command] = processor_seconds() - before or took
        return took, well

    wanted = [lesson for lesson in lessons(language) if number in (None, lesson.number)]
    print(rehearsal_text([rehearse(lesson, run) for lesson in wanted]))
    return measured


def processor_seconds() -> float:
    """Of all programs that this one has run; 0 on Windows."""
    times = os.times()
    return times.children_user + times.children_system


def sheets(argv: Sequence[str] | None = None) -> None:
    """The whole program."""
    parser = Parser(
        prog="python -m chapters.sheets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--to", type=path_argument, default=Path("runs/sheets"), metavar="DIR", help="folder")
    add("--language", choices=tuple(EDITIONS), default="en", help="en or zh (default: en)")
    add("--rehearse", action="store_true", help="time the lessons on this machine (minutes)")
    add("--lesson", type=int, choices=range(1, 7), metavar="N", help="rehearse only lesson N")
    help_text = "write the minutes into TEACHING; with --rehearse those of this machine"
    add("--minutes", action="store_true", help=help_text)
    options = parser.parse_args(argv)
    measured = rehearsed(options.language, options.lesson) if options.rehearse else {}
    if options.minutes:
        note_seconds(measured)
        print(f"written: {', '.join(path.name for path in write_minutes()) or 'no file'}")
    if options.minutes or options.rehearse:
        return
    options.to.mkdir(parents=True, exist_ok=True)
    for path in write_sheets(options.to, options.language):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: sheets(argv))


if __name__ == "__main__":
    sys.exit(main())
