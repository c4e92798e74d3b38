"""What all losses promise, in one place, for each of them.

Padding, row order and anything at masked-out places, even NaN, change neither loss nor gradient nor
metrics. Inputs are never changed. Metrics are detached single numbers. The dtype is kept. Old,
reference and advantage inputs get no gradient. What is wrong is a ValueError with the value in it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from kittenllm import dpo, grpo, logprobs, orpo, ppo, reward_model, rewards, sft
from kittenllm.logprobs import masked_mean

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

B, T, V = 4, 6, 7
NAN = float("nan")


@dataclass
class Case:
    """One function of the contract with valid inputs.

    `slow` gives the loss in plain Python, number by number. `learnt` names the inputs that get a
    gradient, `masked` those whose values outside the mask never matter. `settings` are the
    keyword-only hyper-parameters.
    """

    function: Callable
    slow: Callable[..., float]
    inputs: dict[str, torch.Tensor]
    learnt: tuple[str, ...]
    settings: dict = field(default_factory=dict)
    masked: tuple[str, ...] = ()

    def run(self, inputs=None):
        return self.function(*(inputs or self.inputs).values(), **self.settings)

    def expected(self) -> torch.Tensor:
        lists = [tensor.tolist() for tensor in self.inputs.values()]
        return torch.tensor(self.slow(*lists, **self.settings), dtype=torch.float64)


# ------------------------------------------------- the losses once more, in plain Python


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def surprise(margin: float) -> float:
    """-log sigmoid(margin)"""
    return math.log1p(math.exp(-margin))


def slow_sft(logits, tokens, loss_mask):
    losses = []
    for row, tokens_of_row, mask_of_row in zip(logits, tokens, loss_mask, strict=True):
        for t in range(1, T):
            if mask_of_row[t]:
                everything = math.log(sum(math.exp(x) for x in row[t - 1]))
                losses.append(everything - row[t - 1][tokens_of_row[t]])
    return mean(losses)


def slow_clip(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The loss of every counted token, row by row."""
    rows = []
    for b in range(B):
        rows.append([])
        for t in range(T - 1):
            if mask[b][t]:
                ratio = math.exp(logprobs[b][t] - old_logprobs[b][t])
                clipped = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
                rows[b].append(-min(ratio * advantages[b][t], clipped * advantages[b][t]))
    return rows


def slow_policy(logprobs, old_logprobs, advantages, mask, *, clip_eps):
    return mean(sum(slow_clip(logprobs, old_logprobs, advantages, mask, clip_eps), []))


def slow_value(values, old_values, returns, mask, *, clip_eps):
    losses = []
    for b in range(B):
        for t in range(T - 1):
            if mask[b][t]:
                v, old, target = values[b][t], old_values[b][t], returns[b][t]
                clipped = old + min(max(v - old, -clip_eps), clip_eps)
                losses.append(max((v - target) ** 2, (clipped - target) ** 2) / 2)
    return mean(losses)


def slow_grpo(logprobs, old, advantages, mask, ref, *, kl_coef, normalize, max_tokens):
    rows = slow_clip(logprobs, old, [[a] * (T - 1) for a in advantages], mask)
    for b in range(B):
        log_r = [ref[b][t] - logprobs[b][t] for t in range(T - 1) if mask[b][t]]
        penalties = [kl_coef * (math.exp(x) - 1 - x) for x in log_r]
        rows[b] = [loss + kl for loss, kl in zip(rows[b], penalties, strict=True)]
    if normalize == "reply":
        return mean([mean(row) if row else 0.0 for row in rows])
    count = len(sum(rows, [])) if normalize == "token" else B * max_tokens
    return sum(map(sum, rows)) / count


def slow_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta, label_smoothing):
    losses = []
    for c, r, rc, rr in zip(chosen, rejected, ref_chosen, ref_rejected, strict=True):
        margin = beta * ((c - rc) - (r - rr))
        right, flipped = surprise(margin), surprise(-margin)
        losses.append((1 - label_smoothing) * right + label_smoothing * flipped)
    return mean(losses)


