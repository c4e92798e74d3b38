"""The top of the report: what this is, the path as a picture, the words, the life in numbers.

One idea: somebody who got this one file by mail, and knows nothing, must know after a minute where
to touch it.

Used by page.py. The sentences are in sentences.py and words.py.
"""

import re

from chapters.report.data import Stage
from chapters.report.drawings import loop_picture, path_picture
from chapters.report.glossary import read_glossary
from chapters.report.html import Markup, fold, is_number, join, minutes, note, shown, tag
from chapters.report.sentences import (
    FIRST_TERMS,
    LEAD,
    LESSONS,
    LOOP_TEXT,
    LOOP_TITLE,
    PATH_TITLE,
    TITLE,
    TOUR,
    TOWN,
)
from chapters.report.words import CONDITION, HEADLINES, SHORT


def top(stages: dict[str, Stage]) -> Markup:
    """Title, what this is, and the life in five numbers."""
    finished = [stage for stage in stages.values() if stage.state == "finished"]
    tiles = []
    for name, before_key, after_key, kind, label in HEADLINES:
        stage = stages.get(name)
        if stage is None or not is_number(stage.value(after_key)):
            continue
        after = shown(stage.value(after_key), kind)
        before = stage.value(before_key) if before_key else None
        start = [shown(before, kind).removesuffix(" %"), " \u2192 "] if is_number(before) else []
        tiles.append(tag("div", tag("b", *start, after), tag("span", label), class_="tile"))
    condition = tag("p", CONDITION, class_="small") if tiles else None
    seconds = [s.value("seconds") for s in finished if is_number(s.value("seconds"))]
    memory = [s.value("peak_rss_mb") for s in finished if is_number(s.value("peak_rss_mb"))]
    if seconds:
        label = f"for {len(seconds)} stages, from random weights"
        label += f"; at most {max(memory):,.0f} MB of memory" if memory else ""
        tiles.append(tag("div", tag("b", minutes(sum(seconds))), tag("span", label), class_="tile"))
    quick = any(stage.value("quick") is True for stage in finished)
    warning = (
        "This was a --quick run: the whole path on tiny settings. The kittens below only babble; "
        "python -m chapters trains real ones."
    )
    return tag(
        "header",
        kitten_face(),
        tag("h1", TITLE),
        tag("p", LEAD, class_="lead"),
        tag("p", facts(finished), class_="small"),
        note(warning, "warning") if quick else None,
        tag("div", *tiles, class_="tiles") if tiles else None,
        condition,
    )


def facts(finished: list[Stage]) -> str:
    """Seed, size, device and version in a line; all of them where stages differ."""
    parts = []
    for key, name in (
        ("seed", "seed"),
        ("size", "size"),
        ("device", "device"),
        ("version", "version"),
    ):
        found = dict.fromkeys(str(s.value(key)) for s in finished if s.value(key) is not None)
        if found:
            parts.append(f"{name} {' and '.join(found)}")
    return ", ".join(parts) if parts else "No stage has finished yet."


def kitten_face() -> Markup:
    """A kitten, drawn with six strokes."""
    head = "M14 30 L16 8 L30 18 Q40 14 50 18 L64 8 L66 30 Q72 62 40 66 Q8 62 14 30 Z"
    strokes = "M40 46 L40 50 M40 50 Q34 56 29 52 M40 50 Q46 56 51 52 M4 44 L20 46 M4 54 L20 51 "
    strokes += "M76 44 L60 46 M76 54 L60 51"
    return tag(
        "svg",
        tag("path", d=head, class_="fur"),
        tag("circle", cx=29, cy=36, r=3.4, class_="eye"),
        tag("circle", cx=51, cy=36, r=3.4, class_="eye"),
        tag("path", d="M36 43 L44 43 L40 47 Z", class_="nose"),
        tag("path", d=strokes, class_="stroke"),
        viewBox="0 0 80 72",
        class_="face",
        aria_hidden="true",
    )


def navigation(stages: dict[str, Stage]) -> Markup:
    """Links that stay at the top; stages that are not there are grey."""
    links = [tag("a", "start", href="#start"), tag("a", "talk", href="#talk")]
    links += [tag("a", "same questions", href="#life"), tag("a", "tokens", href="#pieces")]
    for name, stage in stages.items():
        label = f"{name[2]} {SHORT.get(name, name)}"
        grey = None if stage.state == "finished" else "absent"
        links.append(tag("a", label, href=f"#{name}", class_=grey))
    links += [tag("a", "time", href="#cost"), tag("a", "words", href="#words")]
    return tag("nav", *links, aria_label="parts of the report")


def start_section(stages: dict[str, Stage]) -> Markup:
    """Kitten Town, a tour of five minutes, both pictures, and the most needed words."""
    return tag(
        "section",
        tag("h2", "What you see here"),
        tag("p", with_terms(TOWN)),
        tag("p", with_terms(TOUR)),
        tag(
            "div",
            tag("figure", tag("figcaption", PATH_TITLE), path_picture(stages)),
            tag(
                "figure",
                tag("figcaption", LOOP_TITLE),
                loop_picture(),
                tag("p", with_terms(LOOP_TEXT), class_="small"),
            ),
            class_="pictures",
        ),
        fold("The words you need first", first_words(), open_=True),
        tag("p", LESSONS, class_="small"),
        id="start",
    )


def first_words() -> Markup:
    """The words that one meets first."""
    glossary = read_glossary()
    return meanings({term: glossary[term] for term in FIRST_TERMS})


def words_section() -> Markup:
    """All words."""
    return tag("section", tag("h2", "Words"), meanings(read_glossary()), id="words")


def meanings(words: dict[str, str]) -> Markup:
    items = [join(tag("dt", word), tag("dd", meaning)) for word, meaning in words.items()]
    return tag("dl", *items, class_="meanings")


def with_terms(text: str) -> Markup:
    """A text in which the first use of each word of the glossary explains itself when touched."""
    known = read_glossary()
    names = sorted((name for name in known if name[0].isalpha()), key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})s?\b")
    parts: list[object] = []
    told: set[str] = set()
    place = 0
    for match in pattern.finditer(text):
        if match[1] in told:
            continue
        told.add(match[1])
        term = tag("span", match[0], class_="term", tabindex="0", data_meaning=known[match[1]])
        parts += [text[place : match.start()], term]
        place = match.end()
    return join(*parts, text[place:])
