"""An agent is a loop: let the kitten write until it calls a tool, run the tool, let it read on.

    <|im_start|>assistant
    <call>calc 237+48</call><|im_end|><|im_start|>tool         the program stops the kitten here ...
    285<|im_end|><|im_start|>assistant                         ... and writes the result itself
    It is 285.<|im_end|>

The marks <call> and </call> are special tokens, which only the kitten can make. What a tool says
is text from elsewhere: it is encoded as ordinary text, so it can never open a turn, make a mark or
call a tool. It is read, never trained. The loop looks at the kitten's tokens only, so whatever
stands in a result, "ignore the question" for example, changes that text and nothing else.

Whatever goes wrong with a call comes back as a tool turn that the kitten can read: a malformed
call, an unknown tool, a tool that raises, one call too many.

Papers: Schick et al., "Toolformer", 2023, section 2 (calls as text between marks); Yao et al.,
"ReAct", 2023 (writing, calling and reading take turns).
Read before: chat.py, sampling.py. Left out: tools that run for long, several calls in one turn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from kittenllm.chat import ChatTokens, close_turn, open_turn
from kittenllm.gpt import GPT
from kittenllm.sampling import generate
from kittenllm.tokenizer import Tokenizer

Tools = Mapping[str, Callable[[str], str]]  # "calc" -> a function from "237+48" to "285"

MAX_RESULT = 240  # characters of a result that the kitten gets to read


@dataclass(frozen=True)
class Call:
    """What stands between the marks of a call, and whether the marks are where they belong."""

    text: str
    well_formed: bool


@dataclass
class Episode:
    """One request on its way through the loop."""

    chat: ChatTokens  # all turns so far; loss_mask marks what the kitten said
    calls: list[str] = field(default_factory=list)  # what it called, mistakes included
    results: list[str] = field(default_factory=list)  # what came back
    replies: list[str] = field(default_factory=list)  # all it said, call by call, then the answer
    ended: str = ""  # "answer", "cut off", "too many calls" or "no room"; "" while it goes on


def encode_tool_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> ChatTokens:
    """`encode_chat` for training, where an assistant's message may end in a "call".

    {"role": "assistant", "content": "Step 1: ", "call": "calc 237+48"}: the words, the call and its
    marks are trained; what users and tools say is only read. All text is ordinary text.
    """
    chat = ChatTokens()
    for message in messages:
        is_assistant = message["role"] == "assistant"
        open_turn(chat, tokenizer, message["role"])
        chat.add(tokenizer.encode(message["content"]), trained=is_assistant)
        if "call" in message:
            call = tokenizer.encode(message["call"])
            chat.add([tokenizer.call_id, *call, tokenizer.end_call_id], trained=True)
        close_turn(chat, tokenizer, trained=is_assistant)
    return chat


def add_tool_turn(chat: ChatTokens, tokenizer: Tokenizer, result: str) -> None:
    """What a tool said, as ordinary text that is not trained; then the kitten's turn is opened."""
    open_turn(chat, tokenizer, "tool")
    chat.add(tokenizer.encode(result), trained=False)
    close_turn(chat, tokenizer, trained=False)
    open_turn(chat, tokenizer, "assistant")


def read_call(tokenizer: Tokenizer, reply: Sequence[int]) -> Call | None:
    """The call in the tokens of a reply; None if there is no mark of one.

    Well formed: any text, <call>, text, </call>, no other special token, and nothing behind it.
    """
    marks = [token for token in reply if token in tokenizer.special_ids.values()]
    if tokenizer.call_id not in marks and tokenizer.end_call_id not in marks:
        return None
    closed = reply[-1] == tokenizer.end_call_id
    start = reply.index(tokenizer.call_id) + 1 if tokenizer.call_id in marks else 0
    text = tokenizer.decode(reply[start : len(reply) - closed])
    return Call(text.strip(), closed and marks == [tokenizer.call_id, tokenizer.end_call_id])


def run_call(tools: Tools, call: Call) -> str:
    """What the tool says, or a readable error; never raises, never longer than MAX_RESULT."""
    name, _, argument = call.text.partition(" ")
    if not call.well_formed or not argument.strip():
        result = "error: malformed call, try again"
    elif name not in tools:
        result = f"error: unknown tool, there is {' and '.join(tools)}"
    else:
        try:
            result = str(tools[name](argument.strip()))
        except Exception as error:  # a tool is somebody else's program: anything may happen
            result = f"error: {error}"
    return result[:MAX_RESULT].strip() or "nothing"


def next_result(tools: Tools, call: Call, calls_before: int, max_calls: int) -> str | None:
    """What stands in the tool turn behind this call; None for whoever calls on and on.

    The first `max_calls` calls are run, the next one is refused in words.
    """
    if calls_before > max_calls:
        return None
    if calls_before == max_calls:
        return "error: too many calls, tell the user"
    return run_call(tools, call)


def run_agent(
    gpt: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    tools: Tools,
    *,
    max_calls: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[Episode]:
    """Let the kitten work on each prompt (see `chat_prompt`) until it answers without a call.

    After `max_calls` calls the next one is refused with a readable turn; whoever calls even then is
    stopped, and so is a conversation that leaves no room for `max_new_tokens` more.

    Raises: ValueError as `generate` does, for prompts that are too long, for example.
    """
    episodes = [Episode(ChatTokens()) for _ in prompts]
    for episode, prompt in zip(episodes, prompts, strict=True):
        episode.chat.add(prompt, trained=False)
    stop_ids = (*gpt.config.stop_ids, tokenizer.end_call_id)  # the program speaks after </call>
    going_on = episodes
    while going_on:
        rollout = generate(
            gpt,
            [episode.chat.tokens for episode in going_on],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
            stop_ids=stop_ids,
        )
        ended = rollout.ended.tolist()
        for episode, row, mask, stopped in zip(
            going_on, rollout.tokens[:, 1:], rollout.response_mask, ended, strict=True
        ):
            reply = row[mask].tolist()
            if stopped and reply[-1] != tokenizer.end_call_id:
                reply = reply[:-1]  # the end of the turn is added below
            take_turn(episode, tokenizer, reply, stopped, tools, max_calls)
            room = gpt.config.context_length - len(episode.chat)
            if not episode.ended and room < max_new_tokens:
                episode.ended = "no room"
        going_on = [episode for episode in going_on if not episode.ended]
    return episodes


def take_turn(
    episode: Episode,
    tokenizer: Tokenizer,
    reply: list[int],
    stopped: bool,
    tools: Tools,
    max_calls: int,
) -> None:
    """Book one reply: it ends the episode, or its call is run and the result stands behind it."""
    episode.replies.append(tokenizer.decode(reply))
    episode.chat.add(reply, trained=True)
    close_turn(episode.chat, tokenizer, trained=True)
    call = read_call(tokenizer, reply)
    if call is None:
        episode.ended = "answer" if stopped else "cut off"
        return
    result = next_result(tools, call, len(episode.calls), max_calls)
    if result is None:
        episode.ended = "too many calls"
        return
    episode.calls.append(call.text)
    episode.results.append(result)
    add_tool_turn(episode.chat, tokenizer, result)
