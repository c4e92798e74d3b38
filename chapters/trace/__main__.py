"""One tiny batch, walked through the real functions: python -m chapters.trace ppo

Two rows, six tokens, eleven words (B=2, T=6, V=11). Every named intermediate of the functions is
printed with its shape, its values, and the term of the equation that it is. The numbers are those
of the package's own functions, caught while they run.
"""

import argparse
import difflib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chapters.common.runner import exit_code
from chapters.common.terminal import use_colour
from chapters.trace.page import Page
from chapters.trace.tracer import Recording, record
from kittenllm.batches import pad_rows
from kittenllm.door import Parser
from kittenllm.dpo import DPOConfig, dpo_loss, ipo_loss, preference_metrics
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.grpo import group_advantages, grpo_loss
from kittenllm.logprobs import sequence_logprobs, token_logprobs
from kittenllm.orpo import ORPOConfig, log_odds, orpo_loss
from kittenllm.ppo import PPOConfig, gae, kl_shaped_rewards, ppo_policy_loss, ppo_value_loss
from kittenllm.reward_model import RewardModel, bradley_terry_loss
from kittenllm.settings import new_generator
from kittenllm.sft import sft_loss

B, T, V = 2, 6, 11
PAD, END = 0, 1
NARROWEST, WIDEST = 60, 100
MOVED = 0.3  # how far the logits of a trained model are from those it started with


@dataclass(frozen=True)
class Batch:
    """Two rows: a prompt of two tokens, a reply, its end; the second one is a token shorter."""

    tokens: Tensor  # (B, T)
    mask: Tensor  # (B, T-1) response mask
    old: Tensor  # (B, T-1) log-probs of the model that sampled
    ref: Tensor  # (B, T-1) of the reference
    now: Tensor  # (B, T-1) of the model that learns


@dataclass(frozen=True)
class Walk:
    """What a topic shows: the rows of text, and the watched calls in order."""

    tokens: Tensor  # (rows, T)
    mask: Tensor  # (rows, T-1)
    recordings: list[Recording]

    @property
    def titles(self) -> list[str]:
        """What to call the rows."""
        if len(self.tokens) == B:
            return [f"b={row}" for row in range(B)]
        kinds = [kind for kind in ("chosen", "rejected") for _ in range(B)]
        return [f"b={row}, {kind}" for row, kind in enumerate(kinds)]


def dice(seed: int, topic: str) -> torch.Generator:
    return new_generator("cpu", seed, "trace", topic)


def random_words(count: int, generator: torch.Generator) -> list[int]:
    """Token ids that are neither padding nor end."""
    return torch.randint(2, V, (count,), generator=generator).tolist()


def moved_logprobs(
    tokens: Tensor, generator: torch.Generator, models: int
) -> tuple[Tensor, list[Tensor]]:
    """Logits of a first model, and log-probs of it and of others that moved away from it."""
    shape = (*tokens.shape, V)
    start = torch.randn(shape, generator=generator)  # a real model would make these
    others = [start + MOVED * torch.randn(shape, generator=generator) for _ in range(models - 1)]
    return start, [token_logprobs(logits, tokens) for logits in (start, *others)]


def new_batch(generator: torch.Generator, *, one_prompt: bool = False) -> Batch:
    """Tokens, and the log-probs of three models that are not far from each other."""
    tokens = torch.tensor([random_words(T, generator), random_words(T, generator)])
    if one_prompt:
        tokens[1, :2] = tokens[0, :2]
    tokens[0, T - 1] = END
    tokens[1, T - 2], tokens[1, T - 1] = END, PAD
    mask = torch.ones(B, T - 1, dtype=torch.bool)
    mask[:, 0] = False  # t = 0 produces the second token, which is still the prompt
    mask[1, T - 2] = False  # padding
    _, logprobs = moved_logprobs(tokens, generator, models=3)
    return Batch(tokens, mask, *(spoilt(frame, mask) for frame in logprobs))


def spoilt(frame: Tensor, mask: Tensor) -> Tensor:
    """NaN at the masked places: if one of them mattered, the loss would be NaN as well."""
    return torch.where(mask, frame, float("nan"))


