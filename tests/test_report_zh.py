"""The page in Chinese: every sentence that it says itself has a Chinese one that says the same.

The page of test_report.py's made-up run is read by Python's HTML parser. Whether a browser shows
one language at a time is in test_report_live.py.
"""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from test_report import LONG, make_runs

from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.rows import TABLE
from chapters.ch5_reasoning.pictures import NEEDED, warnings_in
from chapters.common.runner import CHAPTERS
from chapters.common.samples import DRAWN, TYPICAL
from chapters.report import page as report
from chapters.report import sentences, sentences_zh
from chapters.report.chapters_zh import FILLED
from chapters.report.data import read_stage
from chapters.report.glossary import read_glossary
from chapters.report.html import tag
from chapters.report.languages import CHINESE, Both, both, in_both, listed, read_back, reported
from chapters.report.numbers import in_words
from chapters.report.top import with_terms
from chapters.report.views import long_text
from kittenllm.runs.json_files import unread_lines

HAN = re.compile(r"[\u4e00-\u9fff]")
PAIRS = sorted({**CHINESE, **FILLED}.items())
FOR_KITTENS = {sentences.SCRIPT[key] for key in ("sample_text", "reply_text")}
# Names that are the same in both languages.
SAME = """GPT SFT PPO DPO IPO ORPO GRPO RLHF REINFORCE RL KL MB Zero JavaScript KittenLLM
log kl coef gamma lambda lam wait cpu small May chew the wire"""
NAMES = set(SAME.split())


# ---------------------------------------------------------------------------------- the sentences


@pytest.mark.parametrize("english, chinese", PAIRS, ids=[english[:40] for english, _ in PAIRS])
def test_both_languages_say_the_same_numbers(english, chinese):
    for things in (r"\{\w+\}", r"\d+(?:\.\d+)?", r"--[a-z-]+", r"\w+\.(?:json|pt)\b"):
        assert Counter(re.findall(things, english)) == Counter(re.findall(things, chinese))
    assert not re.search(r"[\u3000-\u303f\uff00-\uffef\u4e00-\u9fff]", english)
    words = set(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}|--[a-z -]+", "", english)))
    if words - NAMES and english not in FOR_KITTENS:
        assert HAN.search(chinese), f"{english!r} has no Chinese: {chinese!r}"


def test_the_two_files_of_sentences_mirror_each_other():
    """The others hold English for the kittens and names for the program."""
    names = {name for name in vars(sentences) if name.isupper()}
    assert names - {"FIRST_TERMS", "FIRST_QUESTION"} == {
        n for n in vars(sentences_zh) if n.isupper()
    }

    def shape(value):
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else type(value)

    assert shape(sentences.SCRIPT) == shape(sentences_zh.SCRIPT)
    assert all(CHINESE[text] == text for text in FOR_KITTENS)  # they know English only


def test_a_text_in_both_languages():
    text = both("{n} s", n=5)
    assert text == "5 s" and text.zh == "5 秒"
    assert both(text) is text
    assert both("{time} in all", time=text).zh == "共 5 秒"
    assert listed([text, "KL"]).zh == "5 秒，KL" and listed([text, "KL"]) == "5 s, KL"
    assert both("meow").zh == "meow"  # nobody has translated it
    assert in_both({"a": ["before"]}) == {"a": [{"en": "before", "zh": "之前"}]}
    assert reported("x: y") == "x: y" and reported("x: {y}").zh.endswith("x: {y}")


def test_both_languages_as_html():
    text = Both("<a>", "<\u732b>")
    assert tag("p", text) == (
        '<p><span lang="en">&lt;a&gt;</span><span lang="zh">&lt;\u732b&gt;</span></p>'
    )
    assert tag("text", text).count("<tspan") == 2
    assert tag("p", title=text) == '<p title="&lt;a&gt;" data-other-title="&lt;\u732b&gt;"></p>'
    assert tag("title", text) == '<title data-other="&lt;\u732b&gt;">&lt;a&gt;</title>'
    assert tag("p", Both("KL", "KL")) == "<p>KL</p>"


def test_a_kitten_that_says_a_sentence_of_the_page_is_not_translated():
    assert "Talk to them" in CHINESE
    assert not HAN.search(long_text("Talk to them"))
    assert not HAN.search(long_text("right"))


def test_words_explain_themselves_in_chinese():
    made = with_terms(sentences.LOOP_TEXT)
    english, chinese = made.split('<span lang="zh">')
    meanings = read_glossary("zh")
    assert f'data-meaning="{meanings["reward model"]}"' in chinese
    assert HAN.search(english) is None and chinese.count('class="term"') >= 5


# ----------------------------------------------------------------- sentences of other programs


