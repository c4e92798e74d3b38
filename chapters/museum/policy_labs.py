"""Small experiments with a policy that is only a table: what a wrong loss does to learning.

A table of logits (P, V) stands in for the kitten: P places of a reply, V tokens, no network. Token
0 ends a reply. It learns in a fraction of a second, and its true probabilities can be read off, so
the curves are exact. Losses, credit, rewards and drawing are those of the package.

Read before: exhibits.py. Letters: N replies, P places, V tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from chapters.museum.exhibits import Points
from kittenllm import grpo, logprobs, ppo, sampling
from kittenllm.kitten_town import countdown
from kittenllm.rewards import score_by_rule

END = 0
Batch = tuple[Tensor, Tensor, Tensor]  # tokens, their log-probs when drawn, mask: each (N, P)


def draw_replies(table: Tensor, count: int, generator: torch.Generator) -> Batch:
    """`count` replies from the table; True in the mask up to the end mark and on it."""
    tokens, recorded = [], []
    for logits in table.detach():
        token, logprob = sampling.draw(logits.expand(count, -1), 1.0, generator)
        tokens.append(token)
        recorded.append(logprob)
    drawn = torch.stack(tokens, dim=1)  # (N, P)
    ends_before = (drawn == END).cumsum(dim=1) - (drawn == END).long()
    return drawn, torch.stack(recorded, dim=1), ends_before == 0


def score_tokens(table: Tensor, tokens: Tensor) -> Tensor:
    """log p of each token: (N, P)."""
    return table.log_softmax(dim=-1)[torch.arange(tokens.shape[1]), tokens]


def learn(
    table: Tensor,
    loss_of: Callable[[Tensor, Batch, int], Tensor],
    measure: Callable[[Tensor], float],
    *,
    rounds: int = 60,
    rate: float = 0.1,
    replies: int = 64,
    optimizer: type = torch.optim.Adam,
) -> Points:
    """Draw replies, take one step on the loss, again and again; measures before every round."""
    table = table.clone().requires_grad_()
    steps = optimizer([table], lr=rate)
    generator = torch.Generator().manual_seed(0)
    points = []
    for number in range(rounds):
        points.append((float(number), float(measure(table.detach().softmax(dim=-1)))))
        batch = draw_replies(table, replies, generator)
        loss = loss_of(score_tokens(table, batch[0]), batch, number)
        steps.zero_grad()
        loss.backward()
        steps.step()
    return points


def kl_to(reference: Tensor) -> Callable[[Tensor], float]:
    """KL(policy || reference) in nats, exactly."""
    return lambda p: float((p * (p.log() - reference.log_softmax(dim=-1))).sum())


# --------------------------------------------------------------------------------- PPO and credit


def bad_token_ratio() -> Points:
    """p / p_old of a token with a negative advantage, while the same reply is learnt from again."""
    tokens, mask = torch.tensor([[1]]), torch.ones(1, 1, dtype=torch.bool)
    old, bad = score_tokens(torch.zeros(1, 4), tokens), torch.full((1, 1), -1.0)
    table = torch.zeros(1, 4, requires_grad=True)
    steps = torch.optim.SGD([table], lr=0.2)
    points = []
    for number in range(40):
        now = score_tokens(table, tokens)
        points.append((float(number), (now - old).exp().item()))
        loss, _ = ppo.ppo_policy_loss(now, old, bad, mask, clip_eps=0.2)
        steps.zero_grad()
        loss.backward()
        steps.step()
    return points


def one_forward_pass() -> Points:
    """p(the good token), when the old log-probs are those of the very pass that is learnt from."""

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, _, mask = batch
        advantages = torch.where(tokens == 1, 1.0, -1.0 / 3)
        return ppo.ppo_policy_loss(now, now, advantages, mask, clip_eps=0.2)[0]

    return learn(torch.zeros(1, 4), loss_of, lambda p: p[0, 1])


def clip_fraction_over_padding() -> Points:
    """Reported share of clipped tokens, over the columns of padding beside four real ones."""
    ratio = torch.tensor([[1.0, 1.5, 0.5, 1.0]])  # half of them are outside
    points = []
    for padding in range(0, 21, 2):
        now = torch.nn.functional.pad(ratio.log(), (0, padding))
        mask = torch.arange(4 + padding)[None] < 4
        old, advantages = torch.zeros_like(now), torch.ones_like(now)
        _, metrics = ppo.ppo_policy_loss(now, old, advantages, mask, clip_eps=0.2)
        points.append((float(padding), metrics["clip_fraction"].item()))
    return points


def mean_over_padding() -> Points:
    """The mean of four numbers 2.0, over the columns of padding beside them."""
    points = []
    for padding in range(0, 21, 2):
        mask = torch.arange(4 + padding)[None] < 4
        values = torch.where(mask, 2.0, 0.0)
        points.append((float(padding), logprobs.masked_mean(values, mask).item()))
    return points


def reinforce(now: Tensor, batch: Batch, rewards: Tensor, values: Tensor) -> Tensor:
    """PPO's loss with whitened GAE on these rewards and values, both (N, P)."""
    _, old, mask = batch
    advantages, _ = ppo.gae(rewards, values, mask, gamma=0.9, lam=0.95)
    advantages = ppo.whiten(advantages, mask)
    return ppo.ppo_policy_loss(now, old, advantages, mask, clip_eps=0.2)[0]


