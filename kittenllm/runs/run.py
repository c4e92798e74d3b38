"""One chapter's run folder: a finished run is reused, a killed one goes on as if nothing happened.

A run is known by its *fingerprint*: chapter, settings, seed, model size, package version, and the
fingerprints of what it was built on. Same fingerprint, same numbers: so a finished folder can be
reused and an unfinished one continued.

    run = Run(common, "ch1_sft", settings, inputs={"base": fingerprint_of(common, "ch0_base")})
    if run.finished:
        return run.summary
    objects = {"gpt": gpt, "optimizer": optimizer, "generator": generator}
    stage = run.stage("train", total=config.steps, objects=objects)
    for metrics in stage.follow(train_sft(..., start_step=stage.step), show=("loss",)):
        ...                                   # the chapter's own business; may add keys to metrics
    with run.timing("eval"):
        accuracy = ...
    return run.finish({"answer_accuracy": accuracy}, model=(gpt, tokenizer))

What the folder holds: `run.json` (the fingerprint), `metrics.jsonl` (a line per step), `resume/`
(the saved states, gone at the end) and, from `finish` on, `model.pt` and `summary.json`.

Read before: checkpoints.py, then stages.py. Left out: experiment tracking, several runs in one
folder.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import kittenllm
from kittenllm.distributed import world
from kittenllm.runs.checkpoints import (
    CheckpointError,
    plain_numbers,
    save_model,
    write_bytes_atomic,
    write_json_atomic,
)
from kittenllm.runs.json_files import (
    damaged,
    is_number,
    metric_entry,
    metric_lines,
    missing_number,
    printable,
    read_json,
    read_metrics,
    unread_lines,
)
from kittenllm.runs.memory import peak_memory_mb, reset_peak_memory
from kittenllm.runs.stages import Stage
from kittenllm.runs.summaries import digest, read_summary, write_summary
from kittenllm.settings import Common, main_values

if sys.platform != "win32":  # which has no such lock: do not start one chapter twice at a time
    import fcntl


class Run:
    """The folder of one chapter, opened for one set of settings. See the top of this file.

    finished: nothing is left to do. summary: what summary.json holds, once finished.
    """

    def __init__(
        self,
        common: Common,
        chapter: str,
        settings,
        *,
        inputs: dict | None = None,
        save_every: float = 5.0,
        open_now: bool = True,
    ):
        """`settings` is the chapter's dataclass; `inputs` name what else decides the result: the
        fingerprint of an earlier chapter, the digest of a file. A state to go on from is saved
        every `save_every` seconds.

        With open_now=False the folder is only looked at. A chapter that can still refuse a file of
        the user's does so first and calls `open()` then: a refusal must not move an earlier run.

        Raises: CheckpointError if the folder cannot be written or another program is running in it,
        DamagedFile if a file of an earlier start is not what a run writes; it stays as it is.
        """
        self.common = common
        self.chapter = chapter
        self.folder = common.folder(chapter)
        self.resume_folder = self.folder / "resume"
        self.save_every = save_every
        self.config = plain_numbers(main_values(settings))
        self.fingerprint = _fingerprint(common, chapter, settings, inputs or {})
        self.seconds = {"seconds": 0.0, "train_seconds": 0.0, "eval_seconds": 0.0}
        self._clock = time.monotonic()
        self._unwritten: list[str] = []  # lines of metrics.jsonl that the disk refused
        self._warned: set[str] = set()
        self.restored: dict[str, int] = {}  # stage -> steps that an earlier start has finished
        self._is_open = False
        self.summary = _summary_of(self.folder, self.fingerprint)
        self.finished = self.summary is not None
        if not self.finished:
            reset_peak_memory()
            if open_now:
                self.open()

    def stage(self, name: str, *, total: int, objects: dict) -> Stage:
        """A part of the run that can be stopped and continued; call it *before* training starts.

        `objects` are all things that training changes: models, optimizers, generators
        (torch.Generator or random.Random). A saved state is put into them here; `stage.step` is
        then the number of finished steps.
        """
        assert not self.finished, "a finished run has no stages: return its summary"
        assert self._is_open, "open() the run before anything is trained"
        return Stage(self, _file_name(name), total, objects)

    def once(self, name: str, make: Callable):
        """`make()`, or what it returned before the run was stopped; the value must fit into JSON.

        For work that nobody wants to wait for twice: an evaluation, sampled replies.
        """
        assert self._is_open, "open() the run before anything is kept in it"
        path = self.resume_folder / f"once_{_file_name(name)}.json"
        saved = read_json(path)
        world().wait()  # all have looked before the first one writes it
        if saved is not None and "value" not in saved:
            raise damaged(path, 'no "value"')
        if saved is None:
            saved = json.loads(json.dumps({"value": plain_numbers(make())}))
            if self.careful(f"the result of {name!r}", lambda: write_json_atomic(path, saved)):
                self.save_seconds()
        return saved["value"]

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `<name>_seconds` of the summary."""
        started = time.monotonic()
        try:
            yield
        finally:
            key = f"{name}_seconds"
            self.seconds[key] = self.seconds.get(key, 0.0) + time.monotonic() - started

    def history(self, stage: str | None = None, *keys: str) -> list[dict]:
        """The entries of metrics.jsonl, of one stage or of all, oldest first: what a plot needs.

        An entry without a number under each of the `keys` is left out, and that is said.
        Raises: DamagedFile if entries of the stage must be there, and none can be used.
        """
        path = self.folder / "metrics.jsonl"
        entries, bad = read_metrics(path)
        entries += [json.loads(line) for line in self._unwritten]
        if bad and "unread lines" not in self._warned:
            self._warned.add("unread lines")
            print(f"note: {unread_lines(path, bad)}", file=sys.stderr)
        entries = [entry for entry in entries if stage is None or entry["stage"] == stage]
        if stage is not None and not entries and self.restored.get(stage, 0) > 0:
            raise damaged(path, f"no readable line of {stage}")
        complete = [entry for entry in entries if not missing_number(entry, keys)]
        if entries and not complete:
            raise damaged(path, f"no line of {stage} with {missing_number(entries[-1], keys)!r}")
        if len(complete) < len(entries) and f"short lines of {stage}" not in self._warned:
            self._warned.add(f"short lines of {stage}")
            short = len(entries) - len(complete)
            lines = "1 line" if short == 1 else f"{short} lines"
            without = f"without one of the numbers {', '.join(keys)}"
            print(f"note: {lines} of {path} {without}: left out", file=sys.stderr)
        return complete

    def last_entry(self, stage: str, *keys: str) -> dict:
        """The last entry of a stage.  Raises: DamagedFile if it lacks one of the keys."""
        last = self.history(stage)[-1]
        for key in keys:
            if key not in last:
                path = self.folder / "metrics.jsonl"
                raise damaged(path, f"the last line of {stage} has no {key!r}")
        return last

    def log(self, stage: str, step: int, metrics: dict) -> None:
        """Append a line to metrics.jsonl; a full disk is a warning, the line is then written
        later."""
        entry = {"stage": stage, "step": step, **metrics}
        if world().is_first:
            self._unwritten.append(json.dumps(plain_numbers(entry), allow_nan=False) + "\n")
            self.careful("metrics.jsonl", self._write_metrics)

    def finish(self, keys: dict, *, model=None, extra: dict | None = None) -> dict:
        """Write model.pt and at last summary.json, which makes the run finished; returns the
        summary.

        `keys` are the chapter's numbers, `model` is (gpt, tokenizer) or None, `extra` goes into
        model.pt.

        Raises: CheckpointError if a file cannot be written; nothing of the training is lost then.
        """
        if self._unwritten:
            self._write_metrics()
        if model is not None:
            gpt, tokenizer = model
            save_model(self.folder / "model.pt", gpt, tokenizer, extra=extra)
        self._count_seconds()
        facts = {
            "chapter": self.chapter,
            "seed": self.common.seed,
            **{name: round(value, 2) for name, value in self.seconds.items()},
            "peak_rss_mb": peak_memory_mb(),
            "config": self.config,
            "size": self.common.size,
            "quick": self.common.quick,
            "device": self.common.device.type,
            "threads": torch.get_num_threads(),
            "version": kittenllm.__version__,
            "model": None if model is None else "model.pt",
            "fingerprint": digest(self.fingerprint),
        }
        clash = sorted(facts.keys() & keys.keys())
        if clash:
            raise ValueError(f"summary keys that the run writes by itself: {', '.join(clash)}")
        self.summary = write_summary(self.folder / "summary.json", {**facts, **keys})
        world().wait()  # for the first process, which has written it
        shutil.rmtree(self.resume_folder, ignore_errors=True)
        self.finished = True
        print(f"{self.chapter}: finished in {facts['seconds']:.0f} s ({self.folder})")
        return self.summary

    # What Stage needs.

    def careful(self, what: str, write: Callable) -> bool:
        """Run `write()`; if the disk refuses, say so once and let the training go on."""
        try:
            write()
        except (CheckpointError, OSError) as error:
            if what not in self._warned:
                self._warned.add(what)
                print(f"warning: {what} not saved, training goes on. {error}", file=sys.stderr)
            return False
        return True

    def cut_metrics(self, stage: str, step: int) -> None:
        """Forget the lines of `stage` from `step` on, and a last line that a kill cut in two.

        A whole line that cannot be read stays where it is: it may be somebody's.
        """
        path = self.folder / "metrics.jsonl"
        lines = metric_lines(path)
        kept = []
        for line in lines:
            entry = metric_entry(line)
            again = entry is not None and entry["stage"] == stage and entry["step"] >= step
            if line.endswith(b"\n") and not again:
                kept.append(line)
        if kept != lines:
            write_bytes_atomic(path, b"".join(kept))

    def save_seconds(self) -> None:
        """Remember the seconds so far, so that they add up over several starts."""
        self._count_seconds()
        path = self.resume_folder / "seconds.json"
        self.careful("the clock", lambda: write_json_atomic(path, self.seconds))

    # Opening the folder.

    def open(self) -> None:
        """Make the folder ready: new, or with an unfinished run of the same fingerprint in it.

        Another run's folder is put aside.  Raises: CheckpointError as `__init__`.
        """
        assert not self.finished and not self._is_open, "a run is opened once, before it finishes"
        if world().is_first:
            self._make_ready()
        world().wait()
        self.seconds.update(_read_seconds(self.resume_folder / "seconds.json"))
        self._is_open = True

    def _make_ready(self) -> None:
        """Of all processes that torchrun has started, the first one does this."""
        mine = {"fingerprint": self.fingerprint, "device": self.common.device.type}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            earlier = read_json(self.folder / "run.json")
            finished = (self.folder / "summary.json").exists()
            used = any(child.name != ".lock" for child in self.folder.iterdir())
            if finished or (used and earlier != mine):
                self._put_aside(differences(earlier or {}, mine))
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be used as a run folder ({error.strerror}). "
                "Choose another one with --runs."
            ) from error
        write_json_atomic(self.folder / "run.json", mine)

    def _put_aside(self, differences: str) -> None:
        """Never mix, never delete: another run's folder gets a number behind its name."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old{number}")).exists():
            number += 1
        self.folder.rename(aside)
        print(f"{self.chapter}: an earlier run was another one ({differences}); kept as {aside}")
        self.folder.mkdir()
        self._lock()

    def _lock(self) -> None:
        """Hold the folder until this program ends; the system frees it even after a kill."""
        if sys.platform != "win32":
            self._lock_file = open(self.folder / ".lock", "w")  # noqa: SIM115 (open means locked)
            try:
                fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(
                    f"{self.folder}: another program is running this chapter. "
                    "Wait for it, or choose another folder with --runs."
                ) from error

    # Lines and seconds.

    def _write_metrics(self) -> None:
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write("".join(self._unwritten))
        except OSError:
            if path.exists():
                os.truncate(path, size)  # half a line would spoil the next one
            raise
        self._unwritten.clear()

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds["seconds"] += now - self._clock
        self._clock = now


def finished_run(common: Common, chapter: str, settings) -> tuple[dict, dict] | None:
    """The summary and the `inputs` of a finished run of these settings; None if there is none.

    The inputs are those that it was made with. Its data files are not read: they may have moved.
    """
    folder = common.folder(chapter)
    fingerprint = (read_json(folder / "run.json") or {}).get("fingerprint")
    inputs = fingerprint.get("inputs") if isinstance(fingerprint, dict) else None
    if not isinstance(inputs, dict):
        return None
    summary = _summary_of(folder, _fingerprint(common, chapter, settings, inputs))
    return None if summary is None else (summary, inputs)


def _fingerprint(common: Common, chapter: str, settings, inputs: dict) -> dict:
    """All that decides the numbers of a run."""
    return {
        "chapter": chapter,
        "version": kittenllm.__version__,
        "seed": common.seed,
        "size": common.size,
        "quick": common.quick,
        "settings": plain_numbers(main_values(settings)),
        "inputs": plain_numbers(inputs),
    }


def _summary_of(folder: Path, fingerprint: dict) -> dict | None:
    """What summary.json holds, if the run with this fingerprint has finished in `folder`."""
    path = folder / "summary.json"
    summary = read_summary(path)
    if summary is None or summary.get("fingerprint") != digest(fingerprint):
        return None
    if summary.get("config") != fingerprint["settings"] or "model" not in summary:
        raise damaged(path, "not the settings of its fingerprint, or no model")
    model = summary["model"]
    if model is None and (folder / "model.pt").exists():
        raise damaged(path, "it does not name its model.pt")
    if model is not None and not (folder / model).is_file():
        return None
    return summary


def fingerprint_of(common: Common, chapter: str) -> str:
    """The fingerprint of a finished chapter, for the `inputs` of the next one.

    Raises: CheckpointError if that chapter has not finished in this runs folder.
    """
    path = common.folder(chapter) / "summary.json"
    summary = read_summary(path)
    if summary is None or "fingerprint" not in summary:
        raise CheckpointError(
            f"{path}: {chapter} has not finished. Run python -m chapters.{chapter}"
        )
    return summary["fingerprint"]


def file_digest(path) -> str:
    """A short hash of a file's content, for `inputs`: a changed file is another run.

    Raises: CheckpointError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = hashlib.sha256()
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return content.hexdigest()[:16]


def _read_seconds(path) -> dict[str, float]:
    """The clock of earlier starts; {} without one.  Raises: DamagedFile."""
    seconds = read_json(path) or {}
    for key, value in seconds.items():
        if not is_number(value) or value < 0:
            raise damaged(path, f"{key!r} must be a number of 0 or more")
    return seconds


def differences(earlier: dict, mine: dict) -> str:
    """What differs between two nested dicts, as `steps: 100, now 200`."""
    found = []
    for key in sorted(earlier.keys() | mine.keys()):
        old, new = earlier.get(key), mine.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found.append(differences(old, new))
        elif old != new:
            found.append(f"{printable(key)}: {printable(old)}, now {printable(new)}")
    return "; ".join(part for part in found if part)


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"a name of letters, digits and _ is needed, not {name!r}")
    return name
