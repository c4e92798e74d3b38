"""The report: one page from whatever the run folders hold, and what they hold cannot break it.

The run folders here are made up by hand. The page is read by Python's own HTML parser, and, where
the system has a Chromium, by a real browser.
"""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from byte_kitten import small_config

from chapters.bands import file as bands_file
from chapters.bands import verdicts as bands
from chapters.report import life as report_life
from chapters.report import page as report
from chapters.report.charts import Chart, line_chart, thinned, ticks
from chapters.report.data import Stage, read_stage
from chapters.report.html import Markup, escaped, join, minutes, shown, table, tag
from chapters.report.learning import overoptimisation
from chapters.report.numbers import bands_view, curve_shades
from chapters.report.r1 import r1_section
from chapters.report.stages import base_section
from chapters.report.views import heats, mask_view, thought, two_problems
from kittenllm.gpt import GPT
from kittenllm.kitten_town import DATA
from kittenllm.runs.checkpoints import save_model

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&\u2028\u202e\x1b[2J"
LONG = "meow" * 200  # a word that no screen is wide enough for
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JOURNEY = (
    "ch0_base",
    "ch1_sft",
    "ch2_reward_model",
    "ch3_ppo",
    "ch4_preferences",
    "ch5_reasoning",
    "ch6_r1",
)


# -------------------------------------------------------------------------- a made-up runs folder


NUMBERS = """
loss val_loss chat_loss base_bits_per_byte lr_scale grad_norm accuracy margin score proxy gold kl
kl_held_out entropy clip_fraction explained_variance unseen_chosen unseen_rejected unseen_margin
unseen_accuracy reply_tokens waits format truncated no_signal seconds
"""
STEMS = "gold reward safe_rate allowed_rate friendly_rate grumpy_rate answer_accuracy"


def write_stage(runs: Path, name: str, *, stages=("train",), **keys) -> Path:
    """A finished chapter: a summary, 30 steps of metrics with every number, two samples, a PNG."""
    folder = runs / name
    folder.mkdir(parents=True)
    summary = {
        "seed": 0,
        "size": "small",
        "device": "cpu",
        "quick": False,
        "version": "0.1.0",
        "seconds": 61.5,
        "train_seconds": 50.0,
        "peak_rss_mb": 812,
        "config": {"steps": 30, "text": HOSTILE},
        "model": None,
        "fingerprint": "f" * 16,
    }
    (folder / "summary.json").write_text(json.dumps(summary | keys))
    lines = []
    for stage in stages:
        for step in range(30):
            entry = {"stage": stage, "step": step} | {n: 1 / (step + 1) for n in NUMBERS.split()}
            lines.append(json.dumps(entry))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    samples = [{"prompt": HOSTILE, "before": HOSTILE, "after": f"I say {LONG}"}]
    samples.append({"prompt": "May I chew the wire?", "before": "Yes.", "after": "No, my dear."})
    content = {"before_title": "chat", "after_title": HOSTILE, "samples": samples}
    (folder / "samples.json").write_text(json.dumps(content))
    (folder / "attention.png").write_bytes(PNG)
    return folder


def before_after(*stems: str) -> dict:
    return {f"{stem}_{when}": 0.5 for stem in stems for when in ("before", "after")}


def make_runs(runs: Path) -> Path:
    """All chapters of the journey, and some hostile words in every place where words can be."""
    write_stage(runs, "ch0_base", val_nats_per_token=0.65, fact_recall=1.0, parameters=684_928)
    dropped = {"duplicate": 700, HOSTILE: 3}
    write_stage(runs, "ch1_sft", answer_accuracy=0.976, kept=10_000, dropped=dropped)
    write_stage(runs, "ch2_reward_model", accuracy=0.69, gold_accuracy_by_kind={HOSTILE: 0.9})
    over = {"peak_gold": 1.0, "last_gold": -2.0, "proxy_at_peak": 1.0, "proxy_last": 3.0}
    ppo = write_stage(
        runs, "ch3_ppo", **before_after(*STEMS.split()), gold_best=2.6, overoptimisation=over
    )
    rows = {"reward at the end": [0.0, 1.5], "KL penalty": [0.1, 0.0], "TD error": [-1.0, 0.5]}
    rows |= {"GAE advantage": [-0.5, 0.5], "change of log-prob": [0.0, 0.2]}
    credit = {"question": HOSTILE, "score": 1.5, "tokens": [" Purr", HOSTILE], "rows": rows}
    (ppo / "token_credit.json").write_text(json.dumps({"note": HOSTILE, "replies": [credit] * 2}))
    method = before_after("gold", "safe_rate") | {"kl": 1.5, "win_rate": 0.8, "seconds": 9.0}
    paths = {"DPO": [{"label": HOSTILE, "kl": 1.0, "gold": 2.0}, {"kl": 2.0, "gold": 2.1}]}
    methods = dict.fromkeys(("dpo", "ipo", "orpo"), method)
    write_stage(runs, "ch4_preferences", stages=methods, gold_best=2.6, frontier=paths, **methods)
    passes = {"pass_at_k_before": {"1": 0.2, "8": 0.7}, "pass_at_k_after": {"1": 0.6, "8": 0.9}}
    thinking = write_stage(
        runs,
        "ch5_reasoning",
        stages=("warm_up", "grpo"),
        **before_after("accuracy", "tokens", "waits"),
        **passes,
        warnings=[HOSTILE],
    )
    before = "<think>1+2=3 left 3,3+3=6 vs 9 no</think><answer>1+2=3,3+3=6</answer>\n(wrong)"
    after = "<think>1+2=3 left 3,3+3=6 vs 9 no wait 1+2=3 left 3,3*3=9 vs 9 yes</think>"
    after += "<answer>1+2=3,3*3=9</answer>\n(right)"
    samples = [{"prompt": "use 1, 2, 3 make 9", "before": before, "after": after}]
    samples.append({"prompt": HOSTILE, "before": HOSTILE, "after": f"{LONG}\n(wrong)"})
    content = {"before_title": "warm-up", "after_title": "after GRPO", "samples": samples}
    (thinking / "samples.json").write_text(json.dumps(content))
    write_stage(runs, "ch6_r1", puzzle_accuracy=0.5, rejection={HOSTILE: 3})
    reply = {"prompt": HOSTILE, "text": HOSTILE + LONG, "ended": False, "right": False}
    reply |= {"tone": "grumpy", "score": -3.5}
    puzzle = {key: reply[key] for key in ("prompt", "text", "ended", "right")}
    replies = [reply, puzzle]
    kittens = {k.stage: {"fingerprint": "f", "replies": replies} for k in report_life.KITTENS}
    mask = [["<|im_start|>", False], ["user\n", False], [HOSTILE, True], [LONG, True]]
    kept = {"format": report_life.FORMAT, "kittens": kittens, "mask": mask}
    (runs / "report_replies.json").write_text(json.dumps(kept))
    return runs


@pytest.fixture(scope="module")
def full_page(tmp_path_factory) -> str:
    """The page of `make_runs`; no kitten has a model, so the replies come from the file."""
    runs = make_runs(tmp_path_factory.mktemp("report") / "runs")
    stages = {name: read_stage(name, name, runs / name) for name in JOURNEY}
    life = json.loads((runs / "report_replies.json").read_text())
    return report.page(stages, life, [HOSTILE])


class Reader(HTMLParser):
    """Reads a page as a browser does, and complains about tags that do not match."""

    VOID = {"meta", "br", "img", "link", "col", "hr", "input"}
    SHAPES = {
        "circle",
        "line",
        "rect",
        "path",
        "polyline",
        "polygon",
    }  # closed by "/>" inside an SVG

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, name, attributes):
        assert len(dict(attributes)) == len(attributes), f"<{name}> has an attribute twice"
        assert name not in self.SHAPES, f"<{name}> without a slash stays open inside an SVG"
        self.tags.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        assert name in self.VOID | self.SHAPES, f"<{name}/> closes nothing in HTML"
        self.tags.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, f"</{name}> where {self.open[-3:]} is open"
        self.open.pop()

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    @property
    def text(self) -> str:
        hidden = ("script", "style")
        return " ".join(t for name, ts in self.texts.items() if name not in hidden for t in ts)


