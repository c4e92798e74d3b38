"""Chapter 2, the reward model: from choices to numbers."""

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.kitten_town.judge import best_possible_accuracy, preference_probability
from kittenllm.reward_model import RewardModel, bradley_terry_loss, ranking_to_pairs

deck = Deck("ch2_reward_model")


@deck.card(
    *numbers(0.5, 0.731, 0.953, 1),
    en="Reply a is worth 1 point more than b. How often do people choose a (Bradley-Terry)?",
    zh="回答 a 比 b 多值 1 分。按 Bradley-Terry 模型，人们选 a 的概率是多少？",
    en_reason="sigmoid(1). People lean towards the better reply, but they are not sure.",
    zh_reason="sigmoid(1)。人们偏向更好的回答，但并不总是选它。",
)
def one_point():
    return preference_probability(1.0, 0.0)


@deck.card(
    says("the loss grows", "损失变大", lambda change: change > 1e-6),
    says("nothing", "什么都不变", lambda change: abs(change) <= 1e-6),
    says("the loss shrinks", "损失变小", lambda change: change < -1e-6),
    en="Somebody adds 10 to all scores. What changes?",
    zh="有人给所有分数都加 10。什么会变？",
    en_reason="Only differences are in the loss. The scores of a reward model have no zero.",
    zh_reason="损失里只有差值。奖励模型的分数没有零点。",
)
def plus_ten():
    a, b = torch.tensor([1.5]), torch.tensor([0.5])
    return float(bradley_terry_loss(a + 10, b + 10)[0] - bradley_terry_loss(a, b)[0])


@deck.card(
    *numbers(3, 4, 6, 12),
    en="You put 4 replies in order. How many pairs does that give?",
    zh="你给 4 个回答排出名次。能得到多少对？",
    en_reason="Every two of them are a pair: 4 * 3 / 2. Ranking is cheaper than choosing.",
    zh_reason="每两个组成一对：4 * 3 / 2。排序比一对一对地选更省事。",
)
def pairs_of_a_ranking():
    return len(ranking_to_pairs(["best", "good", "fair", "bad"]))


@deck.card(
    *numbers(0.5, 0.731, 0.9, 1),
    en="Both replies are equally good. How often can the best judge guess a person's choice?",
    zh="两个回答一样好。最好的裁判能猜中人的选择的概率是多少？",
    en_reason="Then the label is a coin. No judge can be right more often than its labels allow.",
    zh_reason="这时标签就是抛硬币。任何裁判都不能超过标签本身的上限。",
)
def a_coin():
    return best_possible_accuracy(1.0, 1.0)


@deck.card(
    says("the undecided pair", "还没分清的那一对", lambda pull: pull[0] > pull[1]),
    says("the pair that is clear", "已经分清的那一对", lambda pull: pull[1] > pull[0]),
    says("both equally", "两对一样", lambda pull: pull[0] == pull[1]),
    en="One pair has a margin of 0, another one of 5. Which one pulls harder in training?",
    zh="一对的分差是 0，另一对是 5。训练时哪一对拉力更大？",
    en_reason="The pull is 1 - sigmoid(margin): what is already clear teaches little.",
    zh_reason="拉力是 1 - sigmoid(分差)：已经清楚的对，学不到多少。",
)
def who_pulls():
    chosen = torch.tensor([0.0, 5.0], requires_grad=True)
    bradley_terry_loss(chosen, torch.zeros(2))[0].backward()
    return chosen.grad.abs().tolist()


@deck.card(
    says("random", "随机的分", lambda scores: len(set(scores)) > 1),
    says("exactly 0, all of them", "全都正好是 0", lambda scores: set(scores) == {0.0}),
    says("exactly 1, all of them", "全都正好是 1", lambda scores: set(scores) == {1.0}),
    en="Before any training, which scores does a new reward model give?",
    zh="还没训练时，新的奖励模型打什么分？",
    en_reason="Its head starts at zero: it has no opinion, rather than a random one.",
    zh_reason="它的输出头从零开始：宁可没有意见，也不要随机的意见。",
)
def newborn_judge():
    gpt = GPT(GPTConfig(vocab_size=20), generator=torch.Generator().manual_seed(0))
    scores = RewardModel(gpt)(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 3]))
    return scores.tolist()
