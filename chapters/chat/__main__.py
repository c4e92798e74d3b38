"""Talk to a saved kitten in the terminal: python -m chapters.chat

Without further flags it loads the kitten of the latest finished chapter. A base kitten cannot chat;
it gets a text and continues it, which is all it has learned. What a kitten thinks is folded to one
line, and /think shows it. With --tools it is the kitten of ch1_tools, which calls a calculator and
a search; calls and results are shown as they happen.
--model also takes the folder of a real model, as Hugging Face folders are (Llama family, ChatML).

Ctrl-C stops a reply, a second one (or Ctrl-D, or /quit) leaves.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from chapters.chat.conversation import Conversation, PlainText
from chapters.chat.greetings import greeting
from chapters.chat.thoughts import Thoughts
from chapters.chat.tool_talk import NO_TOOLS, ToolTalk
from chapters.common.runner import CHAPTERS, exit_code, find_chapter
from chapters.common.terminal import safe_text, use_colour, wrap
from kittenllm.chat import colour_view
from kittenllm.door import Parser, path_argument
from kittenllm.gpt import GPT
from kittenllm.huggingface import load_folder
from kittenllm.runs.checkpoints import CheckpointError, load_model
from kittenllm.sampling import stream
from kittenllm.settings import DEVICES, Common, new_generator, pick_device
from kittenllm.tokenizer import Tokenizer

INDENT = " " * 8  # under "kitten> ": a reply cannot draw a prompt of its own at the left edge

HELP = """\
/reset          forget the conversation
/tokens         show the conversation as the kitten sees it: green is what it said itself
/temperature X  0 always takes the likeliest token, 1 is how it was trained, 2 is wild
/think          show the last thought, which was folded to one line
/calls          unfold all calls of tools so far, and what came back (with --tools)
/help           this list
/quit           leave (so do Ctrl-C and Ctrl-D)"""


class ReplyText:
    """Tokens one by one -> text that can be printed at once, because later tokens never change it.

    A token may hold half a character, and ordinary tokens may spell a special token, which is then
    shown with a backslash: such an end is held back until it is decided.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.shown = ""

    def add(self, token: int) -> str:
        """The text that this token has made certain."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids).rstrip("\N{REPLACEMENT CHARACTER}")
        undecided = undecided_end(text, self.tokenizer.special_ids)
        return self._new_part(text[: len(text) - undecided])

    def rest(self) -> str:
        """What was still held back, at the end of the reply."""
        return self._new_part(self.tokenizer.decode(self.ids))

    def _new_part(self, text: str) -> str:
        part = text[len(self.shown) :]
        self.shown += part
        return safe_text(part, keep="\n").replace("\n", "\n" + INDENT)


class ChatProgram:
    """The loop: read a line, obey it or answer it."""

    def __init__(self, gpt, conversation: Conversation, arguments: argparse.Namespace):
        self.gpt = gpt
        self.conversation = conversation
        self.tokenizer = conversation.tokenizer
        self.temperature = arguments.temperature
        self.max_new_tokens = arguments.max_new_tokens
        self.generator = new_generator(gpt.device, arguments.seed, "chat")
        self.label = "text> " if isinstance(conversation, PlainText) else "you> "
        self.tools = ToolTalk(self.tokenizer) if arguments.tools else NO_TOOLS
        self.has_forgotten = False  # and has said so
        self.thoughts = Thoughts(self.tokenizer)

    def run(self) -> None:
        """Until the reader leaves, or the input ends."""
        try:
            while (line := self.read()) is not None:
                if line.startswith("/"):
                    if not self.obey(line):
                        break
                elif line:
                    self.reply_to(line)
        except KeyboardInterrupt:
            print()
        print("The kitten curls up and sleeps. Goodbye!")

    def read(self) -> str | None:
        """The next line, or None at the end of the input."""
        try:
            line = input(self.label)
        except EOFError:
            print()
            return None
        if not sys.stdin.isatty():
            print(safe_text(line))  # a script's lines are not on the screen yet
        return line.strip()

    def obey(self, line: str) -> bool:
        """Carry out a command; False means leave."""
        command, _, value = line.partition(" ")
        if command in ("/quit", "/exit"):
            return False
        if command == "/reset":
            self.conversation.reset()
            self.has_forgotten = False
            print("(the conversation is forgotten)")
        elif command == "/tokens":
            self.show_tokens()
        elif command == "/temperature":
            self.set_temperature(value)
        elif command == "/think":
            print(self.thoughts.unfolded())
        elif command == "/calls":
            print(self.tools.unfolded())
        elif command == "/help":
            print(HELP)
        else:
            print(f"(there is no command {safe_text(command)}; /help lists them)")
        return True

    def show_tokens(self) -> None:
        row = self.conversation.tokens()
        if not row.tokens:
            print("(nothing has been said yet)")
            return
        colour = use_colour()
        print(colour_view(self.tokenizer, row.tokens, row.loss_mask, colour=colour, separator="|"))
        meaning = "green" if colour else "in [brackets]"
        print(
            f"({len(row)} of {self.conversation.context_length} tokens; {meaning} is what the "
            "kitten said)"
        )

    def set_temperature(self, value: str) -> None:
        if value:
            try:
                self.temperature = temperature(value)
            except ValueError as error:
                print(f"({safe_text(str(error))})")
                return
        print(f"(temperature {self.temperature:g})")

    def reply_to(self, text: str) -> None:
        """One exchange: the kitten's reply, or its calls of tools, their results, and its reply."""
        self.tools.begin()
        try:
            self.say_forgotten(self.conversation.ask(text, self.max_new_tokens))
            ids = self.speak(self.conversation.tokens().tokens, "kitten> ")
            self.conversation.answer(ids)
            while (result := self.tools.answer_to(ids)) is not None:
                print(INDENT + self.tools.folded(result))
                if self.tools.stopped:
                    return
                self.say_forgotten(self.conversation.tool_said(result, self.max_new_tokens))
                ids = self.speak(self.conversation.tokens().tokens, INDENT)
                self.conversation.answer(ids)
        except ValueError as error:
            print(f"({safe_text(str(error))})")

    def say_forgotten(self, forgotten: int) -> None:
        """The first time in a conversation; later the reader knows."""
        if forgotten and not self.has_forgotten:
            self.has_forgotten = True
            note = (
                f"(Only {self.conversation.context_length} tokens fit into my head, sorry! From "
                "now on I forget the oldest part of our talk. /tokens shows what I still know.)"
            )
            print(wrap(note, 80))

    def speak(self, prompt: list[int], label: str) -> list[int]:
        """Sample a reply and print it as it comes; returns its tokens. Ctrl-C ends it early."""
        most = min(self.max_new_tokens, self.conversation.context_length - len(prompt))
        reply = ReplyText(self.tokenizer)
        call: list[int] = []  # from <call> on, with tools: shown folded, when it is whole
        ids: list[int] = []
        note = ""
        self.thoughts.begin()
        print(label, end="", flush=True)
        try:
            for token in stream(
                self.gpt,
                prompt,
                max_new_tokens=most,
                temperature=self.temperature,
                generator=self.generator,
            ):
                ids.append(token)
                if call or self.tools.begins_call(token):
                    call.append(token)
                    if self.tools.ends_call(token):
                        break  # the program speaks now
                elif self.thoughts.hides(token):
                    if folded := self.thoughts.folded(token):
                        print(f"{folded}\n{INDENT}", end="", flush=True)
                else:
                    print(reply.add(token), end="", flush=True)
            if len(ids) == most and not self.tools.ends_call(ids[-1]):
                note = f"(cut off after {most} tokens)"
            elif not ids:
                note = "(says nothing)"
        except KeyboardInterrupt:
            ids = ids[: len(ids) - len(call)]
            note = "(stopped; Ctrl-C again leaves)"
        print(reply.rest())
        if note:
            print(INDENT + note)
        return ids