# --------------------------------------------------------------------------------- text stays text


def test_a_tag_by_hand():
    made = tag(
        "p", "1 < 2 & ", tag("b", '"so"'), None, class_="a'b", data_x=3, hidden=True, id=None
    )
    assert made == (
        '<p class="a&#x27;b" data-x="3" hidden>1 &lt; 2 &amp; <b>&quot;so&quot;</b></p>'
    )
    assert tag("circle", r=2) == '<circle r="2"/>'
    assert tag("td", 0) == "<td>0</td>"  # zero is something


def test_only_markup_passes_unescaped():
    assert escaped("<b>") == "&lt;b&gt;"
    assert escaped(Markup("<b>")) == "<b>"
    assert escaped("a\u2028b\u202ec\x1b") == "a\\u2028b\\u202ec\\x1b"
    assert escaped("a\nb") == "a\nb"
    assert table(["<i>"], [["<u>", "<s>"]]).count("&lt;") == 3
    assert "\ud800" not in escaped("\ud800")  # half a character could not be written as UTF-8


def test_hostile_words_are_shown_and_do_nothing(full_page):
    page = Reader(full_page)
    names = [name for name, _ in page.tags]
    runs = [a for name, a in page.tags if name == "script" and "type" not in a]
    assert [a["id"] for a in runs] == [f"{name}.js" for name in report.SCRIPTS] and names.count(
        "style"
    ) == 1
    blocks = [a["type"] for name, a in page.tags if name == "script" and "type" in a]
    assert set(blocks) <= {"application/json", "text/plain"}  # data, which no browser runs
    for name, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        assert "style" not in attributes  # the policy forbids it
        for key in ("src", "href", "action", "srcdoc", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (name, value)
    assert page.text.count("<script>alert(1)</script>") > 20  # in every place, as words
    for character in "\u2028\u202e\x1b":
        assert character not in full_page


def test_nothing_is_loaded_from_anywhere(full_page):
    assert not re.findall(r"https?:|//[a-z]+\.|url\(|@import", full_page)
    script = "".join(Reader(full_page).texts["script"])
    words = "innerHTML outerHTML insertAdjacent document.write fetch eval( XMLHttp import( importS"
    for word in (*words.split(), "new Function", "srcdoc", "DOMParser", "createContextualFragment"):
        assert word not in script


def test_the_policy_names_this_script_and_this_style(full_page):
    page = Reader(full_page)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    here = Path(report.__file__).parent
    contents = [(here / f"{name}.js").read_text(encoding="utf-8") for name in report.SCRIPTS]
    for content in [*contents, "".join(page.texts["style"])]:
        assert content in full_page
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == len(contents) + 1
    assert full_page.index("Content-Security-Policy") < full_page.index("<style>")


# ------------------------------------------------------------------------- the page and its stages


def test_the_page_is_well_formed_and_every_link_leads_somewhere(full_page):
    page = Reader(full_page)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert [i for i in ids if i.startswith("ch")] == list(JOURNEY)
    for name, attributes in page.tags:
        if name == "img":
            assert attributes["alt"]


def test_the_page_tells_the_numbers(full_page):
    text = Reader(full_page).text
    for words in ("97.6 %", "684,928", "7.2 min", "812 MB", "tokens are trained", "the frontier"):
        assert words.lower() in text.lower(), words
    assert "could not be drawn" not in text


def test_without_a_script_everything_is_on_the_page(full_page):
    """Curves have their values as titles, tokens theirs, and folds are <details>."""
    page = Reader(full_page)
    assert any("loss" in text and "step" in text for text in page.texts["title"])
    buttons = [a for _, a in page.tags if "credit" in a.get("class", "").split()]
    assert len(buttons) == 4 and buttons[1]["title"].startswith("reward +1.500\nKL +0.000\n")
    assert sum(name == "details" for name, _ in page.tags) > 10


def test_an_empty_folder_is_a_page_that_says_so(tmp_path):
    path = report.write_report(tmp_path)
    text = Reader(path.read_text(encoding="utf-8")).text
    assert text.count("This stage has not run yet.") == len(JOURNEY)
    assert "No kitten can be asked yet" in text
    assert not (tmp_path / "report_replies.json").exists()


def test_a_started_stage_is_said_to_be_unfinished(tmp_path):
    (write_stage(tmp_path, "ch0_base") / "summary.json").unlink()
    assert (
        "was started and has not finished" in Reader(report.write_report(tmp_path).read_text()).text
    )


BROKEN = (
    "",
    "{",
    "[1, 2]",
    "null",
    "{}",
    '{"seconds": "long", "peak_rss_mb": [], "config": 3, "quick": "x", "seed": {"a": 1}}',
    '{"kept": 5, "dropped": [1], "gold_accuracy_by_kind": 7, "frontier": {"DPO": "x", "IPO": [1]}}',
    '{"dropped": {"a": "b"}, "kept": NaN, "pass_at_k_before": {"x": 1, "8": "y"}, "warnings": 3}',
    '{"dpo": 5, "ipo": {"gold_after": true}, "overoptimisation": "yes", "model": 17}',
    '{"seconds": 1e999, "accuracy": -1e308, "gold_best": Infinity, "warnings": [1, {"a": 2}]}',
)


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_summary_is_a_sentence(tmp_path, content):
    for name in JOURNEY:
        (write_stage(tmp_path, name) / "summary.json").write_text(content)
    text = Reader(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Traceback" not in text and "could not be drawn" not in text
    if not content.startswith("{") or len(content) == 1:
        assert text.count("summary.json of this stage cannot be read") == len(JOURNEY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"samples": 3, "replies": [1], "kittens": 2}'])
def test_other_broken_files_cost_only_their_part(tmp_path, content):
    make_runs(tmp_path / "runs")
    for name in ("report_replies.json", "ch3_ppo/token_credit.json", "ch5_reasoning/samples.json"):
        (tmp_path / "runs" / name).write_text(content)
    (tmp_path / "runs" / "ch0_base" / "attention.png").write_text("no picture")
    with open(tmp_path / "runs" / "ch0_base" / "metrics.jsonl", "a") as file:
        file.write('[1]\n{"stage": "train", "step": 30, "loss": NaN}\n{"stage": "tr')
    text = Reader(report.write_report(tmp_path / "runs").read_text(encoding="utf-8")).text
    assert "2 lines of metrics.jsonl cannot be read and are left out" in text
    assert "the token credit was not drawn" in text
    assert "could not be drawn" not in text
    assert "684,928" in text  # the rest is there


def test_a_part_that_fails_is_a_sentence_and_the_rest_stays(tmp_path, monkeypatch):
    def fail(stage, life):
        raise KeyError(HOSTILE)

    make_runs(tmp_path)
    monkeypatch.setitem(report.SECTIONS, "ch3_ppo", fail)
    text = Reader(report.write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "ch3_ppo: this part could not be drawn (KeyError" in text
    assert "684,928" in text


def test_the_size_of_the_page(tmp_path, full_page):
    assert len(full_page.encode()) < 700_000
    folder = write_stage(tmp_path, "ch0_base")
    small = report.write_report(tmp_path).stat().st_size
    (folder / "attention.png").write_bytes(PNG + bytes(3_000_000))
    assert report.write_report(tmp_path).stat().st_size < small  # a huge picture is left out


def test_the_same_folder_gives_the_same_page(tmp_path):
    make_runs(tmp_path)
    first = report.write_report(tmp_path).read_bytes()
    assert report.write_report(tmp_path).read_bytes() == first


def test_reference_bands_where_they_fit(tmp_path, monkeypatch):
    """The verdicts come from bands.py; a summary that it cannot read is a sentence."""
    write_stage(tmp_path, "ch0_base")
    stage = read_stage("ch0_base", "base", tmp_path / "ch0_base")
    limits = {"fact_recall": (0.5, 0.97, 1.0, False), "val_bits_per_byte": (0.35, 0.3, 0.4, True)}
    found = [bands.Verdict(key, *numbers, HOSTILE) for key, numbers in limits.items()]
    monkeypatch.setattr(bands, "verdicts", lambda chapter, summary: found)
    curve = bands_file.CurveBand(
        "loss", "train", "val_loss", "nats", [0, 9], [1.0, 0.5], [2.0, 0.8]
    )
    monkeypatch.setattr(bands, "curve_bands", lambda chapter: [curve])
    text = Reader(bands_view(stage)).text
    assert "1 of 2 numbers inside their band" in text and "fact recall" in text
    assert curve_shades(stage) == {"train val_loss": ([1, 10], [1.0, 0.5], [2.0, 0.8])}
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count('class="shade"') == 1 and "reference runs" in Reader(page).text

    monkeypatch.setattr(bands, "verdicts", lambda chapter, summary: [])
    assert bands_view(stage) is None and curve_shades(stage) == {}
    monkeypatch.setattr(bands, "verdicts", lambda chapter, summary: summary["no such key"])
    assert "lacks what" in bands_view(stage) and curve_shades(stage) == {}


# ------------------------------------------------------------------------------------ small pieces


def test_numbers_as_readers_like_them():
    assert shown(0.97606, "rate", 0.00789) == "97.6 % \u00b1 0.8"
    assert shown(1_699_840, "count") == "1,699,840"
    assert [shown(x) for x in (0.0225, 2.6, 124.386, 12_345.6)] == [
        "0.022",
        "2.60",
        "124.4",
        "12,346",
    ]
    assert [shown(x) for x in (None, True, "7", float("nan"), [1])] == ["\u2013"] * 5
    assert minutes(41.2) == "41 s" and minutes(738) == "12.3 min" and minutes("x") == "\u2013"


def test_the_curves_of_chapter_0_are_those_of_its_books(tmp_path):
    """The echoes before them have steps of their own, and would be drawn over them."""
    write_stage(tmp_path, "ch0_base", stages=("echo", "train"))
    stage = read_stage("ch0_base", "", tmp_path / "ch0_base")
    lines = re.findall(r'<polyline points="([^"]*)" class="line s0"', str(base_section(stage, {})))
    for line in lines:
        places = [float(point.split(",")[0]) for point in line.split()]
        assert len(places) == 30 and places == sorted(places)
    assert len(lines) == 3


def test_every_kitten_on_the_way_to_r1_has_a_column(tmp_path):
    steps = {"PPO": {"gold": 2.0, "gold_stderr": 0.1}, "cold_start": {"gold": 1.5}}
    write_stage(tmp_path, "ch6_r1", steps=steps, rejection={"thoughts_drawn": 4000})
    stage = read_stage("ch6_r1", "", tmp_path / "ch6_r1")
    text = Reader(join(*r1_section(stage, {}))).text
    for words in ("PPO", "cold start", "2.00 \u00b1 0.10", "1.500", "4,000"):
        assert words in text
    for broken in (None, 3, [], {"PPO": 3}, {"PPO": {"gold": "x"}}):
        write_stage(tmp_path, f"x{broken}", steps=broken)
        stage = read_stage("ch6_r1", "", tmp_path / f"x{broken}")
        assert "was not kept" in join(*r1_section(stage, {}))


def test_ticks_are_round_numbers():
    assert ticks(0.0, 1.0, 4) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(37, 61, 4) == [40, 45, 50, 55, 60]
    assert ticks(2.0, 2.0, 4) == [2.0]


def test_long_lines_are_averaged_and_bad_values_left_out():
    xs, ys = thinned(list(range(240)), [float(x) for x in range(240)])
    assert len(xs) == 120 and xs[0] == 0.5 and ys[-1] == 238.5
    assert thinned([1, 2, 3], [1.0, float("nan"), None]) == ([1.0], [1.0])
    assert thinned([], []) == ([], [])


@pytest.mark.parametrize("ys", [[], [3.0], [0.0, 0.0], [1e-9, 1e9], [-5.0, float("inf")]])
def test_a_chart_of_any_numbers_can_be_drawn(ys):
    drawn = line_chart(Chart(HOSTILE, {HOSTILE: (list(range(len(ys))), ys)}, levels={"x": None}))
    Reader(drawn)
    assert "nan" not in drawn and "inf" not in drawn
    for y in re.findall(r'points="[^"]*,(-?[\d.]+)"', drawn):
        assert 0 <= float(y) <= 200


def test_colours_of_tokens():
    assert heats([0.0, 1.0, -2.0, 0.1]) == ["", "p2", "n5", ""]
    assert heats([0.0, 0.0]) == ["", ""]
    assert heats([]) == []


def test_the_mask_as_tokens():
    view = Reader(mask_view([["<|im_start|>", False], ["user\n", False], [" Purr", True]]))
    spans = [a["class"] for name, a in view.tags if name == "span" and "class" in a]
    assert spans[:3] == ["token read special", "token read", "token trained"]
    assert "1 of 3 tokens are trained" in view.text and "\u00b7Purr" in view.text
    assert mask_view(None) is None and mask_view([]) is None
    assert "cannot be read" in mask_view([["a", True], "b"])


def test_a_thought_is_one_line_for_each_attempt():
    text = "<think>a vs 1 no wait b vs 1 yes</think><answer>b</answer>\n(right)"
    made = thought(text)
    items = re.findall(r"<li>(.*?)</li>", made)
    assert items == ['a vs 1 <b class="bad">no</b>', 'b vs 1 <b class="good">yes</b>']
    assert "2 attempts" in made and '<span translate="no">b</span>' in made
    cut_off = thought("<think>a vs 1 no wait b\n(wrong)")
    assert "cut off, no answer" in cut_off and cut_off.count("<li>") == 2
    assert thought("<think>") == '<p class="said" translate="no">&lt;think&gt;</p>'


def test_the_two_problems_are_not_only_the_nice_ones():
    def sample(name, before, after):
        return {"prompt": name, "before": f"({before})", "after": f"wait ({after})"}

    learnt, failed = sample("a", "wrong", "right"), sample("b", "right", "wrong")
    solved = sample("c", "right", "right")
    assert [s["prompt"] for s, _ in two_problems([solved, failed, learnt])] == ["a", "b"]
    assert [s["prompt"] for s, _ in two_problems([solved])] == ["c"]
    assert two_problems([]) == []


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("right", "right", "right before and after"),
        ("wrong", "right", "wrong before, right after"),
        ("right", "wrong", "right before, wrong after"),
        ("wrong", "wrong", "wrong before and after"),
    ],
)
def test_what_became_of_a_puzzle_is_named_truly(before, after, words):
    sample = {"prompt": "a", "before": f"x\n({before})", "after": f"x\n({after})"}
    assert two_problems([sample]) == [(sample, words)]


def test_the_headline_has_one_condition():
    """The rate of chapter 1 is the sampled one, as all others are, and the page says so."""
    sft = Stage("ch1_sft", "", Path("x"), "finished", {"answer_accuracy": 0.99})
    assert "99.0 %" not in report.top({"ch1_sft": sft})
    sft = Stage("ch1_sft", "", Path("x"), "finished", {"answer_accuracy_sampled": 0.8})
    made = report.top({"ch1_sft": sft})
    assert "80.0 %" in made and "at temperature 1" in made


def test_a_run_that_did_not_turn_is_not_said_to_have_turned():
    def shown(turned: bool) -> str:
        numbers = {"overoptimisation": {"peak_gold": 1.0, "turned": turned}}
        return overoptimisation(Stage("ch3_ppo", "", Path("x"), "finished", numbers))

    assert "the kitten gets worse" in shown(True)
    assert "the kitten gets worse" not in shown(False)


# ------------------------------------------------------------------------------ asking the kittens


@pytest.fixture
def one_kitten(tmp_path, town_tokenizer) -> Path:
    """A runs folder with a chat kitten that has never learnt anything."""
    gpt = GPT(small_config(town_tokenizer), generator=torch.Generator().manual_seed(0))
    folder = write_stage(tmp_path, "ch1_sft", model="model.pt", fingerprint="first")
    save_model(folder / "model.pt", gpt, town_tokenizer)
    return tmp_path


def test_only_the_first_conversations_are_read(one_kitten, town_tokenizer, monkeypatch):
    """One is enough; a file of thousands would cost seconds."""
    lines = (DATA / "chats_raw.jsonl").read_text(encoding="utf-8").split("\n")
    path = one_kitten / "chats.jsonl"
    path.write_text("\n".join([*lines[: report_life.LOOKED_AT], "no JSON at all"] * 2))
    stage = Stage("ch1_sft", "", one_kitten, "finished", {"config": {"chats": str(path)}})
    seen = []
    load = report_life.load_chats
    monkeypatch.setattr(report_life, "load_chats", lambda file: seen.append(file) or load(file))
    found = report_life.masked_conversation(stage, town_tokenizer)
    assert seen[0].content.count(b"\n") == report_life.LOOKED_AT - 1
    stage = Stage("ch1_sft", "", one_kitten, "finished", {})
    assert report_life.masked_conversation(stage, town_tokenizer) == found


def test_every_kitten_is_asked_the_same_once(one_kitten, monkeypatch):
    stages = {"ch1_sft": read_stage("ch1_sft", "SFT", one_kitten / "ch1_sft")}
    life, notes = report_life.ask_everyone(one_kitten, stages)
    replies = life["kittens"]["ch1_sft"]["replies"]
    assert notes == [] and len({reply["prompt"] for reply in replies}) == 13
    assert all(isinstance(reply["right"], bool) for reply in replies)
    assert {piece for piece, trained in life["mask"] if trained} >= {"<|im_end|>"}
    assert not any(trained for _, trained in life["mask"][:3])  # the head of the first turn

    def refuse(path):
        raise AssertionError("asked twice")

    with monkeypatch.context() as patch:
        patch.setattr(report_life, "load_model", refuse)
        assert report_life.ask_everyone(one_kitten, stages) == (life, [])
    assert "and runs on" in report.write_report(one_kitten).read_text(encoding="utf-8")

    summary = one_kitten / "ch1_sft" / "summary.json"
    summary.write_text(summary.read_text().replace('"first"', '"another"'))
    stages = {"ch1_sft": read_stage("ch1_sft", "SFT", one_kitten / "ch1_sft")}
    (one_kitten / "ch1_sft" / "model.pt").write_bytes(b"no model")
    life, notes = report_life.ask_everyone(one_kitten, stages)
    assert life["kittens"] == {} and "the chat kitten could not be asked" in notes[0]


# ------------------------------------------------------------------------------------- the program


def test_the_program_alone(tmp_path, capsys):
    write_stage(tmp_path / "quick", "ch0_base", quick=True)
    assert report.main(["--runs", str(tmp_path), "--quick"]) == 0
    path = tmp_path / "quick" / "report.html"
    assert str(path) in capsys.readouterr().out
    assert "This was a --quick run" in path.read_text(encoding="utf-8")
    assert report.main(["--runs", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_without_a_finished_chapter_no_page_is_written(tmp_path, capsys):
    runs = tmp_path / "my runs"
    (runs / "ch0_base").mkdir(parents=True)
    assert report.main(["--runs", str(runs)]) == 1
    screen = capsys.readouterr()
    assert "written" not in screen.out and not (runs / "report.html").exists()
    assert "no chapter has finished" in screen.err
    assert f"python -m chapters --runs '{runs}'" in screen.err  # the command to type


# ------------------------------------------------------------------------------------- the browser

# Watches the page from inside: what the policy stops, what is fetched, what goes wrong, how wide
# everything is, and whether pointing at things works. It tells the page around it.
WATCHER = """
const noted = { problems: [] };
addEventListener("securitypolicyviolation", (e) => noted.problems.push("policy: " + e.blockedURI));
const failed = (e) => noted.problems.push("error: " + (e.message || e.target.tagName));
addEventListener("error", failed, true);
addEventListener("load", () => setTimeout(() => {
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  noted.fetched = fetched.filter((name) => !name.startsWith("data:"));
  const point = (query, kind) => {
    const found = document.querySelector(query);
    if (found) found.dispatchEvent(new PointerEvent(kind, { bubbles: true }));
  };
  const read = (query) => document.querySelector(query)?.textContent;
  noted.rest = read(".chart .readout");
  point(".chart .hit rect", "pointermove");
  point(".credit:last-child", "pointerover");
  noted.pointed = read(".chart .readout");
  noted.token = read(".creditbox .readout");
  noted.choices = document.querySelectorAll(".choices button").length;
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  noted.width = document.documentElement.scrollWidth;
  noted.screen = innerWidth;
  parent.postMessage(JSON.stringify(noted), "*");
}, 100));
"""
FRAME = """<!DOCTYPE html><title>frame</title><body style="margin:0">
<iframe id="frame" src="page.html" width="{width}" height="900" style="border:0"></iframe>
<pre id="noted"></pre><script>addEventListener("message",
(e) => {{ document.getElementById("noted").textContent = e.data; }});</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine: the page is not looked at in a real browser")


def looked_at(browser: str, page: str, width: int, folder: Path) -> dict:
    """What the watcher saw in a frame so many pixels wide, and what stood in the console."""
    digest = base64.b64encode(hashlib.sha256(WATCHER.encode()).digest()).decode()
    watched = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    watched = watched.replace("<title", f"<script>{WATCHER}</script><title", 1)
    (folder / "page.html").write_text(watched, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-dev-shm-usage", "--disable-extensions", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000"]
    command += ["--window-size=1400,900", "--dump-dom", (folder / "frame.html").as_uri()]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=120
    )
    found = re.search(r'<pre id="noted">(.+?)</pre>', result.stdout, re.DOTALL)
    assert found, f"the browser did not answer: {result.stderr[-2000:]}"
    noted = json.loads(html.unescape(found[1]))
    noted["console"] = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return noted


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_real_browser(browser, full_page, width, tmp_path):
    noted = looked_at(browser, full_page, width, tmp_path)
    assert noted["problems"] == [] and noted["fetched"] == [] and noted["console"] == []
    assert noted["screen"] == width
    assert noted["width"] <= width, "something is wider than the screen"
    assert noted["rest"].startswith("at the end") and noted["pointed"].startswith("step ")
    assert "advantage +0.500" in noted["token"] and noted["choices"] == 10


def test_the_browser_test_would_notice(browser, full_page, tmp_path):
    """A picture from elsewhere, a script that is not ours, a word in the console, a wide box."""
    bad = full_page.replace(
        "<footer>",
        '<img src="http://localhost:9/x.png" alt=""><script>meow()</script>'
        "<table><tr><td>" + "\u00a0".join(["meow"] * 200) + "</td></tr></table><footer>",
    )
    noted = looked_at(browser, bad, 360, tmp_path)
    assert any("localhost" in problem for problem in noted["problems"])
    assert "policy: inline" in noted["problems"]
    assert noted["console"] and noted["width"] > 360
