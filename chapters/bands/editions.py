"""Two editions of one text, English and Chinese: which section has moved on without the other?

lesson.zh.md is the Chinese lesson.md. Below each heading it has a mark, `<!-- en: 0a1b2c3d -->`,
a hash of the English section that it translates. When the English section changes, the mark no
longer fits, and a test names the section. Translate what changed, then

    python -m chapters.bands --translated chapters/ch3_ppo/lesson.zh.md

writes the marks anew. What programs write does not count: numbers, and the lines in links.

Used by __main__.py and docs.py. Read before: nothing.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

CHINESE = ".zh.md"
MARK = re.compile(r"<!-- en: ([0-9a-f]{8}|new) -->\n")
NUMBERS = re.compile(r"(<!-- numbers?: [\w. ]+ -->).*?(<!-- end -->)", re.DOTALL)
LINE = re.compile(r"(\.py)#L\d+")


@dataclass(frozen=True)
class Section:
    """A heading and what comes below it, up to the next heading of any level."""

    level: int  # number of # before the heading; 0: what comes before the first one
    heading: str
    body: str


def is_chinese(path: Path) -> bool:
    """Is it a Chinese edition?"""
    return path.name.endswith(CHINESE)


def english_of(path: Path) -> Path:
    """lesson.zh.md -> lesson.md beside it."""
    return path.with_name(path.name.removesuffix(CHINESE) + ".md")


def sections(text: str) -> list[Section]:
    """A text, cut at its headings; a # in a block of code is none."""
    found, level, heading, body, fence = [], 0, "", [], False
    for line in text.splitlines():
        fence ^= line.lstrip().startswith("```")
        head = None if fence else re.match(r"(#+) (.*)", line)
        if head is None:
            body.append(line)
            continue
        found.append(Section(level, heading, "\n".join(body)))
        level, heading, body = len(head[1]), head[2], []
    found.append(Section(level, heading, "\n".join(body)))
    return found if found[0].body.strip() else found[1:]


def hash_of(section: Section) -> str:
    """Eight letters that change with the words of a section, and not with its line breaks."""
    words = LINE.sub(r"\1", NUMBERS.sub(r"\1\2", section.body)).split()
    text = " ".join(["#" * section.level, section.heading, *words])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def behind(chinese: str, english: str) -> list[str]:
    """The English headings whose section has changed since it was translated.

    Raises: ValueError if the two texts have different headings.
    """
    late = []
    for theirs, ours in paired(chinese, english):
        mark = MARK.search(ours.body + "\n")
        if mark is None or mark[1] != hash_of(theirs):
            late.append(theirs.heading)
    return late


def paired(chinese: str, english: str) -> list[tuple[Section, Section]]:
    """The sections of both texts, side by side: (English, Chinese).  Raises: ValueError."""
    theirs, ours = sections(english), sections(chinese)
    levels = [[section.level for section in part] for part in (theirs, ours)]
    if levels[0] != levels[1]:
        place = next(
            (i for i, (a, b) in enumerate(zip(*levels, strict=False)) if a != b),
            min(map(len, levels)),
        )
        heads = [
            part[place].heading if place < len(part) else "(the end)" for part in (theirs, ours)
        ]
        raise ValueError(f"heading {place + 1} differs: {heads[0]!r} and {heads[1]!r}")
    return list(zip(theirs, ours, strict=True))


def marked(chinese: str, english: str) -> str:
    """The Chinese text with the marks of the English one as it is now.

    Raises: ValueError if the two texts have different headings.
    """
    parts = []
    for theirs, ours in paired(chinese, english):
        if ours.level:
            parts.append(f"{'#' * ours.level} {ours.heading}\n")
        body = MARK.sub("", ours.body + "\n")
        parts.append(f"<!-- en: {hash_of(theirs)} -->\n{body}")
    return "".join(parts)
