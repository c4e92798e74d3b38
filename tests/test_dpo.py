"""DPO and IPO: by hand, at the reference, in a world small enough to list, and as training.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kittenllm.dpo import (
    DPOConfig,
    dpo_loss,
    ipo_loss,
    pair_logprobs,
    pair_shares,
    preference_metrics,
    reference_logprobs,
    train_dpo,
)
from kittenllm.gpt import GPT
from kittenllm.logprobs import sequence_logprobs, token_logprobs
from kittenllm.optim import make_optimizer
from kittenllm.pairs import PreferencePair

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

# ------------------------------------------------------------------------------ by hand

CHOSEN = torch.tensor([-10.0, -4.0], dtype=torch.float64)
REJECTED = torch.tensor([-12.0, -3.0], dtype=torch.float64)
REF_CHOSEN = torch.tensor([-11.0, -4.0], dtype=torch.float64)
REF_REJECTED = torch.tensor([-10.0, -6.0], dtype=torch.float64)
GAPS = (3.0, -3.0)  # (chosen - ref_chosen) - (rejected - ref_rejected)


def surprise(margin):
    return -math.log(1 / (1 + math.exp(-margin)))


def check_dpo(function):
    loss, _ = function(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5)
    assert loss.item() == pytest.approx((surprise(0.5 * 3) + surprise(-0.5 * 3)) / 2)
    loss, _ = function(CHOSEN[:1], REJECTED[:1], REF_CHOSEN[:1], REF_REJECTED[:1], beta=0.5)
    assert loss.item() == pytest.approx(surprise(0.5 * 3))


def test_dpo_by_hand():
    check_dpo(dpo_loss)


def test_wrong_dpos_are_noticed():
    def reference_added(c, r, rc, rr, *, beta):
        return dpo_loss(c, r, -rc, -rr, beta=beta)

    def chosen_and_rejected_swapped(c, r, rc, rr, *, beta):
        return dpo_loss(r, c, rr, rc, beta=beta)

    def reference_swapped(c, r, rc, rr, *, beta):
        return dpo_loss(c, r, rr, rc, beta=beta)

    def no_reference(c, r, rc, rr, *, beta):
        return dpo_loss(c, r, 0 * rc, 0 * rr, beta=beta)

    def divided_by_beta(c, r, rc, rr, *, beta):
        return dpo_loss(c, r, rc, rr, beta=1 / beta)

    def summed_over_pairs(c, r, rc, rr, *, beta):
        loss, metrics = dpo_loss(c, r, rc, rr, beta=beta)
        return loss * len(c), metrics

    for wrong in (
        reference_added,
        chosen_and_rejected_swapped,
        reference_swapped,
        no_reference,
        divided_by_beta,
        summed_over_pairs,
    ):
        with pytest.raises(AssertionError):
            check_dpo(wrong)


def test_label_smoothing_is_the_mean_over_right_and_flipped_labels():
    smoothed, _ = dpo_loss(
        CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5, label_smoothing=0.1
    )
    right, _ = dpo_loss(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5)
    flipped, _ = dpo_loss(REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN, beta=0.5)
    one = dpo_loss(CHOSEN[:1], REJECTED[:1], REF_CHOSEN[:1], REF_REJECTED[:1], beta=0.5)[0]
    one_smoothed = dpo_loss(
        CHOSEN[:1], REJECTED[:1], REF_CHOSEN[:1], REF_REJECTED[:1], beta=0.5, label_smoothing=0.1
    )[0]
    assert_close(smoothed, 0.9 * right + 0.1 * flipped)
    assert one_smoothed > one + 0.1  # a sure policy pays for the chance that the label is wrong


def test_ipo_by_hand():
    loss, _ = ipo_loss(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.25)
    assert loss.item() == pytest.approx(((3 - 2) ** 2 + (-3 - 2) ** 2) / 2)


def test_at_the_reference():
    for beta in (0.01, 0.1, 1.0, 7.0):
        loss, metrics = dpo_loss(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=beta)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
        assert metrics["margin"] == 0 and metrics["accuracy"] == 0.5
        loss, _ = ipo_loss(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=beta)
        assert loss.item() == pytest.approx(1 / (4 * beta**2), rel=1e-12)


def test_ipo_stops_pulling_at_its_target_and_dpo_never_does():
    beta = 0.5
    at_target = (torch.tensor([1 / (2 * beta)], dtype=torch.float64)).requires_grad_()
    zero = torch.zeros(1, dtype=torch.float64)
    ipo_loss(at_target, zero, zero, zero, beta=beta)[0].backward()
    assert at_target.grad.item() == 0
    at_target.grad = None
    dpo_loss(at_target, zero, zero, zero, beta=beta)[0].backward()
    assert at_target.grad.item() < -0.1


def test_metrics_by_hand():
    metrics = preference_metrics(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5)
    assert metrics["chosen_reward"] == 0.5 * (1 + 0) / 2
    assert metrics["rejected_reward"] == 0.5 * (-2 + 3) / 2
    assert metrics["margin"] == 0.5 * sum(GAPS) / 2
    assert metrics["accuracy"] == 0.5
    assert metrics["chosen_logprob"] == -7 and metrics["rejected_logprob"] == -7.5


def test_accuracy_is_about_the_gain_over_the_reference():
    """Pair 0: the chosen reply is likelier, but less so than it was. Pair 1: the other way round.
    Pair 2: it has gained more, and is likelier. Without the reference it would be 2 of 3, too,
    but for the tie of pair 3."""
    chosen, rejected = (
        torch.tensor([-1.0, -9.0, -1.0, -5.0]),
        torch.tensor([-2.0, -8.0, -2.0, -4.0]),
    )
    ref_chosen = torch.tensor([-1.0, -12.0, -3.0, -5.0])
    ref_rejected = torch.tensor([-9.0, -8.0, -2.0, -4.0])
    metrics = preference_metrics(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    assert metrics["accuracy"] == (0 + 1 + 1 + 0.5) / 4
    no_reference = preference_metrics(chosen, rejected, 0 * chosen, 0 * chosen, beta=0.5)
    assert no_reference["accuracy"] == (1 + 0 + 1 + 0) / 4
    upside_down = preference_metrics(chosen, rejected, ref_rejected, ref_chosen, beta=0.5)
    assert upside_down["accuracy"] != metrics["accuracy"]


def test_extreme_log_probs_stay_finite():
    far = torch.tensor([-800.0], requires_grad=True)
    near = torch.tensor([-1.0], requires_grad=True)
    zero = torch.zeros(1)
    loss, _ = dpo_loss(far, near, zero, zero, beta=5.0)
    loss.backward()
    assert_close(loss, torch.tensor(5.0 * 799))
    assert_close(far.grad, torch.tensor([-5.0]))


def loss_named(name):
    """Looked up when the test runs: --implementation may have put another one there."""
    return {"dpo": dpo_loss, "ipo": ipo_loss}[name]


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_gradients_equal_finite_differences(name):
    loss = loss_named(name)
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    torch.autograd.gradcheck(
        lambda c, r: loss(c, r, REF_CHOSEN, REF_REJECTED, beta=0.3)[0],
        (chosen, rejected),
        eps=1e-6,
        atol=1e-8,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_the_reference_gets_no_gradient(name):
    four = [torch.randn(3, requires_grad=True) for _ in range(4)]
    loss_named(name)(*four, beta=0.1)[0].backward()
    assert [t.grad is not None for t in four] == [True, True, False, False]


# ------------------------------------------------------------- a world of three replies


def test_the_best_policy_is_where_dpo_comes_to_rest():
    """All pairs of three replies, labels by Bradley and Terry: the gradient vanishes at
    pi* ~ ref * exp(reward / beta), and nowhere near the reference."""
    beta = 0.5
    rewards = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    logref = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    log_best = (logref + rewards / beta).log_softmax(0)

    def population_gradient(logits):
        logits = logits.clone().requires_grad_()
        logprobs = logits.log_softmax(0)
        total = 0.0
        for a in range(3):
            for b in range(3):
                if a != b:
                    a_wins = (rewards[a] - rewards[b]).sigmoid()  # how often people prefer a
                    four = (logprobs[a], logprobs[b], logref[a], logref[b])
                    total = total + a_wins * dpo_loss(*(x[None] for x in four), beta=beta)[0]
        total.backward()
        return logits.grad

    assert population_gradient(log_best).abs().max() < 1e-12
    assert population_gradient(logref).abs().max() > 0.05


# ------------------------------------------------------------------------- with a model


def make_pairs(count):
    """People love token 50 and dislike token 40; chosen replies are longer."""
    generator = torch.Generator().manual_seed(count)
    pairs = []
    for i in range(count):
        prompt = torch.randint(3, 40, (2 + i % 3,), generator=generator).tolist()
        words = torch.randint(3, 40, (1 + i % 4,), generator=generator).tolist()
        pairs.append(PreferencePair(prompt, words + [50, 50, 1], words + [40, 1]))
    return pairs


def check_pair_logprobs(gpt, function):
    pairs = make_pairs(7)
    given = function(gpt, pairs)
    for number, (prompt, chosen, rejected) in enumerate(pairs):
        for column, reply in enumerate((chosen, rejected)):
            tokens = torch.tensor([prompt + reply], device=gpt.device)
            per_token = token_logprobs(gpt(tokens), tokens)[0, len(prompt) - 1 :]
            assert_close(given[number, column], per_token.sum(), atol=1e-3, rtol=0)


def test_pair_logprobs_are_sums_over_the_reply_with_its_end(tiny_gpt):
    check_pair_logprobs(tiny_gpt, pair_logprobs)


def test_the_mean_where_dpo_needs_the_sum_is_noticed(tiny_gpt):
    def mean(gpt, pairs):
        lengths = [[len(pair.chosen), len(pair.rejected)] for pair in pairs]
        return pair_logprobs(gpt, pairs) / torch.tensor(lengths, device=gpt.device)

    def prompt_too(gpt, pairs):
        columns = []
        for which in (1, 2):
            tokens = [torch.tensor([pair[0] + pair[which]], device=gpt.device) for pair in pairs]
            logprobs = [token_logprobs(gpt(row), row) for row in tokens]
            masks = [torch.ones_like(row, dtype=torch.bool) for row in logprobs]
            rows = zip(logprobs, masks, strict=True)
            columns.append(torch.cat([sequence_logprobs(p, m, reduce="sum") for p, m in rows]))
        return torch.stack(columns, dim=1)

    def without_the_end(gpt, pairs):
        cut = [PreferencePair(p, c[:-1], r[:-1]) for p, c, r in pairs]
        return pair_logprobs(gpt, cut)

    for wrong in (mean, prompt_too, without_the_end):
        with pytest.raises(AssertionError):
            check_pair_logprobs(tiny_gpt, wrong)


def test_reference_logprobs_carry_no_gradient_and_leave_no_trace(tiny_gpt):
    pairs = make_pairs(300)  # more than fit into one pass
    kept = reference_logprobs(tiny_gpt, pairs)
    assert kept.shape == (300, 2) and not kept.requires_grad
    assert all(parameter.grad is None for parameter in tiny_gpt.parameters())
    assert_close(kept[280:290], pair_logprobs(tiny_gpt, pairs[280:290]).detach(), atol=1e-3, rtol=0)


def train(policy, reference, config, start_step=0, stop_step=None, optimizer=None):
    pairs = make_pairs(80)
    steps = train_dpo(
        policy,
        pairs,
        reference_logprobs(reference, pairs),
        config=config,
        optimizer=optimizer or make_optimizer(policy, matrix_lr=3e-3, other_lr=3e-3),
        generator=torch.Generator().manual_seed(0),
        start_step=start_step,
    )
    return [next(steps) for _ in range(start_step, stop_step or config.steps)]


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_learns_the_preference_and_starts_at_the_reference(tiny_gpt, loss):
    policy = GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)
    reference = copy.deepcopy(policy)
    before = copy.deepcopy(reference.state_dict())
    numbers = train(policy, reference, DPOConfig(loss=loss, beta=0.1, steps=25, pairs_per_step=16))
    start = math.log(2) if loss == "dpo" else 1 / (4 * 0.1**2)
    assert numbers[0]["loss"] == pytest.approx(start, rel=1e-4)
    assert numbers[-1]["accuracy"] == 1.0 and numbers[-1]["loss"] < numbers[0]["loss"]
    assert numbers[-1]["margin"] > 0.2
    held_out = pair_logprobs(policy, make_pairs(31)) - pair_logprobs(reference, make_pairs(31))
    assert (held_out[:, 0] > held_out[:, 1]).all()
    assert all(torch.equal(before[k], v) for k, v in reference.state_dict().items())
    assert all(isinstance(value, int | float) for n in numbers for value in n.values())


def test_the_loop_uses_its_settings(tiny_gpt):
    """First losses for a policy that is already sure: each setting shows in the number."""
    pairs = make_pairs(16)
    sure = reference_logprobs(tiny_gpt, pairs)
    sure[:, 0] -= 20.0  # as if the reference had found every chosen reply 20 nats less likely
    policy_logprobs = pair_logprobs(tiny_gpt, pairs).detach()
    four = (*policy_logprobs.unbind(1), *sure.unbind(1))
    for config, expected in (
        (DPOConfig(beta=0.2), dpo_loss(*four, beta=0.2)),
        (
            DPOConfig(beta=0.2, label_smoothing=0.3),
            dpo_loss(*four, beta=0.2, label_smoothing=0.3),
        ),
        (DPOConfig(loss="ipo", beta=0.2), ipo_loss(*four, beta=0.2)),
    ):
        policy = copy.deepcopy(tiny_gpt)
        steps = train_dpo(
            policy,
            pairs,
            sure,
            config=replace(config, pairs_per_step=16),
            optimizer=make_optimizer(policy, matrix_lr=1e-3, other_lr=1e-3),
            generator=torch.Generator().manual_seed(0),
        )
        assert next(steps)["loss"] == pytest.approx(expected[0].item(), rel=1e-4)


def test_a_part_of_the_pairs_weighs_as_many_pairs_as_it_has():
    """Each pair counts two rows of its longer reply: 2 x 5, 2 x 3 and 2 x 4 tokens."""
    lengths = [(2, 3, 1), (1, 1, 2), (1, 3, 2), (9, 9, 8)]
    pairs = [PreferencePair([1] * p, [2] * c, [3] * r) for p, c, r in lengths]
    assert pair_shares(pairs, [0, 1, 2], None) == [([0, 1, 2], 1.0)]
    parts = pair_shares(pairs, [0, 1, 2], 16)  # 3 and 4 tokens together: 2 rows of 8
    assert parts == [([1, 2], pytest.approx(2 / 3)), ([0], pytest.approx(1 / 3))]
    assert [part for part, _ in pair_shares(pairs, [0, 1, 2], 1)] == [[1], [2], [0]]


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_gradients_of_parts_add_up_to_those_of_the_step(tiny_gpt, loss):
    pairs, results = make_pairs(40), []
    for tokens_per_pass in (None, 40, 1):
        policy = copy.deepcopy(tiny_gpt).double()
        steps = train_dpo(
            policy,
            pairs,
            reference_logprobs(policy, pairs) + torch.tensor([0.0, 0.3]),  # no ties
            config=DPOConfig(loss=loss, steps=4, pairs_per_step=7, max_grad_norm=1e6),
            optimizer=make_optimizer(policy, matrix_lr=None, other_lr=1e-2),
            generator=torch.Generator().manual_seed(0),
            tokens_per_pass=tokens_per_pass,
        )
        results.append((list(steps), policy.state_dict()))
    (numbers, weights), *others = results
    for numbers_of_parts, weights_of_parts in others:
        for one, other in zip(numbers, numbers_of_parts, strict=True):
            assert one.keys() == other.keys()
            for key in (key for key in one if "second" not in key):
                assert other[key] == pytest.approx(one[key], rel=1e-6, abs=1e-9), key
        for name, weight in weights.items():
            assert_close(weights_of_parts[name], weight, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_is_bit_equal(tiny_gpt):
    whole, halves = copy.deepcopy(tiny_gpt), copy.deepcopy(tiny_gpt)
    config = DPOConfig(steps=6, pairs_per_step=16)
    train(whole, tiny_gpt, config)
    optimizer = make_optimizer(halves, matrix_lr=3e-3, other_lr=3e-3)
    train(halves, tiny_gpt, config, 0, 4, optimizer)
    train(halves, tiny_gpt, config, 4, 6, optimizer)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


def test_reference_logprobs_of_other_pairs_are_refused(tiny_gpt):
    pairs = make_pairs(5)
    steps = train_dpo(
        tiny_gpt,
        pairs,
        torch.zeros(4, 2),
        config=DPOConfig(),
        optimizer=make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-3),
        generator=torch.Generator().manual_seed(0),
    )
    with pytest.raises(ValueError, match=r"\(5, 2\).*\(4, 2\)"):
        next(steps)


@pytest.mark.parametrize(
    "field, value",
    [("loss", "kto"), ("beta", 0), ("label_smoothing", 0.5), ("steps", 0), ("matrix_lr", -1e-3)],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        DPOConfig(**{field: value})
    with pytest.raises(ValueError, match="ipo.*0.1"):
        DPOConfig(loss="ipo", label_smoothing=0.1)
