"""Every setting of every algorithm reaches its loop: change one, and a tiny run is another run.

The tables below have a row for each field of each config. A new field without a row fails, and so
does a field that a loop forgets to read.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch

from kittenllm import grpo, ppo
from kittenllm.batches import TokenStream, pack
from kittenllm.dpo import DPOConfig, reference_logprobs, train_dpo
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.grpo import GRPOConfig, group_advantages, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.orpo import ORPOConfig, train_orpo
from kittenllm.pairs import PreferencePair
from kittenllm.ppo import PPOConfig, ValueModel, gae, train_ppo
from kittenllm.pretrain import PretrainConfig, train_pretrain
from kittenllm.reward_model import RewardModel, RewardModelConfig, train_reward_model
from kittenllm.rewards import score_by_rule
from kittenllm.sft import SFTConfig, train_sft

PROMPTS = [[3, 4, t] for t in range(5, 20)]
PAIRS = [
    PreferencePair([3, t], [t, t + 1, 1], [t + 2] * (1 + t % 4) + [2]) for t in range(5, 25)
]  # replies of different length


def kitten(seed: int) -> GPT:
    """Weights large enough that every token gets another probability."""
    config = GPTConfig(
        vocab_size=31,
        context_length=32,
        layers=1,
        channels=16,
        heads=2,
        kv_heads=1,
        ffn_channels=24,
        stop_ids=(1, 2),
        pad_id=0,
    )
    gpt = GPT(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return gpt


def optimizer_of(model, config):
    return make_optimizer(model, matrix_lr=config.matrix_lr, other_lr=config.other_lr)


# ------------------------------------------------------------- one tiny run of each algorithm
# config -> (what the loop yielded, the models it trained)


def run_pretrain(config):
    gpt, stream = kitten(0), TokenStream(torch.arange(3, 30).repeat(4))
    steps = train_pretrain(gpt, stream, **tools(gpt, config))
    return list(steps), [gpt]


def run_sft(config):
    gpt, stream = kitten(0), TokenStream(torch.arange(3, 30).repeat(4))
    chats = [([3, t, t + 1, 1], [False, True, True, True]) for t in range(5, 29)]
    rows = pack(chats, row_length=8, pad_id=0)
    return list(train_sft(gpt, rows, replay=stream, **tools(gpt, config))), [gpt]


def run_reward_model(config):
    model = RewardModel(kitten(0))
    pairs = [(pair.prompt + pair.chosen, pair.prompt + pair.rejected) for pair in PAIRS]
    return list(train_reward_model(model, pairs, **tools(model, config))), [model]


def run_dpo(config):
    gpt = kitten(0)
    kept = reference_logprobs(kitten(1), PAIRS)
    return list(train_dpo(gpt, PAIRS, kept, **tools(gpt, config))), [gpt]


def run_orpo(config):
    gpt = kitten(0)
    return list(train_orpo(gpt, PAIRS, **tools(gpt, config))), [gpt]


def low_tokens(rollout):
    """A score without any model: the share of the reply's tokens below 15."""
    low = (rollout.tokens[:, 1:] < 15) & rollout.response_mask
    return low.sum(dim=1) / rollout.response_mask.sum(dim=1)


def run_ppo(config):
    policy, value_model = kitten(0), ValueModel(kitten(2))
    with torch.no_grad():  # with the head at zero, gamma and lam do the same
        value_model.head.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.2)
    steps = train_ppo(
        policy,
        kitten(1),
        value_model,
        PROMPTS,
        low_tokens,
        config=config,
        optimizer=make_optimizer(policy, matrix_lr=config.policy_lr, other_lr=config.policy_lr),
        value_optimizer=make_optimizer(
            value_model, matrix_lr=config.value_lr, other_lr=config.value_lr
        ),
        generator=torch.Generator().manual_seed(0),
    )
    return list(steps), [policy, value_model]


