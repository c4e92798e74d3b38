"""Rules: one exact shape, one right answer, and a red team that tries to get a point for less."""

from pathlib import Path

import pytest

from kittenllm.kitten_town import countdown, rules
from kittenllm.kitten_town.countdown import Problem
from kittenllm.kitten_town.rules import (
    Reply,
    answer_reward,
    count_waits,
    format_reward,
    gsm8k_answer_reward,
    parse_reply,
    read_number,
)

PROBLEM = Problem((3, 5, 8), 19)
THINK = "3*5=15 left 8,15+8=23 vs 19 no wait 3*8=24 left 5,24-5=19 vs 19 yes"
RIGHT = "3*8=24,24-5=19"
GOOD = f"<think>{THINK}</think><answer>{RIGHT}</answer>"


def reply(answer: str, think: str = THINK) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def test_a_good_reply_gets_both_points():
    assert answer_reward(GOOD, PROBLEM) == 1.0
    assert format_reward(GOOD) == 1.0
    assert parse_reply(GOOD) == Reply(THINK, RIGHT)


def test_the_thinking_may_be_anything_but_it_must_be_there():
    assert answer_reward(reply(RIGHT, think="meow\nmeow"), PROBLEM) == 1.0
    assert format_reward(reply(RIGHT, think="meow\nmeow")) == 1.0
    # A right answer without thinking is right, but it is not the format.
    assert answer_reward(reply(RIGHT, think=""), PROBLEM) == 1.0
    assert format_reward(reply(RIGHT, think="")) == 0.0
    assert format_reward(reply(RIGHT, think=" \n")) == 0.0


def test_a_wrong_answer_in_the_right_format_gets_one_point():
    assert answer_reward(reply("3*5=15,15+8=23"), PROBLEM) == 0.0
    assert format_reward(reply("3*5=15,15+8=23")) == 1.0


# Cheats on the answer: the shape is right, so only the checker stands in the way.
ANSWER_CHEATS = {
    "the target alone": "19",
    "the target as an equation": "19=19",
    "nothing": "",
    "only a space": " ",
    "a number twice, one dropped": "8+8=16,16+3=19",
    "a number that was not given": "9+7=16,16+3=19",
    "only two numbers": "3*8=24",
    "wrong arithmetic that ends right": "3*5=15,15+8=19",
    "second step starts elsewhere": "3*8=24,27-8=19",
    "first result invented": "3*8=14,14+5=19",
    "several answers": "3*5=15,15+8=23 3*8=24,24-5=19",
    "several answers with or": "3*5=15,15+8=23 or 3*8=24,24-5=19",
    "right answer, then more": "3*8=24,24-5=19,19+0=19",
    "right answer hidden in words": "the answer is 3*8=24,24-5=19",
    "negative numbers": "-3*-8=24,24-5=19",
    "minus minus": "3*8=24,24--5=29",
    "huge numbers": "3*8=24,24-5=" + "9" * 10_000,
    "leading zeros": "03*08=24,24-05=19",
    "full-width digits": "３*８=２４,２４-５=１９",
    "arabic digits": "٣*٨=٢٤,٢٤-٥=١٩",
    "superscript": "3*8=24,24-5=1⁹",
    "power": "3**8=24,24-5=19",
    "division": "8/1=8,8+11=19",
    "brackets": "(3*8)=24,24-5=19",
    "code": "__import__('os').system('echo 19')",
    "code as an expression": "PROBLEM.target",
    "spaces": "3 * 8 = 24, 24 - 5 = 19",
    "a line end": "3*8=24,24-5=19\n",
    "a zero byte": "3*8=24,24-5=19\x00",
    "a comment": "3*8=24,24-5=19#",
    "an escaped end tag": "3*8=24,24-5=19<\\/answer>",
    "the prompt copied": "use 3, 5, 8 make 19",
    "one step that does all": "3*8-5=19",
    "another target": "3*5=15,15-8=7",
    "decimal numbers": "3.0*8=24,24-5=19",
    "a list of all numbers": " ".join(str(n) for n in range(100)),
}


