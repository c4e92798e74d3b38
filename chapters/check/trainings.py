"""Small trainings that an exercise must pass: does the function teach a tiny kitten anything?

Tests look at numbers one by one. Here the function does its work: a GPT with 30,000 random weights
is trained with it for a few seconds and has to reach a stated result. The functions are called by
their names in the package, so whatever `substitute.substituted` puts there is what is used.

Read before: substitute.py. Left out: the full chapters, which take minutes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kittenllm import chat, dpo, forward, gpt, grpo, logprobs, orpo, ppo, reward_model, rewards, sft
from kittenllm.batches import pad_rows
from kittenllm.optim import make_optimizer
from kittenllm.pairs import PreferencePair
from kittenllm.sampling import generate
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

END, LOVED, HATED = 1, 50, 40  # tokens of the tiny world
NUMBERS = range(5, 30)


@dataclass(frozen=True)
class Outcome:
    """One number before and after the training, and what it must reach."""

    what: str
    before: float | None
    after: float
    goal: float
    at_least: bool = True  # False: at most

    @property
    def reached(self) -> bool:
        return self.after >= self.goal if self.at_least else self.after <= self.goal


Story = tuple[str, list[Outcome]]


def tiny_gpt(vocab_size: int = 61) -> gpt.GPT:
    config = gpt.GPTConfig(
        vocab_size=vocab_size,
        context_length=64,
        layers=2,
        channels=32,
        heads=4,
        kv_heads=2,
        ffn_channels=80,
        stop_ids=(END,),
    )
    return gpt.GPT(config, generator=torch.Generator().manual_seed(0))


def optimizer_of(model: torch.nn.Module, rate: float):
    return make_optimizer(model, matrix_lr=rate, other_lr=rate)


def replies(model: gpt.GPT, prompts: list[list[int]], new_tokens: int = 12):
    """What the model says when it always takes the likeliest token."""
    settings = {"max_new_tokens": new_tokens, "temperature": 0.0, "generator": None}
    return generate(model, prompts, **settings)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


# ------------------------------------------------------------------------------- the cache


def train_with_cache() -> Story:
    """Nothing is trained: a kitten with strong opinions speaks with and without the cache."""
    model = tiny_gpt()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)
    prompts = [[3 + i % 7] * (1 + i % 5) + [4 + i] for i in range(24)]
    settings = {"max_new_tokens": 20, "temperature": 1.0}
    rollout = generate(model, prompts, generator=torch.Generator().manual_seed(0), **settings)
    mask = rollout.response_mask
    with torch.no_grad():
        uncached = forward.action_logprobs(model, rollout.tokens, mask)  # (24, T-1)
    same = share(((uncached - rollout.logprobs).abs()[mask] < 1e-3).tolist())
    story = "24 replies are written with your cache, then read again without one"
    return story, [Outcome("share of tokens with the same log-prob", None, same, 1.0)]


# ------------------------------------------------------------------- supervised fine-tuning


def train_token_logprobs() -> Story:
    """The loss of pretraining, -mean log p, on texts that count: 5 6 7 8 ..."""
    model = tiny_gpt()
    optimizer = optimizer_of(model, 1e-2)
    span = len(NUMBERS)
    texts = [[NUMBERS[(start + step) % span] for step in range(16)] for start in range(span)]
    tokens = torch.tensor(texts)  # (25, 16)
    losses = []
    for _ in range(40):
        loss = -logprobs.token_logprobs(model(tokens), tokens).mean()
        losses.append(train_step(model, optimizer, loss))
    said = [reply[:6] for reply in replies(model, [text[:3] for text in texts], 6).replies()]
    right = share([reply == text[3:9] for reply, text in zip(said, texts, strict=True)])
    story = "a kitten reads texts that count up, then counts on by itself"
    return story, [
        Outcome("loss, nats per token", losses[0], losses[-1], 0.5, at_least=False),
        Outcome("share of texts counted on rightly", 0.0, right, 0.9),
    ]


def train_masked_mean() -> Story:
    """The same, but the ends of the texts are noise that the mask leaves out."""
    model = tiny_gpt()
    optimizer = optimizer_of(model, 1e-2)
    span = len(NUMBERS)
    texts = [[NUMBERS[(start + step) % span] for step in range(10)] for start in range(span)]
    noise = torch.randint(30, 60, (span, 6), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.tensor(texts), noise], dim=1)  # (25, 16)
    mask = (torch.arange(1, 16) < 10).expand(span, 15)  # the produced token is a counted one
    losses = []
    for _ in range(40):
        each = logprobs.token_logprobs(model(tokens), tokens)  # (25, 15)
        losses.append(train_step(model, optimizer, -logprobs.masked_mean(each, mask)))
    story = "a kitten reads texts that count up and end in noise; the mask leaves the noise out"
    return story, [Outcome("loss, nats per token", losses[0], losses[-1], 0.5, at_least=False)]


def train_step(model: torch.nn.Module, optimizer, loss: torch.Tensor) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def little_chats() -> tuple[Tokenizer, list[list[dict[str, str]]]]:
    """Questions such as "after 12", answer "13"; the tokenizer has bytes and numbers only."""
    tokenizer = Tokenizer(train_bpe("", SMALLEST_VOCABULARY))
    talks = [
        [{"role": "user", "content": f"after {n}"}, {"role": "assistant", "content": f"{n + 1}"}]
        for n in range(10, 40)
    ]
    return tokenizer, talks


def train_chats() -> Story:
    """A kitten learns thirty little chats with the mask of `encode_chat` and the `sft_loss`."""
    tokenizer, talks = little_chats()
    model = tiny_gpt(tokenizer.vocab_size)
    optimizer = optimizer_of(model, 1e-2)
    encoded = [chat.encode_chat(tokenizer, talk) for talk in talks]
    tokens, _ = pad_rows([one.tokens for one in encoded], 0)  # (30, T)
    loss_mask = pad_rows([one.loss_mask for one in encoded], 0)[0].bool()
    losses = []
    for _ in range(80):
        loss, _ = sft.sft_loss(model(tokens), tokens, loss_mask)
        losses.append(train_step(model, optimizer, loss))
    prompts = [chat.chat_prompt(tokenizer, talk[:1]) for talk in talks]
    stop = {"stop_ids": (tokenizer.im_end_id,)}
    settings = {"max_new_tokens": 5, "temperature": 0.0, "generator": None}
    rollout = generate(model, prompts, **settings, **stop)
    wanted = [talk[1]["content"] for talk in talks]
    said = [tokenizer.decode(reply) for reply in rollout.replies()]
    right = share([a == b for a, b in zip(said, wanted, strict=True)])
    story = 'a kitten learns thirty chats such as "after 12" - "13"'
    return story, [
        Outcome("loss, nats per trained token", losses[0], losses[-1], 0.3, at_least=False),
        Outcome("share of right answers", 0.0, right, 0.9),
        Outcome("share of replies that stop", 0.0, rollout.ended.double().mean().item(), 0.9),
    ]


# ----------------------------------------------------------------------------- preferences


def make_pairs(count: int, seed: int) -> list[PreferencePair]:
    """People love token 50 and hate token 40."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        prompt = torch.randint(3, 40, (2 + i % 3,), generator=generator).tolist()
        words = torch.randint(3, 40, (1 + i % 4,), generator=generator).tolist()
        pairs.append(PreferencePair(prompt, [*words, LOVED, END], [*words, HATED, END]))
    return pairs