def rule(prompt_number, reply, ended):
    """Every third prompt pays the same for all replies: its group teaches nothing."""
    low = sum(token < 15 for token in reply)
    return (1.0 if prompt_number % 3 == 0 else low + 0.1 * len(reply)), {}


def run_grpo(config):
    policy = kitten(0)
    steps = train_grpo(policy, PROMPTS, rule, reference=kitten(1), **tools(policy, config))
    return list(steps), [policy]


def tools(model, config):
    generator = torch.Generator().manual_seed(0)
    return {"config": config, "optimizer": optimizer_of(model, config), "generator": generator}


# ------------------------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Case:
    """A config, a run of it, another value for each field, and why a field has none."""

    base: object
    run: Callable
    changed: dict[str, object]
    left_out: dict[str, str] = field(default_factory=dict)


# 4 steps: the rate is 1/2, 1, 1, 1/2.
SLOPES = {"steps": 4, "warmup": 0.5, "cooldown": 0.5}
NO_SLOPES = {"steps": 5, "warmup": 0.0, "cooldown": 0.0}
OTHER_STEPS = {"matrix_lr": 2e-3, "other_lr": 2e-3, "max_grad_norm": 0.01}

CASES = {
    "pretrain": Case(
        PretrainConfig(**SLOPES, rows_per_step=3, row_length=8),
        run_pretrain,
        NO_SLOPES | OTHER_STEPS | {"rows_per_step": 4, "row_length": 9},
    ),
    "sft": Case(
        SFTConfig(**SLOPES, rows_per_step=4, replay_fraction=0.25, matrix_lr=3e-3, other_lr=6e-3),
        run_sft,
        NO_SLOPES | OTHER_STEPS | {"rows_per_step": 8, "replay_fraction": 0.5},
    ),
    "reward model": Case(
        RewardModelConfig(**SLOPES, pairs_per_step=4, matrix_lr=5e-3, other_lr=5e-3),
        run_reward_model,
        NO_SLOPES | OTHER_STEPS | {"pairs_per_step": 6},
    ),
    "dpo": Case(
        DPOConfig(**SLOPES, beta=0.1, pairs_per_step=4, matrix_lr=5e-4, other_lr=5e-4),
        run_dpo,
        NO_SLOPES
        | OTHER_STEPS
        | {"loss": "ipo", "beta": 0.5, "label_smoothing": 0.2, "pairs_per_step": 6},
    ),
    "orpo": Case(
        ORPOConfig(**SLOPES, pairs_per_step=4, matrix_lr=1e-3, other_lr=1e-3),
        run_orpo,
        NO_SLOPES | OTHER_STEPS | {"weight": 0.5, "pairs_per_step": 6},
    ),
    "ppo": Case(
        PPOConfig(
            steps=3,
            replies_per_step=12,
            max_new_tokens=6,
            gamma=0.9,
            lam=0.8,
            policy_lr=3e-3,
            value_lr=3e-3,
            target_kl=100.0,  # no round stops early
        ),
        run_ppo,
        {
            "steps": 4,
            "replies_per_step": 10,
            "max_new_tokens": 5,
            "epochs": 1,
            "minibatches": 3,
            "clip_eps": 0.001,
            "value_clip_eps": 0.001,
            "gamma": 1.0,
            "lam": 0.5,
            "kl_coef": 0.0,
            "no_end_penalty": 0.0,
            "whiten_advantages": False,
            "target_kl": 1e-9,
            "policy_lr": 1e-3,
            "value_lr": 1e-3,
            "cooldown": 1.0,
            "max_grad_norm": 0.01,
        },
    ),
    "grpo": Case(
        GRPOConfig(
            steps=3,
            prompts_per_step=6,
            group_size=4,
            max_new_tokens=6,
            clip_eps=0.05,
            clip_eps_high=0.08,
            normalize_std=True,
            epochs=2,
            minibatches=2,
            matrix_lr=3e-3,
            other_lr=3e-3,
            cooldown=0.0,
        ),
        run_grpo,
        {
            "steps": 4,
            "prompts_per_step": 5,
            "group_size": 3,
            "max_new_tokens": 5,
            "clip_eps": 0.001,
            "clip_eps_high": None,
            "kl_coef": 0.1,
            "normalize": "reply",
            "normalize_std": False,
            "epochs": 1,
            "minibatches": 3,
            "skip_equal_groups": False,  # the same gradient, but means over all the tokens
            "matrix_lr": 1e-3,
            "other_lr": 1e-3,
            "cooldown": 1.0,
            "max_grad_norm": 0.01,
        },
        {"tokens_per_pass": "the same numbers in smaller parts; has a test of its own below"},
    ),
}


