"""Chapter 3, PPO: who earned the score, and how far one step may go."""

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.logprobs import kl_k1, kl_k3
from kittenllm.ppo import gae, kl_shaped_rewards, ppo_policy_loss

deck = Deck("ch3_ppo")
THREE = torch.ones(1, 3, dtype=torch.bool)  # a reply of three tokens
AT_THE_END = torch.tensor([[0.0, 0.0, 1.0]])  # its score stands under the last one


def slope(ratio: float, advantage: float) -> float:
    """Which way PPO moves the log-prob of a token: above 0 is up."""
    old = torch.tensor([[-1.0]])
    logprobs = (old + torch.tensor(ratio).log()).requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    ppo_policy_loss(logprobs, old, torch.tensor([[advantage]]), mask, clip_eps=0.2)[0].backward()
    return -float(logprobs.grad)


@deck.card(
    says("all three alike", "三个一样多", lambda a: len(set(a)) == 1),
    says("the first", "第一个", lambda a: a[0] > 0 and a[1] == a[2] == 0),
    says("the last", "最后一个", lambda a: a[2] > 0 and a[0] == a[1] == 0),
    says("nobody", "谁也没有", lambda a: not any(a)),
    en="Three tokens, score 1, the value model guesses 0.5 everywhere. lam = 0: who gets credit?",
    zh="三个词元，得分 1，价值模型处处猜 0.5。lam = 0：哪个词元得到功劳？",
    en_reason="lam = 0 trusts the next guess. The guesses do not move; only the end is a surprise.",
    zh_reason="lam = 0 只相信下一个猜测。猜测没有变化，只有结尾出乎意料。",
)
def lam_zero():
    values = torch.full((1, 3), 0.5)
    advantages, _ = gae(AT_THE_END, values, THREE, gamma=1.0, lam=0.0)
    return advantages[0].tolist()


@deck.card(
    says("the first", "第一个", lambda a: a[0] > 0 and a[1] == a[2] == 0),
    says("the last", "最后一个", lambda a: a[2] > 0 and a[0] == a[1] == 0),
    says("nobody", "谁也没有", lambda a: not any(a)),
    says("all three alike", "三个一样多", lambda a: len(set(a)) == 1 and a[0] > 0),
    en="The same reply, but lam = 1. Who gets the credit now?",
    zh="同一个回答，但 lam = 1。现在功劳归谁？",
    en_reason="lam = 1 trusts the score alone: everything before it shared in it, minus the guess.",
    zh_reason="lam = 1 只相信得分本身：前面每个词元都有份，再减去猜测。",
)
def lam_one():
    values = torch.full((1, 3), 0.5)
    advantages, _ = gae(AT_THE_END, values, THREE, gamma=1.0, lam=1.0)
    return advantages[0].tolist()


@deck.card(
    says("1 for each token", "每个词元 1", lambda a: a == [1.0] * 3),
    says("0 for each token", "每个词元 0", lambda a: a == [0.0] * 3),
    says("1 for the last one", "只有最后一个是 1", lambda a: a == [0.0, 0.0, 1.0]),
    en="The value model had guessed the score, 1, exactly. What are the advantages?",
    zh="价值模型早已准确猜到得分 1。优势（advantage）是多少？",
    en_reason="An advantage is a surprise. What was expected all along is nobody's merit.",
    zh_reason="优势就是意外。早就料到的事，不是谁的功劳。",
)
def no_surprise():
    advantages, _ = gae(AT_THE_END, torch.ones(1, 3), THREE, gamma=1.0, lam=0.95)
    return advantages[0].tolist()


@deck.card(
    *numbers(0.125, 0.25, 0.5, 1),
    en="gamma = 0.5, lam = 1, all guesses 0. What is the 1 of the third token worth at the first?",
    zh="gamma = 0.5，lam = 1，猜测都是 0。第三个词元的 1 分，对第一个值多少？",
    en_reason="Each token on the way halves it: 0.5 * 0.5. In this package gamma is 1.",
    zh_reason="每隔一个词元减半：0.5 * 0.5。本项目里 gamma 取 1。",
)
def discounted():
    return gae(AT_THE_END, torch.zeros(1, 3), THREE, gamma=0.5, lam=1.0)[0][0, 0]


@deck.card(
    *numbers(-0.1, 0, 0.1, 0.5),
    en="A token in the middle has log p - log ref = 0.5 nats; a nat costs 0.2. Its reward is",
    zh="中间一个词元的 log p - log ref = 0.5 奈特，每奈特收 0.2。它的奖励是多少？",
    en_reason="It pays for drifting away from the reference: -0.2 * 0.5. The score comes later.",
    zh_reason="它要为偏离参考模型付钱：-0.2 * 0.5。得分要到最后才来。",
)
def price_of_drifting():
    ref = torch.full((1, 3), -2.0)
    logprobs = ref + torch.tensor([[0.0, 0.5, 0.0]])
    return kl_shaped_rewards(torch.tensor([1.0]), logprobs, ref, THREE, kl_coef=0.2)[0, 1]


@deck.card(
    says("further up", "继续往上推", lambda push: push > 0),
    says("back down", "往回拉", lambda push: push < 0),
    says("not at all", "完全不推", lambda push: push == 0),
    en="A good token (advantage +2) has become 1.5 times as likely; eps is 0.2. PPO pushes it",
    zh="一个好词元（优势 +2）的概率已变成 1.5 倍，eps = 0.2。PPO 会",
    en_reason="Beyond 1 + eps the clip is flat: it has moved far enough for this round.",
    zh_reason="超过 1 + eps，截断后的曲线是平的：这一轮已经走得够远了。",
)
def good_and_far():
    return slope(ratio=1.5, advantage=2.0)


@deck.card(
    says("further up", "继续往上推", lambda push: push > 0),
    says("back down", "往下压", lambda push: push < 0),
    says("not at all", "完全不动", lambda push: push == 0),
    en="A bad token (advantage -2) has become 1.5 times as likely; eps is 0.2. PPO pushes it",
    zh="一个坏词元（优势 -2）的概率已变成 1.5 倍，eps = 0.2。PPO 会",
    en_reason="The minimum takes the worse of both terms: going the wrong way is never clipped.",
    zh_reason="取最小值就是取更差的一项：走错了方向，永远不会被截断。",
)
def bad_and_far():
    return slope(ratio=1.5, advantage=-2.0)


@deck.card(
    says("only k1", "只有 k1", lambda low: low[0] < 0 <= low[1]),
    says("only k3", "只有 k3", lambda low: low[1] < 0 <= low[0]),
    says("both", "两个都会", lambda low: low[0] < 0 and low[1] < 0),
    says("neither", "都不会", lambda low: min(low) >= 0),
    en="Two estimators of KL: k1 and k3. Which one can be negative for a single token?",
    zh="KL 的两种估计：k1 和 k3。对单个词元，哪个会是负数？",
    en_reason="k1 is the bare log-ratio. k3 adds what has the mean 0 and keeps it at 0 or above.",
    zh_reason="k1 就是对数比。k3 加上一个均值为 0 的项，使它不小于 0。",
)
def below_zero():
    logprobs, ref = torch.tensor([[-2.0, -1.0]]), torch.tensor([[-1.0, -2.0]])
    return [float(k(logprobs, ref).min()) for k in (kl_k1, kl_k3)]
