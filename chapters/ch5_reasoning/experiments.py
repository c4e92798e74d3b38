"""Three experiments on top of the reasoning chapter, each a run in a folder of its own.

provenance       does RL create "wait", or does it amplify what the kitten has read?
normalisations   does the length come from the way in which the loss is averaged? And is longer
                 really more often right?
votes            what do many samples buy without any training?

Used by story.py, behind flags: together they take longer than the whole journey.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from chapters.ch5_reasoning import pictures, thinking
from chapters.ch5_reasoning.recipe import (
    Recipe,
    countdown_task,
    exam_of,
    look,
)
from chapters.common import exam
from chapters.common.kitten import Kitten
from kittenllm.gpt import GPT
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.settings import Common, new_generator, new_random

WAIT_SHARES = (0.0, 0.01, 0.1)  # of the scribbles that a kitten of `provenance` reads
READING_TIMES = 2  # such a kitten knows nothing yet: it reads so many times what a warm-up reads
ATTEMPTS = (1, 2, 3, 4, 6, 8)  # that a forced budget has room for
VOTES = (1, 2, 4, 8, 16, 32, 64)
QUICK_VOTES = 4  # most votes of a quick run
KITTENS = {"warm-up": "warm_up.pt", "after GRPO": "model.pt"}  # the files of the chapter's own run


@dataclass(frozen=True)
class Loops:
    """The chapter's own two loops: its experiments train in just the same way."""

    warm_up: Callable[..., None]
    learn_from_rules: Callable[..., None]


def run_experiment(name: str, recipe: Recipe, common: Common, loops: Loops) -> dict:
    """The numbers of one experiment; those of a finished one are reused."""
    inputs = {"reasoning": fingerprint_of(common, "ch5_reasoning")}
    run = Run(common, f"ch5_{name}", recipe, inputs=inputs)
    if not run.finished:
        if name == "provenance":
            result = provenance(run, recipe, common, loops)
        elif name == "normalisations":
            result = normalisations(run, recipe, common, loops)
        else:
            result = votes(run, recipe, common)
        run.finish({"result": result})
    return run.summary["result"]


def trained_thinker(common: Common, kitten: str) -> Kitten:
    """A kitten of the chapter's own run."""
    path = common.folder("ch5_reasoning") / KITTENS[kitten]
    gpt, tokenizer, _ = load_model(path, device=common.device)
    return Kitten(gpt, tokenizer, common)


def provenance(run: Run, recipe: Recipe, common: Common, loops: Loops) -> dict:
    """Three kittens with random weights read "wait" more or less often; then the same GRPO."""
    reading = replace(recipe.warm_up, steps=READING_TIMES * recipe.warm_up.steps)
    result, histories = {}, {}
    for share in WAIT_SHARES:
        name = f"{round(100 * share)}_percent"
        thinker = trained_thinker(common, "warm-up")  # for its size and its vocabulary
        weights = new_generator("cpu", common.seed, "ch5_reasoning", "weights")
        thinker.gpt = GPT(thinker.gpt.config, generator=weights).to(common.device)
        documents = thinking.number_documents(
            thinker.tokenizer,
            READING_TIMES * recipe.warm_up_tokens,
            new_random(common.seed, "ch5_reasoning", "documents", name),
            wait_share=share,
        )
        task = countdown_task(documents, recipe, common)
        plan = exam_of(task, recipe)
        loops.warm_up(run, f"reading_{name}", thinker, documents, reading)
        before = run.once(
            f"before_{name}",
            lambda thinker=thinker, plan=plan: look(run, "before", thinker, plan, recipe),
        )
        loops.learn_from_rules(run, f"grpo_{name}", thinker, task, recipe)
        with run.timing("eval"):
            after = look(run, "after", thinker, plan, recipe)
        print(f'\n{share:.0%} of the scribbles that it read hold "wait":')
        print(pictures.table(before, after))
        histories[f"{share:.0%} read"] = run.history(f"grpo_{name}", *pictures.NEEDED)
        result[f"{share:g}"] = exam.exam_keys(before, after)
    title = 'The same GRPO for kittens that read "wait" more or less often'
    pictures.draw_comparison(run.folder / "provenance.png", histories, title)
    return result


