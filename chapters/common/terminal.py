"""Text from a model or a file on its way to the terminal.

A terminal obeys control characters: they can move the cursor, change colours or hide what stands
there. Text from elsewhere is shown with such characters spelled out, so it can only be read.
"""

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta

from torch import distributed

from kittenllm.distributed import world


def safe_text(text: str, *, keep: str = "") -> str:
    """`text` with control, invisible and direction-changing characters as escapes, `keep`
    excepted."""
    shown = []
    for character in text:
        kind = unicodedata.category(character)  # C..: control and format; Zl, Zp: line separators
        if character not in keep and (kind.startswith("C") or kind in ("Zl", "Zp")):
            character = character.encode("unicode_escape").decode()
        shown.append(character)
    return "".join(shown)


def use_colour(stream=None) -> bool:
    """Colours only for a terminal, and not if the reader set NO_COLOR (https://no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and "NO_COLOR" not in os.environ


def wrap(text: str, width: int, *, indent: str = "", first: str | None = None) -> str:
    """`text` in lines of at most `width` columns, the first one behind `first`, others `indent`."""
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return "\n".join(lines) if lines else (first or indent).rstrip()


def with_error(value: float | None, error: float | None, form: str) -> str:
    """A number with its standard error; "n/a" where there is none, as with a single topic.

    >>> with_error(0.612, 0.029, ".1%"), with_error(0.5, None, ".2f"), with_error(None, None, ".2f")
    ('61.2% +- 2.9%', '0.50 +- n/a', 'n/a')
    """
    shown = [
        "n/a" if number is None or number != number else f"{number:{form}}"
        for number in (value, error)
    ]
    return shown[0] if shown[0] == "n/a" else " +- ".join(shown)


def make_output_forgiving() -> None:
    """A terminal that cannot show a letter shows "?" instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def one_voice() -> Iterator[None]:
    """Under torchrun only the first process prints while this is open; see `tell`."""
    with ExitStack() as quiet:
        if not world().is_first:
            nowhere = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
            quiet.enter_context(redirect_stdout(nowhere))
            quiet.enter_context(redirect_stderr(nowhere))
        yield
    if world().size > 1:
        world().wait()
        distributed.destroy_process_group()


def tell(message: str) -> None:
    """Why the program ends, on stderr; under torchrun one of the processes says it."""
    if first_to_tell():
        print(message, file=sys.stderr)


def first_to_tell() -> bool:
    """Has no other process told yet why the program ends?"""
    if not distributed.is_available() or world().size == 1:
        return True
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=5)
    try:
        store = distributed.TCPStore(address, port, is_master=False, timeout=patience)
        return store.add("kittenllm/told", 1) == 1
    except RuntimeError:  # who kept the list is gone
        return True


def is_loss(error: RuntimeError) -> bool:
    """Is this what a process is told when another one is no longer there?"""
    return world().size > 1 and any(word in str(error) for word in ("gloo", "NCCL", "onnection"))
