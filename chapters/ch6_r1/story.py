"""Chapter 6: one kitten that chats, is kind, and thinks: the recipe of DeepSeek-R1 in miniature.

Four steps. (1) Zero, the kitten of chapter 5, learned to think from rules alone. (2) Rejection
sampling: it solves practice puzzles, and only right replies are kept; the PPO kitten answers
questions, and the replies that the reward model likes best are kept. (3) SFT, the cold start: one
kitten learns from both. (4) RL on everything: puzzles are judged by the rules and chats by the
reward model, mixed in every batch. After every step the same exam. Two experiments come on top,
each a run of its own: --distil and --ways. The lesson is chapters/ch6_r1/lesson.md.
"""

import copy
from dataclasses import dataclass, replace

from chapters.ch6_r1 import mixture
from chapters.ch6_r1.distil import DistilSettings, Loops, distil
from chapters.ch6_r1.exams import EXAM_KEYS, Examiner, draw_steps, table
from chapters.ch6_r1.mixture import Asked
from chapters.ch6_r1.ways import compare_ways
from chapters.common import exam
from chapters.common.kitten import Kitten, load_base, sft_stage
from chapters.common.measuring import ASKED_SHARES, taught_questions, with_scorer
from chapters.common.runner import ensure
from chapters.common.samples import DRAWN, TYPICAL, write_samples
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import chat_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.distributed import is_sharded
from kittenllm.evaluation import ERRORS_MEAN, MAX_REPLY_TOKENS
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.runs.checkpoints import load_model, save_model
from kittenllm.runs.run import Run, fingerprint_of, write_summary
from kittenllm.scorer import Scorer, load_reward_model
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft

LIVE = ("accuracy", "format", "score", "reply_tokens", "truncated", "kl")
TEACHERS = ("base", "chat", "PPO", "Zero")  # the kittens of earlier chapters, in the table's order
EXPERIMENTS = ("distil", "ways")
# The paper begins with the base and has very many conversations among the data. Zero can think
# already, and a small kitten learns to talk sooner than to search.
STARTS = {"base": "base", "chat": "chat", "ppo": "PPO", "zero": "Zero"}
# What the chats of both steps ask: oftener about facts, which Zero has forgotten, and about
# dangers, because a kitten that learns to allow what is fine also learns to allow a little more.
CHAT_SHARES = ASKED_SHARES | {"fact": 0.35, "risky": 0.3}


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    start: str = option("zero", "the kitten that the cold start begins with", choices=tuple(STARTS))
    problems: int = option(1000, "practice puzzles that Zero is asked", low=1)
    attempts: int = option(4, "its replies to each", low=1)
    kept_each: int = option(2, "right replies that are kept of each puzzle, at most", low=1)
    failed_each: int = option(
        1, "well-formed failures beside them, at most; their answers are not trained", low=0
    )
    questions: int = option(6000, "taught questions that the PPO kitten is asked", low=1)
    replies_each: int = option(
        2, "its replies to each; the one that is liked best is kept", low=1, high=64
    )
    chats: int = option(200, "longer conversations of chapter 1 that it goes on with", low=0)
    drill_tokens: int = option(110_000, "tokens of sums and comparisons beside them", low=0)
    sft: SFTConfig = nested(  # the cold start, in rows of 256 tokens
        SFTConfig(steps=680, rows_per_step=8, replay_fraction=0.38, matrix_lr=3e-3, other_lr=3e-3),
        prefix="sft_",
        hidden="warmup cooldown max_grad_norm",
    )
    grpo: GRPOConfig = nested(
        GRPOConfig(steps=40, minibatches=2),
        hidden="kl_coef tokens_per_pass skip_equal_groups max_grad_norm",
        steps="grpo_steps",
    )
    puzzle_share: float = option(0.75, "share of the prompts of RL that are puzzles", low=0, high=1)
    format_weight: float = option(
        0.3, "what the right form is worth; a right answer is worth 1", low=0, high=1
    )
    chat_weight: float = option(
        0.15, "what a point of the reward model's standardised score is worth", low=0
    )
    chat_kl: float = option(0.05, "price of a nat from the cold start, in chats only", low=0)
    distil: bool = option(
        False, "a small kitten learns from this one's thoughts, or by itself (minutes)", extra=True
    )
    distilled: DistilSettings = nested(DistilSettings(), extra=True)
    ways: bool = option(False, "four ways to a reasoner in one picture (minutes)", extra=True)

    def __post_init__(self):
        check_options(self)


QUICK = {
    "problems": 24,
    "attempts": 2,
    "questions": 24,
    "chats": 20,
    "drill_tokens": 1_000,
    "sft_steps": 30,
    "sft_rows_per_step": 4,
    "grpo_steps": 4,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_new_tokens": 48,
    "distil_base_steps": 10,
    "distil_rounds": 2,
    "distil_problems": 8,
}


