"""Tools in a live conversation: which call to run, and how calls and results are shown.

A call and its result take a line each, cut to the width of the screen: folded. /calls unfolds them.
The part of the chat program behind --tools; without that flag `NO_TOOLS` stands here and does
nothing.
"""

from chapters.common.terminal import safe_text, use_colour
from kittenllm.skills.agent import next_result, read_call
from kittenllm.skills.toolbox import MAX_CALLS, town_tools
from kittenllm.tokenizer import Tokenizer

WIDTH = 72  # of a folded line, without the indent
CYAN, GREY, RESET = "\x1b[36m", "\x1b[90m", "\x1b[0m"


class NoTools:
    """A chat without tools: every reply is the last word."""

    stopped = False

    def begin(self) -> None:
        """A new request."""

    def begins_call(self, token: int) -> bool:
        return False

    def ends_call(self, token: int) -> bool:
        return False

    def answer_to(self, reply: list[int]) -> str | None:
        return None

    def folded(self, result: str) -> str:
        return result

    def unfolded(self) -> str:
        return "(there are no tools; start the chat with --tools)"


NO_TOOLS = NoTools()


class ToolTalk(NoTools):
    """Runs the kitten's calls with the town's tools and remembers them for /calls."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.tools = town_tools()
        self.calls = 0  # of this request
        self.stopped = False  # it called even after it was told not to
        self.log: list[tuple[str, str]] = []  # (call, result) of the whole conversation

    def begin(self) -> None:
        self.calls, self.stopped = 0, False

    def begins_call(self, token: int) -> bool:
        return token == self.tokenizer.call_id

    def ends_call(self, token: int) -> bool:
        return token == self.tokenizer.end_call_id

    def answer_to(self, reply: list[int]) -> str | None:
        """What a tool says to this reply, or an error to read; None if the reply calls nothing."""
        call = read_call(self.tokenizer, reply)
        if call is None:
            return None
        result = next_result(self.tools, call, self.calls, MAX_CALLS)
        self.calls += 1
        self.stopped = result is None
        result = "(it calls again and again, and was stopped)" if result is None else result
        self.log.append((call.text, result))
        return result

    def folded(self, result: str) -> str:
        """The last call and its `result`, a line each, as they stand under the reply."""
        call, _ = self.log[-1]
        lines = [(CYAN, f"[call] {call}"), (GREY, f"[tool] {result}")]
        colour = use_colour()
        return f"\n{' ' * 8}".join(
            f"{code}{fold(line)}{RESET}" if colour else fold(line) for code, line in lines
        )

    def unfolded(self) -> str:
        """Every call with all that came back."""
        if not self.log:
            return "(no tool has been called yet)"
        return "\n".join(
            f"{number}. {safe_text(call)}\n   {safe_text(result)}"
            for number, (call, result) in enumerate(self.log, start=1)
        )


def fold(text: str) -> str:
    """`text` on one line of at most WIDTH columns; what is cut off is counted."""
    line = safe_text(text)
    if len(line) <= WIDTH:
        return line
    hint = "... (/calls shows all)"
    return line[: WIDTH - len(hint)] + hint