def slow_ipo(chosen, rejected, ref_chosen, ref_rejected, *, beta):
    four = zip(chosen, rejected, ref_chosen, ref_rejected, strict=True)
    return mean([((c - rc) - (r - rr) - 1 / (2 * beta)) ** 2 for c, r, rc, rr in four])


def slow_orpo(chosen, rejected, *, weight):
    losses = []
    for c, r in zip(chosen, rejected, strict=True):
        odds = [math.exp(x) / (1 - math.exp(x)) for x in (c, r)]
        losses.append(-c + weight * surprise(math.log(odds[0] / odds[1])))
    return mean(losses)


def slow_reward(chosen, rejected):
    return mean([surprise(c - r) for c, r in zip(chosen, rejected, strict=True)])


# ------------------------------------------------------------------------------- the cases


def frame(seed: int) -> torch.Tensor:
    """Log-probs in the action frame, (B, T-1)."""
    generator = torch.Generator().manual_seed(seed)
    return -0.2 - torch.rand(B, T - 1, generator=generator)


def response_mask() -> torch.Tensor:
    mask = torch.zeros(B, T - 1, dtype=torch.bool)
    mask[0, 1:4] = True
    mask[1, 2:5] = True
    mask[2, [0, 3]] = True  # a gap; row 3 is empty
    return mask


def rows(seed: int) -> torch.Tensor:
    """One number per row, (B,)."""
    return torch.randn(B, generator=torch.Generator().manual_seed(seed))


def sft_case() -> Case:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "logits": torch.randn(B, T, V, generator=generator),
        "tokens": torch.randint(V, (B, T), generator=generator),
        "loss_mask": torch.cat([torch.zeros(B, 1).bool(), response_mask()], dim=1),
    }
    return Case(sft.sft_loss, slow_sft, inputs, ("logits",))


def policy_case() -> Case:
    inputs = {
        "logprobs": frame(1),
        "old_logprobs": frame(2),
        "advantages": frame(3) + 0.7,
        "mask": response_mask(),
    }
    masked = ("logprobs", "old_logprobs", "advantages")
    return Case(ppo.ppo_policy_loss, slow_policy, inputs, ("logprobs",), {"clip_eps": 0.2}, masked)


def value_case() -> Case:
    inputs = {
        "values": frame(1),
        "old_values": frame(2),
        "returns": frame(3),
        "mask": response_mask(),
    }
    masked = ("values", "old_values", "returns")
    return Case(ppo.ppo_value_loss, slow_value, inputs, ("values",), {"clip_eps": 0.2}, masked)


def grpo_case(normalize: str) -> Case:
    inputs = {
        "logprobs": frame(1),
        "old_logprobs": frame(2),
        "advantages": rows(3),
        "mask": response_mask(),
        "ref_logprobs": frame(4),
    }

    def with_reference(logprobs, old_logprobs, advantages, mask, ref_logprobs, **settings):
        frames = (logprobs, old_logprobs, advantages, mask)
        return grpo.grpo_loss(*frames, ref_logprobs=ref_logprobs, **settings)

    settings = {"kl_coef": 0.1, "normalize": normalize, "max_tokens": 9}
    masked = ("logprobs", "old_logprobs", "ref_logprobs")
    return Case(with_reference, slow_grpo, inputs, ("logprobs",), settings, masked)


def preference_case(function: Callable, slow: Callable, settings: dict) -> Case:
    names = ("chosen_logprobs", "rejected_logprobs", "ref_chosen_logprobs", "ref_rejected_logprobs")
    inputs = {name: -5 + rows(seed) for seed, name in enumerate(names)}
    return Case(function, slow, inputs, names[:2], settings)


def orpo_case() -> Case:
    inputs = {"chosen_logprobs": -rows(1).abs() - 0.1, "rejected_logprobs": -rows(2).abs() - 0.1}
    return Case(orpo.orpo_loss, slow_orpo, inputs, tuple(inputs), {"weight": 0.5})


def bradley_terry_case() -> Case:
    inputs = {"chosen_rewards": rows(1), "rejected_rewards": rows(2)}
    return Case(reward_model.bradley_terry_loss, slow_reward, inputs, tuple(inputs))


