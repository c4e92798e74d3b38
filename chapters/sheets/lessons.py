"""The teacher's page, taken apart: lessons, their plans, commands, paper tasks and solutions.

TEACHING.md is the only place where a lesson is written; the sheets and the rehearsal read it.

Read before: chapters/TEACHING.md. Left out: everything that is not in this page.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "TEACHING.md"
PARTS = ("Goal", "Preparation", "Run", "Ask", "On paper", "Solution", "Homework")


@dataclass(frozen=True)
class Step:
    """One row of a plan: so many minutes, and who is busy: "all" or "pupils"."""

    minutes: int
    who: str
    what: str


@dataclass(frozen=True)
class Lesson:
    """One lesson; `parts` holds the text of each part, without its title."""

    number: int
    title: str
    parts: dict[str, str]
    plan: tuple[Step, ...]

    @property
    def commands(self) -> list[str]:
        """The commands of the part "Run", without their comments."""
        lines = re.findall(r"^    (python -m .*)$", self.parts["Run"], re.MULTILINE)
        return [line.split("  #")[0].strip() for line in lines]

    @property
    def said(self) -> str:
        """What is read aloud: the goal, the plan's steps, questions and answers, the solution."""
        steps = " ".join(step.what for step in self.plan)
        return " ".join([self.parts["Goal"], steps, self.parts["Ask"], self.parts["Solution"]])


def lessons(page: str | None = None) -> list[Lesson]:
    """All lessons of the teacher's page.

    Raises: ValueError for a lesson without one of its parts, or a row of its plan that is none.
    """
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    pieces = re.split(r"^## Lesson (\d+): (.*)$", text, flags=re.MULTILINE)
    found = []
    for number, title, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        body = body.split("\n## ")[0]
        found.append(Lesson(int(number), title, _parts(number, body), _plan(number, body)))
    return found


def _parts(number: str, body: str) -> dict[str, str]:
    pieces = re.split(rf"^\*\*({'|'.join(PARTS)})\.?\*\*", body, flags=re.MULTILINE)
    parts = {
        name: text.strip("\n").rstrip()
        for name, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise ValueError(f"lesson {number} has no {missing[0]!r}")
    return parts


def _plan(number: str, body: str) -> tuple[Step, ...]:
    rows = re.findall(r"^\| *(\d+) *\| *(\w+) *\| *(.*?) *\|$", body, re.MULTILINE)
    steps = tuple(Step(int(minutes), who, what) for minutes, who, what in rows)
    if not steps or {step.who for step in steps} - {"all", "pupils"}:
        raise ValueError(f"lesson {number} needs a plan of rows | minutes | all or pupils | what |")
    return steps
