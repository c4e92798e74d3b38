"""The kitten's brain: a small GPT in the form that today's open models have.

One idea: a GPT is a stack of equal blocks. In each block every token first *looks at* the tokens before it (attention), then
*thinks* about what it saw (a small two-layer network). Both add their result to the token's vector, the residual stream.

Papers, in the order of the code: RMSNorm (Zhang and Sennrich 2019, eq. 4), rotary positions or RoPE (Su et al. 2021,
eq. 34, in the half-split form that Llama uses), scaled dot-product attention (Vaswani et al. 2017, eq. 1), grouped-query
attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020, eq. 6), input and output embedding tied (Press and Wolf 2017).
Parameters have the names and shapes of a Hugging Face Llama checkpoint (put "model." in front).

Read before: nothing, this is the start. Left out: dropout, biases, mixture of experts, long-context tricks.

Letters: B batch, T tokens, C channels, V vocabulary, H query heads, K key/value heads, D channels of one head,
S columns that can be looked at (S = T without a cache).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults make a kitten of 0.68 million parameters.

    Raises ValueError if a number is not positive or if the numbers do not fit together.
    """

    vocab_size: int = 1024  # V, 512 .. 1024 here, 32,000 .. 256,000 in real models
    context_length: int = 256  # the longest text in tokens
    layers: int = 3  # blocks, one on top of the other
    channels: int = 128  # C, the length of a token's vector
    heads: int = 4  # H, each head looks for something else
    kv_heads: int = 2  # K, heads share keys and values in groups of H / K
    ffn_channels: int = 352  # the width inside the feed-forward network, about 8/3 C
    rope_base: float = 10_000.0  # the slowest rotation turns once in about 6 * base tokens
    norm_eps: float = 1e-5  # keeps RMSNorm from dividing by zero
    stop_ids: tuple[int, ...] = ()  # tokens that end a reply: end of turn, end of text
    pad_id: int = 0  # fills the right of shorter rows, is never trained on

    def __post_init__(self) -> None:
        numbers = ("vocab_size", "context_length", "layers", "channels", "heads", "kv_heads")
        for name in numbers + ("ffn_channels", "rope_base", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.channels % (2 * self.heads):
            message = (
                f"channels ({self.channels}) must be a multiple of 2 * heads ({2 * self.heads})"
            )
            raise ValueError(message + ": RoPE turns pairs of channels")
        for token in (*self.stop_ids, self.pad_id):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} is outside 0 .. {self.vocab_size - 1}")
        if self.pad_id in self.stop_ids:
            raise ValueError(
                f"pad_id {self.pad_id} is also in stop_ids: padding must not end a reply"
            )
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))  # a checkpoint gives a list

    @property
    def head_channels(self) -> int:
        """D, the channels of one head."""
        return self.channels // self.heads


SIZES: dict[str, dict[str, int]] = {
    "small": {"layers": 3, "channels": 128, "heads": 4, "kv_heads": 2, "ffn_channels": 352},
    "medium": {"layers": 6, "channels": 384, "heads": 6, "kv_heads": 2, "ffn_channels": 1024},
}


