"""Learning from preferences without RL: what DPO, IPO and ORPO share around their losses.

One idea: three methods, the same start, the same pairs, the same yardsticks. Only the loss differs,
so what differs afterwards is the loss's doing.

Used by ch4_preferences and its frontier. Letters: P pairs, W watched pairs.
"""

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from chapters.common.measuring import QUICK_COUNTS, first_replies, reply_rows
from chapters.common.pairs import LabelledPair
from kittenllm.dpo import DPOConfig, reference_logprobs, train_dpo
from kittenllm.evaluation import FULL_COUNTS, Reply, evaluate, mean_and_error, weighted_rate
from kittenllm.forward import frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import Town
from kittenllm.logprobs import kl_k1, sequence_logprobs
from kittenllm.optim import make_optimizer
from kittenllm.orpo import ORPOConfig, train_orpo
from kittenllm.pairs import PreferencePair
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator
from kittenllm.tokenizer import Tokenizer

WATCH_TIMES = 12  # looks at the unseen pairs during a training
SCORES = "gold safe_rate allowed_rate friendly_rate answer_accuracy stop_rate reply_tokens"


@dataclass(frozen=True)
class Start:
    """What every method starts from; nothing of it ever changes."""

    common: Common
    tokenizer: Tokenizer
    town: Town
    reference: GPT  # the frozen chat kitten
    pairs: list[PreferencePair]  # P, to learn from
    ref_logprobs: Tensor  # (P, 2) of chosen and rejected, made once and kept
    watched: list[PreferencePair]  # W, never learnt from
    watched_topics: list[tuple]  # W, what each of them is about
    watched_ref_logprobs: Tensor  # (W, 2)
    reference_seconds: float  # what making ref_logprobs took


def make_start(
    common: Common,
    tokenizer: Tokenizer,
    town: Town,
    reference: GPT,
    pairs: list[LabelledPair],
    watched: list[LabelledPair],
) -> Start:
    """Ask the reference about all pairs; after that no training needs a second model."""
    learnt = [pair.preference for pair in pairs]
    kept = [pair.preference for pair in watched]
    started = time.perf_counter()
    ref_logprobs = reference_logprobs(reference, learnt)  # (P, 2)
    seconds = time.perf_counter() - started
    watched_ref_logprobs = reference_logprobs(reference, kept)  # (W, 2)
    return Start(
        common,
        tokenizer,
        town,
        reference,
        learnt,
        ref_logprobs,
        kept,
        [pair.about for pair in watched],
        watched_ref_logprobs,
        seconds,
    )


# ---------------------------------------------------------------------------------------- the loop


def learn(chapter: Run, name: str, start: Start, config: DPOConfig | ORPOConfig) -> GPT:
    """Train a copy of the reference, as a stage of the run; unseen pairs are watched meanwhile."""
    common = start.common
    policy = copy.deepcopy(start.reference)
    optimizer = make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    # All methods see the same pairs in the same order.
    generator = new_generator("cpu", common.seed, "ch4_preferences", "order")
    objects = {"policy": policy, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    if isinstance(config, DPOConfig):
        training = train_dpo(
            policy,
            start.pairs,
            start.ref_logprobs,
            config=config,
            optimizer=optimizer,
            generator=generator,
            start_step=stage.step,
        )
    else:
        training = train_orpo(
            policy,
            start.pairs,
            config=config,
            optimizer=optimizer,
            generator=generator,
            start_step=stage.step,
        )
    watch_every = max(1, config.steps // WATCH_TIMES)
    for metrics in stage.follow(training, show=("loss", "accuracy", "unseen_accuracy")):
        done = metrics["step"] + 1
        if done % watch_every == 0 or done in (1, config.steps):
            metrics |= watch(policy, start)
    return policy


def watch(policy: GPT, start: Start) -> dict[str, float]:
    """The unseen pairs: chosen and rejected apart, as changes since the reference.

    Keys: unseen_chosen and unseen_rejected (change of log p(reply), nats), unseen_margin (their
    difference) and unseen_accuracy (share of pairs whose chosen reply has gained more, a tie counts
    half), each with its standard error by topic.
    """
    change = reference_logprobs(policy, start.watched) - start.watched_ref_logprobs  # (W, 2)
    chosen, rejected = change.unbind(dim=1)  # (W,) each
    margin = chosen - rejected
    accuracy = (margin.sign() + 1) / 2
    numbers = {"chosen": chosen, "rejected": rejected, "margin": margin, "accuracy": accuracy}
    result = {}
    for name, values in numbers.items():
        result[f"unseen_{name}"] = float(values.mean())
        _, result[f"unseen_{name}_stderr"] = mean_and_error(values.tolist(), start.watched_topics)
    return result


# ---------------------------------------------------------------------------------------- the look


def counts_of(common: Common) -> dict[str, tuple[int, int]]:
    return QUICK_COUNTS if common.quick else FULL_COUNTS


def measure(
    policy: GPT,
    start: Start,
    name: str,
    *,
    counts: dict[str, tuple[int, int]],
    rivals: dict[str, list[float]] | None = None,
) -> dict:
    """A policy on held-out questions: scores, KL to the reference, wins against rival replies.

    `rivals` holds the gold scores of another kitten's replies to the same questions. Returns
    `<key>` and `<key>_stderr` for SCORES, kl and win_rate, and "golds", the rivals of the next one.
    """
    generator = new_generator(start.common.device, start.common.seed, "ch4_preferences", name)
    scores, replies = evaluate(
        policy, start.tokenizer, start.town, generator=generator, counts=counts
    )
    result: dict = {"golds": golds_of(replies)}
    for key in SCORES.split():
        result[key], result[f"{key}_stderr"] = scores[key], scores[f"{key}_stderr"]
    result["kl"], result["kl_stderr"] = distance(policy, start, replies)
    if rivals is not None:
        result["win_rate"], result["win_rate_stderr"] = win_rate(replies, rivals)
    return result


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


@torch.no_grad()
def distance(policy: GPT, start: Start, replies: dict[str, list[Reply]]) -> tuple[float, float]:
    """KL to the reference: the mean over the policy's replies of the summed k1, nats, and error.

    At most two replies to each question are measured; kinds count with their shares.
    """
    measured = {kind: first_replies(of_kind) for kind, of_kind in replies.items()}
    everyone = [reply for of_kind in measured.values() for reply in of_kind]
    tokens, _, mask = reply_rows(start.tokenizer, everyone)  # (N, T), (N, T-1)
    tokens, mask = tokens.to(policy.device), mask.to(policy.device)
    logprobs = frozen_logprobs(policy, tokens, mask)  # (N, T-1)
    ref_logprobs = frozen_logprobs(start.reference, tokens, mask)
    kl_per_reply = sequence_logprobs(kl_k1(logprobs, ref_logprobs), mask, reduce="sum").tolist()
    kl_of = {id(reply): kl for reply, kl in zip(everyone, kl_per_reply, strict=True)}
    return weighted_rate(measured, lambda reply: kl_of[id(reply)])
