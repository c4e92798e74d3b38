"""The kitten's brain: a small GPT in the form that today's open models have.

One idea: a GPT is a stack of equal blocks. In each block every token first *looks at* the tokens
before it (attention), then *thinks* about what it saw (a small two-layer network). Both add their
result to the token's vector, the residual stream.

Papers, in the order of the code: RMSNorm (Zhang and Sennrich 2019, eq. 4); rotary positions, RoPE
(Su et al. 2021, eq. 34, in the half-split form of Llama); scaled dot-product attention (Vaswani et
al. 2017, eq. 1); grouped-query attention (Ainslie et al. 2023); SwiGLU (Shazeer 2020, eq. 6); one
matrix as input and output embedding (Press and Wolf 2017). Parameters have the names and shapes of
a Hugging Face Llama checkpoint, less the "model." in front; huggingface.py reads and writes those.

Read before: nothing, this is the start. Left out: dropout, mixture of experts, tricks for long
contexts.

Letters: B batch, T tokens, C channels, V vocabulary, H query heads, K key/value heads, D channels
of one head, S columns that can be looked at (S = T without a cache).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kittenllm import checks


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults make a kitten of 0.68 million parameters.

    Raises ValueError if a number is not positive or if the numbers do not fit together.
    """

    vocab_size: int = 1024  # V, 512 .. 1024 here, 32,000 .. 256,000 in large models
    context_length: int = 256  # the longest text in tokens
    layers: int = 3  # blocks, one on top of the other
    channels: int = 128  # C, the length of a token's vector
    heads: int = 4  # H, each head can look for something else
    kv_heads: int = 2  # K, H / K query heads share one head of keys and values
    ffn_channels: int = 352  # the width inside the feed-forward network, about 8/3 C
    rope_base: float = 10_000.0  # the slowest pair turns once in about 6 * base tokens
    norm_eps: float = 1e-5  # keeps RMSNorm from dividing by zero
    stop_ids: tuple[int, ...] = ()  # tokens that end a reply: end of turn, end of text
    pad_id: int = 0  # fills up shorter rows; never trained on, never a stop token
    # Three things that some open models do and kittens do not:
    tied: bool = True  # one matrix as input and output embedding; False: the head has its own
    head_dim: int | None = None  # D, where it is not C / H
    qkv_bias: bool = False  # a number is added to each channel of queries, keys and values

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))  # a file may give a list
        sizes = "vocab_size context_length layers channels heads kv_heads ffn_channels"
        for name in sizes.split():
            checks.count(name, getattr(self, name))
        checks.positive("rope_base", self.rope_base)
        checks.positive("norm_eps", self.norm_eps)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        checks.flags(tied=self.tied, qkv_bias=self.qkv_bias)
        if self.head_dim is not None:
            checks.count("head_dim", self.head_dim)
        if self.head_channels % 2 or (self.head_dim is None and self.channels % self.heads):
            raise ValueError(
                f"channels={self.channels} must be a multiple of 2 * heads={2 * self.heads}, or "
                "head_dim even: every head gets an equal share, and RoPE turns pairs of channels"
            )
        for token in (*self.stop_ids, self.pad_id):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} must be in 0 .. {self.vocab_size - 1}")
        if self.pad_id in self.stop_ids:
            raise ValueError(f"pad_id={self.pad_id} must not be one of stop_ids={self.stop_ids}")

    @property
    def head_channels(self) -> int:
        """D, the channels of one head."""
        return self.head_dim or self.channels // self.heads


SIZES: dict[str, dict[str, int]] = {
    "small": {"layers": 3, "channels": 128, "heads": 4, "kv_heads": 2, "ffn_channels": 352},
    "medium": {"layers": 6, "channels": 384, "heads": 6, "kv_heads": 2, "ffn_channels": 1024},
}


