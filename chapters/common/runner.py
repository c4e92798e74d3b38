"""The table of chapters, and the small program around each of them.

A chapter is a folder. Its story.py has `Settings` (a dataclass), `QUICK` (the values of --quick)
and `run(settings, common)`, which returns its summary. Its __main__.py calls `chapter_main`, and
hands over what looks at the summary of every chapter that has finished: the verdicts.

Chapters never import each other. When one stands on another it calls `ensure("ch0_base", common)`:
a finished predecessor is reused, a missing one is run first.
"""

import difflib
import importlib
import importlib.util
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType

from chapters.common.samples import before_and_after
from chapters.common.terminal import (
    is_loss,
    make_output_forgiving,
    one_voice,
    safe_text,
    tell,
)
from kittenllm.runs.checkpoints import CheckpointError, plain_numbers
from kittenllm.runs.json_files import read_json
from kittenllm.runs.run import differences, finished_run, read_summary
from kittenllm.settings import (
    Common,
    asks_for_extras,
    main_values,
    parse_settings,
    restore_settings,
    with_values,
)


@dataclass(frozen=True)
class Chapter:
    """One row of the table."""

    name: str  # the folder is chapters/<name>
    title: str
    needs: tuple[str, ...] = ()  # chapters that run before it
    shows: tuple[str, ...] = ()  # keys of summary.json for the journey's table
    in_journey: bool = True  # False: only when asked for by name
    talks: bool = True  # its model.pt is a kitten that one can chat with


CHAPTERS = (
    Chapter(
        "ch0_base",
        "a base GPT: it only continues text",
        shows=("val_nats_per_token", "val_bits_per_byte", "fact_recall", "echo_accuracy"),
        talks=False,
    ),
    Chapter(
        "ch1_sft",
        "supervised fine-tuning: it answers",
        needs=("ch0_base",),
        shows=("answer_accuracy_sampled", "safe_rate", "friendly_rate", "stop_rate"),
    ),
    Chapter(
        "ch1_tools",
        "tools, search and plans",
        needs=("ch1_sft",),
        in_journey=False,
    ),
    Chapter(
        "ch1_language",
        "an assistant for a language of our own",
        needs=("ch1_sft",),
        in_journey=False,
    ),
    Chapter(
        "ch2_reward_model",
        "a reward model: what people prefer",
        needs=("ch1_sft",),
        shows=("accuracy", "bayes_accuracy", "gold_accuracy", "calibration_error"),
        talks=False,
    ),
    Chapter(
        "ch3_ppo",
        "PPO: reinforcement learning from feedback",
        needs=("ch2_reward_model",),
        shows=("gold_before", "gold_after", "safe_rate_after", "friendly_rate_after", "kl"),
    ),
    Chapter(
        "ch4_preferences",
        "DPO, IPO, ORPO: preferences without RL",
        needs=("ch1_sft",),
        shows=("dpo.gold_before", "dpo.gold_after", "ipo.gold_after", "orpo.gold_after"),
    ),
    Chapter(
        "ch5_reasoning",
        "GRPO: it learns to think before it answers",
        needs=("ch0_base",),
        shows=("accuracy_before", "accuracy_after", "tokens_before", "tokens_after"),
        talks=False,
    ),
    Chapter(
        "ch6_r1",
        "R1: one kitten that chats, is kind, and thinks",
        needs=("ch3_ppo", "ch5_reasoning"),
        shows=("puzzle_accuracy", "gold", "safe_rate", "friendly_rate", "answer_accuracy"),
    ),
)


def story_of(name: str) -> ModuleType:
    """The module chapters/<name>/story.py."""
    return importlib.import_module(f"chapters.{name}.story")


def available_chapters() -> list[Chapter]:
    """The chapters whose folder is there, in order."""
    return [chapter for chapter in CHAPTERS if importlib.util.find_spec(f"chapters.{chapter.name}")]


def find_chapter(name: str) -> Chapter:
    """The row of an available chapter.  Raises: ValueError that names the nearest one."""
    chapters = {chapter.name: chapter for chapter in available_chapters()}
    if name in chapters:
        return chapters[name]
    parts = re.findall(r"[a-z0-9]+", name.lower())
    near: list[str] = []
    for wanted in (parts, parts[:1], parts[-1:]):  # "ch4-dpo", then "ch4", then "dpo"
        near = near or [row.name for row in chapters.values() if _is_called(row, wanted)]
    near = near or difflib.get_close_matches(name, chapters, n=1, cutoff=0.8)  # "ch3_poo"
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(chapters)}."
    raise ValueError(f"there is no chapter {name!r}. {hint}")


def _is_called(chapter: Chapter, wanted: list[str]) -> bool:
    """Whether its name or title has all of these words."""
    words = re.findall(r"[a-z0-9]+", f"{chapter.name} {chapter.title}".lower())
    return bool(wanted) and set(wanted) <= set(words)


def chosen_chapters(names: list[str]) -> list[Chapter]:
    """The chapters to run, in order: the journey, or the named ones with all that they need."""
    available = available_chapters()
    if not names:
        return [chapter for chapter in available if chapter.in_journey]
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        chapter = find_chapter(waiting.pop())
        wanted.add(chapter.name)
        waiting += [name for name in chapter.needs if name not in wanted]
    return [chapter for chapter in available if chapter.name in wanted]


def run_chapter(name: str, settings, common: Common) -> tuple[dict, bool]:
    """Run a chapter -> (its summary, True if it had finished before and was only reused)."""
    module = story_of(find_chapter(name).name)
    summary, lost_files = _finished_before(name, settings, common)
    if summary is not None and lost_files and not asks_for_extras(settings):
        print(_lost_line(name, lost_files, common))
        return summary, True
    before = read_summary(common.folder(name) / "summary.json")
    summary = module.run(settings, common)
    said = before_and_after(common.folder(name)) if summary != before else ""
    if said:
        print(f"\nwhat the kitten says, before and after:\n\n{said}\n")
    if summary != before and common.after_chapter:
        common.after_chapter(name, summary)
    return summary, summary == before


