"""Around a policy that is being aligned: the judge, the held-out questions, what is measured.

One idea: three opinions about a reply are kept apart. The reward model's *score* is what training
sees. The *gold* score is the truth of Kitten Town, which training never sees. The *KL* says how
far the policy has moved from the kitten that it started from.

Used by ch3_ppo. Letters: N replies, T tokens.
"""

import statistics
from dataclasses import dataclass, replace

import torch

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
from kittenllm.kitten_town.chats import Question, ask_any
from kittenllm.kitten_town.facts import Town, build_town
from kittenllm.kitten_town.judge import judge
from kittenllm.logprobs import kl_k1, sequence_logprobs
from kittenllm.sampling import Rollout, generate
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

QUICK_COUNTS = {kind: (6, 1) for kind in FULL_COUNTS}
MEASURED_EACH = 2  # replies to each held-out question whose score and KL are measured
UNIT_REPLIES = 512  # SFT replies that give the scores their zero and unit


@dataclass(frozen=True)
class Setup:
    """What stands around the policy and never changes."""

    common: Common
    tokenizer: Tokenizer
    reference: GPT  # the frozen chat kitten
    scorer: Scorer  # the reward model, in units of the chat kitten's own spread
    town: Town


def set_up(common: Common, reference: GPT, tokenizer: Tokenizer, scorer: Scorer) -> Setup:
    """Give the scorer its zero and unit on the chat kitten's replies to taught questions."""
    setup = Setup(common, tokenizer, reference, scorer, build_town())
    questions = taught_questions(setup, UNIT_REPLIES, "unit")
    rollout = answers(reference, setup, questions, "unit")
    return replace(setup, scorer=scorer.standardised_on(rollout))


def taught_questions(setup: Setup, count: int, salt: str) -> list[Question]:
    """Questions of all kinds that may be trained on."""
    rng = new_random(setup.common.seed, "ch3_ppo", salt)
    return [ask_any(setup.town, rng) for _ in range(count)]


def answers(policy: GPT, setup: Setup, questions: list[Question], salt: str) -> Rollout:
    """One reply to each question, at temperature 1."""
    return generate(
        policy,
        [chat_prompt(setup.tokenizer, question.messages()) for question in questions],
        max_new_tokens=MAX_REPLY_TOKENS,
        temperature=1.0,
        generator=new_generator(setup.common.device, setup.common.seed, "ch3_ppo", salt),
    )


def counts_of(common: Common) -> dict[str, tuple[int, int]]:
    return QUICK_COUNTS if common.quick else FULL_COUNTS


def watch(policy: GPT, setup: Setup, count: int) -> tuple[dict[str, float], str]:
    """A quick look: one reply to each of `count` held-out questions, the same at every look.

    Returns the means of gold, proxy (the reward model's score) and kl_held_out, each with its
    standard error by topic, and an example.
    """
    rng = new_random(setup.common.seed, "ch3_ppo", "watch")
    questions = [ask_any(setup.town, rng, held_out=True) for _ in range(count)]
    rollout = answers(policy, setup, questions, "watch")
    golds, texts = [], []
    for question, tokens, ended in zip(
        questions, rollout.replies(), rollout.ended.tolist(), strict=True
    ):
        texts.append(setup.tokenizer.decode(tokens))
        golds.append(judge(setup.town, question, texts[-1], tokens, ended=ended).score)
    mask = rollout.response_mask
    ref_logprobs = frozen_logprobs(setup.reference, rollout.tokens, mask)
    kl = sequence_logprobs(kl_k1(rollout.logprobs, ref_logprobs), mask, reduce="sum")
    scores = setup.scorer(rollout)
    topics = [question.about for question in questions]
    numbers = {
        "gold": statistics.fmean(golds),
        "gold_stderr": mean_and_error(golds, topics)[1],
        "proxy": float(scores.mean()),
        "proxy_stderr": mean_and_error(scores.tolist(), topics)[1],
        "kl_held_out": float(kl.mean()),
        "kl_held_out_stderr": mean_and_error(kl.tolist(), topics)[1],
    }
    return numbers, safe_text(f"{questions[0].text} {texts[0]}")


def measure(policy: GPT, setup: Setup, when: str) -> dict:
    """Everything about one policy on held-out questions: scores, KL to the start, samples."""
    common, tokenizer = setup.common, setup.tokenizer
    generator = new_generator(common.device, common.seed, "ch3_ppo", "measure", when)
    all_scores, replies = evaluate(
        policy, tokenizer, setup.town, generator=generator, counts=counts_of(common)
    )
    reward, kl = reward_and_kl(policy, setup, replies)
    scores = {}
    names = "gold safe_rate allowed_rate friendly_rate grumpy_rate answer_accuracy stop_rate"
    for name in [*names.split(), "reply_tokens"]:
        scores[name] = all_scores[name]
        scores[f"{name}_stderr"] = all_scores[f"{name}_stderr"]
    scores["reward"], scores["reward_stderr"] = reward
    fixed = sample_replies(
        policy,
        tokenizer,
        setup.town,
        fixed_questions(setup.town),
        replies_each=DRAWN,
        temperature=1.0,
        generator=new_generator(common.device, common.seed, "ch3_ppo", "samples"),
    )
    return {"scores": scores, "kl": kl, "samples": typical_replies(fixed)}


def reward_and_kl(
    policy: GPT, setup: Setup, replies: dict[str, list[Reply]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and standard error of the standardised score, and of the summed k1 in nats.

    At most two replies to each question are measured; kinds count with their shares.
    """
    measured = {kind: first_replies(of_kind) for kind, of_kind in replies.items()}
    everyone = [reply for of_kind in measured.values() for reply in of_kind]
    tokens, lengths, mask = reply_rows(setup.tokenizer, everyone)
    device = policy.device
    tokens, lengths, mask = tokens.to(device), lengths.to(device), mask.to(device)
    rewards = setup.scorer.of_tokens(tokens, lengths).tolist()
    logprobs = frozen_logprobs(policy, tokens, mask)
    ref_logprobs = frozen_logprobs(setup.reference, tokens, mask)
    kls = sequence_logprobs(kl_k1(logprobs, ref_logprobs), mask, reduce="sum").tolist()
    of_reply = {id(r): numbers for r, *numbers in zip(everyone, rewards, kls, strict=True)}
    reward = weighted_rate(measured, lambda reply: of_reply[id(reply)][0])
    return reward, weighted_rate(measured, lambda reply: of_reply[id(reply)][1])


def first_replies(replies: list[Reply]) -> list[Reply]:
    """The first two replies to each question."""
    taken: dict[str, list[Reply]] = {}
    for reply in replies:
        of_question = taken.setdefault(reply.question.text, [])
        if len(of_question) < MEASURED_EACH:
            of_question.append(reply)
    return [reply for of_question in taken.values() for reply in of_question]


def reply_rows(
    tokenizer: Tokenizer, replies: list[Reply]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompt, reply, end of turn: tokens (N, T), lengths (N,), response_mask (N, T-1)."""
    rows, prompt_lengths = [], []
    for reply in replies:
        rows.append(full_tokens(tokenizer, reply))
        prompt_lengths.append(len(rows[-1]) - len(reply.tokens) - reply.ended)
    tokens, lengths = pad_rows(rows, tokenizer.pad_id)  # (N, T), (N,)
    produced = torch.arange(1, tokens.shape[1])  # (T-1,)
    starts = torch.tensor(prompt_lengths)[:, None]
    return tokens, lengths, (produced >= starts) & (produced < lengths[:, None])
