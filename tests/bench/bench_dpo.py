"""What reading each reply once, kept reference log-probs and logits for replies only are worth.

    python tests/bench/bench_dpo.py

The same pairs, model, loss, batch size and optimizer twice. The plain way is the one in many
tutorials: four forward passes per pair, chosen and rejected through the policy and through a live
reference, every batch padded to its longest row, logits for every position. Ours is
`train_dpo`, which reads a reply once that stands in several pairs; its time includes
`reference_logprobs` for all pairs. The two ways take
turns; each gets the median of its rounds. They must also agree: the first losses are compared.
"""

import argparse
import copy
import random
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch
from torch import Tensor

from kittenllm.batches import pad_rows  # noqa: E402
from kittenllm.chat import chat_prompt  # noqa: E402
from kittenllm.dpo import (  # noqa: E402
    DPOConfig,
    dpo_loss,
    reference_logprobs,
    train_dpo,
)
from kittenllm.gpt import GPT, SIZES, GPTConfig  # noqa: E402
from kittenllm.kitten_town.chats import ask_any, demonstrate  # noqa: E402
from kittenllm.kitten_town.facts import build_town  # noqa: E402
from kittenllm.kitten_town.stories import documents  # noqa: E402
from kittenllm.logprobs import sequence_logprobs, token_logprobs  # noqa: E402
from kittenllm.optim import learning_rate_scale, make_optimizer  # noqa: E402
from kittenllm.pairs import (  # noqa: E402
    PreferencePair,
    comparisons,
    pairs_of_step,
)
from kittenllm.tokenizer import Tokenizer, train_bpe  # noqa: E402
from kittenllm.training import apply_gradients  # noqa: E402

BAR = 3.0


def town_pairs(tokenizer: Tokenizer, count: int) -> list[PreferencePair]:
    """All pairs of four demonstrations of a question, question after question: what chapter 4 has.

    Equal demonstrations count once, as equal replies do there.
    """
    town, rng = build_town(), random.Random(0)
    pairs: list[PreferencePair] = []
    while len(pairs) < count:
        question = ask_any(town, rng)
        texts = dict.fromkeys(demonstrate(town, question, rng) for _ in range(4))
        replies = [[*tokenizer.encode(text), tokenizer.im_end_id] for text in texts]
        prompt = chat_prompt(tokenizer, question.messages())
        for chosen, rejected in combinations(replies, 2):
            pairs.append(PreferencePair(prompt, chosen, rejected))
    return pairs[:count]


def padded(gpt: GPT, rows: list[list[int]], prompt_lengths: list[int]) -> tuple[Tensor, Tensor]:
    """tokens (B, T) and response_mask (B, T-1), every row as long as the longest."""
    tokens, lengths = pad_rows(rows, gpt.config.pad_id)
    produced = torch.arange(1, tokens.shape[1])
    starts = torch.tensor(prompt_lengths)[:, None]
    mask = (produced >= starts) & (produced < lengths[:, None])
    return tokens.to(gpt.device), mask.to(gpt.device)


def plain_way(
    policy: GPT, reference: GPT, pairs: list[PreferencePair], config: DPOConfig
) -> Iterator[float]:
    """Four forward passes per pair, each over a whole padded batch; yields each step's loss."""
    generator = torch.Generator().manual_seed(0)
    groups = comparisons(pairs)  # the same batches as ours
    optimizer = make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    for step in range(config.steps):
        optimizer.set_scale(
            learning_rate_scale(step, config.steps, warmup=config.warmup, cooldown=config.cooldown)
        )
        picked = pairs_of_step(groups, step, config.pairs_per_step, generator)
        batch = [pairs[i] for i in picked]
        prompt_lengths = [len(pair.prompt) for pair in batch]
        sums = []
        for gpt in (policy, reference):
            for rows in (
                [pair.prompt + pair.chosen for pair in batch],
                [pair.prompt + pair.rejected for pair in batch],
            ):
                tokens, mask = padded(gpt, rows, prompt_lengths)
                with torch.set_grad_enabled(gpt is policy):
                    logprobs = token_logprobs(gpt(tokens), tokens)  # (B, T-1)
                    sums.append(sequence_logprobs(logprobs, mask, reduce="sum"))
        loss, _ = dpo_loss(*sums, beta=config.beta)
        loss.backward()
        apply_gradients(policy, optimizer, config.max_grad_norm)
        yield loss.item()


def our_way(
    policy: GPT, reference: GPT, pairs: list[PreferencePair], config: DPOConfig
) -> Iterator[float]:
    """The package's own loop, the reference's one pass included."""
    ref_logprobs = reference_logprobs(reference, pairs)
    training = train_dpo(
        policy,
        pairs,
        ref_logprobs,
        config=config,
        optimizer=make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr),
        generator=torch.Generator().manual_seed(0),
    )
    for metrics in training:
        yield metrics["loss"]


def compare(gpt: GPT, pairs: list[PreferencePair], config: DPOConfig, rounds: int) -> float:
    """Pairs per second of both ways; returns how many times as fast ours is."""
    ways = {"plain": plain_way, "ours": our_way}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            policy = copy.deepcopy(gpt)
            started = time.perf_counter()
            losses[name] = list(way(policy, gpt, pairs, config))
            seconds[name].append(time.perf_counter() - started)
    difference = max(
        abs(a - b) for a, b in zip(losses["plain"][:3], losses["ours"][:3], strict=True)
    )
    assert difference < 1e-3, f"the two ways disagree by {difference}"
    speed = {
        name: config.steps * config.pairs_per_step / statistics.median(taken)
        for name, taken in seconds.items()
    }
    ratio = speed["ours"] / speed["plain"]
    print(
        f"{config.pairs_per_step} pairs a step: plain {speed['plain']:,.0f} pairs/s, "
        f"ours {speed['ours']:,.0f} pairs/s, {ratio:.2f} times as fast"
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=960)
    parser.add_argument("--pairs-per-step", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tokenizer = Tokenizer(train_bpe(islice(documents(seed=0), 1_000), 1024))
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **SIZES[arguments.size]))
    gpt = gpt.to(arguments.device)
    pairs = town_pairs(tokenizer, arguments.pairs)
    lengths = [len(pair.prompt) + len(reply) for pair in pairs for reply in pair[1:]]
    print(f"rows of {statistics.fmean(lengths):.0f} tokens on average, at most {max(lengths)}")
    steps = arguments.pairs // arguments.pairs_per_step
    config = DPOConfig(
        beta=0.1,
        steps=steps,
        pairs_per_step=arguments.pairs_per_step,
        matrix_lr=5e-4,
        other_lr=5e-4,
    )
    ratio = compare(gpt, pairs, config, arguments.rounds)
    print(f"at least {BAR:g} times as fast:", "yes" if ratio >= BAR else "NO")


if __name__ == "__main__":
    main()