class KVCache:
    """Remembers keys and values of the tokens already read, so that a new token costs one step and not T.

    All memory is taken once. Rows of different length are padded on the left; `valid` says which columns are real.
    """

    def __init__(
        self,
        config: GPTConfig,
        rows: int,
        max_tokens: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.layers, rows, config.kv_heads, max_tokens, config.head_channels)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # (layers, B, K, S, D)
        self.values = torch.zeros(shape, device=device, dtype=dtype)  # (layers, B, K, S, D)
        self.valid = torch.ones(rows, max_tokens, device=device, dtype=torch.bool)  # (B, S)
        self.ragged = False  # True once a column was marked as padding: only then a mask is needed
        self.layers = config.layers
        self.max_tokens = max_tokens
        self.rows = rows
        self.length = 0  # columns in use

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values (B, K, T, D) of T new tokens and returns all of them so far, (B, K, S, D).

        The last layer's append moves `length` on. Raises ValueError if the cache is full.
        """
        end = self.length + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache holds {self.max_tokens} tokens, {end} do not fit")
        keys, values = self.keys[layer, : self.rows], self.values[layer, : self.rows]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        if layer == self.layers - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keeps the given rows (1-D indices, or one bool per row) and forgets the others."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        count, used = len(rows), self.length
        moved = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
        source = rows[moved]  # rows that stay where they are need no copy
        self.keys[:, moved, :, :used] = self.keys[:, source, :, :used]
        self.values[:, moved, :, :used] = self.values[:, source, :, :used]
        self.valid[moved] = self.valid[source]
        self.rows = count


class RMSNorm(nn.Module):
    """Scales each vector to length sqrt(C), then each channel by a learned weight."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotation_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of RoPE's angles, each (context_length, D): channel pair i turns by base^(-2i/D) per position."""
    pair = torch.arange(0, config.head_channels, 2, dtype=torch.float64)  # 0, 2, 4, ...
    speed = config.rope_base ** (-pair / config.head_channels)  # (D/2,) radians per position
    position = torch.arange(config.context_length, dtype=torch.float64)
    angle = torch.outer(position, speed)  # (context_length, D/2)
    angle = torch.cat([angle, angle], dim=1)  # channel i and channel i + D/2 form one pair
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels (i, i + D/2) of x (..., T, D) by its position's angle.

    The dot product of a turned query and a turned key depends only on how far apart they are.
    """
    first, second = x.chunk(2, dim=-1)
    quarter_turn = torch.cat([-second, first], dim=-1)  # every pair turned by 90 degrees
    return x * cos + quarter_turn * sin


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention as it stands in the paper: softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1).

    For reading and for pictures; training uses F.scaled_dot_product_attention, which gives the same numbers faster.
    q (B, H, T, D), k and v (B, K, S, D), mask bool, broadcast to (B, H, T, S), True where a query may look.
    Returns the result (B, H, T, D) and the weights (B, H, T, S), each row of which sums to 1.
    """
    group = q.shape[1] // k.shape[1]  # so many query heads share one key/value head
    k = k.repeat_interleave(group, dim=1)  # (B, H, S, D)
    v = v.repeat_interleave(group, dim=1)  # (B, H, S, D)
    scores = (
        q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    )  # (B, H, T, S) how well key fits query
    scores = scores.masked_fill(~mask, -torch.inf)  # exp(-inf) = 0: not looked at
    weights = scores.softmax(dim=-1)  # (B, H, T, S)
    return weights @ v, weights


