"""Teaching a kitten to use tools: the settings and the conversations.

Used by story.py, which trains three times: on saying after, then with calls, and, from the same
start, with answers given at once.
"""

import random
from dataclasses import dataclass, replace

from kittenllm import checks
from kittenllm.chat import ChatTokens
from kittenllm.kitten_town import tool_chats
from kittenllm.settings import setting
from kittenllm.sft import SFTConfig
from kittenllm.skills.agent import encode_tool_chat
from kittenllm.tokenizer import Tokenizer

# Shares of the conversations about tools. Plans are the longest, and have three shapes.
SKILL_SHARES = {"calculator": 0.32, "search": 0.38, "plan": 0.3}
DIRECT_SHARES = {"calculator": 0.54, "search": 0.46}
# in one step: answers given at once are short, three rows hold nearly as many as eight with calls
DIRECT_ROWS = 3


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    echo_steps: int = setting(240, "optimizer steps of the drill that comes first: saying after")
    steps: int = setting(310, "optimizer steps with calls, and then with answers given at once")
    rows_per_step: int = setting(8, "packed rows in one step")
    chat_fraction: float = setting(0.28, "share of the conversations that need no tool, in tokens")
    echo_fraction: float = setting(0.25, "share of the other conversations that are still drills")
    replay_fraction: float = setting(0.17, "share of the rows that are pretraining text")
    matrix_lr: float = setting(3e-3, "Muon's learning rate, for the hidden matrices")
    other_lr: float = setting(5e-3, "AdamW's learning rate, for embeddings and norms")
    echo_lr: float = setting(5e-3, "both learning rates of the drill that comes first")

    def __post_init__(self):
        if not 0 <= self.chat_fraction < 1:
            raise ValueError(f"chat_fraction must be 0 or more, below 1, got {self.chat_fraction}")
        if not 0 <= self.echo_fraction <= 1:
            raise ValueError(f"echo_fraction must lie in 0 .. 1, got {self.echo_fraction}")
        checks.count("echo_steps", self.echo_steps)
        checks.positive("echo_lr", self.echo_lr)
        self.fine_tuning()  # checks the other numbers

    def fine_tuning(self) -> SFTConfig:
        """The algorithm's own settings."""
        return SFTConfig(
            steps=self.steps,
            rows_per_step=self.rows_per_step,
            replay_fraction=self.replay_fraction,
            matrix_lr=self.matrix_lr,
            other_lr=self.other_lr,
        )

    def drill(self) -> "Settings":
        """The settings of the drill."""
        return replace(
            self,
            steps=self.echo_steps,
            chat_fraction=self.chat_fraction / 2,
            matrix_lr=self.echo_lr,
            other_lr=self.echo_lr,
        )

    def answered_at_once(self) -> "Settings":
        """The settings of the kitten that gets no tools."""
        return replace(self, rows_per_step=min(DIRECT_ROWS, self.rows_per_step))


QUICK = {"echo_steps": 4, "steps": 6}


def tool_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request carried out with tools."""
    request = draw_request(SKILL_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.demonstration(request, rng))


def direct_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request answered at once."""
    request = draw_request(DIRECT_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.direct_demonstration(request))


def draw_request(shares: dict[str, float], rng: random.Random) -> tool_chats.Request:
    (skill,) = rng.choices(list(shares), list(shares.values()))
    return tool_chats.MAKERS[skill](tool_chats.training_split(rng), rng)
