"""The glossary: glossary.md and glossary.zh.md, a row for each term, in the same order.

A Chinese row names the English term in brackets. Lessons link to these files, and the page shows
their rows.

Used by top.py.
"""

import re
from pathlib import Path

FILES = {"en": "glossary.md", "zh": "glossary.zh.md"}
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def read_glossary(language: str = "en") -> dict[str, str]:
    """English term -> its meaning in the language; in both languages in the same order.

    Raises: KeyError for a language that has no glossary.
    """
    text = Path(__file__).with_name(FILES[language]).read_text(encoding="utf-8")
    rows = ROW.findall(text)[1:]  # the first one is the head of the table
    if language == "en":
        return dict(rows)
    return {re.search(r"（([^（）]+)）$", term)[1]: meaning for term, meaning in rows}
