"""Paper tasks to print, and the rehearsal: are 45 minutes enough for a lesson as it is written?"""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from chapters.sheets import __main__ as program
from chapters.sheets import minutes
from chapters.sheets.lessons import EDITIONS, PARTS, Lesson, Step, lessons
from chapters.sheets.minutes import read_seconds, timings, with_minutes
from chapters.sheets.paper import blocks, document, inline
from chapters.sheets.rehearsal import WHOLE, Timing, rehearsal_text, rehearse, spoken

# Generous: seconds for a command that is run in class, with the machine of a school.
SLOW_COMMAND = 30.0
LANGUAGES = list(EDITIONS)


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


@pytest.mark.parametrize("language, suffix", [("en", ".html"), ("zh", ".zh.html")])
def test_both_files_are_whole_pages_that_load_nothing(language, suffix, tmp_path, capsys):
    flags = ["--language", language, "--to", str(tmp_path / "new" / "sheets")]
    assert program.main(flags) == 0
    assert capsys.readouterr().out.count("\n") == 2
    for name in ("tasks", "solutions"):
        text = (tmp_path / "new" / "sheets" / f"{name}{suffix}").read_text(encoding="utf-8")
        pieces = Pieces()
        pieces.feed(text)
        assert pieces.open == [] and pieces.loads == [] and pieces.pages == 6
        assert "size: A4" in text and "url(" not in text and "http" not in text
        assert f'lang="{language}' in text


@pytest.mark.parametrize("language, name", [("en", "Name: ____"), ("zh", "姓名：____")])
def test_tasks_have_room_to_write_and_solutions_are_apart(language, name):
    six = lessons(language)
    tasks = document(six, "On paper", room=True)
    solutions = document(six, "Solution", room=False)
    numbered = sum(len(re.findall(r"^\d+\.", one.parts["On paper"], re.MULTILINE)) for one in six)
    assert tasks.count('class="room"') == numbered >= 15 and name in tasks
    assert 'class="room"' not in solutions
    assert "0.313" in solutions and "0.313" not in tasks


def test_the_sheets_of_both_languages_are_the_same_but_for_their_words():
    """Tags and numbers; that the numbers are right is computed in test_teaching.py."""
    for part, room in (("On paper", True), ("Solution", False)):
        sheets = [document(lessons(language), part, room=room) for language in LANGUAGES]
        shapes = [re.findall(r"<[^>]*>", text.partition("<body>")[2]) for text in sheets]
        assert shapes[0] == shapes[1]
        texts = [re.sub(r"<[^>]*>", " ", text.partition("<body>")[2]) for text in sheets]
        numbers = [sorted(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)) for text in texts]
        assert numbers[0] == numbers[1] and len(numbers[0]) > 50
        assert re.search(r"[\u4e00-\u9fff]", texts[1]) and not re.search(
            r"\b(?:the|what|Lesson|Solution|Name)\b", texts[1]
        )


def test_marks_of_the_page_become_html_and_everything_else_is_text():
    line = "a `<b>` and *so* **on** [here](x.md), 2 * 3 * 4 <script>"
    assert inline("*意外。* 说“`a`”") == "<em>意外。</em> 说“<code>a</code>”"
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
    page = EDITIONS["en"].text.replace(*change, 1)
    with pytest.raises(ValueError, match=message):
        lessons(page=page)


EVERY = [lesson for language in LANGUAGES for lesson in lessons(language)]


@pytest.mark.parametrize("lesson", EVERY, ids=lambda one: f"lesson {one.number} {one.language}")
def test_what_is_said_and_run_fits_into_the_minutes_of_the_plan(lesson):
    """Reading everything aloud, typing, and a slow machine leave half of the time for the class."""
    timing = rehearse(lesson, lambda command: (SLOW_COMMAND, True))
    assert timing.fits, rehearsal_text([timing])
    assert timing.needed <= timing.together / 2, rehearsal_text([timing])


