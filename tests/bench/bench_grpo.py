"""One step of GRPO, our way and the plain way, in the same run.

    python tests/bench/bench_grpo.py

512 replies (32 prompts x 16) of 10 .. 76 tokens, 43 on average. Lengths and rewards are drawn once
and then fixed, so both ways do the same work; in every third group all replies earn the same. The
plain way keeps finished rows in the batch, has no KV cache, computes the logits of every position,
padding included, and trains on all rows. Both ways take turns, each round starts from the same
weights, and the median of the rounds counts. Before that, both must give the same gradient for one
rollout.
"""

import argparse
import copy
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch

from kittenllm import grpo, sampling  # noqa: E402
from kittenllm.gpt import GPT, SIZES, GPTConfig  # noqa: E402
from kittenllm.grpo import GRPOConfig, group_advantages, grpo_loss  # noqa: E402
from kittenllm.logprobs import token_logprobs  # noqa: E402
from kittenllm.optim import make_optimizer  # noqa: E402
from kittenllm.sampling import Rollout  # noqa: E402
from kittenllm.training import apply_gradients  # noqa: E402

PROMPTS, GROUP, PROMPT_TOKENS = 32, 16, 15
SHORTEST, LONGEST = 10, 76
ROWS_AT_ONCE = 64  # of the plain training; all at once would need gigabytes
FACTOR = 6.0

CONFIG = GRPOConfig(
    steps=1, prompts_per_step=PROMPTS, group_size=GROUP, max_new_tokens=LONGEST, normalize="token"
)


class Work:
    """What every round has to do: fixed prompts, fixed lengths, fixed rewards."""

    def __init__(self, gpt: GPT):
        dice = torch.Generator().manual_seed(0)
        count = PROMPTS * GROUP
        self.gpt = gpt
        lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=dice)
        self.lengths = lengths.to(gpt.device)  # (N,)
        rewards = (torch.rand(PROMPTS, GROUP, generator=dice) < 0.3).float()
        rewards[::3] = 0.0  # nobody in these groups is right
        self.rewards = rewards.flatten()  # (N,)
        vocabulary = range(10, gpt.config.vocab_size)
        self.prompts = [
            [vocabulary[(7 * p + 3 * t) % len(vocabulary)] for t in range(PROMPT_TOKENS)]
            for p in range(PROMPTS)
        ]

    def generator(self) -> torch.Generator:
        return torch.Generator(device=self.gpt.device).manual_seed(1)

    def replies(self, gpt, prompts, *, max_new_tokens, temperature, generator) -> Rollout:
        """`generate`, but each reply ends at its own fixed length."""
        sampling.stop_rule = lambda gpt, ids: (
            lambda tokens, rows, step: self.lengths[rows] == step + 1
        )
        return sampling.generate(
            gpt,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
        )


def our_step(work: Work) -> float:
    """Seconds of one round of `train_grpo`, with the lengths and rewards of `work`."""
    gpt = copy.deepcopy(work.gpt)
    optimizer = make_optimizer(gpt, matrix_lr=5e-4, other_lr=5e-4)
    rewards = itertools.cycle(work.rewards.tolist())
    grpo.generate = work.replies
    training = grpo.train_grpo(
        gpt,
        work.prompts,
        lambda number, reply, ended: (next(rewards), {}),
        config=CONFIG,
        optimizer=optimizer,
        generator=work.generator(),
    )
    started = time.perf_counter()
    numbers = next(training)
    took = time.perf_counter() - started
    assert numbers["reply_tokens"] == float(work.lengths.float().mean())
    return took


def plain_step(work: Work) -> float:
    """Seconds of the same round as one would write it first."""
    gpt = copy.deepcopy(work.gpt)
    optimizer = make_optimizer(gpt, matrix_lr=5e-4, other_lr=5e-4)
    started = time.perf_counter()
    rollout = plain_sampling(gpt, work)
    advantages = group_advantages(work.rewards.to(gpt.device), group_size=GROUP)
    plain_gradient(gpt, rollout, advantages)
    apply_gradients(gpt, optimizer, CONFIG.max_grad_norm)
    return time.perf_counter() - started