class KVCache:
    """Keys and values of the tokens already read: a new token then costs one step and not T.

    All memory is taken at once; `dtype` is that of the model. Rows of different length are padded
    on the left, and `valid` says which columns are real.
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
        self.ragged = False  # True once a column was padding: only then a mask is needed
        self.rows = rows
        self.max_tokens = max_tokens
        self.length = 0  # columns in use

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds T new tokens, k and v (B, K, T, D), and returns all so far, each (B, K, S, D).

        The last layer's append moves `length` on. Raises ValueError if the cache is full.
        """
        end = self.length + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens, not for {end}")
        keys, values = self.keys[layer, : self.rows], self.values[layer, : self.rows]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        if layer == len(self.keys) - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keeps these rows, in this order (1-D indices, or one bool per row); forgets the others.

        Raises ValueError if more rows are asked for than there are.
        """
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        count, used = len(rows), self.length
        if count > self.rows:
            raise ValueError(f"cannot keep {count} rows of a cache of {self.rows}")
        moved = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
        source = rows[moved]  # a row that stays where it is needs no copy
        self.keys[:, moved, :, :used] = self.keys[:, source, :, :used]
        self.values[:, moved, :, :used] = self.values[:, source, :, :used]
        self.valid[moved] = self.valid[source]
        self.rows = count


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of 1, then each channel by a learned weight."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotation_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of RoPE's angles, each (context_length, D), on the CPU.

    Channels i and i + D/2 form pair i, which turns by base^(-2i/D) radians per position: the first
    pair is a fast clock hand, the last a slow one.
    """
    pair = torch.arange(config.head_channels // 2, dtype=torch.float64, device="cpu")  # (D/2,)
    speed = config.rope_base ** (-2 * pair / config.head_channels)  # (D/2,) radians per position
    position = torch.arange(config.context_length, dtype=torch.float64, device="cpu")
    angle = torch.outer(position, speed)  # (context_length, D/2)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, cos], dim=1), torch.cat([sin, sin], dim=1)  # both channels of a pair


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels of x (..., T, D) by the angle of its position; cos, sin (T, D).

    The dot product of a turned query and a turned key depends only on how far apart they stand.
    """
    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    quarter_turn = torch.cat([-second, first], dim=-1)  # every pair turned by 90 degrees
    return x * cos + quarter_turn * sin


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention as in the paper: softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1).

    For reading and for pictures. The model uses F.scaled_dot_product_attention, which gives the
    same numbers faster and never stores the weights.
    q (B, H, T, D), k and v (B, K, S, D), mask bool that broadcasts to (B, H, T, S), True where a
    query may look. Returns the result (B, H, T, D) and the weights (B, H, T, S).
    """
    group = q.shape[1] // k.shape[1]  # so many query heads share one head of keys and values
    k = k.repeat_interleave(group, dim=1)  # (B, H, S, D)
    v = v.repeat_interleave(group, dim=1)  # (B, H, S, D)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S) how well each key fits each query
    scores = scores.masked_fill(~mask, -torch.inf)  # exp(-inf) = 0: not looked at
    weights = scores.softmax(dim=-1)  # (B, H, T, S) each row sums to 1
    return weights @ v, weights


class Linear(nn.Linear):
    """A matrix, still empty: GPT.initialise fills it from its own generator."""

    def reset_parameters(self) -> None:
        """Nothing. An nn.Linear draws its first numbers here, from torch's global generator."""


class Attention(nn.Module):
    """Every token asks a question (query); earlier tokens answer (value) as far as they fit (key).

    H / K query heads share one head of keys and values: the cache gets smaller by that factor.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer  # where in the cache this layer's keys and values are
        self.head_channels = D = config.head_channels
        self.q_proj = Linear(config.channels, config.heads * D, bias=config.qkv_bias)
        self.k_proj = Linear(config.channels, config.kv_heads * D, bias=config.qkv_bias)
        self.v_proj = Linear(config.channels, config.kv_heads * D, bias=config.qkv_bias)
        self.o_proj = Linear(config.heads * D, config.channels, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> queries (B, H, T, D), keys and values (B, K, T, D); q and k turned."""
        B, T, _ = x.shape
        D = self.head_channels
        q = self.q_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, K, T, D)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        T = x.shape[1]
        q, k, v = self.project(x, cos, sin)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, D)
        # No mask means: a whole row from its start, each token sees itself and what is before it;
        # or one new token behind a cache, which sees everything. For that one is_causal would be
        # wrong: its triangle starts top-left, and a lone query would see the first key only.
        is_causal = mask is None and T > 1
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H D) -> C


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). The gate decides how much of each value passes."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.channels, config.ffn_channels, bias=False)
        self.up_proj = Linear(config.channels, config.ffn_channels, bias=False)
        self.down_proj = Linear(config.ffn_channels, config.channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.gate_proj(x))  # (B, T, ffn_channels)
        return self.down_proj(gate * self.up_proj(x))


