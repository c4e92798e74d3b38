"""LoRA: nothing changes at first, only the detours learn, and merging changes nothing either."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kittenllm.batches import pack
from kittenllm.gpt import GPT, SIZES, GPTConfig
from kittenllm.lora import LoRALinear, add_lora, merge_lora, trained_parameters
from kittenllm.optim import make_optimizer
from kittenllm.sampling import generate
from kittenllm.sft import SFTConfig, train_sft

TOKENS = torch.arange(40).view(2, 20) % 61
# all matrices of a block of `tiny_gpt`, as (outputs, inputs)
SHAPES = {
    "q_proj": (32, 32),
    "k_proj": (16, 32),
    "v_proj": (16, 32),
    "o_proj": (32, 32),
    "gate_proj": (80, 32),
    "up_proj": (80, 32),
    "down_proj": (32, 80),
}


def dice(device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def adapted(gpt: GPT, rank: int = 4, alpha: float = 8.0) -> GPT:
    """A copy with detours that already lead somewhere."""
    gpt = add_lora(copy.deepcopy(gpt), rank=rank, alpha=alpha, generator=dice(gpt.device))
    random = dice(gpt.device, 1)
    for module in gpt.modules():
        if isinstance(module, LoRALinear):
            noise = torch.randn(module.B.shape, generator=random, device=gpt.device)
            module.B.data.copy_(0.1 * noise)
    return gpt


def test_by_hand():
    """W = [[1, 2], [3, 4]], A = [[1, -1]], B = [[10], [20]], alpha / r = 3 / 1.

    x = (5, 2): W x = (9, 23); A x = 3; B A x = (30, 60); y = (9 + 90, 23 + 180).
    """
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    detour = LoRALinear(linear, rank=1, alpha=3.0, generator=dice("cpu"))
    detour.A.data = torch.tensor([[1.0, -1.0]])
    detour.B.data = torch.tensor([[10.0], [20.0]])
    assert_close(detour(torch.tensor([5.0, 2.0])), torch.tensor([99.0, 203.0]))
    assert_close(detour.merged().weight, torch.tensor([[31.0, -28.0], [63.0, -56.0]]))


def test_nothing_changes_at_first(tiny_gpt, device):
    before = tiny_gpt(TOKENS.to(device))
    gpt = add_lora(tiny_gpt, rank=4, alpha=8.0, generator=dice(device))
    assert gpt is tiny_gpt
    assert torch.equal(gpt(TOKENS.to(device)), before)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_merged_equals_unmerged(tiny_gpt, device, rank):
    gpt = adapted(tiny_gpt, rank, alpha=2.0 * rank)
    before = gpt(TOKENS.to(device)).detach()
    assert (before - tiny_gpt(TOKENS.to(device))).abs().max() > 0.1  # the detours do something
    merged = merge_lora(gpt)
    after = merged(TOKENS.to(device))
    assert_close(after, before, atol=1e-5, rtol=0)
    assert not [module for module in merged.modules() if isinstance(module, LoRALinear)]


def test_merged_equals_unmerged_at_the_size_of_our_kittens():
    """With logits as large as those of a trained kitten the difference stays below 1e-5."""
    config = GPTConfig(**SIZES["small"])
    gpt = GPT(config, generator=dice("cpu"))
    add_lora(gpt, rank=16, alpha=16.0, generator=dice("cpu"))
    for module in gpt.modules():
        if isinstance(module, LoRALinear):
            module.B.data.normal_(std=0.02, generator=dice("cpu", 2))
    tokens = torch.arange(100).view(2, 50)
    with torch.no_grad():
        before = gpt(tokens)
        assert_close(merge_lora(gpt)(tokens), before, atol=1e-5, rtol=0)


def test_a_merged_model_is_an_ordinary_one(tiny_gpt, device):
    """It loads into a GPT, and samples with a cache as the model with detours does."""
    gpt = adapted(tiny_gpt)
    prompts = [[5, 6, 7], [8, 9]]
    with_detours = generate(gpt, prompts, max_new_tokens=12, temperature=0, generator=None)
    merged = merge_lora(gpt)
    assert merged.state_dict().keys() == tiny_gpt.state_dict().keys()
    fresh = GPT(tiny_gpt.config).to(device)
    fresh.load_state_dict(merged.state_dict())
    without = generate(fresh, prompts, max_new_tokens=12, temperature=0, generator=None)
    assert torch.equal(with_detours.tokens, without.tokens)
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_merging_does_not_touch_the_first_model(tiny_gpt, device):
    """The weight is a copy: whoever keeps the old model keeps its numbers."""
    old = copy.deepcopy(tiny_gpt.state_dict())
    kept = tiny_gpt.layers[0].mlp.up_proj
    add_lora(tiny_gpt, rank=2, alpha=2.0, generator=dice(device))
    merge_lora(tiny_gpt)
    assert torch.equal(kept.weight, old["layers.0.mlp.up_proj.weight"])


def test_where_the_detours_are(tiny_gpt, device):
    """Around every matrix of every block; embeddings and norms are frozen."""
    gpt = add_lora(tiny_gpt, rank=3, alpha=3.0, generator=dice(device))
    shapes = {name: tuple(p.shape) for name, p in gpt.named_parameters() if p.requires_grad}
    expected = {}
    for layer in (0, 1):
        for name, (outputs, inputs) in SHAPES.items():
            part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            expected[f"layers.{layer}.{part}.{name}.A"] = (3, inputs)
            expected[f"layers.{layer}.{part}.{name}.B"] = (outputs, 3)
    assert shapes == expected
    assert trained_parameters(gpt) == 2 * sum(3 * (a + b) for a, b in SHAPES.values())
    assert not gpt.embed_tokens.weight.requires_grad
    assert not gpt.norm.weight.requires_grad


def test_rank_16_trains_a_sixth_of_our_kitten():
    gpt = GPT(GPTConfig(**SIZES["small"]))
    whole = trained_parameters(gpt)
    assert whole == gpt.parameter_count
    add_lora(gpt, rank=16, alpha=16.0, generator=dice("cpu"))
    assert trained_parameters(gpt) == 3 * 16 * (256 + 192 + 192 + 256 + 3 * 480)
    assert trained_parameters(gpt) / whole < 0.2


def trained(gpt: GPT, steps: int) -> list[float]:
    rows = pack([([5, 6, 7, 8, 9, 1], [False] + [True] * 5)], row_length=8, pad_id=0)
    config = SFTConfig(steps=steps, rows_per_step=2, matrix_lr=1e-2, other_lr=1e-2)
    optimizer = make_optimizer(gpt, matrix_lr=1e-2, other_lr=1e-2)
    training = train_sft(gpt, rows, config=config, optimizer=optimizer, generator=dice("cpu"))
    return [metrics["loss"] for metrics in training]


def test_only_the_detours_learn(tiny_gpt, device):
    old = copy.deepcopy(tiny_gpt.state_dict())
    gpt = add_lora(tiny_gpt, rank=4, alpha=4.0, generator=dice(device))
    losses = trained(gpt, steps=30)
    assert losses[-1] < losses[0] - 1
    new = gpt.state_dict()
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert all(new[name].abs().max() > 0 for name in new if name.endswith(".B"))


def test_a_detour_has_the_rank_it_was_given(tiny_gpt, device):
    """What training added to a matrix has two directions, not more."""
    old = copy.deepcopy(tiny_gpt.state_dict())
    gpt = add_lora(tiny_gpt, rank=2, alpha=2.0, generator=dice(device))
    trained(gpt, steps=20)
    new = merge_lora(gpt).state_dict()
    for name, tensor in old.items():
        if "_proj" in name:
            strengths = torch.linalg.svdvals((new[name] - tensor).cpu())
            assert strengths[1] > 1e-4, name
            assert strengths[2:].max() < 1e-5, name


def test_alpha_is_how_loud_the_detour_is(tiny_gpt, device):
    """Twice the alpha, twice the addition, whatever the rank."""
    quiet, loud = adapted(tiny_gpt, 4, alpha=4.0), adapted(tiny_gpt, 4, alpha=8.0)
    x = torch.randn(3, 32, generator=dice(device), device=device)
    weight = tiny_gpt.layers[0].self_attn.q_proj
    with torch.no_grad():
        added = [gpt.layers[0].self_attn.q_proj(x) - weight(x) for gpt in (quiet, loud)]
    assert_close(added[1], 2 * added[0])


def test_the_same_dice_give_the_same_detours(tiny_gpt, device):
    state = torch.random.get_rng_state()
    first, second = (
        add_lora(copy.deepcopy(tiny_gpt), rank=2, alpha=2.0, generator=dice(device, 7))
        for _ in range(2)
    )
    other = add_lora(copy.deepcopy(tiny_gpt), rank=2, alpha=2.0, generator=dice(device, 8))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert name[-2:] != ".A" or not torch.equal(tensor, other.state_dict()[name])
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own dice were not touched


@pytest.mark.parametrize(
    "rank, message",
    [
        (0, "rank must be a whole number of at least 1, got 0"),
        (-1, "got -1"),
        (1.5, "got 1.5"),
        (17, r"rank 17 is above the matrix: \(16, 32\) has at most rank 16"),
        (1000, "rank 1000 is above the matrix"),
    ],
)
def test_impossible_ranks_are_refused_and_nothing_is_changed(tiny_gpt, device, rank, message):
    with pytest.raises(ValueError, match=message):
        add_lora(tiny_gpt, rank=rank, alpha=1.0, generator=dice(device))
    assert not [module for module in tiny_gpt.modules() if isinstance(module, LoRALinear)]
    assert all(parameter.requires_grad for parameter in tiny_gpt.parameters())


def test_the_full_rank_is_allowed(tiny_gpt, device):
    add_lora(tiny_gpt, rank=16, alpha=1.0, generator=dice(device))
    assert tiny_gpt.layers[0].self_attn.k_proj.B.shape == (16, 16)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_alphas_are_refused(tiny_gpt, device, alpha):
    with pytest.raises(ValueError, match="alpha"):
        add_lora(tiny_gpt, rank=2, alpha=alpha, generator=dice(device))
    assert all(parameter.requires_grad for parameter in tiny_gpt.parameters())


def test_detours_are_not_built_twice_nor_merged_twice(tiny_gpt, device):
    with pytest.raises(ValueError, match="no detours"):
        merge_lora(tiny_gpt)
    add_lora(tiny_gpt, rank=2, alpha=2.0, generator=dice(device))
    with pytest.raises(ValueError, match="detours already"):
        add_lora(tiny_gpt, rank=2, alpha=2.0, generator=dice(device))
    merge_lora(tiny_gpt)
    with pytest.raises(ValueError, match="no detours"):
        merge_lora(tiny_gpt)


def test_a_bias_by_hand():
    """As `test_by_hand`, with a bias of (100, 200): it is added once, before and after merging."""
    linear = nn.Linear(2, 2)
    linear.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    linear.bias.data = torch.tensor([100.0, 200.0])
    detour = LoRALinear(linear, rank=1, alpha=3.0, generator=dice("cpu"))
    detour.A.data = torch.tensor([[1.0, -1.0]])
    detour.B.data = torch.tensor([[10.0], [20.0]])
    x = torch.tensor([5.0, 2.0])
    assert_close(detour(x), torch.tensor([199.0, 403.0]))
    assert_close(detour.merged()(x), torch.tensor([199.0, 403.0]))
    assert torch.equal(detour.merged().bias, linear.bias)


def biased_gpt() -> GPT:
    """A small model with Qwen2's biases, which are not zero."""
    config = GPTConfig(
        vocab_size=61, context_length=32, layers=2, channels=32, heads=4, kv_heads=2,
        ffn_channels=80, qkv_bias=True,
    )  # fmt: skip
    gpt = GPT(config, generator=dice("cpu"))
    for name, parameter in gpt.named_parameters():
        if name.endswith(".bias"):
            parameter.data.normal_(generator=dice("cpu", 3))
    return gpt


