"""How the kitten speaks: draw a token, put it behind the others, ask again.

One idea: the model gives a probability to every next token, and we throw a dart. Lay the
probabilities end to end on a line of length 1 and throw a dart at it: a token with probability 0.3
owns 30 % of the line. The log-probability of what was hit is written down, because RL learns from
it. Many replies grow side by side in one batch; a reply that is finished leaves the batch.

p(token | text) = softmax(logits / temperature); temperature 0 takes the likeliest token.

Sampling and scoring must be one distribution, so there is no top-k, no top-p and no forbidden
token. Prompts of different length are padded on the left while the replies grow (so that all new
tokens stand in one column), and the result is padded on the right (so that scoring it with the
plain forward needs no mask).

Read before: gpt.py. Left out: top-k, top-p, beam search, speculative decoding.
Letters: N prompts, B rows still in the batch, P longest prompt, R longest reply, T tokens in a row
of the result, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.distributed import put_together
from kittenllm.gpt import GPT, KVCache

COLDEST = 1e-30  # logits / temperature must stay below 3e38, the largest float32

# (drawn tokens (B,), their rows in the result (B,), step) -> (B,) bool: which replies end here
StopRule = Callable[[Tensor, Tensor, int], Tensor]


@dataclass
class Rollout:
    """Prompts with the replies that were drawn for them, in the order of the prompts."""

    tokens: Tensor  # (N, T) int64: prompt + reply, padded on the right
    response_mask: Tensor  # (N, T-1) bool, action frame: True for each token of the reply
    logprobs: Tensor  # (N, T-1) float32 (float64 of a float64 model), nats, 0 outside the mask
    ended: Tensor  # (N,) bool: the reply stopped by itself; its stop token is inside the mask

    @property
    def lengths(self) -> Tensor:
        """(N,) how many tokens of each row are not padding."""
        column = torch.arange(1, self.tokens.shape[1], device=self.tokens.device)  # (T-1,)
        return (self.response_mask * column).amax(dim=1) + 1

    def replies(self) -> list[list[int]]:
        """The token ids of each reply, without the stop token."""
        rows = zip(self.tokens[:, 1:], self.response_mask, self.ended.tolist(), strict=True)
        replies = [(row[mask].tolist(), ended) for row, mask, ended in rows]
        return [reply[:-1] if ended else reply for reply, ended in replies]


def generate(
    gpt: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    stop_ids: Sequence[int] | None = None,
) -> Rollout:
    """Draws one reply for each prompt (N lists of token ids).

    A reply ends with the first token of `stop_ids` (None: those of the model's config), or after
    `max_new_tokens`. The recorded log-probs are those of the distribution that was really sampled;
    at temperature 0, where nothing is sampled, those of temperature 1. A temperature below 1e-30
    is 0 for a float32. `generator` lives on the model's device; temperature 0 does not need one.

    Raises: ValueError for an empty prompt, an unknown token id, a negative temperature, or if
    prompt and reply do not fit into the context, or if the model's log-probs are no numbers.
    """
    stops = stop_rule(gpt, stop_ids)
    check_sampling(gpt, prompts, max_new_tokens, temperature, generator)
    device = gpt.device
    N = len(prompts)
    tokens, valid = pad_left(prompts, gpt.config.pad_id, device)  # (N, P), (N, P)
    replies = torch.full((N, max_new_tokens), gpt.config.pad_id, device=device)  # (N, R)
    wide = torch.promote_types(gpt.dtype, torch.float32)  # what `draw` computes in
    logprobs = torch.zeros(N, max_new_tokens, device=device, dtype=wide)  # (N, R)
    counts = torch.full((N,), max_new_tokens, device=device)  # (N,) tokens of each reply
    ended = torch.zeros(N, dtype=torch.bool, device=device)  # (N,)

    with put_together(gpt), torch.inference_mode():
        room = tokens.shape[1] + max_new_tokens
        cache = KVCache(gpt.config, N, room, device=device, dtype=gpt.dtype)
        hidden = gpt.hidden(tokens, cache=cache, valid=valid)[:, -1:]  # (B, 1, C) read the prompts
        rows = torch.arange(N, device=device)  # (B,) which prompt each row of the batch serves
        growing = torch.ones(N, dtype=torch.bool, device=device)  # (B,) not finished yet
        for step in range(max_new_tokens):
            token, logprob = draw(gpt.logits(hidden[:, 0]), temperature, generator)  # (B,), (B,)
            replies[rows, step] = token  # a finished row writes too; `counts` cuts that off later
            logprobs[rows, step] = logprob
            stopped = growing & stops(token, rows, step)  # (B,)
            counts[rows[stopped]] = step + 1
            ended[rows[stopped]] = True
            growing = growing & ~stopped
            still_growing = int(growing.sum())
            if still_growing == 0 or step == max_new_tokens - 1:
                break
            if still_growing < len(rows):  # finished rows leave the batch
                kept = fill_holes(growing, still_growing)
                cache.keep(kept)
                rows, token, growing = rows[kept], token[kept], growing[kept]
            hidden = gpt.hidden(token[:, None], cache=cache)  # (B, 1, C) one new token per row
    check_drawn(logprobs)
    return _right_padded(gpt.config.pad_id, tokens, valid, replies, logprobs, counts, ended)


def stream(
    gpt: GPT,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    stop_ids: Sequence[int] | None = None,
) -> Iterator[int]:
    """Draws one reply and yields each token as soon as it is there; the stop token is not yielded.

    Raises: ValueError as `generate` does, at once and not at the first token.
    """
    stops = stop_rule(gpt, stop_ids)
    check_sampling(gpt, [prompt], max_new_tokens, temperature, generator)
    return _stream(gpt, prompt, max_new_tokens, temperature, generator, stops)


def _stream(
    gpt: GPT,
    prompt: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    stops: StopRule,
) -> Iterator[int]:
    """The loop of `stream`."""
    room = len(prompt) + max_new_tokens
    cache = KVCache(gpt.config, 1, room, device=gpt.device, dtype=gpt.dtype)
    row = torch.zeros(1, dtype=torch.int64, device=gpt.device)
    tokens = torch.tensor([list(prompt)], device=gpt.device)  # (1, P)
    for step in range(max_new_tokens):
        with torch.inference_mode():  # not around the yield: the caller has its own mode
            logits = gpt.logits(gpt.hidden(tokens, cache=cache)[:, -1])  # (1, V)
            token, logprob = draw(logits, temperature, generator)  # (1,)
            check_drawn(logprob)
            ended = bool(stops(token, row, step))
        if ended:
            return
        yield int(token)
        tokens = token[:, None]  # (1, 1) the cache remembers the rest


def draw(
    logits: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draws one token per row: logits (B, V) -> tokens (B,) and their log-probs (B,), nats.

    Half and bfloat16 have too few digits for the line: they are drawn, and scored, as float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature < COLDEST:
        tokens = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        logprobs = logits.log_softmax(dim=-1)
        return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)
    logprobs = (logits / temperature).log_softmax(dim=-1)  # (B, V)
    right_edge = logprobs.exp().cumsum(dim=-1)  # (B, V) where each token's part of the line ends
    line = right_edge[:, -1:]  # (B, 1) 1, but for rounding
    dart = line * torch.rand(line.shape, generator=generator, device=line.device)
    tokens = torch.searchsorted(right_edge, dart, right=True)  # (B, 1) first edge beyond the dart
    tokens = tokens.clamp(max=logits.shape[-1] - 1)  # rounding can put the dart on the last edge
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


def check_drawn(logprobs: Tensor) -> None:
    """Refuse NaN: the model had no probabilities to draw from.

    Raises: ValueError.
    """
    if logprobs.isnan().any():
        raise ValueError(
            "the model's log-probs are nan: its weights are no numbers any more. The file is "
            "damaged, or a training went wrong: take an earlier model"
        )


def fill_holes(growing: Tensor, count: int) -> Tensor:
    """Which rows to keep, (count,): each finished row among the first `count` gives its place to a
    growing row from behind, so that few rows have to move.

    >>> fill_holes(torch.tensor([True, False, True, False, True]), 3).tolist()
    [0, 4, 2]
    """
    kept = torch.arange(count, device=growing.device)
    kept[~growing[:count]] = count + growing[count:].nonzero().squeeze(1)
    return kept


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompts of any length -> tokens (N, P) with the padding on the left, valid (N, P) bool."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    valid = torch.arange(width) >= width - lengths[:, None]
    return tokens.to(device), valid.to(device)


def _right_padded(
    pad_id: int,
    prompts: Tensor,
    valid: Tensor,
    replies: Tensor,
    logprobs: Tensor,
    counts: Tensor,
    ended: Tensor,
) -> Rollout:
    """Moves every row to the left edge: [pad pad prompt reply] -> [prompt reply pad pad]."""
    P = prompts.shape[1]
    prompt_lengths = valid.sum(dim=1, keepdim=True)  # (N, 1)
    lengths = prompt_lengths + counts[:, None]  # (N, 1)
    column = torch.arange(int(lengths.max()), device=prompts.device)  # (T,)
    real = column < lengths  # (N, T)
    source = column + P - prompt_lengths  # (N, T) where the token stands now
    source = source.clamp(max=P + replies.shape[1] - 1)
    tokens = torch.cat([prompts, replies], dim=1).gather(1, source)  # (N, T)
    all_logprobs = torch.cat([torch.zeros_like(prompts, dtype=logprobs.dtype), logprobs], dim=1)
    all_logprobs = all_logprobs.gather(1, source)  # (N, T)
    in_reply = real & (column >= prompt_lengths)  # (N, T)
    return Rollout(
        tokens=torch.where(real, tokens, pad_id),
        response_mask=in_reply[:, 1:],  # action frame: index t is about producing token t + 1
        logprobs=torch.where(in_reply, all_logprobs, 0.0)[:, 1:],
        ended=ended,
    )


def stop_rule(gpt: GPT, stop_ids: Sequence[int] | None) -> StopRule:
    """The usual rule: a reply ends with the first of these tokens.

    Raises: ValueError for a token id outside the vocabulary.
    """
    V = gpt.config.vocab_size
    stop_ids = gpt.config.stop_ids if stop_ids is None else tuple(stop_ids)
    for token in stop_ids:
        if not 0 <= token < V:
            raise ValueError(f"stop_ids must hold token ids from 0 to {V - 1}, got {token}")
    is_stop = torch.zeros(V, dtype=torch.bool, device=gpt.device)  # (V,) a table to look up
    is_stop[list(stop_ids)] = True
    return lambda tokens, rows, step: is_stop[tokens]


def check_sampling(
    gpt: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> None:
    """Refuse what cannot be sampled.

    Raises: ValueError with the value and the remedy.
    """
    checks.count("max_new_tokens", max_new_tokens)
    checks.number("temperature", temperature)
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or above, got {temperature}")
    if temperature > 0 and generator is None:
        raise ValueError("sampling needs a torch.Generator; only temperature 0 works without")
    if len(prompts) == 0:
        raise ValueError("prompts is empty: give at least one prompt")
    V, limit = gpt.config.vocab_size, gpt.config.context_length
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {number} is empty: start it with at least one token")
        if len(prompt) + max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens; with max_new_tokens={max_new_tokens} "
                f"that is more than the context of {limit}: shorten one of the two"
            )
        if min(prompt) < 0 or max(prompt) >= V:
            wrong = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ValueError(f"prompt {number} must hold token ids 0 to {V - 1}, got {wrong}")
