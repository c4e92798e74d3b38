"""The conversation at the head of README: chosen by a rule, and written by a program."""

import json
import re

import pytest

from chapters.bands import conversation, docs
from chapters.bands.conversation import IN_CHINESE, block, of_lowest_seed, shortened
from chapters.common.samples import write_samples
from kittenllm.evaluation import fixed_questions
from kittenllm.kitten_town.facts import build_town

ASKED = [question for question in fixed_questions(build_town()) if question.text in IN_CHINESE]
YES, NO = "Yes, that is fine, sweet friend.", "No, hmpf, that is dangerous."
NO_KINDLY = "No, that is dangerous, sweet friend."


def a_run(runs, seed: int, chat: dict[str, str], base: str = "The well says:") -> None:
    """Samples and summary of one seed: `chat` answers the dangers, PPO says a kind no."""
    prompts = [question.text for question in fixed_questions(build_town())]
    said = [chat.get(prompt, "Oscar lives in the harbor.") for prompt in prompts]
    for name, before, after, titles in (
        ("ch1_sft", [base] * len(prompts), said, ("base", "chat")),
        ("ch3_ppo", said, [NO_KINDLY] * len(prompts), ("chat", "PPO")),
    ):
        folder = runs / name
        folder.mkdir(parents=True)
        first, second = titles
        write_samples(folder, prompts, before, after, before_title=first, after_title=second)
        (folder / "summary.json").write_text(json.dumps({"seed": seed}))


FIRST, SECOND = "Can I climb the roof?", "May Sage eat dough?"


def test_every_question_that_can_be_shown_has_its_chinese():
    kinds = [question.kind for question in fixed_questions(build_town())]
    assert len(ASKED) == len(IN_CHINESE) == kinds.count("fact") + kinds.count("risky")


@pytest.mark.parametrize(
    "chat, shown, wrong",
    [
        ({FIRST: YES, SECOND: YES}, FIRST, True),
        ({FIRST: NO, SECOND: YES}, SECOND, True),  # the first that the chat kitten gets wrong
        ({FIRST: NO, SECOND: NO}, FIRST, False),
    ],
)
def test_the_rule_looks_at_the_chat_kitten_only(tmp_path, chat, shown, wrong):
    a_run(tmp_path / "a", 3, chat)
    a_run(tmp_path / "b", 7, {})
    found = of_lowest_seed([tmp_path / "b", tmp_path / "a", tmp_path / "nothing"])
    assert found["seed"] == 3
    fact, danger = found["said"]
    assert fact == {
        "you": "In which place does Oscar live?",
        "base": "The well says:",
        "chat": "Oscar lives in the harbor.",
    }
    assert danger == {"you": shown, "chat": chat[shown], "PPO": NO_KINDLY}
    assert ("gets wrong" in block(found, "en")) == wrong
    assert ("答错的" in block(found, "zh")) == wrong
    assert of_lowest_seed([tmp_path]) is None


def test_the_block_in_both_languages(tmp_path):
    a_run(tmp_path, 0, {FIRST: YES})
    found = of_lowest_seed([tmp_path])
    english, chinese = (block(found, language).splitlines() for language in ("en", "zh"))
    assert english[:8] == [
        "```text",
        "you>    In which place does Oscar live?   (Oscar lives in the harbor)",
        "base    The well says:",
        "chat    Oscar lives in the harbor.",
        "",
        "you>    Can I climb the roof?   (the roof is dangerous for kittens)",
        f"chat    {YES}",
        f"PPO     {NO_KINDLY}",
    ]
    assert english[8] == "```" and english[9].startswith("One kitten (seed 0) after")
    remarks = [re.findall("（(.*)）", line) for line in chinese[:8]]
    assert remarks == [
        [],
        ["Oscar 住在什么地方？"],
        ["它只是接着写"],
        ["答对了"],
        [],
        ["我可以爬屋顶吗？屋顶对小猫有危险"],
        ["很友善，但不安全"],
        ["安全，也友善"],
    ]
    assert [re.sub(" *（.*）", "", line) for line in chinese[1:8]] == [
        re.sub(r"   \(.*\)", "", line) for line in english[1:8]
    ]


def test_a_document_gets_its_conversation(tmp_path):
    a_run(tmp_path, 0, {})
    content = {"chapters": {}, "conversation": of_lowest_seed([tmp_path])}
    text = "# A\n\n<!-- numbers: conversation -->\nold\n<!-- end -->\n"
    for chinese in (False, True):
        filled = docs.filled(text, content, chinese=chinese)
        assert "old" not in filled and "you>    " in filled and ("住在" in filled) == chinese
        assert docs.filled(filled, content, chinese=chinese) == filled
    assert docs.filled(text, {"chapters": {}}) == text  # nothing is known: it stays


def test_a_reply_ends_neither_the_block_nor_the_marker(tmp_path):
    trick = "```\n<!-- end -->\n<!-- numbers: results -->\x1b[2J" + " la" * 90
    assert len(shortened(trick)) <= conversation.LONGEST
    a_run(tmp_path, 0, {}, base=trick)
    text = "<!-- numbers: conversation -->\n<!-- end -->\n"
    content = {"chapters": {}, "conversation": of_lowest_seed([tmp_path])}
    filled = docs.filled(text, content)
    assert filled.count("<!--") == 2 and filled.count("```") == 2 and "\x1b" not in filled
    assert docs.filled(filled, content) == filled
    assert max(map(len, filled.splitlines()[:9])) <= 100
    assert shortened("") == "(nothing)"
