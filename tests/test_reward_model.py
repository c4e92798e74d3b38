"""The reward model: where the score is read, what pairs teach, and whether it is calibrated.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import math
from functools import partial

import pytest
import torch

from kittenllm.batches import pad_rows
from kittenllm.calibration import calibration_bins, calibration_error
from kittenllm.gpt import GPT
from kittenllm.optim import make_optimizer
from kittenllm.reward_model import (
    RewardModel,
    RewardModelConfig,
    bradley_terry_loss,
    last_turn,
    ranking_to_pairs,
    score_sequences,
    train_reward_model,
)

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)


@pytest.fixture
def reward_model(tiny_gpt):
    """A reward model with a head that is not zero any more."""
    model = RewardModel(tiny_gpt)
    with torch.no_grad():
        model.head.copy_(torch.randn(32, generator=torch.Generator().manual_seed(2)))
    return model


SEQUENCES = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15, 16, 17], [18]]


# ------------------------------------------------------------------------------ the score


def one_by_one(model):
    """The slow and obvious way: each sequence alone, the score at its last position."""
    scores = []
    for sequence in SEQUENCES:
        hidden = model.gpt.hidden(torch.tensor([sequence], device=model.gpt.device))  # (1, T, C)
        scores.append(hidden[0, -1] @ model.head)
    return torch.stack(scores)


def check_read_at_the_last_real_token(model, forward):
    tokens, lengths = pad_rows(SEQUENCES, 0)
    tokens, lengths = tokens.to(model.gpt.device), lengths.to(model.gpt.device)
    assert_close(forward(tokens, lengths), one_by_one(model), atol=1e-4, rtol=0)


def test_the_score_is_read_at_the_last_real_token(reward_model):
    check_read_at_the_last_real_token(reward_model, reward_model)


def test_reading_elsewhere_is_noticed(reward_model):
    gpt, head = reward_model.gpt, reward_model.head

    def at_a_pad(tokens, lengths):  # the last column
        return gpt.hidden(tokens)[:, -1] @ head

    def one_too_late(tokens, lengths):
        places = lengths.clamp(max=tokens.shape[1] - 1)
        return gpt.hidden(tokens)[torch.arange(len(tokens)), places] @ head

    def mean_over_the_row(tokens, lengths):
        return gpt.hidden(tokens).mean(dim=1) @ head

    for wrong in (at_a_pad, one_too_late, mean_over_the_row):
        with pytest.raises(AssertionError):
            check_read_at_the_last_real_token(reward_model, wrong)


@pytest.mark.parametrize("likelihood_weight", [0.0, 0.3])
def test_what_stands_behind_the_end_never_matters(reward_model, likelihood_weight):
    with torch.no_grad():
        reward_model.likelihood_weight.fill_(likelihood_weight)
    tokens, lengths = pad_rows(SEQUENCES, 0)
    tokens, lengths = tokens.to(reward_model.gpt.device), lengths.to(reward_model.gpt.device)
    scores = reward_model(tokens, lengths)
    column = torch.arange(tokens.shape[1], device=tokens.device)
    for garbage in (7, -100, 10**6):  # the last two are not even tokens
        other = torch.where(column < lengths[:, None], tokens, garbage)
        other = torch.nn.functional.pad(other, (0, 90), value=garbage)  # longer than the context
        assert_close(reward_model(other, lengths), scores, atol=1e-4, rtol=0)
    order = torch.tensor([2, 0, 3, 1], device=tokens.device)
    assert_close(reward_model(tokens[order], lengths[order]), scores[order], atol=1e-4, rtol=0)
    assert_close(score_sequences(reward_model, SEQUENCES), scores, atol=1e-4, rtol=0)


def test_a_fresh_head_has_no_opinion(tiny_gpt):
    model = RewardModel(tiny_gpt)
    assert torch.equal(score_sequences(model, SEQUENCES).cpu(), torch.zeros(4))


def test_the_last_turn_by_hand():
    """Stop tokens 1 and 2. Index t is about producing token t + 1, as everywhere."""
    tokens = torch.tensor(
        [
            [5, 1, 6, 7, 1, 0],  # question, stop, reply, stop, padding
            [5, 1, 6, 2, 7, 8],  # two turns before the last one, which did not end
            [5, 6, 7, 8, 1, 1],  # one turn; the stop behind its end is not read
            [1, 0, 0, 0, 0, 0],  # a lonely stop
        ]
    )
    lengths = torch.tensor([5, 6, 4, 1])
    expected = [
        [False, True, True, True, False],  # 6, 7 and the stop
        [False, False, False, True, True],  # 7 and 8
        [True, True, True, False, False],  # 6, 7, 8
        [False] * 5,
    ]
    assert last_turn(tokens, lengths, (1, 2)).tolist() == expected
    assert last_turn(tokens, lengths, ()).sum(dim=1).tolist() == [4, 5, 3, 0]


def test_the_second_part_is_the_log_prob_of_the_reply(reward_model):
    """score = head . h + weight * log p(reply), the sum over the last turn, each row alone."""
    sequences = [[3, 1, 5, 6, 1], [9, 4, 2, 11, 12, 13], [7, 8, 9]]
    starts = [2, 3, 1]  # where the reply begins
    plain = score_sequences(reward_model, sequences)
    with torch.no_grad():
        reward_model.likelihood_weight.fill_(0.5)
    both = score_sequences(reward_model, sequences)
    for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        tokens = torch.tensor([sequence], device=both.device)
        logprobs = reward_model.gpt(tokens)[0].log_softmax(dim=-1)  # (T, V)
        nats = sum(logprobs[t - 1, sequence[t]] for t in range(start, len(sequence)))
        assert_close(both[row] - plain[row], 0.5 * nats.detach(), atol=1e-4, rtol=0)
    assert_close(score_sequences(reward_model, [sequences[1]])[0], both[1], atol=1e-4, rtol=0)


def test_a_false_word_costs_a_judge_that_knows_better(tiny_gpt):
    """Head and weight start at zero; pairs that the kitten finds likelier make the weight rise."""
    model = RewardModel(tiny_gpt)
    prompt = [3, 4, 1]
    with torch.no_grad():
        likely = tiny_gpt(torch.tensor([prompt], device=tiny_gpt.device))[0, -1].argsort().tolist()
    chosen, rejected = score_sequences(model, [[*prompt, likely[-1], 1], [*prompt, likely[0], 1]])
    assert chosen == rejected == 0
    tokens, lengths = pad_rows([[*prompt, likely[-1], 1], [*prompt, likely[0], 1]], 0)
    rewards = model(tokens.to(tiny_gpt.device), lengths.to(tiny_gpt.device))
    loss, _ = bradley_terry_loss(rewards[:1], rewards[1:])
    loss.backward()
    assert model.likelihood_weight.grad < 0  # a step against the gradient raises it


@pytest.mark.parametrize("length", [0, -1, 9])
def test_impossible_lengths_are_refused(reward_model, length):
    tokens, lengths = pad_rows(SEQUENCES, 0)
    lengths[1] = length
    device = reward_model.gpt.device
    with pytest.raises(ValueError, match=f"lengths.*{length}"):
        reward_model(tokens.to(device), lengths.to(device))


def test_tokens_of_another_tokenizer_are_refused(reward_model):
    with pytest.raises(ValueError, match="0 to 60, got 61"):
        score_sequences(reward_model, [[3, 61]])


# ------------------------------------------------------------------------------- the loss


def test_bradley_terry_by_hand():
    chosen = torch.tensor([3.0, 0.0, 2.0, 1.5])  # not symmetric: a flipped sign must show
    rejected = torch.tensor([1.0, 1.0, 2.0, 1.0])
    loss, metrics = bradley_terry_loss(chosen, rejected)
    surprise = [-math.log(1 / (1 + math.exp(-d))) for d in (2.0, -1.0, 0.0, 0.5)]
    assert_close(loss, torch.tensor(sum(surprise) / 4))
    assert metrics["accuracy"] == 2.5 / 4  # two right, one wrong, one tie that counts half
    assert metrics["margin"] == 1.5 / 4


def test_log_2_when_nothing_is_known_and_no_overflow():
    zeros = torch.zeros(4)
    assert_close(bradley_terry_loss(zeros, zeros)[0], torch.tensor(math.log(2)))
    loss, _ = bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert_close(loss, torch.tensor(1000.0))


def test_gradient_pushes_chosen_up_most_where_the_model_is_wrong():
    chosen = torch.tensor([3.0, -3.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0], requires_grad=True)
    bradley_terry_loss(chosen, rejected)[0].backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all()  # minimising: down the gradient
    assert chosen.grad[1] < 10 * chosen.grad[0]
    assert_close(chosen.grad, -rejected.grad)


def test_only_differences_count():
    chosen, rejected = torch.randn(5), torch.randn(5)
    shifted, _ = bradley_terry_loss(chosen + 7, rejected + 7)
    assert_close(shifted, bradley_terry_loss(chosen, rejected)[0], atol=1e-5, rtol=0)
    differences = (chosen - rejected).tolist()
    surprise = [math.log1p(math.exp(-d)) for d in differences]
    assert_close(shifted, torch.tensor(sum(surprise) / 5), atol=1e-5, rtol=0)


def test_rankings_become_all_their_pairs():
    pairs = ranking_to_pairs(["best", "good", "poor", "bad"])
    assert len(pairs) == 6 and pairs[0] == ("best", "good") and pairs[-1] == ("poor", "bad")
    order = ["best", "good", "poor", "bad"]
    assert all(order.index(better) < order.index(worse) for better, worse in pairs)
    with pytest.raises(ValueError, match="got 1"):
        ranking_to_pairs(["alone"])
    with pytest.raises(ValueError, match="'good'.*twice"):
        ranking_to_pairs(["good", "bad", "good"])


# ---------------------------------------------------------------------------- calibration


def test_calibration_bins_by_hand():
    predicted = torch.tensor([0.05, 0.09, 0.95, 1.0, 0.5])
    observed = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    mean_predicted, mean_observed, counts = calibration_bins(predicted, observed)
    assert counts.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert_close(mean_predicted[[0, 5, 9]], torch.tensor([0.07, 0.5, 0.975]))
    assert_close(mean_observed[[0, 5, 9]], torch.tensor([0.5, 0.0, 1.0]))
    with pytest.raises(ValueError, match="predicted.*1.5"):
        calibration_bins(torch.tensor([1.5]), torch.tensor([1.0]))


def labelled_scores(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of pairs whose labels follow Bradley and Terry exactly, times a scale."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40_000, generator=generator)
    a_wins = torch.rand(40_000, generator=generator) < (a - b).sigmoid()
    chosen = torch.where(a_wins, a, b)
    rejected = torch.where(a_wins, b, a)
    return scale * chosen, scale * rejected


def check_calibration(function):
    assert function(*labelled_scores(1.0)) < 0.01  # promises come true
    assert function(*labelled_scores(4.0)) > 0.1  # much too sure
    assert function(*labelled_scores(0.1)) > 0.1  # much too modest


def test_calibration_error_tells_sure_from_right():
    check_calibration(calibration_error)


def test_asking_pairs_one_way_only_is_noticed():
    def chosen_always_first(chosen, rejected):
        predicted = (chosen - rejected).sigmoid()
        a, b, counts = calibration_bins(predicted, torch.ones_like(predicted))
        return float(((a - b).abs() * counts).sum() / counts.sum())

    with pytest.raises(AssertionError):
        check_calibration(chosen_always_first)


# --------------------------------------------------------------------------- the training


def make_pairs(count: int) -> list[tuple[list[int], list[int]]]:
    """The annotators love token 50: the reply that holds it is chosen."""
    generator = torch.Generator().manual_seed(count)
    pairs = []
    for i in range(count):
        prompt = torch.randint(3, 40, (3,), generator=generator).tolist()
        words = torch.randint(3, 40, (2 + i % 4,), generator=generator).tolist()
        pairs.append((prompt + words[:-1] + [50, 1], prompt + words + [1]))
    return pairs


def train(model, optimizer, generator, start_step, stop_step, pairs=None):
    steps = train_reward_model(
        model,
        pairs or make_pairs(100),
        config=RewardModelConfig(steps=20, pairs_per_step=16),
        optimizer=optimizer,
        generator=generator,
        start_step=start_step,
    )
    return [next(steps) for _ in range(start_step, stop_step)]


def test_learns_what_the_annotators_love(tiny_gpt):
    gpt = GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)
    model = RewardModel(gpt)
    optimizer = make_optimizer(model, matrix_lr=1e-2, other_lr=1e-2)
    steps = train(model, optimizer, torch.Generator().manual_seed(0), 0, 20)
    assert steps[0]["loss"] == pytest.approx(math.log(2))
    assert steps[0]["accuracy"] == 0.5
    held_out = make_pairs(61)
    chosen = score_sequences(model, [pair[0] for pair in held_out])
    rejected = score_sequences(model, [pair[1] for pair in held_out])
    assert (chosen > rejected).float().mean() > 0.95


def test_a_resumed_run_is_bit_equal(tiny_gpt):
    whole, halves = RewardModel(copy.deepcopy(tiny_gpt)), RewardModel(copy.deepcopy(tiny_gpt))
    rates = {"matrix_lr": 2e-3, "other_lr": 2e-3}
    train(whole, make_optimizer(whole, **rates), torch.Generator().manual_seed(1), 0, 8)
    optimizer = make_optimizer(halves, **rates)
    train(halves, optimizer, torch.Generator().manual_seed(1), 0, 5)
    train(halves, optimizer, torch.Generator().manual_seed(1), 5, 8)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([], "got 0"),
        ([([3, 4], [])], "pair 0, rejected.*got 0"),
        ([([3], [4]), ([3] * 65, [4])], "pair 1, chosen.*got 65"),
        ([([3, 4], [3, 4])], "pair 0.*equal"),
    ],
)
def test_bad_pairs_are_refused_before_any_step(tiny_gpt, pairs, message):
    model = RewardModel(tiny_gpt)
    steps = train_reward_model(
        model,
        pairs,
        config=RewardModelConfig(),
        optimizer=make_optimizer(model, matrix_lr=1e-3, other_lr=1e-3),
        generator=torch.Generator().manual_seed(0),
    )
    with pytest.raises(ValueError, match=message):
        next(steps)
