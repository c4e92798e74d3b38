"""What all training loops share: the learning-rate schedule reaches every optimizer."""

import pytest
import torch

from kittenllm.batches import TokenStream, pack
from kittenllm.dpo import DPOConfig, reference_logprobs, train_dpo
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import learning_rate_scale
from kittenllm.orpo import ORPOConfig, train_orpo
from kittenllm.pairs import PreferencePair
from kittenllm.ppo import PPOConfig, ValueModel, train_ppo
from kittenllm.pretrain import PretrainConfig, train_pretrain
from kittenllm.reward_model import RewardModel, RewardModelConfig, train_reward_model
from kittenllm.sft import SFTConfig, train_sft

STEPS = 5
PAIRS = [PreferencePair([3, 4], [t, 1], [t + 1, 2, 1]) for t in range(5, 25)]
PROMPTS = [[3, t] for t in range(5, 25)]


class Scales:
    """An optimizer that learns nothing and writes down the scales it was given."""

    def __init__(self, model):
        self.model, self.scales = model, []

    def step(self):
        pass

    def zero_grad(self):
        self.model.zero_grad(set_to_none=True)

    def set_scale(self, scale):
        self.scales.append(scale)


def loops(gpt):
    """name -> (settings, optimizers, loop); each loop has a falling rate."""
    reward_model, value_model = RewardModel(gpt), ValueModel(gpt)
    rows = pack([([3, t, 1], [False, True, True]) for t in range(5, 40)], row_length=16, pad_id=0)
    stream = TokenStream(torch.arange(3, 60).repeat(3))
    first, second = Scales(gpt), Scales(value_model)
    by_reward = Scales(reward_model)
    generator = torch.Generator(device=gpt.device).manual_seed(0)
    common = {"optimizer": first, "generator": generator}
    small = {"steps": STEPS, "cooldown": 0.6}

    pretrain = PretrainConfig(**small, warmup=0.4, row_length=8)
    sft = SFTConfig(**small, warmup=0.4, rows_per_step=8)
    reward = RewardModelConfig(**small, warmup=0.4, pairs_per_step=4)
    dpo = DPOConfig(**small, warmup=0.4, pairs_per_step=4)
    orpo = ORPOConfig(**small, warmup=0.4, pairs_per_step=4)
    ppo = PPOConfig(**small, replies_per_step=4, max_new_tokens=4)
    grpo = GRPOConfig(**small, prompts_per_step=2, group_size=2, max_new_tokens=4)
    whole = [(pair.prompt + pair.chosen, pair.prompt + pair.rejected) for pair in PAIRS]
    kept = reference_logprobs(gpt, PAIRS)

    def nothing(rollout):
        return torch.zeros(len(rollout.tokens), device=rollout.tokens.device)

    def rule(prompt_number, reply, ended):
        return float(len(reply)), {}

    return {
        "pretrain": (pretrain, [first], train_pretrain(gpt, stream, config=pretrain, **common)),
        "sft": (sft, [first], train_sft(gpt, rows, config=sft, **common)),
        "reward model": (
            reward,
            [by_reward],
            train_reward_model(
                reward_model, whole, config=reward, optimizer=by_reward, generator=generator
            ),
        ),
        "dpo": (dpo, [first], train_dpo(gpt, PAIRS, kept, config=dpo, **common)),
        "orpo": (orpo, [first], train_orpo(gpt, PAIRS, config=orpo, **common)),
        "ppo": (
            ppo,
            [first, second],
            train_ppo(
                gpt,
                gpt,
                value_model,
                PROMPTS,
                nothing,
                config=ppo,
                value_optimizer=second,
                **common,
            ),
        ),
        "grpo": (grpo, [first], train_grpo(gpt, PROMPTS, rule, config=grpo, **common)),
    }


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward model", "dpo", "orpo", "ppo", "grpo"])
def test_the_schedule_reaches_the_optimizer(tiny_gpt, name):
    config, optimizers, loop = loops(tiny_gpt)[name]
    numbers = list(loop)
    warmup = getattr(config, "warmup", 0.0)
    expected = [
        learning_rate_scale(step, STEPS, warmup=warmup, cooldown=config.cooldown)
        for step in range(STEPS)
    ]
    assert len(set(expected)) > 2  # it does change
    for optimizer in optimizers:
        assert optimizer.scales == expected
    assert [n["lr_scale"] for n in numbers] == expected
    assert [n["step"] for n in numbers] == list(range(STEPS))


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward model", "dpo", "orpo"])
def test_all_loops_say_the_same_things_in_the_same_order(tiny_gpt, name):
    keys = list(next(loops(tiny_gpt)[name][2]))
    assert keys[:2] == ["step", "loss"]
    assert keys[-4:] == ["grad_norm", "lr_scale", "seconds", "seconds_training"]
