"""Distillation: a small kitten learns from R1's verified thoughts. Does it beat RL of its own?

A kitten of about 0.2 million weights reads the town, drills, and scribbles that mostly fail. From
this base it goes on in three ways:

rl              RL with rules, as Zero did
distilled       SFT on R1's right thoughts, for as many training tokens as `rl` wrote
distilled_rl    the distilled kitten, then the same RL: twice as many tokens

DeepSeek-R1 (arXiv 2501.12948, section 4.1) compares the first two at 32 billion weights, and
distillation wins by far. Used by story.py behind --distil; the two loops are the story's.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from chapters.ch6_r1 import mixture
from chapters.ch6_r1.exams import PUZZLE_REPLIES, QUICK_PUZZLES
from chapters.common import exam
from chapters.common.kitten import Kitten
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.batches import pack
from kittenllm.chat import ChatTokens
from kittenllm.config import check_options, option
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig
from kittenllm.kitten_town import countdown, scribbles
from kittenllm.runs.checkpoints import save_model
from kittenllm.runs.run import Run
from kittenllm.settings import new_generator, new_random
from kittenllm.tokenizer import Tokenizer

SMALL = {"layers": 2, "channels": 80, "heads": 4, "kv_heads": 2, "ffn_channels": 192}
ARMS = ("base", "rl", "distilled", "distilled_rl")
SEEDS = 3  # trainings of each arm
SCRIBBLE_SHARE = 0.6  # of the documents of its base that are no drills
KEPT_EACH = 8  # thoughts of one puzzle: there are few puzzles, and many ways to find a chain


@dataclass(frozen=True)
class DistilSettings:
    """How long the small kittens read, and how long they practise."""

    distil_base_steps: int = option(600, "--distil: steps of reading of the small base", low=1)
    distil_rounds: int = option(40, "--distil: rounds of RL of the small kitten", low=1)
    distil_problems: int = option(800, "--distil: puzzles that R1 is asked, 4 times each", low=1)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class Loops:
    """The chapter's own two loops: its experiments train in just the same way."""

    cold_start: Callable[..., None]
    learn: Callable[..., None]


def distil(run: Run, teacher: Kitten, settings, loops: Loops) -> dict:
    """Three arms and three seeds; the numbers of each arm, and the verdict."""
    tokenizer = teacher.tokenizer
    thoughts = run.once("thoughts", lambda: verified_thoughts(run, teacher, settings))
    documents = [ChatTokens(*document) for document in thoughts["documents"]]
    if not documents:
        raise ValueError(
            f"R1 solved none of {settings.distilled.distil_problems} puzzles: there is no thought "
            "to learn from. Ask it more (--distil-problems), or train it longer."
        )
    print(f"R1: {len(documents):,} of {thoughts['drawn']:,} thoughts are kept", flush=True)
    found: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for seed in range(SEEDS):
        base = small_base(run, teacher, settings, loops, seed)
        found["base"].append(take_exam(run, f"base_{seed}", base, settings))

        pupil = replace(base, gpt=copy.deepcopy(base.gpt))
        practise(run, f"rl_{seed}", pupil, settings, loops, seed)
        found["rl"].append(take_exam(run, f"rl_{seed}", pupil, settings))
        tokens = tokens_of_replies(run, f"rl_{seed}", settings.grpo)

        pupil = replace(base, gpt=copy.deepcopy(base.gpt))
        rows = pack(documents, row_length=row_length(pupil), pad_id=tokenizer.pad_id)
        steps = max(1, round(tokens / (settings.sft.rows_per_step * row_length(pupil))))
        config = replace(settings.sft, steps=steps, replay_fraction=0.0)
        loops.cold_start(run, f"distilled_{seed}", pupil, rows, config, "distilled", seed)
        found["distilled"].append(take_exam(run, f"distilled_{seed}", pupil, settings))
        if seed == 0:
            save_model(run.folder / "distilled.pt", pupil.gpt, tokenizer)

        practise(run, f"distilled_rl_{seed}", pupil, settings, loops, seed)
        found["distilled_rl"].append(take_exam(run, f"distilled_rl_{seed}", pupil, settings))
        found["rl"][-1]["training_tokens"] = found["distilled"][-1]["training_tokens"] = tokens
        found["distilled_rl"][-1]["training_tokens"] = 2 * tokens
    result = {"weights": base.gpt.parameter_count, "arms": {}}
    for arm, runs in found.items():
        result["arms"][arm] = summary_of(runs)
    result["verdict"] = verdict(result["arms"])
    print(table(result))
    draw(run, result)
    return result


