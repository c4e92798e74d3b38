"""The museum of silent bugs: functions of this package, each with one mistake that raises no error.

python -m chapters.museum                 what is on show
python -m chapters.museum NAME            one exhibit: its code, its symptom, and your turn
python -m chapters.museum NAME --answer   the same, with the answer at once
python -m chapters.museum --hunt          a bug hunt of 15 minutes, with a table of the best
"""

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from chapters.common.runner import exit_code
from chapters.common.terminal import wrap
from chapters.museum import hall_chat, hall_grpo, hall_mixture, hall_pairs, hall_ppo
from chapters.museum.best import best_text, entered
from chapters.museum.exhibits import (
    Exhibit,
    Points,
    difference_of_code,
    largest_gap,
    two_curves,
    wrong_file,
    wrong_lines,
    wrong_source,
)
from kittenllm import plots
from kittenllm.door import Parser, path_argument, plain_text

HALLS = {
    "Hall 1: what a kitten reads and repeats": hall_chat.EXHIBITS,
    "Hall 2: from a reward to the wrong lesson": hall_ppo.EXHIBITS,
    "Hall 3: compared with each other": hall_grpo.EXHIBITS,
    "Hall 4: this one is better": hall_pairs.EXHIBITS,
    "Hall 5: two kinds in one batch": hall_mixture.EXHIBITS,
}
EXHIBITS: dict[str, Exhibit] = {e.name: e for hall in HALLS.values() for e in hall}
FIRST_TRY, SECOND_TRY = 2, 1  # points in the hunt


def terminal_width() -> int:
    """Columns to write in: those of the terminal, 80 at most."""
    return max(40, min(80, shutil.get_terminal_size((80, 24)).columns))


# ------------------------------------------------------------------------------ one exhibit


def listing(width: int) -> str:
    """All exhibits, one line each."""
    lines = []
    for hall, exhibits in HALLS.items():
        lines += ["", hall]
        for exhibit in exhibits:
            lines.append(f"  {exhibit.name:16} {exhibit.title}"[:width])
    lines += ["", f"{len(EXHIBITS)} exhibits. Look at one:  python -m chapters.museum NAME"]
    return "\n".join(lines[1:])


def find(name: str) -> Exhibit:
    """Raises: ValueError for a name that is not on show."""
    if name not in EXHIBITS:
        known = ", ".join(EXHIBITS)
        raise ValueError(f"there is no exhibit {name!r}; on show are {known}")
    return EXHIBITS[name]


def numbered(source: str) -> str:
    """The code with a number before each line."""
    lines = source.rstrip().splitlines()
    return "\n".join(f"{i:3} {line}".rstrip() for i, line in enumerate(lines, start=1))


def numbers_line(exhibit: Exhibit, right: Points, wrong: Points) -> str:
    """Where the two curves are furthest apart, in numbers."""
    gaps = [largest_gap([a], [b]) for a, b in zip(right, wrong, strict=True)]
    place = gaps.index(max(gaps))
    x, y = right[place]
    what = f"{exhibit.symptom.y}, at {exhibit.symptom.x} {x:.3g}"
    return f"{what}: right {y:.3g}, wrong {wrong[place][1]:.3g}"


def draw(path: Path, exhibit: Exhibit, right: Points, wrong: Points) -> None:
    """Both curves in one picture. Raises: CheckpointError if it cannot be written."""
    plots.curves(
        path,
        {
            "right": tuple(zip(*right, strict=True)),
            "in the museum": tuple(zip(*wrong, strict=True)),
        },
        title=exhibit.title,
        x_label=exhibit.symptom.x,
        y_label=exhibit.symptom.y,
    )


def answer_text(exhibit: Exhibit, width: int) -> str:
    """The changed lines, what is wrong with them, and the story."""
    lines = ", ".join(str(line) for line in sorted(wrong_lines(exhibit)))
    return "\n".join(
        [
            f"The mistake is in line {lines}. Minus: the right code, plus: the museum's.",
            *(
                wrap(line[2:], width, first=f"  {line[:2]}", indent="      ")
                for line in difference_of_code(exhibit)
            ),
            wrap(exhibit.answer, width),
            wrap(exhibit.story, width),
            wrap(f"This test notices it: tests/{exhibit.killed_by[0]}", width),
        ]
    )


def show(exhibit: Exhibit, *, runs: Path, answer: bool, ask: Callable[[str], str] | None) -> None:
    """Code, symptom, question; the answer at once, behind a key, or by another call."""
    width = terminal_width()
    print(f"{exhibit.title}\n{exhibit.target}, with a mistake:\n")
    print(numbered(wrong_source(exhibit)), end="\n\n")
    right, wrong = two_curves(exhibit)
    path = runs / "museum" / f"{exhibit.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(path, exhibit, right, wrong)
    print(wrap(numbers_line(exhibit, right, wrong), width))
    print(wrap(exhibit.seen, width))
    print(f"Both curves: {path}\n")
    if not answer:
        print("Which line is wrong, and why does nobody notice?")
        if ask is None:
            print(f"The answer: python -m chapters.museum {exhibit.name} --answer")
            return
        ask("Enter shows the answer. ")
    print(answer_text(exhibit, width))