def leash() -> Points:
    """KL to the reference in nats, while token 1 is liked and leaving the reference has a price."""
    reference = torch.zeros(3, 6)

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, old, mask = batch
        scores = (tokens == 1).float().sum(dim=1)
        known = score_tokens(reference, tokens)
        rewards = ppo.kl_shaped_rewards(scores, old, known, mask, kl_coef=1.0)
        return reinforce(now, batch, rewards, torch.zeros_like(rewards))

    return learn(reference, loss_of, kl_to(reference), rate=0.05)


def short_is_best() -> Points:
    """p(ending at once), where only a reply of one token earns a point."""

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        _, old, mask = batch
        scores = (mask.sum(dim=1) == 1).float()
        rewards = ppo.kl_shaped_rewards(scores, old, old, mask, kl_coef=0.0)
        return reinforce(now, batch, rewards, torch.zeros_like(rewards))

    return learn(torch.zeros(4, 4), loss_of, lambda p: p[0, END])


def long_is_best() -> Points:
    """p(going on) at the first place, where every token earns a point. The value model says 0
    about tokens and 10 about padding, where nobody ever taught it anything."""

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        mask = batch[2]
        rewards = mask.float()
        return reinforce(now, batch, rewards, torch.where(mask, 0.0, 10.0))

    return learn(torch.zeros(4, 4), loss_of, lambda p: 1 - p[0, END])


def advantage_of_each_place() -> Points:
    """Advantages of one row: four tokens of the prompt, three of the reply, two of padding."""
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0, 0]]).bool()
    rewards = torch.tensor([[0, 0, 0, 0, 0, 0, 1.0, 0, 0]])
    advantages, _ = ppo.gae(rewards, torch.zeros(1, 9), mask, gamma=1.0, lam=0.95)
    return [(float(place), number) for place, number in enumerate(advantages[0].tolist())]


# ------------------------------------------------------------------------------ GRPO and rewards


def pulled_back() -> Points:
    """KL to the reference in nats, when nothing is rewarded and only the KL term of GRPO pulls."""
    reference = torch.zeros(1, 4)

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, old, mask = batch
        known, nothing = score_tokens(reference, tokens), torch.zeros(len(tokens))
        return grpo.grpo_loss(now, old, nothing, mask, ref_logprobs=known, kl_coef=1.0)[0]

    far = torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    return learn(far, loss_of, kl_to(reference), replies=256, rate=0.3, optimizer=torch.optim.SGD)


def estimated_kl() -> Points:
    """The mean of k3 over samples of the policy, over the true KL: the two should be equal."""
    reference = torch.zeros(1, 5)
    points = []
    for push in range(9):
        policy = torch.tensor([[0.5 * push, 0.0, 0.0, 0.0, 0.0]])
        log_p, log_ref = policy.log_softmax(dim=-1), reference.log_softmax(dim=-1)
        estimate = (log_p.exp() * logprobs.kl_k3(log_p, log_ref)).sum()
        points.append((kl_to(reference)(log_p.exp()), estimate.item()))
    return points