# ------------------------------------------------------------------------------------- the topics


def trace_sft(seed: int) -> Walk:
    """From logits to the masked next-token loss."""
    generator = dice(seed, "sft")
    batch = new_batch(generator)
    logits, _ = moved_logprobs(batch.tokens, generator, models=1)
    loss_mask = torch.zeros(B, T, dtype=torch.bool)
    loss_mask[:, 1:] = batch.mask
    recordings = [
        record(token_logprobs, logits, batch.tokens),
        record(sft_loss, logits, batch.tokens, loss_mask),
    ]
    return Walk(batch.tokens, batch.mask, recordings)


def trace_reward(seed: int) -> Walk:
    """Two pairs: four replies get a score, and the loss compares them."""
    generator = dice(seed, "reward")
    sizes = {"layers": 1, "channels": 4, "heads": 1, "kv_heads": 1, "ffn_channels": 8}
    config = GPTConfig(vocab_size=V, context_length=8, **sizes)
    reward_model = RewardModel(GPT(config, generator=generator))
    with torch.no_grad():
        reward_model.head.copy_(torch.randn(config.channels, generator=generator))
        reward_model.likelihood_weight.fill_(0.1)
        for matrix in (p for p in reward_model.gpt.parameters() if p.ndim == 2):
            matrix.mul_(20)  # as after training; fresh weights treat all replies alike
    tokens, mask = new_pairs(generator)  # (2P, T), (2P, T-1)
    lengths = (tokens != PAD).sum(dim=1)
    scoring = record(reward_model.forward, tokens, lengths)
    chosen_rewards, rejected_rewards = scoring.result.chunk(2)
    comparing = record(bradley_terry_loss, chosen_rewards, rejected_rewards)
    return Walk(tokens, mask, [scoring, comparing])


def trace_ppo(seed: int) -> Walk:
    """From one score per reply to the two losses of PPO."""
    generator = dice(seed, "ppo")
    batch, config = new_batch(generator), PPOConfig()
    mask = batch.mask
    scores = torch.randn(B, generator=generator)
    old_values = spoilt(0.5 * torch.randn(mask.shape, generator=generator), mask)
    values = old_values + MOVED * torch.randn(mask.shape, generator=generator)
    shaping = record(kl_shaped_rewards, scores, batch.old, batch.ref, mask, kl_coef=config.kl_coef)
    credit = record(gae, shaping.result, old_values, mask, gamma=config.gamma, lam=config.lam)
    advantages, returns = credit.result
    eps, value_eps = config.clip_eps, config.value_clip_eps
    policy = record(ppo_policy_loss, batch.now, batch.old, advantages, mask, clip_eps=eps)
    value = record(ppo_value_loss, values, old_values, returns, mask, clip_eps=value_eps)
    return Walk(batch.tokens, mask, [shaping, credit, policy, value])


def new_pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two pairs of replies as tokens (2P, T), the chosen ones first, and their mask (2P, T-1).

    One rejected reply is a token shorter.
    """
    prompts = [random_words(2, generator) for _ in range(B)]
    rows = []
    for shorter in (0, 1):
        for row, prompt in enumerate(prompts):
            words = T - 3 - shorter * row
            rows.append([*prompt, *random_words(words, generator), END])
    tokens, lengths = pad_rows(rows, PAD)  # (2P, T), (2P,)
    produced = torch.arange(1, T)  # (T-1,) the column of the produced token
    return tokens, (produced >= 2) & (produced < lengths[:, None])


def pair_batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens (2P, T), their mask, and log-probs (2P, T-1) of the policy and of the reference."""
    generator = dice(seed, "preferences")
    tokens, mask = new_pairs(generator)
    _, logprobs = moved_logprobs(tokens, generator, models=2)
    ref, policy = (spoilt(frame, mask) for frame in logprobs)
    return tokens, mask, policy, ref