# --------------------------------------------------------------------------------------- the parts


def small_base(run: Run, teacher: Kitten, settings, loops: Loops, seed: int) -> Kitten:
    """Random weights, then reading: the town, drills, and scribbles in the form of a reply."""
    tokenizer, common = teacher.tokenizer, run.common
    config = replace(teacher.gpt.config, **SMALL)
    weights = new_generator("cpu", common.seed, "ch6_r1", "small", seed)
    kitten = replace(teacher, gpt=GPT(config, generator=weights).to(common.device))
    steps = settings.distilled.distil_base_steps
    reading = replace(settings.sft, steps=steps, replay_fraction=0.4)
    tokens = round(0.6 * steps * reading.rows_per_step * row_length(kitten))
    rng = new_random(common.seed, "ch6_r1", "small", seed)
    documents = mixture.drill_documents(tokenizer, round((1 - SCRIBBLE_SHARE) * tokens), rng)
    documents += scribble_documents(tokenizer, round(SCRIBBLE_SHARE * tokens), rng)
    rows = pack(documents, row_length=row_length(kitten), pad_id=tokenizer.pad_id)
    loops.cold_start(run, f"base_{seed}", kitten, rows, reading, "small", seed)
    return kitten


def scribble_documents(tokenizer: Tokenizer, tokens: int, rng) -> list[ChatTokens]:
    """Scribbles about practice triples, told as chats. They mostly give up: the form, no skill."""
    documents: list[ChatTokens] = []
    total = 0
    while total < tokens:
        problem = countdown.draw_problem(rng, countdown.TRAINING_TRIPLES)
        scribble = scribbles.scribble(problem, rng)
        reply = [tokenizer.think_id, *tokenizer.encode(scribble.think), tokenizer.end_think_id]
        reply += [tokenizer.answer_id, *tokenizer.encode(scribble.answer), tokenizer.end_answer_id]
        prompt = exam.as_user(tokenizer, problem.prompt)
        documents.append(mixture.document(tokenizer, prompt, reply))
        total += len(documents[-1])
    return documents


def verified_thoughts(run: Run, teacher: Kitten, settings) -> dict:
    """What R1 thinks about practice puzzles, if it is right: documents that fit into JSON."""
    common = run.common
    count, rng = settings.distilled.distil_problems, new_random(common.seed, "ch6_r1", "distil")
    attempts = mixture.attempts_of(
        teacher,
        exam.countdown_practice(count, rng),
        settings.attempts,
        max_new_tokens=settings.grpo.max_new_tokens,
        generator=new_generator(common.device, common.seed, "ch6_r1", "distil"),
        prompt_of=exam.as_user,
    )
    documents = mixture.thought_documents(teacher.tokenizer, mixture.keep_best(attempts, KEPT_EACH))
    fitting = [[d.tokens, d.loss_mask] for d in documents if len(d) <= row_length(teacher)]
    return {"drawn": len(attempts), "documents": fitting}


def practise(run: Run, name: str, pupil: Kitten, settings, loops: Loops, seed: int) -> None:
    """RL on puzzles alone: rules and nothing else."""
    config = replace(settings.grpo, steps=settings.distilled.distil_rounds)
    rng = new_random(run.common.seed, "ch6_r1", "small practice", seed)
    puzzles = exam.countdown_practice(config.steps * config.prompts_per_step, rng)
    asked = mixture.asked(pupil.tokenizer, puzzles, [], None, format_weight=settings.format_weight)
    loops.learn(run, name, pupil.gpt, asked, config, name)


