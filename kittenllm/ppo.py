"""PPO: generate replies, score them, make the better tokens a little likelier; again and again.

loss = -mean_t min(ratio_t * A_t, clip(ratio_t, 1 - eps, 1 + eps) * A_t),  ratio = p / p_old

1. Generate: the policy writes replies.
2. Score: how can one score for a whole reply change the weight of each token? Every token pays for
   leaving the reference model, and the last one gets the score (`kl_shaped_rewards`). A value model
   guesses, before each token, what is still to come. A guess that rises was a good token: that is
   its TD error. `gae` adds up the TD errors from the token on, later ones counting less and less.
3. Update: several small steps on the same replies; the clip stops paying for a token once its
   probability has changed by the factor 1 +- eps, since the replies were written by the old policy.

Papers: PPO, Schulman et al. 2017, arXiv 1707.06347, eq. 7; in language models: Ouyang et al. 2022,
arXiv 2203.02155. GAE, Schulman et al. 2015, arXiv 1506.02438, eq. 16. KL penalty per token, Ziegler
et al. 2019, arXiv 1909.08593, eq. 2. The clipped value loss comes from OpenAI's baselines.

At 7 billion parameters: the same three steps, on many GPUs. An inference engine writes the replies
and gets the new weights each round; its log-probs are a little off, so the old ones are computed
again by the trainer. Policy, reference, reward and value model are spread over the machines (Sheng
et al. 2024, "HybridFlow", arXiv 2409.19256). InstructGPT: 512 replies a round, 8 minibatches, one
epoch, a KL price of 0.02 (appendix C.4 of Ouyang et al.).

Letters: B replies, T tokens, C channels; per-token tensors are (B, T-1), index t is about producing
token t + 1. Rewards and values share the score's unit; log-probs and KL are in nats.
Read before: logprobs.py, reward_model.py, sampling.py. Left out: an entropy bonus, an adaptive
kl_coef, pretraining gradients mixed in, weights shared by policy and value model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kittenllm import checks, training
from kittenllm.config import check_options, option
from kittenllm.forward import action_hidden, action_logprobs, frozen_logprobs, to_action_frame
from kittenllm.gpt import GPT
from kittenllm.logprobs import all_equal, excess, kl_k1, masked_mean, weighted, widen
from kittenllm.optim import learning_rate_scale
from kittenllm.rewards import rollout_numbers
from kittenllm.sampling import Rollout, generate


def kl_shaped_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kl_coef: float
) -> Tensor:
    """One reward per token: -kl_coef * (log p_t - log ref_t), and the score on the last token.

    scores (B,), the others (B, T-1) -> (B, T-1), 0 outside the mask. "Last" is the last True of
    the row; a row without a True drops its score. No gradient flows through rewards. kl_coef = 0
    switches the penalty off, whatever the log-probs are.

    Raises: ValueError for wrong shapes or dtypes, or a negative kl_coef.
    """
    checks.frames(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    checks.rows("scores", scores, mask)
    checks.between("kl_coef", kl_coef, 0, float("inf"))
    dtype = torch.promote_types(scores.dtype, logprobs.dtype)
    scores, logprobs, ref_logprobs = widen(scores), widen(logprobs), widen(ref_logprobs)
    kl = torch.where(mask, kl_k1(logprobs, ref_logprobs), 0.0).detach()  # (B, T-1) nats
    trues_from_here = mask.flip(1).cumsum(1).flip(1)  # (B, T-1) this one and later ones
    is_last = mask & (trues_from_here == 1)
    score_at_end = torch.where(is_last, scores.detach()[:, None], 0.0)
    return (score_at_end - weighted(kl_coef, kl)).to(dtype)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (arXiv 1506.02438, eq. 16, computed from the end).

    delta_t = reward_t + gamma * value_{t+1} - value_t
    advantage_t = delta_t + gamma * lam * advantage_{t+1}

    All (B, T-1) -> advantages, and returns = advantages + values; 0 outside the mask. After the
    last True comes nothing: value and advantage are 0 there. A False between two Trues is skipped
    as if it were deleted. lam = 0 gives the TD error, lam = 1 the reward to go minus the value.

    Raises: ValueError for wrong shapes or dtypes, or gamma or lam outside 0 .. 1.
    """
    checks.frames(mask, rewards=rewards, values=values)
    checks.between("gamma", gamma, 0, 1)
    checks.between("lam", lam, 0, 1)
    dtype = values.dtype
    rewards, values = widen(rewards), widen(values)
    rewards = torch.where(mask, rewards, 0.0).detach()
    values = torch.where(mask, values, 0.0).detach()
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(len(values))  # (B,)
    next_advantage = values.new_zeros(len(values))  # (B,)
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
        if gamma * lam > 0:  # else it is never looked at, and stays 0: 0 * inf would be NaN
            next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        if gamma > 0:
            next_value = torch.where(mask[:, t], values[:, t], next_value)
    return advantages.to(dtype), (advantages + values).to(dtype)


