"""Does the judge see truth? Two replies that differ in one word, and only one of them is true.

One idea: a reward model that prefers true replies may have learned the truth, or only that sure and
friendly replies tend to be true. So question, wording and tone are the same here, and the only
difference is the value: "Pip lives in the mill." beside "Pip lives in the barn."

Taught facts are those that the pairs of its training were about. Facts that are held out it can
only judge by what its books told. Used by story.py.
"""

import random
from typing import NamedTuple

import torch

from chapters.common.measuring import is_right
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import QUESTION_SEED, mean_and_error
from kittenllm.kitten_town import voices
from kittenllm.kitten_town.chats import Question
from kittenllm.kitten_town.facts import ATTRIBUTES, Town
from kittenllm.reward_model import RewardModel, score_sequences
from kittenllm.tokenizer import Tokenizer


class TruthPair(NamedTuple):
    """A question about a fact and two replies with the same words but for the value."""

    question: Question
    true: str
    false: str


def truth_pairs(town: Town, *, held_out: bool) -> list[TruthPair]:
    """One pair for each fact in each wording of its question, the same ones for every kitten."""
    rng = random.Random(QUESTION_SEED)
    pairs = []
    for fact in town.held_out_facts if held_out else town.taught_facts:
        others = [value for value in ATTRIBUTES[fact.attribute] if value != fact.value]
        for wording in voices.FACT_QUESTIONS[fact.attribute]:
            text = wording.format(k=fact.kitten)
            question = Question("fact", text, (fact.kitten, fact.attribute))
            statement = rng.choice(voices.FACT_STATEMENTS[fact.attribute])
            tone = rng.choice(voices.TONE_WORDINGS[rng.choice(voices.TONES)])
            true, false = (
                reply_of(statement.format(k=fact.kitten, v=value), tone)
                for value in (fact.value, rng.choice(others))
            )
            pairs.append(TruthPair(question, true, false))
    return pairs


def reply_of(core: str, tone: str) -> str:
    """A whole reply: `core` in the wording `tone`."""
    return voices.capitalise(tone.format(core=core, Core=voices.capitalise(core)))


def truth_accuracy(
    reward_model: RewardModel, tokenizer: Tokenizer, town: Town, *, held_out: bool
) -> tuple[float | None, float | None]:
    """Share of pairs whose true reply has the higher score, and its standard error by fact."""
    pairs = truth_pairs(town, held_out=held_out)
    scores = []
    for which in ("true", "false"):
        rows = []
        for pair in pairs:
            prompt = chat_prompt(tokenizer, pair.question.messages())
            reply = tokenizer.encode(getattr(pair, which))
            rows.append([*prompt, *reply, tokenizer.im_end_id])
        scores.append(torch.tensor(score_sequences(reward_model, rows).tolist()))  # (P,)
    ordered = is_right(scores[0] - scores[1])
    return mean_and_error(ordered.tolist(), [pair.question.about for pair in pairs])
