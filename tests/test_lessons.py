"""The lessons: one skeleton for all, and an English and a Chinese edition that say the same.

Two editions are found by their names: lesson.md and lesson.zh.md, README.md and README.zh.md. They
have the same headings, blocks of code, links, tables and numbers; a mark below each Chinese heading
knows which English section it translates.
"""

import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from test_journey import help_page

from chapters.bands import real_models
from chapters.bands.chinese import CELLS, in_chinese
from chapters.bands.docs import NOT_MEASURED, span
from chapters.bands.editions import behind, english_of, hash_of, marked, sections
from chapters.bands.one_file import read as read_one_file
from chapters.bands.real_models import ROWS as REAL_RUNS
from chapters.bands.rows import TABLE
from chapters.common.runner import CHAPTERS
from chapters.report.glossary import FILES, read_glossary
from chapters.report.html import Both, tag
from chapters.report.sentences import FIRST_TERMS
from chapters.report.top import words_section
from kittenllm import dpo, ppo

ROOT = Path(__file__).parent.parent
READING_ORDER = ["ch0_base", "ch1_sft", "ch1_tools", "ch1_language"]  # as the article does
READING_ORDER += ["ch2_reward_model", "ch3_ppo", "ch4_preferences", "ch5_reasoning"]
READING_ORDER += ["ch6_r1"]

SKELETON = {  # the sections of a lesson, in this order; others may stand between them
    "The idea": "想法",
    "What the article says": "文章怎么说",
    "The symbols": "符号",
    "An example by hand": "手算一个例子",
    "A walk through the code": "走读代码",
    "What to look at": "看什么",
    "Things to try": "动手试试",
    "What a large lab does differently": "大实验室有什么不同",
    "Common questions": "常见问题",
    "References": "参考文献",
    "Where to go from here": "接下来去哪里",
}
MOST_WORDS = 2_500  # without the blocks of numbers, which programs write
CLAIMS = [*("A1", "A2"), *(f"S{i}" for i in range(1, 9))]
CLAIMS += [*(f"R{i}" for i in range(1, 8)), *(f"T{i}" for i in range(1, 9))]
BY_CHAPTER = {  # where the reader looks for the answer to a claim
    "ch0_base": {"A1"},
    "ch1_sft": {"A2", "S1", "S2", "S3", "S4", "S5"},
    "ch1_tools": {"S6"},
    "ch1_language": {"S7", "S8"},
    "ch2_reward_model": {"R2", "R3"},
    "ch3_ppo": {"R1", "R4", "R5", "R6"},
    "ch4_preferences": {"R7"},
    "ch5_reasoning": {f"T{i}" for i in range(1, 9)},
    # it answers again what changes when everything comes together in one kitten
    "ch6_r1": {"R2", "R4", "T1", "T5"},
}

CHINESE_TEXTS = sorted([*ROOT.glob("*.zh.md"), *(ROOT / "chapters").rglob("*.zh.md")])
SYMBOL = re.compile(r"\\(?:alpha|beta|gamma|delta|epsilon|lambda|pi|rho|sigma|tau|theta)\b")


def lesson(name: str, language: str = "en") -> str:
    file = {"en": "lesson.md", "zh": "lesson.zh.md"}[language]
    return (ROOT / "chapters" / name / file).read_text(encoding="utf-8")


def part(name: str, heading: str, language: str = "en") -> str:
    """The text below a heading of the skeleton, with its subsections."""
    wanted, found = heading if language == "en" else SKELETON[heading], None
    for section in sections(lesson(name, language)):
        if found is not None and section.level <= 2:
            break
        if found is not None:
            found += f"\n{section.heading}\n{section.body}"
        elif section.heading == wanted:
            found = section.body
    assert found is not None, f"{name} has no section {wanted!r}"
    return found


def code_blocks(text: str) -> list[str | list[str]]:
    """The blocks of code without their comments, which may be translated. Of a drawing (```text)
    the names and numbers of each line: what they mean is said in the reader's language."""
    blocks: list[str | list[str]] = []
    for block in re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL):
        if block.startswith("```text"):
            lines = block.splitlines()
            blocks.append([" ".join(re.findall(r"[\w.]+/|\w+\.\w+|\w+>", line)) for line in lines])
        else:
            blocks.append(re.sub(r"(^| +)# .*$", "", block, flags=re.MULTILINE))
    return blocks


