"""What R1 learns from: verified thoughts, liked replies, and one reward for both kinds of prompts.

*Rejection sampling* is the whole trick of the second step: a kitten answers several times, a judge
that cannot be fooled (rules) or hardly (the reward model) keeps the best replies, and these are a
data set that no person wrote.

Used by story.py. Letters: N replies = questions x G replies per question, side by side.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from chapters.common.exam import Exercise, PromptOf, as_user, judged, reward_for
from chapters.common.kitten import Kitten
from kittenllm import cleaning
from kittenllm.chat import ChatTokens, chat_prompt, text_prompt
from kittenllm.data_file import read_data_file
from kittenllm.evaluation import MAX_REPLY_TOKENS
from kittenllm.gpt import GPT
from kittenllm.kitten_town import DATA, countdown, scribbles
from kittenllm.kitten_town.chats import Question
from kittenllm.records import load_chats
from kittenllm.rewards import Reward, mixed_reward
from kittenllm.sampling import Rollout, generate
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, new_random
from kittenllm.tokenizer import Tokenizer

ROW_LENGTH = 256  # of the packed rows that are trained on
ROWS_AT_ONCE = 512  # replies that are sampled side by side; more need more memory
NO_END_PENALTY = 2.0  # for a chat reply without an end, in units of the reward model's score

# The drills beside the thoughts, in the shares of chapter 5's warm-up.
DRILL_SHARES = {"sums": 0.28, "comparisons": 0.08, "lefts": 0.22}
LARGEST_LEFT = 30


class Attempt(NamedTuple):
    """One reply to a puzzle, under the rules."""

    text: str  # the puzzle as it was told
    problem: str  # which puzzle it is: the same for other orders of its numbers
    reply: list[int]  # without the stop token
    right: bool
    form: bool


# ---------------------------------------------------------------------------- rejection sampling


def attempts_of(
    thinker: Kitten,
    exercises: Sequence[Exercise],
    each: int,
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    prompt_of: PromptOf = text_prompt,
) -> list[Attempt]:
    """`each` replies to every exercise at temperature 1, judged by the rules."""
    asked = [exercise for exercise in exercises for _ in range(each)]
    attempts = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        part = asked[start : start + ROWS_AT_ONCE]
        rollout = generate(
            thinker.gpt,
            [prompt_of(thinker.tokenizer, exercise.text) for exercise in part],
            max_new_tokens=max_new_tokens,
            temperature=1.0,
            generator=generator,
        )
        rows = zip(part, rollout.replies(), rollout.ended.tolist(), strict=True)
        for exercise, reply, ended in rows:
            text = thinker.tokenizer.decode(reply)
            result = judged(exercise, text, len(reply) + ended, ended)
            attempts.append(
                Attempt(exercise.text, exercise.problem, reply, result.right, result.form)
            )
    return attempts


def keep_best(attempts: Sequence[Attempt], most: int) -> list[Attempt]:
    """Of each problem at most `most` replies that are right and well formed, the shortest first.

    No wrong reply is ever kept, so the rules are the only teacher. A problem that was solved often
    must not crowd out one that was solved once. Of two right replies the shorter one searched less
    in vain.
    """
    good: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.right and attempt.form:
            good.setdefault(attempt.problem, []).append(attempt)
    kept = []
    for of_problem in good.values():
        kept += sorted(of_problem, key=lambda attempt: len(attempt.reply))[:most]
    return kept


def keep_failures(attempts: Sequence[Attempt], most: int) -> list[Attempt]:
    """Of each problem at most `most` replies that are well formed and wrong, the longest first.

    Who learns from successes alone never sees anybody give up, and thinks until it is cut off.
    """
    failed: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.form and not attempt.right:
            failed.setdefault(attempt.problem, []).append(attempt)
    kept = []
    for of_problem in failed.values():
        kept += sorted(of_problem, key=lambda attempt: -len(attempt.reply))[:most]
    return kept


def liked_replies(
    policy: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    each: int,
    scorer: Scorer,
    generator: torch.Generator,
) -> list[ChatTokens]:
    """`each` replies to a prompt; the one that the reward model likes best becomes a document.

    A prompt whose best reply did not end by itself is left out.
    """
    documents = []
    for start in range(0, len(prompts), ROWS_AT_ONCE // each):
        part = prompts[start : start + ROWS_AT_ONCE // each]
        rollout = generate(
            policy,
            [prompt for prompt in part for _ in range(each)],
            max_new_tokens=MAX_REPLY_TOKENS,
            temperature=1.0,
            generator=generator,
        )
        replies = rollout.replies()
        for number, best in enumerate(best_of_groups(rollout, scorer, each)):
            if rollout.ended[best]:
                documents.append(document(tokenizer, part[number], replies[best]))
    return documents


def best_of_groups(rollout: Rollout, scorer: Scorer, each: int) -> list[int]:
    """The row of the best reply of every group of `each` siblings."""
    scores = scorer(rollout) - NO_END_PENALTY * (~rollout.ended).float()  # (N,)
    best = scores.view(-1, each).argmax(dim=1)  # (N / each,)
    return [number * each + row for number, row in enumerate(best.tolist())]


# ----------------------------------------------------------------------------------- the documents


def document(tokenizer: Tokenizer, prompt: list[int], reply: list[int]) -> ChatTokens:
    """A prompt, which is only read, and a reply with its end of turn, which are trained."""
    chat = ChatTokens()
    chat.add(prompt, trained=False)
    chat.add([*reply, tokenizer.im_end_id], trained=True)
    return chat


def thought_documents(tokenizer: Tokenizer, kept: Sequence[Attempt]) -> list[ChatTokens]:
    """The kept thoughts as chats: Zero never saw the chat template, R1 is asked in no other way."""
    return [document(tokenizer, as_user(tokenizer, each.text), each.reply) for each in kept]


def failure_documents(tokenizer: Tokenizer, failed: Sequence[Attempt]) -> list[ChatTokens]:
    """Failures as chats, to learn when to stop; the wrong answer between its tags is only read."""
    documents = []
    for each in failed:
        begin = each.reply.index(tokenizer.answer_id) + 1
        end = begin + each.reply[begin:].index(tokenizer.end_answer_id)
        chat = ChatTokens()
        chat.add(as_user(tokenizer, each.text), trained=False)
        chat.add(each.reply[:begin], trained=True)
        chat.add(each.reply[begin:end], trained=False)
        chat.add([*each.reply[end:], tokenizer.im_end_id], trained=True)
        documents.append(chat)
    return documents


def long_chat_prompts(
    tokenizer: Tokenizer, common: Common, most: int, longest: int
) -> list[list[int]]:
    """`most` of chapter 1's conversations that have several rounds or a system message, without
    their last reply: a good one is still to be found. What people replied is read, not trained."""
    records, _ = load_chats(read_data_file(DATA / "chats_raw.jsonl"))
    kept, _ = cleaning.clean(records, new_random(common.seed, "ch1_sft", "balance"))
    several = [record["messages"] for record in kept if len(record["messages"]) > 2]
    prompts = [chat_prompt(tokenizer, messages[:-1]) for messages in several]
    return [prompt for prompt in prompts if len(prompt) <= longest][:most]


def drill_documents(tokenizer: Tokenizer, tokens: int, rng: random.Random) -> list[ChatTokens]:
    """About `tokens` tokens of sums, comparisons and numbers to name: chapter 5's drills, again.

    The kept thoughts are about few triples. What a kitten calculates only with these, it cannot
    calculate with others. No held-out triple comes up.
    """
    documents: list[ChatTokens] = []
    total = 0
    while total < tokens:
        text = scribbles.drills(
            rng, countdown.HELD_OUT_TRIPLES, shares=DRILL_SHARES, largest_left=LARGEST_LEFT
        )
        chat = ChatTokens()
        chat.add(text_prompt(tokenizer, text), trained=True)
        chat.add(tokenizer.endoftext_id, trained=True)
        documents.append(chat)
        total += len(chat)
    return documents


# --------------------------------------------------------------------------------------- the reward


@dataclass(frozen=True)
class Asked:
    """What RL asks: prompts, their reward, and what a nat away from the start costs in each."""

    prompts: list[list[int]]
    reward: Reward
    kl_coefs: list[float]


def asked(
    tokenizer: Tokenizer,
    puzzles: Sequence[Exercise],
    questions: Sequence[Question],
    scorer: Scorer | None,
    *,
    format_weight: float,
    chat_weight: float = 0.0,
    chat_kl: float = 0.0,
) -> Asked:
    """Puzzles first, then chats. The reward of a prompt is found by its number: rules for puzzles,
    the reward model for chats. Only chats pay a price for leaving the start: rules cannot be
    sweet-talked, a reward model can. Without questions no scorer is needed."""
    puzzle_prompts = [as_user(tokenizer, puzzle.text) for puzzle in puzzles]
    chat_prompts = [chat_prompt(tokenizer, question.messages()) for question in questions]
    kinds = [(len(puzzles), reward_for(puzzles, tokenizer, format_weight))]
    if questions:
        kinds.append((len(questions), liking(tokenizer, chat_prompts, scorer, chat_weight)))
    prices = [0.0] * len(puzzles) + [chat_kl] * len(questions)
    return Asked(puzzle_prompts + chat_prompts, mixed_reward(kinds), prices)


def liking(
    tokenizer: Tokenizer, prompts: Sequence[list[int]], scorer: Scorer, weight: float
) -> Reward:
    """The reward of a chat: `weight` times the standardised score of the reward model, less a
    penalty for a reply without an end. Parts: score."""

    def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        row = prompts[number] + reply + [tokenizer.im_end_id] * ended
        tokens = torch.tensor([row], device=scorer.reward_model.gpt.device)  # (1, T)
        lengths = torch.tensor([len(row)], device=tokens.device)
        score = float(scorer.of_tokens(tokens, lengths)) - NO_END_PENALTY * (not ended)
        return weight * score, {"score": score}

    return reward
