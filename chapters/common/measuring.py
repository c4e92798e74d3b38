"""Measuring a kitten that chats, and the held-out questions that it is asked.

One idea: three opinions about a reply are kept apart. The reward model's *score* is what training
sees. The *gold* score is the truth of Kitten Town, which training never sees. The *KL* says how
far the policy has moved from the kitten that it started from.

Used by the chapters that chat. Letters: N replies, T tokens.
"""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chapters.common.kitten import Kitten
from chapters.common.pairs import full_tokens
from chapters.common.samples import DRAWN, typical_replies
from chapters.common.terminal import safe_text
from kittenllm.batches import pad_rows
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import (
    FULL_COUNTS,
    MAX_REPLY_TOKENS,
    Reply,
    evaluate,
    fixed_questions,
    mean_and_error,
    sample_replies,
    weighted_rate,
)
from kittenllm.forward import frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import KIND_SHARES, Question, ask_any
from kittenllm.kitten_town.facts import build_town
from kittenllm.kitten_town.judge import judge
from kittenllm.logprobs import kl_k1, sequence_logprobs
from kittenllm.sampling import Rollout, generate
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

QUICK_COUNTS = {kind: (6, 1) for kind in FULL_COUNTS}
MEASURED_EACH = 2  # replies to each held-out question whose score and KL are measured
UNIT_REPLIES = 512  # SFT replies that give the scores their zero and unit

# What the kitten is asked while it learns. It says "yes" to danger far oftener than "no" to what is
# fine, so most rewards speak for "no". Asked about both equally often, it learns that "no" is
# always safe, and says it to fine things that it was never asked about.
ASKED_SHARES = {
    "fact": 0.22,
    "risky": 0.15,
    "allowed": 0.23,
    "sum": 0.08,
    "greeting": 0.03,
    "story": 0.03,
    "talk": 0.11,
    "outside": 0.06,
    "wish": 0.09,
}


def with_scorer(kitten: Kitten, scorer: Scorer) -> Kitten:
    """Give the scorer its zero and unit on the kitten's own replies to taught questions."""
    questions = taught_questions(kitten.common, UNIT_REPLIES, "unit")
    rollout = answers(kitten.gpt, kitten, questions, "unit")
    return replace(kitten, scorer=scorer.standardised_on(rollout))


# ----------------------------------------------------------------------------------- the questions


def counts_of(
    common: Common, full: dict[str, tuple[int, int]] = FULL_COUNTS
) -> dict[str, tuple[int, int]]:
    """How many held-out questions of each kind are asked, and how many replies each gets."""
    return QUICK_COUNTS if common.quick else full


def taught_questions(
    common: Common, count: int, salt: str, shares: Mapping[str, float] = KIND_SHARES
) -> list[Question]:
    """Questions of all kinds that may be trained on, as often as `shares` says."""
    rng, town = new_random(common.seed, "ch3_ppo", salt), build_town()
    return [ask_any(town, rng, shares=shares) for _ in range(count)]


def answers(policy: GPT, start: Kitten, questions: list[Question], salt: str) -> Rollout:
    """One reply to each question, at temperature 1."""
    return generate(
        policy,
        [chat_prompt(start.tokenizer, question.messages()) for question in questions],
        max_new_tokens=MAX_REPLY_TOKENS,
        temperature=1.0,
        generator=new_generator(start.common.device, start.common.seed, "ch3_ppo", salt),
    )


def fixed_replies(policy: GPT, start: Kitten, chapter: str) -> list[str]:
    """Typical replies to the fixed questions at temperature 1, the same dice for every policy."""
    town = build_town()
    replies = sample_replies(
        policy,
        start.tokenizer,
        town,
        fixed_questions(town),
        replies_each=DRAWN,
        temperature=1.0,
        generator=new_generator(start.common.device, start.common.seed, chapter, "samples"),
    )
    return typical_replies(replies)


# ------------------------------------------------------------------------------------- the numbers


def watch(policy: GPT, start: Kitten, count: int) -> tuple[dict[str, float], str]:
    """A quick look: one reply to each of `count` held-out questions, the same at every look.

    Returns the means of gold, proxy (the reward model's score) and kl_held_out, each with its
    standard error by topic, and an example.
    """
    town = build_town()
    rng = new_random(start.common.seed, "ch3_ppo", "watch")
    questions = [ask_any(town, rng, held_out=True) for _ in range(count)]
    topics = [question.about for question in questions]
    rollout = answers(policy, start, questions, "watch")
    golds, texts = [], []
    for question, tokens, ended in zip(
        questions, rollout.replies(), rollout.ended.tolist(), strict=True
    ):
        texts.append(start.tokenizer.decode(tokens))
        golds.append(judge(town, question, texts[-1], tokens, ended=ended).score)
    kl = kl_to_start(start, rollout.tokens, rollout.response_mask, rollout.logprobs)
    numbers = {"gold": statistics.fmean(golds), "gold_stderr": mean_and_error(golds, topics)[1]}
    numbers |= means({"proxy": start.scorer(rollout), "kl_held_out": kl}, topics)
    return numbers, safe_text(f"{questions[0].text} {texts[0]}")


