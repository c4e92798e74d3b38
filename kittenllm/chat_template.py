r"""A chat template as Hugging Face folders hold it: read it by its looks, or write it.

A model folder says how a conversation becomes one text in a little program, written in the language
Jinja:

    {% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']
    + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% ...

We run no programs of strangers. Nearly all templates of ChatML look alike, so this file knows their
usual forms, takes out the two things in which they differ, and refuses all others: what stands
behind the end of a turn, and the system message of a conversation that brings none.

Read before:  chat.py, whose `encode_chat` does what these templates say.
Left out:  templates for tools, thoughts that are dropped from earlier turns, other families.
"""

import re

LOOP, END = "{% for message in messages %}", "{% endfor %}"
TURN = r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>TURN_END' }}"
REPLY = r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
DEFAULT_SYSTEM = (
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    r"{{ '<|im_start|>system\nSYSTEM<|im_end|>TURN_END' }}{% endif %}"
)
# Qwen 2.5 asks first whether there are tools; what it does with them is ANY text here.
QWEN_SYSTEM = (
    "{% if tools %}ANY{% else %}{% if messages[0]['role'] == 'system' %}"
    r"{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    r"{% else %}{{ '<|im_start|>system\nSYSTEM<|im_end|>\n' }}{% endif %}{% endif %}"
)
QWEN_TURN = (
    "{% if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}" + TURN + "{% elif ANY{% endif %}"
)
FORMS = (
    LOOP + TURN + END + REPLY,
    LOOP + DEFAULT_SYSTEM + TURN + END + REPLY,
    QWEN_SYSTEM + LOOP + QWEN_TURN + END + REPLY,
)
OTHERS = {  # marks of well-known templates that are not ChatML
    "<|start_header_id|>": "that of Llama 3",
    "[INST]": "that of Llama 2 or Mistral",
    "<start_of_turn>": "that of Gemma",
    "<|user|>": "that of Zephyr or Phi",
}


def write_template(turn_end: str, system: str) -> str:
    """`encode_chat` as a Jinja template, for other programs.

    Raises: ValueError for a system message with marks that end a text in Jinja.
    """
    if re.search(r"['\\<]", system):
        raise ValueError(f"no template can be written for this system message: {system!r:.80}")
    template = FORMS[1] if system else FORMS[0]
    end = turn_end.replace("\n", r"\n")
    return template.replace("SYSTEM", system).replace("TURN_END", end)


def read_template(template: str) -> tuple[str, str]:
    """What stands behind <|im_end|> ("" or a line break), and the default system message or "".

    Raises: ValueError for a template that is not ChatML, by its name if it is a well-known one.
    """
    text = plain_form(template)
    # Space between two tags is printed, unless one of them has a dash on that side.
    printed_space = re.search(r"(?<!-)[%}]\}\s+\{[{%](?!-)", template)
    for form in FORMS:
        pattern = re.escape(plain_form(form)).replace("ANY", ".*?")
        pattern = pattern.replace("SYSTEM", r"(?P<system>[^'\\<]*)")
        pattern = pattern.replace("TURN_END", r"(?P<end>\n?)", 1).replace("TURN_END", "(?P=end)")
        found = re.fullmatch(pattern, text, re.DOTALL)
        if found and not printed_space:
            return found["end"], found.groupdict().get("system", "")
    name = next((name for mark, name in OTHERS.items() if mark in template), "unknown")
    raise ValueError(f"the template is not one of ChatML that is known here, it is {name}")


def plain_form(template: str) -> str:
    r"""A template without the liberties of its writer: quotes, dashes, \n for a line break, spaces
    outside of texts, a text cut in two."""
    text = template.strip().replace(r"\n", "\n").replace('"', "'")
    text = re.sub(r"\{([%{])-", r"{\1", text)
    text = re.sub(r"-([%}])\}", r"\1}", text)
    text = re.sub(r"message\.(\w+)", r"message['\1']", text)
    text = re.sub(r"('[^']*')|\s+", lambda found: found[1] or "", text)
    return text.replace("'+'", "")