class Attention(nn.Module):
    """Every token asks a question (query); earlier tokens answer as far as their key fits."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        kv_channels = config.kv_heads * config.head_channels
        self.q_proj = linear(config.channels, config.channels)
        self.k_proj = linear(config.channels, kv_channels)
        self.v_proj = linear(config.channels, kv_channels)
        self.o_proj = linear(config.channels, config.channels)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> turned queries (B, H, T, D), turned keys and values (B, K, T, D)."""
        B, T, _ = x.shape
        D = self.config.head_channels
        q = self.q_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, K, T, D)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, K, S, D)
        # No mask: all of T tokens are new and plain, each sees itself and what is left of it; or there is one new
        # token and it sees everything. is_causal is aligned top-left: a lone query would see the first key only.
        causal = mask is None and T > 1
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, C))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). The gate decides how much of each value passes."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = linear(config.channels, config.ffn_channels)
        self.up_proj = linear(config.channels, config.ffn_channels)
        self.down_proj = linear(config.ffn_channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Look, then think; both read a normalised copy and add to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.channels, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.channels, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A matrix without bias; GPT fills it. skip_init leaves torch's global random numbers alone."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)


class GPT(nn.Module):
    """Token ids in, for every position the logits of the next token out."""

    def __init__(self, config: GPTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.utils.skip_init(nn.Embedding, config.vocab_size, config.channels)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.channels, config.norm_eps)
        cos, sin = rotation_tables(config)
        self.register_buffer(
            "cos", cos, persistent=False
        )  # (context_length, D), not saved: it can be computed
        self.register_buffer("sin", sin, persistent=False)  # (context_length, D)
        self.initialise(torch.Generator().manual_seed(0) if generator is None else generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws all matrices from a normal distribution of standard deviation 0.02.

        Matrices that write to the residual stream are made smaller by sqrt(2 * layers), because so many of them add up.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2:
                continue  # norm weights stay 1
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * self.config.layers) if writes else 0.02
            noise = torch.randn(parameter.shape, generator=generator, device=generator.device)
            parameter.copy_(std * noise)

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        document_ids: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Token ids (B, T) -> vectors (B, T, C) after the final norm.

        cache         the tokens follow those in the cache, and are added to it
        document_ids  (B, T) int: several documents packed into one row do not see each other; padding has -1
        valid         (B, T) bool: False marks padding on the left (ragged prompts). Nobody looks at it.
        Positions are plain column numbers: RoPE only feels distances, so a document may start anywhere.

        Raises ValueError on wrong shapes and on more tokens than the context holds.
        """
        self.check_input(tokens, cache, document_ids, valid)
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        mask = self.attention_mask(tokens, cache, document_ids, valid)
        cos, sin = self.cos[start:end], self.sin[start:end]  # (T, D)
        x = self.embed_tokens(tokens)  # (B, T, C)
        for layer, block in enumerate(self.layers):
            x = block(x, cos, sin, mask, cache, layer)
        return self.norm(x)

    def check_input(
        self,
        tokens: Tensor,
        cache: KVCache | None,
        document_ids: Tensor | None,
        valid: Tensor | None,
    ) -> None:
        """Raises ValueError if `hidden` cannot work with these arguments."""
        if tokens.ndim != 2 or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens must be (B, T) int64, got {tuple(tokens.shape)} {tokens.dtype}"
            )
        length = tokens.shape[1] + (0 if cache is None else cache.length)
        if length > self.config.context_length:
            limit = self.config.context_length
            raise ValueError(
                f"{length} tokens are more than the context of {limit}: shorten the text"
            )
        if cache is not None and tokens.shape[0] != cache.rows:
            raise ValueError(f"tokens have {tokens.shape[0]} rows, the cache has {cache.rows}")
        for name, extra in (("document_ids", document_ids), ("valid", valid)):
            if extra is not None and extra.shape != tokens.shape:
                shapes = f"{tuple(extra.shape)} and {tuple(tokens.shape)}"
                raise ValueError(f"{name} and tokens must have one shape, got {shapes}")
        if document_ids is not None and (cache is not None or valid is not None):
            raise ValueError(
                "document_ids are for packed rows, cache and valid for sampling: not both"
            )
        if valid is not None and valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {valid.dtype}")

    def attention_mask(
        self,
        tokens: Tensor,
        cache: KVCache | None,
        document_ids: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor | None:
        """Which column each token may look at, bool, broadcast to (B, H, T, S); None if the plain rule is enough."""
        T = tokens.shape[1]
        start = 0 if cache is None else cache.length
        if cache is not None and valid is not None:
            cache.valid[: cache.rows, start : start + T] = valid
            cache.ragged = cache.ragged or not bool(valid.all())
            valid = cache.valid[: cache.rows, : start + T] if cache.ragged else None
        elif cache is not None and cache.ragged:
            valid = cache.valid[: cache.rows, : start + T]  # (B, S)
        if document_ids is None and valid is None and (start == 0 or T == 1):
            return None
        if document_ids is None and T == 1:
            return valid[:, None, None, :]  # one new token sees every real column
        column = torch.arange(start + T, device=tokens.device)  # (S,)
        row = column[start:, None]  # (T, 1) the column in which each new token stands
        mask = (column <= row)[None, None]  # (1, 1, T, S) not into the future
        if document_ids is not None:
            same = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
            mask = mask & same[:, None]
        if valid is not None:
            mask = mask & valid[:, None, None, :]
            mask = mask | (
                column == row
            )  # padding sees itself: a softmax over nothing would be NaN
        return mask

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: how well each token's embedding fits the vector, (..., C) -> (..., V)."""
        return F.linear(hidden, self.embed_tokens.weight)

    def forward(
        self, tokens: Tensor, *, cache: KVCache | None = None, document_ids: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V) for every position; see `hidden`."""
        return self.logits(self.hidden(tokens, cache=cache, document_ids=document_ids))

    @torch.no_grad()
    def attention_weights(self, tokens: Tensor, layer: int) -> Tensor:
        """What each token of (B, T) looks at in one layer: (B, H, T, T), rows sum to 1. For pictures."""
        if not 0 <= layer < self.config.layers:
            raise ValueError(f"layer must be in 0 .. {self.config.layers - 1}, got {layer}")
        self.check_input(tokens, None, None, None)
        T = tokens.shape[1]
        cos, sin = self.cos[:T], self.sin[:T]
        x = self.embed_tokens(tokens)
        for below in range(layer):
            x = self.layers[below](x, cos, sin, None, None, below)
        block = self.layers[layer]
        q, k, v = block.self_attn.project(block.input_layernorm(x), cos, sin)
        causal = torch.ones(T, T, dtype=torch.bool, device=tokens.device).tril()
        _, weights = plain_attention(q, k, v, causal)
        return weights
