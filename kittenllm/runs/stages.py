"""A stretch of training that can be killed at any moment and goes on with the very same numbers.

After a step everything that training changes is a handful of objects: weights, optimizer state,
random generators. A stage saves them together with the number of finished steps, every few seconds,
always *between* two steps. Whoever loads them and goes on computes bit for bit what an
uninterrupted run computes on the same machine. Lines in metrics.jsonl that are newer than the saved
state are cut off, since their steps are done again.

Under torchrun all processes save, stop and go on after the same step, and the first one writes.

Read before: checkpoints.py. Its user is run.py. Left out: saving in the background.
"""

import random
import time
from collections.abc import Iterator

import torch

from kittenllm import checks
from kittenllm.distributed import part_of, whole, world
from kittenllm.runs.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from kittenllm.runs.json_files import printable
from kittenllm.runs.progress import Progress, stop_between_steps

SAVING_SHARE = 0.02  # saving takes at most about this share of the time


class Stage:
    """One part of a run; made by `run.stage(...)`.

    step: finished steps so far, restored ones included. done: nothing is left to train.
    """

    def __init__(self, run, name: str, total: int, objects: dict):
        self.run = run
        self.name = name
        self.total = total
        self.objects = objects
        self.step = 0
        self.done = False
        self.path = run.resume_folder / f"{name}.pt"
        for object_name, thing in objects.items():
            _check_can_be_saved(object_name, thing)
        if self.path.exists():
            self._restore()
        run.restored[name] = self.step
        run.cut_metrics(name, self.step)
        world().wait()
        if world().size > 1 and not (run.folder / "run.json").exists():
            raise CheckpointError(
                f"{run.folder}: process {world().rank} does not see it. --runs must be a folder "
                "that all machines share."
            )

    def follow(
        self, training: Iterator[dict], *, show: tuple[str, ...] = ("loss",)
    ) -> Iterator[dict]:
        """Pull one step after the other out of `training` and hand on its metrics.

        What the caller adds to the dict before the next step is written to metrics.jsonl as well;
        `show` names the numbers that stand beside the progress bar. A finished stage yields
        nothing.

        Raises: KeyboardInterrupt with a message, after saving, on Ctrl-C or a terminate signal.
        """
        if self.done:
            return
        progress = Progress(f"{self.run.chapter} {self.name}", self.step, self.total)
        next_save = time.monotonic() + self.run.save_every
        with stop_between_steps() as stop:
            try:
                while (metrics := self._next_step(training)) is not None:
                    yield metrics
                    self.run.log(self.name, self.step, metrics)
                    self.step += 1
                    progress.update(metrics, show)
                    if any(world().each(stop.requested)):
                        self._stop()
                    if world().each(time.monotonic() >= next_save)[0]:  # the first one's clock
                        next_save = time.monotonic() + self._save()
            finally:
                progress.close()
        self.done = True
        self._save()
        world().wait()

    def _next_step(self, training: Iterator[dict]) -> dict | None:
        """One training step, timed; None when the training is over."""
        started = time.monotonic()
        metrics = next(training, None)
        self.run.seconds["train_seconds"] += time.monotonic() - started
        if metrics is not None and metrics.get("step", self.step) != self.step:
            raise ValueError(
                f"the training of stage {self.name!r} is at step {metrics['step']}, but the stage "
                f"is at {self.step}: give the training start_step=stage.step"
            )
        return metrics

    def _save(self) -> float:
        """Save the state; a full disk is a warning. Returns the seconds to wait until the next
        time."""
        started = time.monotonic()
        states = {name: _state_of(thing) for name, thing in self.objects.items()}
        payload = {"kind": "stage", "step": self.step, "done": self.done, "objects": states}
        if self.run.careful("the resume state", lambda: save_checkpoint(self.path, payload)):
            self.run.save_seconds()
        return max(self.run.save_every, (time.monotonic() - started) / SAVING_SHARE)

    def _stop(self) -> None:
        self._save()
        raise KeyboardInterrupt(
            f"{self.run.chapter} {self.name} stopped after step {self.step} of {self.total}; "
            "the same command goes on from there"
        )

    def _restore(self) -> None:
        payload = load_checkpoint(self.path)  # on the CPU; load_state_dict moves what it needs
        try:
            for name, thing in self.objects.items():
                _restore_object(thing, payload["objects"][name])
            self.step, self.done = payload["step"], payload["done"]
            if type(self.done) is not bool or type(self.step) is not int:
                raise ValueError(f"step {self.step!r}, done {self.done!r}")
            if self.step < 0 or (self.step > self.total and not self.done):
                raise ValueError(f"step {self.step} of {self.total}")
        except Exception as error:  # whatever the objects say about a state that is not theirs
            raise CheckpointError(
                f"{self.path}: this saved state does not fit the program ({printable(error)}). "
                f"Delete {self.run.folder} to start again."
            ) from error
        state = "already done" if self.done else f"going on at step {self.step} of {self.total}"
        print(f"{self.run.chapter} {self.name}: {state}")


def _check_can_be_saved(name: str, thing) -> None:
    known = isinstance(thing, (torch.Generator, random.Random))
    if not known and not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
        raise ValueError(
            f"{name!r} is a {type(thing).__name__}; a stage can save things with a state_dict, "
            "torch.Generator and random.Random"
        )


def _state_of(thing):
    """The state of one object in tensors and plain containers."""
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, random.Random):
        version, numbers, gauss = thing.getstate()
        return {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss}
    return _whole_state(thing.state_dict())


def _whole_state(state):
    """The state with every tensor put together, where --shard has left a part of it here."""
    if isinstance(state, dict):
        return {key: _whole_state(value) for key, value in state.items()}
    return whole(state)


def _restore_object(thing, state) -> None:
    if isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, random.Random):
        thing.setstate((state["version"], tuple(state["numbers"].tolist()), state["gauss"]))
    elif hasattr(thing, "parts"):  # optimizers that step together
        if set(state) != set(thing.parts):
            raise ValueError(f"the state of {sorted(state)}, not of {sorted(thing.parts)}")
        for name, part in thing.parts.items():
            _restore_optimizer(part, state[name])
    elif isinstance(thing, torch.optim.Optimizer):
        _restore_optimizer(thing, state)
    else:
        _check_finite(state)
        mine = thing.state_dict()
        parts = {k: part_of(v, mine[k]) if k in mine else v for k, v in state.items()}
        thing.load_state_dict(parts)


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """`load_state_dict`, and what it does not look at: settings, names and shapes."""
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        if type(group.get("lr")) is not float or any(group.get(k) != before[k] for k in before):
            raise ValueError("an optimizer with other settings")
    for parameter, values in optimizer.state.items():
        if set(values) not in ({"mean"}, {"step", "exp_avg", "exp_avg_sq"}, set()):
            raise ValueError(f"an optimizer with {sorted(values)}")
        _check_finite(values)
        for name, value in values.items():
            if value.shape != (() if name == "step" else parameter.shape):
                raise ValueError(f"{name} of the shape {tuple(value.shape)}")
            if name != "step":
                values[name] = part_of(value, parameter)


def _check_finite(state: dict) -> None:
    """Raises ValueError for anything but tensors of ordinary numbers."""
    for name, value in state.items():
        checks.floats(str(name), value)
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds values that are no numbers")