def normalisations(run: Run, recipe: Recipe, common: Common, loops: Loops) -> dict:
    """The chapter's GRPO under the three normalisations, then the accuracy at forced lengths."""
    result, histories = {}, {}
    task = countdown_task([], recipe, common)
    plan = exam_of(task, recipe)
    for name in ("reply", "token", "constant"):
        thinker = trained_thinker(common, "warm-up")
        variant = replace(recipe, grpo=replace(recipe.grpo, normalize=name))
        loops.learn_from_rules(run, f"grpo_{name}", thinker, task, variant)
        with run.timing("eval"):
            scores = look(run, "after", thinker, plan, variant)
        histories[name] = run.history(f"grpo_{name}", *pictures.NEEDED)
        result[name] = {key: scores[key] for key in scores if key not in ("lengths", "samples")}
        print(f"{name}: {scores['accuracy']:.1%} right, {scores['tokens']:.0f} tokens per reply")
    title = "The same GRPO under three normalisations"
    pictures.draw_comparison(run.folder / "normalisations.png", histories, title)
    with run.timing("eval"):
        result["budget"] = forced_budgets(common, plan)
    pictures.draw_budgets(run.folder / "budget.png", result["budget"])
    return result


def forced_budgets(common: Common, plan: exam.Plan) -> dict:
    """Accuracy of both kittens if thinking is closed after so many tokens ("at most"), and if it
    may not stop earlier either ("exactly")."""
    exercises = [exercise for exercise, _ in plan]
    found: dict = {}
    for kitten in KITTENS:
        thinker = trained_thinker(common, kitten)
        generator = new_generator(common.device, common.seed, "ch5_reasoning", "budget")
        for go_on, how in ((False, "at most"), (True, "exactly")):
            points = found[f"{kitten}, {how}"] = {}
            for budget in [exam.tokens_of_attempts(thinker.tokenizer, n) for n in ATTEMPTS]:
                results = exam.think_with_budget(
                    thinker, exercises, budget, go_on=go_on, generator=generator
                )
                mean, error = exam.rate(results, lambda r: r.right)
                points[str(budget)] = {"accuracy": mean, "accuracy_stderr": error}
                print(f"{kitten}, {how} {budget} tokens: {pictures.shown(mean, error)} right")
    return found


def votes(run: Run, recipe: Recipe, common: Common) -> dict:
    """n replies to a problem, of which a vote or the checker picks one."""
    most = QUICK_VOTES if common.quick else max(VOTES)
    held_out = countdown_task([], recipe, common).held_out[: recipe.pass_problems]
    plan = [(wordings[0], most) for wordings in held_out]
    result: dict = {}
    for kitten in KITTENS:
        with run.timing("eval"):
            results = exam.take_exam(
                trained_thinker(common, kitten),
                plan,
                max_new_tokens=recipe.grpo.max_new_tokens,
                temperature=1.0,
                generator=new_generator(common.device, common.seed, "ch5_reasoning", "votes"),
            )
        tokens, _ = exam.rate(results, lambda r: r.tokens)
        for how, pick in (("vote", exam.vote_accuracy), ("best", exam.best_accuracy)):
            points = result[f"{kitten}, {how} of n"] = {}
            for n in [n for n in VOTES if n <= most]:
                mean, error = pick(results, n)
                points[str(n)] = {"tokens": n * tokens, "accuracy": mean, "accuracy_stderr": error}
                print(f"{kitten}, {how} of {n}: {pictures.shown(mean, error)} right")
    pictures.draw_votes(run.folder / "votes.png", result)
    return result
