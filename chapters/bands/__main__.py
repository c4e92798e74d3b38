"""Reference bands: is a number of this run where the numbers of other seeds were?

python -m chapters.bands RUNS_DIR...  makes bands.json from finished runs of different seeds; every
chapter then ends with a verdict for each of its key numbers. --rounding RUNS_DIR... adds how far
the same seeds move with another number of threads. --docs writes the numbers into README.md and
the lessons, and into links that name a function the line of its definition. --one-file measures the
numbers of chapters/one_file.py, --real RUNS_DIR takes those of the runs with --model. --translated
FILE notes that a Chinese text says what the English one beside it says now.

A band goes from the smallest to the largest of the seeds, widened by that distance on each side,
and by two standard errors or 1 % of the number if that is more. With five seeds, a sixth falls
outside 3 times in 100 by chance.

Bands hold for full runs with default settings. Other settings: the verdict says so.

Read before: key_numbers.py, building.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chapters.bands import one_file, real_models
from chapters.bands.building import build, rounding
from chapters.bands.docs import compact_json, write_documents
from chapters.bands.editions import CHINESE, english_of, is_chinese, marked
from chapters.bands.file import FILE, read_bands
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.rounding import threads_text
from chapters.bands.rows import TABLE
from chapters.common.runner import exit_code
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import write_text_atomic
from kittenllm.runs.json_files import read_json

ENOUGH_SEEDS = 5


def report(content: dict) -> str:
    """What was built, a line per chapter."""
    lines = []
    for chapter, band in content["chapters"].items():
        seeds, numbers = band["seeds"], len(band["numbers"])
        note = "" if len(seeds) >= ENOUGH_SEEDS else f" (better {ENOUGH_SEEDS})"
        threads = f" on {threads_text(band['threads'])}" if band.get("threads") else ""
        lines.append(f"{chapter:<18}{numbers:>3} numbers from seeds {seeds}{threads}{note}")
    missing = [chapter for chapter in KEY_NUMBERS if chapter not in content["chapters"]]
    return "\n".join(lines + [f"{chapter:<18}not finished in any folder" for chapter in missing])


def flags() -> Parser:
    """What can be asked for."""
    parser = Parser(
        prog="chapters.bands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    folder = {"type": path_argument, "metavar": "RUNS_DIR"}
    parser.add_argument(
        "runs",
        nargs="*",
        **folder,
        help="a runs folder, one for each seed",
    )
    help_text = "default: chapters/bands/bands.json"
    parser.add_argument("--output", type=path_argument, metavar="FILE", help=help_text)
    parser.add_argument(
        "--rounding",
        nargs="+",
        **folder,
        help="runs of some of the same seeds on another number of threads",
    )
    parser.add_argument(
        "--alone",
        nargs="+",
        type=int,
        default=[],
        metavar="SEED",
        help="seeds that had the machine to themselves; the seconds of the others get brackets",
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="write the numbers into README.md and the lessons, and the lines into their links",
    )
    parser.add_argument(
        "--one-file",
        action="store_true",
        help="run chapters/one_file.py with five seeds, and write its numbers to one_file.json",
    )
    parser.add_argument(
        "--translated",
        nargs="+",
        type=path_argument,
        default=[],
        metavar="FILE",
        help="Chinese texts (*.zh.md) that are up to date: mark them so",
    )
    help_text = "take the numbers of the runs with --model, for chapters/real_models.md"
    parser.add_argument("--real", **folder, help=help_text)
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(KEY_NUMBERS),
        metavar="CHAPTER",
        help="make this chapter's band anew and keep the others (may be given again)",
    )
    return parser


def bands(argv=None) -> None:
    """The whole program."""
    parser = flags()
    arguments = parser.parse_args(argv)
    output = arguments.output or FILE
    if arguments.runs:
        content = build_again(arguments, output)
        write_text_atomic(output, compact_json(content))
        print(report(content))
    elif (
        arguments.rounding
        or arguments.only
        or not (arguments.docs or arguments.one_file or arguments.real or arguments.translated)
    ):
        parser.error(
            "give the runs folders, one for each seed, or --docs, --one-file, --real, --translated"
        )
    if arguments.one_file:
        write_text_atomic(one_file.FILE, compact_json(one_file.measure()))
    if arguments.real:
        write_text_atomic(real_models.FILE, compact_json(real_models.collect(arguments.real)))
    for path in arguments.translated:
        mark_as_translated(path)
    if arguments.docs:
        changed = write_documents(read_json(output) or {}, output)
        print(f"written: {', '.join(changed) or 'no file, all are up to date'}")


def mark_as_translated(path: Path) -> None:
    """Write the marks of the English text into the Chinese one.

    Raises: ValueError for a file that is no Chinese edition, or that has other headings.
    """
    if not is_chinese(path) or not english_of(path).is_file():
        raise ValueError(f"{path} is no *{CHINESE} with an English text beside it")
    chinese, english = (each.read_text(encoding="utf-8") for each in (path, english_of(path)))
    try:
        write_text_atomic(path, marked(chinese, english))
    except ValueError as error:
        raise ValueError(f"{path} and {english_of(path).name}: {error}") from None


def build_again(arguments: argparse.Namespace, output: Path) -> dict:
    """What the file shall hold; with --only, the other chapters stay as they are."""
    only = tuple(arguments.only or KEY_NUMBERS)
    content = build(arguments.runs, only)
    if arguments.output is None:
        refuse_fewer_seeds(content, only)
    earlier = (read_json(output) or {}) if arguments.only else {}
    for part in ("chapters", "others", "rounding"):
        kept = {**earlier.get(part, {}), **content.get(part, {})}
        if part == "rounding":
            kept = {name: rows for name, rows in kept.items() if name not in only}
            kept |= rounding(arguments.runs, arguments.rounding) if arguments.rounding else {}
        if kept:
            content[part] = {name: kept[name] for name in (*KEY_NUMBERS, *TABLE) if name in kept}
    if "conversation" in earlier:
        content.setdefault("conversation", earlier["conversation"])
    content["alone"] = arguments.alone or earlier.get("alone", [])
    return content


def refuse_fewer_seeds(content: dict, only: Sequence[str]) -> None:
    """The shipped bands are not replaced by those of fewer seeds.  Raises: ValueError."""
    for chapter, shipped in read_bands().items():
        if chapter not in only:
            continue
        new = len(content["chapters"].get(chapter, {"seeds": []})["seeds"])
        if new < len(shipped["seeds"]):
            raise ValueError(
                f"{FILE} holds {chapter} with {len(shipped['seeds'])} seeds, these folders hold "
                f"{new}. Give more runs folders, or another file with --output."
            )


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: bands(argv))


if __name__ == "__main__":
    sys.exit(main())
