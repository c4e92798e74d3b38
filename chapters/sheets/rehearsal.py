"""A dry run of a lesson: is there time for what is said and for what the machine does?

What is read aloud is counted in words, at 130 a minute. The commands are run, with nothing typed,
and their seconds are counted. Both must fit into the minutes of the plan in which the class is
together; in the others the pupils work alone.

Read before: lessons.py. Left out: questions from the class, which are why a minute should be left.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chapters.sheets.lessons import Lesson

WORDS_A_MINUTE = 130
LONGEST = 600  # seconds for one command
WHOLE = 45  # minutes of a lesson


@dataclass(frozen=True)
class Timing:
    """The minutes of one lesson."""

    number: int
    words: int
    command_seconds: float
    failed: tuple[str, ...]  # commands that did not end well
    together: int  # minutes of the plan in which the class is together
    alone: int  # ... in which the pupils work

    @property
    def aloud(self) -> float:
        """Minutes of reading aloud."""
        return self.words / WORDS_A_MINUTE

    @property
    def needed(self) -> float:
        """Minutes that reading and waiting for the machine take."""
        return self.aloud + self.command_seconds / 60

    @property
    def fits(self) -> bool:
        return self.needed <= self.together and self.together + self.alone == WHOLE


def rehearse(lesson: Lesson, run: Callable[[str], tuple[float, bool]]) -> Timing:
    """Count the words and run the commands. `run` returns the seconds, and whether it went well."""
    words = len(lesson.said.split())
    seconds, failed = 0.0, []
    for command in lesson.commands:
        took, well = run(command)
        seconds += took
        if not well:
            failed.append(command)
    together = sum(step.minutes for step in lesson.plan if step.who == "all")
    alone = sum(step.minutes for step in lesson.plan if step.who == "pupils")
    return Timing(lesson.number, words, seconds, tuple(failed), together, alone)


def run_here(command: str) -> tuple[float, bool]:
    """Run `python -m ...` with this Python and closed input -> its seconds, and if it went well."""
    arguments = [sys.executable, *shlex.split(command)[1:]]
    started = time.monotonic()
    try:
        result = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return float(LONGEST), False
    return time.monotonic() - started, result.returncode == 0


def rehearsal_text(timings: Sequence[Timing]) -> str:
    """A line for each lesson, and what did not fit or did not run."""
    head = "lesson  words  read aloud  commands  needed  together  alone"
    lines = [head]
    for one in timings:
        lines.append(
            f"{one.number:>6}{one.words:>7}{one.aloud:>8.1f} min{one.command_seconds:>8.0f} s"
            f"{one.needed:>8.1f}{one.together:>10}{one.alone:>7}"
            f"{'' if one.fits else '   too long'}"
        )
    for one in timings:
        lines += [f"lesson {one.number}: this did not run: {command}" for command in one.failed]
    return "\n".join(lines)
