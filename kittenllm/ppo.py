"""PPO: generate replies, score them, make the better tokens a little likelier; again and again.

loss = -mean_t min(ratio_t * A_t, clip(ratio_t, 1 - eps, 1 + eps) * A_t),  ratio = p / p_old

Generate: the policy writes replies. Score: a reward model gives each reply one number, and
credit.py turns it into an advantage A_t for every token. Update: several small steps on the same
replies; the clip stops paying for a token once its probability has changed by the factor 1 +- eps,
since the replies were written by the old policy.

Papers: PPO, Schulman et al. 2017, arXiv 1707.06347, eq. 7; in language models: Ouyang et al. 2022,
arXiv 2203.02155. The clipped value loss is not in the PPO paper; it comes from OpenAI's baselines.

Letters: B replies, T tokens; per-token tensors are (B, T-1), index t is about token t + 1.
Read before: credit.py, sampling.py. Left out: an entropy bonus, an adaptive kl_coef, pretraining
gradients mixed in, reward scaling by a running mean.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks, credit, training
from kittenllm.config import check_options, option
from kittenllm.credit import Credit, ValueModel
from kittenllm.forward import action_logprobs, frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import excess, masked_mean, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.sampling import Rollout, generate
from kittenllm.training import Optimizer

kl_shaped_rewards = credit.kl_shaped_rewards  # from one score to a reward per token
gae = credit.gae  # from rewards to advantages


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_eps: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)            (1707.06347, eq. 7)

    All (B, T-1) -> 0-d, the mean over all counted tokens of the batch. The min takes the worse
    of the two: a good token earns nothing above 1 + eps, a bad one nothing below 1 - eps, but a
    step in the wrong direction is never excused. Where the ratio is beyond what a float can hold,
    a good token still has the clip's loss, and no gradient.
    Metrics: clip_fraction (share of ratios outside the interval), approx_kl (k3, nats per token).

    Raises: ValueError for wrong shapes or dtypes, or clip_eps not above 0.
    """
    checks.frames(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    checks.positive("clip_eps", clip_eps)
    dtype = logprobs.dtype
    logprobs, old_logprobs, advantages = map(widen, (logprobs, old_logprobs, advantages))
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)  # (B, T-1)
    advantages = torch.where(mask, advantages, 0.0).detach()
    # Above the clip a good token earns the same, however large its ratio. Held at e (1 + eps) it
    # cannot become inf, of which the gradient would be 0 * inf = NaN.
    held = log_ratio.clamp(max=1 + math.log1p(clip_eps))
    ratio = torch.where(advantages < 0, log_ratio, held).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages
    loss = -masked_mean(torch.minimum(plain, clipped), mask)
    with torch.no_grad():
        outside = ((ratio - 1).abs() > clip_eps).to(ratio.dtype)
        metrics = {
            "clip_fraction": masked_mean(outside, mask),
            "approx_kl": masked_mean(excess(log_ratio), mask),
        }
    return loss.to(dtype), {name: number.to(dtype) for name, number in metrics.items()}


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip_eps: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean max((v - R)^2, (v_clipped - R)^2) / 2,  v_clipped = v_old + clip(v - v_old, -eps, eps)

    All (B, T-1) -> 0-d, the mean over all counted tokens of the batch. The larger square counts: a
    value may move by eps towards its return, then the pull stops.
    Metrics: clip_fraction (share of values that moved further than eps).

    Raises: ValueError for wrong shapes or dtypes, or clip_eps not above 0.
    """
    checks.frames(mask, values=values, old_values=old_values, returns=returns)
    checks.positive("clip_eps", clip_eps)
    dtype = values.dtype
    values, old_values, returns = map(widen, (values, old_values, returns))
    values = torch.where(mask, values, 0.0)  # (B, T-1)
    old_values = torch.where(mask, old_values, 0.0).detach()
    returns = torch.where(mask, returns, 0.0).detach()
    change = values - old_values
    clipped_values = old_values + change.clamp(-clip_eps, clip_eps)
    worse = torch.maximum((values - returns).square(), (clipped_values - returns).square())
    outside = (change.detach().abs() > clip_eps).to(values.dtype)
    metrics = {"clip_fraction": masked_mean(outside, mask).to(dtype)}
    return (0.5 * masked_mean(worse, mask)).to(dtype), metrics


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. Learning rates: whoever builds the two optimizers reads them."""

    steps: int = option(55, "rounds of generate, score, update", low=1)
    replies_per_step: int = option(128, "B, replies in a round, each to another prompt", low=1)
    max_new_tokens: int = option(48, "longest reply", low=1)
    epochs: int = option(2, "how often each reply is learnt from; usually 1 to 4", low=1)
    minibatches: int = option(2, "small steps per epoch; usually 1 to 8", low=1)
    clip_eps: float = option(0.2, "how far a round may move a ratio; 0.1 to 0.3", above=0)
    value_clip_eps: float = option(0.2, "how far a round may move a guess, in score", above=0)
    gamma: float = option(1.0, "1: a reward at the end counts in full for all", low=0, high=1)
    lam: float = option(0.95, "0: trust the value model, 1: the score alone", low=0, high=1)
    kl_coef: float = option(0.2, "price of one nat from the reference, in score", low=0)
    no_end_penalty: float = option(2.0, "off the score of a reply that does not end", low=0)
    whiten_advantages: bool = option(True, "off for exact theory, see `whiten`")
    target_kl: float = option(0.1, "nats per token that end a round early", above=0)
    policy_lr: float = option(3e-4, "both rates of the policy; 1e-4 to 5e-4", above=0)
    value_lr: float = option(1e-3, "both rates of the value model", above=0)
    cooldown: float = option(0.0, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def update(
    models: tuple[GPT, ValueModel],
    optimizers: tuple[Optimizer, Optimizer],
    rollout: Rollout,
    credits: Credit,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Several small steps on the same replies, while the policy stays near.

    Returns the means over the small steps of policy_loss, value_loss, clip_fraction, approx_kl
    and grad_norm; also updates (how many) and ratio_error: the largest |log ratio| before the
    first one, 0 but for rounding, because sampling and scoring use one distribution.
    """
    policy, value_model = models
    advantages = credits.advantages
    if config.whiten_advantages:
        advantages = credit.whiten(advantages, rollout.response_mask)
    means, updates = training.Means(), 0
    for rows in training.minibatches(len(advantages), config.epochs, config.minibatches, generator):
        tokens, mask = rollout.tokens[rows], rollout.response_mask[rows]
        old_logprobs, old_values = rollout.logprobs[rows], credits.values[rows]
        logprobs = action_logprobs(policy, tokens, mask)  # (rows, T-1)
        policy_loss, numbers = ppo_policy_loss(
            logprobs, old_logprobs, advantages[rows], mask, clip_eps=config.clip_eps
        )
        if updates and numbers["approx_kl"] > config.target_kl:
            break  # too far from the policy that wrote the replies
        values = value_model(tokens, mask)  # (rows, T-1)
        value_loss, _ = ppo_value_loss(
            values, old_values, credits.returns[rows], mask, clip_eps=config.value_clip_eps
        )
        if updates == 0:
            means.add({"ratio_error": (logprobs - old_logprobs).detach().abs()[mask].max()})
        (policy_loss + value_loss).backward()  # two models: neither gradient touches the other
        grad_norm = training.apply_gradients(policy, optimizers[0], config.max_grad_norm)
        training.apply_gradients(value_model, optimizers[1], config.max_grad_norm)
        losses = {"policy_loss": policy_loss, "value_loss": value_loss, "grad_norm": grad_norm}
        means.add(numbers | losses)
        updates += 1
    return {**means.means(), "updates": updates}


def train_ppo(
    policy: GPT,
    reference: GPT,
    value_model: ValueModel,
    prompts: Sequence[list[int]],
    score: Callable[[Rollout], Tensor],
    *,
    config: PPOConfig,
    optimizer: Optimizer,
    value_optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Generate, score, update; yields one dict of numbers per round.

    score(rollout) -> (N,) is any function of the replies, for example a standardised reward model.
    To go on after a stop, restore both models, both optimizers and the generator, and pass the
    number of finished rounds as `start_step`.

    Keys: step, lr_scale, those of `update` and of `credit.rollout_numbers`, and seconds,
    seconds_sampling, seconds_scoring, seconds_training.

    Raises: ValueError for a score, or a log-prob of the reference, that is not a finite number.
    """
    models, optimizers = (policy, value_model), (optimizer, value_optimizer)
    for step in range(start_step, config.steps):
        watch = training.Stopwatch()
        scale = learning_rate_scale(step, config.steps, warmup=0.0, cooldown=config.cooldown)
        optimizer.set_scale(scale)
        value_optimizer.set_scale(scale)
        picked = training.rows_of_step(len(prompts), step, config.replies_per_step, generator)
        batch = [prompts[i] for i in picked]

        # 1. Generate: the distribution sampled from is the one scored below, temperature 1.
        rollout = generate(
            policy,
            batch,
            max_new_tokens=config.max_new_tokens,
            temperature=1.0,
            generator=generator,
        )
        watch.lap("sampling")

        # 2. Score: one number per reply, then a credit per token.
        mask = rollout.response_mask
        prices = {"kl_coef": config.kl_coef, "gamma": config.gamma, "lam": config.lam}
        ref_logprobs = frozen_logprobs(reference, rollout.tokens, mask)  # (N, T-1)
        with torch.no_grad():
            scores = score(rollout)  # (N,)
            checks.finite("score of reply", scores)
            if config.kl_coef > 0:
                checks.finite("the reference's log-probs of reply", ref_logprobs)
            scores = scores - config.no_end_penalty * (~rollout.ended).float()
            values = value_model(rollout.tokens, mask)  # (N, T-1)
        credits = credit.token_credit(
            scores, rollout.logprobs, ref_logprobs, values, mask, **prices
        )
        watch.lap("scoring")

        # 3. Update: likelier where the advantage is positive, and better guesses.
        numbers = update(models, optimizers, rollout, credits, config, generator)
        watch.lap("training")
        numbers |= credit.rollout_numbers(rollout, ref_logprobs, credits)
        yield {"step": step, "lr_scale": scale, **numbers, **watch.seconds}