def default_settings(name: str, common: Common):
    """A chapter's settings when nobody gave a flag: its defaults, or the quick ones."""
    module = story_of(find_chapter(name).name)
    return with_values(module.Settings(), module.QUICK if common.quick else {})


def ensure(name: str, common: Common) -> dict:
    """The summary of a chapter that another one stands on; it runs first if it has not yet.

    A predecessor that was run by hand keeps the settings it was given then, and that is said.
    Same seed, device, model size and quickness as `common` in any case. Once it has finished, the
    files it learned from are never read again.
    """
    default = default_settings(name, common)
    settings = _settings_of_earlier_run(name, common) or default
    folder = common.folder(name)
    usual, used = plain_numbers(main_values(default)), plain_numbers(main_values(settings))
    if used != usual:
        changed = differences(usual, used)
        print(f"{name}: taken as it was run by hand in {folder} ({changed})")
    if not (folder / "summary.json").exists():
        print(f"{name} is needed and has not run yet, so it runs first ({folder})")
    if finished_run(common, name, settings) is not None:
        for needed in find_chapter(name).needs:
            ensure(needed, common)
        summary, lost_files = _finished_before(name, settings, common)
        if summary is not None:
            if lost_files:
                print(_lost_line(name, lost_files, common))
            return summary
    summary, _ = run_chapter(name, settings, common)
    return summary


def has_finished(name: str, common: Common) -> bool:
    """Has a chapter finished with this seed and size, and all that it needs? Then `ensure` trains
    nothing."""
    settings = _settings_of_earlier_run(name, common) or default_settings(name, common)
    summary, _ = _finished_before(name, settings, common)
    needed = find_chapter(name).needs
    return summary is not None and all(has_finished(other, common) for other in needed)


def _finished_before(name: str, settings, common: Common) -> tuple[dict | None, list[str]]:
    """The summary of a finished run of these settings on today's predecessors, and the user's files
    of that run which can no longer be read; (None, []) if there is no such run."""
    found = finished_run(common, name, settings)
    if found is None:
        return None, []
    summary, inputs = found
    for needed in find_chapter(name).needs:
        today = read_summary(common.folder(needed) / "summary.json") or {}
        if today.get("fingerprint") not in inputs.values():
            return None, []
    # What is a setting and an input as well is a file: its path and its digest.
    files = [path for key, path in main_values(settings).items() if key in inputs and path]
    return summary, [path for path in files if not os.access(path, os.R_OK)]


def _lost_line(name: str, lost_files: list[str], common: Common) -> str:
    files = ", ".join(lost_files)
    return f"{name}: {files} can no longer be read; taken as finished in {common.folder(name)}"


def chapter_main(
    name: str, after_chapter: Callable[[str, dict], None] | None = None, argv=None
) -> int:
    """The command line of one chapter; returns the exit code.

    `after_chapter(name, summary)` is called for every chapter that was trained on the way.
    """
    module = story_of(name)

    def work():
        settings, common = parse_settings(
            module.Settings, module.__doc__, argv, quick=module.QUICK, prog=f"chapters.{name}"
        )
        _, reused = run_chapter(name, settings, replace(common, after_chapter=after_chapter))
        if reused:
            print(
                f"{name}: finished earlier with these settings, see {common.folder(name)}. "
                "Delete that folder to run it again."
            )

    return exit_code(work)


def exit_code(work: Callable) -> int:
    """Run `work()` -> 0, or print one line for a reader and return 1 (a mistake) or 130 (stopped).

    `python -X dev -m chapters...` shows the traceback instead, for whoever mends the program.
    """
    make_output_forgiving()
    try:
        with _signals_stop_politely(), one_voice():
            work()
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt as stop:
        message = str(stop) or "stopped; the same command goes on from the last saved step"
        tell(f"\n{message}")
        return 130
    except BrokenPipeError:  # the reader of a pipe went away, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, CheckpointError, OSError, MemoryError, RuntimeError) as error:
        message = _readable(error)
        if message is None or sys.flags.dev_mode:
            raise
        message = safe_text(message, keep="\n")
        tell(f"error: {message}")
        return 1


def _readable(error: Exception) -> str | None:
    """One line for errors that a reader can do something about, None for our own mistakes."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text:
        return "not enough memory. Try --size small, or smaller batches."
    if isinstance(error, RuntimeError):
        if is_loss(error):
            return (
                "another process was lost, so all have stopped; the same command goes on from the "
                "last saved step"
            )
        if "non-finite" in text:
            return "the gradient is no longer a number. Lower the learning rates and start again."
        return None
    return text


@contextmanager
def _signals_stop_politely() -> Iterator[None]:
    """While this is open, Ctrl-C and a terminate signal raise KeyboardInterrupt: also in a run that
    a shell has started in the background, for which it lets Ctrl-C be ignored."""

    def stop(signal_number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    earlier = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, earlier, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)


def _settings_of_earlier_run(name: str, common: Common):
    """The settings in a run folder of the same seed and size, finished or not; None without one."""
    earlier = (read_json(common.folder(name) / "run.json") or {}).get("fingerprint")
    if not isinstance(earlier, dict):
        return None
    if (earlier.get("seed"), earlier.get("size")) != (common.seed, common.size):
        return None
    module = story_of(name)
    try:
        return restore_settings(module.Settings, earlier["settings"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # written by another version of the chapter
