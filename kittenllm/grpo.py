"""GRPO: several replies to one prompt judge each other. No reward model, no value model.

advantage_i = (reward_i - mean of the group) / (std of the group)

A reply that did better than its siblings becomes likelier, a worse one less likely; every token of
a reply gets the reply's advantage. Rewards are rules: right answer, right format. A group in which
all replies earned the same teaches nothing and costs nothing: its rows are skipped.

Papers: GRPO: DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, eq. 3 (its KL term: eq. 4, which is
k3). DAPO, Yu et al. 2025, arXiv 2503.14476, sections 3.1 (a higher upper clip) and 3.3 (mean over
tokens). Dr. GRPO, Liu et al. 2025, arXiv 2503.20783, section 3.2 (no std, a constant divisor).

Letters: N replies = prompts x G replies per prompt, T tokens; per-token tensors are (N, T-1),
index t is about producing token t + 1. Siblings stand side by side.
Read before: ppo.py, sampling.py. Left out: dynamic sampling until every group has a signal,
penalties for length.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks, judging, training
from kittenllm.config import check_options, option
from kittenllm.forward import action_logprobs, frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import average, excess, kl_k3, masked_mean, weighted, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.sampling import Rollout, generate

group_advantages = judging.group_advantages  # from the rewards of siblings to advantages


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
    clip_eps: float = option(0.2, "how far a round may move a ratio; 0.1 to 0.3", above=0)
    clip_eps_high: float | None = option(None, "the same upwards; none: clip_eps", above=0)
    kl_coef: float = option(0.0, "price of one nat from the reference; 0 needs none", low=0)
    normalize: str = option(
        "token", "how tokens are averaged", choices=("reply", "token", "constant")
    )
    normalize_std: bool = option(False, "divide by the std of the group; no: Dr. GRPO")
    epochs: int = option(1, "how often each reply is learnt from; usually 1 to 4", low=1)
    minibatches: int = option(1, "steps per epoch, each over whole groups; 1 to 8", low=1)
    tokens_per_pass: int = option(8192, "most tokens in memory at once", low=1)
    skip_equal_groups: bool = option(True, "leave rows without signal out, if there is no KL")
    matrix_lr: float = option(6e-4, "Muon's rate, for hidden matrices; 2e-4 to 1e-3", above=0)
    other_lr: float = option(2e-4, "AdamW's rate, for embeddings and norms; 1e-4 to 1e-3", above=0)
    cooldown: float = option(0.2, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def update(
    policy: GPT,
    reference: GPT | None,
    rollout: Rollout,
    advantages: Tensor,
    config: GRPOConfig,
    optimizer: training.Optimizer,
) -> dict[str, float]:
    """The optimizer steps of one round; groups stay whole.

    A row with advantage 0 adds nothing to a loss without KL term: it is skipped, and every part of
    the rest gets the share that it has in the loss over *all* rows. No signal, no step.

    Returns loss (mean over the steps), clip_fraction, approx_kl and kl (means over the tokens that
    were not skipped), grad_norm (mean) and updates (how many steps); 0 where there was no signal.
    """
    mask, with_kl = rollout.response_mask, config.kl_coef > 0
    ref_logprobs = frozen_logprobs(reference, rollout.tokens, mask) if with_kl else None
    if ref_logprobs is not None:
        checks.finite("the reference's log-probs of reply", ref_logprobs)
    keep_all = with_kl or not config.skip_equal_groups
    groups = torch.arange(len(mask), device=mask.device).view(-1, config.group_size)
    numbers = training.Means("loss", "grad_norm", "clip_fraction", "approx_kl", "kl")
    updates = 0
    for rows in [part.flatten() for part in groups.chunk(config.minibatches)] * config.epochs:
        useful = rows if keep_all else rows[advantages[rows] != 0]
        total = 0.0
        shares = training.loss_shares(mask, rows, useful, config.normalize, config.tokens_per_pass)
        for part, share in shares:
            loss, metrics = grpo_loss(
                action_logprobs(policy, rollout.tokens[part], mask[part]),
                rollout.logprobs[part],
                advantages[part],
                mask[part],
                clip_eps=config.clip_eps,
                clip_eps_high=config.clip_eps_high,
                ref_logprobs=None if ref_logprobs is None else ref_logprobs[part],
                kl_coef=config.kl_coef,
                normalize=config.normalize,
                max_tokens=config.max_new_tokens,
            )
            (share * loss).backward()
            total += share * loss.item()
            numbers.add(metrics, weight=int(mask[part].sum()))
        if len(useful) > 0:
            norm = training.apply_gradients(policy, optimizer, config.max_grad_norm)
            numbers.add({"loss": total, "grad_norm": norm})
            updates += 1
    return {**numbers.means(), "updates": updates}


def train_grpo(
    policy: GPT,
    prompts: Sequence[list[int]],
    reward: judging.Reward,
    *,
    config: GRPOConfig,
    optimizer: training.Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
    reference: GPT | None = None,
) -> Iterator[dict[str, float]]:
    """Sample groups of replies, judge them by rules, learn; yields one dict of numbers per round.

    reward(prompt_number, reply_ids, ended) -> (reward, parts), see judging.py. To go on after a
    stop, restore policy, optimizer and generator and pass the finished rounds as `start_step`.

    Keys: step, lr_scale, those of `judge` and of `update`, seconds, seconds_sampling,
    seconds_judging, seconds_training, tokens_per_second (of the replies).

    Raises: ValueError for no prompts, or a KL term without a reference.
    """
    if config.kl_coef > 0 and reference is None:
        raise ValueError(f"kl_coef {config.kl_coef} needs a reference model; or use kl_coef=0")
    limit, size, std = config.max_new_tokens, config.group_size, config.normalize_std
    for step in range(start_step, config.steps):
        watch = training.Stopwatch()
        scale = learning_rate_scale(step, config.steps, warmup=0.0, cooldown=config.cooldown)
        optimizer.set_scale(scale)
        picked = training.rows_of_step(len(prompts), step, config.prompts_per_step, generator)
        rows = [prompts[i] for i in picked for _ in range(size)]  # N rows, siblings together

        rollout = generate(policy, rows, max_new_tokens=limit, temperature=1.0, generator=generator)
        watch.lap("sampling")
        rewards, numbers = judging.judge(rollout, picked, reward, group_size=size)
        advantages = group_advantages(rewards, group_size=size, normalize_std=std)
        watch.lap("judging")
        numbers |= update(policy, reference, rollout, advantages, config, optimizer)
        watch.lap("training")
        seconds, tokens = watch.seconds, int(rollout.response_mask.sum())
        numbers |= {"lr_scale": scale, "tokens_per_second": tokens / seconds["seconds"]}
        yield {"step": step, **numbers, **seconds}
