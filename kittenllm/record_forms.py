"""The forms of a record: conversations, pairs and word problems as people bring them.

One idea: a record says what it says. A form that is known is read whole, or the record is refused
with a reason; a key that nobody asked for is handed to the caller, who names it. Nothing is dropped
in silence, because a model would be trained on what is left.

    read_chat          messages, ShareGPT, Alpaca, Dolly, prompt and response, UltraChat
    read_preference    prompt or question, chosen, rejected; whole conversations; Anthropic's HH
                       strings
    read_question      GSM8K

Each takes a record and a set, to which it adds the names of the keys that it does not use, and
raises ValueError for a bad record. `null` means the same as a key that is not there.

Read before:  chat.py, for what makes a conversation valid.
Left out:  pictures and sound, calls of tools.
"""

import re

from kittenllm.chat import check_messages

ROLE_NAMES = {  # names that other tools use -> ours
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "observation": "tool",
}
CALL_KEYS = ("tool_calls", "function_call")  # an assistant's call stands beside its text
TEXT_PARTS = ("text", "input_text", "output_text")
# Where a record comes from: nobody expects that this is trained.
HARMLESS_KEYS = ("id", "idx", "index", "uuid", "line", "source", "dataset", "url", "license")
UNSAID = {"role": "assistant", "content": ""}  # a dialogue that ends in "Assistant:"
ABSENT: tuple = (None, "", [], {})

