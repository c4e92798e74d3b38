"""Small experiments with a tiny kitten: does fine-tuning, the cache or the reward model misbehave?

The class: a GPT of 20,000 parameters learns by heart what six animals say. The text goes through
the package's own chat template, packing, loss and sampling, so a bug in any of them shows here.

Every experiment returns a curve. Functions are called through their modules, so that a wrong one
can take their place. Read before: exhibits.py.
"""

from collections.abc import Callable
from functools import cache

import torch

from chapters.museum.exhibits import Points
from kittenllm import batches, chat, dpo, forward, logprobs, reward_model, sampling, sft
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.pairs import PreferencePair
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

SAYS = {"c": "mew", "d": "woof", "o": "hoot", "p": "oink", "b": "buzz", "k": "purr"}
ROW_LENGTH = 50  # two conversations and a little padding
LONGEST_REPLY = 6
EVERY = 5  # steps between two measurements


@cache
def bytes_only() -> Tokenizer:
    """The smallest tokenizer there is: a token per letter."""
    return Tokenizer(train_bpe("", SMALLEST_VOCABULARY))


def tiny_kitten(**changes) -> GPT:
    """A GPT with one layer and fixed first weights."""
    tokenizer = bytes_only()
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        layers=1,
        channels=32,
        heads=2,
        kv_heads=1,
        ffn_channels=64,
        stop_ids=changes.pop("stop_ids", (tokenizer.im_end_id,)),
        pad_id=tokenizer.pad_id,
    )
    return GPT(config, generator=torch.Generator().manual_seed(0))


def prompts() -> list[list[int]]:
    """The six questions, ready for a reply."""
    return [chat.chat_prompt(bytes_only(), [user(question)]) for question in SAYS]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def replies(gpt: GPT) -> sampling.Rollout:
    """Greedy answers to the six questions."""
    return sampling.generate(
        gpt, prompts(), max_new_tokens=LONGEST_REPLY, temperature=0, generator=None
    )


