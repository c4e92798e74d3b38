"""What the plumbing costs: a chapter's training against a bare loop over the same model.

    python tests/bench/bench_plumbing.py

The chapter's way goes through `train_pretrain`, the run folder, the progress line, a line in
metrics.jsonl per step and the saved states. The bare loop has nothing but cut, forward, loss,
backward, clip, step. Both start from the same weights and read the same tokens, so they must end
at the same loss. The two ways take turns, the first place too, and the medians over the rounds are
compared, the saving of states included: at most 10 % may be lost.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch
from torch.nn import functional as F

from kittenllm.batches import TokenStream  # noqa: E402
from kittenllm.gpt import GPT, SIZES, GPTConfig  # noqa: E402
from kittenllm.optim import learning_rate_scale, make_optimizer  # noqa: E402
from kittenllm.pretrain import PretrainConfig, train_pretrain  # noqa: E402
from kittenllm.runs.run import Run  # noqa: E402
from kittenllm.settings import Common  # noqa: E402

LIMIT = 0.10


@dataclass(frozen=True)
class Settings:
    """A run needs some."""

    round: int = 0


def new_parts(size: str, device: str, config: PretrainConfig):
    """The same model, optimizer and dice every time."""
    gpt = GPT(GPTConfig(**SIZES[size])).to(device)
    optimizer = make_optimizer(gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    return gpt, optimizer, torch.Generator().manual_seed(0)


def finish_work(device: str) -> None:
    """A GPU works on while Python goes ahead: wait for it before looking at the clock."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def through_the_chapter(
    size: str, device: str, config: PretrainConfig, text: torch.Tensor
) -> tuple[float, float]:
    """Seconds and the last loss of a training as ch0_base does it."""
    gpt, optimizer, generator = new_parts(size, device, config)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        chapter = Run(Common(runs=Path(folder), device=gpt.device), "bench", Settings())
        finish_work(device)
        started = time.perf_counter()
        objects = {"gpt": gpt, "optimizer": optimizer, "generator": generator}
        stage = chapter.stage("train", total=config.steps, objects=objects)
        training = train_pretrain(
            gpt, TokenStream(text), config=config, optimizer=optimizer, generator=generator
        )
        for metrics in stage.follow(training, show=("loss",)):  # noqa: B007 (the last is used)
            pass
        finish_work(device)
        return time.perf_counter() - started, metrics["loss"]


def bare(size: str, device: str, config: PretrainConfig, text: torch.Tensor) -> tuple[float, float]:
    """The same with nothing around it."""
    gpt, optimizer, generator = new_parts(size, device, config)
    places = len(text) - config.row_length + 1
    finish_work(device)
    started = time.perf_counter()
    for step in range(config.steps):
        optimizer.set_scale(learning_rate_scale(step, config.steps))
        starts = torch.randint(places, (config.rows_per_step,), generator=generator)
        rows = [text[start : start + config.row_length] for start in starts.tolist()]
        tokens = torch.stack(rows).to(device)  # (B, T)
        logits = gpt(tokens)  # (B, T, V)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    last = loss.item()
    finish_work(device)
    return time.perf_counter() - started, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60, help="in one round")
    arguments = parser.parse_args()
    config = PretrainConfig(steps=arguments.steps)
    text = torch.randint(0, 1000, (200_000,), generator=torch.Generator().manual_seed(1))
    ways = {"chapter": through_the_chapter, "bare": bare}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses = {}
    for number in range(arguments.rounds):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in order:
            took, losses[name] = ways[name](arguments.size, arguments.device, config, text)
            seconds[name].append(took)
    assert abs(losses["chapter"] - losses["bare"]) < 0.05, losses
    tokens = config.steps * config.rows_per_step * config.row_length
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    lost = 1 - speed["chapter"] / speed["bare"]
    for name, value in speed.items():
        print(f"{name:<8} {value:>9,.0f} tokens/s, rounds: {[f'{t:.2f}' for t in seconds[name]]}")
    print(
        f"lost to the plumbing: {lost:.1%}; at most {LIMIT:.0%}: {'yes' if lost <= LIMIT else 'NO'}"
    )


if __name__ == "__main__":
    main()
