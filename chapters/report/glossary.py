"""The glossary: glossary.md and glossary.zh.md, a row for each term, in the same order.

A Chinese row names the English term in brackets. Lessons link to these files, and the page shows
their rows.

Used by top.py.
"""

import re
from functools import cache
from pathlib import Path

FILES = {"en": "glossary.md", "zh": "glossary.zh.md"}
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def read_glossary(language: str = "en") -> dict[str, str]:
    """English term -> its meaning in the language; in both languages in the same order.

    Raises: KeyError for a language that has no glossary.
    """
    names = {name: term for term, name in chinese_names().items()}
    return {names.get(term, term): meaning for term, meaning in rows(language)}


def chinese_names() -> dict[str, str]:
    """English term -> the Chinese one as its row has it: "token" -> "词元（token）"."""
    return {re.search(r"（([^（）]+)）$", name)[1]: name for name, _ in rows("zh")}


@cache
def rows(language: str) -> list[tuple[str, str]]:
    """The rows of a glossary, each a term and its meaning."""
    text = Path(__file__).with_name(FILES[language]).read_text(encoding="utf-8")
    return ROW.findall(text)[1:]  # the first one is the head of the table
