"""Sheets for a class: the paper tasks of all lessons to print, and their solutions.

python -m chapters.sheets               writes runs/sheets/tasks.html and solutions.html
python -m chapters.sheets --rehearse    reads the lessons against the clock and runs their commands

Open a file in any browser and print it: every lesson is a page of A4 of its own. The tasks are
those of chapters/TEACHING.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chapters.common.runner import exit_code
from chapters.sheets.lessons import lessons
from chapters.sheets.paper import document
from chapters.sheets.rehearsal import rehearsal_text, rehearse, run_here
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import write_text_atomic

FILES = {  # name -> the part of a lesson, the title, and whether there is room to write
    "tasks.html": ("On paper", "KittenLLM: paper tasks", True),
    "solutions.html": ("Solution", "KittenLLM: solutions", False),
}


def write_sheets(folder: Path) -> list[Path]:
    """Write both files. Raises: CheckpointError if one cannot be written."""
    written = []
    for name, (part, title, room) in FILES.items():
        path = folder / name
        write_text_atomic(path, document(lessons(), part, title, room=room))
        written.append(path)
    return written


def sheets(argv: Sequence[str] | None = None) -> None:
    """The whole program."""
    parser = Parser(
        prog="python -m chapters.sheets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--to", type=path_argument, default=Path("runs/sheets"), metavar="DIR", help="folder")
    add("--rehearse", action="store_true", help="time the lessons on this machine (minutes)")
    add("--lesson", type=int, choices=range(1, 7), metavar="N", help="rehearse only lesson N")
    options = parser.parse_args(argv)
    if options.rehearse:
        wanted = [lesson for lesson in lessons() if options.lesson in (None, lesson.number)]
        print(rehearsal_text([rehearse(lesson, run_here) for lesson in wanted]))
        return
    options.to.mkdir(parents=True, exist_ok=True)
    for path in write_sheets(options.to):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: sheets(argv))


if __name__ == "__main__":
    sys.exit(main())
