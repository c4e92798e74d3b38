"""The world in which every reply can be listed: is the written-down optimum really the optimum?"""

import math

import pytest
import torch
from torch.testing import assert_close

from chapters.enumerable import __main__ as enumerable
from chapters.enumerable.tiny_world import (
    END,
    LONGEST_REPLY,
    PROMPTS,
    best_ipo_policy,
    best_policy,
    build_world,
    every_reply,
    judge_of,
    new_reference,
    pairs_by_gap,
    population_loss,
    reply_logprobs,
    total_variation,
)
from kittenllm.dpo import dpo_loss, ipo_loss
from kittenllm.forward import action_logprobs
from kittenllm.ppo import gae, kl_shaped_rewards, ppo_policy_loss
from kittenllm.runs.run import read_json
from kittenllm.sampling import generate

BETA = 0.5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world():
    return build_world(seeded(0))


@pytest.fixture(scope="module")
def reference():
    return new_reference(seeded(1))


@pytest.fixture(scope="module")
def ref_logprobs(world, reference):
    with torch.no_grad():
        return reply_logprobs(reference, world)  # (X, Y)


# --------------------------------------------------------------------------------------- the world


def test_every_reply_is_there_once():
    replies = every_reply()
    assert len(replies) == len(set(replies)) == 1 + 4 + 16 + 64
    for reply in replies:
        assert END not in reply[:-1]
        assert reply[-1] == END or len(reply) == LONGEST_REPLY


def test_the_probabilities_of_all_replies_add_up_to_one(ref_logprobs):
    assert_close(ref_logprobs.exp().sum(dim=1), torch.ones(len(PROMPTS)))
    assert ref_logprobs.std() > 0.5  # and the reference has an opinion


def test_the_probability_of_a_reply_is_the_product_of_its_tokens(world, reference, ref_logprobs):
    number = world.replies.index((2, 3, END))
    row = torch.tensor([[*PROMPTS[1], 2, 3, END]])
    with torch.no_grad():
        probabilities = reference(row)[0].softmax(dim=-1)  # (T, V)
    by_hand = probabilities[1, 2] * probabilities[2, 3] * probabilities[3, END]
    assert_close(ref_logprobs[1, number].exp(), by_hand)