def a_loud_prompt_and_a_quiet_one() -> Points:
    """p(best token | quiet prompt): one prompt is rewarded with 100, the other with 1. The replies
    to a prompt stand side by side."""
    group_size = 16
    loudness = torch.tensor([100.0, 1.0])
    tables = torch.zeros(2, 4, requires_grad=True)
    steps = torch.optim.SGD([tables], lr=0.5)
    generator = torch.Generator().manual_seed(0)
    points = []
    for number in range(40):
        points.append((float(number), tables.detach().softmax(dim=-1)[1, 1].item()))
        batches = [draw_replies(tables[i : i + 1], group_size, generator) for i in range(2)]
        tokens, old, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
        prompt = torch.arange(2).repeat_interleave(group_size)  # (N,)
        best = torch.where(prompt == 0, 2, 1)  # the two prompts like different tokens
        rewards = (tokens[:, 0] == best) * loudness[prompt]
        advantages = grpo.group_advantages(rewards, group_size=group_size)
        now = tables.log_softmax(dim=-1)[prompt, tokens[:, 0]][:, None]  # (N, 1)
        loss, _ = grpo.grpo_loss(now, old, advantages, mask)
        steps.zero_grad()
        loss.backward()
        steps.step()
    return points


def an_empty_reply_comes_by() -> Points:
    """The mean of all losses so far, as a program may report it; in round 20 a reply is empty."""
    losses = [0.0]

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, old, mask = batch
        if number == 20:
            mask = mask.clone()
            mask[0] = False
        advantages = grpo.group_advantages((tokens[:, 0] == 1).float(), group_size=8)
        loss, _ = grpo.grpo_loss(now, old, advantages, mask)
        losses.append(loss.item())
        return loss

    return learn(torch.zeros(1, 4), loss_of, lambda p: sum(losses) / len(losses), rounds=40)


def as_rollout(batch: Batch) -> sampling.Rollout:
    """The replies behind a prompt of one token."""
    tokens, old, mask = batch
    prompt = torch.full((len(tokens), 1), 1)
    ended = ((tokens == END) & mask).any(dim=1)
    return sampling.Rollout(torch.cat([prompt, tokens], dim=1), mask, old, ended)


def a_hard_question() -> Points:
    """Share of replies that end: a wrong reply costs 0.5, one that is cut off costs 1."""

    def rule(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        right = ended and reply == [1, 2, 1]
        return (1.0 if right else -0.5 if ended else -1.0), {"right": float(right)}

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        _, old, mask = batch
        rewards, _ = score_by_rule(as_rollout(batch), [0] * 8, rule, group_size=8)
        advantages = grpo.group_advantages(rewards, group_size=8)
        return grpo.grpo_loss(now, old, advantages, mask, normalize="token")[0]

    return learn(torch.zeros(5, 4), loss_of, lambda p: 1 - (1 - p[:, END]).prod())


ANSWERS = (  # to "use 3, 5, 8 make 19"
    "3*8=24,24-5=19",  # the only right one
    "3*5=15,15+8=23",
    "5*8=40,40-3=37",
    "3+8=11,11+5=16",
    "3*5=15,15+8=19",  # hopes that somebody reads the last number only
    "3+5=8,8+8=19",
)


def answers_to_countdown() -> Points:
    """p(the right answer): the kitten picks one of six answers, the checker is the only judge."""
    problem = countdown.Problem((3, 5, 8), 19)
    rewards = torch.tensor([float(countdown.check_answer(a, problem)) for a in ANSWERS])
    start = torch.tensor([[-1.0, 0.0, 0.0, 0.0, 1.0, 1.0]])

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, old, mask = batch
        advantages = grpo.group_advantages(rewards[tokens[:, 0]], group_size=16)
        return grpo.grpo_loss(now, old, advantages, mask)[0]

    return learn(start, loss_of, lambda p: p[0, 0])


def the_best_word_is_rare() -> Points:
    """p(the best of 30 words), which is the least likely one at first: 1 in 80."""

    def loss_of(now: Tensor, batch: Batch, number: int) -> Tensor:
        tokens, old, mask = batch
        advantages = grpo.group_advantages((tokens[:, 0] == 29).float(), group_size=64)
        return grpo.grpo_loss(now, old, advantages, mask)[0]

    start = torch.zeros(1, 30)
    start[0, 29] = -1.0
    return learn(start, loss_of, lambda p: p[0, 29])
