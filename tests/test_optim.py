"""Muon against its formula and against torch's own; the schedule by hand; resuming bit for bit."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kittenllm.optim import (
    Muon,
    MuonAdamW,
    learning_rate_scale,
    make_optimizer,
    orthogonalize,
)


def random_matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ Muon


@pytest.mark.parametrize("shape", [(3, 20, 50), (3, 50, 20), (1, 8, 8)])
def test_orthogonalize_makes_all_directions_equally_strong(device, shape):
    matrices = random_matrices(*shape).to(device)
    before = torch.linalg.svdvals(matrices.cpu())
    after = torch.linalg.svdvals(orthogonalize(matrices).cpu())
    assert before.max() / before.min() > 2
    assert after.min() > 0.65 and after.max() < 1.2


def test_orthogonalize_keeps_the_directions():
    """U S V' becomes U T V' with T near 1: the diagonal of U' X V is T, the rest is 0."""
    matrix = random_matrices(6, 9)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalize(matrix[None])[0] @ right.T
    torch.testing.assert_close(turned, turned.diagonal().diag(), atol=1e-4, rtol=0)
    assert turned.diagonal().min() > 0.65


def test_orthogonalize_by_hand():
    """A 1 x 2 matrix has one singular value; five steps of the polynomial move it from 1."""
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    out = orthogonalize(torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(out, torch.tensor([[[0.6 * value, 0.8 * value]]]))


def test_each_matrix_of_a_batch_is_on_its_own():
    matrices = random_matrices(3, 5, 7) * torch.tensor([1.0, 1e-3, 1e3])[:, None, None]
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, atol=1e-5, rtol=0)
    zero = orthogonalize(torch.zeros(1, 4, 4))
    assert torch.equal(zero, torch.zeros(1, 4, 4))  # and not NaN


def test_muon_equals_the_one_in_torch(device):
    """torch.optim.Muon computes in bfloat16, with about 3 digits; an update is 0.02 per number."""
    shapes = [(8, 16), (16, 8), (8, 16), (12, 12)]
    ours = [nn.Parameter(random_matrices(*s, seed=i).to(device)) for i, s in enumerate(shapes)]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    start = [parameter.detach().clone() for parameter in ours]
    muon = Muon(ours, lr=0.1, weight_decay=0.5)
    oracle = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = random_matrices(*one.shape, seed=100 * step + number).to(device)
            one.grad, other.grad = gradient.clone(), gradient.clone()
        muon.step()
        oracle.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        moved = (other - before).norm()
        assert (one - other).norm() < 0.02 * moved


def test_one_step_of_muon_by_hand():
    """From zero momentum the update's direction is the gradient's: lr * 0.2 * sqrt(max) * NS."""
    matrix = nn.Parameter(torch.ones(2, 8))
    matrix.grad = random_matrices(2, 8)
    expected = 1 * (1 - 0.01 * 0.1)  # the decay
    expected = expected - 0.01 * 0.2 * math.sqrt(8) * orthogonalize(matrix.grad[None])[0]
    Muon([matrix], lr=0.01, weight_decay=0.1).step()
    torch.testing.assert_close(matrix.detach(), expected)


def test_the_size_of_the_gradient_does_not_matter():
    one, other = (nn.Parameter(torch.zeros(4, 6)) for _ in range(2))
    one.grad = random_matrices(4, 6)
    other.grad = 1000 * one.grad
    for matrix in (one, other):
        Muon([matrix], lr=0.1).step()
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_muon_is_for_matrices():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


# ------------------------------------------------------------------ both together