@torch.no_grad()
def plain_sampling(gpt: GPT, work: Work) -> Rollout:
    """A static batch without a cache: the whole text is read again for every new token."""
    generator = work.generator()
    prompts = [prompt for prompt in work.prompts for _ in range(GROUP)]
    tokens = torch.tensor(prompts, device=gpt.device)  # (N, P)
    logprobs = []
    for _ in range(LONGEST):
        logits = gpt(tokens)[:, -1]  # (N, V), the rest was computed for nothing
        token, logprob = sampling.draw(logits, 1.0, generator)  # (N,), (N,)
        tokens = torch.cat([tokens, token[:, None]], dim=1)
        logprobs.append(logprob)
    place = torch.arange(LONGEST, device=gpt.device)  # (R,)
    in_reply = place < work.lengths[:, None]  # (N, R)
    mask = torch.zeros(len(tokens), tokens.shape[1] - 1, dtype=torch.bool, device=gpt.device)
    mask[:, PROMPT_TOKENS - 1 :] = in_reply
    all_logprobs = torch.zeros(mask.shape, device=gpt.device)
    all_logprobs[:, PROMPT_TOKENS - 1 :] = torch.stack(logprobs, dim=1)
    ended = torch.ones(len(tokens), dtype=torch.bool, device=gpt.device)
    return Rollout(tokens, mask, torch.where(mask, all_logprobs, 0.0), ended)


def plain_gradient(gpt: GPT, rollout: Rollout, advantages: torch.Tensor) -> None:
    """The gradient over all rows, with the logits of every position."""
    mask = rollout.response_mask
    for rows in torch.arange(len(mask), device=mask.device).split(ROWS_AT_ONCE):
        logprobs = token_logprobs(gpt(rollout.tokens[rows]), rollout.tokens[rows])
        loss, _ = grpo_loss(
            logprobs, rollout.logprobs[rows], advantages[rows], mask[rows], normalize="token"
        )
        share = mask[rows].sum() / mask.sum()
        (share * loss).backward()


class NoStep:
    """An optimizer that leaves weights and gradients as they are."""

    def step(self) -> None: ...
    def zero_grad(self) -> None: ...
    def set_scale(self, scale: float) -> None: ...


def learn_from(gpt: GPT, rollout: Rollout, work: Work) -> None:
    """One round of `train_grpo` on this rollout, which leaves its gradient in the model."""
    config = GRPOConfig(
        prompts_per_step=PROMPTS, group_size=GROUP, normalize="token", max_grad_norm=1e9
    )
    worth = iter(work.rewards.tolist())
    grpo.generate = lambda *_, **__: rollout
    rounds = grpo.train_grpo(
        gpt,
        work.prompts,
        lambda *_: (next(worth), {}),
        config=config,
        optimizer=NoStep(),
        generator=work.generator(),
    )
    next(rounds)


def check_gradients(work: Work) -> None:
    """Both ways must learn the same thing from the same rollout."""
    prompts = [prompt for prompt in work.prompts for _ in range(GROUP)]
    rollout = work.replies(
        work.gpt, prompts, max_new_tokens=LONGEST, temperature=1.0, generator=work.generator()
    )
    advantages = group_advantages(work.rewards.to(work.gpt.device), group_size=GROUP)
    gradients = []
    for way in ("ours", "plain"):
        gpt = copy.deepcopy(work.gpt)
        if way == "ours":
            learn_from(gpt, rollout, work)
        else:
            plain_gradient(gpt, rollout, advantages)
        gradients.append(torch.cat([p.grad.flatten() for p in gpt.parameters()]))
    ours, plain = gradients
    difference = float((ours - plain).norm() / plain.norm())
    print(f"difference of the two gradients: {difference:.1e} of their length")
    assert difference < 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    work = Work(GPT(GPTConfig(**SIZES[arguments.size])).to(arguments.device))
    check_gradients(work)
    ours, plain = [], []
    for number in range(1, arguments.rounds + 1):
        ours.append(our_step(work))
        plain.append(plain_step(work))
        print(f"round {number}: ours {ours[-1]:.2f} s, plain {plain[-1]:.2f} s", flush=True)
    seconds, plain_seconds = statistics.median(ours), statistics.median(plain)
    tokens = int(work.lengths.sum())
    print(
        f"{PROMPTS * GROUP} replies of {tokens / len(work.lengths):.0f} tokens: median "
        f"{seconds:.2f} s a step ({tokens / seconds:,.0f} tokens/s), the plain way "
        f"{plain_seconds:.2f} s, {plain_seconds / seconds:.1f} times as fast"
    )
    print(
        f"at least {FACTOR:g} times as fast:", "yes" if plain_seconds >= FACTOR * seconds else "NO"
    )


if __name__ == "__main__":
    main()
