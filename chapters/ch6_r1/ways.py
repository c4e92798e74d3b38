"""Four ways to a reasoner, side by side: what a right answer costs when asking, and when training.

thinking longer   no training of the reasoner at all: the kitten of chapter 5's warm-up answers n
                  times and votes, or the checker picks, or its thinking is held open by force
pure RL           Zero
SFT and RL        R1
distillation      the small kitten of --distil, if it was made

The four are those of S. Raschka, "Understanding Reasoning LLMs" (2025). Used by story.py behind
--ways; nothing is trained here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chapters.common import exam
from chapters.common.exam import Plan, PromptOf, as_user
from chapters.common.kitten import Kitten
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.chat import text_prompt
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run
from kittenllm.runs.summaries import read_history
from kittenllm.settings import Common, new_generator

PROBLEMS, QUICK_PROBLEMS = 100, 4  # held-out puzzles
VOTES = (1, 2, 4, 8, 16)  # replies to one puzzle
QUICK_VOTES = 2
ATTEMPTS = (2, 4, 6, 8)  # that a forced budget has room for


@dataclass(frozen=True)
class Reasoner:
    """A kitten that can be asked: where it is, how it is told a puzzle, which stages trained it."""

    way: str
    folder: str  # of the chapter
    file: str
    prompt_of: PromptOf
    stages: tuple[str, ...]


REASONERS = (
    Reasoner("thinking longer", "ch5_reasoning", "warm_up.pt", text_prompt, ("warm_up",)),
    Reasoner("pure RL", "ch5_reasoning", "model.pt", text_prompt, ("warm_up", "grpo")),
    Reasoner("SFT and RL", "ch6_r1", "model.pt", as_user, ("cold_start", "grpo")),
    Reasoner("distillation", "ch6_distil", "distilled.pt", as_user, ("base_0", "distilled_0")),
)


def compare_ways(run: Run, max_new_tokens: int) -> dict:
    """way -> {"seconds", "one reply", "vote of n", "best of n", "held open"}; points have tokens
    per answer, accuracy and its error."""
    common, found = run.common, {}
    count, most = (QUICK_PROBLEMS, QUICK_VOTES) if common.quick else (PROBLEMS, max(VOTES))
    plan = [(orders[0], most) for orders in exam.countdown_held_out()[:count]]
    for reasoner in REASONERS:
        path = common.folder(reasoner.folder) / reasoner.file
        if not path.is_file():
            print(f"{reasoner.way}: left out, {path} is not there (see --distil)")
            continue
        gpt, tokenizer, _ = load_model(path, device=common.device)
        kitten = Kitten(gpt, tokenizer, common)
        name = f"way_{reasoner.way.replace(' ', '_')}"
        make = lambda kitten=kitten, reasoner=reasoner: _points(  # noqa: E731
            kitten, reasoner, plan, max_new_tokens
        )
        with run.timing("eval"):
            points = run.once(name, make)
        seconds = training_seconds(common, reasoner)
        found[reasoner.way] = {"seconds": seconds, "weights": gpt.parameter_count, **points}
        one = points["one reply"]["1"]
        shown = with_error(one["accuracy"], one["accuracy_stderr"], ".1%")
        print(f"{reasoner.way}: {shown} right, {one['tokens']:.0f} tokens, {seconds:.0f} s")
    draw_ways(run.folder / "ways.png", found)
    return found


def _points(kitten: Kitten, reasoner: Reasoner, plan: Plan, max_new_tokens: int) -> dict:
    """One reply of every kitten; of the one that was hardly trained also what more tokens buy."""
    generator = new_generator(kitten.common.device, kitten.common.seed, "ch6_r1", "ways")
    results = exam.take_exam(
        kitten,
        plan,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        generator=generator,
        prompt_of=reasoner.prompt_of,
    )
    tokens, _ = exam.rate(results, lambda result: result.tokens)
    points = {"one reply": {"1": _point(tokens, exam.rate(results, lambda r: r.right))}}
    if reasoner.way != REASONERS[0].way:
        return points
    picks: dict[str, Callable] = {"vote": exam.vote_accuracy, "best": exam.best_accuracy}
    for how, pick in picks.items():
        points[f"{how} of n"] = {
            str(n): _point(n * tokens, pick(results, n)) for n in VOTES if n <= plan[0][1]
        }
    exercises = [exercise for exercise, _ in plan]
    points["held open"] = {}
    for attempts in ATTEMPTS:
        budget = exam.tokens_of_attempts(kitten.tokenizer, attempts)
        forced = exam.think_with_budget(
            kitten, exercises, budget, go_on=True, generator=generator, prompt_of=text_prompt
        )
        spent, _ = exam.rate(forced, lambda result: result.tokens)
        points["held open"][str(attempts)] = _point(spent, exam.rate(forced, lambda r: r.right))
    return points


def _point(tokens: float, mean_error: tuple) -> dict:
    return {"tokens": tokens, "accuracy": mean_error[0], "accuracy_stderr": mean_error[1]}


def training_seconds(common: Common, reasoner: Reasoner) -> float:
    """Seconds of the stages that trained this kitten, its base not counted; nor are its teachers,
    who come on top of R1 and of the distilled kitten."""
    history = read_history(common.folder(reasoner.folder) / "metrics.jsonl")
    return sum(entry["seconds"] for entry in history if entry["stage"] in reasoner.stages)


def draw_ways(path: Path, found: dict[str, dict]) -> None:
    """ways.png: accuracy over the tokens of an answer, and over the seconds of training."""
    by_tokens, by_seconds = {}, {}
    for way, numbers in found.items():
        for how in ("one reply", "vote of n", "best of n", "held open"):
            points = list(numbers.get(how, {}).values())
            if not points or (how == "one reply" and len(numbers) > 3):
                continue  # the first vote is that one reply
            name = way if how == "one reply" else how
            by_tokens[name] = ([p["tokens"] for p in points], [p["accuracy"] for p in points])
        one = numbers["one reply"]["1"]
        by_seconds[way] = ([numbers["seconds"]], [one["accuracy"]])
    label = "share of right answers"
    plots.panels(
        path,
        [
            plots.Panel(by_tokens, "When asking", "tokens per answer", label),
            plots.Panel(by_seconds, "When training, one reply", "seconds after the base", label),
        ],
        columns=2,
        title="Four ways to a kitten that reasons",
        note="votes, best of n and held open are the kitten of chapter 5's warm-up",
    )
