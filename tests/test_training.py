"""Plumbing of the training loops: the order of rows, one optimizer step, shares of a loss."""

import pytest
import torch
from torch.testing import assert_close

from kittenllm.logprobs import average
from kittenllm.training import (
    Means,
    Stopwatch,
    apply_gradients,
    loss_shares,
    minibatches,
    rows_between,
    rows_of_step,
)


def test_every_row_comes_once_before_any_comes_twice():
    rows = rows_between(10, 0, 30, seed=1).tolist()
    for epoch in range(3):
        assert sorted(rows[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert rows[:10] != rows[10:20] != rows[20:30]


def test_the_order_is_a_function_of_seed_and_position():
    rows = rows_between(10, 0, 30, seed=1)
    for start, stop in ((0, 4), (4, 4), (7, 23), (29, 30)):
        assert torch.equal(rows_between(10, start, stop, seed=1), rows[start:stop])
    assert not torch.equal(rows_between(10, 0, 30, seed=2), rows)


def test_neighbouring_seeds_do_not_share_epochs():
    first_epochs = {tuple(rows_between(20, 0, 20, seed=seed).tolist()) for seed in range(5)}
    second_epochs = {tuple(rows_between(20, 20, 40, seed=seed).tolist()) for seed in range(5)}
    assert len(first_epochs | second_epochs) == 10


def test_rows_of_step_survive_a_restored_generator():
    generator = torch.Generator().manual_seed(5)
    steps = [rows_of_step(7, step, 3, generator) for step in range(6)]
    torch.rand(100, generator=generator)  # other draws do not matter
    restored = torch.Generator()
    restored.set_state(generator.get_state())
    assert [rows_of_step(7, step, 3, restored) for step in range(6)] == steps
    assert sorted(sum(steps, [])[:7]) == list(range(7))


@pytest.mark.parametrize("count, start, stop", [(0, 0, 1), (5, -1, 2), (5, 3, 2)])
def test_rows_between_refuses(count, start, stop):
    with pytest.raises(ValueError, match="got"):
        rows_between(count, start, stop, seed=0)


def test_minibatches_hold_every_row_once_per_epoch():
    parts = list(minibatches(7, 2, 3, torch.Generator().manual_seed(0)))
    assert len(parts) == 6
    for epoch in (parts[:3], parts[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(7))


def test_apply_gradients_shortens_steps_and_forgets():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert apply_gradients(model, optimizer, 1.0) == pytest.approx(5.0)  # the length before
    assert_close(model.weight.detach(), torch.tensor([[-0.6, -0.8]]))  # a step of length 1
    assert model.weight.grad is None
    model.weight.grad = torch.tensor([[0.3, 0.4]])
    apply_gradients(model, optimizer, 1.0)
    assert_close(model.weight.detach(), torch.tensor([[-0.9, -1.2]]))  # a short one stays as it is


def test_a_nan_gradient_stops_the_run_and_leaves_the_weights():
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[float("nan"), 1.0]])
    with pytest.raises(RuntimeError, match="non-finite"):
        apply_gradients(model, torch.optim.SGD(model.parameters(), lr=1.0), 1.0)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("normalize", ["reply", "token", "constant"])
@pytest.mark.parametrize("max_tokens", [1, 6, 1000])
def test_shares_of_the_parts_add_up_to_the_loss_over_all_rows(normalize, max_tokens):
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    mask = mask.bool()
    losses = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    losses[[1, 4]] = 0.0  # these rows add nothing, so they may be left out
    rows, useful = torch.tensor([0, 1, 2, 4]), torch.tensor([0, 2])  # row 3 is another minibatch

    whole = average(losses[rows], mask[rows], normalize=normalize, max_tokens=9)
    parts = list(loss_shares(mask, rows, useful, normalize, max_tokens))
    total = sum(
        share * average(losses[part], mask[part], normalize=normalize, max_tokens=9)
        for part, share in parts
    )
    assert_close(total, whole)
    naive = average(losses[useful], mask[useful], normalize=normalize, max_tokens=9)
    assert (naive - whole).abs() > 0.05 * whole.abs()  # leaving rows out unscaled is another loss


def test_means_are_weighted_and_hold_no_gradient():
    means = Means("loss", "never")
    parameter = torch.tensor(2.0, requires_grad=True)
    means.add({"loss": parameter * 1.0}, weight=1)
    means.add({"loss": 6.0, "extra": torch.tensor(1)}, weight=3)
    assert means.means() == {"loss": 5.0, "never": 0.0, "extra": 1.0}


def test_the_stopwatch_books_every_second_once():
    watch = Stopwatch()
    watch.lap("sampling")
    watch.lap("training")
    seconds = watch.seconds
    assert set(seconds) == {"seconds", "seconds_sampling", "seconds_training"}
    assert seconds["seconds"] == seconds["seconds_sampling"] + seconds["seconds_training"]