def loss_of(gpt, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(61, (4, 16), generator=generator).to(gpt.device)
    return F.cross_entropy(gpt(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(gpt, optimizer: MuonAdamW, seeds: range) -> None:
    for seed in seeds:
        optimizer.set_scale(learning_rate_scale(seed, 20))
        loss_of(gpt, seed).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_who_gets_what(tiny_gpt):
    optimizer = make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-2, weight_decay=0.1)
    names = {parameter: name for name, parameter in tiny_gpt.named_parameters()}
    groups = {name: part.param_groups[0] for name, part in optimizer.parts.items()}
    muon = {names[parameter] for parameter in groups["muon"]["params"]}
    adamw = {names[parameter] for parameter in groups["adamw"]["params"]}
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert muon == {name for name in names.values() if name.endswith("_proj.weight")}
    assert "embed_tokens.weight" in adamw and "layers.0.input_layernorm.weight" in adamw
    assert (groups["muon"]["lr"], groups["adamw"]["lr"]) == (1e-3, 1e-2)
    assert (groups["muon"]["weight_decay"], groups["adamw"]["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_stay(tiny_gpt):
    for parameter in tiny_gpt.parameters():
        parameter.requires_grad = False
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_optimizer(tiny_gpt, matrix_lr=0.1, other_lr=0.1)
    tiny_gpt.norm.weight.requires_grad = True  # no matrix at all: Muon is left out
    before = {name: weight.clone() for name, weight in tiny_gpt.state_dict().items()}
    optimizer = make_optimizer(tiny_gpt, matrix_lr=0.1, other_lr=0.1)
    train(tiny_gpt, optimizer, range(2))
    changed = [n for n, weight in tiny_gpt.state_dict().items() if not weight.equal(before[n])]
    assert changed == ["norm.weight"]


def test_set_scale_multiplies_the_base_rates(tiny_gpt):
    optimizer = make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-2)
    for scale in (0.5, 0.1, 1.0):  # not a product of all scales so far
        optimizer.set_scale(scale)
        rates = [part.param_groups[0]["lr"] for part in optimizer.parts.values()]
        assert rates == pytest.approx([1e-3 * scale, 1e-2 * scale])
    before = {name: weight.clone() for name, weight in tiny_gpt.state_dict().items()}
    optimizer.set_scale(0.0)
    loss_of(tiny_gpt, 0).backward()
    optimizer.step()
    assert all(weight.equal(before[name]) for name, weight in tiny_gpt.state_dict().items())
    with pytest.raises(ValueError, match="-1"):
        optimizer.set_scale(-1)


def test_it_learns(tiny_gpt):
    optimizer = make_optimizer(tiny_gpt, matrix_lr=5e-3, other_lr=6e-3)
    before = loss_of(tiny_gpt, 0).item()
    for _ in range(20):
        loss_of(tiny_gpt, 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss_of(tiny_gpt, 0).item() < before - 1.0


def test_a_restored_optimizer_goes_on_bit_for_bit(tiny_gpt, tmp_path):
    optimizer = make_optimizer(tiny_gpt, matrix_lr=5e-3, other_lr=6e-3, weight_decay=0.1)
    train(tiny_gpt, optimizer, range(3))
    path = tmp_path / "state.pt"
    torch.save({"gpt": tiny_gpt.state_dict(), "optimizer": optimizer.state_dict()}, path)
    train(tiny_gpt, optimizer, range(3, 6))
    straight = {name: weight.clone() for name, weight in tiny_gpt.state_dict().items()}

    saved = torch.load(path, weights_only=True, map_location=tiny_gpt.device)
    tiny_gpt.load_state_dict(saved["gpt"])
    resumed = make_optimizer(tiny_gpt, matrix_lr=5e-3, other_lr=6e-3, weight_decay=0.1)
    resumed.load_state_dict(saved["optimizer"])
    train(tiny_gpt, resumed, range(3, 6))
    for name, weight in tiny_gpt.state_dict().items():
        assert torch.equal(weight, straight[name]), name


def test_a_foreign_state_is_refused(tiny_gpt):
    optimizer = make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-3)
    with pytest.raises(ValueError, match="adamw"):
        optimizer.load_state_dict({"muon": optimizer.state_dict()["muon"]})


def test_without_a_rate_for_muon_adamw_moves_the_matrices_too(tiny_gpt):
    """As LoRA is usually trained. AdamW's first step moves each number by its rate."""
    optimizer = make_optimizer(tiny_gpt, matrix_lr=None, other_lr=1e-3)
    assert list(optimizer.parts) == ["adamw"]
    before = [p.detach().clone() for p in tiny_gpt.parameters()]
    for parameter in tiny_gpt.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for old, new in zip(before, tiny_gpt.parameters(), strict=True):
        torch.testing.assert_close(new, old - 1e-3)


@pytest.mark.parametrize("wrong", ["matrix_lr", "other_lr", "weight_decay"])
def test_negative_numbers_are_refused(tiny_gpt, wrong):
    numbers = {"matrix_lr": 0.1, "other_lr": 0.1, "weight_decay": 0.0, wrong: -0.5}
    with pytest.raises(ValueError, match=f"{wrong}.*-0.5"):
        make_optimizer(tiny_gpt, **numbers)


# ------------------------------------------------------------------ the schedule


def test_the_trapezoid_by_hand():
    """10 steps: up in 0.4 * 10 = 4 steps, level, down in 0.4 * 10 = 4 steps."""
    scales = [learning_rate_scale(step, 10, warmup=0.4, cooldown=0.4) for step in range(10)]
    assert scales == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4])


def test_the_trapezoid_ends_at_final():
    scales = [
        learning_rate_scale(step, 8, warmup=0.0, cooldown=0.5, final=0.2) for step in range(8)
    ]
    assert scales == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4])  # the next would be 0.2


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_no_step_is_wasted(total):
    scales = [learning_rate_scale(step, total) for step in range(total)]
    assert all(0 < scale <= 1 for scale in scales)
    assert scales == sorted(scales[: total // 2]) + sorted(scales[total // 2 :], reverse=True)


def test_level_without_warmup_and_cooldown():
    assert {learning_rate_scale(step, 5, warmup=0, cooldown=0) for step in range(5)} == {1.0}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"step": 10, "total_steps": 10}, "step"),
        ({"step": -1, "total_steps": 10}, "-1"),
        ({"step": 0, "total_steps": 0}, "total_steps"),
        ({"step": 0, "total_steps": 10, "warmup": 0.6}, "0.6"),
        ({"step": 0, "total_steps": 10, "cooldown": -0.1}, "-0.1"),
    ],
)
def test_impossible_schedules(arguments, words):
    with pytest.raises(ValueError, match=words):
        learning_rate_scale(**arguments)
