"""Conversations as tokens: who speaks, and which tokens the model is trained to say.

A GPT reads one row of tokens. Special tokens mark in that row where each turn begins and ends:

    <|im_start|>user
    may I chew the wire?<|im_end|><|im_start|>assistant
    no, my dear!<|im_end|>

Only what the assistant says is trained (the *loss mask* is True there): its words, and the
<|im_end|> behind them. That end mark must be trained, or the model never learns to stop. The
questions, the names of the roles and the marks around them are only read.

Paper:  Ouyang et al., "Training language models to follow instructions with human feedback",
        2022, section 3 (demonstrations); the marks are those of OpenAI's ChatML.
Read before:  tokenizer.py.
Left out:  pictures, several assistants, other templates. A turn of a kitten ends without a line
           break; open models put one there, and many have a system message for conversations that
           bring none. Their tokenizer says so (`turn_end`, `system`), and `encode_chat` obeys.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from torch import Tensor

from kittenllm.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")

# who may speak after whom; None is the beginning of the conversation
_MAY_FOLLOW = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant",),
}

GREEN, GREY, RESET = "\x1b[32m", "\x1b[90m", "\x1b[0m"  # terminal colours


def check_messages(messages: list[dict[str, str]]) -> None:
    """Refuse a conversation that has no sensible order or content.

    `messages` is a list of {"role": ..., "content": ...}; "train" is True or False where there is
    one, other keys are ignored. A system message comes first or not at all, then user and assistant
    take turns; a tool answers an assistant.

    Raises:  ValueError that names the message, what was given and what was expected.
    """
    if not isinstance(messages, list):
        raise ValueError(f"messages must be a list, got {type(messages).__name__}")
    if not messages:
        raise ValueError("the conversation has no messages")
    previous = None
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, dict):
            raise ValueError(f"{where} must be a dict, got {type(message).__name__}")
        for key in ("role", "content"):
            if key not in message:
                raise ValueError(f'{where} has no key "{key}", only {list(message)!r:.80}')
            if not isinstance(message[key], str):
                kind = type(message[key]).__name__
                raise ValueError(f'{where}: "{key}" must be a string, got {kind}')
        role = message["role"]
        if role not in ROLES:
            raise ValueError(f"{where} has the unknown role {role!r:.40}; known: {ROLES}")
        if role not in _MAY_FOLLOW[previous]:
            place = "at the beginning" if previous is None else f"after {previous!r}"
            expected = " or ".join(_MAY_FOLLOW[previous])
            raise ValueError(f"{where} is {role!r} {place}, where {expected} is expected")
        if not message["content"].strip():
            raise ValueError(f"{where} ({role}) is empty")
        if not isinstance(message.get("train", True), bool):
            raise ValueError(
                f'{where}: "train" must be True or False, got {message["train"]!r:.40}'
            )
        previous = role


@dataclass
class ChatTokens:
    """A conversation as two lists of one length that grow together, so they cannot drift apart.

    tokens:     token ids
    loss_mask:  True where the token itself is one to learn to say
    """

    tokens: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)

    def add(self, ids: int | Sequence[int], trained: bool) -> None:
        """Append one id or several, all of them trained or all of them not."""
        new_ids = [ids] if isinstance(ids, int) else list(ids)
        self.tokens.extend(new_ids)
        self.loss_mask.extend([trained] * len(new_ids))

    def __len__(self) -> int:
        return len(self.tokens)


def encode_chat(
    tokenizer: Tokenizer, messages: list[dict], *, reply_next: bool = False
) -> ChatTokens:
    """Messages -> tokens and loss mask. All text is ordinary: it cannot make a special token.

    What the assistant says in a message with "train": False is only read, like all other roles.
    With reply_next=True the tokens end in an opened assistant turn, ready to sample a reply.

    Raises:  ValueError for messages that `check_messages` refuses, or if a reply is wanted where
        the assistant cannot speak.
    """
    check_messages(messages)
    if tokenizer.system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": tokenizer.system}, *messages]
    chat = ChatTokens()
    for message in messages:
        trained = message["role"] == "assistant" and message.get("train", True)
        open_turn(chat, tokenizer, message["role"])
        chat.add(tokenizer.encode(message["content"]), trained=trained)
        chat.add(tokenizer.im_end_id, trained=trained)
        chat.add(tokenizer.encode(tokenizer.turn_end), trained=False)
    if reply_next:
        last_role = messages[-1]["role"]
        if "assistant" not in _MAY_FOLLOW[last_role]:
            raise ValueError(f"a reply must follow user or tool, the last message is {last_role!r}")
        open_turn(chat, tokenizer, "assistant")
    return chat


def open_turn(chat: ChatTokens, tokenizer: Tokenizer, role: str) -> None:
    """The head of a turn, <|im_start|>role and a line break: read, never trained."""
    chat.add(tokenizer.im_start_id, trained=False)
    chat.add(tokenizer.encode(role + "\n"), trained=False)


def close_turn(chat: ChatTokens, tokenizer: Tokenizer, *, trained: bool) -> None:
    """The end of a turn: its mark, and what the template of an open model has behind it."""
    chat.add(tokenizer.im_end_id, trained=trained)
    chat.add(tokenizer.encode(tokenizer.turn_end), trained=False)


def chat_prompt(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """The tokens to sample the assistant's next reply from."""
    return encode_chat(tokenizer, messages, reply_next=True).tokens