# Commas only where thousands end: 1,200 is a number, 3,5 and 0,500 are decimal commas.
THOUSANDS = re.compile(r"-?\$?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
MAX_NAMED = 60  # characters of a file's own words that a message repeats


def named(value: object) -> str:
    """A value from a file as it may stand in a message: on one line and not too long."""
    shown = repr(value)
    return shown if len(shown) <= MAX_NAMED else shown[:MAX_NAMED] + "..."


class Fields:
    """A record, or a message of one, that remembers which of its keys were asked for."""

    def __init__(self, record: dict):
        self.record = record
        self.asked: set[str] = set()

    def get(self, key: str) -> object:
        """The value, None if there is none."""
        self.asked.add(key)
        return self.record.get(key)

    def has(self, key: str) -> bool:
        """Is there anything but null under `key`? Does not count as asking for it."""
        return self.record.get(key) is not None

    def says(self, key: str) -> bool:
        """Is there anything but null, nothing and white space under `key`?"""
        value = self.get(key)
        return bool(value.strip()) if isinstance(value, str) else value not in ABSENT

    def text(self, key: str) -> str:
        """The non-empty string under `key`, or ValueError."""
        value = self.get(key)
        if key not in self.record:
            raise ValueError(f'the key "{key}" is missing, there is {named(list(self.record))}')
        if not isinstance(value, str):
            raise ValueError(f'"{key}" must be a string, got {type(value).__name__}')
        if not value.strip():
            raise ValueError(f'"{key}" is empty')
        return value

    def first_of(self, *keys: str) -> str:
        """The first of the keys that is there; the first of all if none is."""
        return next((key for key in keys if self.has(key)), keys[0])

    def unused(self) -> set[str]:
        """The keys that nobody asked for though they hold something."""
        known = self.asked.union(HARMLESS_KEYS)
        return {k for k, value in self.record.items() if k not in known and value not in ABSENT}


# ------------------------------------------------------------------------------- conversations


def read_chat(record: dict, unused: set[str]) -> dict:
    """One conversation in any form -> {"messages": [{"role", "content"}, ...]}.

    A message that is only to be read has "train": False as well. A "task" is kept if it is a word.
    """
    fields = Fields(record)
    _refuse_untrained(fields)
    if fields.has("messages"):
        messages = _messages(fields.get("messages"), "messages", unused)
    elif fields.has("conversations"):
        messages = _messages(fields.get("conversations"), '"conversations"', unused)
    elif fields.has("instruction"):
        messages = _instruction(fields)
    elif fields.has("prompt"):
        messages = _prompt_and_response(fields, unused)
    elif fields.has("data"):
        messages = _texts_in_turn(fields)
    else:
        raise ValueError(
            'no "messages", "conversations" or "instruction" in this record, '
            f"there is {named(list(record))}; data/README.md shows the forms"
        )
    messages = _with_system(fields, messages, unused)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise ValueError("the assistant says nothing, so there is nothing to learn")
    if not any(message.get("train", True) for message in answers):
        raise ValueError("all that the assistant says is marked as not to be trained")
    task = fields.get("task")
    unused |= fields.unused()
    return {"messages": messages} | ({"task": task} if isinstance(task, str) else {})


def _messages(turns: object, name: str, unused: set[str]) -> list[dict]:
    """A list of {"role", "content"} or of ShareGPT's {"from", "value"} -> checked messages."""
    if not isinstance(turns, list):
        raise ValueError(f"{name} must be a list, got {type(turns).__name__}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        has_role = isinstance(turn, dict) and turn.get("role") is not None
        has_speaker = isinstance(turn, dict) and turn.get("from") is not None
        if not has_role and (has_speaker or name != "messages"):
            turn = _from_sharegpt(turn, number)
        if isinstance(turn, dict) and {"role", "content"} <= turn.keys():
            turn = _message(turn, f"message {number}", unused)
        messages.append(turn)
    check_messages(messages)
    return messages


def _from_sharegpt(turn: object, number: int) -> dict:
    """{"from": "human", "value": "hi"} -> {"role": "user", "content": "hi"}, other keys kept."""
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise ValueError(f'turn {number} must be {{"from": ..., "value": ...}}')
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in ROLE_NAMES:
        known = ", ".join(ROLE_NAMES)
        raise ValueError(f"turn {number} is from {named(speaker)}; known: {known}")
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return others | {"role": speaker, "content": turn["value"]}


def _message(turn: dict, where: str, unused: set[str]) -> dict:
    """One message with nothing but role and content, and "train": False if it is only read."""
    fields = Fields(turn)
    for key in CALL_KEYS:
        if fields.says(key):
            raise ValueError(f'{where} has "{key}", and calls of tools cannot be read')
    role = fields.get("role")
    if isinstance(role, str):
        role = ROLE_NAMES.get(role, role)
    message = {"role": role, "content": _content(fields.get("content"), where, unused)}
    trained = _is_trained(fields, ("weight", "train", "training", "loss"), f"{where}: ")
    if role == "assistant" and not trained:
        message["train"] = False
    if role != "assistant" and any(turn.get(key) is True for key in ("train", "training", "loss")):
        unused.add(f'"train" of a {named(role)} message')
    unused |= fields.unused()
    return message


def _content(value: object, where: str, unused: set[str]) -> object:
    """A text, or the texts of a list of parts, one below the other."""
    if not isinstance(value, list):
        return value  # check_messages looks at it
    texts = []
    for part in value:
        if isinstance(part, str):
            part = {"text": part}
        if not isinstance(part, dict):
            raise ValueError(f"{where}: a part of the content is {named(part)}, only text is read")
        fields = Fields(part)
        kind = fields.get("type")
        text = fields.get("text")
        if kind not in (None, *TEXT_PARTS) or not isinstance(text, str):
            raise ValueError(f"{where}: a part of the content is {named(kind)}, only text is read")
        texts.append(text)
        unused |= fields.unused()
    return "\n".join(texts)


def _is_trained(fields: Fields, keys: tuple[str, ...], where: str) -> bool:
    """False if one of the keys is 0 or false; ValueError for anything but 0 and 1."""
    said = {}
    for key in keys:
        value = fields.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise ValueError(f'{where}"{key}" must be 0 or 1, false or true, got {named(value)}')
        said[key] = bool(value)
    if len(set(said.values())) > 1:
        raise ValueError(f"{where}{' and '.join(said)} contradict each other")
    return all(said.values())


def _refuse_untrained(fields: Fields) -> None:
    """Refuse a whole record that says that it is not to be trained."""
    if not _is_trained(fields, ("weight", "train"), ""):
        raise ValueError("the record says that it is not to be trained")


def _with_system(fields: Fields, messages: list[dict], unused: set[str]) -> list[dict]:
    """The messages behind the system message that the record holds beside them."""
    key = fields.first_of("system", "system_prompt")
    if not fields.says(key):
        return messages
    text = _content(fields.get(key), f'"{key}"', unused)
    if not isinstance(text, str):
        text = fields.text(key)  # raises
    system = {"role": "system", "content": text}
    if messages[0] == system:
        return messages
    messages = [system, *messages]
    check_messages(messages)
    return messages


def _instruction(fields: Fields) -> list[dict]:
    """Alpaca: instruction, input, output, history, and Dolly: instruction, context, response.

    The answers of the history are trained like the last one, as LlamaFactory does.
    """
    messages = []
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise ValueError(f'"history" must be a list, got {type(history).__name__}')
    for number, exchange in enumerate(history, start=1):
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise ValueError(f'"history", exchange {number} must be [question, answer]')
        messages.append({"role": "user", "content": exchange[0]})
        messages.append({"role": "assistant", "content": exchange[1]})
    question = fields.text("instruction")
    for key in ("input", "context"):
        if fields.says(key):
            question += "\n\n" + fields.text(key)
    messages.append({"role": "user", "content": question})
    reply = fields.text(fields.first_of("output", "response"))
    messages.append({"role": "assistant", "content": reply})
    check_messages(messages)
    return messages


def _prompt_and_response(fields: Fields, unused: set[str]) -> list[dict]:
    """{"prompt", "response"} or {"prompt", "completion"}: only the reply is trained."""
    prompt = _prompt(fields, unused)
    reply = _reply(fields, fields.first_of("response", "completion"), prompt, unused)
    messages = []
    for message in prompt:
        is_assistant = message["role"] == "assistant"
        messages.append(message | {"train": False} if is_assistant else message)
    return [*messages, {"role": "assistant", "content": reply}]


def _texts_in_turn(fields: Fields) -> list[dict]:
    """UltraChat: {"data": ["what the user says", "what the assistant says", ...]}."""
    texts = fields.get("data")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError('"data" must be a list of texts, the user and the assistant in turn')
    messages = []
    for number, text in enumerate(texts):
        messages.append({"role": "user" if number % 2 == 0 else "assistant", "content": text})
    check_messages(messages)
    return messages


# ------------------------------------------------------------------------- prompts and replies


def read_preference(record: dict, unused: set[str]) -> dict:
    """One pair of replies -> {"prompt": messages, "chosen": text, "rejected": text}.

    A "ranking" that the pair is from is kept: lists of replies, the best place first.
    """
    fields = Fields(record)
    _refuse_untrained(fields)
    prompt = _prompt(fields, unused)
    chosen = _reply(fields, "chosen", prompt, unused)
    rejected = _reply(fields, "rejected", prompt, unused)
    if chosen.strip() == rejected.strip():
        raise ValueError('"chosen" and "rejected" are equal')
    kept = {"ranking": fields.get("ranking")} if _is_ranking(fields.record.get("ranking")) else {}
    unused |= fields.unused()
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | kept


def _is_ranking(value: object) -> bool:
    """Two or more lists of texts: what chapters.rank writes beside each pair of a ranking."""
    if not isinstance(value, list) or len(value) < 2:
        return False
    if not all(isinstance(place, list) and place for place in value):
        return False
    replies = [reply for place in value for reply in place]
    return len(replies) < 10 and all(isinstance(reply, str) for reply in replies)


def _prompt(fields: Fields, unused: set[str]) -> list[dict]:
    """The messages that the reply follows, the system message first.

    It is under "prompt" or "question" (orca_dpo_pairs). Without either it is all of "chosen" but
    the last message (TRL's implicit prompt).
    """
    key = fields.first_of("prompt", "question")
    prompt = fields.get(key)
    if prompt is None:
        whole = _as_turns(fields.record.get("chosen"))
        prompt = whole[:-1] if isinstance(whole, list) and len(whole) > 1 else None
    else:
        prompt = _as_turns(prompt)
        if (
            isinstance(prompt, list)
            and prompt
            and prompt[-1] == {"role": "assistant", "content": ""}
        ):
            prompt = prompt[:-1]  # a dialogue that ends in "Assistant:"
    if isinstance(prompt, list):
        messages = _said(_messages(prompt, "messages", unused))
    else:
        messages = [{"role": "user", "content": fields.text(key)}]
    if messages[-1]["role"] not in ("user", "tool"):
        raise ValueError("the prompt must end with the user, so that a reply can follow")
    return _with_system(fields, messages, unused)


def _reply(fields: Fields, key: str, prompt: list[dict], unused: set[str]) -> str:
    """The reply under `key`: a string, an assistant message, or prompt + [assistant message]."""
    reply = _as_turns(fields.get(key))
    if not isinstance(reply, list):
        return fields.text(key)
    repeats_prompt = len(reply) > 1
    turns = reply if repeats_prompt else [*prompt, *reply]
    messages = _messages(turns, "messages", unused)
    before = _said(messages[:-1])
    without_system = [message for message in prompt if message["role"] != "system"]
    if before not in (prompt, without_system) or messages[-1]["role"] != "assistant":
        if fields.has("prompt") or fields.has("question"):
            raise ValueError(f'"{key}" must be one assistant message, with or without the prompt')
        raise ValueError('"chosen" and "rejected" must be the same but for the last reply')
    if not messages[-1].get("train", True):
        raise ValueError(f'"{key}" is marked as not to be trained')
    return messages[-1]["content"]


def _said(messages: list[dict]) -> list[dict]:
    """Messages with nothing but role and content."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _as_turns(value: object) -> object:
    """The turns of a dialogue in Anthropic's form, "\n\nHuman: hi\n\nAssistant: hello", and a
    single message as a list of one; anything else as it is."""
    if isinstance(value, dict) and not {"role", "from"}.isdisjoint(value):
        return [value]
    if not isinstance(value, str) or "\n\nAssistant:" not in value:
        return value
    before, *pieces = HH_TURN.split(value)
    if before or pieces[0] != "Human":
        return value
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


# ------------------------------------------------------------------------------- word problems


def read_question(record: dict, unused: set[str]) -> dict[str, str]:
    """One word problem -> {"question", "solution", "answer"}; what the system says comes first."""
    fields = Fields(record)
    _refuse_untrained(fields)
    question = fields.text("question")
    user = {"role": "user", "content": question}
    question = "\n\n".join(turn["content"] for turn in _with_system(fields, [user], unused))
    solution, mark, answer = fields.text("answer").rpartition("####")
    answer = answer.strip()
    if not mark or not answer:
        raise ValueError('"answer" has no final answer behind ####')
    if THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    unused |= fields.unused()
    return {"question": question, "solution": solution.strip(), "answer": answer}