def test_biases_stay_frozen_and_change_nothing_at_first_nor_when_merged():
    gpt = biased_gpt()
    before = gpt(TOKENS)
    old = copy.deepcopy(gpt.state_dict())
    add_lora(gpt, rank=4, alpha=4.0, generator=dice("cpu"))
    assert torch.equal(gpt(TOKENS), before)
    losses = trained(gpt, steps=20)
    assert losses[-1] < losses[0] - 0.1
    detoured = gpt(TOKENS).detach()
    assert (detoured - before).abs().max() > 0.01
    merged = merge_lora(gpt)
    assert_close(merged(TOKENS), detoured, atol=1e-4, rtol=1e-4)
    for name, tensor in merged.state_dict().items():
        assert not name.endswith(".bias") or torch.equal(tensor, old[name])
    assert merged.state_dict().keys() == old.keys()


def test_a_model_in_bfloat16_has_detours_in_float32():
    """A step of 1e-4 beside a 1 is lost in bfloat16, which has 8 bits for it."""
    gpt = biased_gpt().to(torch.bfloat16)
    before = gpt(TOKENS)
    add_lora(gpt, rank=4, alpha=4.0, generator=dice("cpu"))
    assert torch.equal(gpt(TOKENS), before) and before.dtype == torch.bfloat16
    kinds = {p.dtype for p in gpt.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    A = gpt.layers[0].mlp.up_proj.A
    A.data += 1e-4
    assert not torch.equal(A.data, A.data - 1e-4)
    losses = trained(gpt, steps=20)
    assert losses[-1] < losses[0] - 0.1
    assert {p.dtype for p in merge_lora(gpt).parameters()} == {torch.bfloat16}