def preference_losses(seed: int, loss_function: Callable) -> Walk:
    """DPO and IPO start in the same way: four sums of log-probs."""
    tokens, mask, policy, ref = pair_batch(seed)
    sums = record(sequence_logprobs, policy, mask, reduce="sum")
    ref_sums = sequence_logprobs(ref, mask, reduce="sum")
    four = (*sums.result.chunk(2), *ref_sums.chunk(2))
    beta = DPOConfig(beta=0.1).beta
    metrics = record(preference_metrics, *four, beta=beta)
    return Walk(tokens, mask, [sums, metrics, record(loss_function, *four, beta=beta)])


def trace_dpo(seed: int) -> Walk:
    """Two pairs through DPO: the policy is its own reward model."""
    return preference_losses(seed, dpo_loss)


def trace_ipo(seed: int) -> Walk:
    """The same two pairs through IPO: a distance to reach."""
    return preference_losses(seed, ipo_loss)


def trace_orpo(seed: int) -> Walk:
    """The same pairs through ORPO: fine-tuning and preference at once."""
    tokens, mask, policy, _ = pair_batch(seed)
    means = record(sequence_logprobs, policy, mask, reduce="mean")
    chosen, rejected = means.result.chunk(2)
    odds = record(log_odds, chosen)
    loss = record(orpo_loss, chosen, rejected, weight=ORPOConfig().weight)
    return Walk(tokens, mask, [means, odds, loss])


def trace_grpo(seed: int) -> Walk:
    """Two replies to one prompt judge each other."""
    batch = new_batch(dice(seed, "grpo"), one_prompt=True)
    judging = record(group_advantages, torch.tensor([1.1, 0.1]), group_size=2)
    learning = record(
        grpo_loss,
        batch.now,
        batch.old,
        judging.result,
        batch.mask,
        ref_logprobs=batch.ref,
        kl_coef=0.04,
    )
    return Walk(batch.tokens, batch.mask, [judging, learning])


TOPICS: dict[str, Callable[[int], Walk]] = {
    "sft": trace_sft,
    "reward": trace_reward,
    "ppo": trace_ppo,
    "dpo": trace_dpo,
    "ipo": trace_ipo,
    "orpo": trace_orpo,
    "grpo": trace_grpo,
}


# ------------------------------------------------------------------------------------ the program


def page(topic: str, seed: int, *, width: int, colour: bool) -> str:
    """The whole walk as text."""
    walk = TOPICS[topic](seed)
    paper = Page(width, colour)
    paper.text(
        f"{topic}: {TOPICS[topic].__doc__} B={B}, T={T}, V={V}. A per-token tensor is (B, T-1): "
        "its column t is about producing token t + 1. A dot is a masked place: it never matters, "
        f"even if NaN stands there. The inputs are dice (--seed {seed}); all the rest is what "
        "really ran."
    )
    paper.blank()
    paper.rows(walk.tokens, walk.mask, walk.titles)
    for number, recording in enumerate(walk.recordings, start=1):
        paper.function(number, len(walk.recordings), recording)
    paper.ending(walk.recordings)
    return "\n".join(paper.lines)


def topic_list() -> str:
    """One line per topic."""
    lines = ["python -m chapters.trace <name> walks a tiny batch through one algorithm:", ""]
    lines += [f"  {name:<8}{trace.__doc__}" for name, trace in TOPICS.items()]
    return "\n".join(lines)


def trace(argv=None) -> None:
    """Read the command line, print the walk.  Raises: ValueError for an unknown topic."""
    parser = Parser(prog="chapters.trace", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic", nargs="?", metavar="NAME", help=f"one of {', '.join(TOPICS)}")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other inputs (default: 0)"
    )
    arguments = parser.parse_args(argv)
    if arguments.list or arguments.topic is None:
        print(topic_list())
        return
    if arguments.topic not in TOPICS:
        near = difflib.get_close_matches(arguments.topic, TOPICS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TOPICS)}"
        parser.error(f"there is nothing called {arguments.topic!r} to trace; {hint}")
    columns = shutil.get_terminal_size((80, 24)).columns
    width = max(NARROWEST, min(WIDEST, columns - 1 if sys.stdout.isatty() else columns))
    print(page(arguments.topic, arguments.seed, width=width, colour=use_colour()))


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: trace(argv))


if __name__ == "__main__":
    sys.exit(main())
