"""Chapter 5: reasoning, R1-Zero in miniature: GRPO with rules only, on the number game Countdown.

From the base kitten: a short warm-up shows how scribbled thinking is written down, then GRPO lets
it try, and two rules say what is right. --questions FILE trains on word problems of your own, with
--model DIR a real open model instead of the kitten.
Three experiments come on top, each a run of its own: --provenance, --normalisations, --votes.
The lesson is chapters/ch5_reasoning/lesson.md.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tqdm import tqdm

from chapters.ch5_reasoning import pictures, thinking
from chapters.ch5_reasoning.experiments import Loops, run_experiment
from chapters.ch5_reasoning.groups import GroupLog
from chapters.ch5_reasoning.real_model import practise
from chapters.ch5_reasoning.recipe import (
    ROW_LENGTH,
    Recipe,
    countdown_task,
    exam_of,
    look,
)
from chapters.ch5_reasoning.thinking import Task
from chapters.common import exam
from chapters.common.kitten import Kitten, RealModel, Trained
from chapters.common.runner import ensure
from chapters.common.samples import write_samples
from chapters.common.terminal import with_error
from kittenllm.batches import pack
from kittenllm.chat import ChatTokens, text_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import DataFile, RecordError, read_data_file
from kittenllm.distributed import is_sharded
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.records import Problem, load_questions, report_problems, skipped
from kittenllm.rewards import Reward
from kittenllm.runs.checkpoints import load_model, save_model
from kittenllm.runs.run import Run, fingerprint_of, write_summary
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.tokenizer import Tokenizer

LIVE = ("accuracy", "reply_tokens", "waits", "format", "truncated", "no_signal", "entropy")
EXPERIMENTS = ("provenance", "normalisations", "votes")
QUICK_PROBLEMS = 6  # of the exam


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    warm_up: SFTConfig = nested(  # on sums, drills and scribbles, in rows of 256 tokens
        SFTConfig(steps=480, rows_per_step=8, replay_fraction=0.0, matrix_lr=4e-3, other_lr=4e-3),
        prefix="warm_up_",
        hidden="replay_fraction warmup cooldown max_grad_norm",
        rows_per_step="warm_up_rows",
    )
    patient_share: float = option(
        0.3, "share of the scribbles that show when to stop", low=0, high=1
    )
    grpo: GRPOConfig = nested(
        GRPOConfig(minibatches=2),
        hidden="tokens_per_pass skip_equal_groups max_grad_norm",
        steps="grpo_steps",
    )
    format_weight: float = option(
        0.3, "what the right form is worth; a right answer is worth 1", low=0, high=1
    )
    eval_problems: int = option(100, "held-out problems with 16 replies each, for pass@k", low=1)
    least_pass_at_8: float = option(
        0.05, "GRPO is refused if pass@8 of the warm-up is lower", low=0, high=1
    )
    questions: str = option("", "train on the word problems of this file (question, answer)")
    strict: bool = option(False, "stop at the first bad record of that file")
    real: RealModel = nested(RealModel(max_tokens=384, model_steps=30, model_lr=2e-4), extra=True)
    provenance: bool = option(
        False, 'three kittens that read 0, 1 and 10 % "wait" (minutes)', extra=True
    )
    normalisations: bool = option(
        False, "GRPO under all three normalisations (minutes)", extra=True
    )
    votes: bool = option(False, "majority votes and best of n instead of training", extra=True)

    def __post_init__(self):
        check_options(self)
        if self.questions and any(getattr(self, name) for name in EXPERIMENTS):
            raise ValueError("the experiments are about Countdown; leave out --questions")
        if self.real.model and not self.questions:
            raise ValueError("--model needs --questions: word problems with their answers")

    def recipe(self, *, most_problems: int | None = None) -> Recipe:
        """The settings of the two loops, and of the exam."""
        return Recipe(
            self.warm_up,
            self.grpo,
            patient_share=self.patient_share,
            format_weight=self.format_weight,
            pass_problems=self.eval_problems,
            most_problems=most_problems,
        )


QUICK = {
    "warm_up_steps": 60,
    "warm_up_rows": 4,
    "grpo_steps": 6,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_new_tokens": 48,
    "eval_problems": 2,
    "least_pass_at_8": 0.0,
    "model_steps": 2,
}


def run(settings: Settings, common: Common) -> dict:
    """The whole chapter, then the experiments that were asked for; returns the summary."""
    recipe = settings.recipe(most_problems=QUICK_PROBLEMS if common.quick else None)
    if settings.real.model:  # a real model in the place of the kitten: real_model.py
        file = questions_file(settings)
        records, problems = numbered_questions(file, settings)
        print(report_problems(problems) or "every record of the file is fine")
        return practise(settings, recipe, common, file.digest, records, learn_from_rules)
    summary = reason(settings, recipe, common)
    loops = Loops(warm_up, learn_from_rules)
    for name in EXPERIMENTS:
        if getattr(settings, name) and summary[name] is None:
            summary = {**summary, name: run_experiment(name, recipe, common, loops)}
            summary = write_summary(common.folder("ch5_reasoning") / "summary.json", summary)
    return summary


def reason(settings: Settings, recipe: Recipe, common: Common) -> dict:
    """Data, model, loop, look: warm-up, exam, GRPO, the same exam."""
    file = questions_file(settings)
    base = ensure("ch0_base", common)
    inputs = {"base": fingerprint_of(common, "ch0_base")}
    if file:
        inputs["questions"] = file.digest
    chapter = Run(common, "ch5_reasoning", settings, inputs=inputs, open_now=False)
    if chapter.finished:
        return chapter.summary

    # Model: the base kitten, which has never seen a tag. Data: exercises with a rule.
    gpt, tokenizer, _ = load_model(common.folder("ch0_base") / base["model"], device=common.device)
    thinker = Kitten(gpt, tokenizer, common)
    task, facts = new_task(thinker, settings, recipe, common, file)
    chapter.open()  # not before: problems that do not fit must not put an earlier run aside
    plan = exam_of(task, recipe)

    # Warm-up: how thinking is written down. Supervised learning, on scribbles that mostly fail.
    warm_up(chapter, "warm_up", thinker, task.documents, recipe.warm_up)
    save_model(chapter.folder / "warm_up.pt", gpt, tokenizer)
    with chapter.timing("eval"):
        before = chapter.once("before", lambda: look(chapter, "before", thinker, plan, recipe))
    print(exam_line("warm-up", before), flush=True)
    refuse_without_signal(before, settings.least_pass_at_8)

    # Loop: sample, judge by rules, learn.
    learn_from_rules(chapter, "grpo", thinker, task, recipe)
    history = chapter.history("grpo", *pictures.NEEDED)

    # Look: what changed, on problems that nobody practised?
    with chapter.timing("eval"):
        after = look(chapter, "after", thinker, plan, recipe)
        limit = recipe.grpo.max_new_tokens
        keys = exam.exam_keys(before, after)
        greedy = exam.greedy_accuracy(thinker, plan, max_new_tokens=limit)
        keys["greedy_after"], keys["greedy_after_stderr"] = greedy
        keys["seconds_per_step"] = statistics.median(entry["seconds"] for entry in history)
        keys["warnings"] = pictures.all_warnings(history)
        keys |= {"questions": facts, **dict.fromkeys(EXPERIMENTS)}
        write_samples(
            chapter.folder,
            [sample["prompt"] for sample in before["samples"]],
            [sample["reply"] for sample in before["samples"]],
            [sample["reply"] for sample in after["samples"]],
            before_title="warm-up",
            after_title="after GRPO",
        )
        pictures.draw_training(chapter.folder / "curves.png", history)
        pictures.draw_exams(chapter.folder, before, after)
    print(pictures.table(before, after))
    print(exam_line("after GRPO", after))
    print(ERRORS_MEAN)
    return chapter.finish(keys, model=(gpt, tokenizer))


# --------------------------------------------------------------------------------------- the loops


def warm_up(
    run: Run, name: str, thinker: Kitten, documents: list[ChatTokens], config: SFTConfig
) -> None:
    """The next-token loss on the documents; of an exercise, only the reply is trained."""
    row_length = min(ROW_LENGTH, thinker.gpt.config.context_length)
    rows = pack(documents, row_length=row_length, pad_id=thinker.tokenizer.pad_id)
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", run.common.seed, "ch5_reasoning", "warm_up")
    objects = {"gpt": thinker.gpt, "optimizer": optimizer, "generator": generator}
    stage = run.stage(name, total=config.steps, objects=objects)
    training = train_sft(
        thinker.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
    )
    for _ in stage.follow(training):
        pass


def learn_from_rules(
    run: Run,
    name: str,
    thinker: Kitten,
    task: Task,
    recipe: Recipe,
    *,
    prompt: Callable[[Tokenizer, str], list[int]] = text_prompt,
    reward_for: Callable[..., Reward] = exam.reward_for,
) -> None:
    """GRPO on the practice problems, watched step by step. A real model is prompted and rewarded in
    another form than a kitten."""
    config = recipe.grpo
    if config.kl_coef > 0 and is_sharded(thinker.gpt):
        raise ValueError("--kl-coef needs a whole copy of the model beside it: leave --shard out")
    reference = copy.deepcopy(thinker.gpt) if config.kl_coef > 0 else None
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator(run.common.device, run.common.seed, "ch5_reasoning", "grpo")
    objects = {"gpt": Trained(thinker.gpt), "optimizer": optimizer, "generator": generator}
    stage = run.stage(name, total=config.steps, objects=objects)
    reward = reward_for(task.practice, thinker.tokenizer, recipe.format_weight)
    log = GroupLog(run.folder, name, thinker, task.practice, config, stage.step)
    training = train_grpo(
        thinker.gpt,
        [prompt(thinker.tokenizer, exercise.text) for exercise in task.practice],
        log.watching(reward),
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        reference=reference,
    )
    history, warned = run.history(stage.name, *pictures.NEEDED), set()
    for metrics in stage.follow(training, show=LIVE):
        tokens = metrics["reply_tokens"] * config.prompts_per_step * config.group_size
        metrics["tokens_per_second_sampling"] = tokens / metrics["seconds_sampling"]
        metrics["tokens_per_second_training"] = tokens / metrics["seconds_training"]
        log.after_round()
        history.append(metrics)
        for worry, text in pictures.warnings_in(history).items():
            if worry not in warned:
                warned.add(worry)
                tqdm.write(text)


# ---------------------------------------------------------------------------------------- the data


def questions_file(settings: Settings) -> DataFile | None:
    """The user's word problems, read once; None without a file.

    What can be refused without a kitten is refused here, before one is trained.
    Raises: RecordError for a file with fewer than two problems whose answer is a number.
    """
    if not settings.questions:
        return None
    file = read_data_file(settings.questions)
    records, _ = numbered_questions(file, settings)
    if len(records) < 2:
        raise RecordError(
            f"{file.path}: there is only one word problem in it; give one to practise on and one "
            "for the exam at least"
        )
    return file


def numbered_questions(file: DataFile, settings: Settings) -> tuple[list[dict], list[Problem]]:
    """The word problems whose answer is a number, and all that had to be skipped."""
    records, problems = load_questions(file, strict=settings.strict)
    records, without_number = thinking.with_numbers(file.path, records, strict=settings.strict)
    return records, problems + without_number


def new_task(
    thinker: Kitten, settings: Settings, recipe: Recipe, common: Common, file: DataFile | None
) -> tuple[Task, dict | None]:
    """The task; and if it comes from a file, how many problems there are."""
    tokenizer = thinker.tokenizer
    if not file:
        documents = thinking.number_documents(
            tokenizer,
            recipe.warm_up_tokens,
            new_random(common.seed, "ch5_reasoning", "documents"),
            patient_share=recipe.patient_share,
        )
        return countdown_task(documents, recipe, common), None
    records, problems = numbered_questions(file, settings)
    task = thinking.question_task(
        tokenizer,
        records,
        context_length=thinker.gpt.config.context_length,
        max_new_tokens=recipe.grpo.max_new_tokens,
    )
    facts = {
        "records": len(records),
        "bad_records": len(skipped(problems)),
        "practice": len(task.practice),
        "held_out": len(task.held_out),
    }
    if problems:
        print(report_problems(problems))
    print(
        f"{facts['records']} word problems, {facts['practice']} to practise on, "
        f"{facts['held_out']} held out; the others are too long for this kitten"
    )
    return task, facts


def refuse_without_signal(before: dict, least: float) -> None:
    """No signal, no learning: GRPO starts only if some groups will hold a right reply.

    Raises: ValueError with the reason and the remedy.
    """
    rate = before["pass_at_k"]["8"]
    if rate >= least:
        return
    raise ValueError(
        f"GRPO is not started: pass@8 after the warm-up is {rate:.1%}, below {least:.0%}. Of 8 "
        "replies to a problem hardly ever one is right, so nearly all groups earn the same, and "
        "equal rewards teach nothing. Remedy: a longer warm-up (--warm-up-steps), easier problems "
        "or a better base kitten; or --least-pass-at-8 0, to see it for yourself."
    )


def exam_line(name: str, scores: dict) -> str:
    """An exam in one line."""
    return (
        f"{name}: {with_error(scores['accuracy'], scores['accuracy_stderr'], '.1%')} of "
        f"{scores['replies']:,} replies to held-out problems are right, pass@8 "
        f"{with_error(scores['pass_at_k']['8'], scores['pass_at_k_stderr']['8'], '.1%')}, "
        f"{scores['tokens']:.0f} tokens and "
        f"{scores['waits']:.1f} waits per reply"
    )