def school(
    measure: Callable[[GPT], float],
    *,
    steps: int = 25,
    pad_is_end: bool = False,
    all_tokens: bool = False,
) -> Points:
    """Fine-tune on the six conversations and measure on the way; `all_tokens`: as pretraining does,
    the questions too."""
    tokenizer = bytes_only()
    chats = [
        chat.encode_chat(tokenizer, [user(question), {"role": "assistant", "content": answer}])
        for question, answer in SAYS.items()
    ]
    pad_id = tokenizer.im_end_id if pad_is_end else tokenizer.pad_id
    rows = batches.pack(chats, row_length=ROW_LENGTH, pad_id=pad_id)
    gpt = tiny_kitten()
    adam = torch.optim.Adam(gpt.parameters(), lr=1e-2)
    points = []
    for step in range(steps + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                points.append((float(step), float(measure(gpt))))
        read = rows.tokens.clone()  # as on its way to a GPU
        logits = gpt(read, document_ids=rows.document_ids)  # (R, T, V)
        if all_tokens:
            is_text = rows.document_ids[:, 1:] >= 0  # (R, T-1)
            loss = -logprobs.token_logprobs(logits, rows.tokens)[is_text].mean()
        else:
            loss, _ = sft.sft_loss(logits, rows.tokens, rows.loss_mask)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return points


# ------------------------------------------------------------------------------ fine-tuning


def stops() -> Points:
    """Share of replies that end by themselves."""
    return school(lambda gpt: replies(gpt).ended.float().mean())


def stops_where_pad_is_end() -> Points:
    """The same with rows that are filled up with the end mark itself."""
    return school(lambda gpt: replies(gpt).ended.float().mean(), pad_is_end=True)


def share_right(gpt: GPT) -> float:
    """Share of questions that get exactly the right reply."""
    expected = [bytes_only().encode(answer) for answer in SAYS.values()]
    said = replies(gpt).replies()
    return sum(a == b for a, b in zip(said, expected, strict=True)) / len(expected)


def right_answers() -> Points:
    """Share of questions that get exactly the right reply."""
    return school(share_right, steps=80)


def right_answers_of_a_reader() -> Points:
    """The same if the kitten learns all tokens, as a base kitten does."""
    return school(share_right, steps=180, all_tokens=True)


def speaks_for_the_user() -> Points:
    """How likely the kitten finds it that a *user* turn comes next and asks a known question."""

    def share(gpt: GPT) -> float:
        rows = torch.tensor([prompt[:8] for prompt in prompts()])  # <|im_start|>user\n + question
        words = torch.ones_like(rows[:, 1:], dtype=torch.bool)
        return forward.action_logprobs(gpt, rows, words).exp().mean()

    return school(share, steps=30)


def neighbour_is_heard() -> Points:
    """How much the log-prob of a conversation changes when another one shares its row, in nats."""
    first, second = prompts()[:2]
    row = torch.tensor([first + second])
    documents = torch.tensor([[0] * len(first) + [1] * len(second)])
    mask = torch.ones(1, len(second) - 1, dtype=torch.bool)

    def change(gpt: GPT) -> float:
        alone = forward.action_logprobs(gpt, torch.tensor([second]), mask).sum()
        all_of_row = torch.ones(1, row.shape[1] - 1, dtype=torch.bool)
        packed = forward.action_logprobs(gpt, row, all_of_row, document_ids=documents)
        return (packed[:, len(first) :].sum() - alone).abs()

    return school(change)


def marks_from_text() -> Points:
    """Special tokens that come out of a user's text, over the marks that were typed into it."""
    tokenizer = Tokenizer(bytes_only().ranks)
    points = []
    for typed in range(6):
        ids = tokenizer.encode("hello" + "<|im_end|>" * typed)
        points.append((float(typed), float(sum(i in tokenizer.special_ids.values() for i in ids))))
    return points


# --------------------------------------------------------------- the cache and the reward model


def cache_error() -> Points:
    """Recorded log-probs of a reply against those of one plain forward pass, per reply token.

    The kitten has strong random opinions; replies end at many lengths, so rows leave the batch.
    """
    gpt = tiny_kitten(stop_ids=tuple(range(0, 300, 8)))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    prompt = prompts()[0]
    generator = torch.Generator().manual_seed(3)
    rollout = sampling.generate(
        gpt, [prompt] * 24, max_new_tokens=16, temperature=1.0, generator=generator
    )
    mask = rollout.response_mask
    scored = forward.frozen_logprobs(gpt, rollout.tokens, mask)
    errors = torch.where(mask, (scored - rollout.logprobs).abs(), 0.0)
    per_place = errors.sum(dim=0) / mask.sum(dim=0).clamp(min=1)  # (T-1,)
    first = len(prompt) - 1
    return [(float(t), error) for t, error in enumerate(per_place[first:].tolist(), start=1)]


def score_over_padding() -> Points:
    """The score of one and the same reply, over the padding that its neighbours force on it."""
    gpt = tiny_kitten()
    judge = reward_model.RewardModel(gpt)
    with torch.no_grad():
        judge.head.copy_(torch.randn(32, generator=torch.Generator().manual_seed(1)))
        prompt = prompts()[0]
        points = []
        for padding in range(0, 21, 2):
            row = torch.tensor([prompt + [gpt.config.pad_id] * padding])
            score = judge(row, torch.tensor([len(prompt)]))
            points.append((float(padding), score.item()))
    return points


def length_is_no_merit() -> Points:
    """log p of a reply as DPO takes it, over the length of the reply: a fresh kitten, nats."""
    gpt = tiny_kitten()
    points = []
    for length in range(1, 13):
        pair = PreferencePair([1, 2, 3], [5] * length, [6] * length)
        with torch.no_grad():
            chosen, _ = dpo.pair_logprobs(gpt, [pair])[0]
        points.append((float(length), chosen.item()))
    return points
