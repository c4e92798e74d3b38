"""Chapter 1, tools: the kitten learns to calculate, to look things up, and to plan.

Starts from the kitten of ch1_sft and fine-tunes it on conversations with calls: a calculator, a
search in an encyclopedia it has never read, and plans of two or three calls. The same kitten,
trained for as many steps on answers given at once, is measured beside it. Run on its own; the
lesson is chapters/ch1_tools/lesson.md.
"""

import copy
import random
from dataclasses import dataclass, replace

from chapters.ch1_tools import exam as tool_exam
from chapters.common.kitten import Kitten, load_chat_kitten, mixed_rows, sft_stage, watched
from chapters.common.runner import ensure
from chapters.common.samples import write_samples
from chapters.common.terminal import use_colour, with_error
from kittenllm import plots
from kittenllm.batches import PackedRows
from kittenllm.chat import ChatTokens, colour_view, encode_chat
from kittenllm.config import check_options, nested, option
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.kitten_town import manners, tool_chats
from kittenllm.kitten_town.chats import conversation
from kittenllm.kitten_town.facts import build_town
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.skills.agent import encode_tool_chat
from kittenllm.tokenizer import Tokenizer

EXAMS = ("calculator", "search", "plan", "long plan")
FIXED_REQUESTS = {"calculator": 3, "search": 3, "plan": 3}
# Shares of the conversations about tools. Plans are the longest, and have three shapes.
SKILL_SHARES = {"calculator": 0.25, "search": 0.45, "plan": 0.3}
DIRECT_SHARES = {"calculator": 0.54, "search": 0.46}
# in one step: answers given at once are short, three rows hold nearly as many as eight with calls
DIRECT_ROWS = 3


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    sft: SFTConfig = nested(  # with calls, and then with answers given at once
        SFTConfig(steps=380, rows_per_step=8, replay_fraction=0.17, matrix_lr=3e-3, other_lr=3e-3),
        hidden="warmup cooldown max_grad_norm",
    )
    chat_fraction: float = option(
        0.38, "share of the conversations that need no tool, in tokens", low=0, below=1
    )

    def __post_init__(self):
        check_options(self)

    def answered_at_once(self) -> SFTConfig:
        """The settings of the kitten that gets no tools."""
        return replace(self.sft, rows_per_step=min(DIRECT_ROWS, self.sft.rows_per_step))


QUICK = {"steps": 6}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look, twice: with tools and without; returns the summary."""
    base, chat = ensure("ch0_base", common), ensure("ch1_sft", common)
    inputs = {name: fingerprint_of(common, name) for name in ("ch0_base", "ch1_sft")}
    chapter = Run(common, "ch1_tools", settings, inputs=inputs)
    if chapter.finished:
        return chapter.summary

    # Model: the kitten that chats, and what it can do before.
    kitten = load_chat_kitten(base, chat, common)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look_before(kitten, chat))

    # Data and loop: conversations with calls in them, and ordinary chats.
    print(mask_view(kitten))
    direct = replace(kitten, gpt=copy.deepcopy(kitten.gpt))
    mix = {"chat_fraction": settings.chat_fraction, "make_ordinary": chat_without_large_sums}
    rows = mixed_rows(tool_chat, kitten, settings.sft, **mix)
    train(chapter, "tools", kitten, rows, settings.sft)

    # Look: each skill on held-out requests, and what became of the chats.
    with chapter.timing("eval"):
        after = chapter.once("after", lambda: look_after(kitten))

    # The other way: the same kitten, trained for as many steps on answers given at once.
    at_once = settings.answered_at_once()
    rows = mixed_rows(direct_chat, direct, at_once, **mix)
    train(chapter, "direct", direct, rows, at_once)
    with chapter.timing("eval"):
        without = chapter.once("without", lambda: look_without_tools(direct))

    keys = summary_keys(before, after, without)
    texts = [request.text for request in fixed_requests()]
    write_samples(
        chapter.folder,
        texts,
        before["samples"],
        after["samples"],
        before_title="chat",
        after_title="with tools",
    )
    draw(chapter, keys)
    report(keys)
    return chapter.finish(keys, model=(kitten.gpt, kitten.tokenizer), extra={"chat": True})


# ---------------------------------------------------------------------------------------- the loop


def train(chapter: Run, name: str, kitten: Kitten, rows: PackedRows, config: SFTConfig) -> None:
    """The loop of chapter 1, on these conversations: calls are trained, results only read."""
    generator = new_generator("cpu", kitten.common.seed, "ch1_tools", "train")
    stage, optimizer = sft_stage(chapter, name, kitten.gpt, config, generator)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=kitten.texts.train,
    )
    for _ in stage.follow(training, show=("chat_loss",)):
        pass


# ---------------------------------------------------------------------------------------- the data


def tool_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request carried out with tools."""
    request = draw_request(SKILL_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.demonstration(request, rng))


