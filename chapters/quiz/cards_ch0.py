"""Chapter 0, a text machine: tokens, surprise, and what a position can see."""

import math

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.logprobs import token_logprobs
from kittenllm.sampling import draw
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

deck = Deck("ch0_base")


@deck.card(
    *numbers(0.25, 0.75, 1.386, 4),
    en="A kitten finds 4 tokens equally likely. What is its loss, in nats per token?",
    zh="小猫认为 4 个词元（token）一样可能。它的损失是多少奈特（nat）？",
    en_reason="The loss is the surprise, -log p. Here p is 1/4, and -log 1/4 = log 4.",
    zh_reason="损失就是“意外程度” -log p。这里 p = 1/4，所以是 log 4。",
)
def knows_nothing():
    logits = torch.zeros(1, 2, 4)  # one row, two tokens, four words
    return -token_logprobs(logits, torch.tensor([[0, 1]]))[0, 0]


@deck.card(
    *numbers(3, 4, 5, 10),
    en="A text has 5 tokens. For how many of them can the model say how likely they were?",
    zh="一段文字有 5 个词元。模型能给其中几个算出概率？",
    en_reason="Each token is guessed from those before it. Nothing stands before the first one.",
    zh_reason="每个词元都由前面的词元来猜，第一个词元前面什么也没有。",
)
def nothing_before_the_first():
    logprobs = token_logprobs(torch.zeros(1, 5, 10), torch.tensor([[1, 2, 3, 4, 5]]))
    return logprobs.shape[1]


@deck.card(
    says("of all six", "六个位置都变", lambda changed: changed == 6),
    says("of the last one only", "只有最后一个位置变", lambda changed: changed == 1),
    says("of the last two", "最后两个位置变", lambda changed: changed == 2),
    says("of none", "都不变", lambda changed: changed == 0),
    en="In a text of 6 tokens you change the last one. At which positions do the logits change?",
    zh="6 个词元的文字里，你改掉最后一个。哪些位置的 logits 会变？",
    en_reason="Attention is causal: a position sees itself and what came before, never the future.",
    zh_reason="注意力是因果的：每个位置只看得见自己和前面，看不见未来。",
)
def no_look_ahead():
    gpt = GPT(GPTConfig(vocab_size=20), generator=torch.Generator().manual_seed(0))
    logits = gpt(torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]]))
    return int((logits[0] - logits[1]).abs().amax(dim=-1).gt(1e-5).sum())


@deck.card(
    says("it depends on the dice", "看运气", lambda tokens: len(tokens) > 1),
    says("always token 2", "总是词元 2", lambda tokens: tokens == [2]),
    says("always token 0", "总是词元 0", lambda tokens: tokens == [0]),
    en="The logits are 1, 2, 3. Which token is drawn at temperature 0, in 50 draws?",
    zh="logits 是 1、2、3。温度为 0 时抽 50 次，会抽到哪个词元？",
    en_reason="Temperature 0 means: no dice, take the likeliest. This is called greedy decoding.",
    zh_reason="温度 0 就是不掷骰子，总取最可能的。这叫贪心解码（greedy）。",
)
def greedy():
    logits = torch.tensor([[1.0, 2.0, 3.0]]).repeat(50, 1)
    token, _ = draw(logits, 0.0, None)
    return sorted(set(token.tolist()))


@deck.card(
    says('"im"', "“im”", lambda token: token == "im"),
    says('"ma"', "“ma”", lambda token: token == "ma"),
    says('"mi"', "“mi”", lambda token: token == "mi"),
    says('"mimi"', "“mimi”", lambda token: token == "mimi"),
    en='BPE learns from the text "mimi mimi mimi". Which token does it make first?',
    zh="BPE 从文字 “mimi mimi mimi” 学习。它先造出哪个词元？",
    en_reason='It glues the pair that is most frequent: "m" and "i" stand together six times.',
    zh_reason="它粘合出现最多的一对：“m” 和 “i” 一起出现了六次。",
)
def first_merge():
    text = "mimi mimi mimi"
    tokenizer = Tokenizer(train_bpe(text, SMALLEST_VOCABULARY + 1))
    return tokenizer.tokens_as_text(tokenizer.encode(text))[0]


@deck.card(
    says("no, log 4 is the most", "不会，最多是 log 4", lambda loss: loss <= math.log(4)),
    says("yes", "会", lambda loss: loss > math.log(4)),
    en="There are 4 tokens. Can the loss be higher than log 4, the loss of knowing nothing?",
    zh="一共 4 个词元。损失会比“一无所知”的 log 4 还高吗？",
    en_reason="Being sure of something wrong ends in a larger surprise than only guessing.",
    zh_reason="自信地猜错，比随便乱猜更加“意外”。",
)
def sure_and_wrong():
    logits = torch.tensor([[[0.97, 0.01, 0.01, 0.01], [1.0, 1, 1, 1]]]).log()
    return float(-token_logprobs(logits, torch.tensor([[0, 1]])))
