"""Small experiments with pairs of replies: what a wrong preference loss teaches.

A table of logits stands in for the kitten: one number per reply, softmax makes them a policy. The
losses are those of the package.

Read before: exhibits.py. Letters: Y replies, P pairs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from chapters.museum.exhibits import Points, largest_gap, tells_apart
from kittenllm import dpo, orpo, reward_model

CHOSEN, REJECTED = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])  # three pairs of six replies


def descend(
    parameters: list[Tensor],
    loss_of: Callable[[], Tensor],
    measure: Callable[[], float],
    *,
    steps: int = 100,
    rate: float = 0.1,
) -> Points:
    """Plain Adam on a loss; measures before every step."""
    adam = torch.optim.Adam(parameters, lr=rate)
    points = []
    for step in range(steps):
        with torch.no_grad():
            points.append((float(step), float(measure())))
        loss = loss_of()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return points


def the_reference_stands_still() -> Points:
    """KL of the reference to what it was, in nats, when it is (by oversight) in the optimizer."""
    policy = torch.zeros(6, requires_grad=True)
    reference = torch.zeros(6, requires_grad=True)

    def loss_of() -> Tensor:
        now, known = policy.log_softmax(0), reference.log_softmax(0)
        pairs = (now[CHOSEN], now[REJECTED], known[CHOSEN], known[REJECTED])
        loss, _ = dpo.dpo_loss(*pairs, beta=0.1)
        return loss + 0.0 * reference.sum()  # keeps a gradient, of zero, for the optimizer

    def moved() -> Tensor:
        return (reference.softmax(0) * (reference.log_softmax(0) + torch.tensor(6.0).log())).sum()

    return descend([policy, reference], loss_of, moved)


def where_ipo_comes_to_rest() -> Points:
    """How far apart IPO drives chosen and rejected, in nats; beta is 0.25."""
    policy = torch.zeros(6, requires_grad=True)
    reference = torch.zeros(6).log_softmax(0)

    def gap() -> Tensor:
        now = policy.log_softmax(0)
        return (now[CHOSEN] - now[REJECTED]).mean()

    def loss_of() -> Tensor:
        now = policy.log_softmax(0)
        pairs = (now[CHOSEN], now[REJECTED], reference[CHOSEN], reference[REJECTED])
        return dpo.ipo_loss(*pairs, beta=0.25)[0]

    return descend([policy], loss_of, gap)


def rejected_goes_down() -> Points:
    """p(rejected) per token under ORPO. The two replies have no words in common."""
    chosen = torch.zeros(1, requires_grad=True)
    rejected = torch.zeros(1, requires_grad=True)

    def loss_of() -> Tensor:
        loss, _ = orpo.orpo_loss(F.logsigmoid(chosen), F.logsigmoid(rejected), weight=1.0)
        return loss + 0.0 * rejected.sum()

    return descend([chosen, rejected], loss_of, lambda: rejected.sigmoid().item(), rate=0.05)


def noisy_annotators() -> Points:
    """How sure the reward model is of a choice on which seven annotators of ten agree."""
    scores = torch.zeros(2, requires_grad=True)
    chosen, rejected = torch.tensor([0] * 7 + [1] * 3), torch.tensor([1] * 7 + [0] * 3)

    def loss_of() -> Tensor:
        return reward_model.bradley_terry_loss(scores[chosen], scores[rejected])[0]

    return descend([scores], loss_of, lambda: (scores[0] - scores[1]).sigmoid().item())


def bugs_that_are_noticed() -> Points:
    """Noticed (1) or not (0), over the size of a bug: the museum's own test, which asks for 0.5."""
    right = [(float(x), 1.0) for x in range(5)]
    points = []
    for size in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6):
        wrong = [(x, y + size) for x, y in right]
        assert abs(largest_gap(right, wrong) - size) < 1e-9
        points.append((size, float(tells_apart(right, wrong, least=0.5))))
    return points
