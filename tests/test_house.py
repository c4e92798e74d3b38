"""The house: each function is where a reader looks for it, and what is named is what trains."""

import ast
import importlib

import pytest
import torch
from test_imports import CHAPTER_FILES, ROOT, imported, short_name, tree_of

from kittenllm import grpo, ppo
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel, train_ppo

DEFINED = {
    "logprobs": "token_logprobs sequence_logprobs masked_mean entropy kl_k1 kl_k2 kl_k3",
    "forward": "action_hidden action_logprobs frozen_logprobs plain_action_logprobs",
    "sampling": "generate stream Rollout",
    "ppo": "kl_shaped_rewards gae ppo_policy_loss ppo_value_loss whiten"
    " ValueModel PPOConfig train_ppo",
    "grpo": "group_advantages grpo_loss GRPOConfig train_grpo",
    "rewards": "score_by_rule",
}


@pytest.mark.parametrize(
    "module, name", [(module, name) for module in DEFINED for name in DEFINED[module].split()]
)
def test_each_function_is_defined_where_the_design_says(module, name):
    thing = getattr(importlib.import_module(f"kittenllm.{module}"), name)
    assert thing.__module__ == f"kittenllm.{module}"


# ------------------------------------------------------------- what is named is what trains

PROMPTS = [[3, 4, t] for t in range(5, 13)]


@pytest.fixture
def watched(monkeypatch):
    """calls = watched(module, name): a list that grows with every call of module.name."""

    def watch(module, name):
        calls, real = [], getattr(module, name)

        def counting(*arguments, **settings):
            calls.append(arguments)
            return real(*arguments, **settings)

        monkeypatch.setattr(module, name, counting)
        return calls

    return watch


def tools(gpt: GPT) -> dict:
    return {
        "optimizer": make_optimizer(gpt, matrix_lr=1e-3, other_lr=1e-3),
        "generator": torch.Generator(device=gpt.device).manual_seed(0),
    }


def fresh(gpt: GPT) -> GPT:
    return GPT(gpt.config, generator=torch.Generator().manual_seed(0)).to(gpt.device)


@pytest.mark.parametrize(
    "name", ["kl_shaped_rewards", "gae", "whiten", "ppo_policy_loss", "ppo_value_loss"]
)
def test_train_ppo_calls_the_functions_that_stand_beside_it(name, tiny_gpt, watched):
    calls = watched(ppo, name)
    policy, value_model = fresh(tiny_gpt), ValueModel(fresh(tiny_gpt))
    rounds = train_ppo(
        policy,
        tiny_gpt,
        value_model,
        PROMPTS,
        lambda rollout: rollout.response_mask.sum(dim=1).float(),
        config=PPOConfig(steps=1, replies_per_step=8, max_new_tokens=4),
        value_optimizer=make_optimizer(value_model, matrix_lr=1e-3, other_lr=1e-3),
        **tools(policy),
    )
    next(rounds)
    assert calls


@pytest.mark.parametrize("name", ["group_advantages", "grpo_loss"])
def test_train_grpo_calls_the_functions_that_stand_beside_it(name, tiny_gpt, watched):
    calls = watched(grpo, name)
    policy = fresh(tiny_gpt)
    rounds = train_grpo(
        policy,
        PROMPTS,
        lambda number, reply, ended: (float(sum(reply)), {}),
        config=GRPOConfig(steps=1, prompts_per_step=2, group_size=2, max_new_tokens=4),
        **tools(policy),
    )
    next(rounds)
    assert calls


# ------------------------------------------------------------------ a story holds its own loop

LOOPS = {
    "ch0_base": "pretrain.train_pretrain",
    "ch1_sft": "sft.train_sft",
    "ch1_tools": "sft.train_sft",
    "ch1_language": "sft.train_sft",
    "ch2_reward_model": "reward_model.train_reward_model",
    "ch3_ppo": "ppo.train_ppo",
    "ch4_preferences": "dpo.train_dpo orpo.train_orpo",
    "ch5_reasoning": "sft.train_sft grpo.train_grpo",
    "ch6_r1": "sft.train_sft grpo.train_grpo",
}


@pytest.mark.parametrize("chapter", LOOPS)
def test_a_story_holds_its_loop(chapter):
    """It calls the algorithms' own training loops and follows them step by step; no other file of
    the chapter trains a policy."""
    path = ROOT / "chapters" / chapter / "story.py"
    nodes = list(ast.walk(tree_of(path)))
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    followed = [
        n.iter.func for n in nodes if isinstance(n, ast.For) and isinstance(n.iter, ast.Call)
    ]
    assert "follow" in {getattr(function, "attr", None) for function in followed}
    for loop in LOOPS[chapter].split():
        assert f"kittenllm.{loop}" in imported(path) and loop.split(".")[1] in called
        others = set(path.parent.glob("*.py")) - {path}
        assert not [other for other in others if f"kittenllm.{loop}" in imported(other)]


def test_fine_tuning_is_in_these_stories_and_nowhere_else():
    files = [path for path in CHAPTER_FILES if "kittenllm.sft.train_sft" in imported(path)]
    stories = {f"chapters/{name}/story.py" for name in LOOPS if "sft.train_sft" in LOOPS[name]}
    assert {short_name(path) for path in files} == stories


def test_nobody_imports_a_story():
    """An experiment receives the loop as an argument; the runner finds stories by their name."""
    for path in CHAPTER_FILES:
        stories = {name for name in imported(path) if "story" in name.split(".")}
        assert not stories, f"{short_name(path)} imports {stories}"
