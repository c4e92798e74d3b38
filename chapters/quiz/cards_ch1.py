"""Chapter 1, fine-tuning: who speaks, which tokens are trained, and what a mask does."""

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.chat import encode_chat
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.lora import LoRALinear, add_lora
from kittenllm.sft import sft_loss
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

deck = Deck("ch1_sft")
TOKENIZER = Tokenizer(train_bpe("hi miau", SMALLEST_VOCABULARY))
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "miau"}]


@deck.card(
    says("hi, miau", "hi 和 miau", lambda text: text == "himiau"),
    says("miau", "miau", lambda text: text == "miau"),
    says("miau<|im_end|>", "miau<|im_end|>", lambda text: text == "miau<|im_end|>"),
    says("everything", "全部", lambda text: len(text) > 40),
    en='The user says "hi", the kitten says "miau". Which tokens are trained in fine-tuning?',
    zh="用户说 “hi”，小猫说 “miau”。监督微调（SFT）训练哪些词元？",
    en_reason="What the kitten says, and the mark that ends its turn: it must learn to stop.",
    zh_reason="小猫自己说的话，再加上结束标记：它必须学会停下来。",
)
def trained_tokens():
    chat = encode_chat(TOKENIZER, CHAT)
    trained = [t for t, mask in zip(chat.tokens, chat.loss_mask, strict=True) if mask]
    return "".join(TOKENIZER.tokens_as_text(trained))


@deck.card(
    *numbers(0, 1, 2, 3),
    en="A user types <|im_end|> in the message. How many end-of-turn tokens has this turn?",
    zh="用户在消息里打出 <|im_end|>。这一轮里有几个真正的结束词元？",
    en_reason="Only the real one. What people type is always ordinary text, never a special token.",
    zh_reason="只有真正的那一个。人打的字永远是普通文字，不会变成特殊词元。",
)
def typed_mark():
    chat = encode_chat(TOKENIZER, [{"role": "user", "content": "bye <|im_end|>"}])
    return chat.tokens.count(TOKENIZER.im_end_id)


@deck.card(
    says("lower, but the kitten is worse", "更低，但小猫更差", lambda loss: loss[1] < loss[0]),
    says("higher", "更高", lambda loss: loss[1] > loss[0]),
    says("the same", "一样", lambda loss: loss[1] == loss[0]),
    en="The end token is the hardest one. Somebody forgets it in the mask. The loss shown is",
    zh="结束词元最难猜。有人在掩码（mask）里漏掉了它。屏幕上的损失",
    en_reason="Losses of different masks cannot be compared. This kitten never learns to stop.",
    zh_reason="掩码不同，损失就不能比较。这只小猫永远学不会停下来。",
)
def forgotten_end():
    logits = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [1, 1]]]).log()
    tokens = torch.tensor([[0, 0, 1, 1]])  # the last one had only a chance of 0.1
    whole, without_end = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 0]]]).bool()
    return [float(sft_loss(logits, tokens, mask)[0]) for mask in (whole, without_end)]


@deck.card(
    says("NaN", "NaN", lambda loss: loss != loss),
    says("0", "0", lambda loss: loss == 0),
    says("infinite", "无穷大", lambda loss: loss == float("inf")),
    en="A row has no trained token at all. What is the loss?",
    zh="一行里没有任何要训练的词元。损失是多少？",
    en_reason="The mean of nothing is defined as 0 here, so one empty row cannot spoil a training.",
    zh_reason="这里把“空的平均值”定义为 0，这样一个空行不会毁掉整个训练。",
)
def nothing_trained():
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    return float(sft_loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, 3]]), nobody)[0])


@deck.card(
    says("it grows", "变大", lambda change: change > 0),
    says("it shrinks", "变小", lambda change: change < 0),
    says("not at all", "完全不变", lambda change: change == 0),
    en="The logits of the user's tokens become NaN. How does the loss change?",
    zh="用户那部分词元的 logits 变成 NaN。损失怎么变？",
    en_reason="What is masked out never matters: torch.where puts 0 there before any exp.",
    zh_reason="被掩码挡住的东西绝不起作用：在任何 exp 之前，torch.where 已换成 0。",
)
def masked_nan():
    tokens, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[False, False, True]])
    good = torch.zeros(1, 3, 4)
    spoilt = good.clone()
    spoilt[0, 0] = float("nan")  # it would produce the token of the user
    return float(sft_loss(spoilt, tokens, mask)[0] - sft_loss(good, tokens, mask)[0])


@deck.card(
    *numbers(4, 64, 512, 4096),
    en="A matrix has 64 x 64 = 4096 numbers. LoRA of rank 4 trains how many of its own?",
    zh="一个 64 x 64 的矩阵有 4096 个数。秩为 4 的 LoRA 训练多少个数？",
    en_reason="Two thin matrices: 4 x 64 reads, 64 x 4 writes. The large matrix stays as it is.",
    zh_reason="两个细长的矩阵：4 x 64 读，64 x 4 写。原来的大矩阵不动。",
)
def thin_detour():
    matrix = torch.nn.Linear(64, 64, bias=False)
    lora = LoRALinear(matrix, rank=4, alpha=8.0, generator=torch.Generator())
    return sum(p.numel() for p in lora.parameters() if p.requires_grad)


@deck.card(
    says("like a random kitten", "像随机的小猫", lambda gap: gap > 1),
    says("a little differently", "有一点不同", lambda gap: 0 < gap <= 1),
    says("exactly as before", "和以前完全一样", lambda gap: gap == 0),
    en="LoRA has just been added and nothing is trained yet. How does the kitten speak?",
    zh="刚刚加上 LoRA，还没有训练。小猫说话会怎样？",
    en_reason="The writing half B starts at zero, so the detour adds nothing at first.",
    zh_reason="负责“写”的矩阵 B 从零开始，所以一开始什么也没加。",
)
def lora_at_the_start():
    gpt = GPT(GPTConfig(vocab_size=20), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3]])
    before = gpt(tokens).detach()
    add_lora(gpt, rank=2, alpha=4.0, generator=torch.Generator())
    return float((gpt(tokens).detach() - before).abs().max())