def run(settings: Settings, common: Common) -> dict:
    """The whole chapter: the kittens of earlier chapters, then the steps; returns the summary."""
    names = ("ch0_base", "ch1_sft", "ch2_reward_model", "ch3_ppo", "ch5_reasoning")
    earlier = {name: ensure(name, common) for name in names}
    if earlier["ch5_reasoning"]["config"]["questions"]:
        folder = common.folder("ch5_reasoning")
        raise ValueError(
            f"{folder}: this Zero was trained on word problems of a file, and this chapter needs "
            "one that solves Countdown; run chapter 5 without --questions, or choose other --runs"
        )
    inputs = {name: fingerprint_of(common, name) for name in names}
    chapter = Run(common, "ch6_r1", settings, inputs=inputs)
    summary = chapter.summary if chapter.finished else join(chapter, settings, earlier)
    for name in EXPERIMENTS:
        if getattr(settings, name):
            numbers = run_experiment(name, settings, common, earlier["ch0_base"])
            summary = {**summary, name: numbers}
            summary = write_summary(common.folder("ch6_r1") / "summary.json", summary)
    return summary


def run_experiment(name: str, settings: Settings, common: Common, base: dict) -> dict:
    """The numbers of an experiment, a run in a folder of its own; a finished one is reused."""
    config = settings.distilled if name == "distil" else None
    inputs = {"r1": fingerprint_of(common, "ch6_r1")}
    if name == "ways" and (common.folder("ch6_distil") / "summary.json").exists():
        inputs["distil"] = fingerprint_of(common, "ch6_distil")  # the fourth way: drawn anew
    run = Run(common, f"ch6_{name}", config or settings.grpo, inputs=inputs)
    if not run.finished:
        gpt, _, _ = load_model(common.folder("ch6_r1") / "model.pt", device=common.device)
        if name == "distil":
            teacher = replace(load_base(base, common), gpt=gpt)
            result = distil(run, teacher, settings, Loops(cold_start, learn_from_both))
        else:
            result = compare_ways(run, settings.grpo.max_new_tokens)
        run.finish({"result": result})
    return run.summary["result"]


def join(chapter: Run, settings: Settings, earlier: dict[str, dict]) -> dict:
    """The four steps, and the exam after each."""
    common = chapter.common
    base = load_base(earlier["ch0_base"], common)
    tokenizer, device = base.tokenizer, common.device
    reward_path = common.folder("ch2_reward_model") / earlier["ch2_reward_model"]["model"]

    def model_of(name: str) -> GPT:
        return load_model(common.folder(name) / earlier[name]["model"], device=device)[0]

    chat = Kitten(model_of("ch1_sft"), tokenizer, common, base.texts)
    chat = with_scorer(chat, Scorer(load_reward_model(reward_path, tokenizer, device=device)))
    # Step 1 was chapter 5: Zero, made from the base by RL on rules alone.
    kittens = {"base": base.gpt, "chat": chat.gpt}
    kittens |= {"PPO": model_of("ch3_ppo"), "Zero": model_of("ch5_reasoning")}
    examiner = Examiner(chapter, chat, settings.grpo.max_new_tokens)
    scores = {name: examiner.once(name, kittens[name]) for name in TEACHERS}

    # Step 2: rejection sampling. Zero and the PPO kitten write, the rules and the judge choose.
    rows, counts = teach_material(chapter, settings, chat, kittens["Zero"], kittens["PPO"])

    # Step 3: SFT, the cold start. The kitten learns when to think and when to just answer.
    policy = copy.deepcopy(kittens[STARTS[settings.start]])
    pupil = Kitten(policy, tokenizer, common, base.texts)
    cold_start(chapter, "cold_start", pupil, rows, settings.sft)
    save_model(chapter.folder / "cold_start.pt", policy, tokenizer)
    scores["cold_start"] = examiner.once("cold_start", policy)

    # Step 4: RL on everything, with two kinds of rewards in every batch.
    learn_from_both(chapter, "grpo", policy, asked_of_r1(chapter, chat, settings), settings.grpo)
    scores["R1"] = examiner.once("R1", policy)

    # Look: one kitten, everything at once?
    with chapter.timing("eval"):
        write_samples(
            chapter.folder,
            *examiner.samples(scores["PPO"], scores["R1"], kittens["PPO"], policy),
            before_title="PPO",
            after_title="R1",
            how=TYPICAL.format(drawn=DRAWN),
        )
        draw_steps(chapter.folder / "steps.png", scores)
    print(table(scores))
    print(ERRORS_MEAN)
    keys = {"steps": scores, "rejection": counts}
    keys |= {key: scores["R1"][key] for key in EXAM_KEYS if key in scores["R1"]}
    keys |= dict.fromkeys(EXPERIMENTS)
    return chapter.finish(keys, model=(policy, tokenizer))


# ----------------------------------------------------------------------- step 2: rejection sampling