LOSSES = {
    "sft": sft_case,
    "ppo policy": policy_case,
    "ppo value": value_case,
    "grpo reply": lambda: grpo_case("reply"),
    "grpo token": lambda: grpo_case("token"),
    "grpo constant": lambda: grpo_case("constant"),
    "dpo": lambda: preference_case(dpo.dpo_loss, slow_dpo, {"beta": 0.3, "label_smoothing": 0.1}),
    "ipo": lambda: preference_case(dpo.ipo_loss, slow_ipo, {"beta": 0.3}),
    "orpo": orpo_case,
    "bradley-terry": bradley_terry_case,
}
WITH_MASK = [name for name, make in LOSSES.items() if make().masked] + ["sft"]
package_only = pytest.mark.package_only


def loss_gradients_metrics(case: Case, inputs: dict[str, torch.Tensor]):
    """Loss, gradients of what is learnt, metrics; on inputs that are leaves of their own."""
    leaves = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    for name in case.learnt:
        leaves[name].requires_grad_()
    loss, metrics = case.run(leaves)
    learnt = [leaves[name] for name in case.learnt]
    gradients = [torch.zeros_like(leaf) for leaf in learnt]
    if loss.requires_grad:  # where nothing is counted, a plain 0 is right as well
        gradients = torch.autograd.grad(loss, learnt)
    return loss.detach(), dict(zip(case.learnt, gradients, strict=True)), metrics


def to(inputs: dict[str, torch.Tensor], where) -> dict[str, torch.Tensor]:
    """Float tensors in another dtype, or all tensors on another device."""
    if isinstance(where, torch.dtype):
        return {k: v.to(where) if v.is_floating_point() else v for k, v in inputs.items()}
    return {k: v.to(where) for k, v in inputs.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_the_examples_are_not_trivial(name, device):
    case = LOSSES[name]()
    loss, gradients, metrics = loss_gradients_metrics(case, to(case.inputs, device))
    assert loss.abs() > 1e-2
    assert_close(loss.cpu(), case.expected())
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients.values())
    assert metrics and all(torch.isfinite(number) for number in metrics.values())


@pytest.mark.parametrize("name", LOSSES)
def test_metrics_are_detached_single_numbers(name):
    case = LOSSES[name]()
    inputs = dict(case.inputs)
    for learnt in case.learnt:
        inputs[learnt] = inputs[learnt].clone().requires_grad_()
    loss, metrics = case.run(inputs)
    assert loss.dim() == 0 and loss.requires_grad
    assert_close(loss.detach(), case.expected())
    for number in metrics.values():
        assert isinstance(number, torch.Tensor) and number.dim() == 0
        assert not number.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_inputs_are_never_changed(name):
    case = LOSSES[name]()
    before = {k: v.clone() for k, v in case.inputs.items()}
    case.run()
    for key, tensor in case.inputs.items():
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("name", LOSSES)
def test_row_order_does_not_matter(name, device):
    case = LOSSES[name]()
    inputs = to(case.inputs, device)
    order = torch.tensor([2, 0, 3, 1], device=device)
    loss, gradients, metrics = loss_gradients_metrics(case, inputs)
    shuffled = {k: v[order] for k, v in inputs.items()}
    other_loss, other_gradients, other_metrics = loss_gradients_metrics(case, shuffled)
    assert_close(other_loss, loss)
    assert_close(other_loss.cpu(), case.expected())
    assert_close(other_metrics, metrics)
    for key, gradient in gradients.items():
        assert_close(other_gradients[key], gradient[order])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_values_are_right_in_every_dtype(name, dtype):
    case = LOSSES[name]()
    loss, _, _ = loss_gradients_metrics(case, to(case.inputs, dtype))
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01}.get(dtype, 1e-5)
    assert_close(loss.double(), case.expected(), rtol=tolerance, atol=tolerance)


STATED = [name if name == "sft" else pytest.param(name, marks=package_only) for name in LOSSES]


