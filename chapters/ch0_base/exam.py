"""What a base kitten is asked: does it know, does it answer, can it copy?

One idea: to know and to answer are two things. A fact is *known* if a text that tells it is
continued with the right value. A bare question is *answered* if the right value is among the next
words. A bookish nerd does the first and not the second.

Used by story.py. Letters: F facts, Q questions.
"""

import random

from kittenllm.chat import text_prompt
from kittenllm.evaluation import QUESTION_SEED, mean_and_error
from kittenllm.gpt import GPT
from kittenllm.kitten_town import echoes, voices
from kittenllm.kitten_town.chats import held_out_questions
from kittenllm.kitten_town.facts import PEOPLE, Town
from kittenllm.kitten_town.judge import words_of
from kittenllm.sampling import generate
from kittenllm.settings import new_generator
from kittenllm.tokenizer import Tokenizer

ANSWER_WITHIN = 12  # tokens after a bare question in which an answer counts
VALUE_TOKENS = 4  # enough for any value
BARE_COUNTS = {"fact": 320, "sum": 80}
ECHO_LISTS = 300


def continued(
    gpt: GPT, tokenizer: Tokenizer, texts: list[str], *, tokens: int, temperature: float
) -> list[str]:
    """What the kitten writes after each text."""
    rollout = generate(
        gpt,
        [text_prompt(tokenizer, text) for text in texts],
        max_new_tokens=tokens,
        temperature=temperature,
        generator=new_generator(gpt.device, 0),
    )
    return [tokenizer.decode(reply) for reply in rollout.replies()]


def fact_recall(gpt: GPT, tokenizer: Tokenizer, town: Town) -> tuple[float, float]:
    """Share of the 200 facts that are told rightly when a text stops just before the value, as
    "Pip lives in the"; greedily; and the standard error by fact."""
    asked = [
        (fact, cue) for fact in town.facts.values() for cue in voices.FACT_CUES[fact.attribute]
    ]
    facts = [fact for fact, _ in asked]
    cues = [cue.format(k=fact.kitten) for fact, cue in asked]
    texts = continued(gpt, tokenizer, cues, tokens=VALUE_TOKENS, temperature=0.0)
    hits = [words_of(text)[:1] == [fact.value] for text, fact in zip(texts, facts, strict=True)]
    topics = [(fact.kitten, fact.attribute) for fact in facts]
    return mean_and_error([float(hit) for hit in hits], topics)


def bare_answer_rate(
    gpt: GPT, tokenizer: Tokenizer, town: Town, *, counts: dict[str, int] = BARE_COUNTS
) -> tuple[float, float]:
    """Share of held-out questions, asked without any template, whose answer is among the next
    twelve tokens; at temperature 1; and the standard error by topic."""
    questions = [
        question
        for kind, count in counts.items()
        for question in held_out_questions(town, kind, count, QUESTION_SEED)
    ]
    asked = [question.text for question in questions]
    texts = continued(gpt, tokenizer, asked, tokens=ANSWER_WITHIN, temperature=1.0)
    hits = []
    for question, text in zip(questions, texts, strict=True):
        if question.kind == "fact":
            answer = town.value(*question.topic)
        else:
            answer = str(sum(question.topic))
        hits.append(float(answer in words_of(text)))
    return mean_and_error(hits, [question.about for question in questions])


def echo_accuracy(
    gpt: GPT, tokenizer: Tokenizer, *, lists: int = ECHO_LISTS
) -> tuple[float, float]:
    """Share of unseen lists of one to six items that are said again without a mistake, in all six
    shapes, at temperature 1; and the standard error by list."""
    rng = random.Random(QUESTION_SEED)
    prompts, wanted, topics = [], [], []
    for number in range(lists):
        said = " ".join(echoes.echo_items(rng))
        for shape in echoes.SHAPES.values():
            first, second, rest = shape.split("{said}")[:3]
            person = rng.choice(PEOPLE)
            prompts.append((first + said + second).format(p=person).rstrip(" "))
            wanted.append(said + rest[:1])
            topics.append(number)
    longest = max(len(tokenizer.encode(" " + text)) for text in wanted) + 2
    texts = continued(gpt, tokenizer, prompts, tokens=longest, temperature=1.0)
    hits = [
        float(text.lstrip().startswith(said))  # with the mark or the line's end behind it
        for text, said in zip(texts, wanted, strict=True)
    ]
    return mean_and_error(hits, topics)
