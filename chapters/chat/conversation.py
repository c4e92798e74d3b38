"""A conversation that fits into the context, kept as the very tokens the kitten saw and said.

Keeping tokens and not text matters: a special token that the kitten sampled stays one, and text
that only spells one stays text.
"""

from kittenllm.chat import ChatTokens, check_messages, close_turn, open_turn
from kittenllm.skills.agent import add_tool_turn
from kittenllm.tokenizer import Tokenizer

MIN_REPLY_TOKENS = 16  # room that is always kept for the reply
USUAL_REPLY_TOKENS = 48  # room for a reply as long as this kitten's usually are, or longer


class Conversation:
    """The exchanges so far as tokens, exactly as the kitten saw and said them.

    An exchange is a question and all that followed it. When the context is full the oldest
    exchanges are forgotten, whole; the system message stays. The room that is kept for a reply goes
    by this kitten's own replies: twice the longest so far.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, system: str | None = None):
        """Raises: ValueError if the system message leaves no room for a conversation."""
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.system = ChatTokens()
        self.exchanges: list[ChatTokens] = []
        self.longest_reply = 0  # tokens
        system = system or tokenizer.system
        if system:
            check_messages([{"role": "system", "content": system}])
            add_read_turn(self.system, tokenizer, "system", system)
        if len(self.system) > context_length // 2:
            raise ValueError(
                f"the system message is {len(self.system)} tokens long, more than half of the "
                f"{context_length} that this kitten reads at a time. Make it shorter."
            )

    def ask(self, text: str, reply_tokens: int) -> int:
        """Add a question, with room for a reply; returns how many old exchanges were forgotten.

        Raises: ValueError for a question that is too long by itself; nothing is added or lost then.
        """
        most = self.context_length - len(self.system) - MIN_REPLY_TOKENS
        check_not_huge(text, most)
        exchange = ChatTokens()
        check_messages([{"role": "user", "content": text}])
        add_read_turn(exchange, self.tokenizer, "user", text)
        open_turn(exchange, self.tokenizer, "assistant")
        check_length(len(exchange), most)
        self.exchanges.append(exchange)
        return self._make_room(reply_tokens)

    def tool_said(self, result: str, reply_tokens: int) -> int:
        """Add what a tool answered to the kitten's last turn; returns how many exchanges were
        forgotten to make room for the next one.

        Raises: ValueError for a result that does not fit; nothing is added then.
        """
        turn = ChatTokens()
        add_tool_turn(turn, self.tokenizer, result)
        most = self.context_length - len(self.system) - MIN_REPLY_TOKENS
        check_length(len(self.exchanges[-1]) + len(turn), most)
        self.exchanges[-1].add(turn.tokens, trained=False)
        return self._make_room(reply_tokens)

    def _make_room(self, reply_tokens: int) -> int:
        """Forget the oldest exchanges until a reply fits; returns how many were forgotten."""
        forgotten = 0
        usual = max(USUAL_REPLY_TOKENS, 2 * self.longest_reply)
        room = min(reply_tokens, usual, self.context_length // 2)
        while len(self.exchanges) > 1 and len(self.tokens()) + room > self.context_length:
            self.exchanges.pop(0)
            forgotten += 1
        return forgotten

    def answer(self, ids: list[int]) -> None:
        """Add what the kitten said, and close its turn."""
        self.longest_reply = max(self.longest_reply, len(ids))
        self.exchanges[-1].add(ids, trained=True)
        close_turn(self.exchanges[-1], self.tokenizer, trained=True)

    def tokens(self) -> ChatTokens:
        """The whole conversation as one row."""
        row = ChatTokens()
        for part in (self.system, *self.exchanges):
            row.tokens += part.tokens
            row.loss_mask += part.loss_mask
        return row

    def reset(self) -> None:
        self.exchanges.clear()


class PlainText(Conversation):
    """For a base kitten: every text stands alone, as the beginning of a document."""

    def ask(self, text: str, reply_tokens: int) -> int:
        most = self.context_length - MIN_REPLY_TOKENS
        check_not_huge(text, most)
        document = ChatTokens()
        document.add([self.tokenizer.endoftext_id, *self.tokenizer.encode(text)], trained=False)
        check_length(len(document), most)
        self.exchanges = [document]
        return 0

    def answer(self, ids: list[int]) -> None:
        self.exchanges[-1].add(ids, trained=True)


def add_read_turn(chat: ChatTokens, tokenizer: Tokenizer, role: str, text: str) -> None:
    """A whole turn of somebody else: nothing in it is trained."""
    open_turn(chat, tokenizer, role)
    chat.add(tokenizer.encode(text), trained=False)
    close_turn(chat, tokenizer, trained=False)


def check_length(tokens: int, most: int) -> None:
    if tokens > most:
        raise ValueError(
            f"this is {tokens} tokens long, and the kitten reads at most {most} at a time with "
            "room for a reply. Say it shorter."
        )


def check_not_huge(text: str, most: int) -> None:
    """Refuse a text that cannot fit before any time is spent on cutting it into tokens."""
    if len(text) > 100 * most:
        raise ValueError(
            f"this is {len(text)} characters long, and the kitten reads at most {most} tokens at "
            "a time with room for a reply. Say it shorter."
        )