# ------------------------------------------------------------------------------------ the hunt


def ask_for_line(question: str, ask: Callable[[str], str]) -> int | None:
    """A line number; None for Enter alone. Raises: EOFError for q or the end of input."""
    while True:
        typed = ask(question).strip().lower()
        if typed == "":
            return None
        if typed == "q":
            raise EOFError
        if typed.isascii() and typed.isdigit():
            return int(typed)
        print("A line number, please; Enter gives up on this one, q ends the hunt.")


def hunt(
    order: Sequence[Exhibit],
    *,
    minutes: float,
    ask: Callable[[str], str],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, int, int]:
    """Exhibit after exhibit until the time is up -> (points, bugs found, bugs seen).

    The first try earns 2 points, the second 1. An answer after the bell does not count.
    """
    points, found, seen = 0, 0, 0
    end = clock() + 60 * minutes
    try:
        for exhibit in order:
            left = end - clock()
            if left <= 0:
                break
            print(f"\n{exhibit.title}   ({left / 60:.0f} minutes left)\n{exhibit.target}\n")
            print(numbered(wrong_source(exhibit)), end="\n\n")
            print(wrap(exhibit.seen, terminal_width()))
            earned = 0
            for worth in (FIRST_TRY, SECOND_TRY):
                line = ask_for_line("Which line is wrong? ", ask)
                if line is None or clock() >= end:
                    break
                if line in wrong_lines(exhibit):
                    earned = worth
                    break
                print("That line is innocent." + (" Once more." if worth == FIRST_TRY else ""))
            if clock() >= end:
                print("The bell has rung: this one does not count.")
                break
            seen += 1
            found += earned > 0
            points += earned
            print(f"Found, {earned} points.\n" if earned else "")
            print(answer_text(exhibit, terminal_width()))
    except (KeyboardInterrupt, EOFError):
        print()
    return points, found, seen


def go_hunting(seed: int, minutes: float, name: str, runs: Path) -> None:
    """The hunt with its welcome, its result and the table of the best."""
    order = list(EXHIBITS.values())
    random.Random(seed).shuffle(order)
    print(
        f"A hunt of {minutes:g} minutes. Every function has one mistake; type the number of the "
        "line.\nEnter gives up on this one, q or Ctrl-C ends the hunt."
    )
    points, found, seen = hunt(order, minutes=minutes, ask=input)
    print(f"\n{found} of {seen} bugs found, {points} points. Thank you for visiting the museum!")
    best = entered(runs / "museum" / "hunt.json", name, minutes, (points, found, seen))
    print(best_text(best))


# --------------------------------------------------------------------------------- the program


def minutes_of(text: str) -> float:
    """A number of minutes above 0."""
    number = float(text)
    if not 0 < number < 10_000:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 10,000, got {text}")
    return number


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m chapters.museum",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="the exhibit to look at")
    parser.add_argument("--answer", action="store_true", help="show the answer at once")
    parser.add_argument(
        "--write-to",
        type=path_argument,
        metavar="NEW_FILE",
        help="write the wrong function to a new Python file (an existing one is never changed)",
    )
    # Its earlier name, out of the help: in chapters.check --file is the file to grade.
    parser.add_argument("--file", type=path_argument, dest="write_to", help=argparse.SUPPRESS)
    parser.add_argument("--hunt", action="store_true", help="hunt bugs against the clock")
    parser.add_argument("--minutes", type=minutes_of, default=15.0, help="length of the hunt")
    parser.add_argument("--name", dest="hunter", default="me", type=plain_text, help="who hunts")
    parser.add_argument("--seed", type=int, default=0, help="order of the hunt")
    parser.add_argument(
        "--runs", type=path_argument, default=Path("runs"), help="folder for pictures"
    )
    return parser.parse_args(argv)


def write_new_file(path: Path, content: str) -> None:
    """Raises: ValueError for a file that is already there, OSError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:  # "x": never over another file
            file.write(content)
    except FileExistsError as error:
        raise ValueError(
            f"{path} is already there and was left as it is. Choose a new name with --write-to."
        ) from error


def visit(argv: Sequence[str] | None = None) -> None:
    """The whole program."""
    options = parse(argv)
    if options.hunt:
        go_hunting(options.seed, options.minutes, options.hunter, options.runs)
    elif options.name is None:
        print(listing(terminal_width()))
    elif options.write_to is not None:
        exhibit = find(options.name)
        write_new_file(options.write_to, wrong_file(exhibit))
        print(f"{options.write_to}: {exhibit.target} with a mistake. Does a test notice it?")
        print(f"python -m pytest --implementation {options.write_to}")
    else:
        torch.set_num_threads(1)  # tables and tiny kittens: a second thread only waits
        ask = input if sys.stdin.isatty() else None
        show(find(options.name), runs=options.runs, answer=options.answer, ask=ask)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: visit(argv))


if __name__ == "__main__":
    sys.exit(main())