# ---------------------------------------------------------------------------- what they say


def observed(name: str, config):
    """What the loop yielded, without the clock, and the final weights in one row."""
    steps, models = CASES[name].run(config)
    numbers = [{k: n for k, n in step.items() if "second" not in k} for step in steps]
    weights = [p.detach().flatten() for model in models for p in model.parameters()]
    return numbers, torch.cat(weights)


@cache
def base_run(name: str):
    return observed(name, CASES[name].base)


def is_another_run(one, other) -> bool:
    """More than rounding apart, in a number of a step or in a weight; or more or fewer steps."""
    (numbers, weights), (other_numbers, other_weights) = one, other
    if [list(step) for step in numbers] != [list(step) for step in other_numbers]:
        return True
    pairs = zip(numbers, other_numbers, strict=True)
    apart = any(a[key] != pytest.approx(b[key], rel=1e-4, abs=1e-6) for a, b in pairs for key in a)
    return apart or not torch.allclose(weights, other_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_field_has_a_row(name):
    case = CASES[name]
    fields = {f.name for f in dataclasses.fields(case.base)}
    assert set(case.changed) | set(case.left_out) == fields
    assert not set(case.changed) & set(case.left_out)
    for setting, value in case.changed.items():
        assert getattr(case.base, setting) != value, setting


@pytest.mark.parametrize("name", CASES)
def test_the_same_settings_give_the_same_run(name):
    """Or a difference would say nothing."""
    assert not is_another_run(observed(name, CASES[name].base), base_run(name))


ROWS = [(name, setting) for name, case in CASES.items() for setting in case.changed]


@pytest.mark.parametrize(("name", "setting"), ROWS)
def test_another_value_is_another_run(name, setting):
    case = CASES[name]
    config = replace(case.base, **{setting: case.changed[setting]})
    assert is_another_run(observed(name, config), base_run(name))


# ------------------------------------------------------------ settings that could be mixed up


@pytest.fixture
def spy(monkeypatch):
    """calls = spy(module, name): from now on a list of (arguments, keywords) of every call."""

    def watch(module, name):
        calls, real = [], getattr(module, name)

        def watched(*arguments, **keywords):
            calls.append((arguments, keywords))
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, name, watched)
        return calls

    return watch


def test_ppo_does_not_swap_gamma_and_lam(spy):
    calls, learnt = spy(ppo, "gae"), spy(ppo, "ppo_value_loss")
    base = CASES["ppo"].base
    runs = []
    for gamma, lam in ((0.5, 1.0), (1.0, 0.5)):
        calls.clear()
        learnt.clear()
        runs.append(observed("ppo", replace(base, gamma=gamma, lam=lam)))
        assert len(calls) == base.steps and len(learnt) > base.steps
        for given, settings in calls:
            assert settings == {"gamma": gamma, "lam": lam}
            advantages, returns = gae(*given, gamma=gamma, lam=lam)
            swapped, _ = gae(*given, gamma=lam, lam=gamma)
            assert not torch.allclose(advantages, swapped, atol=1e-3)
        rows_of_returns = {tuple(row) for row in returns.tolist()}  # of the last round
        (_, _, last_returns, _), _ = learnt[-1]
        assert all(tuple(row) in rows_of_returns for row in last_returns.tolist())
    assert is_another_run(*runs)