def test_the_judge_knows_every_reply_that_can_be_sampled(world, reference):
    prompts = [prompt for prompt in PROMPTS for _ in range(200)]
    rollout = generate(
        reference, prompts, max_new_tokens=LONGEST_REPLY, temperature=1.0, generator=seeded(2)
    )
    scores = judge_of(world)(rollout)
    for row in (0, 250, 599):
        reply = rollout.tokens[row, 2 : int(rollout.lengths[row])].tolist()
        assert scores[row] == world.points[row // 200, world.replies.index(tuple(reply))]


# -------------------------------------------------------------------------------------- the optimum


def test_the_best_policy_by_hand():
    ref_logprobs = torch.tensor([[0.25, 0.75]]).log()
    points = torch.tensor([[1.0, 0.0]])
    policy = best_policy(ref_logprobs, points, beta=1.0)
    assert_close(policy, torch.tensor([[0.25 * math.e, 0.75]]) / (0.25 * math.e + 0.75))
    ipo = best_ipo_policy(ref_logprobs, points, beta=1.0)  # P(win) is (s + 1/2) / 2 or its rest
    better, worse = ((1 / (1 + math.exp(-gap)) + 0.5) / 2 for gap in (1.0, -1.0))
    weights = torch.tensor([[0.25 * math.exp(better), 0.75 * math.exp(worse)]])
    assert_close(ipo, weights / weights.sum())


def test_no_policy_has_more_points_less_beta_kl(world, ref_logprobs):
    def value(policy):
        kl = (policy * (policy.log() - ref_logprobs)).sum(dim=1)
        return ((policy * world.points).sum(dim=1) - BETA * kl).mean()

    best = best_policy(ref_logprobs, world.points, beta=BETA)
    noise = torch.randn(best.shape, generator=seeded(3))
    for size in (0.01, 0.1, 1.0):
        assert value((best.log() + size * noise).softmax(dim=1)) < value(best)
    for other_beta in (0.9 * BETA, 1.1 * BETA):
        assert value(best_policy(ref_logprobs, world.points, beta=other_beta)) < value(best)


def test_total_variation_by_hand():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    q = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    assert total_variation(p, q) == pytest.approx((0.3 + 0) / 2)
    assert total_variation(p, p) == 0


# ------------------------------------------------------------------------ PPO rests at the optimum


def tokens_of_best_policy(world, policy):
    """log pi*(token | prefix) of every row: (R, T-1), from the masses of all prefixes."""
    frame = torch.zeros(world.mask.shape)
    for x in range(len(PROMPTS)):
        mass: dict[tuple, float] = {}
        for y, reply in enumerate(world.replies):
            for length in range(len(reply) + 1):
                mass[reply[:length]] = mass.get(reply[:length], 0.0) + float(policy[x, y])
        for y, reply in enumerate(world.replies):
            for length in range(len(reply)):
                share = mass[reply[: length + 1]] / mass[reply[:length]]
                frame[x * len(world.replies) + y, length + 1] = math.log(share)
    return frame


def values_of_best_policy(rewards, mask):
    """What is still to come before each token: along any reply it is the same, at the optimum."""
    rewards = torch.where(mask, rewards, 0.0)
    return rewards.flip(1).cumsum(1).flip(1)


def test_at_the_optimum_all_shaped_returns_are_equal_and_ppo_does_not_move(
    world, reference, ref_logprobs
):
    optimum = best_policy(ref_logprobs, world.points, beta=BETA)
    logprobs = tokens_of_best_policy(world, optimum)  # (R, T-1)
    with torch.no_grad():
        ref_tokens = action_logprobs(reference, world.tokens, world.mask)
    scores = world.points.flatten()  # (R,)

    rewards = kl_shaped_rewards(scores, logprobs, ref_tokens, world.mask, kl_coef=BETA)
    returns = rewards.sum(dim=1).view(ref_logprobs.shape)  # (X, Y)
    normaliser = (ref_logprobs + world.points / BETA).logsumexp(dim=1)  # (X,) log Z
    expected = (BETA * normaliser)[:, None].expand_as(returns)
    assert_close(returns, expected, atol=1e-4, rtol=1e-4)

    # The value of a prefix is the same whichever reply goes on from it, so nothing surprises.
    values = values_of_best_policy(rewards, world.mask)
    for lam in (1.0, 0.5):
        advantages, _ = gae(rewards, values, world.mask, gamma=1.0, lam=lam)
        assert advantages.abs().max() < 1e-4
    of_prefix: dict[tuple, list[float]] = {}
    for row, tokens in enumerate(world.tokens.tolist()):
        for t in range(1, world.mask.shape[1]):
            if world.mask[row, t]:
                of_prefix.setdefault(tuple(tokens[: t + 1]), []).append(float(values[row, t]))
    assert max(max(group) - min(group) for group in of_prefix.values()) < 1e-4

    current = logprobs.clone().requires_grad_()
    ppo_policy_loss(current, logprobs, advantages, world.mask, clip_eps=0.2)[0].backward()
    assert current.grad.abs().max() < 1e-6

    # With any other price the returns differ: the test can tell.
    rewards = kl_shaped_rewards(scores, logprobs, ref_tokens, world.mask, kl_coef=2 * BETA)
    assert rewards.sum(dim=1).view(ref_logprobs.shape).std(dim=1).min() > 0.1


# ------------------------------------------------------------------ DPO and IPO end at their optima


def minimise(loss_function, world, ref_logprobs, *, beta=BETA, see=lambda logprobs: logprobs):
    """The best probabilities (X, Y) when every reply has a free logit, in float64."""
    groups = pairs_by_gap(world.points)
    ref_logprobs = ref_logprobs.double()
    logits = ref_logprobs.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        logprobs = see(logits.log_softmax(dim=1))
        loss = population_loss(loss_function, logprobs, see(ref_logprobs), groups, beta=beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(dim=1)


def test_dpo_and_ipo_end_at_the_written_down_optima(world, ref_logprobs):
    best = best_policy(ref_logprobs.double(), world.points, beta=BETA)
    best_of_ipo = best_ipo_policy(ref_logprobs.double(), world.points, beta=BETA)
    assert total_variation(minimise(dpo_loss, world, ref_logprobs), best) < 1e-3
    assert total_variation(minimise(ipo_loss, world, ref_logprobs), best_of_ipo) < 1e-3
    assert total_variation(best, best_of_ipo) > 0.1  # two optima


def test_wrong_losses_end_elsewhere(world, ref_logprobs):
    best = best_policy(ref_logprobs.double(), world.points, beta=BETA)
    lengths = torch.tensor([len(reply) for reply in world.replies])

    def without_reference(chosen, rejected, ref_chosen, ref_rejected, *, beta):
        zero = torch.zeros_like(chosen)
        return dpo_loss(chosen, rejected, zero, zero, beta=beta)

    def flipped(chosen, rejected, ref_chosen, ref_rejected, *, beta):
        return dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta=beta)

    def mean_not_sum(logprobs):
        return logprobs / lengths

    wrong_ends = {
        "the reference left out": minimise(without_reference, world, ref_logprobs),
        "labels flipped": minimise(flipped, world, ref_logprobs),
        "mean instead of sum": minimise(dpo_loss, world, ref_logprobs, see=mean_not_sum),
        "half the beta": minimise(dpo_loss, world, ref_logprobs, beta=BETA / 2),
    }
    for mistake, end in wrong_ends.items():
        assert total_variation(end, best) > 0.1, mistake


def test_the_population_loss_is_the_mean_over_all_pairs_and_labels():
    points = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 3.0]])
    logprobs = torch.randn(2, 3, generator=seeded(4), dtype=torch.float64)
    ref_logprobs = torch.randn(2, 3, generator=seeded(5), dtype=torch.float64)
    losses = []
    for x in range(2):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            chance = 1 / (1 + math.exp(points[x, b] - points[x, a]))  # a is chosen
            for share, chosen, rejected in ((chance, a, b), (1 - chance, b, a)):
                margin = logprobs[x, chosen] - logprobs[x, rejected]
                margin = margin - ref_logprobs[x, chosen] + ref_logprobs[x, rejected]
                losses.append(share * math.log(1 + math.exp(-0.3 * margin)))
    groups = pairs_by_gap(points)
    assert sum(len(group.better) for group in groups) == 6
    loss = population_loss(dpo_loss, logprobs, ref_logprobs, groups, beta=0.3)
    assert loss.item() == pytest.approx(sum(losses) / 6)


# ------------------------------------------------------------------------------------ the program


def test_the_program_comes_nearer_with_every_method(tmp_path, capsys):
    argv = ["--steps", "80", "--ppo-steps", "25", "--runs", str(tmp_path)]
    assert enumerable.main(argv) == 0
    folder = tmp_path / "enumerable"
    summary = read_json(folder / "summary.json")
    before = summary["distance_before"]
    assert summary["dpo_distance"] < 0.6 * before
    assert summary["ppo_distance"] < 0.75 * before
    assert summary["ipo_distance_to_its_own_optimum"] < 0.05
    assert (folder / "distance.png").stat().st_size > 0
    assert "pi*" in capsys.readouterr().out
    assert enumerable.main(argv) == 0  # reused
    assert "run it again" in capsys.readouterr().out


@pytest.mark.parametrize("flag, value", [("--beta", "0"), ("--steps", "0"), ("--beta", "x")])
def test_settings_that_cannot_be_used_are_one_line(flag, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        enumerable.main([flag, value, "--runs", str(tmp_path)])
    assert stop.value.code == 2
    assert value in capsys.readouterr().err
