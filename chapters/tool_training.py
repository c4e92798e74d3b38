"""Teaching a kitten to use tools: the settings, the mix of conversations, and one training run.

Used by ch1_tools.py, which trains three times: on saying after, then with calls, and, from the same
start, with answers given at once.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from chapters.fine_tuning import Kitten, load_base
from kittenllm import checks
from kittenllm.agent import encode_tool_chat
from kittenllm.batches import PackedRows, TokenStream, pack
from kittenllm.chat import ChatTokens, encode_chat
from kittenllm.checkpoints import load_model
from kittenllm.kitten_town import tool_chats
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.echoes import echo_chat
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.runs import Run
from kittenllm.settings import Common, new_generator, new_random, setting
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.stages import Stage
from kittenllm.tokenizer import Tokenizer

# Shares of the conversations about tools. Plans are the longest, and have three shapes.
SKILL_SHARES = {"calculator": 0.32, "search": 0.38, "plan": 0.3}
DIRECT_SHARES = {"calculator": 0.54, "search": 0.46}
MakeChat = Callable[[Tokenizer, random.Random], ChatTokens]
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


def load_chat_kitten(base: dict, chat: dict, common: Common) -> Kitten:
    """The kitten of chapter 1, with the pretraining text to replay."""
    kitten = load_base(base, common)
    gpt, _, _ = load_model(common.folder("ch1_sft") / chat["model"], device=common.device)
    return Kitten(gpt, kitten.tokenizer, kitten.texts, common)


def echo(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One drill: something is said three times."""
    return encode_tool_chat(tokenizer, echo_chat(rng))


def tool_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request carried out with tools."""
    request = draw_request(SKILL_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.demonstration(request, rng))


def direct_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request answered at once."""
    request = draw_request(DIRECT_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.direct_demonstration(request))


def with_echoes(make: MakeChat, drill: MakeChat, share: float) -> MakeChat:
    """`make`, but this share of its conversations are drills: what is not practised fades."""

    def made(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
        return (drill if rng.random() < share else make)(tokenizer, rng)

    return made


def draw_request(shares: dict[str, float], rng: random.Random) -> tool_chats.Request:
    (skill,) = rng.choices(list(shares), list(shares.values()))
    return tool_chats.MAKERS[skill](tool_chats.training_split(rng), rng)


def mixed_rows(
    make: MakeChat,
    tokenizer: Tokenizer,
    settings: Settings,
    common: Common,
    row_length: int,
) -> PackedRows:
    """Fresh conversations for all steps: those of `make`, and chats that need no tool."""
    rng = new_random(common.seed, "ch1_tools", "data")
    town = build_town()
    rows = settings.steps * settings.rows_per_step * (1 - settings.replay_fraction)
    wanted = rows * row_length  # tokens
    chats: list[ChatTokens] = []
    ordinary, total = 0, 0
    while total < wanted:
        if ordinary < settings.chat_fraction * total:
            chat = encode_chat(tokenizer, conversation(town, rng)["messages"])
            ordinary += len(chat)
        else:
            chat = make(tokenizer, rng)
        if len(chat) > row_length:
            continue
        total += len(chat)
        chats.append(chat)
    return pack(chats, row_length=row_length, pad_id=tokenizer.pad_id)


def train(chapter: Run, name: str, kitten: Kitten, rows: PackedRows, settings: Settings) -> Stage:
    """Fine-tune `kitten` on `rows`; returns the finished stage."""
    config = settings.fine_tuning()
    optimizer = make_optimizer(kitten.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", kitten.common.seed, "ch1_tools", "train")
    objects = {"gpt": kitten.gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=TokenStream(kitten.texts.train) if config.replay_fraction else None,
    )
    for _ in stage.follow(training, show=("chat_loss",)):
        pass
    return stage
