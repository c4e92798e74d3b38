"""The numbers of chapters/one_file.py, for the README: five seeds, measured one after another.

`python -m chapters.bands --one-file` runs the program once for each seed, reads the six numbers
from its screen and writes one_file.json.

Used by docs.py and __main__.py. Left out: bands and verdicts, which are for the chapters.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kittenllm.runs.json_files import damaged, read_json

FILE = Path(__file__).with_name("one_file.json")
PROGRAM = Path(__file__).resolve().parents[1] / "one_file.py"
NUMBER = re.compile(r"^(\S.+?) +([\d.]+)% -> +([\d.]+)%$", re.MULTILINE)
SEEDS = (0, 1, 2, 3, 4)


def measure(seeds: Sequence[int] = SEEDS, flags: Sequence[str] = ()) -> dict:
    """What one_file.json holds: for each seed the share before and after each stage, and seconds of
    processor time.

    Raises: subprocess.CalledProcessError if a run fails.
    """
    content: dict = {"seeds": list(seeds), "seconds": [], "numbers": {}}
    for seed in seeds:
        before = os.times()
        command = [sys.executable, str(PROGRAM), "--seed", str(seed), *flags]
        screen = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        after = os.times()
        used = after.children_user + after.children_system
        used -= before.children_user + before.children_system
        content["seconds"].append(round(used, 1))
        for name, first, last in NUMBER.findall(screen.stdout):
            shares = [round(float(first) / 100, 3), round(float(last) / 100, 3)]
            content["numbers"].setdefault(name, []).append(shares)
        print(f"{screen.stdout}seed {seed}: {used:.0f} s of processor time\n", flush=True)
    return content


def read(path: Path = FILE) -> dict:
    """What was measured.  Raises: DamagedFile for a file that `measure` did not make."""
    content = read_json(path) or {}
    if set(content) != {"seeds", "seconds", "numbers"}:
        raise damaged(path, "it does not hold seeds, seconds and numbers")
    return content


def table() -> str:
    """The block `one_file` of the README."""
    content = read()
    heads = ["stage: number, before → after", *(f"seed {seed}" for seed in content["seeds"])]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(content["seeds"])]
    for name, pairs in content["numbers"].items():
        cells = [f"{100 * before:.1f} → {100 * after:.1f} %" for before, after in pairs]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    seconds = [f"{seconds:.0f}" for seconds in content["seconds"]]
    lines.append("| " + " | ".join(["seconds of processor time", *seconds]) + " |")
    return "\n".join(lines)
