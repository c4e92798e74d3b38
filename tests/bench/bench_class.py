"""A simulated class of thirty with three tastes, on your own chat kitten.

    python tests/bench/bench_class.py --runs runs

Each pupil ranks 20 pairs as chapters.rank shows them, five of them shared, and pays three points
for one quality (right, kind or short) and half a point for each of the others. Then
chapters.rank --train-on does what it does for a real class: the table of tastes and agreement, one
reward model, and PPO. At least 27 of the 30 tastes must be found again, and the kitten of the class
must move where the class pays: kind replies become more frequent, and replies become shorter.

The runs folder is only read: chapters 0 and 1 are copied into a folder for a while. --keep DIR
keeps the pupils' files there. --note keeps the seconds of the command of the class for the minutes
in chapters/TEACHING.md. --quick takes six pupils and the kitten of <runs>/quick, to see that
everything runs; nothing is found out by it.
"""

import argparse
import random
import shutil
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
from chapters.sheets.minutes import note_seconds
from kittenllm.data_file import read_data_file
from kittenllm.kitten_town.judge import preference_probability
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_summary
from kittenllm.settings import Common

CLASS_COMMAND = "python -m chapters.rank --name room7 --train-on class"  # in TEACHING.md
PUPILS, PAIRS, BAR = 30, 20, 0.9  # pupils, pairs of each, share of tastes to be found again
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


def copied(runs: Path, to: Path, *, quick: bool) -> Common:
    """Chapters 0 and 1 of a runs folder in `to`, with the seed of that run."""
    there = Common(runs=runs, quick=quick, device="cpu")
    summary = read_summary(there.folder("ch1_sft") / "summary.json")
    if summary is None:
        raise SystemExit(f"{there.folder('ch1_sft')}: no finished chat kitten")
    here = Common(runs=to, quick=quick, device="cpu", seed=summary["seed"])
    for chapter in ("ch0_base", "ch1_sft"):
        shutil.copytree(there.folder(chapter), here.folder(chapter))
    return here


def write_class(folder: Path, common: Common, pupils: int, pairs: int) -> dict[str, str]:
    """A file of labels for each pupil -> the true taste of each."""
    gpt, tokenizer, _ = load_model(common.folder("ch1_sft") / "model.pt")
    rng = random.Random(0)
    truth = {}
    for number in range(pupils):
        name, taste = f"pupil{number:02}", QUALITIES[number % len(QUALITIES)]
        settings = rank.Settings(name=name, pairs=pairs)
        choices = rank.choices_to_rank(settings, common, gpt, tokenizer, None)
        records = [label(choice, taste, rng) for choice in choices]
        write_labels(folder / f"{name}.jsonl", records)
        truth[name] = taste
    return truth


def yes(fine: bool) -> str:
    return "yes" if fine else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the kitten is")
    parser.add_argument("--ppo-steps", type=int, help="default: those of chapters.rank; 0: no PPO")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the pupils' files there")
    parser.add_argument("--note", action="store_true", help="keep the seconds for TEACHING.md")
    parser.add_argument("--quick", action="store_true", help="tiny: to see that it runs")
    arguments = parser.parse_args()
    pupils, pairs = (6, 8) if arguments.quick else (PUPILS, PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        common = copied(arguments.runs, Path(folder, "runs"), quick=arguments.quick)
        files = arguments.keep or Path(folder, "class")
        truth = write_class(files, common, pupils, pairs)
        started, before = time.monotonic(), time.process_time()
        flags = ["--runs", str(common.runs), "--seed", str(common.seed), "--device", "cpu"]
        flags += ["--name", "simulated", "--train-on", str(files)]
        flags += ["--quick"] if arguments.quick else []
        if arguments.ppo_steps is not None:
            flags += ["--ppo-steps", str(arguments.ppo_steps)]
        code = rank.main(flags)
        seconds = time.process_time() - before
        print(f"\nthe command of the class took {time.monotonic() - started:.0f} s, ", end="")
        print(f"{seconds:.0f} s of processor time")
        if arguments.note and code == 0 and not arguments.quick:
            note_seconds({CLASS_COMMAND: seconds})
        labels = [read_data_file(path) for path in sorted(files.glob("*.jsonl"))]
        found = sum(pupil.taste() == truth[pupil.name] for pupil in read_class(labels))
        print(f"tastes found again: {found} of {pupils}: {yes(found >= BAR * pupils)}")
        kitten = read_summary(common.folder("rank") / "simulated_kitten" / "summary.json")
    if kitten:
        kinder = kitten["kind_after"] > kitten["kind_before"]
        shorter = kitten["words_after"] < kitten["words_before"]
        print(f"kind replies became more frequent: {yes(kinder)}; shorter: {yes(shorter)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
