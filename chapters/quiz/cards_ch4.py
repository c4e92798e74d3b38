"""Chapter 4, preferences without a judge: DPO, IPO, ORPO."""

import inspect

import torch

from chapters.quiz.card import Deck, numbers, says
from kittenllm.dpo import dpo_loss, ipo_loss
from kittenllm.orpo import orpo_loss

deck = Deck("ch4_preferences")
REF = torch.tensor([-5.0])  # what the reference gives to both replies


@deck.card(
    *numbers(0, 0.5, 0.693, 1),
    en="Policy and reference are still the same. What is the DPO loss, whatever beta is?",
    zh="策略和参考模型还一样。不管 beta 是多少，DPO 损失是多少？",
    en_reason="Both hidden rewards are 0, the margin is 0, and -log sigmoid(0) = log 2.",
    zh_reason="两个隐含奖励都是 0，差也是 0，-log sigmoid(0) = log 2。",
)
def dpo_at_the_start():
    return dpo_loss(REF, REF, REF, REF, beta=0.3)[0]


@deck.card(
    says("it grows", "变大", lambda change: change > 1e-6),
    says("it shrinks", "变小", lambda change: change < -1e-6),
    says("it stays", "不变", lambda change: abs(change) <= 1e-6),
    en="Both replies become rarer by 2 nats. What does the DPO loss do?",
    zh="两个回答的对数概率都下降 2 奈特。DPO 损失怎么变？",
    en_reason="Only the difference counts. So the chosen reply may become rarer as well.",
    zh_reason="只看差值。所以“被选中”的回答也可能变得更少见。",
)
def both_fall():
    chosen, rejected = torch.tensor([-4.0]), torch.tensor([-5.0])
    before = dpo_loss(chosen, rejected, REF, REF, beta=0.5)[0]
    return float(dpo_loss(chosen - 2, rejected - 2, REF, REF, beta=0.5)[0] - before)


@deck.card(
    *numbers(0.5, 1, 5, 10),
    en="IPO with beta = 0.1 stops pushing when the gap of the log-ratios is how large?",
    zh="IPO 取 beta = 0.1。对数比的差达到多少时，它就不再推？",
    en_reason="IPO has a target: 1 / (2 beta) = 5 nats. DPO has none.",
    zh_reason="IPO 有目标：1 / (2 beta) = 5 奈特。DPO 没有目标。",
)
def target_of_ipo():
    gaps = torch.arange(0.0, 12.0, 0.5)
    losses = [ipo_loss(REF + gap, REF, REF, REF, beta=0.1)[0] for gap in gaps]
    return gaps[torch.stack(losses).argmin()]


@deck.card(
    says("pushes it up", "把它往上推", lambda push: push > 0),
    says("leaves it", "不动它", lambda push: push == 0),
    says("pulls it down", "把它往下拉", lambda push: push < 0),
    en="IPO has gone beyond its target. What does it do with the chosen reply?",
    zh="IPO 已经超过目标。它对“被选中”的回答做什么？",
    en_reason="Its loss is a square around the target: too far is as wrong as not far enough.",
    zh_reason="它的损失是围绕目标的平方：走过头和没走到一样错。",
)
def beyond_the_target():
    chosen = (REF + 9).requires_grad_()  # the target is 5
    ipo_loss(chosen, REF, REF, REF, beta=0.1)[0].backward()
    return -float(chosen.grad)


@deck.card(
    says("pushes it up a little", "还往上推一点", lambda push: push > 0),
    says("leaves it", "不动它", lambda push: push == 0),
    says("pulls it down", "把它往下拉", lambda push: push < 0),
    en="The same with DPO: the margin is large already. What does it do with the chosen reply?",
    zh="换成 DPO：差已经很大。它对“被选中”的回答做什么？",
    en_reason="-log sigmoid falls for ever. If all labels agree, DPO never stops pushing.",
    zh_reason="-log sigmoid 一直下降。如果标签全都一致，DPO 就永远推下去。",
)
def dpo_never_stops():
    chosen = (REF + 9).requires_grad_()
    dpo_loss(chosen, REF, REF, REF, beta=0.5)[0].backward()
    return -float(chosen.grad)


@deck.card(
    *numbers(0, 1, 2, 4),
    en="How many log-probs of a reference model does orpo_loss ask for?",
    zh="orpo_loss 需要几个参考模型的对数概率？",
    en_reason="None: fine-tuning on the chosen reply keeps ORPO near good text. DPO needs two.",
    zh_reason="一个也不要：在“被选中”的回答上微调就够了。DPO 需要两个。",
)
def orpo_needs_no_reference():
    return sum("ref" in name for name in inspect.signature(orpo_loss).parameters)
