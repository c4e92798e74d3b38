"""A simulated class of thirty with three tastes, on your own chat kitten.

    python tests/bench/bench_class.py --runs runs

Each pupil ranks 20 pairs as chapters.rank shows them, five of them shared, and pays three points
for one quality (right, kind or short) and half a point for each of the others. Then
chapters.rank --train-on does what it does for a real class: the table of tastes and agreement, one
reward model, and PPO. At least 27 of the 30 tastes must be found again.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
from chapters.rank import __main__ as rank
from chapters.rank.labels import write_labels
from chapters.rank.tastes import QUALITIES, leanings, read_class
from kittenllm.data_file import read_data_file
from kittenllm.kitten_town.judge import preference_probability
from kittenllm.runs.checkpoints import load_model
from kittenllm.settings import Common

PUPILS, PAIRS, BAR = 30, 20, 27
LOVED, OTHERS = 3.0, 0.5  # points for a pupil's own quality, and for the other two


def label(choice: rank.Choice, taste: str, rng: random.Random) -> dict:
    """How a pupil with this taste labels a pair: Bradley and Terry with the points above."""
    first, second = choice.replies
    record = {"prompt": choice.prompt, "chosen": first, "rejected": second}
    sides = leanings(record).items()
    ahead = sum((LOVED if quality == taste else OTHERS) * side for quality, side in sides)
    if rng.random() < preference_probability(ahead, 0.0):
        return record
    return {"prompt": choice.prompt, "chosen": second, "rejected": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="runs", help="where the trained chat kitten is")
    parser.add_argument("--ppo-steps", type=int, default=30, help="0: no PPO")
    arguments = parser.parse_args()
    common = Common(runs=Path(arguments.runs))
    gpt, tokenizer, _ = load_model(common.folder("ch1_sft") / "model.pt")
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        truth = {}
        for number in range(PUPILS):
            name, taste = f"pupil{number:02}", QUALITIES[number % len(QUALITIES)]
            settings = rank.Settings(name=name, pairs=PAIRS)
            choices = rank.choices_to_rank(settings, common, gpt, tokenizer, None)
            records = [label(choice, taste, rng) for choice in choices]
            write_labels(Path(folder, f"{name}.jsonl"), records)
            truth[name] = taste
        files = [read_data_file(path) for path in sorted(Path(folder).glob("*.jsonl"))]
        found = sum(pupil.taste() == truth[pupil.name] for pupil in read_class(files))
        flags = ["--runs", arguments.runs, "--name", "simulated", "--train-on", folder]
        rank.main([*flags, "--device", "cpu", "--ppo-steps", str(arguments.ppo_steps)])
    print(f"tastes found again: {found} of {PUPILS}; at least {BAR}:", end=" ")
    print("yes" if found >= BAR else "NO")
    print(f"{time.process_time():.0f} s of processor time")


if __name__ == "__main__":
    main()