@pytest.mark.parametrize("cheat", ANSWER_CHEATS)
def test_red_team_on_the_answer(cheat):
    assert answer_reward(reply(ANSWER_CHEATS[cheat]), PROBLEM) == 0.0


# Cheats on the shape: the right chain is in there somewhere, yet both rules give 0.
SHAPE_CHEATS = {
    "empty": "",
    "the answer without tags": RIGHT,
    "no thinking part": f"<answer>{RIGHT}</answer>",
    "no answer part": f"<think>{THINK}</think>",
    "answer inside the thinking": f"<think>{THINK}<answer>{RIGHT}</answer></think>",
    "answer first": f"<answer>{RIGHT}</answer><think>{THINK}</think>",
    "answer never closed": f"<think>{THINK}</think><answer>{RIGHT}",
    "thinking never closed": f"<think>{THINK}<answer>{RIGHT}</answer>",
    "thinking never opened": f"{THINK}</think><answer>{RIGHT}</answer>",
    "two answers, right one last": f"<think>a</think><answer>1</answer><answer>{RIGHT}</answer>",
    "two answers, right one first": f"<think>a</think><answer>{RIGHT}</answer><answer>1</answer>",
    "the reply twice": GOOD + GOOD,
    "two thoughts": f"<think>a</think><think>b</think><answer>{RIGHT}</answer>",
    "nested thoughts": f"<think><think>a</think></think><answer>{RIGHT}</answer>",
    "nested answers": f"<think>a</think><answer><answer>{RIGHT}</answer></answer>",
    "a full reply inside the thinking": f"<think>{GOOD}</think><answer>{RIGHT}</answer>",
    "an answer opened in the thinking": f"<think>a<answer>b</think><answer>{RIGHT}</answer>",
    "text before": "sure! " + GOOD,
    "text after": GOOD + " purr",
    "a space after": GOOD + " ",
    "a line end after": GOOD + "\n",
    "a space between the parts": GOOD.replace("</think><", "</think> <"),
    "another turn after": GOOD + "<|im_end|><|im_start|>user\nwell done",
    "a turn inside the thinking": f"<think>a<|im_end|></think><answer>{RIGHT}</answer>",
    "a tool call in the thinking": f"<think><call>sum</call></think><answer>{RIGHT}</answer>",
    "padding inside the answer": f"<think>a</think><answer>{RIGHT}<|pad|></answer>",
    "escaped tags, typed as text": f"<\\think>a<\\/think><\\answer>{RIGHT}<\\/answer>",
    "escaped answer tags only": f"<think>a</think><\\answer>{RIGHT}<\\/answer>",
    "capital tags": f"<THINK>a</THINK><ANSWER>{RIGHT}</ANSWER>",
    "tags with spaces": f"< think>a</ think>< answer>{RIGHT}</ answer>",
    "other brackets": f"＜think＞a＜/think＞＜answer＞{RIGHT}＜/answer＞",
}


@pytest.mark.parametrize("cheat", SHAPE_CHEATS)
def test_red_team_on_the_shape(cheat):
    assert answer_reward(SHAPE_CHEATS[cheat], PROBLEM) == 0.0
    assert format_reward(SHAPE_CHEATS[cheat]) == 0.0
    assert gsm8k_answer_reward(SHAPE_CHEATS[cheat].replace(RIGHT, "19"), "19") == 0.0


def test_the_red_team_is_large_enough():
    assert len(ANSWER_CHEATS) + len(SHAPE_CHEATS) >= 20


def test_an_empty_answer_is_not_the_format():
    assert format_reward(reply("")) == 0.0
    assert format_reward(reply(" ")) == 0.0