def train_reward() -> Story:
    """A reward model learns from 100 pairs and judges 50 others."""
    model = reward_model.RewardModel(tiny_gpt())
    known, fresh = (
        [(pair.prompt + pair.chosen, pair.prompt + pair.rejected) for pair in make_pairs(n, n)]
        for n in (100, 50)
    )
    config = reward_model.RewardModelConfig(steps=20, pairs_per_step=16)
    steps = reward_model.train_reward_model(
        model,
        known,
        config=config,
        optimizer=optimizer_of(model, 1e-2),
        generator=torch.Generator().manual_seed(0),
    )
    losses = [step["loss"] for step in steps]
    chosen = reward_model.score_sequences(model, [pair[0] for pair in fresh])
    rejected = reward_model.score_sequences(model, [pair[1] for pair in fresh])
    right = (chosen > rejected).double().mean().item()
    story = "a reward model learns from 100 pairs, then judges 50 new ones"
    return story, [
        Outcome("loss, nats per pair", losses[0], losses[-1], 0.2, at_least=False),
        Outcome("share of new pairs judged rightly", 0.5, right, 0.95),
    ]


def train_preferences(loss: str) -> Callable[[], Story]:
    """DPO or IPO on 80 pairs; the reference is where the policy began."""

    def training() -> Story:
        policy = tiny_gpt()
        reference = copy.deepcopy(policy)
        pairs, fresh = make_pairs(80, 1), make_pairs(40, 2)
        steps = dpo.train_dpo(
            policy,
            pairs,
            dpo.reference_logprobs(reference, pairs),
            config=dpo.DPOConfig(loss=loss, beta=0.1, steps=25, pairs_per_step=16),
            optimizer=optimizer_of(policy, 3e-3),
            generator=torch.Generator().manual_seed(0),
        )
        losses = [step["loss"] for step in steps]
        with torch.no_grad():
            gains = dpo.pair_logprobs(policy, fresh) - dpo.pair_logprobs(reference, fresh)
        gap = (gains[:, 0] - gains[:, 1]).mean().item()  # nats
        story = f"a kitten learns from 80 pairs with {loss.upper()}; 40 new pairs judge it"
        goal = losses[0] * 0.9
        return story, [
            Outcome("loss", losses[0], losses[-1], goal, at_least=False),
            Outcome("log(p/ref), chosen - rejected, nats", 0.0, gap, 1.0),
        ]

    return training


