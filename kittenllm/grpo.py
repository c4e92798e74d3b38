"""GRPO: several replies to one prompt judge each other. No reward model, no value model.

advantage_i = (reward_i - mean of the group) / (std of the group)

1. Generate: the policy writes G replies to each prompt.
2. Score: rules give each reply a reward (right answer, right format), and `group_advantages`
   compares it with its siblings. Every token of a reply gets the reply's advantage.
3. Update: better replies become likelier, worse ones less likely. A zero-variance group, in which
   all replies earned the same, teaches nothing and costs nothing: its rows are skipped.

Papers: GRPO: DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, eq. 3, section 4.1.2 (advantages)
and eq. 4 (the KL term, which is k3). DAPO, Yu et al. 2025, arXiv 2503.14476, sections 3.1 (a higher
upper clip) and 3.3 (mean over tokens). Dr. GRPO, Liu et al. 2025, arXiv 2503.20783, section 3.2 (no
std, a constant divisor).

At 7 billion parameters: the same three steps. DeepSeekMath 7B took 64 replies of up to 1,024 tokens
to each question, 1,024 replies a round, one update, a learning rate of 1e-6 and a KL price of 0.04
(section 4.2). An inference engine writes the replies, so the old log-probs are computed again by
the trainer, and rounds draw more prompts until enough groups have a variance (DAPO, section 3.2).

Letters: N replies = prompts x G replies per prompt, T tokens; per-token tensors are (N, T-1),
index t is about producing token t + 1. Siblings stand side by side.
Read before: ppo.py, sampling.py, rewards.py. Left out: dynamic sampling, penalties for length.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks, training
from kittenllm.config import check_options, option
from kittenllm.distributed import world
from kittenllm.forward import action_logprobs, frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import average, excess, kl_k3, masked_mean, weighted, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.rewards import Reward, score_by_rule
from kittenllm.sampling import generate


def group_advantages(
    rewards: Tensor, *, group_size: int, normalize_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """(reward - mean of its group) / (std of its group + eps): (N,) -> (N,).

    Replies 0 .. G-1 are the first group, and so on. The std is the unbiased one, over G - 1.
    Equal rewards give exactly 0. normalize_std=False leaves out the division (Dr. GRPO): a group
    in which one reply differs by a hair is then not blown up to full size.

    Raises: ValueError for integer rewards, or a group_size below 2 or not dividing N.
    """
    checks.floats("rewards", rewards, dims=1)
    checks.count("group_size", group_size, low=2)
    checks.between("eps", eps, 0, float("inf"))
    if len(rewards) % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {len(rewards)} rewards")
    rewards, dtype = widen(rewards), rewards.dtype
    groups = rewards.detach().view(-1, group_size)  # (N/G, G)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalize_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    # 0.1 minus the mean of equal 0.1s is not 0 in float32: equal is a rule, not a result.
    all_equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # (N/G, 1)
    return torch.where(all_equal, 0.0, advantages).flatten().to(dtype)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    normalize: str = "reply",
    max_tokens: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(ratio * A, clip(ratio, 1 - eps, 1 + eps_high) * A) + kl_coef * k3, averaged over tokens.

    advantages (N,), the others (N, T-1) -> 0-d (arXiv 2402.03300, eq. 3). How tokens are averaged:

    "reply"     mean of each reply, then over all N replies (DeepSeekMath). A token of a long reply
                weighs less: long wrong replies are hardly punished, so wrong replies grow longer.
    "token"     mean over all tokens of the batch (DAPO). Each token weighs the same; long replies
                decide more.
    "constant"  sum / (N * max_tokens) (Dr. GRPO). Each token weighs the same, in every batch.

    Metrics per token: clip_fraction, approx_kl (to the old policy, k3), kl (to the reference, k3).

    Raises: ValueError for wrong shapes or dtypes, clip_eps not above 0, an unknown normalize,
    "constant" without max_tokens, or kl_coef above 0 without ref_logprobs.
    """
    checks.rows("advantages", advantages, mask)
    checks.positive("clip_eps", clip_eps)
    clip_eps_high = clip_eps if clip_eps_high is None else clip_eps_high
    checks.positive("clip_eps_high", clip_eps_high)
    checks.between("kl_coef", kl_coef, 0, float("inf"))
    if ref_logprobs is None and kl_coef > 0:
        raise ValueError(f"kl_coef {kl_coef} needs ref_logprobs; pass them or use kl_coef=0")
    ref_logprobs = logprobs if ref_logprobs is None else ref_logprobs  # no reference: KL is 0
    checks.frames(mask, logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)

    dtype = logprobs.dtype
    logprobs, old_logprobs, advantages = map(widen, (logprobs, old_logprobs, advantages))
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)  # (N, T-1)
    reply_advantages = advantages.detach()[:, None]  # (N, 1) the same for all tokens of a reply
    held = log_ratio.clamp(max=1 + math.log1p(clip_eps_high))  # as in ppo.py: no 0 * inf
    ratio = torch.where(reply_advantages < 0, log_ratio, held).exp()
    plain = ratio * reply_advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps_high) * reply_advantages
    ref_logprobs = torch.where(mask, widen(ref_logprobs), 0.0).detach()
    kl = kl_k3(torch.where(mask, logprobs, 0.0), ref_logprobs)  # (N, T-1) nats
    token_losses = weighted(kl_coef, kl) - torch.minimum(plain, clipped)  # (N, T-1)
    loss = average(token_losses, mask, normalize=normalize, max_tokens=max_tokens)
    with torch.no_grad():
        outside = (ratio < 1 - clip_eps) | (ratio > 1 + clip_eps_high)
        metrics = {
            "clip_fraction": masked_mean(outside.to(ratio.dtype), mask),
            "approx_kl": masked_mean(excess(log_ratio), mask),
            "kl": masked_mean(kl, mask),
        }
    return loss.to(dtype), {name: number.to(dtype) for name, number in metrics.items()}


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of GRPO. Learning rates: whoever builds the optimizer reads them."""

    steps: int = option(70, "rounds of generate, score, update", low=1)
    prompts_per_step: int = option(32, "prompts in a round; usually 16 to 512", low=1)
    group_size: int = option(8, "G, replies to each prompt, which judge each other", low=2)
    max_new_tokens: int = option(192, "longest reply; one that is cut off earns nothing", low=1)
    clip_eps: float = option(0.2, "how far a round may move a ratio; usually 0.1 to 0.3", above=0)
    clip_eps_high: float | None = option(None, "the same upwards; none: clip_eps", above=0)
    kl_coef: float = option(0.0, "price of one nat from the reference; 0 needs none", low=0)
    normalize: str = option(
        "token", "how tokens are averaged", choices=("reply", "token", "constant")
    )
    normalize_std: bool = option(False, "divide by the std of the group; no: Dr. GRPO")
    epochs: int = option(1, "how often each reply is learnt from; usually 1 to 4", low=1)
    minibatches: int = option(1, "steps per epoch, each over whole groups; usually 1 to 8", low=1)
    tokens_per_pass: int = option(8192, "most tokens in memory at once", low=1)
    skip_equal_groups: bool = option(True, "leave zero-variance groups out, if there is no KL")
    matrix_lr: float | None = option(
        6e-4,
        "Muon's rate, hidden matrices; usually 2e-4 to 1e-3; none: AdamW there too",
        above=0,
    )
    other_lr: float = option(2e-4, "AdamW's rate, embeddings, norms; usually 1e-4 to 1e-3", above=0)
    cooldown: float = option(0.2, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def train_grpo(
    policy: GPT,
    prompts: Sequence[list[int]],
    reward: Reward,
    *,
    config: GRPOConfig,
    optimizer: training.Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
    reference: GPT | None = None,
    kl_coefs: Sequence[float] | None = None,
) -> Iterator[dict[str, float]]:
    """Generate, score, update; yields one dict of numbers per round.

    reward(prompt_number, reply_ids, ended) -> (reward, parts), see rewards.py. kl_coefs[number] is
    the price of one nat for the replies to a prompt; None: config.kl_coef for all. To go on after a
    stop, restore policy, optimizer and generator and pass the finished rounds as `start_step`.

    A row with advantage 0 adds nothing to a loss without KL term: it is skipped, and every part of
    the rest gets the share that it has in the loss over *all* rows. No variance, no step. All rows
    of a part have one price: a batch of two kinds is the sum of its halves.

    Keys: step, lr_scale, those of `score_by_rule`, loss and grad_norm (means over the small steps),
    clip_fraction, approx_kl and kl (means over the tokens that were not skipped), updates (how many
    small steps), all 0 where every row was skipped; seconds, seconds_sampling, seconds_scoring,
    seconds_training, tokens_per_second (of the replies).

    Raises: ValueError for no prompts, not one price per prompt, a KL term without a reference, or a
    log-prob of the reference that is not a finite number.
    """
    limit, size = config.max_new_tokens, config.group_size
    prices = prices_of(len(prompts), config, kl_coefs, reference)
    for step in range(start_step, config.steps):
        watch = training.Stopwatch()
        scale = learning_rate_scale(step, config.steps, warmup=0.0, cooldown=config.cooldown)
        optimizer.set_scale(scale)
        picked, dice = training.own_rows(len(prompts), step, config.prompts_per_step, generator)
        batch = [prompts[i] for i in picked for _ in range(size)]  # N rows, siblings together

        # 1. Generate: the distribution sampled from is the one scored below, temperature 1.
        rollout = generate(policy, batch, max_new_tokens=limit, temperature=1, generator=dice)
        tokens, mask, old_logprobs = rollout.tokens, rollout.response_mask, rollout.logprobs
        watch.lap("sampling")

        # 2. Score: a rule says what each reply is worth, siblings make an advantage of it.
        rewards, numbers = score_by_rule(rollout, picked, reward, group_size=size)
        advantages = group_advantages(rewards, group_size=size, normalize_std=config.normalize_std)
        price = [prices[i] for i in picked for _ in range(size)]  # N prices
        priced = torch.tensor([kl_coef > 0 for kl_coef in price], device=mask.device)  # (N,)
        ref_logprobs = torch.zeros_like(old_logprobs)
        if reference is not None and priced.any():  # without the KL term it is not asked
            ref_logprobs[priced] = frozen_logprobs(reference, tokens[priced], mask[priced])
            checks.finite("the reference's log-probs of reply", ref_logprobs)
        watch.lap("scoring")

        # 3. Update: better replies likelier, worse ones less likely; groups stay whole.
        means = training.Means("loss", "grad_norm", "clip_fraction", "approx_kl", "kl")
        updates, useful = 0, priced | (advantages != 0) | (not config.skip_equal_groups)
        groups = torch.arange(len(mask), device=mask.device).view(-1, size)
        for rows in [part.flatten() for part in groups.chunk(config.minibatches)] * config.epochs:
            kept, total = rows[useful[rows]], 0.0
            for part, share, kl_coef in priced_parts(mask, rows, kept, price, set(prices), config):
                logprobs = action_logprobs(policy, tokens[part], mask[part])  # (rows, T-1)
                inputs = logprobs, old_logprobs[part], advantages[part], mask[part]
                loss, metrics = grpo_loss(
                    *inputs,
                    clip_eps=config.clip_eps,
                    clip_eps_high=config.clip_eps_high,
                    ref_logprobs=ref_logprobs[part] if kl_coef > 0 else None,
                    kl_coef=kl_coef,
                    normalize=config.normalize,
                    max_tokens=limit,
                )
                (share * loss).backward()
                total += share * loss.item()
                means.add(metrics, weight=int(mask[part].sum()) if share > 0 else 0)
            if sum(world().each(len(kept))) > 0:
                norm = training.apply_gradients(policy, optimizer, config.max_grad_norm)
                means.add({"loss": total, "grad_norm": norm})
                updates += 1
        numbers = {**world().mean(numbers), **means.means(), "updates": updates}
        watch.lap("training")
        speed = {"tokens_per_second": world().size * int(mask.sum()) / watch.seconds["seconds"]}
        yield {"step": step, "lr_scale": scale, **numbers, **speed, **watch.seconds}


def priced_parts(
    mask: Tensor,
    rows: Tensor,
    kept: Tensor,
    price: list[float],
    all_prices: set[float],
    config: GRPOConfig,
) -> Iterator[tuple[Tensor, float, float]]:
    """The parts of `training.loss_shares`, each with the one price of its rows:
    -> (row numbers, share of the loss over all `rows`, kl_coef).

    price holds one number per row. Every price of the training is gone through, also one that no
    row of this batch has: under torchrun all processes must ask for their shares together.
    """
    for kl_coef in sorted(all_prices):
        of_price = torch.tensor([each == kl_coef for each in price], device=mask.device)  # (N,)
        same, limit = kept[of_price[kept]], config.tokens_per_pass
        for part, share in training.loss_shares(mask, rows, same, config.normalize, limit):
            yield part, share, kl_coef


def prices_of(
    prompts: int, config: GRPOConfig, kl_coefs: Sequence[float] | None, reference: GPT | None
) -> list[float]:
    """What one nat from the reference costs in the replies to each prompt.

    Raises: ValueError unless there is a price for each prompt, and a reference if one costs.
    """
    prices = [config.kl_coef] * prompts if kl_coefs is None else list(kl_coefs)
    if len(prices) != prompts:
        raise ValueError(f"{len(prices)} kl_coefs for {prompts} prompts; give one for each")
    for kl_coef in set(prices):
        checks.between("kl_coef", kl_coef, 0, float("inf"))
        if kl_coef > 0 and reference is None:
            raise ValueError(f"kl_coef {kl_coef} needs a reference model; or use kl_coef=0")
    return prices
