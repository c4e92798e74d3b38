"""The top of the report: what this is, the path as a picture, the words, the life in numbers.

One idea: somebody who got this one file by mail, and knows nothing, must know after a minute where
to touch it.

Used by page.py. The sentences are in sentences.py.
"""

import re
from collections.abc import Iterable

from chapters.report.data import Stage
from chapters.report.drawings import loop_picture, path_picture
from chapters.report.glossary import chinese_names, read_glossary
from chapters.report.html import Markup, fold, is_number, join, minutes, note, shown, tag
from chapters.report.languages import Both, both, listed
from chapters.report.sentences import (
    CONDITION,
    FIRST_TERMS,
    LEAD,
    LESSONS,
    LOOP_TEXT,
    LOOP_TITLE,
    PATH_TITLE,
    QUICK,
    SHORT,
    TITLE,
    TOUR,
    TOWN,
)

HEADLINES = (  # stage, key before, key after, kind, label: the tiles at the top
    ("ch1_sft", None, "answer_accuracy_sampled", "rate", "of held-out questions answered right"),
    ("ch3_ppo", "safe_rate_before", "safe_rate_after", "rate", "safe answers to risky questions"),
    ("ch3_ppo", "friendly_rate_before", "friendly_rate_after", "rate", "friendly replies"),
    ("ch5_reasoning", "accuracy_before", "accuracy_after", "rate", "of new puzzles solved"),
    ("ch5_reasoning", "tokens_before", "tokens_after", "count", "tokens per reply to a puzzle"),
)


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
        tiles.append(tag("div", tag("b", *start, after), tag("span", both(label)), class_="tile"))
    condition = tag("p", both(CONDITION), class_="small") if tiles else None
    seconds = [s.value("seconds") for s in finished if is_number(s.value("seconds"))]
    memory = [s.value("peak_rss_mb") for s in finished if is_number(s.value("peak_rss_mb"))]
    if seconds:
        parts = [both("for {n} stages, from random weights", n=len(seconds))]
        if memory:
            parts.append(both("at most {n} MB of memory", n=f"{max(memory):,.0f}"))
        label = listed(parts, "; ", "；")
        tiles.append(tag("div", tag("b", minutes(sum(seconds))), tag("span", label), class_="tile"))
    quick = any(stage.value("quick") is True for stage in finished)
    return tag(
        "header",
        kitten_face(),
        tag("h1", both(TITLE)),
        tag("p", both(LEAD), class_="lead"),
        tag("p", facts(finished), class_="small"),
        note(both(QUICK), "warning") if quick else None,
        tag("div", *tiles, class_="tiles") if tiles else None,
        condition,
    )


def facts(finished: list[Stage]) -> Both:
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
            values = listed(found, " and ", " 和 ")
            parts.append(both("{name} {value}", name=both(name), value=values))
    return listed(parts) if parts else both("No stage has finished yet.")


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
    parts = {"start": "start", "talk": "talk", "life": "same questions", "pieces": "tokens"}
    links = [tag("a", both(label), href=f"#{part}") for part, label in parts.items()]
    for name, stage in stages.items():
        label = both("{n} {name}", n=name[2], name=both(SHORT.get(name, name)))
        grey = None if stage.state == "finished" else "absent"
        links.append(tag("a", label, href=f"#{name}", class_=grey))
    links += [tag("a", both("time"), href="#cost"), tag("a", both("words"), href="#words")]
    return tag("nav", *links, aria_label=both("parts of the report"))


def start_section(stages: dict[str, Stage]) -> Markup:
    """Kitten Town, a tour of five minutes, both pictures, and the most needed words."""
    return tag(
        "section",
        tag("h2", both("What you see here")),
        tag("p", with_terms(TOWN)),
        tag("p", with_terms(TOUR)),
        tag(
            "div",
            tag("figure", tag("figcaption", both(PATH_TITLE)), path_picture(stages)),
            tag(
                "figure",
                tag("figcaption", both(LOOP_TITLE)),
                loop_picture(),
                tag("p", with_terms(LOOP_TEXT), class_="small"),
            ),
            class_="pictures",
        ),
        fold(both("The words you need first"), meanings(FIRST_TERMS), open_=True),
        tag("p", both(LESSONS), class_="small"),
        id="start",
    )


def words_section() -> Markup:
    """All words."""
    return tag("section", tag("h2", both("Words")), meanings(read_glossary()), id="words")


def meanings(terms: Iterable[str]) -> Markup:
    """Some words of the glossary."""
    english, chinese, names = read_glossary(), read_glossary("zh"), chinese_names()
    items = []
    for term in terms:
        name, meaning = Both(term, names[term]), Both(english[term], chinese[term])
        items.append(join(tag("dt", name), tag("dd", meaning)))
    return tag("dl", *items, class_="meanings")


def with_terms(text: str) -> Markup:
    """A text in which the first use of each word of the glossary explains itself when touched."""
    text = both(text)
    english = {name: meaning for name, meaning in read_glossary().items() if name[0].isalpha()}
    if text.zh == text:
        return marked(text, english)
    chinese = {}
    for term, meaning in read_glossary("zh").items():
        name = chinese_names()[term].split("\uff08")[0]  # the English word follows in brackets
        chinese |= {word: meaning for word in (name, term) if len(name) > 1 and word[0].isalpha()}
    parts = marked(text, english), marked(text.zh, chinese)
    return join(tag("span", parts[0], lang="en"), tag("span", parts[1], lang="zh"))


def marked(text: str, known: dict[str, str]) -> Markup:
    """A text with its known words as elements; the longer word wins, and each is marked once."""
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    pattern = re.compile(rf"(?<![A-Za-z])({names})s?(?![A-Za-z])")
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
