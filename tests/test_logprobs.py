"""The alignment rule, sums over masks, and the three estimators of the KL divergence.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import math
from functools import partial

import pytest
import torch

from kittenllm.forward import (
    action_logprobs,
    hidden_at,
    length_chunks,
    plain_action_logprobs,
    rows_by_length,
)
from kittenllm.gpt import GPT
from kittenllm.logprobs import (
    average,
    entropy,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_mean,
    pick_logprobs,
    sequence_logprobs,
    token_logprobs,
)

# Numbers are graded, not their types.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

NAN = float("nan")


# ----------------------------------------------------------------------------- alignment


def check_alignment(function):
    """After token a comes b with probability 1/2, after b comes c with probability 1/8."""
    probs = torch.tensor([[[1 / 4, 1 / 2, 1 / 4], [3 / 8, 4 / 8, 1 / 8], [0.7, 0.2, 0.1]]])
    tokens = torch.tensor([[0, 1, 2]])  # a b c
    assert_close(function(probs.log(), tokens), torch.tensor([[1 / 2, 1 / 8]]).log())


def test_token_logprobs_are_about_producing_the_next_token():
    check_alignment(token_logprobs)


def test_off_by_one_is_noticed():
    def same_position(logits, tokens):  # the score of the token that was just read
        return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)[:, 1:]

    def previous_token(logits, tokens):  # shifted the wrong way round
        return logits[:, 1:].log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1)

    for wrong in (same_position, previous_token):
        with pytest.raises(AssertionError):
            check_alignment(wrong)


def test_pick_logprobs_by_hand():
    """No shift: place i speaks about target i. Any number of dimensions before the last one."""
    probs = torch.tensor([[1 / 4, 1 / 2, 1 / 4], [3 / 8, 4 / 8, 1 / 8]])
    targets = torch.tensor([1, 2])
    expected = torch.tensor([1 / 2, 1 / 8]).log()
    assert_close(pick_logprobs(probs.log() + 7, targets), expected)
    assert_close(
        pick_logprobs(probs.log()[None, :, None], targets[None, :, None]).flatten(), expected
    )
    assert pick_logprobs(probs.log().half(), targets).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_token_logprobs_in_every_dtype_have_the_digits_of_float32(dtype):
    logits, tokens = torch.randn(2, 4, 5).to(dtype), torch.randint(5, (2, 4))
    exact = logits.double()[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    assert_close(token_logprobs(logits, tokens).double(), exact, atol=1e-5, rtol=0)


def test_the_last_logits_are_not_used():
    logits, tokens = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    before = token_logprobs(logits, tokens)
    logits[:, -1] = NAN
    assert torch.equal(token_logprobs(logits, tokens), before)


@pytest.mark.parametrize(
    "given, returned",
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        pytest.param(torch.float32, torch.float32, marks=pytest.mark.package_only),
        pytest.param(torch.float64, torch.float64, marks=pytest.mark.package_only),
    ],
)
def test_token_logprobs_dtypes(given, returned):
    logits, tokens = torch.randn(2, 4, 5).to(given), torch.randint(5, (2, 4))
    result = token_logprobs(logits, tokens)
    assert result.dtype == returned and result.shape == (2, 3)
    assert_close(result.double(), token_logprobs(logits.double(), tokens), atol=1e-6, rtol=0)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]])
    assert_close(token_logprobs(logits, torch.tensor([[0, 1]])), torch.tensor([[-2e4]]))


def test_token_logprobs_refuses_what_does_not_fit():
    logits, tokens = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    with pytest.raises(ValueError, match="got 5"):
        token_logprobs(logits, tokens.clamp(max=3).index_fill(1, torch.tensor([2]), 5))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        token_logprobs(logits, tokens[:, :3])
    with pytest.raises(ValueError, match="torch.int64"):
        token_logprobs(tokens[..., None].expand(2, 4, 5), tokens)
    with pytest.raises(ValueError, match="torch.float32"):
        token_logprobs(logits, tokens.float())


def test_entropy_in_nats():
    equal = torch.zeros(1, 1, 8)
    certain = torch.tensor([[[100.0, 0.0, 0.0]]])
    half_half = torch.tensor([[[0.0, 0.0, float("-inf")]]])  # one token forbidden
    assert_close(entropy(equal), torch.full((1, 1), math.log(8)))
    assert_close(entropy(certain), torch.zeros(1, 1))
    assert_close(entropy(half_half), torch.full((1, 1), math.log(2)))
    assert entropy(torch.randn(2, 4, 5)).shape == (2, 4)
    for shape in ((4, 5), (5,), (1, 2, 4, 5)):
        with pytest.raises(ValueError, match=r"logits must have 3 dimension.*5\)|5,"):
            entropy(torch.zeros(shape))


# --------------------------------------------------------------------------------- masks


def test_masked_mean_by_hand():
    values = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    mean = masked_mean(values, mask)
    mean.backward()
    assert_close(mean, torch.tensor(3.0))  # not 9 / 6, and not the mean of the row means, 3.75
    assert_close(values.grad, mask / 3)


def test_empty_masks_give_zero_and_not_nan():
    values = torch.full((2, 3), NAN, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    mean = masked_mean(values, nothing)
    mean.backward()
    assert mean == 0 and torch.equal(values.grad, torch.zeros(2, 3))
    for reduce in ("sum", "mean"):
        assert torch.equal(sequence_logprobs(values, nothing, reduce=reduce), torch.zeros(2))


def test_masked_mean_of_many_half_precision_values():
    values = torch.full((300, 300), 3.0, dtype=torch.float16)  # their sum is beyond float16
    mean = masked_mean(values, torch.ones(300, 300, dtype=torch.bool))
    assert mean.dtype == torch.float16 and mean == 3


def test_sequence_logprobs_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-4.0, NAN, -8.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert_close(sequence_logprobs(logprobs, mask, reduce="sum"), torch.tensor([-3.0, -12.0]))
    assert_close(sequence_logprobs(logprobs, mask, reduce="mean"), torch.tensor([-1.5, -6.0]))
    with pytest.raises(ValueError, match="median"):
        sequence_logprobs(logprobs, mask, reduce="median")


def test_average_by_hand():
    values = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN], [NAN, NAN, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert_close(average(values, mask, normalize="token"), torch.tensor(9 / 3))
    assert_close(average(values, mask, normalize="reply"), torch.tensor((1.5 + 6 + 0) / 3))
    constant = average(values, mask, normalize="constant", max_tokens=10)
    assert_close(constant, torch.tensor(9 / (3 * 10)))
    with pytest.raises(ValueError, match="max_tokens.*None"):
        average(values, mask, normalize="constant")
    with pytest.raises(ValueError, match="sentence"):
        average(values, mask, normalize="sentence")


# ------------------------------------------------------------------------------------ KL

P_LOGITS = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
REF_LOGITS = torch.tensor([-0.5, 0.4, 0.9, 0.0], dtype=torch.float64)


def expected(estimator, p_logits=P_LOGITS, ref_logits=REF_LOGITS):
    """Exact mean of an estimator over samples of p: every token, weighted with its probability."""
    logp, logref = p_logits.log_softmax(0), ref_logits.log_softmax(0)
    return (logp.detach().exp() * estimator(logp, logref)).sum()


def true_kl(p_logits=P_LOGITS, ref_logits=REF_LOGITS):
    """KL(p || ref) = sum_v p(v) (log p(v) - log ref(v))."""
    logp, logref = p_logits.log_softmax(0), ref_logits.log_softmax(0)
    return (logp.exp() * (logp - logref)).sum()


def check_unbiased(estimator):
    assert_close(expected(estimator), true_kl(), atol=1e-12, rtol=0)


def test_k1_and_k3_are_right_on_average():
    check_unbiased(kl_k1)
    check_unbiased(kl_k3)
    assert abs(expected(kl_k2) / true_kl() - 1) > 0.01  # k2 is biased, that is its price


def test_ratio_upside_down_is_noticed():
    def k1_upside_down(logp, logref):
        return logref - logp

    def k3_upside_down(logp, logref):
        return torch.expm1(logp - logref) - (logp - logref)

    for wrong in (k1_upside_down, k3_upside_down):
        with pytest.raises(AssertionError):
            check_unbiased(wrong)


def test_k2_and_k3_are_never_negative_and_k1_may_be():
    logp, logref = P_LOGITS.log_softmax(0), REF_LOGITS.log_softmax(0)
    assert (kl_k2(logp, logref) >= 0).all() and (kl_k3(logp, logref) >= 0).all()
    assert (kl_k1(logp, logref) < 0).any()
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert torch.equal(estimator(logp, logp), torch.zeros(4, dtype=torch.float64))


def gradient_as_loss(estimator):
    p_logits = P_LOGITS.clone().requires_grad_()
    expected(estimator, p_logits=p_logits).backward()
    return p_logits.grad


def test_k1_is_useless_as_a_loss_and_k2_pulls_exactly_like_the_kl():
    p_logits = P_LOGITS.clone().requires_grad_()
    true_kl(p_logits=p_logits).backward()
    assert_close(gradient_as_loss(kl_k1), torch.zeros(4, dtype=torch.float64))  # no pull at all
    assert_close(gradient_as_loss(kl_k2), p_logits.grad)
    assert gradient_as_loss(kl_k3) @ p_logits.grad > 0  # the gradient of KL(ref || p): same way


def test_k3_keeps_its_digits_for_almost_equal_models():
    logref = torch.tensor([-1.0])
    logp = logref + 2**-12
    exact = math.expm1(-(2**-12)) + 2**-12
    assert_close(kl_k3(logp, logref), torch.tensor([exact]), rtol=1e-3, atol=0)


# ------------------------------------------------------------ from a model, without waste


def test_length_chunks_hold_every_row_once_within_the_limit():
    lengths = [5, 0, 9, 1, 7, 30, 2, 8]
    chunks = length_chunks(lengths, max_tokens=16)
    assert sorted(sum(chunks, [])) == [0, 2, 3, 4, 5, 6, 7]  # row 1 has nothing to do
    for chunk in chunks:
        longest = max(lengths[row] for row in chunk)
        assert len(chunk) * longest <= 16 or chunk == [5]


def test_rows_by_length_keep_the_row_numbers():
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    parts = rows_by_length(mask, torch.tensor([0, 1, 3]), max_tokens=4)
    assert [part.tolist() for part in parts] == [[1], [0]]
    assert rows_by_length(mask, torch.tensor([], dtype=torch.int64), max_tokens=4) == []


@pytest.fixture
def batch(tiny_gpt):
    generator = torch.Generator().manual_seed(4)
    V = tiny_gpt.config.vocab_size
    tokens = torch.randint(V, (6, 20), generator=generator).to(tiny_gpt.device)
    mask = (torch.rand(6, 19, generator=generator) < 0.4).to(tiny_gpt.device)
    mask[2] = False  # nothing wanted here
    mask[3, 7:] = False  # an early end
    return tokens, mask


def gradients(gpt: GPT, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(gpt.parameters())))


@pytest.mark.parametrize("max_tokens", [1, 25, 1024])
def test_hidden_at_equals_the_full_forward(tiny_gpt, batch, max_tokens):
    tokens, mask = batch
    wanted = torch.nn.functional.pad(mask, (0, 1))  # (B, T)
    full = tiny_gpt.hidden(tokens)[wanted]
    picked = hidden_at(tiny_gpt, tokens, wanted, max_tokens=max_tokens)
    assert_close(picked, full, atol=1e-5, rtol=0)
    weight = torch.randn(full.shape, generator=torch.Generator().manual_seed(1)).to(full)
    for a, b in zip(
        gradients(tiny_gpt, (picked * weight).sum()),
        gradients(tiny_gpt, (full * weight).sum()),
        strict=True,
    ):
        assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_action_logprobs_equal_token_logprobs_of_full_logits(tiny_gpt, batch):
    tokens, mask = batch
    full = token_logprobs(tiny_gpt(tokens), tokens)
    picked = action_logprobs(tiny_gpt, tokens, mask)
    plain = plain_action_logprobs(tiny_gpt, tokens, mask)
    assert torch.equal(plain, torch.where(mask, full, 0.0))
    assert_close(picked, plain, atol=1e-5, rtol=0)
    documents = (torch.arange(20, device=tokens.device) >= 9).long().expand(6, 20)
    apart = action_logprobs(tiny_gpt, tokens, mask, document_ids=documents)
    plain = plain_action_logprobs(tiny_gpt, tokens, mask, document_ids=documents)
    assert_close(apart, plain, atol=1e-5, rtol=0)
    assert (apart - picked).abs().max() > 0.1
    assert full[~mask].abs().min() > 0.1  # the zeros outside the mask are no accident


def test_action_logprobs_do_not_depend_on_what_stands_behind(tiny_gpt, batch):
    tokens, mask = batch
    expected_logprobs = action_logprobs(tiny_gpt, tokens, mask)
    garbage = tokens.clone()
    garbage[2] = -100  # not even a token
    garbage[3, 9:] = 10**6
    padded_tokens = torch.nn.functional.pad(garbage, (0, 5), value=-1)
    padded_mask = torch.nn.functional.pad(mask, (0, 5))
    padded = action_logprobs(tiny_gpt, padded_tokens, padded_mask)
    assert_close(padded[:, :19], expected_logprobs, atol=1e-5, rtol=0)


def test_action_logprobs_of_nothing_have_a_gradient_of_zero(tiny_gpt, batch):
    tokens, mask = batch
    logprobs = action_logprobs(tiny_gpt, tokens, torch.zeros_like(mask))
    logprobs.sum().backward()
    assert torch.equal(logprobs, torch.zeros_like(logprobs))
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in tiny_gpt.parameters())
