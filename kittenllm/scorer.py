"""A trained reward model as a judge that others can ask: from a file, in a unit of its own.

One idea: a reward model's scores have no zero and no unit, since only differences were learnt. PPO
weighs them against the KL penalty, so they need both: on replies of the SFT kitten the scores get
mean 0 and standard deviation 1. Then kl_coef means the same for every reward model.

A reward model reads token ids. With another tokenizer the same ids are other words, so a file that
was made with another vocabulary is refused.

Read before: reward_model.py, runs/checkpoints.py. Left out: scores that drift during RL are not
standardised again. Letters: N replies, T tokens.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kittenllm import checks
from kittenllm.gpt import GPT
from kittenllm.logprobs import all_equal, widen
from kittenllm.reward_model import RewardModel
from kittenllm.runs.checkpoints import CheckpointError, load_head, load_model, save_model
from kittenllm.sampling import Rollout
from kittenllm.tokenizer import Tokenizer

HEAD = "reward_head"  # the weights beside the GPT, by name
ROWS_AT_ONCE = 512


def new_reward_model(gpt: GPT) -> RewardModel:
    """A reward model that starts from a *copy* of the chat model."""
    return RewardModel(copy.deepcopy(gpt))


def reward_extra(reward_model: RewardModel) -> dict:
    """What a model file needs beside the GPT: the `extra` of `save_model`."""
    weights = reward_model.state_dict()
    head = {name: weight.cpu() for name, weight in weights.items() if not name.startswith("gpt.")}
    return {HEAD: head, "chat": False}


def save_reward_model(path, reward_model: RewardModel, tokenizer: Tokenizer) -> None:
    """Write a reward model that `load_reward_model` reads.  Raises: CheckpointError."""
    save_model(path, reward_model.gpt, tokenizer, extra=reward_extra(reward_model))


def load_reward_model(path, tokenizer: Tokenizer, *, device="cpu") -> RewardModel:
    """Read a reward model, for a policy that speaks with `tokenizer`.

    Raises: CheckpointError for a missing or damaged file, a model without a reward head, or a
    reward model with another tokenizer than the policy.
    """
    gpt, its_tokenizer, extra = load_model(path, device=device)
    reward_model = _with_head(path, gpt, extra)
    if its_tokenizer.to_state() != tokenizer.to_state():
        raise CheckpointError(
            f"{path}: this reward model was trained with another tokenizer "
            f"({its_tokenizer.vocab_size} tokens) than the policy ({tokenizer.vocab_size} tokens), "
            "so it would read other words than were said. Train it again from the same kitten."
        )
    return reward_model.to(device)


def check_reward_model(path) -> None:
    """Refuse a file that no policy could use.  Raises: CheckpointError as `load_reward_model`."""
    gpt, _, extra = load_model(path)
    _with_head(path, gpt, extra)


def _with_head(path, gpt: GPT, extra: dict) -> RewardModel:
    """The reward model in a file.  Raises: CheckpointError for a missing or wrong head."""
    if HEAD not in extra:
        raise CheckpointError(
            f"{path}: a chat model, not a reward model. Give the model.pt of ch2_reward_model."
        )
    reward_model = RewardModel(gpt)
    try:
        load_head(reward_model, extra[HEAD])
    except ValueError as error:
        raise CheckpointError(f"{path}: not a reward model ({error}). Train it again.") from error
    return reward_model


@dataclass(frozen=True)
class Scorer:
    """score = (reward - mean) / std. Call it with a rollout."""

    reward_model: RewardModel
    mean: float = 0.0
    std: float = 1.0

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        """The standardised score of each reply: -> (N,)."""
        return self.of_tokens(rollout.tokens, rollout.lengths)

    @torch.no_grad()
    def of_tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The same for rows of prompt and reply: (N, T), (N,) -> (N,)."""
        parts = zip(tokens.split(ROWS_AT_ONCE), lengths.split(ROWS_AT_ONCE), strict=True)
        rewards = torch.cat([widen(self.reward_model(rows, ends)) for rows, ends in parts])
        return (rewards - self.mean) / self.std

    def standardised_on(self, rollout: Rollout) -> "Scorer":
        """A scorer whose scores have mean 0 and standard deviation 1 on these replies.

        Scores that are all equal, as from an untrained head, keep the unit they have.
        Raises: ValueError for fewer than two replies.
        """
        checks.count("replies to standardise on", len(rollout.tokens), low=2)
        rewards = replace(self, mean=0.0, std=1.0)(rollout)
        std = float(rewards.std())
        equal = all_equal(rewards, torch.ones_like(rewards, dtype=torch.bool))
        has_spread = std > 1e-6 and not equal
        return replace(self, mean=float(rewards.mean()), std=std if has_spread else 1.0)
