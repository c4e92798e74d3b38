"""Measuring skills with tools: held-out requests, three sampled attempts at each.

Used by story.py. An attempt is right if what tool_chats.carried_out asks for is there: the
right calls in the right order, and an answer that says the right thing and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chapters.common.kitten import Kitten
from chapters.common.measuring import counts_of
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import (
    evaluation_questions,
    rate,
    sample_replies,
    weighted_rate,
)
from kittenllm.kitten_town import tool_chats
from kittenllm.kitten_town.facts import build_town
from kittenllm.kitten_town.manners import asks_large_sum
from kittenllm.kitten_town.tool_chats import PLAN_SHAPES, TWO_CALLS, Request
from kittenllm.sampling import generate
from kittenllm.settings import new_generator
from kittenllm.skills.agent import Episode, run_agent
from kittenllm.skills.toolbox import MAX_CALLS, REPLY_TOKENS, town_tools

REQUESTS_AT_ONCE = 125  # more would not fit into the processor's caches
REQUEST_SEED = 89  # every kitten gets the same requests
# (distinct requests, attempts at each)
COUNTS = {"calculator": (400, 3), "search": (400, 3), "plan": (400, 3), "long plan": (120, 3)}


@dataclass(frozen=True)
class Attempt:
    """One request and what the kitten made of it."""

    question: Request
    text: str
    right: bool


def requests_for(exam: str, quick: bool) -> tuple[list[Request], int]:
    """The held-out requests of one exam, and how many attempts at each."""
    count, attempts = (6, 1) if quick else COUNTS[exam]
    skill = "plan" if exam == "long plan" else exam
    shapes = PLAN_SHAPES[len(TWO_CALLS) :] if exam == "long plan" else TWO_CALLS
    return tool_chats.held_out_requests(skill, count, REQUEST_SEED, shapes), attempts


def prompt_of(kitten: Kitten, request: Request) -> list[int]:
    return chat_prompt(kitten.tokenizer, [{"role": "user", "content": request.text}])


def work_on(
    kitten: Kitten, requests: Sequence[Request], *, temperature: float = 1.0, tools=None
) -> list[Episode]:
    """Let the kitten carry out the requests with its tools, some at a time."""
    generator = new_generator(kitten.common.device, kitten.common.seed, "ch1_tools", "exam")
    episodes = []
    for start in range(0, len(requests), REQUESTS_AT_ONCE):
        episodes += run_agent(
            kitten.gpt,
            kitten.tokenizer,
            [prompt_of(kitten, request) for request in requests[start : start + REQUESTS_AT_ONCE]],
            tools or town_tools(),
            max_calls=MAX_CALLS,
            max_new_tokens=REPLY_TOKENS,
            temperature=temperature,
            generator=generator,
        )
    return episodes


def exam_with_tools(kitten: Kitten, exam: str) -> list[Attempt]:
    """Sampled attempts at held-out requests, at temperature 1."""
    requests, each = requests_for(exam, kitten.common.quick)
    repeated = [request for request in requests for _ in range(each)]
    return [
        Attempt(request, shown(episode), succeeded(request, episode))
        for request, episode in zip(repeated, work_on(kitten, repeated), strict=True)
    ]


def succeeded(request: Request, episode: Episode) -> bool:
    """Whether the kitten came to an end by itself, with the right calls and the right answer."""
    finished = episode.ended == "answer"
    return finished and tool_chats.carried_out(request, episode.replies, episode.calls)


def shown(episode: Episode) -> str:
    """All turns of an episode, a line each: what the kitten said and what the tools said."""
    lines = []
    for number, reply in enumerate(episode.replies):
        lines.append(reply)
        lines += [f"tool: {result}" for result in episode.results[number : number + 1]]
    return "\n".join(lines)


def exam_without_tools(kitten: Kitten, exam: str) -> list[Attempt]:
    """The same requests, answered at once; a source is not asked for."""
    requests, each = requests_for(exam, kitten.common.quick)
    repeated = [request for request in requests for _ in range(each)]
    rollout = generate(
        kitten.gpt,
        [prompt_of(kitten, request) for request in repeated],
        max_new_tokens=REPLY_TOKENS,
        temperature=1.0,
        generator=new_generator(kitten.common.device, kitten.common.seed, "ch1_tools", "exam"),
    )
    attempts = []
    for request, tokens in zip(repeated, rollout.replies(), strict=True):
        text = kitten.tokenizer.decode(tokens)
        attempts.append(Attempt(request, text, tool_chats.says(text, request.direct)))
    return attempts


def rates_of(attempts: dict[str, list[Attempt]]) -> dict[str, float]:
    """Share of right attempts per exam, with standard errors by topic (the page or the numbers)."""
    rates = {}
    for key, of_exam in attempts.items():
        rates[key], rates[f"{key}_stderr"] = rate(of_exam, lambda attempt: attempt.right)
    return rates


def chat_exam(kitten: Kitten) -> dict[str, float]:
    """Questions that need no tool, sampled: how many are answered right, how often it calls.

    Large sums are not among them: a kitten that has a calculator should use it there.
    """
    counts = counts_of(kitten.common)
    call_marks = {kitten.tokenizer.call_id, kitten.tokenizer.end_call_id}
    replies = {}
    for kind, questions in evaluation_questions(build_town(), counts).items():
        replies[kind] = sample_replies(
            kitten.gpt,
            kitten.tokenizer,
            build_town(),
            [question for question in questions if not asks_large_sum(question.text)],
            replies_each=counts[kind][1],
            temperature=1.0,
            generator=new_generator(kitten.common.device, kitten.common.seed, "ch1_tools", kind),
        )
    answers = replies["fact"] + replies["sum"]
    accuracy, accuracy_error = rate(answers, lambda reply: reply.verdict.right)
    calls, calls_error = weighted_rate(replies, lambda r: not call_marks.isdisjoint(r.tokens))
    return {
        "accuracy": accuracy,
        "accuracy_stderr": accuracy_error,
        "call_rate": calls,
        "call_rate_stderr": calls_error,
    }