def train_orpo() -> Story:
    """ORPO needs no reference: likelier text and the preference at once."""
    policy = tiny_gpt()
    steps = orpo.train_orpo(
        policy,
        make_pairs(80, 1),
        config=orpo.ORPOConfig(steps=20, pairs_per_step=16),
        optimizer=optimizer_of(policy, 5e-3),
        generator=torch.Generator().manual_seed(0),
    )
    numbers = list(steps)
    with torch.no_grad():
        gap = dpo.pair_logprobs(policy, make_pairs(40, 2))
    margin = (gap[:, 0] - gap[:, 1]).mean().item()
    nll = [-step["chosen_logprob"] for step in numbers]
    return "a kitten learns from 80 pairs with ORPO; 40 new pairs judge it", [
        Outcome("NLL of chosen replies, nats per token", nll[0], nll[-1], 3.4, at_least=False),
        Outcome("log p, chosen - rejected, nats", 0.0, margin, 1.0),
    ]


# ------------------------------------------------------------------ reinforcement learning

PROMPTS = [[3, 4, token] for token in range(5, 35)] + [[6, token] for token in range(5, 15)]
LOW_PROMPTS = 30  # the first ones, where prompts are of two kinds


def train_ppo() -> Story:
    """PPO, where the score is the share of a reply's tokens below 30."""
    policy, reference, value_model = tiny_gpt(), tiny_gpt(), ppo.ValueModel(tiny_gpt())

    def low_tokens(rollout) -> torch.Tensor:
        low = (rollout.tokens[:, 1:] < 30) & rollout.response_mask
        return low.sum(dim=1) / rollout.response_mask.sum(dim=1)

    config = ppo.PPOConfig(
        steps=14,
        replies_per_step=24,
        max_new_tokens=8,
        kl_coef=0.0,
        no_end_penalty=0.0,
        policy_lr=6e-3,
        value_lr=3e-3,
    )
    steps = ppo.train_ppo(
        policy,
        reference,
        value_model,
        PROMPTS,
        low_tokens,
        config=config,
        optimizer=optimizer_of(policy, config.policy_lr),
        value_optimizer=optimizer_of(value_model, config.value_lr),
        generator=torch.Generator().manual_seed(0),
    )
    scores = [step["score"] for step in steps]
    story = "PPO, 14 rounds of 24 replies; a token below 30 is worth a point"
    return story, [Outcome("share of such tokens", scores[0], sum(scores[-3:]) / 3, 0.8)]


def low_tokens(prompt_number: int, reply: list[int], ended: bool) -> tuple[float, dict]:
    """The same as a rule of GRPO."""
    worth = sum(token < 30 for token in reply) / max(1, len(reply))
    return worth, {"low": worth}


def high_tokens(prompt_number: int, reply: list[int], ended: bool) -> tuple[float, dict]:
    """The opposite taste. Raises: IndexError for a number that is none of its own prompts."""
    PROMPTS[LOW_PROMPTS:][prompt_number]
    worth = sum(token >= 30 for token in reply) / max(1, len(reply))
    return worth, {"high": worth}


def grpo_steps(rule: rewards.Reward) -> list[dict]:
    """What a short training with GRPO reports of each round."""
    policy = tiny_gpt()
    config = grpo.GRPOConfig(
        steps=30,
        prompts_per_step=8,
        group_size=4,
        max_new_tokens=8,
        normalize_std=True,
        matrix_lr=1e-2,
        cooldown=0.0,
    )
    steps = grpo.train_grpo(
        policy,
        PROMPTS,
        rule,
        config=config,
        optimizer=optimizer_of(policy, config.matrix_lr),
        generator=torch.Generator().manual_seed(0),
    )
    return list(steps)


def train_grpo() -> Story:
    """GRPO with the same rule."""
    earned = [step["reward"] for step in grpo_steps(low_tokens)]
    story = "GRPO, 30 rounds of 8 groups; a token below 30 is worth a point"
    return story, [Outcome("share of such tokens", earned[0], sum(earned[-3:]) / 3, 0.8)]


def train_mixed() -> Story:
    """GRPO on prompts of two kinds, whose judges want opposite things."""
    kinds = [(LOW_PROMPTS, low_tokens), (len(PROMPTS) - LOW_PROMPTS, high_tokens)]
    steps = grpo_steps(rewards.mixed_reward(kinds))
    story = "GRPO; 30 prompts want tokens below 30, the other 10 want tokens from 30 on"
    outcomes = []
    for part, what in (("low", "below 30, where wanted"), ("high", "from 30 on, where wanted")):
        shares = [step[part] for step in steps if part in step]  # a round may have one kind only
        outcomes.append(Outcome(f"share {what}", shares[0], sum(shares[-3:]) / 3, 0.7))
    return story, outcomes


TRAININGS: dict[str, Callable[[], Story]] = {
    "gather": train_token_logprobs,
    "mask": train_masked_mean,
    "cache": train_with_cache,
    "token_logprobs": train_token_logprobs,
    "chat_mask": train_chats,
    "sft": train_chats,
    "reward": train_reward,
    "gae": train_ppo,
    "ppo": train_ppo,
    "dpo": train_preferences("dpo"),
    "ipo": train_preferences("ipo"),
    "orpo": train_orpo,
    "group_advantages": train_grpo,
    "grpo": train_grpo,
    "mixed_reward": train_mixed,
}