def causes() -> list[str]:
    numbers = [number for chapter in KEY_NUMBERS.values() for number in chapter]
    return sorted({c for n in numbers for text in (n.low, n.high) for c in text.split("; ")})


@pytest.mark.parametrize("cause", causes())
def test_every_cause_of_a_strange_number_has_a_chinese_sentence(cause):
    verdict = in_words(
        f"below the band, 0.5 to 0.7. Likely: changed settings (a: 1, now 2); {cause}."
    )
    assert verdict.zh.startswith("低于范围 0.5 到 0.7。可能的原因：设置有改动（a: 1, now 2）；")
    assert HAN.search(verdict.zh.split("；")[-1]) or cause.startswith("--")
    assert verdict.endswith(f"; {cause}.")


def test_the_numbers_of_the_tools_have_chinese_names():
    """Their keys are the English names; what every chapter has is not shown there."""
    keys = {key for row in TABLE["ch1_tools"] for key in row.keys.split()}
    keys = {key for key in keys if not key.endswith("seconds")} - {"peak_rss_mb"}
    assert "long_plan_accuracy" in keys
    for key in keys:
        assert HAN.search(both(key.replace("_", " ")).zh), key


def test_sentences_with_numbers_in_them_are_read_back():
    first = dict.fromkeys(NEEDED, 0.5) | {"entropy": 2.0, "format": 1.0}
    last = dict.fromkeys(NEEDED, 0.9) | {"entropy": 0.1, "format": 0.3}
    history = [{**(first if step < 5 else last), "step": step} for step in range(10)]
    warnings = list(warnings_in(history).values())
    assert len(warnings) == 4
    credit = (
        "gamma 1, lam 0.95, kl_coef 0.2; after 13 steps of PPO; each row has its own colour scale"
    )
    chosen = (
        "chosen of 64 replies at lam 0.95: in it one word (Go)\nsurprised the value model most and "
        "has the largest advantage"
    )
    lines = [unread_lines("metrics.jsonl", count) for count in (1, 2)]
    typical = TYPICAL.format(drawn=DRAWN)
    verdict = "inside the band, 0.62 to 0.68"
    for text in (*warnings, credit, chosen, *lines, typical, verdict):
        found = read_back(text)
        assert found == text and HAN.search(found.zh), text
        numbers = r"\d+(?:\.\d+)?"
        assert Counter(re.findall(numbers, text)) == Counter(re.findall(numbers, found.zh))


# -------------------------------------------------------------------------------------- the page


class Texts(HTMLParser):
    """All texts of a page that are there in one language only, and attributes likewise."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict]] = []
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        if name not in ("meta", "img", "br"):
            self.open.append((name, attributes))
        self.look_at(name, attributes)

    def handle_startendtag(self, name, attributes):
        self.look_at(name, dict(attributes))

    def look_at(self, name, attributes):
        if self.is_foreign():
            return
        for key in ("title", "alt", "aria-label", "placeholder", "data-kitten", "data-names"):
            if key in attributes and f"data-other-{key}" not in attributes:
                self.found.append(attributes[key])

    def handle_endtag(self, name):
        self.open.pop()

    def handle_data(self, text):
        name, attributes = self.open[-1] if self.open else ("", {})
        inside = any("lang" in a for n, a in self.open if n != "html")
        inside = inside or name in ("script", "style")
        inside = inside or (name == "title" and "data-other" in attributes)
        if not inside and not self.is_foreign():
            self.found.append(text)

    def is_foreign(self) -> bool:
        """What a kitten said, a name in code, a setting."""
        return any(attributes.get("translate") == "no" for _, attributes in self.open)


def left_english(page: str) -> list[str]:
    """Texts with English words and no Chinese; what test_report.py plants everywhere is skipped."""
    planted = ("alert(1)", LONG)
    texts = [text for text in Texts(page).found if not any(part in text for part in planted)]
    return [text for text in texts if set(re.findall(r"[A-Za-z]{2,}", text)) - NAMES]


def test_nothing_on_the_page_is_english_only(tmp_path):
    runs = make_runs(tmp_path)
    stages = {row.name: read_stage(row.name, row.title, runs / row.name) for row in CHAPTERS}
    life = json.loads((runs / "report_replies.json").read_text())
    page = report.page(stages, life, [])
    assert left_english(page) == []
    assert left_english(page.replace("<footer>", "<footer>A new sentence.")) == ["A new sentence."]
    assert left_english(page.replace("<footer>", '<footer title="A hint">')) == ["A hint"]


def test_an_empty_folder_is_a_page_in_both_languages(tmp_path):
    text = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert left_english(text) == [] and "这个阶段还没有运行" in text
