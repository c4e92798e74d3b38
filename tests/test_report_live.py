"""The kittens in the page: their weights, what scripts know, and a browser agrees with Python.

Two small untrained kittens stand in for the real ones; their embeddings are made larger, so that
they prefer something. Where the system has no Chromium, the second half is skipped.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, find_browser
from byte_kitten import small_config
from test_report import HOSTILE, LONG, Reader, write_stage
from test_report_zh import NAMES

from chapters.ch5_reasoning.groups import GroupLog, earlier_rounds, logged_rounds
from chapters.ch5_reasoning.thinking import Exercise
from chapters.common.kitten import Kitten as Thinker
from chapters.report import live as report_live
from chapters.report import page as report
from chapters.report import selftest, sentences, sentences_zh
from chapters.report.data import read_stage
from chapters.report.drawings import LOOP, PATH, path_picture
from chapters.report.life import KITTENS
from chapters.report.live import Live, in_script
from chapters.report.top import with_terms
from chapters.report.views import life_table
from chapters.report.weights import HALF, LETTERS, LEVELS, in_letters, packed
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.ppo import gae, kl_shaped_rewards
from kittenllm.runs.checkpoints import save_model
from kittenllm.settings import Common

PLANTED = set(re.findall(r"[A-Za-z]{2,}", HOSTILE)) | {LONG}  # in summaries and titles
FEW = 10  # prompts of the selftest; the real page has a hundred


def small_gpt(tokenizer, seed: int) -> GPT:
    gpt = GPT(small_config(tokenizer), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        gpt.embed_tokens.weight *= 40  # clear preferences: no tie that rounding could break
    return gpt


# -------------------------------------------------------------------------------------- weights


def unpacked(content: dict) -> dict[str, torch.Tensor]:
    """The reverse of `packed`, as worker.js does it."""
    codes = np.array([LETTERS.index(letter) for letter in content["letters"].encode()])
    words = codes.reshape(-1, 7) @ 88 ** np.arange(7)[::-1]
    numbers = words[:, None] // LEVELS ** np.arange(3)[::-1] % LEVELS - HALF
    scales, weights, place = iter(content["scales"]), {}, 0
    for name, rows, columns in content["shapes"]:
        count = -(-rows * columns // 3)  # words; a matrix begins with a new one
        matrix = numbers[place : place + count].reshape(-1)[: rows * columns]
        row_scales = np.array([next(scales) for _ in range(rows)])
        weights[name] = torch.tensor(matrix.reshape(rows, columns) * row_scales[:, None])
        place += count
    return weights


def test_letters_by_hand():
    assert len(LETTERS) == 88 and LEVELS == 2 * HALF + 1
    assert LEVELS**3 <= 88**7 < (LEVELS + 2) ** 3  # all that fits, and 0 in the middle
    assert in_letters(np.array([-HALF, -HALF, 1 - HALF])) == "!!!!!!#"
    assert in_letters(np.array([-HALF, -HALF, 88 - HALF])) == "!!!!!#!"
    assert in_letters(np.array([HALF, 0])) == in_letters(np.array([HALF, 0, 0]))
    assert not set(LETTERS.decode()) & set("\"&'<>\\ ")


def test_weights_as_letters_are_nearly_the_same(town_tokenizer):
    gpt = small_gpt(town_tokenizer, 0)
    with torch.no_grad():
        gpt.layers[0].mlp.up_proj.weight[3] = 0.0  # a row without a largest number
    found = unpacked(packed(gpt))
    for name, weight in gpt.state_dict().items():
        rows = weight.reshape(-1, weight.shape[-1])
        error = (found[name] - rows).abs().amax(dim=1)
        assert (error <= 0.502 * 1.001 * rows.abs().amax(dim=1) / HALF + 1e-12).all(), name


@pytest.mark.parametrize("biases, most, cause", [(True, 10**6, "bias"), (False, 999, "too large")])
def test_a_kitten_that_cannot_live_in_a_page_is_named(
    biases, most, cause, town_tokenizer, monkeypatch
):
    monkeypatch.setattr(report_live, "MOST_LETTERS", most)
    config = {**vars(small_config(town_tokenizer)), "qkv_bias": biases}
    live = Live()
    live.add(KITTENS[1], GPT(GPTConfig(**config)), town_tokenizer, [])
    assert live.kittens == [] and live.weights == {}
    assert "the chat kitten cannot talk here" in live.notes[0] and cause in live.notes[0]


# --------------------------------------------------------------------- what the scripts are told


def test_no_text_can_end_its_block():
    text = in_script({HOSTILE: ["<!--", "</SCRIPT>", "\u2028"]})
    assert "<" not in text and text.isascii()
    assert json.loads(text) == {HOSTILE: ["<!--", "</SCRIPT>", "\u2028"]}


def test_a_gpt_in_150_lines():
    """What the header promises; and no script or style sheet is long."""
    here = Path(report.__file__).parent

    def code_lines(path: Path) -> int:
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        return sum(bool(line) and not line.startswith("//") for line in lines)

    assert code_lines(here / "gpt.js") <= 150
    for path in [*here.glob("*.js"), *here.glob("*.css")]:
        assert code_lines(path) <= 300, path.name


def test_every_sentence_of_a_script_is_in_one_place():
    """No script asks for a sentence that is not there, and none is left over."""
    here = Path(report.__file__).parent
    source = "".join((here / f"{name}.js").read_text(encoding="utf-8") for name in report.SCRIPTS)
    asked = set(re.findall(r"\bSAY\.(\w+)", source)) | {"gamma", "lam", "price", "siblings"}
    assert asked == set(sentences.SCRIPT)


def test_a_hundred_different_prompts_for_every_kind_of_kitten():
    for answers in ("questions", "puzzles", "both"):
        texts = selftest.exam_texts(answers)
        assert len(texts) == selftest.PROMPTS == 100 and set(selftest.HOSTILE) <= set(texts)
        puzzles = [text for text, most in texts.items() if most == selftest.PUZZLE_TOKENS]
        assert len(puzzles) == {"questions": 0, "puzzles": 96, "both": 48}[answers]


def test_the_exam_is_what_the_kitten_says(town_tokenizer, monkeypatch):
    monkeypatch.setattr(selftest, "PROMPTS", 6)
    gpt = small_gpt(town_tokenizer, 0)
    exam = selftest.exam_of(gpt, town_tokenizer, True, "questions")
    assert len(exam) == 6
    for prompt in exam:
        assert prompt["ids"] == [
            town_tokenizer.endoftext_id,
            *town_tokenizer.encode(prompt["text"]),
        ]
        row = torch.tensor([prompt["ids"] + prompt["reply"]])
        logits = gpt(row)[0]
        first = len(prompt["ids"]) - 1
        assert logits[first : first + len(prompt["reply"])].argmax(1).tolist() == prompt["reply"]
        assert [token for token, _ in prompt["ten"]] == logits[first].topk(10).indices.tolist()


def test_a_kitten_is_asked_only_what_it_is_for():
    question = {"prompt": "q", "text": "a", "ended": True, "right": True, "score": 1.0}
    puzzle = {"prompt": "p", "text": "b", "ended": True, "right": True}
    replies = {"replies": [question, puzzle]}
    content = {"kittens": {kitten.stage: replies for kitten in KITTENS}}
    for what, names in (("questions", "base chat PPO DPO R1"), ("puzzles", "base Zero R1")):
        cells = re.findall(r' data-kitten="(\w+)"', life_table(content, what))
        assert cells == names.split()
    assert life_table({"kittens": {}}, "questions") is None


def test_right_and_running_on_is_called_so():
    def marks(**reply) -> str:
        reply = {"prompt": "q", "text": "Blue. More.", "score": 0.0, **reply}
        table = life_table({"kittens": {"ch1_sft": {"replies": [reply]}}}, "questions")
        return Reader(table).text

    assert "right" in (text := marks(ended=False, right=False, right_at_first=True))
    assert "and runs on" in text and "wrong" not in text
    assert "wrong" in marks(ended=True, right=False, right_at_first=True)
    assert "runs on" not in marks(ended=True, right=True, right_at_first=True)


def test_a_reply_without_an_end_is_folded_early():
    """It repeats itself, and the replies beside it are short."""

    def cell(ended: bool) -> str:
        reply = {"prompt": "q", "text": "What is Pip? " * 10, "ended": ended, "score": 0.0}
        return life_table({"kittens": {"ch0_base": {"replies": [reply]}}}, "questions")

    assert "more letters" in cell(ended=False) and "more letters" not in cell(ended=True)


def test_line_breaks_in_a_file_do_not_count(tmp_path):
    """groups.json has a line for every number: most of it is spaces, which the page leaves out."""
    folder = write_stage(tmp_path, "ch5_reasoning")
    stages = {"ch5_reasoning": read_stage("ch5_reasoning", "", folder)}
    for count, taken in ((100_000, True), (300_000, False)):
        content = {"rounds": [1] * count}
        text = json.dumps(content, indent=8)
        assert len(text) > 2 * report_live.LARGEST_FILE
        (folder / "groups.json").write_text(text)
        found = report_live.file_of(stages, "ch5_reasoning", "groups.json")
        assert found == (content if taken else {})


def test_words_explain_themselves():
    made = with_terms("A token, two tokens and a <b>policy</b>")
    assert made.count('class="term"') == 2  # each word once
    assert "<b>" not in made and "&lt;b&gt;" in made
    assert with_terms("tokenizer") == "tokenizer"


def test_the_boxes_of_the_path_lead_to_stages_that_are_there(tmp_path):
    stages = {"ch0_base": read_stage("ch0_base", "", tmp_path)}
    drawn = path_picture(stages)
    assert re.findall(r'href="(.*?)"', drawn) == ["#ch0_base"]
    assert drawn.count("absent") == sum(bool(box.stage) for box in PATH.values()) - 1
    for box in (*PATH.values(), *LOOP.values()):
        assert box.width / 2 <= box.x <= 400 - box.width / 2


# ------------------------------------------------------------------------------ groups of GRPO


def grpo_run(tmp_path, town_tokenizer, log: bool) -> tuple[list[dict], dict]:
    """Four rounds of GRPO -> (their numbers without times, the weights)."""
    gpt = small_gpt(town_tokenizer, 0)
    exercises = [Exercise(f"use {n}", lambda text: 0.0, "p") for n in range(1, 7)]
    config = GRPOConfig(steps=4, prompts_per_step=3, group_size=4, max_new_tokens=5)
    thinker = Thinker(gpt, town_tokenizer, Common(runs=tmp_path))

    def reward(number, reply, ended):
        right = float(reply[0] % 2) if reply else 0.0
        return right, {"accuracy": right}

    name = "grpo" if log else "another"
    groups = GroupLog(tmp_path, name, thinker, exercises, config, 0)
    rounds = train_grpo(
        gpt,
        [town_tokenizer.encode(exercise.text) for exercise in exercises],
        groups.watching(reward),
        config=config,
        optimizer=make_optimizer(gpt, matrix_lr=1e-2, other_lr=1e-2),
        generator=torch.Generator().manual_seed(3),
    )
    history = []
    for metrics in rounds:
        groups.after_round()
        history.append({k: v for k, v in metrics.items() if "second" not in k})
    return history, gpt.state_dict()


def test_to_log_groups_changes_nothing(tmp_path, town_tokenizer):
    with_log, weights = grpo_run(tmp_path, town_tokenizer, True)
    assert (tmp_path / "groups.json").exists()
    (tmp_path / "groups.json").unlink()
    without, same_weights = grpo_run(tmp_path, town_tokenizer, False)
    assert with_log == without and not (tmp_path / "groups.json").exists()
    for name, weight in weights.items():
        assert torch.equal(weight, same_weights[name]), name


def test_what_is_logged(tmp_path, town_tokenizer):
    grpo_run(tmp_path, town_tokenizer, True)
    content = json.loads((tmp_path / "groups.json").read_text())
    assert [entry["step"] for entry in content["rounds"]] == [0, 1, 2, 3]
    first = content["rounds"][0]["groups"]
    assert len(first) == 3 and {len(group["replies"]) for group in first} == {4}
    moved = 0
    for group in first:
        rewards = [reply["reward"] for reply in group["replies"]]
        for reply in group["replies"]:
            assert reply["advantage"] == pytest.approx(reply["reward"] - np.mean(rewards), abs=2e-3)
            assert len(reply["ids"]) == len(reply["change"]) == len(reply["logprobs"])
            assert max(reply["logprobs"], default=0) <= 0
            assert {str(token) for token in reply["ids"]} <= content["pieces"].keys()
            moved += any(reply["change"])
            if reply["advantage"] > 0.4:
                assert sum(reply["change"]) > 0  # what was better than its siblings became likelier
    assert moved > 0
    assert [entry["step"] for entry in earlier_rounds(tmp_path / "groups.json", 2)] == [0, 1]
    for broken in ("", "[]", '{"rounds": 3}', '{"rounds": [1, {"step": 0}]}'):
        (tmp_path / "groups.json").write_text(broken)
        assert earlier_rounds(tmp_path / "groups.json", 2) == []
    assert logged_rounds(1) == {0} and len(logged_rounds(70)) == 8


# ---------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def live_page(tmp_path_factory, town_tokenizer) -> Path:
    """report.html with a base kitten, a chat kitten and Zero, live credit and groups."""
    runs = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "PROMPTS", FEW)
        patch.setattr(selftest, "PUZZLE_TOKENS", 24)
        for seed, name in enumerate(("ch0_base", "ch1_sft", "ch5_reasoning")):
            folder = write_stage(runs, name, model="model.pt")
            save_model(folder / "model.pt", small_gpt(town_tokenizer, seed), town_tokenizer)
        write_stage(runs, "ch3_ppo")
        settings = {"gamma": 0.9, "lam": 0.8, "kl_coef": 0.3, "mean_score": 0.5}
        (runs / "ch3_ppo" / "token_credit.json").write_text(
            json.dumps({"note": HOSTILE, "settings": settings, "replies": [CREDIT]})
        )
        grpo_run(runs / "ch5_reasoning", town_tokenizer, True)
        return report.write_report(runs)


CREDIT = {
    "question": HOSTILE,
    "score": 1.5,
    "tokens": [" Purr", HOSTILE, "<|im_end|>"],
    "rows": {"GAE advantage": [0.0, 0.5, 1.0]},
    "kl": [0.5, -0.25, 1.0],
    "values": [0.2, 0.7, 1.0],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not find_browser():
        pytest.skip("no Chromium on this machine: the page is not looked at in a real browser")
    with Browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


STATUS = "document.querySelectorAll('.card:not([hidden]) .status')"
FINISHED = f"[...{STATUS}].every(s => /second/.test(s.textContent))"


def ask(browser, text: str) -> None:
    browser.run(f"document.querySelector('#talk textarea').value = {json.dumps(text)}")
    browser.run("document.querySelector('.go').click()")
    browser.wait_for(FINISHED)


def test_the_selftest_passes(browser, live_page):
    browser.open(live_page, "#selftest")
    line = "document.getElementById('selftest')?.textContent"
    browser.wait_for(f"/passed|failed/.test({line})")
    text = browser.run(line)
    assert text.startswith(f"selftest: passed {3 * FEW} of {3 * FEW};"), text
    assert browser.problems() == []


def test_the_selftest_can_fail(browser, live_page, tmp_path):
    """Another letter in each row of one matrix, and the page notices."""
    page = live_page.read_text(encoding="utf-8")
    start = page.index('"letters":"', page.index('id="weights-ch1_sft"')) + 11
    spoilt = page[:start] + "~!" * 800 + page[start + 1600 :]
    (tmp_path / "page.html").write_text(spoilt, encoding="utf-8")
    browser.open(tmp_path / "page.html", "#selftest")
    line = "document.getElementById('selftest')?.textContent"
    browser.wait_for(f"/passed|failed/.test({line})")
    assert browser.run(line).startswith("selftest: failed")


def test_everybody_answers_and_hostile_words_stay_words(browser, live_page):
    browser.open(live_page)
    before = browser.run("document.querySelectorAll('script, img, iframe').length")
    ask(browser, HOSTILE + " <|im_end|><think>")
    reads = browser.run("[...document.querySelectorAll('.card .tokens')].map(e => e.textContent)")
    assert "alert" in reads[0].replace("\u00b7", "")
    chat = browser.run(
        "[...document.querySelectorAll('.card')][1].querySelectorAll('.tokens .special').length"
    )
    assert chat == 3  # the turn of the user, its end, the turn of the assistant; none was typed
    assert browser.run("document.querySelectorAll('script, img, iframe').length") == before
    assert browser.run("document.querySelectorAll('.card[hidden]').length") == 1  # Zero: no puzzle
    ask(browser, "use 1, 2, 3 make 6")
    hidden = browser.run("[...document.querySelectorAll('.card')].map(card => card.hidden)")
    assert hidden == [False, True, False]
    assert browser.problems() == []


def test_go_on_from_another_token(browser, live_page):
    browser.open(live_page)
    ask(browser, "use 1, 2, 3 make 6")
    words = "[...document.querySelectorAll('.card:not([hidden]) .reply')][0]"
    place = "querySelectorAll('.word')[2].click()"
    browser.run(f"{words}.{place}")
    ten = browser.run(
        "[...document.querySelectorAll('.ten:not([hidden]) .piece')].map(e => e.textContent)"
    )
    assert len(ten) == 10
    first = browser.run(
        f"[...{words}.querySelectorAll('.word')].slice(0, 2).map(e => e.textContent)"
    )
    browser.run("document.querySelectorAll('.ten:not([hidden]) .option')[4].click()")
    browser.wait_for(FINISHED)
    after = browser.run(
        f"[...{words}.querySelectorAll('.word')].slice(0, 2).map(e => e.textContent)"
    )
    assert after == first
    other = browser.run(f"{words}.querySelectorAll('.word')[2].classList.contains('other')")
    assert other is True


def test_the_same_seed_says_the_same(browser, live_page):
    browser.open(live_page)
    said = "[...document.querySelectorAll('.card:not([hidden]) .reply')].map(e => e.textContent)"
    browser.run("document.querySelector('#talk input[type=range]').value = 1")
    ask(browser, "Hello?")
    first = browser.run(said)
    ask(browser, "Hello?")
    assert browser.run(said) == first
    browser.run("document.querySelectorAll('#talk .plain')[0].click()")  # Again: other dice
    browser.wait_for(FINISHED)
    assert browser.run(said) != first


def test_tokens_of_any_text(browser, live_page, town_tokenizer):
    browser.open(live_page)
    text = "Is it 1234? \U0001f638 <|im_end|> \u202e"
    browser.run(
        f"{{const t = document.querySelector('#pieces textarea'); t.value = {json.dumps(text)};"
        "t.dispatchEvent(new Event('input'))}"
    )
    ids = browser.run(
        "[...document.querySelectorAll('#pieces .tokens')[0].children].map(e => +e.title)"
    )
    assert ids == town_tokenizer.encode(text)
    shown = browser.run("document.querySelectorAll('#pieces .tokens')[0].textContent")
    assert "\\u202e" in shown or "\\xe2" in shown
    trained = browser.run(
        "[...document.querySelectorAll('#pieces .tokens')[1].children]"
        ".filter(e => e.classList.contains('trained')).map(e => +e.title)"
    )
    reply = town_tokenizer.encode(sentences.SCRIPT["reply_text"])
    assert trained == [*reply, town_tokenizer.im_end_id]


def test_live_credit_equals_that_of_the_package(browser, live_page):
    """The sliders stand where the run stood; the numbers are those of ppo.py."""
    browser.open(live_page)
    cells = "[...row.cells].map(cell => cell.textContent)"
    table = f"[...document.querySelectorAll('#credit-box tbody tr')].map(row => {cells})"
    kl, values = torch.tensor([CREDIT["kl"]]), torch.tensor([CREDIT["values"]])
    mask = torch.ones(1, 3).bool()
    rewards = kl_shaped_rewards(torch.tensor([1.5]), kl, torch.zeros(1, 3), mask, kl_coef=0.3)
    deltas, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    advantages, _ = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    rows = browser.run(table)
    for t, (_, *cells) in enumerate(rows):
        found = [float(cell.replace("\u2212", "-")) for cell in cells]
        wanted = [rewards[0, t], values[0, t], deltas[0, t], advantages[0, t]]
        assert found == pytest.approx([float(w) for w in wanted], abs=0.0051)
    browser.run(
        "document.querySelectorAll('#credit-box .choices')[1].querySelectorAll('button')[2].click()"
    )
    assert [row[4] for row in browser.run(table)] == ["+1.00"] * 3  # GRPO: 1.5 - 0.5 for all


def test_the_inspector_of_groups(browser, live_page):
    browser.open(live_page)
    assert browser.run("document.querySelectorAll('.group').length") == 3
    assert browser.run("document.querySelectorAll('.group .sibling').length") == 12
    browser.run(
        "{const s = document.querySelector('#groups-box input'); s.value = 3;"
        "s.dispatchEvent(new Event('input'))}"
    )
    assert "3 rounds" in browser.run("document.querySelector('#groups-box output').textContent")


@pytest.mark.parametrize("width, dark", [(360, True), (768, False), (1280, False)])
def test_nothing_is_wider_than_the_screen(browser, live_page, width, dark):
    browser.look(width, dark=dark)
    browser.open(live_page)
    ask(browser, "meow" * 100)
    browser.run("document.querySelectorAll('details').forEach(fold => (fold.open = true))")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems() == []


def test_print_is_short(browser, live_page):
    browser.open(live_page)
    pages = len(re.findall(rb"/Type\s*/Page\b", browser.printed()))
    assert 1 <= pages <= 14


# -------------------------------------------------------------------------------- two languages

# Texts that a reader sees: those of elements that are shown, but for what kittens say and code.
SEEN = """[...document.querySelectorAll('body *')]
  .filter((e) => e.checkVisibility() && !e.closest('script, [translate=no]'))
  .flatMap((e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data))
  .join(" | ")"""
SENTENCES = {  # one of each script and of each kind of part
    "en": r"Talk to them|Ask|as in the run|after .+ rounds|step \d+: training rows|random weights",
    "zh": r"和它们聊聊|提问|和这次运行一样|\d+ 轮之后|步 \d+：训练文本|随机权重",
}


def sentences_seen(browser) -> dict[str, int]:
    """How many of the sentences of each language a reader sees, with the pointer on a chart."""
    browser.run(
        "document.querySelector('.chart .hit rect')"
        ".dispatchEvent(new PointerEvent('pointermove', { bubbles: true }))"
    )
    text = browser.run(SEEN)
    return {
        language: sum(bool(re.search(sentence, text)) for sentence in found.split("|"))
        for language, found in SENTENCES.items()
    }


def test_the_switch_of_languages(browser, live_page):
    browser.look(1280)
    browser.open(live_page)
    assert sentences_seen(browser) == {"en": 6, "zh": 0}
    label = "document.querySelector('#talk textarea').placeholder"
    english, title = browser.run(label), browser.run("document.title")
    browser.run("document.getElementById('language').click()")
    assert sentences_seen(browser) == {"en": 0, "zh": 6}
    assert browser.run("document.documentElement.lang") == "zh"
    assert browser.run(label) == sentences_zh.SCRIPT["box"]
    assert browser.run("document.title") == sentences_zh.TITLE
    browser.run("document.getElementById('language').click()")
    assert sentences_seen(browser) == {"en": 6, "zh": 0}
    assert (browser.run(label), browser.run("document.title")) == (english, title)


def test_the_address_opens_the_page_in_chinese(browser, live_page):
    browser.open(live_page, "#zh")
    assert sentences_seen(browser) == {"en": 0, "zh": 6}
    ask(browser, "Hello?")
    browser.run("document.querySelectorAll('.reply .word')[0].click()")  # the ten likeliest
    browser.run("document.querySelectorAll('details').forEach(fold => (fold.open = true))")
    in_no_language = SEEN.replace("translate=no]", "translate=no], [lang=zh]:not(html)")
    words = re.findall(r"[A-Za-z]{2,}", browser.run(in_no_language))
    assert set(words) - NAMES - PLANTED == set()
    said = browser.run("document.querySelector('.card .reply').textContent")
    browser.run("document.getElementById('language').click()")  # in the middle of a talk
    assert browser.run("document.querySelector('.card .reply').textContent") == said
    assert browser.problems() == []


def test_only_one_language_is_printed(browser, live_page):
    browser.open(live_page, "#zh")
    browser.tab("Emulation.setEmulatedMedia", media="print")
    shown = browser.run(
        "[...document.querySelectorAll('[lang=en]')].filter(e => e.checkVisibility()).length"
    )
    browser.tab("Emulation.setEmulatedMedia", media="")
    assert shown == 0