def plain(text: str) -> str:
    """A text without blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", plain(text))


def tables(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells; the head is the first row, the rule below it is left out."""
    found, rows = [], []
    for line in [*plain(text).splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])])
        elif rows:
            found.append([row for row in rows if not set("".join(row)) <= set("-: ")])
            rows = []
    return found


def counterpart(path: Path, link: str) -> str:
    """The link of a Chinese text to what an English text links to: its Chinese edition, or its
    picture with Chinese words, where there is one."""
    target, anchor = (link.split("#") + [""])[:2]
    if not target:
        return "#"  # a heading of the same page
    for suffix in (".md", ".svg"):
        other = target.removesuffix(suffix) + f".zh{suffix}"
        if target.endswith(suffix) and not re.match(r"[a-z]+:", target):
            if target.endswith(f".zh{suffix}"):
                return target.replace(f".zh{suffix}", suffix)  # the switch of languages
            if (path.parent / other).exists():
                return other if not anchor or suffix == ".svg" else f"{other}#"
    return link


# ------------------------------------------------------------------------------- both editions


@pytest.mark.parametrize("path", CHINESE_TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_both_editions_have_the_same_structure(path):
    """Headings, code, links, tables, numbers: section by section."""
    ours, theirs = (each.read_text(encoding="utf-8") for each in (path, english_of(path)))
    levels = [[(s.level, s.heading) for s in sections(text)] for text in (ours, theirs)]
    assert [level for level, _ in levels[0]] == [level for level, _ in levels[1]], levels
    for chinese, english in zip(sections(ours), sections(theirs), strict=True):
        where = f"{path.relative_to(ROOT)}, {chinese.heading!r}"
        assert code_blocks(chinese.body) == code_blocks(english.body), where
        wanted = [counterpart(path, link) for link in links(english.body)]
        given = [
            f"{link.split('#')[0]}#" if ".zh.md#" in link or link.startswith("#") else link
            for link in links(chinese.body)
        ]
        assert Counter(given) == Counter(wanted), where
        shapes = [
            [[len(row) for row in table] for table in tables(text)]
            for text in (chinese.body, english.body)
        ]
        assert shapes[0] == shapes[1], where
        marks = [re.findall(r"<!-- numbers?: .*? -->", s.body) for s in (chinese, english)]
        assert Counter(marks[0]) == Counter(marks[1]), where
        math = [Counter(re.findall(r"\$\$.*?\$\$", s.body, re.DOTALL)) for s in (chinese, english)]
        assert len(math[0]) == len(math[1]), where


@pytest.mark.parametrize("path", CHINESE_TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_english_section_has_moved_on_without_the_chinese_one(path):
    ours, theirs = (each.read_text(encoding="utf-8") for each in (path, english_of(path)))
    name = path.relative_to(ROOT).as_posix()
    late = behind(ours, theirs)
    assert not late, (
        f"{name}: the English text has changed in {late}. Translate what changed, then run "
        f"python -m chapters.bands --translated {name}"
    )


def test_the_marks_by_hand():
    english = "# A\n\nOne two.\n\n```bash\n# no heading\n```\n\n## B\n\nSee [`f`](a.py#L3).\n"
    chinese = marked("# 甲\n\n一二。\n\n## 乙\n\n见此。\n", english)
    assert [s.heading for s in sections(english)] == ["A", "B"]
    assert chinese.count("<!-- en: ") == 2 and behind(chinese, english) == []
    assert marked(chinese, english) == chinese
    for same in (english.replace("One two.", "One\ntwo."), english.replace("#L3", "#L4")):
        assert behind(chinese, same) == []
    assert behind(chinese, english.replace("One", "Two")) == ["A"]
    assert behind(chinese, english.replace("See", "Look at")) == ["B"]
    assert behind(chinese.replace("## 乙\n<!-- en", "## 乙\n<!-- e"), english) == ["B"]
    with pytest.raises(ValueError, match="heading 3 differs: 'C' and '\\(the end\\)'"):
        behind(chinese, english + "\n## C\n")
    with pytest.raises(ValueError, match="heading 2 differs: 'B' and '乙'"):
        marked(chinese, english.replace("## B", "### B"))
    numbers = "# A\n\n<!-- number: ch3_ppo kl -->1<!-- end --> x\n"
    assert hash_of(sections(numbers)[0]) == hash_of(sections(numbers.replace("->1<", "->2<"))[0])


# ------------------------------------------------------------------------------- the skeleton


def test_every_lesson_is_in_the_reading_order():
    assert sorted(READING_ORDER) == sorted(row.name for row in CHAPTERS)
    for name in READING_ORDER:
        assert (ROOT / "chapters" / name / "lesson.zh.md").is_file(), (
            f"{name} has no Chinese lesson"
        )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_a_lesson_has_the_skeleton(name, language):
    heads = [s.heading for s in sections(lesson(name, language)) if s.level == 2]
    wanted = list(SKELETON if language == "en" else SKELETON.values())
    assert [head for head in heads if head in wanted] == wanted


@pytest.mark.parametrize("name", READING_ORDER)
def test_a_lesson_is_short(name):
    text = re.sub(r"<!-- numbers: .*?<!-- end -->", "", lesson(name), flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text)
    assert len(text.split()) <= MOST_WORDS, f"{name} has {len(text.split())} words"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_a_lesson_has_a_picture(name, language):
    pictures = re.findall(r"!\[([^\]]+)\]\(([\w.]+)\)", part(name, "The idea", language))
    assert pictures, "a picture with a sentence that says what it shows"
    for words_of_it, file in pictures:
        assert len(words_of_it) >= 8 and (ROOT / "chapters" / name / file).is_file()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_the_claims_of_the_article(name, language):
    """| claim | where in the code | measured here | nuance |"""
    (table,) = tables(part(name, "What the article says", language))
    claimed = {re.match(r"\*\*([ASRT]\d)\*\* \S", row[0])[1] for row in table[1:]}
    assert claimed == BY_CHAPTER[name]
    for row in table[1:]:
        assert len(row) == 4 and all(row)
        assert links(row[1]), f"{row[0]}: in which file?"
        assert "<!-- number: " in row[2] or links(row[2]), f"{row[0]}: a number, or a test"


def test_every_claim_has_its_lesson():
    once = [claims for name, claims in BY_CHAPTER.items() if name != "ch6_r1"]
    assert sorted(sum(map(list, once), [])) == sorted(CLAIMS)
    assert BY_CHAPTER["ch6_r1"] < set(CLAIMS)
    assert set(BY_CHAPTER) == set(READING_ORDER)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_the_symbols(name, language):
    """| symbol | meaning | flag | unit |: terms are those of the glossary, flags are those of the
    program, and no Greek letter of the lesson is missing."""
    (table,) = tables(part(name, "The symbols", language))
    terms = glossary_terms(language)
    for row in table[1:]:
        assert len(row) == 4 and row[0] and row[1] and row[3], row
        bold = re.findall(r"\*\*(.+?)\*\*", row[1])
        assert bold and set(bold) <= terms, f"{row[0]}: {set(bold) - terms} is not in the glossary"
        for flag in re.findall(r"--[a-z][\w-]*", row[2]):
            assert flag in help_page(name), f"{name} has no {flag}"
    explained = set(SYMBOL.findall(" ".join(row[0] for row in table[1:])))
    text = lesson(name, language)
    used = set(SYMBOL.findall(" ".join(re.findall(r"\$[^$]+\$", text))))
    assert used <= explained, f"not in the table of symbols: {used - explained}"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_the_bold_words_of_the_idea_are_in_the_glossary(name, language):
    idea = " ".join(part(name, "The idea", language).split())  # a term may go over two lines
    bold = set(re.findall(r"\*\*([^*]+?)\*\*", idea))
    assert bold <= glossary_terms(language), bold - glossary_terms(language)
    assert f"](../report/{FILES[language]})" in part(name, "The symbols", language)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", READING_ORDER)
def test_previous_and_next(name, language):
    place = READING_ORDER.index(name)
    neighbours = READING_ORDER[max(0, place - 1) : place + 2]
    neighbours.remove(name)
    wanted = [f"../{other}/lesson.md" for other in neighbours]
    if language == "zh":
        wanted = [counterpart(ROOT / "chapters" / name / "lesson.zh.md", link) for link in wanted]
    assert set(wanted) <= set(links(part(name, "Where to go from here", language)))


@pytest.mark.parametrize("name", READING_ORDER)
def test_a_lesson_computes_something(name):
    assert ">>> " in part(name, "An example by hand")


# ------------------------------------------------------------------------------- the glossary


def glossary_terms(language: str) -> set[str]:
    """English terms, or their Chinese names without the English words in brackets."""
    if language == "en":
        return set(read_glossary())
    text = (ROOT / "chapters" / "report" / FILES["zh"]).read_text(encoding="utf-8")
    return set(re.findall(r"^\| ([^|（]+)（", text, re.MULTILINE))


def test_both_glossaries_have_the_same_terms():
    english, chinese = read_glossary("en"), read_glossary("zh")
    assert list(english) == list(chinese) and len(english) >= 60
    assert len(glossary_terms("zh")) == len(english)
    for term, meaning in english.items():
        assert meaning != term and not meaning.endswith(".") and len(meaning) <= 160, term
    for term, meaning in chinese.items():
        assert re.search(r"[\u4e00-\u9fff]", meaning), term


def test_the_page_explains_the_terms_of_the_glossary():
    assert set(FIRST_TERMS) <= read_glossary().keys()
    page, chinese = str(words_section()), read_glossary("zh")
    for term, meaning in read_glossary().items():
        assert str(tag("span", term, lang="en")) in page
        assert str(tag("dd", Both(meaning, chinese[term]))) in page


PROGRAM_FILES = [*(ROOT / "kittenllm").rglob("*.py"), *(ROOT / "chapters").rglob("*.py")]


def flags_that_exist() -> set[str]:
    """Of the chapters, as tests/cases/flags.json writes them down, and those that a file names."""
    written = json.loads((ROOT / "tests" / "cases" / "flags.json").read_text(encoding="utf-8"))
    flags = {flag.replace("_", "-") for rows in written.values() for flag in rows}
    for path in PROGRAM_FILES:
        flags |= set(re.findall(r'"--([a-z][a-z0-9-]+)"', path.read_text(encoding="utf-8")))
    return flags


@pytest.mark.parametrize("name", READING_ORDER)
@pytest.mark.parametrize("edition", ["lesson.md", "lesson.zh.md"])
def test_every_flag_that_a_lesson_names_exists(name, edition):
    text = (ROOT / "chapters" / name / edition).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", text))
    known = flags_that_exist()
    assert named and {flag for flag in named if flag.removeprefix("no-") not in known} <= known


# ------------------------------------------------------------------------ numbers in Chinese


def test_every_label_of_the_tables_is_translated():
    labels = {row.label for rows in TABLE.values() for row in rows} | set(
        read_one_file()["numbers"]
    )
    labels |= {label for rows in real_models.ROWS.values() for label, _, _ in rows}
    labels |= {cell.strip() for cell in real_models.memory_table().splitlines()[0][1:-1].split("|")}
    labels = {
        label for label in labels if not re.match("DPO: |IPO: |ORPO: |LoRA 16: |all w", label)
    }
    for chapter in ("ch1_language", "ch4_preferences"):
        labels |= {row.label.split(": ", 1)[1] for row in TABLE[chapter][1:]}
    labels |= {label for rows in REAL_RUNS.values() for label, _, _ in rows}
    assert labels - {"PPO: kind and right replies"} <= set(CELLS) | {"kind and right replies"}


def test_a_block_in_chinese():
    block = (
        "Default settings, one thread. ± is the standard error by topic: how far it moves.\n\n"
        "| chapter | number | seed 0 | seed 11 |\n|---|---|---:|---:|\n"
        "| `ch4_preferences` | seconds | (1) | 22 |\n"
        "|  | DPO: wins against the chat kitten | 1 ± 2 % | – |\n"
        "| PPO: kind and right replies | 0.0 → 1.0 % |\n"
        "| Smol, one thread | before | after |"
    )
    lines = in_chinese(block).splitlines()
    assert lines[0].startswith("默认设置，一个线程。± 是")
    assert lines[2:] == [
        "| 章 | 数字 | 种子 0 | 种子 11 |",
        "|---|---|---:|---:|",
        "| `ch4_preferences` | 秒数 | (1) | 22 |",
        "|  | DPO：胜过聊天小猫 | 1 ± 2 % | – |",
        "| PPO：友善且正确的回复 | 0.0 → 1.0 % |",
        "| Smol, 一个线程 | 之前 | 之后 |",
    ]
    assert in_chinese(NOT_MEASURED) == "这些运行没有测量单凭舍入会让数字移动多少。"
    sentence = (
        "The same seed with another number of threads (seed 0 and seed 1, 2 threads against one "
        "thread) moves by rounding alone: kl 0.02, accuracy 0.5 points."
    )
    assert in_chinese(sentence) == (
        "同一个种子换一种线程数（种子 0 和 种子 1, 2 个线程 对 一个线程），单凭舍入就会移动："
        "kl 0.02, accuracy 0.5 个百分点。"
    )


def test_a_single_number_by_hand():
    table = {"kl": {"values": [1.5, None, 1.234]}, "safe_rate_after": {"values": [0.5, 0.5]}}
    content = {"chapters": {"ch3_ppo": {"table": table}}}
    assert span("ch3_ppo", "kl", content) == "1.23 to 1.50"
    assert span("ch3_ppo", "safe_rate_after", content) == "50.0 %"
    assert span("ch3_ppo", "gold_after", content) is None
    for chapter, key in (("ch3_ppo", "golden"), ("ch9", "kl")):
        with pytest.raises(ValueError, match=f"no table shows the number '{key}' of '{chapter}'"):
            span(chapter, key, content)


# ------------------------------------------------------------------------------- the pictures


def svg_shape(path: Path) -> list:
    """A picture without its words: every element with its attributes, in order."""
    skipped = ("lang", "font-family")
    return [
        (element.tag, {k: v for k, v in element.attrib.items() if not k.endswith(skipped)})
        for element in ElementTree.parse(path).getroot().iter()
    ]


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "chapters").rglob("*.svg")),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_a_drawing_is_plain_and_the_same_in_both_languages(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|href|<image|<foreignObject|\bon\w+=", text)
    assert "<title>" in text and 'viewBox="' in text and len(text) < 20_000
    if path.name.endswith(".zh.svg"):
        assert svg_shape(path) == svg_shape(path.with_name(path.name.replace(".zh.svg", ".svg")))


def drawing(chapter: str, name: str) -> str:
    return (ROOT / "chapters" / chapter / name).read_text(encoding="utf-8")


def test_the_curve_of_bradley_and_terry_is_the_sigmoid():
    """100 % is drawn at y = 60 and 0 % at y = 310; a point of difference is 67.5 wide."""
    path = re.search(r'id="curve" d="M([^"]+)"', drawing("ch2_reward_model", "bradley_terry.svg"))
    points = [tuple(map(float, pair.split(","))) for pair in path[1].split(" L")]
    assert len(points) >= 30
    for x, y in points:
        difference = torch.tensor((x - 90) / 67.5 - 4)
        assert (310 - y) / 250 == pytest.approx(difference.sigmoid().item(), abs=1e-3)


def test_the_bars_of_the_credit_are_computed():
    mask = torch.ones(1, 3, dtype=torch.bool)
    ref = torch.zeros(1, 3)
    logprobs = torch.tensor([[0.5, 0.0, -0.5]])
    rewards = ppo.kl_shaped_rewards(torch.tensor([1.0]), logprobs, ref, mask, kl_coef=0.2)
    values = torch.tensor([[0.4, 0.6, 0.8]])
    rows = [rewards, values]
    rows += [ppo.gae(rewards, values, mask, gamma=1.0, lam=lam)[0] for lam in (0.0, 0.5, 1.0)]
    wanted = [f"{number:.3g}" for row in rows for number in row[0].tolist()]
    for name in ("credit.svg", "credit.zh.svg"):
        assert re.findall(r">(-?\d[\d.]*)<", drawing("ch3_ppo", name)) == wanted


def test_the_losses_of_the_see_saws_are_computed():
    shown = [(0.0, 0.0), (1.0, -1.0), (-1.0, -3.0)]
    losses = []
    for chosen, rejected in shown:
        reference = torch.zeros(1)
        loss, _ = dpo.dpo_loss(
            torch.tensor([chosen]), torch.tensor([rejected]), reference, reference, beta=0.1
        )
        losses.append(f"{loss.item():.3f}")
    text = drawing("ch4_preferences", "see_saw.svg").replace("\N{MINUS SIGN}", "-")
    assert re.findall(r"loss ([\d.]+)", text) == losses
    said = re.findall(r"chosen ([-+]?\d), rejected ([-+]?\d)", text)
    assert [(float(chosen), float(rejected)) for chosen, rejected in said] == shown
