"""Exercises of section Reasoning, GRPO: several replies to one prompt judge each other.

Check your work:  python -m chapters.check group_advantages     (then grpo)
The next hint:    python -m chapters.check group_advantages --hint
Read before: chapters/ch5_reasoning/lesson.md and your PPO. Look it up in kittenllm/grpo.py
afterwards.

Letters: N replies, G replies to each prompt (they stand side by side), T tokens. Per-token tensors
are (N, T-1): index t is about producing token t + 1. Where the mask is False there may stand
anything, even NaN, and it must not matter.
"""

from torch import Tensor

from kittenllm import checks


def group_advantages(
    rewards: Tensor, *, group_size: int, normalize_std: bool = True, eps: float = 1e-4
) -> Tensor:
    """Compare each reply with its siblings.

    advantage_i = (reward_i - mean of its group) / (std of its group + eps)

    (DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, section 4.1.2.)

    rewards (N,) -> (N,), without gradient. Replies 0 .. G-1 are the first group, and so on. The
    std is the unbiased one, which divides by G - 1. normalize_std=False leaves the division out
    (Dr. GRPO). Equal rewards give *exactly* 0: 0.1 minus the mean of equal 0.1s is not 0 in
    float32, so this needs a line of its own.

    By hand: rewards [1, 2, 3], group_size 3 give advantages [-1, 0, 1] (almost, because of eps).

    Raises: ValueError for integer rewards, or a group_size below 2 or not dividing N.
    """
    checks.floats("rewards", rewards, dims=1)
    checks.count("group_size", group_size, low=2)
    checks.between("eps", eps, 0, float("inf"))
    if len(rewards) % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {len(rewards)} rewards")
    raise NotImplementedError


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
    """PPO's clip with one advantage per reply, a KL term, and three ways to take the mean.

    token loss = kl_coef * k3 - min(ratio * A, clip(ratio, 1 - eps, 1 + eps_high) * A)
    ratio = p / p_old,   k3 = ref/p - 1 - log(ref/p)

    (DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4.) advantages (N,), the other
    tensors (N, T-1) -> the loss, 0-d. Only logprobs get a gradient. The mean over tokens:

    "reply"     the mean of each reply, then of all N replies; a reply without tokens counts as 0
    "token"     the mean over all counted tokens of the batch (DAPO)
    "constant"  the sum over all counted tokens, divided by N * max_tokens (Dr. GRPO)

    Without any counted token the loss is 0, not NaN.

    Returns the loss and three metrics, means over the counted tokens, 0-d and without gradient:
    clip_fraction  share of ratios outside [1 - eps, 1 + eps_high]
    approx_kl      ratio - 1 - log ratio: how far the policy has moved
    kl             k3, how far it is from the reference; 0 without a reference

    Raises: ValueError for wrong shapes or dtypes, clip_eps not above 0, an unknown normalize,
    "constant" without max_tokens, or kl_coef above 0 without ref_logprobs.
    """
    checks.rows("advantages", advantages, mask)
    checks.positive("clip_eps", clip_eps)
    clip_eps_high = clip_eps if clip_eps_high is None else clip_eps_high
    checks.positive("clip_eps_high", clip_eps_high)
    checks.between("kl_coef", kl_coef, 0, float("inf"))
    checks.one_of("normalize", normalize, ("reply", "token", "constant"))
    if normalize == "constant":
        checks.count("max_tokens", max_tokens)
    if ref_logprobs is None and kl_coef > 0:
        raise ValueError(f"kl_coef {kl_coef} needs ref_logprobs; pass them or use kl_coef=0")
    ref_logprobs = logprobs if ref_logprobs is None else ref_logprobs  # no reference: KL is 0
    checks.frames(mask, logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)
    raise NotImplementedError