def test_ppo_clips_the_policy_with_clip_eps_and_the_values_with_the_other():
    def first_round(**settings):
        return observed("ppo", replace(CASES["ppo"].base, steps=1, **settings))[0][0]

    narrow, wide = first_round(clip_eps=1e-3), first_round(clip_eps=1e3)
    assert narrow["clip_fraction"] > 0.1
    assert wide["clip_fraction"] == 0
    narrow, wide = first_round(value_clip_eps=1e-3), first_round(value_clip_eps=1e3)
    assert narrow["value_loss"] != pytest.approx(wide["value_loss"], rel=1e-4)
    for key in ("clip_fraction", "policy_loss", "approx_kl"):  # the policy notices nothing
        assert narrow[key] == pytest.approx(wide[key])


def test_ppo_shortens_both_gradients(spy):
    calls = spy(ppo.training, "apply_gradients")
    observed("ppo", replace(CASES["ppo"].base, steps=1, max_grad_norm=0.3))
    of_values = [isinstance(model, ValueModel) for (model, _, _), _ in calls]
    assert of_values == [False, True] * (len(calls) // 2)
    assert {max_norm for (_, _, max_norm), _ in calls} == {0.3}


def test_beta_reaches_ipo_as_well():
    base = replace(CASES["dpo"].base, loss="ipo")
    assert is_another_run(observed("dpo", replace(base, beta=0.5)), observed("dpo", base))


def test_grpo_hands_each_setting_to_the_parameter_of_its_name(spy):
    calls, shares = spy(grpo, "grpo_loss"), spy(grpo.training, "loss_shares")
    changes = {"kl_coef": 0.3, "normalize": "constant", "max_new_tokens": 5}
    observed("grpo", replace(CASES["grpo"].base, **changes, tokens_per_pass=100))
    assert {arguments[3:] for arguments, _ in shares} == {("constant", 100)}
    expected = {
        "clip_eps": 0.05,
        "clip_eps_high": 0.08,
        "kl_coef": 0.3,
        "normalize": "constant",
        "max_tokens": 5,
    }
    assert calls
    for _, keywords in calls:
        assert keywords.pop("ref_logprobs") is not None
        assert keywords == expected


@pytest.mark.parametrize("normalize_std", [True, False])
def test_grpo_divides_by_the_std_if_told_so(spy, normalize_std):
    scored, calls = spy(grpo, "score_by_rule"), spy(grpo, "grpo_loss")
    config = replace(CASES["grpo"].base, steps=1, normalize_std=normalize_std)
    observed("grpo", config)
    learnt = torch.cat([arguments[2] for arguments, _ in calls])  # every row once an epoch
    (rollout, picked, _), keywords = scored[0]
    rewards, _ = score_by_rule(rollout, picked, rule, **keywords)
    for std in (True, False):
        advantages = group_advantages(rewards, **keywords, normalize_std=std)
        expected = advantages[advantages != 0].repeat(config.epochs)  # the others are skipped
        same = torch.allclose(learnt.sort().values, expected.sort().values)
        assert same == (std == normalize_std)


def test_grpo_reads_smaller_parts_with_fewer_tokens_per_pass(spy):
    calls = spy(grpo, "grpo_loss")
    config = CASES["grpo"].base
    few = observed("grpo", config)
    wide_passes = len(calls)
    calls.clear()
    many = observed("grpo", replace(config, tokens_per_pass=12))
    assert len(calls) > wide_passes
    assert max(int(mask.sum()) for (*_, mask), _ in calls) <= 12
    assert not is_another_run(few, many)


def test_grpo_leaves_equal_groups_out_only_if_told_so(spy):
    calls = spy(grpo, "grpo_loss")
    config = replace(CASES["grpo"].base, steps=1)
    for skip in (True, False):
        calls.clear()
        observed("grpo", replace(config, skip_equal_groups=skip))
        advantages = torch.cat([arguments[2] for arguments, _ in calls])
        assert bool((advantages != 0).all()) == skip
