"""A tiny training run in a run folder; test_runs.py starts it as a process of its own and kills it.

It uses everything that a state must hold: weights, both optimizers, torch's and Python's dice.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import kittenllm  # noqa: F401 (before torch: see there)

# isort: split
import torch
from torch.nn import functional as F

from kittenllm.gpt import GPT, GPTConfig
from kittenllm.optim import make_optimizer
from kittenllm.runs import stages
from kittenllm.runs.run import Run
from kittenllm.settings import Common, new_generator, new_random


@dataclass(frozen=True)
class Settings:
    steps: int = 60


def tiny_gpt(seed: int = 0) -> GPT:
    config = GPTConfig(
        vocab_size=61,
        context_length=32,
        layers=1,
        channels=32,
        heads=4,
        kv_heads=2,
        ffn_channels=48,
    )
    return GPT(config, generator=new_generator("cpu", seed, "weights"))


def train(gpt, optimizer, generator, dice, *, steps, start_step=0, pause=0.0):
    """Learn random rows; the learning rate is rolled with Python's dice."""
    for step in range(start_step, steps):
        tokens = torch.randint(0, 61, (4, 16), generator=generator)  # (B, T)
        optimizer.set_scale(dice.uniform(0.5, 1.0) + dice.gauss(0.0, 0.01))
        logits = gpt(tokens)  # (B, T, V)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(pause)
        yield {"step": step, "loss": loss.item()}


def run_tiny(folder, *, pause=0.0, save_every=0.05, steps=60) -> tuple[Run, GPT]:
    """Two stages, the second one with dice of its own; returns the finished run and its model."""
    common = Common(runs=Path(folder))
    run = Run(common, "tiny", Settings(steps), save_every=save_every)
    gpt = tiny_gpt()
    if run.finished:
        return run, gpt
    optimizer = make_optimizer(gpt, matrix_lr=1e-2, other_lr=1e-2)
    for name in ("first", "second"):
        generator = new_generator("cpu", 0, name)
        dice = new_random(0, name)
        objects = {"gpt": gpt, "optimizer": optimizer, "generator": generator, "dice": dice}
        stage = run.stage(name, total=steps, objects=objects)
        training = train(
            gpt, optimizer, generator, dice, steps=steps, start_step=stage.step, pause=pause
        )
        for metrics in stage.follow(training):
            metrics["twice"] = 2 * metrics["loss"]
    run.once("roll", lambda: new_random(0, "roll").random())
    run.finish({"last_loss": run.history("second")[-1]["loss"]})
    return run, gpt


if __name__ == "__main__":
    torch.set_num_threads(1)
    stages.SAVING_SHARE = 1.0  # save often: the test has little time
    try:
        run_tiny(sys.argv[1], pause=0.02)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