@pytest.mark.parametrize("name", STATED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(name, dtype):
    """Of the exercises, only the stub of sft_loss states it."""
    case = LOSSES[name]()
    loss, gradients, _ = loss_gradients_metrics(case, to(case.inputs, dtype))
    assert loss.dtype == dtype
    assert all(gradient.dtype == dtype for gradient in gradients.values())


@pytest.mark.parametrize("name", LOSSES)
def test_only_what_is_learnt_gets_a_gradient(name):
    case = LOSSES[name]()
    inputs = {
        k: v.clone().requires_grad_() if v.is_floating_point() else v
        for k, v in case.inputs.items()
    }
    case.run(inputs)[0].backward()
    learners = {key for key, tensor in inputs.items() if tensor.grad is not None}
    assert learners == set(case.learnt)


def spoil(case: Case, value: float) -> dict[str, torch.Tensor]:
    """The inputs with this value at every masked-out place."""
    if "logits" in case.inputs:
        inputs = dict(case.inputs)
        produces = torch.zeros(B, T, dtype=torch.bool)  # position t produces token t + 1
        produces[:, :-1] = inputs["loss_mask"][:, 1:]
        inputs["logits"] = torch.where(produces[..., None], inputs["logits"], value)
        inputs["tokens"] = torch.where(inputs["loss_mask"], inputs["tokens"], -100)
        return inputs
    spoilt = {k: torch.where(case.inputs["mask"], case.inputs[k], value) for k in case.masked}
    return {**case.inputs, **spoilt}


@pytest.mark.parametrize("name", WITH_MASK)
@pytest.mark.parametrize("value", [NAN, float("inf"), float("-inf"), 1e30])
def test_values_at_masked_out_places_never_matter(name, value):
    case = LOSSES[name]()
    loss, gradients, metrics = loss_gradients_metrics(case, case.inputs)
    other_loss, other_gradients, other_metrics = loss_gradients_metrics(case, spoil(case, value))
    assert torch.equal(other_loss, loss)
    assert_close(other_metrics, metrics, rtol=0, atol=0)
    assert_close(other_gradients, gradients, rtol=0, atol=0)


@pytest.mark.parametrize("name", WITH_MASK)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_columns_never_matter(name, side):
    case = LOSSES[name]()
    loss, gradients, metrics = loss_gradients_metrics(case, case.inputs)
    padded = {}
    for key, tensor in spoil(case, NAN).items():
        if tensor.dim() == 1:
            padded[key] = tensor
            continue
        garbage = NAN if tensor.is_floating_point() else False if tensor.dtype == torch.bool else -1
        columns = torch.full_like(tensor[:, :1], garbage).repeat_interleave(3, dim=1)
        parts = [tensor, columns] if side == "right" else [columns, tensor]
        padded[key] = torch.cat(parts, dim=1)
    other_loss, other_gradients, other_metrics = loss_gradients_metrics(case, padded)
    assert_close(other_loss, loss)
    assert_close(other_metrics, metrics)
    for key, gradient in gradients.items():
        kept = other_gradients[key][:, :-3] if side == "right" else other_gradients[key][:, 3:]
        assert_close(kept, gradient)
        assert_close(other_gradients[key].abs().sum(), gradient.abs().sum())  # padding: exactly 0


def test_masking_after_the_exponential_is_noticed():
    """The usual slip: multiply with the mask at the end. NaN * 0 is NaN."""
    case = policy_case()

    def too_late(logprobs, old_logprobs, advantages, mask, *, clip_eps):
        ratio = (logprobs - old_logprobs).exp()
        clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
        losses = -torch.minimum(ratio * advantages, clipped * advantages)
        return (losses * mask).sum() / mask.sum(), {}

    right, _, _ = loss_gradients_metrics(case, case.inputs)
    case.function = too_late
    loss, _, _ = loss_gradients_metrics(case, case.inputs)
    assert_close(loss, right)  # on clean inputs one sees nothing
    loss, gradients, _ = loss_gradients_metrics(case, spoil(case, NAN))
    assert loss.isnan() and gradients["logprobs"].isnan().any()


@pytest.mark.parametrize("name", WITH_MASK)
def test_nothing_counted_is_zero_and_not_nan(name):
    case = LOSSES[name]()
    key = "loss_mask" if name == "sft" else "mask"
    inputs = {**case.inputs, key: torch.zeros_like(case.inputs[key])}
    loss, gradients, metrics = loss_gradients_metrics(case, inputs)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients.values())
    assert all(torch.isfinite(number) for number in metrics.values())