def undecided_end(text: str, names: Iterable[str]) -> int:
    """How many letters at the end of `text` may become the name of a special token."""
    for length in range(min(len(text), max(map(len, names), default=0) - 1), 0, -1):
        end = text[-length:]
        if any(name != end and name.startswith(end) for name in names):
            return length
    return 0


def temperature(text: str) -> float:
    """A temperature that was typed.  Raises: ValueError unless it is a number from 0 up."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"temperature must be a number from 0 up, not {text!r}")
    return value


def find_model(runs: Path, quick: bool, chapter: str | None) -> tuple[Path, bool]:
    """The model.pt to load -> (path, whether it can chat).

    Raises: ValueError for an unknown chapter, CheckpointError if nothing has been trained yet.
    """
    common = Common(runs=runs, quick=quick)
    if chapter is not None:
        row = find_chapter(chapter)
        return common.folder(row.name) / "model.pt", row.talks
    models = [(common.folder(row.name) / "model.pt", row) for row in CHAPTERS]
    finished = [
        (path, row)
        for path, row in models
        if path.is_file() and path.with_name("summary.json").is_file()
    ]
    talking = [(path, row) for path, row in finished if row.talks]
    base = [(path, row) for path, row in finished if row.name == "ch0_base"]
    if talking or base:
        path, row = (talking or base)[-1]
        return path, row.talks
    folder = common.folder("x").parent
    raise CheckpointError(
        f"no trained kitten in {folder}. Run python -m chapters first (or chapters.ch1_sft), "
        "or say with --runs, --quick or --model where one is."
    )


def load_any(path: Path, chats: bool, device: torch.device) -> tuple[GPT, Tokenizer, bool]:
    """The model of a model.pt or of a Hugging Face folder, and whether it can chat."""
    if path.is_dir():
        gpt, tokenizer = load_folder(path, device=device, dtype=torch.float32)
        return gpt, tokenizer, tokenizer.chats
    gpt, tokenizer, extra = load_model(path, device=device)
    return gpt, tokenizer, extra.get("chat", chats)  # the chapter that saved a model knows best


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = Parser(
        prog="chapters.chat",
        description=__doc__,
        epilog="commands in the chat:\n" + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model", type=path_argument, metavar="PATH", help="a model.pt, or a Hugging Face folder"
    )
    which.add_argument("--chapter", help="the kitten of this chapter (default: the latest)")
    parser.add_argument("--runs", type=path_argument, default=Path("runs"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="look in <runs>/quick")
    parser.add_argument("--temperature", type=float, default=0.7, help="default: 0.7")
    parser.add_argument("--max-new-tokens", type=int, default=192, help="default: 192")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument(
        "--tools", action="store_true", help="run the kitten's calls; default kitten: ch1_tools"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    arguments = parser.parse_args(argv)
    try:
        arguments.temperature = temperature(str(arguments.temperature))
        arguments.device = pick_device(arguments.device)
        if arguments.max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens must be 1 or more, not {arguments.max_new_tokens}")
    except ValueError as error:
        parser.error(str(error))
    return arguments


def chat(argv=None) -> None:
    """Load a kitten and talk until the reader leaves."""
    arguments = parse_arguments(argv)
    if arguments.model is not None:
        path, chats = arguments.model, True
    else:
        chapter = arguments.chapter or ("ch1_tools" if arguments.tools else None)
        path, chats = find_model(arguments.runs, arguments.quick, chapter)
    gpt, tokenizer, chats = load_any(path, chats, arguments.device)
    if arguments.tools and not (chats and "<call>" in tokenizer.special_ids):
        raise ValueError("--tools needs a kitten that can chat, and knows the token <call>")
    kind = Conversation if chats else PlainText
    conversation = kind(tokenizer, gpt.config.context_length, arguments.system if chats else None)
    print(f"{path}: {gpt.parameter_count / 1e6:.2f} M parameters. /help lists the commands.")
    print(wrap(greeting(path, chats), 80))
    prepare_input()
    ChatProgram(gpt, conversation, arguments).run()


def prepare_input() -> None:
    """Letters that are no UTF-8 must not end the program; arrow keys should edit the line."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (importing it is enough)


def main(argv=None) -> int:
    """The command line of the chat; returns the exit code."""
    return exit_code(lambda: chat(argv))


if __name__ == "__main__":
    sys.exit(main())
