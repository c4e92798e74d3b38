"""The chapter itself, in its quick setting, with a reader's function: the last part of a check.

A quick run is too short to make a good kitten, but it can be repeated: on one machine the same seed
draws the same curve. So the stated result is the curve that the package's own function draws, and
the reader's has to lie on it, in every step.

The package's own quick runs are kept in <runs>/check, in a folder named after the text of the
program: whoever changes the package gets new ones.

Read before: substitute.py, trainings.py. Left out: the full settings, which take minutes.
"""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chapters.check.substitute import substituted
from chapters.check.table import FOLDER, ROOT, Exercise
from chapters.check.trainings import Outcome, Story
from chapters.common.runner import chosen_chapters, default_settings, run_chapter
from kittenllm.runs.summaries import read_history
from kittenllm.settings import Common

CLOSE = 0.05  # a curve may leave the package's by so much of the package's height


class NotTheirFault(Exception):
    """The chapter cannot be run, whatever the reader wrote; the message says why."""


@dataclass(frozen=True)
class Curve:
    """What is compared: one number of every step of one stage of a chapter."""

    chapter: str
    stage: str
    key: str


CURVES = {
    "gather": Curve("ch0_base", "train", "loss"),
    "mask": Curve("ch3_ppo", "train", "policy_loss"),
    "cache": Curve("ch5_reasoning", "grpo", "reply_tokens"),
    "token_logprobs": Curve("ch0_base", "train", "loss"),
    "chat_mask": Curve("ch1_sft", "train", "chat_loss"),
    "sft": Curve("ch1_sft", "train", "chat_loss"),
    "reward": Curve("ch2_reward_model", "train", "loss"),
    "gae": Curve("ch3_ppo", "train", "value_loss"),
    "ppo": Curve("ch3_ppo", "train", "policy_loss"),
    "dpo": Curve("ch4_preferences", "dpo", "margin"),
    "ipo": Curve("ch4_preferences", "ipo", "margin"),
    "orpo": Curve("ch4_preferences", "orpo", "nll"),
    "group_advantages": Curve("ch5_reasoning", "grpo", "grad_norm"),
    "grpo": Curve("ch5_reasoning", "grpo", "grad_norm"),
    "mixed_reward": Curve("ch6_r1", "grpo", "reward"),
}


def train_chapter(
    exercise: Exercise, function: object, runs: Path, tell: Callable[[str], None]
) -> Story:
    """Run the exercise's chapter twice, with the package's function and with `function`.

    `tell` hears the name of each chapter before it runs. Raises: NotTheirFault if the package's
    own runs cannot be made: the folder is locked, full or read-only.
    """
    curve = CURVES[exercise.name]
    package = Common(runs=runs / "check" / program_digest(), quick=True)
    expected = package_curve(package, curve, tell)

    tell(f"{curve.chapter}, with your {exercise.function}")
    replaced = {exercise.qualified: function}
    with tempfile.TemporaryDirectory() as folder:
        own = Common(runs=Path(folder), quick=True)
        for name in needed_by(curve.chapter):
            shutil.copytree(package.folder(name), own.folder(name))
        with substituted(replaced):
            run_chapter(curve.chapter, default_settings(curve.chapter, own), own)
        found = read_curve(own, curve)
    story = f"{curve.chapter} in its quick setting, {len(found)} steps with your function"
    return story, compare(curve.key, found, expected)


def package_curve(package: Common, curve: Curve, tell: Callable[[str], None]) -> list[float]:
    """The package's own runs, made or found. Raises: NotTheirFault."""
    try:
        for name in [*needed_by(curve.chapter), curve.chapter]:
            tell(f"{name}, as the package has it")
            run_chapter(name, default_settings(name, package), package)
        expected = read_curve(package, curve)
    except Exception as error:
        raise NotTheirFault(str(error) or type(error).__name__) from error
    if not expected:
        raise NotTheirFault(f"{package.folder(curve.chapter)} holds no curve of {curve.stage}")
    return expected


def compare(key: str, found: list[float], expected: list[float]) -> list[Outcome]:
    """Where the curve ends, and how far it leaves the package's at most."""
    height = max(expected) - min(expected)
    distances = [abs(a - b) for a, b in zip(found, expected, strict=False)]
    complete = len(found) == len(expected) and all(map(math.isfinite, distances))
    farthest = max(distances) if complete else math.inf
    what = f"{key}: largest distance from the package's curve ({expected[0]:.3g} .. "
    return [Outcome(f"{what}{expected[-1]:.3g})", None, farthest, CLOSE * height, at_least=False)]


def needed_by(chapter: str) -> list[str]:
    """The chapters before this one, in the order in which they have to run."""
    return [needed.name for needed in chosen_chapters([chapter])][:-1]


def read_curve(common: Common, curve: Curve) -> list[float]:
    """One number per step from the chapter's metrics.jsonl; a line without it is left out."""
    steps = read_history(common.folder(curve.chapter) / "metrics.jsonl")
    values = [step.get(curve.key) for step in steps if step["stage"] == curve.stage]
    return [value for value in values if value is not None]


def program_digest() -> str:
    """A short name for the text of all modules that a quick run could use."""
    digest = hashlib.sha256()
    for folder in ("kittenllm", "chapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_relative_to(FOLDER):  # readers write there
                digest.update(path.relative_to(ROOT).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
