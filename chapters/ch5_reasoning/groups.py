"""A few groups of GRPO, kept to be looked at: the replies, their rewards, and what the update did.

One idea: to look is not to touch. The log listens to the reward function, which sees every reply
before the update, and asks the policy for the log-probs of these replies before and after it. No
random number is drawn and no training step is different.

A reply is {"reward", "advantage", "right", "ended", "ids", "logprobs", "change"}: the last two in
hundredths of a nat for each token, before the update and what it added.

Used by story.py; the report shows groups.json, chapters.export writes it for another program.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from chapters.ch5_reasoning.thinking import Exercise
from chapters.common.kitten import Kitten
from kittenllm.chat import text_prompt
from kittenllm.forward import frozen_logprobs
from kittenllm.grpo import GRPOConfig, group_advantages
from kittenllm.rewards import Reward
from kittenllm.runs.checkpoints import write_json_atomic
from kittenllm.runs.json_files import read_json_if_possible

FILE = "groups.json"
ROUNDS = 8  # that are logged, evenly spaced from the first to the last
GROUPS = 3  # of a round: the first ones, nothing is picked


class GroupLog:
    """Keeps the first groups of some rounds in <folder>/groups.json.

    Wrap the reward with `watching`, and call `after_round` behind every round. Only the training
    called "grpo" is logged; those of the experiments are not.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        thinker: Kitten,
        practice: Sequence[Exercise],
        config: GRPOConfig,
        start_step: int,
    ):
        self.path, self.step = folder / FILE, start_step
        self.thinker, self.practice, self.config = thinker, practice, config
        self.rounds = logged_rounds(config.steps) if name == "grpo" else set()
        self.kept = earlier_rounds(self.path, start_step)
        self.seen: list[tuple] = []  # (number of the problem, reply, ended, reward, is it right)
        self.before: list[torch.Tensor] = []

    def watching(self, reward: Reward) -> Reward:
        """The same reward; replies of the first groups of a logged round are written down."""

        def watched(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
            worth, parts = reward(number, reply, ended)
            wanted = GROUPS * self.config.group_size
            if self.step in self.rounds and len(self.seen) < wanted:
                self.seen.append((number, reply, ended, worth, parts.get("accuracy", 0.0)))
                self.before.append(self.logprobs(number, reply))
            return worth, parts

        return watched

    def after_round(self) -> None:
        """Write down what the update did to the replies of this round."""
        if self.seen:
            self.kept.append({"step": self.step, "groups": self.groups()})
            pieces = {token for entry in self.kept for token in tokens_of(entry)}
            names = self.thinker.tokenizer.tokens_as_text(sorted(pieces))
            content = {"format": 1, "pieces": dict(zip(sorted(pieces), names, strict=True))}
            write_json_atomic(self.path, {**content, "rounds": self.kept})
        self.step, self.seen, self.before = self.step + 1, [], []

    def groups(self) -> list[dict]:
        size = self.config.group_size
        rewards = torch.tensor([worth for _, _, _, worth, _ in self.seen])
        advantages = group_advantages(
            rewards, group_size=size, normalize_std=self.config.normalize_std
        ).tolist()
        replies = []
        for row, (number, reply, ended, worth, right) in enumerate(self.seen):
            before, after = self.before[row], self.logprobs(number, reply)
            numbers = {"reward": round(worth, 3), "advantage": round(advantages[row], 3)}
            numbers |= {"right": right == 1.0, "ended": ended, "ids": list(reply)}
            numbers |= {"logprobs": hundredths(before), "change": hundredths(after - before)}
            replies.append(numbers)
        problems = [self.practice[number].text for number, *_ in self.seen[::size]]
        starts = range(0, len(replies), size)
        return [
            {"prompt": problem, "replies": replies[start : start + size]}
            for problem, start in zip(problems, starts, strict=True)
        ]

    def logprobs(self, number: int, reply: list[int]) -> torch.Tensor:
        """The policy's log-prob of each token of a reply, (tokens,) nats."""
        gpt = self.thinker.gpt
        prompt = text_prompt(self.thinker.tokenizer, self.practice[number].text)
        tokens = torch.tensor([prompt + list(reply)], device=gpt.device)
        mask = torch.arange(1, tokens.shape[1], device=gpt.device)[None] >= len(prompt)
        if not reply:
            return torch.zeros(0)
        return frozen_logprobs(gpt, tokens, mask)[mask].cpu()


def hundredths(nats: torch.Tensor) -> list[int]:
    """Log-probs as whole hundredths of a nat: exact enough to look at, and short."""
    return [round(100 * number) for number in nats.tolist()]


def logged_rounds(steps: int) -> set[int]:
    """ROUNDS rounds, evenly spaced, with the first and the last.

    >>> sorted(logged_rounds(70))
    [0, 10, 20, 30, 39, 49, 59, 69]
    """
    return {round(place * (steps - 1) / (ROUNDS - 1)) for place in range(ROUNDS)}


def earlier_rounds(path: Path, start_step: int) -> list[dict]:
    """What a stopped run had logged; nothing if the file is not what it should be."""
    if start_step == 0:
        return []
    try:
        rounds = read_json_if_possible(path)["rounds"]
        kept = [entry for entry in rounds if entry["step"] < start_step]
        return kept if all(map(tokens_of, kept)) else []
    except (KeyError, TypeError, AttributeError):
        return []


def tokens_of(entry: dict) -> list[int]:
    return [t for group in entry["groups"] for reply in group["replies"] for t in reply["ids"]]
