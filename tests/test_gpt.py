"""The kitten's brain: every part is checked against its formula, the whole against its promises."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kittenllm.gpt import (
    GPT,
    SIZES,
    GPTConfig,
    KVCache,
    RMSNorm,
    attention_mask,
    plain_attention,
    rotate,
    rotation_tables,
)

ROOT = Path(__file__).resolve().parents[1]


def random_tokens(gpt: GPT, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(gpt.config.vocab_size, shape, generator=generator).to(gpt.device)


# ------------------------------------------------------------------ the parts


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=1e-12)
    norm.weight.data = torch.tensor([1.0, 10.0])
    out = norm(torch.tensor([3.0, 4.0]))  # root mean square: sqrt((9 + 16) / 2)
    rms = math.sqrt(12.5)
    torch.testing.assert_close(out, torch.tensor([3 / rms, 40 / rms]))


def test_rms_norm_s_eps_is_inside_the_root():
    """x / sqrt(mean x^2 + eps): with an eps as large as the mean, vectors shrink by sqrt(2)."""
    out = RMSNorm(2, eps=12.5)(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(out, torch.tensor([3 / 5, 4 / 5]))
    gpt = GPT(GPTConfig(layers=1, norm_eps=0.25))
    norms = [gpt.norm, gpt.layers[0].input_layernorm, gpt.layers[0].post_attention_layernorm]
    assert [norm.eps for norm in norms] == [0.25] * 3


def test_rotation_by_hand():
    # One head of 4 channels, base 100: pair 0 (channels 0 and 2) turns 1 radian per position,
    # pair 1 (channels 1 and 3) turns 100^(-1/2) = 0.1 radian.
    cos, sin = rotation_tables(GPTConfig(channels=4, heads=1, kv_heads=1, rope_base=100.0))
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(4, 4)  # (T, D) the same vector in 4 places
    out = rotate(x, cos[:4], sin[:4])
    expected = [[math.cos(t), math.cos(t / 10), math.sin(t), math.sin(t / 10)] for t in range(4)]
    torch.testing.assert_close(out, torch.tensor(expected))


def test_rotated_products_feel_only_the_distance():
    cos, sin = rotation_tables(GPTConfig())
    q, k = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

    def product(query_at: int, key_at: int) -> torch.Tensor:
        return rotate(q, cos[query_at], sin[query_at]) @ rotate(k, cos[key_at], sin[key_at])

    torch.testing.assert_close(product(7, 3), product(204, 200), atol=1e-4, rtol=0)
    assert abs(product(7, 3) - product(8, 3)) > 1e-2  # another distance, another product


def test_plain_attention_by_hand():
    # Scores 0 and log 3 (times sqrt(D) = 1) give weights 1/4 and 3/4.
    q = torch.tensor([1.0]).view(1, 1, 1, 1)
    k = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    v = torch.tensor([10.0, 20.0]).view(1, 1, 2, 1)
    out, weights = plain_attention(q, k, v, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(out.flatten(), torch.tensor([17.5]))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_plain_and_fast_attention_agree(device, kv_heads):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 10, 8, generator=generator).to(device)
    k, v = torch.randn(2, 3, kv_heads, 10, 8, generator=generator).to(device)
    causal = torch.ones(10, 10, dtype=torch.bool, device=device).tril()
    plain, weights = plain_attention(q, k, v, causal)
    fast = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(plain, fast, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 10, device=device))
    assert not weights.triu(1).any()


def test_the_model_uses_the_plain_formula(tiny_gpt):
    """The whole first layer, written out with plain_attention."""
    tokens = random_tokens(tiny_gpt, 2, 12)
    block = tiny_gpt.layers[0]
    x = tiny_gpt.embed_tokens(tokens)
    cos, sin = tiny_gpt.cos[:12], tiny_gpt.sin[:12]
    q, k, v = block.self_attn.project(block.input_layernorm(x), cos, sin)
    causal = torch.ones(12, 12, dtype=torch.bool, device=tokens.device).tril()
    looked, weights = plain_attention(q, k, v, causal)
    x = x + block.self_attn.o_proj(looked.transpose(1, 2).flatten(2))
    normed = block.post_attention_layernorm(x)
    gate, up = block.mlp.gate_proj(normed), block.mlp.up_proj(normed)
    x = x + block.mlp.down_proj(gate * torch.sigmoid(gate) * up)
    fast = block(tiny_gpt.embed_tokens(tokens), cos, sin, None, None)
    torch.testing.assert_close(x, fast, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weights, tiny_gpt.attention_weights(tokens, 0))


# ------------------------------------------------------------------ the whole


def test_sizes():
    small = GPT(GPTConfig(**SIZES["small"]))
    assert dataclasses.asdict(small.config) == dataclasses.asdict(GPTConfig())
    block = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 352 * 128 + 2 * 128
    assert small.parameter_count == 1024 * 128 + 3 * block + 128 == 684_928
    assert 9e6 < GPT(GPTConfig(**SIZES["medium"])).parameter_count < 11e6


def test_parameter_names_are_those_of_llama():
    names = {name for name, _ in GPT(GPTConfig(layers=1)).state_dict().items()}
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    parts += ["input_layernorm", "post_attention_layernorm"]
    blocks = {f"layers.0.{part}.weight" for part in parts}
    assert names == blocks | {"embed_tokens.weight", "norm.weight"}  # no rotation tables, no head


def test_first_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    one = GPT(GPTConfig(), generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    same = GPT(GPTConfig(), generator=torch.Generator().manual_seed(5))
    other = GPT(GPTConfig(), generator=torch.Generator().manual_seed(6))
    default, zero = GPT(GPTConfig()), GPT(GPTConfig(), generator=torch.Generator().manual_seed(0))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert torch.equal(default.state_dict()[name], zero.state_dict()[name])
        assert torch.equal(weight, other.state_dict()[name]) == ("norm" in name)


def test_a_fresh_kitten_knows_nothing():
    gpt = GPT(GPTConfig())
    tokens = random_tokens(gpt, 4, 100)
    loss = F.cross_entropy(gpt(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(1024), abs=0.1)


def test_shapes_and_head(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 3, 7)
    hidden = tiny_gpt.hidden(tokens)
    assert hidden.shape == (3, 7, 32)
    logits = tiny_gpt(tokens)
    assert logits.shape == (3, 7, 61)
    torch.testing.assert_close(logits, hidden @ tiny_gpt.embed_tokens.weight.T)  # tied
    torch.testing.assert_close(tiny_gpt.logits(hidden[:, -1]), logits[:, -1])


def test_no_token_sees_the_future(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 2, 20)
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 61
    one, other = tiny_gpt(tokens), tiny_gpt(changed)
    torch.testing.assert_close(one[:, :12], other[:, :12], atol=1e-5, rtol=0)
    assert (one[:, 12:] - other[:, 12:]).abs().amax(-1).min() > 0.1


def test_every_earlier_token_is_seen(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 1, 20)
    seen = []
    for place in range(20):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 61
        difference = (tiny_gpt.hidden(changed) - tiny_gpt.hidden(tokens))[0, -1]
        seen.append(difference.abs().max().item() > 1e-4)
    assert all(seen)


def test_attention_weights_of_every_layer(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 2, 9)
    for layer in range(2):
        weights = tiny_gpt.attention_weights(tokens, layer)
        assert weights.shape == (2, 4, 9, 9) and not weights.requires_grad
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    first, second = (tiny_gpt.attention_weights(tokens, layer) for layer in range(2))
    assert (first - second).abs().max() > 0.01


# ------------------------------------------------------------------ packed documents


def test_packed_documents_equal_each_document_alone(tiny_gpt):
    lengths = [5, 1, 9, 4]
    tokens = random_tokens(tiny_gpt, 2, sum(lengths) + 3)  # 3 columns of padding at the end
    ids = [number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * 3
    document_ids = torch.tensor([ids, ids[3:] + [7] * 3], device=tokens.device)
    packed = tiny_gpt.hidden(tokens, document_ids=document_ids)
    assert packed.isfinite().all()
    start = 0
    for length in lengths:
        alone = tiny_gpt.hidden(tokens[:1, start : start + length])
        torch.testing.assert_close(packed[:1, start : start + length], alone, atol=1e-5, rtol=1e-5)
        start += length
    logits = tiny_gpt(tokens, document_ids=document_ids)
    torch.testing.assert_close(logits, tiny_gpt.logits(packed))


def test_a_packed_document_changes_nothing_in_its_neighbours(tiny_gpt):
    """Neither values nor gradients leak from one document into another."""
    tokens = random_tokens(tiny_gpt, 1, 12)
    document_ids = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3], device=tokens.device)
    seen = []
    hook = tiny_gpt.embed_tokens.register_forward_hook(lambda _, __, out: seen.append(out))
    hidden = tiny_gpt.hidden(tokens, document_ids=document_ids)
    hook.remove()
    (gradient,) = torch.autograd.grad(hidden[0, 5:9].sin().sum(), seen[0])
    assert (gradient[0, 5:9] != 0).any(dim=-1).all()
    assert not gradient[0, :5].any() and not gradient[0, 9:].any()


def test_one_document_is_the_plain_forward(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 2, 10)
    plain = tiny_gpt.hidden(tokens)
    packed = tiny_gpt.hidden(tokens, document_ids=torch.zeros_like(tokens))
    torch.testing.assert_close(plain, packed, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ the cache


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 5], [1, 11]])
def test_cached_logits_equal_uncached(tiny_gpt, pieces):
    """Whole, token by token, or in pieces: is_causal with a cache would break all but the first."""
    tokens = random_tokens(tiny_gpt, 3, 12)
    cache = KVCache(tiny_gpt.config, 3, 12, device=tiny_gpt.device)
    logits = [tiny_gpt(piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(logits, dim=1), tiny_gpt(tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pieces", [[1, 1, 1], [3]])
def test_left_padding_changes_nothing(tiny_gpt, pieces):
    """A short prompt beside a long one: the same logits as alone, whatever stands in the padding"""
    tokens = random_tokens(tiny_gpt, 2, 10)
    valid = torch.ones(2, 10, dtype=torch.bool, device=tokens.device)
    valid[1, :6] = False  # row 1 has 4 real tokens
    more = random_tokens(tiny_gpt, 2, 3, seed=1)
    results = []
    for filler in (0, 17):
        padded = torch.where(valid, tokens, filler)
        cache = KVCache(tiny_gpt.config, 2, 13, device=tiny_gpt.device)
        first = tiny_gpt.hidden(padded, cache=cache, valid=valid)
        rest = [tiny_gpt.hidden(piece, cache=cache) for piece in more.split(pieces, dim=1)]
        results.append(torch.cat([first, *rest], dim=1))
        assert results[-1].isfinite().all()
    alone = tiny_gpt.hidden(torch.cat([tokens[1:, 6:], more[1:]], dim=1))
    for result in results:
        torch.testing.assert_close(result[1:, 6:], alone, atol=1e-4, rtol=0)
        beside = tiny_gpt.hidden(torch.cat([tokens, more], dim=1))[:1]
        torch.testing.assert_close(result[:1], beside, atol=1e-4, rtol=0)
    uncached = tiny_gpt.hidden(tokens, valid=valid)
    torch.testing.assert_close(uncached[1, 6:], alone[0, :4], atol=1e-4, rtol=0)


def test_every_token_sees_at_least_itself(device):
    """A softmax over nothing is NaN on some devices, and 0 * NaN would spread from the padding."""
    tokens = torch.zeros(2, 4, dtype=torch.int64, device=device)
    valid = torch.tensor([[True] * 4, [False, False, True, True]], device=device)
    mask = attention_mask(tokens, None, None, valid)
    assert mask.expand(2, 1, 4, 4)[1, 0].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]
    document_ids = torch.tensor([[0, 0, 1, -1], [2, 3, -1, -1]], device=device)
    mask = attention_mask(tokens, None, document_ids, None)
    assert mask.diagonal(dim1=-2, dim2=-1).all()
    assert attention_mask(tokens, None, None, None) is None  # the plain rule needs no mask


@pytest.mark.parametrize("kept", [[3, 1], [0, 1, 2, 3], [0, 3], [False, True, False, True]])
def test_keep_rows(tiny_gpt, kept):
    tokens = random_tokens(tiny_gpt, 4, 8)
    valid = torch.ones(4, 8, dtype=torch.bool, device=tokens.device)
    valid[1, :3] = False
    cache = KVCache(tiny_gpt.config, 4, 10, device=tiny_gpt.device)
    tiny_gpt.hidden(tokens, cache=cache, valid=valid)
    rows = torch.tensor(kept, device=tokens.device)
    cache.keep(rows)
    indices = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
    assert cache.rows == len(indices)
    new = random_tokens(tiny_gpt, 4, 1, seed=1)
    logits = tiny_gpt(new[indices], cache=cache)
    for place, row in enumerate(indices.tolist()):
        real = tokens[row : row + 1][:, valid[row]]
        alone = tiny_gpt(torch.cat([real, new[row : row + 1]], dim=1))[:, -1:]
        torch.testing.assert_close(logits[place : place + 1], alone, atol=1e-4, rtol=0)


def test_a_cache_without_padding_needs_no_mask(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 2, 5)
    cache = KVCache(tiny_gpt.config, 2, 8, device=tiny_gpt.device)
    tiny_gpt.hidden(tokens, cache=cache, valid=torch.ones_like(tokens, dtype=torch.bool))
    assert not cache.ragged


# ------------------------------------------------------------------ the caller's mistakes


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"layers": 1.5}, "1.5"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3"),
        ({"channels": 132}, "132"),
        ({"rope_base": -1.0}, "-1.0"),
        ({"stop_ids": (1024,)}, "1024"),
        ({"pad_id": -1}, "-1"),
        ({"stop_ids": (0, 5), "pad_id": 0}, "pad_id=0"),
    ],
)
def test_impossible_configs(changes, words):
    with pytest.raises(ValueError, match=words):
        GPTConfig(**changes)


def test_stop_ids_of_a_file_become_a_tuple():
    assert GPTConfig(stop_ids=[3, 4]).stop_ids == (3, 4)


@pytest.mark.parametrize(
    "tokens, words",
    [
        (torch.zeros(5, dtype=torch.int64), "5"),
        (torch.zeros(1, 5), "float32"),
        (torch.zeros(1, 65, dtype=torch.int64), "65 tokens"),
        (torch.full((1, 5), 61), "61"),
        (torch.full((1, 5), -1), "-1"),
    ],
)
def test_impossible_tokens(tiny_gpt, tokens, words):
    with pytest.raises(ValueError, match=words):
        tiny_gpt(tokens.to(tiny_gpt.device))


def test_impossible_combinations(tiny_gpt):
    tokens = random_tokens(tiny_gpt, 2, 5)
    cache = KVCache(tiny_gpt.config, 3, 8, device=tiny_gpt.device)
    with pytest.raises(ValueError, match="2 rows, the cache has 3"):
        tiny_gpt.hidden(tokens, cache=cache)
    with pytest.raises(ValueError, match="document_ids"):
        tiny_gpt.hidden(tokens, document_ids=tokens[:, :4])
    with pytest.raises(ValueError, match="packed rows"):
        tiny_gpt.hidden(tokens, document_ids=tokens, valid=tokens > 0)
    with pytest.raises(ValueError, match="bool"):
        tiny_gpt.hidden(tokens, valid=tokens)
    with pytest.raises(ValueError, match="layer must be in 0 .. 1, got 2"):
        tiny_gpt.attention_weights(tokens, 2)
    with pytest.raises(ValueError, match="room for 4 tokens, not for 5"):
        small = KVCache(tiny_gpt.config, 2, 4, device=tiny_gpt.device)
        tiny_gpt.hidden(tokens, cache=small)
    with pytest.raises(ValueError, match="cannot keep 4 rows"):
        cache.keep(torch.arange(4, device=tokens.device))


def test_a_model_is_made_without_a_heavy_import():
    """On the meta device torch has no numbers to draw with: it would load sympy, 70 MB, instead."""
    program = (
        "import sys, kittenllm, torch\n"
        "from kittenllm.gpt import GPT, GPTConfig\n"
        "with torch.device('meta'):\n"
        "    gpt = GPT(GPTConfig())\n"
        "assert gpt.cos.device.type == 'cpu' and gpt.embed_tokens.weight.is_meta\n"
        "GPT(GPTConfig())\n"
        "assert 'sympy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
