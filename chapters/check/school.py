"""A class's exercises as one table: `python -m chapters.check FOLDER --csv`.

The folder holds one folder for each pupil, a copy of chapters/exercises/ in which something was
written. What is still a stub costs nothing: only written functions are run.

Read before: table.py. Left out: running the chapters with what the pupils wrote.
"""

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

from chapters.check.table import EXERCISES, Exercise
from chapters.check.text import Grade
from chapters.common.terminal import safe_text

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins like this


def pupils_in(folder: Path) -> list[Path]:
    """The pupils' folders, by name. Raises: ValueError if there is none with an exercise in it."""
    files = {exercise.file for exercise in EXERCISES.values()}
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [path for path in inside if any((path / file).is_file() for file in files)]
    if not found:
        raise ValueError(
            f"{folder}: no folder in it holds an exercise. Put a copy of each pupil's "
            "chapters/exercises/ into it, named after the pupil"
        )
    return found


def print_class(
    folder: Path, grade_one: Callable[[Exercise, Path], Grade], say: Callable[[str], None]
) -> int:
    """Print the table of a class; the exit code is 0 if there is one."""
    try:
        table = class_csv(folder, grade_one, say)
    except (ValueError, OSError) as error:
        print(safe_text(f"error: {error}"), file=sys.stderr)
        return 1
    say("")
    print(table)
    return 0


def class_csv(
    folder: Path, grade_one: Callable[[Exercise, Path], Grade], say: Callable[[str], None]
) -> str:
    """A line for each pupil and a column for each exercise, as CSV; at last how many are done.

    Raises: ValueError for a folder without pupils.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["pupil", *EXERCISES, "done"])
    for pupil in pupils_in(folder):
        grades = {}
        for name, exercise in EXERCISES.items():
            say(f"{pupil.name}: {name} ...")
            file = pupil / exercise.file
            grades[name] = grade_one(exercise, file) if file.is_file() else None
        done = sum(grade is not None and grade.state == "passed" for grade in grades.values())
        table.writerow([plain(pupil.name), *map(cell, grades.values()), done])
    return text.getvalue().rstrip()


def cell(grade: Grade | None) -> str:
    """passed; 3 of 10 (tests); empty where nothing was written."""
    if grade is None or grade.state == "unwritten":
        return ""
    if grade.state == "failed":
        return f"{grade.passed} of {grade.tests}"
    return {"unusable": "cannot be read", "broken": "not graded"}.get(grade.state, grade.state)


def plain(name: str) -> str:
    """A name that a spreadsheet takes for a text, whatever it begins with."""
    return f"'{name}" if name.startswith(FORMULA) else name
