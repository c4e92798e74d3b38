"""Rules that judge groups of replies, and what siblings make of it.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

from functools import partial

import pytest
import torch

from kittenllm.grpo import group_advantages
from kittenllm.rewards import (
    explained_variance,
    mixed_reward,
    rollout_numbers,
    score_by_rule,
    zero_variance_share,
)
from kittenllm.sampling import Rollout

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

# -------------------------------------------------------------------------- the comparison


def check_groups(function):
    """Two groups of three with different means and spreads; the std is over G - 1."""
    rewards = torch.tensor([1.0, 2.0, 3.0, 10.0, 10.0, 40.0])
    spread = torch.tensor([1.0, 1.0, 1.0, 300.0**0.5, 300.0**0.5, 300.0**0.5])
    expected = torch.tensor([-1.0, 0.0, 1.0, -10.0, -10.0, 20.0]) / (spread + 1e-4)
    assert_close(function(rewards, group_size=3), expected)


def test_group_advantages_by_hand():
    check_groups(group_advantages)


def test_wrong_groups_are_noticed():
    def std_over_the_whole_batch(rewards, *, group_size):
        groups = rewards.view(-1, group_size)
        return ((groups - groups.mean(1, keepdim=True)) / (rewards.std() + 1e-4)).flatten()

    def mean_over_the_whole_batch(rewards, *, group_size):
        groups = rewards.view(-1, group_size)
        return ((groups - rewards.mean()) / (groups.std(1, keepdim=True) + 1e-4)).flatten()

    def order_mixed_up(rewards, *, group_size):
        """Takes every third reply for a group instead of three side by side."""
        groups = rewards.view(group_size, -1).T
        return group_advantages(groups.flatten(), group_size=group_size)

    def biased_std(rewards, *, group_size):
        groups = rewards.view(-1, group_size)
        spread = groups.std(1, keepdim=True, correction=0)
        return ((groups - groups.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()

    for wrong in (
        std_over_the_whole_batch,
        mean_over_the_whole_batch,
        order_mixed_up,
        biased_std,
    ):
        with pytest.raises(AssertionError):
            check_groups(wrong)


@pytest.mark.parametrize("reward", [0.1, 0.7, 1.0, -3.3, 1e6])
@pytest.mark.parametrize("size", [3, 7, 8])
def test_equal_rewards_give_exactly_zero(reward, size):
    rewards = torch.full((2 * size,), reward)
    rewards[0] += 1.0  # the first group has a signal, the second has none
    for normalize_std in (True, False):
        advantages = group_advantages(rewards, group_size=size, normalize_std=normalize_std)
        assert (advantages[size:] == 0).all()
        assert advantages[0] > 0
    assert zero_variance_share(rewards, group_size=size) == 0.5
    three = torch.cat([rewards, rewards[size:]])  # one group with a signal, two without
    assert zero_variance_share(three, group_size=size) == pytest.approx(2 / 3)


def test_exactly_zero_is_a_rule_and_not_a_result():
    group = torch.full((7,), 0.7)
    assert (group - group.mean()).abs().max() > 0  # float32 alone leaves something over
    assert (group_advantages(group, group_size=7, eps=0.0) == 0).all()


def test_advantages_of_a_group_add_up_to_zero_and_keep_the_order():
    rewards = torch.randn(40, dtype=torch.float64)
    for normalize_std in (True, False):
        groups = group_advantages(rewards, group_size=8, normalize_std=normalize_std).view(5, 8)
        assert_close(groups.sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
        assert torch.equal(groups.argsort(1), rewards.view(5, 8).argsort(1))
    raw = group_advantages(rewards, group_size=8, normalize_std=False)
    assert_close(raw, (rewards.view(5, 8) - rewards.view(5, 8).mean(1, keepdim=True)).flatten())


def test_a_small_format_reward_is_blown_up_only_by_the_std():
    """Every answer is wrong, one has the right format: worth a hair, or as much as an answer?"""
    rewards = torch.tensor([0.05, 0.0, 0.0, 0.0])
    assert group_advantages(rewards, group_size=4).max() > 1.4
    assert group_advantages(rewards, group_size=4, normalize_std=False).max() < 0.04


@pytest.mark.parametrize("size", [1, 0, -2, 4, 2.0])
def test_wrong_group_sizes_are_named(size):
    with pytest.raises(ValueError, match=f"{size}"):
        group_advantages(torch.randn(6), group_size=size)
    with pytest.raises(ValueError, match="torch.int64"):
        group_advantages(torch.tensor([1, 0]), group_size=2)


# ------------------------------------------------------------------------------- the judge

STOP = 2


def make_rollout() -> Rollout:
    """Two prompts x two replies: [7 8 stop], [9], cut off | [stop], [7 7], cut off."""
    tokens = torch.tensor(
        [[5, 7, 8, STOP, 0], [5, 9, 0, 0, 0], [6, 6, STOP, 0, 0], [6, 6, 7, 7, 0]]
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]).bool()
    logprobs = torch.where(mask, -0.5, 0.0)
    return Rollout(tokens, mask, logprobs, torch.tensor([True, False, True, False]))


def test_the_rule_sees_prompt_number_reply_and_end():
    seen = []

    def reward(prompt_number, reply, ended):
        seen.append((prompt_number, reply, ended))
        return float(len(reply)), {"long": float(len(reply) > 1), "ended": float(ended)}

    rewards, numbers = score_by_rule(make_rollout(), [30, 10], reward, group_size=2)
    assert seen == [(30, [7, 8], True), (30, [9], False), (10, [], True), (10, [7, 7], False)]
    assert rewards.tolist() == [2.0, 1.0, 0.0, 2.0]
    assert numbers == {
        "reward": 1.25,
        "long": 0.5,
        "ended": 0.5,
        "reply_tokens": 7 / 4,  # the stop token is part of the reply
        "truncated": 0.5,
        "no_signal": 0.0,
        "entropy": 0.5,
    }


def test_replies_that_were_cut_off_are_counted_even_if_the_rule_ignores_it():
    rollout = make_rollout()
    rollout.ended[3] = True  # one of four is cut off: the share is not its own complement
    _, numbers = score_by_rule(rollout, [0, 1], lambda *_: (0.0, {}), group_size=2)
    assert numbers["truncated"] == 0.25 and numbers["no_signal"] == 1.0


def test_the_judge_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="3 prompts x 2.*got 4"):
        score_by_rule(make_rollout(), [0, 1, 2], lambda *_: (0.0, {}), group_size=2)
    parts = iter([{"right": 1.0}, {"format": 1.0}])
    with pytest.raises(ValueError, match="right.*format"):
        score_by_rule(make_rollout(), [0, 1], lambda *_: (0.0, next(parts)), group_size=2)


def test_parts_are_averaged_over_the_replies_that_have_them():
    """One prompt is of another kind: its two replies are no wrong answers of the first kind."""
    parts = {0: [{"right": 1.0}, {"right": 0.0}], 1: [{"score": 3.0}, {"score": 5.0}]}
    _, numbers = score_by_rule(
        make_rollout(), [0, 1], lambda number, *_: (0.0, parts[number].pop()), group_size=2
    )
    assert numbers["right"] == 0.5 and numbers["score"] == 4.0


# ------------------------------------------------------------------- prompts of several kinds

WORTH = ([1.0, 2.0], [10.0, 20.0, 30.0, 40.0], [100.0, 200.0, 300.0])  # of 2, 4 and 3 prompts


def worth_of(worth):
    """The reward of one kind: looks up its own prompt, and says what it heard."""

    def reward(number, reply, ended):
        return worth[number], {"tokens": float(len(reply)), "ended": float(ended)}

    return reward


def three_kinds():
    return [(len(worth), worth_of(worth)) for worth in WORTH]


def test_mixed_reward_by_hand():
    """Prompts 0 and 1 are of the first kind, 2 to 5 of the second, 6 to 8 of the third."""
    reward = mixed_reward(three_kinds())
    earned = [reward(number, [7], True)[0] for number in range(9)]
    assert earned == [1.0, 2.0, 10.0, 20.0, 30.0, 40.0, 100.0, 200.0, 300.0]


def test_mixed_reward_does_not_remember_what_was_asked_before():
    reward = mixed_reward(three_kinds())
    for number, worth in [(8, 300.0), (0, 1.0), (5, 40.0), (5, 40.0), (2, 10.0), (1, 2.0)] * 2:
        assert reward(number, [7], True)[0] == worth


@pytest.mark.parametrize("reply, ended", [([7, 8, 9], True), ([7], False), ([], True)])
def test_mixed_reward_hands_the_reply_on_and_the_parts_back(reply, ended):
    reward = mixed_reward(three_kinds())
    parts = {"tokens": float(len(reply)), "ended": float(ended)}
    assert tuple(reward(3, reply, ended)) == (20.0, parts)


@pytest.mark.parametrize("number", [-1, 9, 10, 100])
def test_mixed_reward_names_a_prompt_of_no_kind(number):
    with pytest.raises(ValueError, match=f"{number}"):
        mixed_reward(three_kinds())(number, [7], True)


def test_mixed_reward_asks_the_judge_of_that_kind_alone():
    """A reward model is slow: nobody asks it about a puzzle."""
    asked = []
    kinds = [
        (2, lambda number, *_: asked.append(("puzzle", number)) or (1.0, {})),
        (0, lambda number, *_: asked.append(("nobody", number)) or (1.0, {})),
        (2, lambda number, *_: asked.append(("chat", number)) or (1.0, {})),
    ]
    reward = mixed_reward(kinds)
    assert not asked
    reward(3, [], True)
    reward(0, [], True)
    assert asked == [("chat", 1), ("puzzle", 0)]


def test_mixed_reward_scores_a_batch_of_two_kinds():
    """Two replies to prompt 1, a puzzle, and two to prompt 4, the third chat."""
    rewards, numbers = score_by_rule(
        make_rollout(), [1, 4], mixed_reward(three_kinds()), group_size=2
    )
    assert rewards.tolist() == [2.0, 2.0, 30.0, 30.0]
    assert numbers["tokens"] == (2 + 1 + 0 + 2) / 4


# ------------------------------------------------------------------------ numbers for the curves

NAN = float("nan")


def test_explained_variance_by_hand():
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    returns = torch.tensor([[1.0, 2.0, 3.0, NAN]])
    assert_close(explained_variance(returns + 5, returns, mask), torch.tensor(1.0))  # only shifted
    assert_close(explained_variance(returns * 0, returns, mask), torch.tensor(0.0))
    assert_close(explained_variance(-returns, returns, mask), torch.tensor(1 - 4.0))
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0  # nothing to explain


def test_numbers_of_a_rollout_are_divided_by_the_right_count():
    mask = torch.tensor([[1, 1, 1], [0, 1, 0]]).bool()
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [0.0, -4.0, 0.0]])
    ref_logprobs = torch.tensor([[-2.0, -2.0, -4.0], [0.0, -9.0, 0.0]])
    rollout = Rollout(torch.zeros(2, 4).long(), mask, logprobs, torch.tensor([True, True]))
    scores, values = torch.tensor([1.0, 3.0]), torch.zeros(2, 3)
    returns = torch.where(mask, scores[:, None], 0.0)
    numbers = rollout_numbers(rollout, scores, ref_logprobs, values, returns)
    assert numbers["score"] == 2.0
    assert numbers["kl"] == (2.0 + 5.0) / 2  # summed over the reply, then the mean of 2 replies
    assert numbers["entropy"] == 10 / 4  # per token
    assert numbers["reply_tokens"] == 2.0
    assert numbers["ended"] == 1.0  # a half would be right the wrong way round, too
    assert numbers["explained_variance"] == 0.0
