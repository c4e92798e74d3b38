"""What a program does first, before torch is loaded: one helpful line for what cannot work.

`kittenllm/__init__.py` calls `enter` when Python was started with `-m`. The small files named
kittenllm.py and chapters.py call `explain_path`: Python finds them, and not the packages, if a file
beside them was started by its path.

Read before: nothing. Left out: a torch that is there but cannot be loaded.
"""

import argparse
import difflib
import importlib.util
import os
import sys
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the folder of both packages
PACKAGES = ("torch", "numpy", "tiktoken", "tqdm", "matplotlib")
INSTALL = "pip install -r requirements.txt"


def enter() -> None:
    """For `python -m MODULE`.  Raises: SystemExit(2), after one line, if MODULE cannot run."""
    module = sys.orig_argv[-len(sys.argv)]  # what is before the arguments of the program
    if module.startswith("-"):  # "-mchapters", or with other one-letter options "-Bmchapters"
        module = module.partition("m")[2]
    if module.split(".")[0] not in ("kittenllm", "chapters"):
        return
    open_closed_streams()
    if module not in programs():
        refuse(f"{module} is not a program. {_what_to_run(module)}")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        unused = (ROOT / ".venv").is_dir() and Path(sys.prefix) != ROOT / ".venv"
        remedy = "activate .venv in this terminal, or " if unused else ""
        found_not = f"{', '.join(missing)} cannot be found by {sys.executable}"
        refuse(f"{found_not}. In the folder {ROOT}: {remedy}{INSTALL}")


def explain_path() -> None:
    """For `python chapters/ch1_sft` and its like.  Raises: SystemExit(2) after one line."""
    started = Path(sys.argv[0]).resolve()
    if started.is_dir():
        started /= "__main__.py"
    if started.name == "story.py":  # a chapter's own file; the small one beside it starts it
        started = started.with_name("__main__.py")
    if not started.is_file() or not started.is_relative_to(ROOT):  # -m, -c, Python's shell
        refuse(f"Python was started in a folder of ours. Start it in the one above, {ROOT}.")
    module = _dotted(started)
    if module not in programs():
        refuse(f"{started.relative_to(ROOT)} is not a program. {_what_to_run(module)}")
    refuse(f"run it by its name, in the folder {ROOT}: python -m {module}")


def programs() -> list[str]:
    """Every module that `python -m` can run: "chapters", "chapters.chat", "chapters.museum", ..."""
    files = [*ROOT.glob("kittenllm/**/*.py"), *ROOT.glob("chapters/**/*.py")]
    return sorted(
        _dotted(file)
        for file in files
        if file.name == "__main__.py"
        or '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")
    )


def nearest(name: str, names, *, cutoff: float = 0.7) -> str | None:
    """The one of `names` that somebody probably meant, None if none is near."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return found[0] if found else None


def refuse(message: str) -> None:
    """The message as one line of plain characters, then the end."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    print(shown, file=sys.stderr)
    sys.exit(2)


def open_closed_streams() -> None:
    """A stream that the shell has closed (`>&-`) becomes an empty one: nothing comes, nothing is
    kept. Otherwise the next file that is opened would get its number, and our output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 (to the end)


class Parser(argparse.ArgumentParser):
    """argparse, but whatever is wrong is one line, and a flag that does not exist gets a hint."""

    def error(self, message: str):
        """The line and exit code 2, as argparse does, without the list of all flags before it."""
        refuse(f"{self.prog}: error: {message} (--help shows what there is)")

    def parse_known_args(self, args=None, namespace=None):
        """Refuses what argparse itself would hand back as unknown."""
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = {flag.lstrip("-"): flag for flag in self._option_string_actions}
            word = unknown[0].split("=")[0].lstrip("-/\u2013\u2014").lower().replace("_", "-")
            near = nearest(word, flags)
            hint = f". Did you mean {flags[near]}?" if near else ""
            self.error(f"there is no {' '.join(unknown)}{hint}")
        return arguments, unknown


def path_argument(text: str) -> Path:
    """A file or folder from the command line.  Raises: ArgumentTypeError for a name that is empty
    or holds characters which a terminal would obey."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file or folder is empty")
    return Path(plain_text(text))


def plain_text(text: str) -> str:
    """Text from the command line.  Raises: ArgumentTypeError for control characters."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise argparse.ArgumentTypeError(f"{text!r} holds control characters")
    return text


def _dotted(file: Path) -> str:
    """ROOT/chapters/museum/__main__.py is "chapters.museum"."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__main__")


def _what_to_run(module: str) -> str:
    if module.startswith("chapters.exercises"):
        return "python -m chapters.check --list shows how exercises are graded."
    there = (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
    near = None if there else nearest(module, programs(), cutoff=0.8)
    if near:
        return f"Did you mean python -m {near}?"
    what = "It is a part that programs use. " if there else ""
    return f"{what}python -m chapters runs the journey, with --list it names the chapters."