class ValueModel(nn.Module):
    """Guesses, before each token is produced, the reward still to come. It has a GPT of its own.

    Hand over a copy of the reward model's GPT: it knows what replies are worth. The head starts
    at zero.
    """

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt
        zeros = torch.zeros(gpt.config.channels, device=gpt.device, dtype=gpt.dtype)
        self.head = nn.Parameter(zeros)  # (C,)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, T), mask (B, T-1) -> values (B, T-1), 0 outside the mask."""
        hidden = action_hidden(self.gpt, tokens, mask)  # (n, C) before each counted token
        return to_action_frame(hidden @ self.head, mask)


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


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the counted advantages of the batch to mean 0, variance 1; 0 elsewhere.

    The size of a step then no longer depends on how large the scores happen to be. Equal
    advantages give exactly 0: no token was better than another.

    Raises: ValueError for wrong shapes or dtypes.
    """
    checks.frames(mask, advantages=advantages)
    wide_advantages = widen(advantages)
    centred = torch.where(mask, wide_advantages - masked_mean(wide_advantages, mask), 0.0)
    deviation = masked_mean(centred.square(), mask).sqrt()
    white = centred / (deviation + 1e-8)  # 1e-8: no 0 / 0
    white = torch.where(all_equal(advantages, mask), 0.0, white)
    return white.to(advantages.dtype)


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. Learning rates: whoever builds the two optimizers reads them."""

    steps: int = option(55, "rounds of generate, score, update", low=1)
    replies_per_step: int = option(128, "B, replies in a round, each to another prompt", low=1)
    max_new_tokens: int = option(48, "longest reply", low=1)
    epochs: int = option(2, "how often each reply is learnt from; usually 1 to 4", low=1)
    minibatches: int = option(2, "small steps per epoch; usually 1 to 8", low=1)
    clip_eps: float = option(0.2, "how far a round may move a ratio; usually 0.1 to 0.3", above=0)
    value_clip_eps: float = option(0.2, "how far a round may move a guess, in score", above=0)
    gamma: float = option(1.0, "1: a reward at the end counts in full for all", low=0, high=1)
    lam: float = option(0.95, "0: trust the value model, 1: the score alone", low=0, high=1)
    kl_coef: float = option(0.2, "price of one nat from the reference, in score", low=0)
    no_end_penalty: float = option(2.0, "missing-EOS penalty: off the score of such a reply", low=0)
    whiten_advantages: bool = option(True, "off for exact theory, see `whiten`")
    target_kl: float = option(0.1, "nats per token that end a round early", above=0)
    policy_lr: float = option(3e-4, "both rates of the policy; usually 1e-4 to 5e-4", above=0)
    value_lr: float = option(1e-3, "both rates of the value model", above=0)
    cooldown: float = option(0.0, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def train_ppo(
    policy: GPT,
    reference: GPT,
    value_model: ValueModel,
    prompts: Sequence[list[int]],
    score: Callable[[Rollout], Tensor],
    *,
    config: PPOConfig,
    optimizer: training.Optimizer,
    value_optimizer: training.Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Generate, score, update; yields one dict of numbers per round.

    score(rollout) -> (N,) is any function of the replies, for example a standardised reward model.
    To go on after a stop, restore both models, both optimizers and the generator, and pass the
    number of finished rounds as `start_step`.

    Keys: step, lr_scale, those of `rollout_numbers`; means over the small steps of policy_loss,
    value_loss, clip_fraction, approx_kl and grad_norm; updates (how many small steps); ratio_error
    (largest |log ratio| before the first one: 0 but for rounding, because sampling and scoring use
    one distribution); seconds, seconds_sampling, seconds_scoring, seconds_training.

    Raises: ValueError for a score, or a log-prob of the reference, that is not a finite number.
    """
    limit, kl_coef = config.max_new_tokens, config.kl_coef
    for step in range(start_step, config.steps):
        watch = training.Stopwatch()
        scale = learning_rate_scale(step, config.steps, warmup=0.0, cooldown=config.cooldown)
        optimizer.set_scale(scale)
        value_optimizer.set_scale(scale)
        picked = training.rows_of_step(len(prompts), step, config.replies_per_step, generator)
        batch = [prompts[i] for i in picked]

        # 1. Generate: the distribution sampled from is the one scored below, temperature 1.
        rollout = generate(policy, batch, max_new_tokens=limit, temperature=1, generator=generator)
        tokens, mask, old_logprobs = rollout.tokens, rollout.response_mask, rollout.logprobs
        watch.lap("sampling")

        # 2. Score: one number per reply, then an advantage per token.
        ref_logprobs = frozen_logprobs(reference, tokens, mask)  # (N, T-1)
        with torch.no_grad():
            scores, old_values = score(rollout), value_model(tokens, mask)  # (N,), (N, T-1)
        checks.finite("score of reply", scores)
        if kl_coef > 0:
            checks.finite("the reference's log-probs of reply", ref_logprobs)
        scores = scores - config.no_end_penalty * (~rollout.ended).float()
        rewards = kl_shaped_rewards(scores, old_logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        advantages, returns = gae(rewards, old_values, mask, gamma=config.gamma, lam=config.lam)
        advantages = whiten(advantages, mask) if config.whiten_advantages else advantages
        numbers = rollout_numbers(rollout, scores, ref_logprobs, old_values, returns)
        watch.lap("scoring")

        # 3. Update: likelier where the advantage is positive, and better guesses.
        means, updates = training.Means(), 0
        for rows in training.minibatches(len(mask), config.epochs, config.minibatches, generator):
            old, here = old_logprobs[rows], mask[rows]  # (rows, T-1) each
            logprobs = action_logprobs(policy, tokens[rows], here)
            policy_loss, metrics = ppo_policy_loss(
                logprobs, old, advantages[rows], here, clip_eps=config.clip_eps
            )
            if updates and metrics["approx_kl"] > config.target_kl:
                break  # too far from the policy that wrote the replies
            values = value_model(tokens[rows], here)
            value_loss, _ = ppo_value_loss(
                values, old_values[rows], returns[rows], here, clip_eps=config.value_clip_eps
            )
            if updates == 0:
                means.add({"ratio_error": (logprobs - old).detach().abs()[here].max()})
            (policy_loss + value_loss).backward()  # two models: neither gradient touches the other
            grad_norm = training.apply_gradients(policy, optimizer, config.max_grad_norm)
            training.apply_gradients(value_model, value_optimizer, config.max_grad_norm)
            metrics |= {"policy_loss": policy_loss, "value_loss": value_loss}
            means.add(metrics | {"grad_norm": grad_norm})
            updates += 1
        numbers |= {**means.means(), "updates": updates}
        watch.lap("training")
        yield {"step": step, "lr_scale": scale, **numbers, **watch.seconds}