def text_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """A plain text that begins here, as ordinary tokens: what a base model is asked to continue."""
    return [tokenizer.endoftext_id, *tokenizer.encode(text)]


def colour_view(
    tokenizer: Tokenizer,
    tokens: Iterable[int],
    loss_mask: Iterable[bool],
    *,
    colour: bool = True,
    separator: str = "",
) -> str:
    """Show which tokens are trained: green ones are, grey ones are only read.

    Without colour the trained ones stand in [brackets]. A `separator` such as "|" is put between
    tokens. Each turn begins on a new line; line breaks inside a turn are shown as \\n. Text cannot
    play tricks on the terminal: control characters are shown escaped, not sent.

    Raises:  ValueError if tokens and mask differ in length.
    """
    token_ids = list(tokens)
    mask = [bool(trained) for trained in loss_mask]
    if len(token_ids) != len(mask):
        raise ValueError(f"{len(token_ids)} tokens, but a loss mask of {len(mask)}")
    view = ""
    for trained, run in groupby(zip(mask, token_ids, strict=True), key=itemgetter(0)):
        run_ids = [token for _, token in run]
        pieces = tokenizer.tokens_as_text(run_ids) if separator else [tokenizer.decode(run_ids)]
        text = separator.join(_printable(piece) for piece in pieces)
        text = text.replace("<|im_start|>", "\n<|im_start|>")  # no text can spell it: it is escaped
        if not view:
            text = text.removeprefix("\n")
        if colour:
            text = f"{GREEN if trained else GREY}{text}{RESET}"
        elif trained:
            text = f"[{text}]"
        view += separator + text if view else text
    return view


def show(tokens: Tensor, mask: Tensor, tokenizer: Tokenizer) -> None:
    """Print the rows of a loss as words, for a debugger: what counts stands in [brackets].

    tokens (B, T); mask (B, T), or (B, T-1) in the action frame, where index t is about token t + 1.

    Raises: ValueError for other shapes.
    """
    rows, length = tokens.shape
    if tuple(mask.shape) not in ((rows, length), (rows, length - 1)):
        raise ValueError(f"tokens are {tuple(tokens.shape)}, and the mask {tuple(mask.shape)}")
    for row, row_mask in zip(tokens.tolist(), mask.tolist(), strict=True):
        counted = [False] * (len(row) - len(row_mask)) + row_mask
        print(colour_view(tokenizer, row, counted, colour=False, separator="|"))


def _printable(text: str) -> str:
    """Write line breaks, terminal codes and other invisible characters as escapes."""
    shown = []
    for character in text:
        kind = unicodedata.category(character)  # C: control, format, unassigned; Zl, Zp: line ends
        if kind.startswith("C") or kind in ("Zl", "Zp"):
            character = character.encode("unicode_escape").decode()
        shown.append(character)
    return "".join(shown)
