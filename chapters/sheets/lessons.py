"""The teacher's page, taken apart: lessons, their plans, commands, paper tasks and solutions.

TEACHING.md and its Chinese edition are the only places where a lesson is written; the sheets and
the rehearsal read them. The parts have their English names in both languages.

Read before: chapters/TEACHING.md. Left out: everything that is not in this page.
"""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
PARTS = ("Goal", "Preparation", "Run", "Ask", "On paper", "Solution", "Homework")


@dataclass(frozen=True)
class Edition:
    """How a lesson is written in one language."""

    page: Path
    heading: str  # a pattern of number and title
    parts: tuple[str, ...]  # the names of PARTS
    everybody: str  # who is busy in a step of the plan
    pupils: str  # ... and what a command's remark says if it runs in the pupils' minutes
    types: str  # the word before what is to be typed

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")


EDITIONS = {
    "en": Edition(
        FOLDER / "TEACHING.md", r"^## Lesson (\d+): (.*)$", PARTS, "all", "pupils", "type"
    ),
    "zh": Edition(
        FOLDER / "TEACHING.zh.md",
        r"^## 第 (\d+) 课：(.*)$",
        ("目标", "准备", "运行", "提问", "纸上练习", "答案", "作业"),
        "全班",
        "学生",
        "输入",
    ),
}


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
    language: str = "en"

    @property
    def remarks(self) -> dict[str, str]:
        """The commands of the part "Run" -> the remark behind each, "" without one."""
        found = {}
        for line in re.findall(r"^    (python -m .*)$", self.parts["Run"], re.MULTILINE):
            command, _, remark = line.partition("  #")
            found[command.strip()] = remark.strip()
        return found

    @property
    def commands(self) -> list[str]:
        """The commands of the part "Run", without their remarks."""
        return list(self.remarks)

    def is_for_pupils(self, command: str) -> bool:
        """Whether a command runs in the minutes in which the pupils work."""
        return EDITIONS[self.language].pupils in self.remarks[command]

    @property
    def typed(self) -> str:
        """What is typed: the commands, and what the text of "Run" says to type."""
        word = EDITIONS[self.language].types
        said = re.findall(rf"{word} `([^`]+)`", self.parts["Run"])
        return "\n".join([*self.commands, *said])

    @property
    def said(self) -> str:
        """What is read aloud: the goal, the plan's steps, questions and answers, the solution."""
        steps = " ".join(step.what for step in self.plan)
        return " ".join([self.parts["Goal"], steps, self.parts["Ask"], self.parts["Solution"]])


def lessons(language: str = "en", page: str | None = None) -> list[Lesson]:
    """All lessons of the teacher's page; `page` is a text to read instead of it.

    Raises: ValueError for a lesson without one of its parts, or a row of its plan that is none.
    """
    edition = EDITIONS[language]
    pieces = re.split(edition.heading, page or edition.text, flags=re.MULTILINE)
    found = []
    for number, title, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        body = body.split("\n## ")[0]
        parts, plan = _parts(number, body, edition), _plan(number, body, edition)
        found.append(Lesson(int(number), title, parts, plan, language))
    return found


def _parts(number: str, body: str, edition: Edition) -> dict[str, str]:
    pieces = re.split(rf"^\*\*({'|'.join(edition.parts)})[.。]?\*\*", body, flags=re.MULTILINE)
    names = dict(zip(edition.parts, PARTS, strict=True))
    parts = {
        names[name]: text.strip("\n").rstrip()
        for name, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise ValueError(f"lesson {number} has no {missing[0]!r}")
    return parts


def _plan(number: str, body: str, edition: Edition) -> tuple[Step, ...]:
    rows = re.findall(r"^\| *(\d+) *\| *(\w+) *\| *(.*?) *\|$", body, re.MULTILINE)
    who_is = {edition.everybody: "all", edition.pupils: "pupils"}
    steps = tuple(Step(int(minutes), who_is.get(who, ""), what) for minutes, who, what in rows)
    if not steps or "" in {step.who for step in steps}:
        raise ValueError(f"lesson {number} needs a plan of rows | minutes | all or pupils | what |")
    return steps
