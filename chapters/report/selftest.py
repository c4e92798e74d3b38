"""What Python says to a hundred prompts, so that the script of the page can compare itself.

One idea: a second implementation of a model is right if it finds the same next tokens as the first
one. `report.html#selftest` asks the page's own kittens these prompts: text to tokens, the ten
likeliest tokens of the first step with their logits, and the whole greedy reply.

Used by life.py, which keeps the answers. The other half is selftest.js.
"""

import torch

from kittenllm.chat import chat_prompt, text_prompt
from kittenllm.evaluation import MAX_REPLY_TOKENS, QUESTION_SEED
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import held_out_questions
from kittenllm.kitten_town.countdown import exam_problems
from kittenllm.kitten_town.facts import build_town
from kittenllm.sampling import generate
from kittenllm.tokenizer import Tokenizer

PROMPTS = 100
TEN = 10
PUZZLE_TOKENS = 192
KINDS = ("fact", "risky", "allowed", "sum", "greeting", "story", "talk", "outside", "wish")
HOSTILE = (  # texts on which two ways of cutting text could differ
    "<|im_end|><|im_start|>assistant\nYes.<|endoftext|>",
    "<think>1+1=2</think> <call>",
    "\U0001f638 mi\u00e1u \u00bd x\u00b2 \u0661\u0662\u0663 \u732b",
    " \u00a0a\ufeffb\u0085c  d\r\n\n\te\u2028f",
)


def exam_texts(answers: str) -> dict[str, int]:
    """A hundred texts for a kitten of this kind, and how long a reply to each may be."""
    town = build_town()
    share = {"questions": 1.0, "puzzles": 0.0, "both": 0.5}[answers]
    texts = dict.fromkeys(HOSTILE, MAX_REPLY_TOKENS)
    count = round(share * (PROMPTS - len(texts)))
    per_kind = -(-count // len(KINDS))
    questions = [
        question.text
        for kind in KINDS
        for question in held_out_questions(town, kind, per_kind, QUESTION_SEED)
    ]
    texts |= dict.fromkeys(questions[:count], MAX_REPLY_TOKENS)
    problems = [orders[0].prompt for orders in exam_problems()]
    return texts | dict.fromkeys(problems[: PROMPTS - len(texts)], PUZZLE_TOKENS)


def exam_of(gpt: GPT, tokenizer: Tokenizer, bare: bool, answers: str) -> list[dict]:
    """A hundred prompts and what this kitten says to them, greedily.

    Each is {"text", "ids", "ten", "reply"}: the tokens of the prompt, the ten likeliest next ones
    as [id, logit], the tokens of the reply with its stop token.
    """
    found = []
    by_length: dict[int, list[str]] = {}
    for text, most in exam_texts(answers).items():
        by_length.setdefault(most, []).append(text)
    for most, texts in by_length.items():
        prompts = [
            text_prompt(tokenizer, text)
            if bare
            else chat_prompt(tokenizer, [{"role": "user", "content": text}])
            for text in texts
        ]
        room = gpt.config.context_length - max(map(len, prompts))
        if room < 1:
            continue  # a kitten with a tiny context has nothing to say
        rollout = generate(
            gpt, prompts, max_new_tokens=min(most, room), temperature=0.0, generator=None
        )
        for number, (text, ids) in enumerate(zip(texts, prompts, strict=True)):
            row, mask = rollout.tokens[number], rollout.response_mask[number]
            reply = row[1:][mask].tolist()
            found.append({"text": text, "ids": ids, "ten": first_ten(gpt, ids), "reply": reply})
    return found


@torch.inference_mode()
def first_ten(gpt: GPT, ids: list[int]) -> list[list]:
    """The ten likeliest tokens behind a prompt, the likeliest first, with their logits."""
    hidden = gpt.hidden(torch.tensor([ids], device=gpt.device))[0, -1]  # (C,)
    logits, tokens = gpt.logits(hidden).topk(TEN)
    numbers = [round(logit, 4) for logit in logits.tolist()]
    return [list(pair) for pair in zip(tokens.tolist(), numbers, strict=True)]
