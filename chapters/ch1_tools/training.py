"""Teaching a kitten to use tools: the settings and the conversations.

Used by story.py, which trains three times: on saying after, then with calls, and, from the same
start, with answers given at once.
"""

import random
from dataclasses import dataclass, replace

from kittenllm.chat import ChatTokens
from kittenllm.config import check_options, nested, option
from kittenllm.kitten_town import tool_chats
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

    echo_steps: int = option(
        240, "optimizer steps of the drill that comes first: saying after", low=1
    )
    echo_lr: float = option(5e-3, "both learning rates of the drill that comes first", above=0)
    sft: SFTConfig = nested(  # with calls, and then with answers given at once
        SFTConfig(steps=310, rows_per_step=8, replay_fraction=0.17, matrix_lr=3e-3, other_lr=5e-3),
        hidden="warmup cooldown max_grad_norm",
    )
    chat_fraction: float = option(
        0.28, "share of the conversations that need no tool, in tokens", low=0, below=1
    )
    echo_fraction: float = option(
        0.25, "share of the other conversations that are still drills", low=0, high=1
    )

    def __post_init__(self):
        check_options(self)

    def drill(self) -> "Settings":
        """The settings of the drill."""
        rates = {"matrix_lr": self.echo_lr, "other_lr": self.echo_lr}
        drill = replace(self.sft, steps=self.echo_steps, **rates)
        return replace(self, sft=drill, chat_fraction=self.chat_fraction / 2)

    def answered_at_once(self) -> "Settings":
        """The settings of the kitten that gets no tools."""
        rows = min(DIRECT_ROWS, self.sft.rows_per_step)
        return replace(self, sft=replace(self.sft, rows_per_step=rows))


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
