"""Rewards that are rules: right answer, right format. No reward model, nothing to learn.

One idea: a rule is cheap and cannot be sweet-talked, but it rewards what it says and not what you
meant. Every hole in it will be found by the model. So a reply has to have one exact shape,

    <think>...</think><answer>...</answer>

and whatever else comes, more tags, text before or after, a reply that was cut off, scores 0. The
two rules are those of DeepSeek-R1-Zero (DeepSeek-AI 2025, section 2.2.2): accuracy and format.

The functions read the reply as `Tokenizer.decode` renders it, without prompt and stop token. There
a special token shows as its name, and ordinary text that spells one is escaped ("<\\answer>"), so
spelling a tag is not the same as writing it.

Read before: countdown.py. Left out: partial credit. "Almost right" is where cheating starts.
"""

import re
from decimal import Decimal
from typing import NamedTuple

from kittenllm.kitten_town.countdown import Problem, check_answer

REPLY = re.compile(r"<think>(.*)</think><answer>(.*)</answer>", re.DOTALL)
# The names of all special tokens. None of them may stand inside the thinking or the answer.
SPECIAL = re.compile(r"<\|[a-z_]+\|>|</?(?:think|answer|call)>")
# Strict: ASCII digits, at most 15 of them, commas only where thousands end (0,500 is a half).
WHOLE_PART = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3}){1,4}|[0-9]{1,15})"
DECIMAL_NUMBER = re.compile(r"(-?)\$?(" + WHOLE_PART + r"(?:\.[0-9]{1,6})?)")


class Reply(NamedTuple):
    """What stands between the tags of a reply of the right shape."""

    think: str
    answer: str


def parse_reply(reply_text: str) -> Reply | None:
    """The two parts of a reply, or None if it does not have the exact shape."""
    found = REPLY.fullmatch(reply_text)
    if found is None:
        return None
    think, answer = found.groups()
    if SPECIAL.search(think) or SPECIAL.search(answer):
        return None
    return Reply(think, answer)


def format_reward(reply_text: str, *, ended: bool = True) -> float:
    """1.0 for a reply of the right shape with something in both parts, else 0.0.

    `ended` says whether the model stopped by itself (`Rollout.ended`); cut off means 0.0.
    """
    reply = parse_reply(reply_text)
    if not ended or reply is None:
        return 0.0
    return float(bool(reply.think.strip()) and bool(reply.answer.strip()))


def answer_reward(reply_text: str, problem: Problem, *, ended: bool = True) -> float:
    """1.0 if the reply has the right shape and its answer is a right chain, else 0.0.

    `ended` says whether the model stopped by itself (`Rollout.ended`); cut off means 0.0.
    """
    reply = parse_reply(reply_text)
    if not ended or reply is None:
        return 0.0
    return float(check_answer(reply.answer, problem))


def read_number(text: str) -> Decimal | None:
    """The one number that the text is: "1,000" "$18" "18.00" "-3"; None for anything else."""
    found = DECIMAL_NUMBER.fullmatch(text.strip(" "))
    if found is None:
        return None
    sign, digits = found.groups()
    return Decimal(sign + digits.replace(",", ""))


def gsm8k_answer_reward(reply_text: str, final_answer: str, *, ended: bool = True) -> float:
    """1.0 if the answer of the reply is the number `final_answer`, else 0.0.

    For word problems in the style of GSM8K (Cobbe et al. 2021), where `final_answer` stands after
    "####". The answer must be one number and nothing else: a rule that looks for the number
    anywhere in the text can be cheated by listing numbers.

    Raises: ValueError if `final_answer` is not a number.
    """
    expected = read_number(final_answer)
    if expected is None:
        raise ValueError(
            f"final_answer must be one number such as 1,000 or 18, got {final_answer!r}"
        )
    reply = parse_reply(reply_text)
    if not ended or reply is None:
        return 0.0
    return float(read_number(reply.answer) == expected)


def count_waits(text: str) -> int:
    """How often the word "wait" stands in a text."""
    return len(re.findall(r"\bwait\b", text))