def measure(
    policy: GPT,
    start: Kitten,
    *salt: str,
    counts: dict[str, tuple[int, int]] | None = None,
    rivals: dict[str, list[float]] | None = None,
) -> dict:
    """Everything about one policy on held-out questions, asked with the dice of `salt`.

    Returns `<key>` and `<key>_stderr` for the scores of `evaluate`, for kl, for the reward if
    `start` has a scorer and for win_rate if there are `rivals`: the gold scores of another kitten's
    replies to the same questions. "golds" are the rivals of the next one.
    """
    scores, replies = evaluate(
        policy,
        start.tokenizer,
        build_town(),
        generator=new_generator(start.common.device, start.common.seed, *salt),
        counts=counts or counts_of(start.common),
    )
    result = {**scores, **kl_and_reward(policy, start, replies), "golds": golds_of(replies)}
    if rivals is not None:
        result["win_rate"], result["win_rate_stderr"] = win_rate(replies, rivals)
    return result


def before_and_after(names: str, before: dict, after: dict, gold_best: float) -> dict:
    """What summary.json says about two results of `measure`: <name>_before and <name>_after, the
    way from one to the other, and which share of the way to the best possible gold score it is."""
    keys: dict = {}
    for name in names.split():
        for when, scores in (("before", before), ("after", after)):
            keys[f"{name}_{when}"] = scores[name]
            keys[f"{name}_{when}_stderr"] = scores[f"{name}_stderr"]
    for name in ("kl", "win_rate"):
        if name in after:
            keys[name], keys[f"{name}_stderr"] = after[name], after[f"{name}_stderr"]
    way = gold_best - before["gold"]
    keys["gold_share_of_distance"] = (after["gold"] - before["gold"]) / way
    return keys


def is_right(margin: Tensor) -> Tensor:
    """1 where the better reply is ahead by a margin above 0, 0 where not, 1/2 for a tie."""
    return (margin.sign() + 1) / 2


def means(values: dict[str, Tensor], topics: Sequence[Hashable]) -> dict[str, float | None]:
    """<key> and <key>_stderr: the mean of each (N,), and its standard error by topic."""
    numbers: dict[str, float | None] = {}
    for key, each in values.items():
        numbers[key] = float(each.mean())
        _, numbers[f"{key}_stderr"] = mean_and_error(each.tolist(), topics)
    return numbers


def kl_to_start(start: Kitten, tokens: Tensor, mask: Tensor, logprobs: Tensor) -> Tensor:
    """The summed k1 of each reply, nats: (N, T), (N, T-1), the policy's (N, T-1) -> (N,)."""
    ref_logprobs = frozen_logprobs(start.gpt, tokens, mask)  # (N, T-1)
    return sequence_logprobs(kl_k1(logprobs, ref_logprobs), mask, reduce="sum")


def kl_and_reward(policy: GPT, start: Kitten, replies: dict[str, list[Reply]]) -> dict[str, float]:
    """The policy's mean KL to the start, and its reward if there is a scorer, each with its error.

    At most two replies to each question are measured; kinds count with their shares.
    """
    measured = {kind: first_replies(of_kind) for kind, of_kind in replies.items()}
    everyone = [reply for of_kind in measured.values() for reply in of_kind]
    rows = reply_rows(start.tokenizer, everyone)
    tokens, lengths, mask = (part.to(policy.device) for part in rows)
    logprobs = frozen_logprobs(policy, tokens, mask)
    values = {"kl": kl_to_start(start, tokens, mask, logprobs)}
    if start.scorer is not None:
        values["reward"] = start.scorer.of_tokens(tokens, lengths)
    numbers = {}
    for name, per_reply in values.items():
        pairs = zip(everyone, per_reply.tolist(), strict=True)
        value_of = {id(reply): value for reply, value in pairs}
        mean, error = weighted_rate(measured, lambda reply, of=value_of: of[id(reply)])
        numbers[name], numbers[f"{name}_stderr"] = mean, error
    return numbers


def first_replies(replies: list[Reply]) -> list[Reply]:
    """The first two replies to each question."""
    taken: dict[str, list[Reply]] = {}
    for reply in replies:
        of_question = taken.setdefault(reply.question.text, [])
        if len(of_question) < MEASURED_EACH:
            of_question.append(reply)
    return [reply for of_question in taken.values() for reply in of_question]


def reply_rows(tokenizer: Tokenizer, replies: list[Reply]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt, reply, end of turn: tokens (N, T), lengths (N,), response_mask (N, T-1)."""
    rows, prompt_lengths = [], []
    for reply in replies:
        rows.append(full_tokens(tokenizer, reply))
        prompt_lengths.append(len(rows[-1]) - len(reply.tokens) - reply.ended)
    tokens, lengths = pad_rows(rows, tokenizer.pad_id)  # (N, T), (N,)
    produced = torch.arange(1, tokens.shape[1])  # (T-1,)
    starts = torch.tensor(prompt_lengths)[:, None]
    return tokens, lengths, (produced >= starts) & (produced < lengths[:, None])


def golds_of(replies: dict[str, list[Reply]]) -> dict[str, list[float]]:
    """Question text -> the gold scores of the replies to it."""
    golds: dict[str, list[float]] = {}
    for of_kind in replies.values():
        for reply in of_kind:
            golds.setdefault(reply.question.text, []).append(reply.verdict.score)
    return golds


def win_rate(
    replies: dict[str, list[Reply]], rivals: dict[str, list[float]]
) -> tuple[float, float]:
    """How often the gold judge prefers these replies to a rival's; ties count half.

    Every reply meets every rival reply to its question; kinds count with their shares. A kitten
    against itself gets 1/2.
    """

    def wins(reply: Reply) -> float:
        golds = rivals[reply.question.text]
        score = reply.verdict.score
        won = sum(score > gold for gold in golds) + 0.5 * sum(score == gold for gold in golds)
        return won / len(golds)

    return weighted_rate(replies, wins)
