"""A recorded call as text: every named intermediate with its shape, its values and its term.

A value that a mask leaves out is shown as a dot: it never matters. Everything fits into the width
of the terminal, down to 60 columns.

Read before: tracer.py, terms.py.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from chapters.common.terminal import wrap
from chapters.trace.terms import TERMS, Function, Term
from chapters.trace.tracer import Assignment, Recording, plain

DOT = "."
WIDEST_CELL = 9
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"

METRICS = {
    "accuracy": "share that is right; a tie counts half",
    "margin": "mean difference of the two scores",
    "clip_fraction": "share of tokens outside the clip interval",
    "approx_kl": "distance to the old policy, nats per token (k3)",
    "kl": "distance to the reference, nats per token (k3)",
    "chosen_reward": "mean reward hidden in the policy, chosen replies",
    "rejected_reward": "the same, rejected replies",
    "chosen_logprob": "mean log-prob of the chosen replies, nats",
    "rejected_logprob": "the same, rejected replies; both may fall",
    "nll": "the fine-tuning part, nats per token",
    "odds_loss": "the preference part, nats",
}


class Page:
    """Lines of text of one width, with or without colours."""

    def __init__(self, width: int, colour: bool):
        self.width = width
        self.bold, self.dim, self.reset = (BOLD, DIM, RESET) if colour else ("", "", "")
        self.lines: list[str] = []

    def text(self, text: str, indent: str = "", style: str = "") -> None:
        """A paragraph, wrapped."""
        end = self.reset if style else ""
        for line in wrap(text, self.width, indent=indent).split("\n"):
            self.lines.append(f"{style}{line}{end}")

    def blank(self) -> None:
        self.lines.append("")

    def rows(self, tokens: Tensor, mask: Tensor, titles: Sequence[str]) -> None:
        """The rows of text: prompt, then reply in brackets, then padding."""
        for title, row, counted in zip(titles, tokens.tolist(), mask.tolist(), strict=True):
            trained = [False, *counted]
            prompt = [str(token) for token, inside in zip(row, trained, strict=True) if not inside]
            reply = [str(token) for token, inside in zip(row, trained, strict=True) if inside]
            before = trained.index(True)
            padding = f"  padding {' '.join(prompt[before:])}" if prompt[before:] else ""
            words = f"prompt {' '.join(prompt[:before])}  reply {' '.join(reply)}{padding}"
            self.text(f"{title}: {words}", indent="  ")
        self.blank()

    def function(self, number: int, count: int, recording: Recording) -> None:
        """One watched call: its equation, its inputs, its intermediates, what it returns."""
        about = TERMS[recording.function]
        where = f"{recording.file.parent.name}/{recording.file.name}"
        self.text(f"== {number} of {count}: {recording.function}, {where} ==", style=self.bold)
        self.text(about.equation, indent="  ")
        self.text(f"({about.source})", indent="  ", style=self.dim)
        shown: dict[str, Tensor] = {}
        for turns in recording.in_order():
            name = turns[0].name
            term = about.terms[name]
            if not term.hidden:
                self.blank()
                self.assignment(turns, term, recording, shown.get(name))
                shown[name] = turns[-1].value
        self.results(recording, about)
        self.blank()

    def assignment(
        self,
        turns: list[Assignment],
        term: Term,
        recording: Recording,
        before: Tensor | None = None,
    ) -> None:
        """One name: head, meaning, the statement that ran, values.

        `before` is what the name stood for until now: if only masked places changed, that is said.
        """
        last = turns[-1]
        name, value = last.name, last.value
        if not isinstance(value, Tensor):
            self.head(f"{name} = {value:g}", "", term.term)
            self.text(term.meaning, indent="  ")
            return
        in_a_loop = len(turns) > 1 and value.dim() == 1
        shape = shape_text(value) + (" in each turn" if in_a_loop else "")
        self.head(name, shape, term.term)
        show = visible_places(value, last, term, recording)
        same = before is not None and show is not None and same_where(show, before, value)
        self.text("as above, and 0 at the dots" if same else term.meaning, indent="  ")
        if last.line:
            code = recording.statements[last.line]
            self.text(f"line {last.line}: {code}", indent="    ", style=self.dim)
        if in_a_loop:
            self.loop(turns, recording.last(term.dots) if term.dots else None)
        elif not same:
            self.values(value, show)

    def head(self, name: str, shape: str, term: str) -> None:
        text = f"{name} {shape}".rstrip()
        line = f"{text}  =  {term}"
        if len(line) <= self.width:
            self.lines.append(f"{self.bold}{text}{self.reset}  =  {term}")
            return
        self.text(text, style=self.bold)
        self.text(f"=  {term}", indent="  ")

    def results(self, recording: Recording, about: Function) -> None:
        """The tensors it returns; a loss and its metrics come on the last page."""
        result = recording.result
        tensors = result if isinstance(result, tuple) else (result,)
        mask = own_mask(recording)
        for value, term in zip_longest(tensors, about.results):
            if term is None or not isinstance(value, Tensor):
                continue
            self.blank()
            self.head("it returns", shape_text(value), term)
            show = mask if mask is not None and mask.shape == value.shape else None
            self.values(value.detach(), show)

    def values(self, value: Tensor, show: Tensor | None) -> None:
        """The numbers; `show` is False where a dot stands instead."""
        if show is None:
            show = torch.ones(value.shape, dtype=torch.bool)
        if value.dim() == 3 and show.dim() == 2:
            show = show[:, :, None].expand(value.shape)
        if value.dim() < 2:
            self.row("", value.reshape(-1), show.reshape(-1))
            return
        places = value.shape[1] if value.dim() == 3 else 1
        rows = zip(value.flatten(0, -2), show.flatten(0, -2), strict=True)
        for number, (numbers, shown) in enumerate(rows):
            b, t = divmod(number, places)
            self.row(f"{b},{t}" if value.dim() == 3 else f"b={b}", numbers, shown)

    def loop(self, turns: list[Assignment], mask: Tensor | None) -> None:
        """A column for each turn of the loop, in the order in which they ran."""
        width = self.cell_width(len(turns))
        self.lines.append(" " * 5 + "".join(f"t={a.turn}".rjust(width) for a in turns))
        for row in range(len(turns[0].value)):
            numbers = torch.stack([a.value[row] for a in turns])
            times = [a.turn for a in turns]
            shown = torch.ones(len(turns), dtype=torch.bool) if mask is None else mask[row, times]
            self.row(f"b={row}", numbers, shown)

    def row(self, label: str, numbers: Tensor, shown: Tensor) -> None:
        width = self.cell_width(len(numbers))
        cells = [
            cell(number.item(), width) if visible else DOT
            for number, visible in zip(numbers, shown, strict=True)
        ]
        label = f" {label}" if label else "    "
        self.lines.append(f"{label:<5}" + "".join(text.rjust(width) for text in cells))

    def cell_width(self, columns: int) -> int:
        return min(WIDEST_CELL, (self.width - 5) // columns)

    def ending(self, recordings: list[Recording]) -> None:
        """The losses and metrics of all functions that made some."""
        self.text("== The loss, and what to watch beside it ==", style=self.bold)
        for recording in recordings:
            if not (isinstance(recording.result, tuple) and isinstance(recording.result[1], dict)):
                continue
            loss, metrics = recording.result
            self.lines.append(f"{recording.function}: loss {loss.item():.4f}")
            for name, value in plain(metrics).items():
                meaning = METRICS[name]
                self.text(f"{name:<17}{value:>8.4f}  {meaning}", indent="  ")


def shape_text(value: Tensor) -> str:
    return "(one number)" if value.dim() == 0 else str(tuple(value.shape))


def same_where(show: Tensor, before: Tensor, value: Tensor) -> bool:
    """True if two tensors hold the same numbers wherever `show` is True."""
    if before.shape != value.shape or show.shape != value.shape:
        return False
    return torch.equal(before[show], value[show])


def own_mask(recording: Recording) -> Tensor | None:
    """The function's own mask of counted tokens, (B, T-1)."""
    for name in ("mask", "trained"):
        mask = recording.last(name)
        if mask is not None:
            return mask
    return None


def visible_places(
    value: Tensor, assignment: Assignment, term: Term, recording: Recording
) -> Tensor | None:
    """True where a value is shown, None: everywhere."""
    if value.dtype == torch.bool and assignment.name in ("mask", "trained", "loss_mask"):
        return value
    if term.dots and assignment.line:  # an argument is shown as it was given
        return recording.last(term.dots)
    mask = own_mask(recording)
    return mask if mask is not None and mask.shape == value.shape else None


def cell(number: float, width: int) -> str:
    """A number with as many digits as fit into a cell, one column of it left free."""
    if isinstance(number, (bool, int)):
        return str(int(number))
    for digits in (3, 2, 1, 0):
        text = f"{number:.{digits}f}"
        if len(text) < width:
            return text if float(text) or not number else f"{0:.{digits}f}"
    return f"{number:.0e}"