@package_only
@pytest.mark.parametrize("name", WITH_MASK)
def test_nothing_counted_can_still_be_trained_on(name):
    """The loops call backward() on whatever comes back."""
    case = LOSSES[name]()
    key = "loss_mask" if name == "sft" else "mask"
    inputs = {**case.inputs, key: torch.zeros_like(case.inputs[key])}
    for learnt in case.learnt:
        inputs[learnt] = inputs[learnt].clone().requires_grad_()
    case.run(inputs)[0].backward()
    assert all((inputs[learnt].grad == 0).all() for learnt in case.learnt)


def test_one_empty_row_makes_no_nan_in_the_mean_of_rows():
    """Row 3 of the mask is empty. Dividing by its length gives NaN; ours counts it as 0."""
    case = grpo_case("reply")
    mask = case.inputs["mask"]
    values = case.inputs["logprobs"]
    naive = (torch.where(mask, values, 0.0).sum(1) / mask.sum(1)).mean()
    assert naive.isnan() and torch.isfinite(case.run()[0])


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", LOSSES)
def test_integer_tensors_are_refused_by_name(name):
    case = LOSSES[name]()
    for key, tensor in case.inputs.items():
        if not tensor.is_floating_point():
            continue
        with pytest.raises(ValueError, match="torch.int64"):
            case.run({**case.inputs, key: tensor.long()})


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_shapes_are_refused(name):
    case = LOSSES[name]()
    for key, tensor in case.inputs.items():
        for wrong in (tensor[:1], tensor[..., None]):  # both would broadcast silently
            with pytest.raises(ValueError, match=r"\d"):
                case.run({**case.inputs, key: wrong})