def teach_material(
    chapter: Run, settings: Settings, chat: Kitten, zero: GPT, ppo: GPT
) -> tuple[PackedRows, dict]:
    """The documents of the cold start in packed rows; how many replies were kept of how many."""
    common, tokenizer = chapter.common, chat.tokenizer
    row_length = min(mixture.ROW_LENGTH, zero.config.context_length)

    def sample() -> dict:
        rng = new_random(common.seed, "ch6_r1", "problems")
        attempts = mixture.attempts_of(
            Kitten(zero, tokenizer, common),
            exam.countdown_practice(settings.problems, rng),
            settings.attempts,
            max_new_tokens=settings.grpo.max_new_tokens,
            generator=new_generator(common.device, common.seed, "ch6_r1", "attempts"),
        )
        kept = mixture.keep_best(attempts, settings.kept_each)
        failed = mixture.keep_failures(attempts, settings.failed_each)
        questions = taught_questions(common, settings.questions, "liked", CHAT_SHARES)
        prompts = [chat_prompt(tokenizer, question.messages()) for question in questions]
        longest = row_length - MAX_REPLY_TOKENS - 1
        prompts += mixture.long_chat_prompts(tokenizer, common, settings.chats, longest)
        liked = mixture.liked_replies(
            ppo,
            tokenizer,
            prompts,
            settings.replies_each,
            chat.scorer,
            new_generator(common.device, common.seed, "ch6_r1", "liked"),
        )
        documents = mixture.thought_documents(tokenizer, kept) + liked
        documents += mixture.failure_documents(tokenizer, failed)
        counts = {
            "thoughts_drawn": len(attempts),
            "thoughts_right": sum(attempt.right for attempt in attempts),
            "thoughts_kept": len(kept),
            "failures_kept": len(failed),
            "replies_drawn": len(prompts) * settings.replies_each,
            "replies_kept": len(liked),
        }
        return {"counts": counts, "documents": [[d.tokens, d.loss_mask] for d in documents]}

    found = chapter.once("rejection_sampling", sample)
    counts = found["counts"]
    print(
        f"rejection sampling: {counts['thoughts_kept']:,} thoughts kept of "
        f"{counts['thoughts_drawn']:,} drawn ({counts['thoughts_right']:,} were right, at most "
        f"{settings.kept_each} of one puzzle are kept), {counts['failures_kept']:,} failures; "
        f"{counts['replies_kept']:,} chat replies of {counts['replies_drawn']:,}",
        flush=True,
    )
    documents = [(tokens, mask) for tokens, mask in found["documents"] if len(tokens) <= row_length]
    rng = new_random(common.seed, "ch6_r1", "drills")
    drills = mixture.drill_documents(tokenizer, settings.drill_tokens, rng)
    documents += [(document.tokens, document.loss_mask) for document in drills]
    return pack(documents, row_length=row_length, pad_id=tokenizer.pad_id), counts


# ----------------------------------------------------------------------------------- the two loops


def cold_start(
    run: Run, name: str, kitten: Kitten, rows: PackedRows, config: SFTConfig, *salt
) -> None:
    """Step 3: the next-token loss on verified thoughts and liked replies, with replay of the
    town."""
    generator = new_generator("cpu", run.common.seed, "ch6_r1", "cold_start", *salt)
    stage, optimizer = sft_stage(run, name, kitten.gpt, config, generator)
    training = train_sft(
        kitten.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        replay=kitten.texts.train,
    )
    for _ in stage.follow(training, show=("chat_loss", "accuracy")):
        pass


def learn_from_both(
    run: Run, name: str, policy: GPT, asked: Asked, config: GRPOConfig, *salt
) -> None:
    """Step 4: GRPO on puzzles and chats, mixed in every batch."""
    if any(asked.kl_coefs) and is_sharded(policy):
        raise ValueError("--chat-kl needs a whole copy of the model beside it: leave --shard out")
    reference = copy.deepcopy(policy)  # the cold start; a stage that goes on loads later weights
    optimizer = make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator(run.common.device, run.common.seed, "ch6_r1", "grpo", *salt)
    objects = {"gpt": policy, "optimizer": optimizer, "generator": generator}
    stage = run.stage(name, total=config.steps, objects=objects)
    training = train_grpo(
        policy,
        asked.prompts,
        asked.reward,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        reference=reference,
        kl_coefs=asked.kl_coefs,
    )
    for _ in stage.follow(training, show=LIVE):
        pass


def asked_of_r1(chapter: Run, chat: Kitten, settings: Settings) -> Asked:
    """What the last step asks: practice puzzles and taught questions, new ones for every round."""
    common, config = chapter.common, settings.grpo
    count = config.steps * config.prompts_per_step
    puzzles = round(settings.puzzle_share * count)
    return mixture.asked(
        chat.tokenizer,
        exam.countdown_practice(puzzles, new_random(common.seed, "ch6_r1", "practice")),
        taught_questions(common, count - puzzles, "rl", CHAT_SHARES),
        chat.scorer,
        format_weight=settings.format_weight,
        chat_weight=settings.chat_weight,
        chat_kl=settings.chat_kl,
    )