class Block(nn.Module):
    """Look, then think; both read a normalised copy and add to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.channels, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.channels, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class GPT(nn.Module):
    """Token ids in; for every position the logits of the next token out.

    `generator` draws the first weights (None: one with seed 0). torch's global random numbers are
    neither used nor moved on. Inside of `torch.device("meta")` nothing is drawn and no matrix takes
    memory: so a file gets a model to fill.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        V, C, device = config.vocab_size, config.channels, torch.get_default_device()
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(V, C), freeze=False)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.channels, config.norm_eps)
        if not config.tied:
            self.lm_head = Linear(C, V, bias=False)
        cos, sin = rotation_tables(config)
        self.register_buffer("cos", cos, persistent=False)  # (context_length, D), not in a file:
        self.register_buffer("sin", sin, persistent=False)  # both can be computed again
        if device.type != "meta":
            self.cos, self.sin = cos.to(device), sin.to(device)
            self.initialise(torch.Generator().manual_seed(0) if generator is None else generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws every matrix from a normal distribution with standard deviation 0.02.

        Matrices that write to the residual stream get 0.02 / sqrt(2 * layers), since 2 * layers of
        them add up there (GPT-2, Radford et al. 2019, section 2.3). Norm weights stay 1, biases
        start at 0.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2:
                parameter.fill_(name.endswith(".weight"))
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * self.config.layers) if writes else 0.02
            noise = torch.randn(parameter.shape, generator=generator, device=generator.device)
            parameter.copy_(std * noise)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The kind of number that the weights are."""
        return self.embed_tokens.weight.dtype

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained; the tied embedding counts once."""
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

        cache         the tokens stand behind those in the cache and are added to it
        document_ids  (B, T) int: documents packed into one row do not see each other; padding -1
        valid         (B, T) bool: False is padding on the left of a shorter prompt, seen by nobody
        Positions are plain column numbers. RoPE feels only distances, so a document may start
        anywhere.

        Raises ValueError for wrong shapes, unknown tokens, or more tokens than the context holds.
        """
        self.check_input(tokens, cache, document_ids, valid)
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        mask = attention_mask(tokens, cache, document_ids, valid)
        cos, sin = self.cos[start:end], self.sin[start:end]  # (T, D)
        x = self.embed_tokens(tokens)  # (B, T, C)
        for block in self.layers:
            x = block(x, cos, sin, mask, cache)
        return self.norm(x)

    def check_input(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        document_ids: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Raises ValueError if `hidden` cannot work with these arguments."""
        if tokens.ndim != 2 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be (B, T) int64, got {tokens.shape} {tokens.dtype}")
        length = tokens.shape[1] + (0 if cache is None else cache.length)
        if length > self.config.context_length:
            limit = self.config.context_length
            raise ValueError(f"{length} tokens do not fit into the context of {limit}: shorten")
        if cache is None or tokens.shape[1] > 1:  # tokens that were just drawn are surely known
            checks.token_ids("tokens", tokens, self.config.vocab_size)
        if cache is not None and len(tokens) != cache.rows:
            raise ValueError(f"tokens have {len(tokens)} rows, the cache has {cache.rows}")
        if cache is not None and cache.keys.dtype != self.dtype:
            raise ValueError(
                f"the cache holds {cache.keys.dtype} and the model {self.dtype}: make it with "
                "KVCache(..., dtype=gpt.dtype)"
            )
        if valid is not None:
            checks.bool_mask("valid", valid, tokens.shape)
        if document_ids is not None:
            checks.same_shape("tokens", tokens, "document_ids", document_ids)
        if document_ids is not None and (cache is not None or valid is not None):
            raise ValueError("document_ids are for packed rows; cache and valid are for sampling")

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: how well each token's embedding fits each vector, (..., C) -> (..., V)."""
        head = self.embed_tokens.weight if self.config.tied else self.lm_head.weight  # (V, C)
        return F.linear(hidden, head)

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V) for every position; see `hidden`."""
        return self.logits(self.hidden(tokens, cache=cache, document_ids=document_ids))

    @torch.no_grad()
    def attention_weights(self, tokens: Tensor, layer: int) -> Tensor:
        """What each token of (B, T) looks at in one layer: (B, H, T, T), rows sum to 1."""
        if not 0 <= layer < self.config.layers:
            raise ValueError(f"layer must be in 0 .. {self.config.layers - 1}, got {layer}")
        self.check_input(tokens)
        T = tokens.shape[1]
        cos, sin = self.cos[:T], self.sin[:T]  # (T, D)
        x = self.embed_tokens(tokens)  # (B, T, C)
        for block in self.layers[:layer]:
            x = block(x, cos, sin, None, None)
        block = self.layers[layer]
        assert isinstance(block, Block)
        q, k, v = block.self_attn.project(block.input_layernorm(x), cos, sin)
        causal = torch.ones(T, T, dtype=torch.bool, device=tokens.device).tril()
        _, weights = plain_attention(q, k, v, causal)
        return weights


def attention_mask(
    tokens: Tensor, cache: KVCache | None, document_ids: Tensor | None, valid: Tensor | None
) -> Tensor | None:
    """Which columns each token may look at: bool that broadcasts to (B, H, T, S).

    None where `Attention` needs no mask. `valid` is written into the cache on the way.
    """
    T = tokens.shape[1]
    start = 0 if cache is None else cache.length
    if cache is not None:
        seen = cache.valid[: cache.rows, : start + T]  # (B, S)
        if valid is not None:
            seen[:, start:] = valid
            cache.ragged = cache.ragged or not bool(valid.all())
        valid = seen if cache.ragged else None
        if T == 1:  # nothing to the right of the newest token: every real column is open
            return None if valid is None else valid[:, None, None]  # (B, 1, 1, S)
    if document_ids is None and valid is None and start == 0:
        return None
    column = torch.arange(start + T, device=tokens.device)  # (S,)
    own = column[start:, None]  # (T, 1) where each new token stands
    mask = (column <= own)[None, None]  # (1, 1, T, S) nobody looks to the right
    if document_ids is not None:
        same = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
        mask = mask & same[:, None]
    if valid is not None:
        mask = mask & valid[:, None, None]
        mask = mask | (column == own)  # padding sees itself: softmax over nothing is NaN
    return mask
