"""Thinking in a live conversation: folded to one line, and unfolded by /think.

What a kitten thinks stands between <think> and </think>. The reader sees how long it was, and the
answer without its tags. The part of the chat program that a kitten which never thinks never meets.
"""

from chapters.common.terminal import safe_text
from kittenllm.tokenizer import Tokenizer


class Thoughts:
    """Follows a reply token by token and remembers the thoughts of a conversation."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        tags = ("<think>", "</think>", "<answer>", "</answer>")
        ids = [tokenizer.special_ids.get(tag) for tag in tags]  # a real model may have no such tags
        self.think, self.end_think, *self.answer = ids
        self.log: list[list[int]] = []  # one list of tokens per thought
        self.thinks = False  # right now

    def begin(self) -> None:
        """A new reply: a thought that was cut off ends here."""
        self.thinks = False

    def hides(self, token: int) -> bool:
        """Whether this token of a reply is not shown: a part of a thought, or a tag."""
        if token == self.think and not self.thinks:
            self.thinks = True
            self.log.append([])
            return True
        if not self.thinks:
            return token in self.answer or token == self.end_think
        if token == self.end_think:
            self.thinks = False
        else:
            self.log[-1].append(token)
        return True

    def folded(self, token: int) -> str:
        """One line for a thought that ends with this token; "" for every other token."""
        if token != self.end_think or self.thinks or not self.log:
            return ""
        return f"[it thought for {len(self.log[-1])} tokens; /think shows them]"

    def unfolded(self) -> str:
        """The last thought, whole."""
        if not self.log:
            return "(it has not thought yet; give it a puzzle: use 3, 5, 8 make 19)"
        return f"(it thought: {safe_text(self.tokenizer.decode(self.log[-1]))})"