def tokens_of_replies(run: Run, stage: str, config: GRPOConfig) -> int:
    """How many tokens a training by RL wrote and learned from."""
    replies = config.prompts_per_step * config.group_size
    return round(sum(entry["reply_tokens"] * replies for entry in run.history(stage)))


def take_exam(run: Run, name: str, kitten: Kitten, settings) -> dict:
    """The held-out puzzles: right, form, tokens; and the seconds of training so far."""
    common = run.common
    puzzles = exam.countdown_held_out()[: QUICK_PUZZLES if common.quick else None]

    def sit() -> dict:
        scores = exam.look(
            kitten,
            [(orders[0], PUZZLE_REPLIES) for orders in puzzles],
            max_new_tokens=settings.grpo.max_new_tokens,
            generator=new_generator(common.device, common.seed, "ch6_r1", "exam"),
            prompt_of=exam.as_user,
        )
        keys = ("accuracy", "accuracy_stderr", "format_rate", "truncated", "tokens")
        return {key: scores[key] for key in keys}

    with run.timing("eval"):
        scores = run.once(f"exam_{name}", sit)
    print(f"{name}: {with_error(scores['accuracy'], scores['accuracy_stderr'], '.1%')} right")
    return scores


def row_length(kitten: Kitten) -> int:
    return min(mixture.ROW_LENGTH, kitten.gpt.config.context_length)


# -------------------------------------------------------------------------------------- the result


def summary_of(runs: list[dict]) -> dict:
    """Means over the seeds; the error of the accuracy is that of the mean over trainings."""
    values = [run["accuracy"] for run in runs]
    return {
        "accuracy": statistics.fmean(values),
        "accuracy_stderr": statistics.stdev(values) / len(values) ** 0.5,
        "accuracies": values,
        "format_rate": statistics.fmean(run["format_rate"] for run in runs),
        "tokens": statistics.fmean(run["tokens"] for run in runs),
        "training_tokens": statistics.fmean(run.get("training_tokens", 0) for run in runs),
    }


def verdict(arms: dict[str, dict]) -> str:
    """Which way won, if the difference is more than two of its standard errors."""
    rl, distilled = arms["rl"], arms["distilled"]
    difference = distilled["accuracy"] - rl["accuracy"]
    error = (rl["accuracy_stderr"] ** 2 + distilled["accuracy_stderr"] ** 2) ** 0.5
    size = f"{with_error(100 * difference, 100 * error, '+.1f')} points"
    if abs(difference) <= 2 * error:
        return f"no difference can be told between distillation and RL of its own ({size})"
    winner = "distillation" if difference > 0 else "RL of its own"
    return f"{winner} wins (distilled minus RL: {size})"


def table(result: dict) -> str:
    """One line per arm."""
    lines = [f"a kitten of {result['weights'] / 1e6:.2f} M weights, {SEEDS} trainings of each way"]
    for arm, numbers in result["arms"].items():
        shown = with_error(numbers["accuracy"], numbers["accuracy_stderr"], ".1%")
        lines.append(
            f"{arm:<14}{shown:>18} right  form {numbers['format_rate']:.0%}  "
            f"{numbers['tokens']:.0f} tokens, learned from {numbers['training_tokens']:,.0f} tokens"
        )
    return "\n".join([*lines, result["verdict"]])


def draw(run: Run, result: dict) -> None:
    """distil.png: right answers of each way."""
    arms = result["arms"]
    plots.bars(
        run.folder / "distil.png",
        {"held-out puzzles": {arm: numbers["accuracy"] for arm, numbers in arms.items()}},
        title=f"A kitten of {result['weights'] / 1e6:.2f} M weights learns to think",
        y_label="share of right answers",
        errors={"held-out puzzles": {a: numbers["accuracy_stderr"] for a, numbers in arms.items()}},
        note=f"error bars: standard error of the mean over {SEEDS} trainings",
    )
