"""Rehearsal: before a real model learns something new, it says what it can, and goes on saying it.

What a model was trained on before is not in its folder, so it cannot be replayed. But the model can
write: its own answers to everyday questions, and a few plain texts of its own. A share of these
among the new exercises holds it where it is. It learns nothing from them: they are what it would
say anyway (Robins 1995; with a network that writes, Shin et al. 2017, arXiv 1705.08690; of language
models Huang et al. 2024, arXiv 2403.01244).

The everyday questions are those of kitten_town/everyday.py. None of them is one of the twenty
questions that measure what was forgotten; a test looks after that.

Used by real_model.py. Left out: a distance to the model's old probabilities, which would need the
old model, or its logits, at every step.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from chapters.common.kitten import Kitten
from kittenllm.chat import ChatTokens, chat_prompt, text_prompt
from kittenllm.kitten_town.everyday import TEXT_OPENINGS, everyday_questions
from kittenllm.sampling import Rollout, generate
from kittenllm.settings import new_generator, new_random
from kittenllm.tokenizer import Tokenizer

QUESTIONS, ANSWER_TOKENS = 96, 40
TEXTS, TEXT_TOKENS = 32, 96
QUICK = (4, 2)  # questions and texts of a quick run
AT_ONCE = 96  # replies in one batch; few rows at a time would take twice as long


def own_words(own: Kitten, assistant: Tokenizer) -> list[ChatTokens]:
    """What is rehearsed; the model's own words are trained, and nothing else.

    Everyday questions with the model's likeliest answers, once with its own system message and once
    with that of the assistant, which shall say the same; and plain texts drawn from the model.
    """
    common = own.common
    count, texts = QUICK if common.quick else (QUESTIONS, TEXTS)
    questions = everyday_questions(count, new_random(common.seed, "rehearsal", "questions"))
    chats = [[{"role": "user", "content": question}] for question in questions]
    words, again = [], []
    for first in range(0, count, AT_ONCE):
        part = chats[first : first + AT_ONCE]
        prompts = [chat_prompt(own.tokenizer, chat) for chat in part]
        rollout = generate(
            own.gpt, prompts, max_new_tokens=ANSWER_TOKENS, temperature=0.0, generator=None
        )
        words += trained_replies(rollout)
        for chat, prompt, said in zip(part, prompts, words[first:], strict=True):
            again.append(ChatTokens())
            again[-1].add(chat_prompt(assistant, chat), trained=False)
            again[-1].add(said.tokens[len(prompt) :], trained=True)
        print(f"rehearsal: {len(words)} of {count} everyday questions answered", flush=True)
    openings = itertools.islice(itertools.cycle(TEXT_OPENINGS), texts)
    rollout = generate(
        own.gpt,
        [text_prompt(own.tokenizer, opening) for opening in openings],
        max_new_tokens=TEXT_TOKENS,
        temperature=1.0,
        generator=new_generator(common.device, common.seed, "rehearsal", "texts"),
    )
    return [*words, *again, *trained_replies(rollout)]


def trained_replies(rollout: Rollout) -> list[ChatTokens]:
    """Each prompt with its reply, which is trained; one that was cut off has no end."""
    tokens, masks = rollout.tokens.tolist(), rollout.response_mask.tolist()
    rows = zip(tokens, masks, rollout.lengths.tolist(), strict=True)
    return [ChatTokens(row[:end], [False, *mask[: end - 1]]) for row, mask, end in rows]


def in_turn(chats: Sequence[ChatTokens], rng: random.Random) -> Iterator[ChatTokens]:
    """One after the other in a shuffled order, and then from the start again."""
    return itertools.cycle(rng.sample(list(chats), len(chats)))
