"""Chapter 5, reasoning: replies to one prompt judge each other."""

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.grpo import group_advantages, grpo_loss
from kittenllm.kitten_town.countdown import Problem, check_answer

deck = Deck("ch5_reasoning")


def pushes(normalize: str) -> list[float]:
    """How hard a token of a wrong reply of 2 and of 8 tokens is pushed down."""
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :2] = mask[1] = True
    old = torch.full((2, 8), -1.0)
    logprobs = old.clone().requires_grad_()
    wrong = torch.tensor([-1.0, -1.0])
    grpo_loss(logprobs, old, wrong, mask, normalize=normalize, max_tokens=10)[0].backward()
    return logprobs.grad[:, 0].tolist()


@deck.card(
    says("0 for all", "全是 0", lambda a: not any(a)),
    says("1 for all", "全是 1", lambda a: set(a) == {1.0}),
    says("NaN", "NaN", lambda a: a[0] != a[0]),
    en="All four replies to a problem are right. What are their advantages in GRPO?",
    zh="一道题的四个回答全对。GRPO 里它们的优势是多少？",
    en_reason="Nobody is better than the group's mean, so this problem teaches nothing any more.",
    zh_reason="没有谁比小组平均更好，所以这道题再也教不了什么。",
)
def all_right():
    return group_advantages(torch.ones(4), group_size=4).tolist()


@deck.card(
    *numbers(0.25, 0.75, 1, 4),
    en="One of four replies is right and earns 1. What is its reward minus the group's mean?",
    zh="四个回答里一个对，得 1 分。它的奖励减去小组平均是多少？",
    en_reason="The mean is 1/4, so the right one is 3/4 above it, and each wrong one 1/4 below.",
    zh_reason="平均是 1/4，所以对的高出 3/4，每个错的低 1/4。",
)
def one_of_four():
    rewards = torch.tensor([0.0, 1, 0, 0])
    return group_advantages(rewards, group_size=4, normalize_std=False)[1]


@deck.card(
    says("if 1 of 4 is right", "4 个里对 1 个时", lambda a: a[0] > a[1] + 1e-6),
    says("if 3 of 4 are right", "4 个里对 3 个时", lambda a: a[1] > a[0] + 1e-6),
    says("equally", "一样", lambda a: abs(a[0] - a[1]) <= 1e-6),
    en="When is a right reply encouraged more (GRPO, divided by the standard deviation)?",
    zh="GRPO（除以标准差）在什么时候更鼓励一个对的回答？",
    en_reason="A success on a hard problem is rarer, so it stands out more among its siblings.",
    zh_reason="难题上的成功更少见，所以在同组里更突出。",
)
def hard_and_easy():
    hard, easy = torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 0])
    return [float(group_advantages(rewards, group_size=4)[0]) for rewards in (hard, easy)]


@deck.card(
    says("of the short one", "短的那个", lambda p: p[0] > p[1]),
    says("of the long one", "长的那个", lambda p: p[1] > p[0]),
    says("of both alike", "一样", lambda p: p[0] == p[1]),
    en='Two wrong replies, 2 and 8 tokens. With normalize="reply", whose tokens are pushed more?',
    zh="两个错的回答，长 2 和 8。normalize=“reply” 时，谁的词元被压得更狠？",
    en_reason="Each reply weighs the same, so eight tokens share what two share: long is cheap.",
    zh_reason="每个回答的总量一样，八个词元分摊两个词元的份：写长反而便宜。",
)
def long_is_cheap():
    return pushes("reply")


@deck.card(
    says("of the short one", "短的那个", lambda p: p[0] > p[1]),
    says("of the long one", "长的那个", lambda p: p[1] > p[0]),
    says("of both alike", "一样", lambda p: p[0] == p[1]),
    en='The same two replies with normalize="token" (DAPO). Whose tokens are pushed more?',
    zh="同样两个回答，normalize=“token”（DAPO）。谁的词元被压得更狠？",
    en_reason="All tokens of the batch share one mean, so every token has the same weight.",
    zh_reason="整批词元一起取平均，所以每个词元的分量都一样。",
)
def every_token_alike():
    return pushes("token")


@deck.card(
    says("0, and the gradient is 0", "0，梯度也是 0", lambda r: r[0] < 1e-6 and r[1] == 0),
    says("0, but there is a gradient", "0，但是有梯度", lambda r: r[0] < 1e-6 and r[1] > 0),
    says("above 0", "大于 0", lambda r: r[0] >= 1e-6),
    en="GRPO's first step, replies of one length, no KL. What is the loss?",
    zh="GRPO 的第一步，回答一样长，没有 KL。损失是多少？",
    en_reason="Advantages add up to 0 and all ratios are 1. A loss of 0 is not a lack of learning.",
    zh_reason="优势加起来是 0，比率都是 1。损失为 0 不等于没有学习。",
)
def loss_of_nothing():
    old, mask = torch.full((4, 3), -1.0), torch.ones(4, 3, dtype=torch.bool)
    advantages = group_advantages(torch.tensor([1.0, 0, 0, 0]), group_size=4)
    logprobs = old.clone().requires_grad_()
    loss, _ = grpo_loss(logprobs, old, advantages, mask)
    loss.backward()
    return [abs(float(loss.detach())), float(logprobs.grad.abs().max())]


@deck.card(
    says("yes", "算对", lambda verdicts: verdicts == [True, True]),
    says("no", "不算对", lambda verdicts: verdicts == [True, False]),
    en='Use 3, 5, 8, make 19. "3*8=24,24-5=19" counts. Does "3*5=15,15+8=19" count?',
    zh="用 3、5、8 得 19。“3*8=24,24-5=19” 算对。“3*5=15,15+8=19” 算对吗？",
    en_reason="The rule calculates again: 15 + 8 is 23. Who pays for the last number gets cheats.",
    zh_reason="规则会重新计算：15 + 8 = 23。只看最后的数，就会奖励作弊。",
)
def a_cheat():
    problem = Problem((3, 5, 8), 19)
    return [check_answer(text, problem) for text in ("3*8=24,24-5=19", "3*5=15,15+8=19")]
