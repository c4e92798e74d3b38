"""The page in two languages: an English text that knows its Chinese one.

One idea: `both("Talk to them")` is an ordinary English str which carries its Chinese in `.zh`. What
becomes HTML (html.py) writes both side by side, and the style sheet shows the language that the
reader has chosen. So a page holds every sentence twice and everything else once; replies of kittens
and names in code stay as they are.

Chinese is found by the English sentence: sentences_zh.py mirrors sentences.py, short labels are in
chinese.py and chapters_zh.py. A text that is in none of them stays English, and a test finds it.

Used by html.py and everything that makes a part of the page.
"""

import re
from collections.abc import Iterable

from chapters.report import sentences, sentences_zh
from chapters.report.chapters_zh import FILLED
from chapters.report.chinese import LABELS


class Both(str):
    """An English text, and in `zh` the same in Chinese."""

    zh: str

    def __new__(cls, english: str, chinese: str) -> "Both":
        made = super().__new__(cls, english)
        made.zh = chinese
        return made


def zh_of(text: object) -> str:
    """The Chinese of a text, or the text itself if it has none."""
    return text.zh if isinstance(text, Both) else str(text)


def both(text: str, **values: object) -> Both:
    """A sentence of the page; words in {braces} are filled in, in both languages.

    >>> both("{n} s", n=5), both("{n} s", n=5).zh
    ('5 s', '5 秒')
    """
    if isinstance(text, Both):
        return text
    chinese = CHINESE.get(text, text)
    if values:
        in_chinese = {name: zh_of(value) for name, value in values.items()}
        return Both(text.format(**values), chinese.format(**in_chinese))
    return Both(text, chinese)


def listed(parts: Iterable[object], english: str = ", ", chinese: str = "，") -> Both:
    """Some texts one after the other, with a mark between them."""
    parts = list(parts)
    return Both(english.join(map(str, parts)), chinese.join(map(zh_of, parts)))


def read_back(text: str) -> Both:
    """Both languages of a sentence that another program has written, with its numbers in it."""
    for template, chinese in FILLED.items():
        found = re.fullmatch(pattern_of(template), text, re.DOTALL)
        if found:
            words = {name: zh_of(both(value)) for name, value in found.groupdict().items()}
            return Both(text, chinese.format(**words))
    return both(text)


def reported(error: object) -> Both:
    """What went wrong, in the words of the program that noticed it."""
    return Both(str(error), f"程序报告了一个问题：{error}")


def pattern_of(template: str) -> str:
    r"""A template as a regular expression.

    >>> pattern_of("{n} of {m}")
    '(?P<n>.+?)\\ of\\ (?P<m>.+?)'
    """
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(template))


def side_by_side(english: object, chinese: object) -> Iterable[tuple[str, str]]:
    """The texts of two structures that mirror each other, in pairs."""
    if isinstance(english, str):
        yield english, chinese
    elif isinstance(english, dict):
        for key, value in english.items():
            yield from side_by_side(value, chinese[key])
    else:
        for theirs, ours in zip(english, chinese, strict=True):
            yield from side_by_side(theirs, ours)


def in_both(english: object) -> object:
    """A structure of English texts -> the same of {"en": ..., "zh": ...}, for the scripts."""
    if isinstance(english, str):
        return {"en": english, "zh": zh_of(both(english))}
    if isinstance(english, dict):
        return {key: in_both(value) for key, value in english.items()}
    return [in_both(value) for value in english]


NAMES = [name for name in vars(sentences_zh) if name.isupper()]  # the others of sentences.py stay
CHINESE = dict(LABELS)
for _name in NAMES:
    CHINESE |= dict(side_by_side(vars(sentences)[_name], vars(sentences_zh)[_name]))
