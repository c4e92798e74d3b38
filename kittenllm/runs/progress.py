"""What a long run owes the person who waits: a line that moves, and a polite stop.

In a terminal the progress is a tqdm bar; in a file or a pipe it is a plain line every few seconds.
Ctrl-C and a terminate signal do not tear a training step apart: they raise a flag, and the run
stops between two steps.

Read before: nothing. Left out: colours, several bars at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from kittenllm.distributed import world

LINE_EVERY = 10.0  # seconds between two lines when nobody watches a terminal


class Progress:
    """Shows `name: 120 of 500 steps, loss 1.23`, as a bar or as lines, on stderr."""

    def __init__(self, name: str, step: int, total: int):
        self.name = name
        self.step = step
        self.total = total
        self.started = time.monotonic()
        self.next_line = self.started  # the first step is shown at once
        self.shown_step: int | None = None
        self.latest: dict[str, float] = {}  # some numbers come only every few steps
        self.text = ""
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=name, initial=step, total=total, file=sys.stderr, dynamic_ncols=True
            )

    def update(self, metrics: dict, show: tuple[str, ...]) -> None:
        """One step is done; `show` names the metrics that matter."""
        self.step += 1
        self.latest |= {key: metrics[key] for key in show if metrics.get(key) is not None}
        self.text = ", ".join(f"{key} {value:.4g}" for key, value in self.latest.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.text, refresh=False)
            self.bar.update()
        elif time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_EVERY
            self._line()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.text and self.shown_step != self.step:
            self._line()

    def _line(self) -> None:
        seconds = time.monotonic() - self.started
        self.shown_step = self.step
        print(
            f"{self.name}: {self.step} of {self.total} steps, {seconds:.0f} s, {self.text}",
            file=sys.stderr,
            flush=True,
        )


class StopFlag:
    """`requested` becomes True at the first Ctrl-C or terminate signal; the second one raises."""

    def __init__(self):
        self.requested = False

    def handle(self, signal_number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once; the run goes on from its last saved step")
        self.requested = True
        if world().is_first:
            os.write(2, b"\nfinishing this step, then saving (Ctrl-C again: stop at once)\n")


@contextmanager
def stop_between_steps() -> Iterator[StopFlag]:
    """While this is open, Ctrl-C and SIGTERM only raise the flag that it hands out."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # Python delivers signals to the main thread only
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    earlier = [signal.signal(number, flag.handle) for number in signals]
    try:
        yield flag
    finally:
        for number, handler in zip(signals, earlier, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