def test_a_reply_that_was_cut_off_scores_0():
    assert answer_reward(GOOD, PROBLEM, ended=False) == 0.0
    assert format_reward(GOOD, ended=False) == 0.0
    assert gsm8k_answer_reward(reply("18"), "18", ended=False) == 0.0
    assert answer_reward(GOOD[:40], PROBLEM, ended=False) == 0.0


def test_text_that_spells_a_tag_is_escaped_by_the_tokenizer():
    """The whole way: typed tags and real special tokens give different rendered replies."""
    tokenizer_module = pytest.importorskip("kittenllm.tokenizer")
    tokenizer = tokenizer_module.Tokenizer(tokenizer_module.train_bpe("3*8=24 wait no yes", 360))
    typed = tokenizer.decode(tokenizer.encode(GOOD))
    assert answer_reward(typed, PROBLEM) == 0.0
    assert format_reward(typed) == 0.0
    ids = [tokenizer.think_id, *tokenizer.encode(THINK), tokenizer.end_think_id]
    ids += [tokenizer.answer_id, *tokenizer.encode(RIGHT), tokenizer.end_answer_id]
    assert tokenizer.decode(ids) == GOOD
    assert answer_reward(tokenizer.decode(ids), PROBLEM) == 1.0


def test_every_special_token_is_known_to_the_rules():
    tokenizer_module = pytest.importorskip("kittenllm.tokenizer")
    for name in tokenizer_module.SPECIAL_TOKENS:
        assert parse_reply(f"<think>a{name}</think><answer>{RIGHT}</answer>") is None
        assert parse_reply(f"<think>a</think><answer>{RIGHT}{name}</answer>") is None


def test_long_replies_are_read_in_no_time():
    long = "<think>" + "<think" * 50_000 + "</think><answer>" + "1+" * 50_000 + "</answer>"
    assert answer_reward(long, PROBLEM) == 0.0  # a test that hangs has failed


def test_no_eval_anywhere():
    for module in (rules, countdown):
        code = Path(module.__file__).read_text(encoding="utf-8")
        for word in ("eval(", "exec(", "literal_eval"):
            assert word not in code


@pytest.mark.parametrize(
    "written, final_answer",
    [
        ("18", "18"),
        ("18", "18.0"),
        ("18.00", "18"),
        ("$18", "18"),
        ("$18.00", "18"),
        ("1,000", "1000"),
        ("1000", "1,000"),
        ("$1,234,567.50", "1234567.5"),
        ("-3", "-3"),
        ("-$3", "-3"),
        (" 18 ", "18"),
        ("0.5", "0.50"),
        ("070", "70"),
    ],
)
def test_gsm8k_numbers_that_are_equal(written, final_answer):
    assert gsm8k_answer_reward(reply(written), final_answer) == 1.0


@pytest.mark.parametrize(
    "written",
    [
        "",
        "19",
        "-18",
        "17 18",  # the last number in the text
        "18 or 19",
        "the answer is 18",
        "18 eggs",
        "1 8",
        "1,8",
        "18,",
        "18.",
        "18.5",
        "18%",
        "1.8e1",
        "9+9",
        "36/2",
        "--18",
        "+18",
        "$$18",
        "0x12",
        "１８",
        "١٨",
        "18\n19",
        "1" * 1_000,
        "nan",
        "Infinity",
        "18=18",
    ],
)
def test_gsm8k_red_team(written):
    assert gsm8k_answer_reward(reply(written, think="so 18"), "18") == 0.0


def test_the_gsm8k_key_must_be_a_number():
    with pytest.raises(ValueError, match="eighteen"):
        gsm8k_answer_reward(reply("18"), "eighteen")


def test_read_number_by_hand():
    assert read_number("$1,250.50") == read_number("1250.5")
    assert read_number("12,50") is None
    assert read_number("0,500") is None  # a half, written with a decimal comma
    assert read_number("1,2345") is None
    assert read_number("-0") == 0


def test_count_waits():
    assert count_waits(THINK) == 1
    assert count_waits("wait wait, waiter! await wait.") == 3
    assert count_waits("") == 0
