"""A dry run of a lesson: is there time for what is said, typed, and done by the machine?

Of what is read aloud the words are counted, 130 a minute; in Chinese the characters, 200 a minute.
What is typed takes its keys, 100 a minute. The commands are run with nothing typed into them, and
their seconds are counted. All of it must fit into the minutes of the plan in which the class is
together. A command whose remark names the pupils runs while they work, and must fit in there.

Read before: lessons.py. Left out: questions from the class, which are why minutes should be left.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chapters.sheets.lessons import Lesson

SPOKEN_A_MINUTE = {"en": 130, "zh": 200}  # words, Chinese characters
KEYS_A_MINUTE = 100
LONGEST = 600  # seconds for one command
WHOLE = 45  # minutes of a lesson


@dataclass(frozen=True)
class Timing:
    """The minutes of one lesson."""

    number: int
    aloud: float  # of reading aloud
    typing: float
    waiting: float  # for commands while the class is together
    together: int  # minutes of the plan in which the class is together
    meanwhile: float  # of commands that run while the pupils work
    alone: int  # minutes of the plan in which the pupils work
    failed: tuple[str, ...] = ()  # commands that did not end well

    @property
    def needed(self) -> float:
        """Minutes that reading, typing and waiting for the machine take."""
        return self.aloud + self.typing + self.waiting

    @property
    def fits(self) -> bool:
        whole = self.together + self.alone == WHOLE
        return whole and self.needed <= self.together and self.meanwhile <= self.alone


def spoken(text: str, language: str) -> int:
    """How much there is to say: words; in Chinese the characters, a foreign word being two.

    >>> spoken("The loss is 0.5 nats.", "en"), spoken("损失是 0.5 奈特。", "zh")
    (5, 7)
    """
    if language == "en":
        return len(text.split())
    characters = re.findall(r"[\u4e00-\u9fff]", text)
    others = re.findall(r"[A-Za-z0-9_./^-]*[A-Za-z0-9][A-Za-z0-9_./^-]*", text)
    return len(characters) + 2 * len(others)


def rehearse(lesson: Lesson, run: Callable[[str], tuple[float, bool]]) -> Timing:
    """Count and run. `run` returns a command's seconds, and whether it went well."""
    seconds, failed = {True: 0.0, False: 0.0}, []
    for command in lesson.commands:
        took, well = run(command)
        seconds[lesson.is_for_pupils(command)] += took
        if not well:
            failed.append(command)
    return Timing(
        lesson.number,
        aloud=spoken(lesson.said, lesson.language) / SPOKEN_A_MINUTE[lesson.language],
        typing=len(lesson.typed) / KEYS_A_MINUTE,
        waiting=seconds[False] / 60,
        together=sum(step.minutes for step in lesson.plan if step.who == "all"),
        meanwhile=seconds[True] / 60,
        alone=sum(step.minutes for step in lesson.plan if step.who == "pupils"),
        failed=tuple(failed),
    )


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
    """A line for each lesson, in minutes, and what did not fit or did not run."""
    lines = ["lesson  aloud  typing  waiting  needed  together  meanwhile  alone"]
    for one in timings:
        lines.append(
            f"{one.number:>6}{one.aloud:>7.1f}{one.typing:>8.1f}{one.waiting:>9.1f}"
            f"{one.needed:>8.1f}{one.together:>10}{one.meanwhile:>11.1f}{one.alone:>7}"
            f"{'' if one.fits else '   too long'}"
        )
    for one in timings:
        lines += [f"lesson {one.number}: this did not run: {command}" for command in one.failed]
    return "\n".join(lines)
