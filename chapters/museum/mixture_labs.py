"""Small experiments with prompts of two kinds: puzzles, which rules judge, and chats.

Each prompt has a row of logits (V,), or all share one, and a reply is one token. The experiments
draw, score, compare and learn with the functions of the package.

Read before: policy_labs.py. Letters: N replies, P prompts, G replies per prompt, V tokens.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chapters.museum.exhibits import Points
from chapters.museum.policy_labs import as_rollout, draw_replies, score_tokens
from kittenllm import grpo, rewards, scorer
from kittenllm.rewards import Reward
from kittenllm.sampling import Rollout

GROUP_SIZE = 16
WANTED_BY_PUZZLES = (1, 2)  # the token that each of them calls right
WANTED_BY_CHATS = (1, 2, 3, 4)
SUM, PRAISE = 1, 2  # what a kitten with one habit may say
CHAT_WEIGHT = 0.3  # of the standardised score, as in the chapter on R1


def learn_groups(
    tables: Tensor,
    row_of: Sequence[int],
    reward: Reward,
    measure: Callable[[Tensor], float],
    *,
    rate: float,
    rounds: int = 40,
) -> Points:
    """GRPO without std. Prompt i speaks with the logits tables[row_of[i]]; measures the
    probabilities before every round."""
    tables = tables.clone().requires_grad_()
    steps = torch.optim.SGD([tables], lr=rate)
    generator = torch.Generator().manual_seed(0)
    prompts = range(len(row_of))
    points = []
    for number in range(rounds):
        points.append((float(number), measure(tables.detach().softmax(dim=-1))))
        own = [tables[row : row + 1] for row in row_of]
        drawn = [draw_replies(table, GROUP_SIZE, generator) for table in own]
        batch = tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))  # (N, 1) each
        scores, _ = rewards.score_by_rule(as_rollout(batch), prompts, reward, group_size=GROUP_SIZE)
        advantages = grpo.group_advantages(scores, group_size=GROUP_SIZE, normalize_std=False)
        scored = [score_tokens(table, one[0]) for table, one in zip(own, drawn, strict=True)]
        loss, _ = grpo.grpo_loss(torch.cat(scored), batch[1], advantages, batch[2])
        steps.zero_grad()
        loss.backward()
        steps.step()
    return points


def wants(tokens: Sequence[int]) -> Reward:
    """1 for the one token that the prompt of this number wants."""

    def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        right = float(reply == [tokens[number]])
        return right, {"right": right}

    return reward


def what_chats_want() -> Points:
    """p(the reply that a chat wants), the mean of four chats, which learn beside two puzzles."""
    puzzles, chats = len(WANTED_BY_PUZZLES), len(WANTED_BY_CHATS)
    reward = rewards.mixed_reward(
        [(puzzles, wants(WANTED_BY_PUZZLES)), (chats, wants(WANTED_BY_CHATS))]
    )

    def measure(p: Tensor) -> float:
        return p[puzzles:][range(chats), WANTED_BY_CHATS].mean().item()

    start = torch.zeros(puzzles + chats, 5)
    return learn_groups(start, range(len(start)), reward, measure, rate=10.0)


class PraiseLover:
    """A reward model that loves praise, in a unit of its own."""

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return torch.where(tokens[:, 1] == PRAISE, 12.0, 0.0)  # (N,)


def a_sum_or_praise() -> Points:
    """p(a sum) of a small kitten with one habit for all: a puzzle rewards sums, a chat praise."""
    start = torch.zeros(1, 4)
    first_replies = as_rollout(draw_replies(start, 256, torch.Generator().manual_seed(1)))
    judge = scorer.Scorer(PraiseLover()).standardised_on(first_replies)

    def liking(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
        row = torch.tensor([[1, *reply, 0]])  # (1, T)
        score = judge.of_tokens(row, torch.tensor([row.shape[1]])).item()
        return CHAT_WEIGHT * score, {"score": score}

    reward = rewards.mixed_reward([(1, wants([SUM])), (1, liking)])
    return learn_groups(start, [0, 0], reward, lambda p: p[0, SUM].item(), rate=2.0)


def report_of_a_mixed_batch() -> Points:
    """The reported share of right replies to four puzzles, over the chats in the same batch. The
    kitten solves three of the four, always."""
    points = []
    for chats in range(0, 13, 2):
        prompts = 4 + chats
        tokens = torch.tensor([[1, 2, 0]] * prompts)  # a prompt of one token, "2", the end
        mask = torch.ones(prompts, 2, dtype=torch.bool)
        ended = torch.ones(prompts, dtype=torch.bool)
        rollout = Rollout(tokens, mask, torch.full((prompts, 2), -1.0), ended)
        reward = rewards.mixed_reward([(4, wants([2, 2, 2, 3])), (chats, lambda *_: (0.5, {}))])
        _, numbers = rewards.score_by_rule(rollout, range(prompts), reward, group_size=1)
        points.append((float(chats), numbers["right"]))
    return points
