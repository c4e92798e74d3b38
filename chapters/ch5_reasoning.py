"""Chapter 5: reasoning, R1-Zero in miniature: GRPO with rules only, on the number game Countdown.

From the base kitten: a short warm-up shows how scribbled thinking is written down, then GRPO lets
it try, and two rules say what is right. --questions FILE trains on word problems of your own.
Three experiments come on top, each a run of its own: --provenance, --normalisations, --votes.
The lesson is chapters/ch5_reasoning.md.
"""

import copy
import statistics
import sys
from dataclasses import dataclass, replace

from tqdm import tqdm

from chapters import thinking
from chapters import thinking_pictures as pictures
from chapters.runner import chapter_main, ensure
from chapters.samples import write_samples
from chapters.thinking import Task, Thinker, take_exam
from kittenllm.batches import pack
from kittenllm.chat import ChatTokens
from kittenllm.checkpoints import load_model, save_model, write_json_atomic
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.records import load_questions, report_problems
from kittenllm.runs import Run, file_digest, fingerprint_of
from kittenllm.settings import Common, new_generator, new_random, setting
from kittenllm.sft import SFTConfig, train_sft
from kittenllm.stages import Stage

ROW_LENGTH = 256  # of the packed rows of the warm-up
SHOWN = 8  # held-out problems whose whole thinking is kept
LIVE = ("accuracy", "reply_tokens", "waits", "format", "truncated", "no_signal", "entropy")
EXPERIMENTS = ("provenance", "normalisations", "votes")
READING_TIMES = 2  # a kitten of --provenance reads so many times what the warm-up reads
WAIT_SHARES = (0.0, 0.01, 0.1)  # of the scribbles that a kitten of --provenance reads
BUDGETS = (18, 39, 81, 123, 165)  # tokens of 1, 2, 4, 6 and 8 attempts
VOTES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    warm_up_steps: int = setting(440, "steps of the warm-up on sums, drills and scribbles")
    warm_up_rows: int = setting(8, "packed rows of 256 tokens in one step of the warm-up")
    warm_up_matrix_lr: float = setting(4e-3, "Muon's learning rate in the warm-up")
    warm_up_other_lr: float = setting(4e-3, "AdamW's learning rate in the warm-up")
    patient_share: float = setting(0.15, "share of the scribbles that seldom give up")
    grpo_steps: int = setting(80, "rounds of GRPO: sample, judge, learn")
    prompts_per_step: int = setting(32, "problems in one round")
    group_size: int = setting(8, "replies to each problem, which judge each other")
    max_new_tokens: int = setting(192, "longest reply; one that is cut off earns nothing")
    format_weight: float = setting(0.1, "what the right form is worth; a right answer is worth 1")
    normalize: str = setting(
        "token", "how tokens are averaged, see grpo.py", choices=("reply", "token", "constant")
    )
    normalize_std: bool = setting(False, "divide advantages by the std of their group")
    clip_eps: float = setting(0.2, "how far one round may move a probability ratio from 1")
    clip_eps_high: float | None = setting(None, "the same upwards; none: clip-eps (DAPO: 0.28)")
    kl_coef: float = setting(0.0, "price of one nat away from the warm-up kitten; 0: free")
    epochs: int = setting(1, "how often each reply is learnt from")
    minibatches: int = setting(1, "optimizer steps per epoch")
    matrix_lr: float = setting(5e-4, "Muon's learning rate in GRPO")
    other_lr: float = setting(2e-4, "AdamW's learning rate in GRPO")
    cooldown: float = setting(0.2, "share of the GRPO steps with a falling rate")
    eval_problems: int = setting(100, "held-out problems with 16 replies each, for pass@k")
    least_pass_at_8: float = setting(0.05, "GRPO is refused if pass@8 of the warm-up is lower")
    questions: str = setting("", "train on the word problems of this file (question, answer)")
    strict: bool = setting(False, "stop at the first bad record of that file")
    provenance: bool = setting(False, 'three kittens that read 0, 1 and 10 % "wait" (minutes)')
    normalisations: bool = setting(False, "GRPO under all three normalisations (minutes)")
    votes: bool = setting(False, "majority votes and best of n instead of training")

    def __post_init__(self):
        if self.warm_up_steps < 1:
            raise ValueError(f"warm_up_steps must be at least 1, got {self.warm_up_steps}")
        for name in ("patient_share", "format_weight", "least_pass_at_8"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.eval_problems < 1:
            raise ValueError(f"eval_problems must be at least 1, got {self.eval_problems}")
        if self.questions and any(getattr(self, name) for name in EXPERIMENTS):
            raise ValueError("the experiments are about Countdown; leave out --questions")
        self.warm_up()
        self.grpo()  # both check the other numbers

    def warm_up(self) -> SFTConfig:
        """The settings of the warm-up."""
        return SFTConfig(
            steps=self.warm_up_steps,
            rows_per_step=self.warm_up_rows,
            replay_fraction=0.0,
            matrix_lr=self.warm_up_matrix_lr,
            other_lr=self.warm_up_other_lr,
        )

    def grpo(self) -> GRPOConfig:
        """The algorithm's own settings."""
        return GRPOConfig(
            steps=self.grpo_steps,
            prompts_per_step=self.prompts_per_step,
            group_size=self.group_size,
            max_new_tokens=self.max_new_tokens,
            clip_eps=self.clip_eps,
            clip_eps_high=self.clip_eps_high,
            kl_coef=self.kl_coef,
            normalize=self.normalize,
            normalize_std=self.normalize_std,
            epochs=self.epochs,
            minibatches=self.minibatches,
            matrix_lr=self.matrix_lr,
            other_lr=self.other_lr,
            cooldown=self.cooldown,
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
}
QUICK_PROBLEMS = 6  # of the exam


def run(settings: Settings, common: Common) -> dict:
    """The whole chapter, then the experiments that were asked for; returns the summary."""
    base = ensure("ch0_base", common)
    summary = reason(replace(settings, **dict.fromkeys(EXPERIMENTS, False)), common, base)
    experiments = {"provenance": provenance, "normalisations": normalisations, "votes": votes}
    for name, experiment in experiments.items():
        if getattr(settings, name) and summary[name] is None:
            summary = {**summary, name: experiment(settings, common)}
            write_json_atomic(common.folder("ch5_reasoning") / "summary.json", summary)
    return summary


def reason(settings: Settings, common: Common, base: dict) -> dict:
    """Data, model, loop, look: warm-up, exam, GRPO, exam."""
    inputs = {"base": fingerprint_of(common, "ch0_base")}
    if settings.questions:
        inputs["questions"] = file_digest(settings.questions)
    chapter = Run(common, "ch5_reasoning", settings, inputs=inputs)
    if chapter.finished:
        return chapter.summary

    # Model: the base kitten, which has never seen a tag. Data: exercises with a rule.
    gpt, tokenizer, _ = load_model(common.folder("ch0_base") / base["model"], device=common.device)
    thinker = Thinker(gpt, tokenizer)
    task, facts = new_task(thinker, settings, common)
    plan = exam_plan(task, settings, common)

    # Warm-up: how thinking is written down. Supervised learning, on scribbles that mostly fail.
    warm_up(chapter, "warm_up", thinker, task.documents, settings, common)
    save_model(chapter.folder / "warm_up.pt", gpt, tokenizer)
    before = chapter.once("before", lambda: look(thinker, plan, settings, common, "before"))
    print(f"warm-up kitten: {before['accuracy']:.1%} right, pass@8 {before['pass_at_k']['8']:.1%}")
    refuse_without_signal(before, settings)

    # Loop: sample, judge by rules, learn.
    learn_from_rules(chapter, "grpo", thinker, task, settings, common)
    history = chapter.history("grpo")

    # Look: the same exam again.
    with chapter.timing("eval"):
        after = look(thinker, plan, settings, common, "after")
        greedy = greedy_accuracy(thinker, plan, settings)
        keys = exam_keys(before, after)
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
    return chapter.finish(keys, model=(gpt, tokenizer))


# ---------------------------------------------------------------------------------------- the data


def new_task(thinker: Thinker, settings: Settings, common: Common) -> tuple[Task, dict | None]:
    """The task, and where it comes from a file, how many problems it had."""
    tokenizer, context_length = thinker.tokenizer, thinker.gpt.config.context_length
    if settings.questions:
        records, problems = load_questions(settings.questions, strict=settings.strict)
        print(report_problems(problems))
        task = thinking.question_task(
            tokenizer,
            records,
            context_length=context_length,
            max_new_tokens=settings.max_new_tokens,
        )
        facts = {
            "records": len(records),
            "bad_records": len(problems),
            "practice": len(task.practice),
            "held_out": len(task.held_out),
        }
        print(f"word problems: {facts}; those that are too long were left out")
        return task, facts
    rows = settings.warm_up_steps * settings.warm_up_rows
    documents = thinking.number_documents(
        tokenizer,
        rows * ROW_LENGTH,
        new_random(common.seed, "ch5_reasoning", "documents"),
        patient_share=settings.patient_share,
    )
    return countdown_task(documents, settings, common), None


def countdown_task(documents: list[ChatTokens], settings: Settings, common: Common) -> Task:
    """Countdown with fresh practice problems for every step."""
    rng = new_random(common.seed, "ch5_reasoning", "practice")
    count = settings.grpo_steps * settings.prompts_per_step
    practice = thinking.countdown_practice(count, rng)
    return Task("countdown", practice, thinking.countdown_held_out(), documents)


def exam_plan(task: Task, settings: Settings, common: Common) -> list:
    """Which exercises are asked how often; a few only in a quick run."""
    problems = task.held_out[:QUICK_PROBLEMS] if common.quick else task.held_out
    return thinking.exam_of(replace(task, held_out=problems), settings.eval_problems)


# --------------------------------------------------------------------------------------- the loops


def warm_up(
    chapter: Run,
    name: str,
    thinker: Thinker,
    documents: list[ChatTokens],
    settings: Settings,
    common: Common,
) -> Stage:
    """The next-token loss on the documents; of scribbles, the reply only."""
    row_length = min(ROW_LENGTH, thinker.gpt.config.context_length)
    rows = pack(documents, row_length=row_length, pad_id=thinker.tokenizer.pad_id)
    config = settings.warm_up()
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", common.seed, "ch5_reasoning", "warm_up")
    objects = {"gpt": thinker.gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
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
    return stage


def learn_from_rules(
    chapter: Run, name: str, thinker: Thinker, task: Task, settings: Settings, common: Common
) -> Stage:
    """GRPO on the practice problems, watched step by step."""
    config = settings.grpo()
    reference = copy.deepcopy(thinker.gpt) if config.kl_coef > 0 else None
    optimizer = make_optimizer(thinker.gpt, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator(common.device, common.seed, "ch5_reasoning", name)
    objects = {"gpt": thinker.gpt, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage(name, total=config.steps, objects=objects)
    training = train_grpo(
        thinker.gpt,
        [thinker.prompt(exercise) for exercise in task.practice],
        thinking.reward_for(task.practice, thinker.tokenizer, settings.format_weight),
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        reference=reference,
    )
    history, warned = chapter.history(stage.name), set()
    for metrics in stage.follow(training, show=LIVE):
        tokens = metrics["reply_tokens"] * config.prompts_per_step * config.group_size
        metrics["tokens_per_second_sampling"] = tokens / metrics["seconds_sampling"]
        metrics["tokens_per_second_training"] = tokens / metrics["seconds_training"]
        history.append(metrics)
        for worry, text in pictures.warnings_in(history).items():
            if worry not in warned:
                warned.add(worry)
                tqdm.write(text)
    return stage


# ---------------------------------------------------------------------------------------- the look


def look(thinker: Thinker, plan: list, settings: Settings, common: Common, name: str) -> dict:
    """The exam at temperature 1: scores, and the first reply to a few problems in full."""
    results = take_exam(
        thinker,
        plan,
        max_new_tokens=settings.max_new_tokens,
        temperature=1.0,
        generator=new_generator(common.device, common.seed, "ch5_reasoning", "exam", name),
    )
    scores = thinking.scores_of(results)
    scores["pass_at_k"] = {str(k): value for k, value in scores["pass_at_k"].items()}
    scores["pass_at_k_stderr"] = {str(k): e for k, e in scores["pass_at_k_stderr"].items()}
    first = {result.exercise.text: result for result in reversed(results)}
    shown = [first[exercise.text] for exercise, _ in plan[:SHOWN]]
    scores["samples"] = [
        {"prompt": r.exercise.text, "reply": f"{r.text}\n({'right' if r.right else 'wrong'})"}
        for r in shown
    ]
    return scores


def greedy_accuracy(thinker: Thinker, plan: list, settings: Settings) -> tuple:
    """Accuracy, and its standard error, if the likeliest token is taken each time."""
    once = [(exercise, 1) for exercise, _ in plan]
    results = take_exam(
        thinker,
        once,
        max_new_tokens=settings.max_new_tokens,
        temperature=0.0,
        generator=None,
    )
    return thinking.rate(results, lambda result: result.right)


def refuse_without_signal(before: dict, settings: Settings) -> None:
    """No signal, no learning: GRPO only starts if some groups will hold a right reply.

    Raises: ValueError with the reason and the remedy.
    """
    rate, least = before["pass_at_k"]["8"], settings.least_pass_at_8
    if rate is not None and rate >= least:
        return
    shown = "not known (no exam problem)" if rate is None else f"{rate:.1%}"
    raise ValueError(
        f"GRPO is not started: pass@8 after the warm-up is {shown}, the least is {least:.0%}. Of 8 "
        "replies to a problem hardly ever one is right, so nearly all groups earn the same, and "
        "equal rewards teach nothing. Remedy: a longer warm-up (--warm-up-steps), easier problems, "
        "a better base kitten; or --least-pass-at-8 0 to see for yourself."
    )


def exam_keys(before: dict, after: dict) -> dict:
    """The scores of both exams as keys `<score>_before`, `<score>_after_stderr` and so on."""
    keys = {}
    for name, scores in (("before", before), ("after", after)):
        for key, value in scores.items():
            if key in ("lengths", "samples"):
                continue
            stem, error = key.removesuffix("_stderr"), key.endswith("_stderr")
            keys[f"{stem}_{name}" + ("_stderr" if error else "")] = value
        keys[f"pass_at_8_{name}"] = scores["pass_at_k"]["8"]
        keys[f"pass_at_8_{name}_stderr"] = scores["pass_at_k_stderr"]["8"]
    return keys


# --------------------------------------------------------------------------------- the experiments


def open_experiment(name: str, settings: Settings, common: Common) -> Run:
    """A folder of its own for an experiment, which stands on the chapter's own run."""
    inputs = {"reasoning": fingerprint_of(common, "ch5_reasoning")}
    settings = replace(settings, **dict.fromkeys(EXPERIMENTS, False))
    return Run(common, f"ch5_{name}", settings, inputs=inputs)


def trained_thinker(common: Common, file: str) -> Thinker:
    """A kitten of the chapter's own run: "warm_up.pt" or "model.pt"."""
    path = common.folder("ch5_reasoning") / file
    gpt, tokenizer, _ = load_model(path, device=common.device)
    return Thinker(gpt, tokenizer)


def provenance(settings: Settings, common: Common) -> dict:
    """Where does "wait" come from? Three kittens with random weights read it more or less often,
    and the same GRPO follows for each."""
    chapter = open_experiment("provenance", settings, common)
    if chapter.finished:
        return chapter.summary["result"]
    reading = replace(settings, warm_up_steps=READING_TIMES * settings.warm_up_steps)
    result, histories = {}, {}
    for share in WAIT_SHARES:
        name = f"{round(100 * share)}_percent"
        thinker = trained_thinker(common, "warm_up.pt")
        weights = new_generator("cpu", common.seed, "ch5_reasoning", "weights")
        thinker.gpt = GPT(thinker.gpt.config, generator=weights).to(common.device)
        documents = thinking.number_documents(
            thinker.tokenizer,
            reading.warm_up_steps * reading.warm_up_rows * ROW_LENGTH,
            new_random(common.seed, "ch5_reasoning", "documents", name),
            wait_share=share,
        )
        task = countdown_task(documents, settings, common)
        plan = exam_plan(task, settings, common)
        warm_up(chapter, f"reading_{name}", thinker, documents, reading, common)
        before = chapter.once(
            f"before_{name}",
            lambda thinker=thinker, plan=plan: look(thinker, plan, settings, common, "before"),
        )
        learn_from_rules(chapter, f"grpo_{name}", thinker, task, settings, common)
        with chapter.timing("eval"):
            after = look(thinker, plan, settings, common, "after")
        print(f'\n{share:.0%} of the scribbles that it read hold "wait":')
        print(pictures.table(before, after))
        histories[f"{share:.0%} read"] = chapter.history(f"grpo_{name}")
        result[f"{share:g}"] = exam_keys(before, after)
    title = 'The same GRPO for kittens that read "wait" more or less often'
    pictures.draw_comparison(chapter.folder / "provenance.png", histories, title)
    chapter.finish({"result": result})
    return result


def normalisations(settings: Settings, common: Common) -> dict:
    """Where does the length come from? The same run under the three normalisations, and then the
    accuracy when the number of thinking tokens is forced."""
    chapter = open_experiment("normalisations", settings, common)
    if chapter.finished:
        return chapter.summary["result"]
    result, histories = {}, {}
    for name in ("reply", "token", "constant"):
        thinker = trained_thinker(common, "warm_up.pt")
        task = countdown_task([], settings, common)
        plan = exam_plan(task, settings, common)
        one = replace(settings, normalize=name)
        learn_from_rules(chapter, f"grpo_{name}", thinker, task, one, common)
        with chapter.timing("eval"):
            scores = look(thinker, plan, one, common, "after")
        histories[name] = chapter.history(f"grpo_{name}")
        result[name] = {key: scores[key] for key in scores if key not in ("lengths", "samples")}
        print(f"{name}: {scores['accuracy']:.1%} right, {scores['tokens']:.0f} tokens per reply")
    title = "The same GRPO under three normalisations"
    pictures.draw_comparison(chapter.folder / "normalisations.png", histories, title)
    with chapter.timing("eval"):
        result["budget"] = forced_budgets(settings, common)
    pictures.draw_budgets(chapter.folder / "budget.png", result["budget"])
    chapter.finish({"result": result})
    return result


def forced_budgets(settings: Settings, common: Common) -> dict:
    """Accuracy of both kittens when thinking is closed after so many tokens ("at most"), and when
    it is also never allowed to stop earlier ("exactly")."""
    task = countdown_task([], settings, common)
    exercises = [exercise for exercise, _ in exam_plan(task, settings, common)]
    found: dict = {}
    for kitten, file in (("warm-up", "warm_up.pt"), ("after GRPO", "model.pt")):
        thinker = trained_thinker(common, file)
        generator = new_generator(common.device, common.seed, "ch5_reasoning", "budget")
        for go_on, how in ((False, "at most"), (True, "exactly")):
            points = found[f"{kitten}, {how}"] = {}
            for budget in BUDGETS:
                results = thinking.think_with_budget(
                    thinker, exercises, budget, go_on=go_on, generator=generator
                )
                mean, error = thinking.rate(results, lambda r: r.right)
                points[str(budget)] = {"accuracy": mean, "accuracy_stderr": error}
    return found


def votes(settings: Settings, common: Common) -> dict:
    """Thinking longer without training: n replies, and a vote or the checker picks one of them."""
    chapter = open_experiment("votes", settings, common)
    if chapter.finished:
        return chapter.summary["result"]
    most = 4 if common.quick else max(VOTES)
    task = countdown_task([], settings, common)
    plan = [(wordings[0], most) for wordings in task.held_out[: settings.eval_problems]]
    result = {}
    for kitten, file in (("warm-up", "warm_up.pt"), ("after GRPO", "model.pt")):
        with chapter.timing("eval"):
            results = take_exam(
                trained_thinker(common, file),
                plan,
                max_new_tokens=settings.max_new_tokens,
                temperature=1.0,
                generator=new_generator(common.device, common.seed, "ch5_reasoning", "votes"),
            )
        tokens, _ = thinking.rate(results, lambda r: r.tokens)
        for how, pick in (("vote", thinking.vote_accuracy), ("best", thinking.best_accuracy)):
            points = result[f"{kitten}, {how} of n"] = {}
            for n in [n for n in VOTES if n <= most]:
                mean, error = pick(results, n)
                points[str(n)] = {"tokens": n * tokens, "accuracy": mean, "accuracy_stderr": error}
                print(f"{kitten}, {how} of {n}: {pictures.shown(mean, error)}")
    pictures.draw_votes(chapter.folder / "votes.png", result)
    chapter.finish({"result": result})
    return result


def main(argv=None) -> int:
    return chapter_main("ch5_reasoning", argv)


if __name__ == "__main__":
    sys.exit(main())
