"""HTML that cannot be broken by what stands in it.

One idea: every text is escaped where it becomes HTML, in one function. `tag` takes texts and pieces
of HTML (`Markup`); texts are escaped, Markup is not, and only this package's own functions make
Markup. So a kitten that says "<script>" is shown saying it.

Used by page.py and its parts. Left out: templates, and everything that a browser could run.
"""

import html

from chapters.common.terminal import safe_text
from chapters.report.languages import Both, both
from kittenllm.runs.json_files import is_number

EMPTY_TAGS = {"br", "img", "meta", "link", "circle", "line", "rect", "path", "polyline", "polygon"}
NOTHING = "\u2013"  # stands where a number is missing


class Markup(str):
    """A text that is HTML already."""


def escaped(text: object) -> Markup:
    """`text` for HTML; control, invisible and direction-changing characters become visible."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(safe_text(str(text), keep="\n"), quote=True))


def tag(tag_name: str, *children: object, **attributes: object) -> Markup:
    """One element.

    >>> tag("p", "1 < 2 ", tag("b", "yes"), class_="note")
    '<p class="note">1 &lt; 2 <b>yes</b></p>'

    `class_` and `for_` lose their underscore, `data_x` becomes data-x; True is an attribute without
    a value; None and False leave the attribute, or the child, out. Of an attribute in two languages
    the Chinese one waits in data-other-..., where the page's script finds it.
    """
    if tag_name == "title" and in_two_languages(children[0]):  # it holds nothing but plain text
        attributes = {"data_other": children[0].zh, **attributes}
        children = (str(children[0]),)
    opened = f"<{tag_name}"
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        opened += f" {name}" if value is True else f' {name}="{escaped(value)}"'
        if in_two_languages(value):
            opened += f' data-other-{name}="{escaped(value.zh)}"'
    if tag_name in EMPTY_TAGS:
        return Markup(opened + "/>")  # the slash: inside an SVG it is needed
    inside = join(*children, span="tspan" if tag_name == "text" else "span")
    return Markup(f"{opened}>{inside}</{tag_name}>")


def join(*children: object, span: str = "span") -> Markup:
    """Texts and Markup one after the other; a text in two languages becomes two spans."""
    parts = []
    for child in children:
        if in_two_languages(child):
            parts.append(tag(span, str(child), lang="en") + tag(span, child.zh, lang="zh"))
        elif child is not None:
            parts.append(escaped(child))
    return Markup("".join(parts))


def in_two_languages(text: object) -> bool:
    return isinstance(text, Both) and text.zh != str(text)


def table(heads: list[object], rows: list[list[object]], *, class_: str = "") -> Markup:
    """A table that scrolls inside its own box; the first cell of each row is its heading."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in heads)))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    return scroll_box(tag("table", head, tag("tbody", *body), class_=class_ or None))


def scroll_box(child: Markup) -> Markup:
    """What may be wider than the screen, in a box of its own; tabindex lets the keyboard scroll."""
    return tag("div", child, class_="scroll", tabindex="0")


def fold(title: object, *children: object, open_: bool = False, class_: str = "fold") -> Markup:
    """A part that opens with a click, and without any script."""
    return tag("details", tag("summary", title), *children, open=open_, class_=class_)


def note(text: object, kind: str = "note") -> Markup:
    """A sentence about something that is missing, broken or worth a warning."""
    return tag("p", text, class_=kind)


def shown(value: object, kind: str = "number", error: object = None) -> str:
    """A number as a reader likes it.  kind: "rate" (a share, in percent), "count" or "number".

    >>> shown(0.976, "rate", 0.008), shown(1699840, "count"), shown(None)
    ('97.6 % \u00b1 0.8', '1,699,840', '\u2013')
    """
    if not is_number(value):
        return NOTHING
    if kind == "rate":
        plus_minus = f" \u00b1 {100 * error:.1f}" if is_number(error) else ""
        return f"{100 * value:.1f} %{plus_minus}"
    if kind == "count":
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 20 else 2 if abs(value) >= 2 else 3
    text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}f}"
    plus_minus = f" \u00b1 {error:.{digits}f}" if is_number(error) else ""
    return text + plus_minus


def minutes(seconds: object) -> str:
    """A time in words: "41 s", "12.3 min"."""
    if not is_number(seconds):
        return NOTHING
    if seconds < 100:
        return both("{n} s", n=f"{seconds:.0f}")
    return both("{n} min", n=f"{seconds / 60:.1f}")
