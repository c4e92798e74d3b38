"""Paper tasks to print, and the rehearsal: are 45 minutes enough for a lesson as it is written?"""

import re
from html.parser import HTMLParser

import pytest

from chapters.sheets import __main__ as program
from chapters.sheets.lessons import PAGE, Lesson, Step, lessons
from chapters.sheets.paper import blocks, document, inline
from chapters.sheets.rehearsal import WHOLE, rehearsal_text, rehearse

# Generous: seconds for a command that is run in class, with the machine of a school.
SLOW_COMMAND = 30.0


class Pieces(HTMLParser):
    """Tags that are open, and everything that would be fetched or run."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.pages = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.pages += tag == "section"
        self.loads += [name for name, _ in attributes if name in ("src", "href", "onclick")]
        self.loads += [tag] * (tag in ("script", "link", "iframe"))

    def handle_startendtag(self, tag, attributes):
        pass  # <meta .../>

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_both_files_are_whole_pages_that_load_nothing(tmp_path, capsys):
    assert program.main(["--to", str(tmp_path / "new" / "sheets")]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    for name in ("tasks.html", "solutions.html"):
        text = (tmp_path / "new" / "sheets" / name).read_text(encoding="utf-8")
        pieces = Pieces()
        pieces.feed(text)
        assert pieces.open == [] and pieces.loads == [] and pieces.pages == 6
        assert "size: A4" in text and "url(" not in text and "http" not in text


def test_tasks_have_room_to_write_and_solutions_are_apart():
    six = lessons()
    tasks = document(six, "On paper", "t", room=True)
    solutions = document(six, "Solution", "s", room=False)
    numbered = sum(len(re.findall(r"^\d+\.", one.parts["On paper"], re.MULTILINE)) for one in six)
    assert tasks.count('class="room"') == numbered >= 15 and "Name: ____" in tasks
    assert 'class="room"' not in solutions
    assert "0.313" in solutions and "0.313" not in tasks


def test_marks_of_the_page_become_html_and_everything_else_is_text():
    line = "a `<b>` and *so* **on** [here](x.md), 2 * 3 * 4 <script>"
    assert inline(line) == (
        "a <code>&lt;b&gt;</code> and <em>so</em> <b>on</b> here, 2 * 3 * 4 &lt;script&gt;"
    )
    text = "Before.\n\n1. one\n   more\n2. two\n\n* star\n\nAfter."
    assert blocks(text) == (
        "<p>Before.</p><ol><li>one more</li><li>two</li></ol><ul><li>star</li></ul><p>After.</p>"
    )


# ---------------------------------------------------------------------------------- the lessons


def test_the_page_is_taken_apart_as_it_is_written():
    six = lessons()
    assert [one.number for one in six] == [1, 2, 3, 4, 5, 6]
    third = six[2]
    assert third.title == "you are the annotator"
    assert third.commands[0] == "python -m chapters.rank --name anna --pairs 20"
    assert sum(step.minutes for step in third.plan) == WHOLE
    assert sum(step.minutes for step in third.plan if step.who == "pupils") >= 20


@pytest.mark.parametrize(
    "change, message",
    [
        (("**Ask**", "**Asked**"), "lesson 1 has no 'Ask'"),
        (("| 5 | all |", "| 5 | me |"), "lesson 1 needs a plan"),
    ],
)
def test_a_lesson_that_is_not_whole_is_named(change, message):
    page = PAGE.read_text(encoding="utf-8").replace(*change, 1)
    with pytest.raises(ValueError, match=message):
        lessons(page)


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: f"lesson {lesson.number}")
def test_what_is_said_and_run_fits_into_the_minutes_of_the_plan(lesson):
    """Reading everything aloud, and a slow machine, leave a minute for questions."""
    timing = rehearse(lesson, lambda command: (SLOW_COMMAND, True))
    assert timing.fits, rehearsal_text([timing])
    assert timing.needed <= timing.together - 1, rehearsal_text([timing])


def test_a_rehearsal_by_hand():
    parts = dict.fromkeys(("Goal", "Ask", "Solution"), "word " * 130)
    parts["Run"] = "    python -m a --b  # why\n    python -m c"
    plan = (Step(10, "all", "one two"), Step(35, "pupils", ""))
    lesson = Lesson(7, "x", parts, plan)
    ran = []

    def run(command):
        ran.append(command)
        return 90.0, command.endswith("a --b")

    timing = rehearse(lesson, run)
    assert ran == ["python -m a --b", "python -m c"]
    assert timing.words == 392 and timing.needed == pytest.approx(392 / 130 + 3)
    assert timing.fits and timing.failed == ("python -m c",)
    text = rehearsal_text([timing])
    assert "did not run: python -m c" in text and "too long" not in text
    short = Lesson(7, "x", parts, (Step(5, "all", ""), Step(40, "pupils", "")))
    assert "too long" in rehearsal_text([rehearse(short, run)])


def test_a_rehearsal_of_one_lesson(monkeypatch, capsys):
    monkeypatch.setattr(program, "run_here", lambda command: (1.0, True))
    assert program.main(["--rehearse", "--lesson", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].split()[0] == "3"