def test_a_rehearsal_by_hand():
    """130 words a minute, 100 keys a minute, and the seconds of the commands."""
    parts = dict.fromkeys(("Goal", "Ask", "Solution"), "word " * 130)
    parts["Run"] = (
        "    python -m a --b  # why\n    python -m c\n    python -m d   # the pupils\n\n"
        "Then type `e f`."
    )
    plan = (Step(10, "all", "one two"), Step(35, "pupils", ""))
    lesson = Lesson(7, "x", parts, plan)
    ran = []

    def run(command):
        ran.append(command)
        return 90.0, command.endswith("a --b")

    timing = rehearse(lesson, run)
    assert ran == ["python -m a --b", "python -m c", "python -m d"]
    assert lesson.typed.splitlines() == [*ran, "e f"]
    assert timing.aloud == pytest.approx(392 / 130)
    assert timing.typing == pytest.approx((15 + 11 + 11 + 3 + 3) / 100)  # and three line ends
    assert (timing.waiting, timing.meanwhile) == (3.0, 1.5)
    assert timing.needed == pytest.approx(392 / 130 + 0.43 + 3)
    assert timing.fits and timing.failed == ("python -m c", "python -m d")
    text = rehearsal_text([timing])
    assert "did not run: python -m c" in text and "too long" not in text
    for plan in ((5, 40), (10, 34), (44, 1)):  # together, alone: each is wrong in its own way
        steps = tuple(Step(m, who, "") for m, who in zip(plan, ("all", "pupils"), strict=True))
        assert "too long" in rehearsal_text([rehearse(Lesson(7, "x", parts, steps), run)])


def test_what_there_is_to_say_in_each_language():
    assert spoken("The loss is 0.5 nats.", "en") == 5
    assert spoken("损失是 0.5 奈特，见 `runs/a_b.png`。", "zh") == 6 + 2 + 2
    assert spoken("** | - * <!-- -->", "zh") == 0


def test_a_rehearsal_of_one_lesson(monkeypatch, capsys):
    monkeypatch.setattr(program, "run_here", lambda command: (1.0, True))
    assert program.main(["--rehearse", "--lesson", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].split()[0] == "3"


# ---------------------------------------------------------------------------------- the minutes


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_holds_its_minutes(language):
    """If not: python -m chapters.sheets --minutes."""
    page = EDITIONS[language].text
    assert page.count("<!-- numbers: rehearsal -->") == 1
    assert with_minutes(page, language, read_seconds()) == page
    assert all(one.fits for one in timings(language, read_seconds()))


def test_seconds_are_known_of_every_command_and_of_nothing_else():
    commands = [command for lesson in lessons() for command in lesson.commands]
    assert list(read_seconds()) == commands


def test_the_table_by_hand():
    row = Timing(2, aloud=2.04, typing=0.5, waiting=1.26, together=24, meanwhile=0.0, alone=21)
    table = minutes.table([row], "en")
    assert table.startswith("Minutes, with 130 words read and 100 keys typed a minute.")
    assert table.splitlines()[-1] == "| 2 | 2.0 | 0.5 | 1.3 | 3.8 | 24 | 0.0 | 21 |"
    assert "200 字" in minutes.table([row], "zh")


def test_minutes_are_measured_and_written(monkeypatch, tmp_path, capsys):
    """Seconds of what ran are kept, those of what did not run stay; both pages get their table."""
    commands = [command for lesson in lessons() for command in lesson.commands]
    seconds = tmp_path / "seconds.json"
    seconds.write_text(json.dumps(dict.fromkeys([*commands, "python -m old"], 6.0)))
    pages = {}
    for language, edition in EDITIONS.items():
        page = tmp_path / edition.page.name
        page.write_text(edition.text, encoding="utf-8")
        pages[language] = replace(edition, page=page)
    monkeypatch.setattr(minutes, "FILE", seconds)
    monkeypatch.setattr(minutes, "EDITIONS", pages)
    monkeypatch.setattr(program, "run_here", lambda command: (120.0, "--train-on" not in command))
    monkeypatch.setattr(program, "processor_seconds", lambda: 0.0)  # as on Windows
    assert program.main(["--rehearse", "--lesson", "3", "--minutes"]) == 0
    known = json.loads(seconds.read_text())
    assert list(known) == commands
    assert {c for c, s in known.items() if s == 120.0} == {
        "python -m chapters.rank --name anna --pairs 20",
        "python -m chapters.trace reward",
    }
    for edition in pages.values():
        row = re.search(r"^\| 3 \|.*\|$", edition.text, re.MULTILINE)[0].split(" | ")
        assert (row[3], row[6]) == ("2.0", "2.1")
    assert "written: TEACHING.md, TEACHING.zh.md" in capsys.readouterr().out
    assert tuple(lessons()[0].parts) == PARTS
