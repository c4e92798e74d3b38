"""A page of the teacher's Markdown as HTML for the printer.

Only what TEACHING.md uses: paragraphs, numbered lists, bullets, `code`, *emphasis*, [links](to), of
which the text stays. Everything is escaped by chapters/report/html.py, so a text can only be read.

Read before: lessons.py. Left out: every other kind of Markdown.
"""

import re
from collections.abc import Sequence

from chapters.report.html import Markup, join, tag
from chapters.sheets.lessons import Lesson

STYLE = """
@page { size: A4; margin: 18mm 16mm; }
body { font: 11.5pt/1.5 Georgia, "Noto Serif", "Noto Serif CJK SC", "Songti SC", SimSun, serif;
  color: #000; background: #fff;
  max-width: 178mm; margin: 0 auto; padding: 8mm; }
section { break-after: page; page-break-after: always; }
section:last-of-type { break-after: auto; page-break-after: auto; }
header { display: flex; justify-content: space-between; font-size: 9.5pt;
  border-bottom: 1px solid #000; padding-bottom: 2mm; margin-bottom: 5mm; }
h1 { font-size: 16pt; margin: 0 0 4mm; }
h2 { font-size: 11pt; margin: 5mm 0 1mm; }
li { margin: 2mm 0; break-inside: avoid; }
ol > li { margin-bottom: 4mm; }
em:lang(zh) { font-style: normal; font-weight: bold; }
code { font: 10pt Consolas, "DejaVu Sans Mono", monospace; }
.room { display: block; height: 30mm; border: 1px dotted #999; margin: 2mm 0 4mm; }
.help { font-size: 9.5pt; border: 1px solid #999; padding: 2mm 3mm; margin-top: 4mm; }
@media print { body { padding: 0; } }
"""
HELP = (
    "log 2 = 0.693, log 3 = 1.099, log 8 = 2.079 ({natural}). "
    "s(x) = 1 / (1 + e^-x): s(0) = 0.5, s(0.5) = 0.622, s(1) = 0.731, s(3) = 0.953."
)
WORDS = {  # what the sheet itself says
    "en": {
        "html": "en",
        "lesson": "Lesson {number}: {title}",
        "name": "Name: ______________________",
        "On paper": "KittenLLM: paper tasks",
        "Solution": "KittenLLM: solutions",
        "solution": "Solution",
        "natural": "natural logarithms",
    },
    "zh": {
        "html": "zh-Hans",
        "lesson": "第 {number} 课：{title}",
        "name": "姓名：______________________",
        "On paper": "KittenLLM：纸上练习",
        "Solution": "KittenLLM：答案",
        "solution": "答案",
        "natural": "自然对数",
    },
}
INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\([^)\s]+\)")


def inline(text: str) -> Markup:
    """`code`, **strong**, *emphasis* and the texts of links in a line of Markdown."""
    pieces: list[object] = []
    place = 0
    for found in INLINE.finditer(text):
        pieces.append(text[place : found.start()])
        code, strong, emphasis, link = found.groups()
        pieces.append(
            tag("code", code)
            if code is not None
            else tag("b", strong)
            if strong is not None
            else tag("em", emphasis)
            if emphasis is not None
            else link
        )
        place = found.end()
    return join(*pieces, text[place:])


def blocks(text: str, *, room: bool = False) -> Markup:
    """Paragraphs and lists; with `room` each numbered task is followed by space to write in."""
    out: list[Markup] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        items = re.split(r"^(?:\d+\.|\*) +", block, flags=re.MULTILINE)
        first, entries = items[0].strip(), [" ".join(item.split()) for item in items[1:]]
        if first:
            out.append(tag("p", inline(" ".join(first.split()))))
        if entries:
            numbered = bool(re.search(r"^\d+\.", block, re.MULTILINE))
            space = tag("span", class_="room") if room and numbered else None
            rows = [tag("li", inline(entry), space) for entry in entries]
            out.append(tag("ol" if numbered else "ul", *rows))
    return join(*out)


def sheet(lesson: Lesson, part: str, *, room: bool) -> Markup:
    """One lesson on a page of its own."""
    words = WORDS[lesson.language]
    left = words["lesson"].format(number=lesson.number, title=lesson.title)
    right = words["name"] if room else words["solution"]
    return tag(
        "section",
        tag("header", tag("span", left), tag("span", right)),
        tag("h1", lesson.title[0].upper() + lesson.title[1:]),
        blocks(lesson.parts[part], room=room),
        tag("p", HELP.format(natural=words["natural"]), class_="help") if room else None,
    )


def document(lessons: Sequence[Lesson], part: str, *, room: bool) -> str:
    """The whole file; it loads nothing from anywhere."""
    words = WORDS[lessons[0].language]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width"),
        tag("title", words[part]),
        tag("style", Markup(STYLE)),
    )
    body = tag("body", *(sheet(lesson, part, room=room) for lesson in lessons))
    return "<!doctype html>\n" + tag("html", head, body, lang=words["html"]) + "\n"