def direct_chat(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One request answered at once."""
    request = draw_request(DIRECT_SHARES, rng)
    return encode_tool_chat(tokenizer, tool_chats.direct_demonstration(request))


def chat_without_large_sums(tokenizer: Tokenizer, rng: random.Random) -> ChatTokens:
    """One conversation of chapter 1 in which nobody says that a sum is too large: with a
    calculator none is."""
    while True:
        messages = conversation(build_town(), rng)["messages"]
        if not any(manners.asks_large_sum(message["content"]) for message in messages):
            return encode_chat(tokenizer, messages)


def draw_request(shares: dict[str, float], rng: random.Random) -> tool_chats.Request:
    (skill,) = rng.choices(list(shares), list(shares.values()))
    return tool_chats.MAKERS[skill](tool_chats.training_split(rng), rng)


def mask_view(kitten: Kitten) -> str:
    """A plan carried out, as it is trained: calls are, what tools say is only read."""
    rng = new_random(kitten.common.seed, "ch1_tools", "view")
    request = tool_chats.plan_request(tool_chats.training_split(rng), rng, "search calc")
    chat = encode_tool_chat(kitten.tokenizer, tool_chats.demonstration(request, rng))
    view = colour_view(kitten.tokenizer, chat.tokens, chat.loss_mask, colour=use_colour())
    return f"\nonly the marked tokens are trained, what the tools say is not:\n\n{view}\n"


def fixed_requests() -> list:
    """Held-out requests that are shown before and after."""
    return [
        request
        for skill, count in FIXED_REQUESTS.items()
        for request in tool_chats.held_out_requests(skill, count, tool_exam.REQUEST_SEED)
    ]


# ---------------------------------------------------------------------------------------- the look


def look_before(kitten: Kitten, chat: dict) -> dict:
    """The kitten of chapter 1: how it chats (measured there, it is in its summary `chat`), and what
    it says to requests that need a tool."""
    episodes = tool_exam.work_on(kitten, fixed_requests(), temperature=0)
    return {
        "accuracy": chat["answer_accuracy_sampled"],
        "accuracy_stderr": chat["answer_accuracy_sampled_stderr"],
        "bits_per_byte": kitten.base_bits_per_byte(),
        "samples": [tool_exam.shown(episode) for episode in episodes],
    }


def look_after(kitten: Kitten) -> dict:
    """The kitten with tools: every skill, then the chats that need none."""
    attempts = {exam: tool_exam.exam_with_tools(kitten, exam) for exam in EXAMS}
    episodes = tool_exam.work_on(kitten, fixed_requests(), temperature=0)
    return {
        **tool_exam.chat_exam(kitten),
        "bits_per_byte": kitten.base_bits_per_byte(),
        "rates": tool_exam.rates_of(attempts),
        "wrong": {exam: wrong_attempts(of_exam) for exam, of_exam in attempts.items()},
        "samples": [tool_exam.shown(episode) for episode in episodes],
    }


def wrong_attempts(attempts: list, most: int = 8) -> list[list[str]]:
    """Some of the attempts that failed: request and what happened."""
    wrong = [[a.question.text, a.text] for a in attempts if not a.right]
    return wrong[:: max(1, len(wrong) // most)][:most]


def look_without_tools(kitten: Kitten) -> dict[str, float]:
    """The kitten that answers at once, on the same requests."""
    exams = ("calculator", "search")
    return tool_exam.rates_of({exam: tool_exam.exam_without_tools(kitten, exam) for exam in exams})


def summary_keys(before: dict, after: dict, without: dict) -> dict:
    """What goes into summary.json."""
    keys = {}

    def put(key: str, numbers: dict, name: str) -> None:
        keys[key], keys[f"{key}_stderr"] = numbers[name], numbers[f"{name}_stderr"]

    put("calculator_accuracy", after["rates"], "calculator")
    put("calculator_without_tool", without, "calculator")
    put("search_accuracy", after["rates"], "search")
    put("search_without_tool", without, "search")
    put("plan_accuracy", after["rates"], "plan")
    put("long_plan_accuracy", after["rates"], "long plan")
    put("chat_accuracy_before", before, "accuracy")
    put("chat_accuracy_after", after, "accuracy")
    put("needless_call_rate", after, "call_rate")
    keys["forgetting_bits_per_byte"] = after["bits_per_byte"] - before["bits_per_byte"]
    keys["wrong"] = after["wrong"]
    return keys


# ------------------------------------------------------------------------------------ the pictures


def draw(chapter: Run, keys: dict) -> None:
    """skills.png: with and without tools. loss.png: the two trainings."""
    skills = ("calculator", "search")
    heights = {
        "with tools": {skill: keys[f"{skill}_accuracy"] for skill in (*skills, "plan")},
        "answered at once": {skill: keys[f"{skill}_without_tool"] for skill in skills},
    }
    errors = {
        "with tools": {skill: keys[f"{skill}_accuracy_stderr"] for skill in (*skills, "plan")},
        "answered at once": {skill: keys[f"{skill}_without_tool_stderr"] for skill in skills},
    }
    plots.bars(
        chapter.folder / "skills.png",
        heights,
        title="Held-out requests, as many training steps",
        y_label="right answers",
        errors=errors,
    )
    plots.curves(
        chapter.folder / "loss.png",
        {
            "with calls": watched(chapter.history("tools"), "chat_loss"),
            "answers at once": watched(chapter.history("direct"), "chat_loss"),
        },
        title="Learning to call",
        x_label="step",
        y_label="loss, nats per trained token",
    )


def report(keys: dict) -> None:
    """The key numbers in words."""

    def percent(key: str) -> str:
        return with_error(keys[key], keys[f"{key}_stderr"], ".1%")

    for skill in ("calculator", "search"):
        print(
            f"{skill:<11} right {percent(f'{skill}_accuracy')} with the tool, "
            f"{percent(f'{skill}_without_tool')} answered at once"
        )
    print(
        f"{'plans':<11} of two calls {percent('plan_accuracy')}, "
        f"of three {percent('long_plan_accuracy')}"
    )
    print(
        f"{'chats':<11} right {percent('chat_accuracy_before')} before, "
        f"{percent('chat_accuracy_after')} after; needless calls {percent('needless_call_rate')}"
    )
    print(ERRORS_MEAN)