@pytest.mark.parametrize("name", WITH_MASK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_masks_that_are_not_bool_are_refused(name, dtype):
    case = LOSSES[name]()
    key = "loss_mask" if name == "sft" else "mask"
    with pytest.raises(ValueError, match=str(dtype)):
        case.run({**case.inputs, key: case.inputs[key].to(dtype)})


@pytest.mark.parametrize(
    "name, setting, value",
    [
        ("dpo", "beta", 0.0),
        ("dpo", "beta", -0.1),
        ("dpo", "label_smoothing", 0.5),
        ("dpo", "label_smoothing", -0.01),
        ("ipo", "beta", 0.0),
        ("ipo", "beta", NAN),
        ("orpo", "weight", -1.0),
        ("ppo policy", "clip_eps", 0.0),
        ("ppo value", "clip_eps", -0.2),
        ("grpo token", "clip_eps", 0.0),
        ("grpo token", "clip_eps_high", 0.0),
        ("grpo token", "kl_coef", -0.1),
        ("grpo token", "normalize", "sequence"),
        ("grpo constant", "max_tokens", 0),
        ("grpo constant", "max_tokens", None),
    ],
)
def test_hyper_parameters_out_of_range_are_named(name, setting, value):
    case = LOSSES[name]()
    case.settings = {**case.settings, setting: value}
    with pytest.raises(ValueError, match=setting) as error:
        case.run()
    assert str(value) in str(error.value)


@pytest.mark.parametrize("wrong", [-1, V, 10**6])
def test_trained_token_ids_outside_the_vocabulary_are_named(wrong):
    case = sft_case()
    tokens = case.inputs["tokens"].clone()
    tokens[0, 2] = wrong  # a trained place
    with pytest.raises(ValueError, match=f"got {wrong}"):
        case.run({**case.inputs, "tokens": tokens})


@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo", "bradley-terry"])
def test_no_pairs_is_an_error_and_not_nan(name):
    case = LOSSES[name]()
    with pytest.raises(ValueError, match="pairs.*got 0"):
        case.run({k: v[:0] for k, v in case.inputs.items()})


# ---------------------------------------------------- functions of the contract besides losses


def shaped(logprobs, ref_logprobs, mask):
    return ppo.kl_shaped_rewards(rows(0), logprobs, ref_logprobs, mask, kl_coef=0.1)


def advantages_and_returns(rewards, values, mask):
    return torch.stack(ppo.gae(rewards, values, mask, gamma=0.9, lam=0.8))


def sums(a, b, mask):
    reduced = [
        logprobs.sequence_logprobs(x, mask, reduce=r) for x in (a, b) for r in ("sum", "mean")
    ]
    return torch.stack(reduced)


def means(a, b, mask):
    return torch.stack([masked_mean(a, mask), masked_mean(b, mask)])


@pytest.mark.parametrize("function", [shaped, advantages_and_returns, sums, means])
def test_helpers_ignore_what_is_masked_out_and_change_nothing(function):
    a, b, mask = frame(1), frame(2), response_mask()
    expected = function(a, b, mask)
    assert torch.isfinite(expected).all() and expected.abs().max() > 0.1
    for value in (NAN, float("inf")):
        a_spoilt, b_spoilt = (torch.where(mask, x, value) for x in (a, b))
        copies = a_spoilt.clone(), b_spoilt.clone(), mask.clone()
        assert torch.equal(function(a_spoilt, b_spoilt, mask), expected)
        for given, before in zip((a_spoilt, b_spoilt, mask), copies, strict=True):
            assert_close(given, before, equal_nan=True, rtol=0, atol=0)


@package_only
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_helpers_keep_the_dtype(dtype):
    a, b, mask = frame(1).to(dtype), frame(2).to(dtype), response_mask()
    given = [*ppo.gae(a, b, mask, gamma=0.9, lam=0.8)]
    given += [ppo.kl_shaped_rewards(rows(0).to(dtype), a, b, mask, kl_coef=0.1)]
    given += [grpo.group_advantages(rows(0).to(dtype), group_size=2)]
    given += [ppo.whiten(a, mask), rewards.explained_variance(a, b, mask)]
    given += [masked_mean(a, mask), logprobs.sequence_logprobs(a, mask, reduce="mean")]
    given += [k(a, b) for k in (logprobs.kl_k1, logprobs.kl_k2, logprobs.kl_k3)]
    given += [orpo.log1mexp(a), orpo.log_odds(a)]
    assert [tensor.dtype for tensor in given] == [dtype] * len(given)


def test_the_contract_names_are_where_they_are_promised():
    for name in ("kl_shaped_rewards", "gae", "ppo_policy_loss", "ppo_value_loss", "ValueModel"):
        assert callable(getattr(ppo, name))
    for name in ("group_advantages", "grpo_loss"):
        assert callable(getattr(grpo, name))


@pytest.mark.parametrize(
    "call, value",
    [
        (lambda: ppo.gae(frame(1), frame(2), response_mask(), gamma=1.1, lam=1.0), "1.1"),
        (lambda: ppo.gae(frame(1), frame(2), response_mask(), gamma=1.0, lam=-0.1), "-0.1"),
        (lambda: ppo.gae(frame(1), frame(2)[:, :2], response_mask(), gamma=1.0, lam=1.0), "2"),
        (lambda: ppo.gae(frame(1).long(), frame(2), response_mask(), gamma=1.0, lam=1.0), "int64"),
        (
            lambda: ppo.kl_shaped_rewards(
                rows(1), frame(1), frame(2), response_mask(), kl_coef=-0.5
            ),
            "-0.5",
        ),
        (
            lambda: ppo.kl_shaped_rewards(
                rows(1)[:2], frame(1), frame(2), response_mask(), kl_coef=0.5
            ),
            "(2,)",
        ),
        (lambda: logprobs.kl_k3(frame(1), frame(2)[:1]), "(1, 5)"),
        (lambda: logprobs.masked_mean(frame(1), response_mask().float()), "float32"),
        (lambda: logprobs.entropy(torch.zeros(2, 3, 4).long()), "int64"),
    ],
)
def test_helpers_name_what_is_wrong(call, value):
    with pytest.raises(ValueError) as error:
        call()
    assert value in str(error.value)
