"""The lessons as notebooks, for Jupyter or Colab: text to read, examples to run.

python -m chapters.notebooks               writes runs/notebooks/ch0_base.ipynb and so on
python -m chapters.notebooks --to DIR      into another folder
python -m chapters.notebooks --run         and runs each from top to bottom

A notebook runs offline if it lies in the project's folder or in a folder below. Elsewhere, on Colab
for example, set KITTENLLM_GIT to the address of the project's git repository in the first cell.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from chapters.common.runner import CHAPTERS, exit_code
from chapters.notebooks.cells import notebook, run_notebook
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import write_text_atomic

ROOM = Path(__file__).resolve().parents[1]
LANGUAGES = {"en": "lesson.md", "zh": "lesson.zh.md"}


def write_notebooks(folder: Path, language: str) -> list[Path]:
    """One notebook for each lesson of this language. Raises: ValueError if there is none."""
    written = []
    for chapter in CHAPTERS:
        lesson = ROOM / chapter.name / LANGUAGES[language]
        if not lesson.is_file():
            continue
        suffix = "" if language == "en" else f".{language}"
        path = folder / f"{chapter.name}{suffix}.ipynb"
        link = functools.partial(link_from, folder, lesson.parent)
        content = notebook(chapter.name, lesson.read_text(encoding="utf-8"), link)
        write_text_atomic(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        written.append(path)
    if not written:
        raise ValueError(f"there is no lesson in the language {language}")
    return written


def link_from(folder: Path, room: Path, link: str) -> str:
    """A link of a lesson in `room` as it is written in `folder`."""
    file, hash_sign, anchor = link.partition("#")
    there = os.path.relpath(room / file, folder.resolve())
    return Path(there).as_posix() + hash_sign + anchor


def notebooks(argv: Sequence[str] | None = None) -> None:
    """The whole program."""
    parser = Parser(
        prog="python -m chapters.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--to", type=path_argument, default=Path("runs/notebooks"), metavar="DIR", help="folder")
    add("--language", choices=tuple(LANGUAGES), default="en", help="en or zh (default: en)")
    add("--run", action="store_true", help="run each notebook as well")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in write_notebooks(options.to, options.language):
        failures, report = run_notebook(path) if options.run else (0, "")
        print(f"{path}{report and chr(10)}{report}")
        failed += [path.name] * (failures > 0)
    if failed:
        raise ValueError(f"these notebooks do not run: {', '.join(failed)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: notebooks(argv))


if __name__ == "__main__":
    sys.exit(main())
