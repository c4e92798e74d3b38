"""Chapter 6: one kitten that chats, is kind, and thinks: the recipe of DeepSeek-R1 in miniature.

Four steps. (1) Zero, the kitten of chapter 5, learned to think from rules alone. (2) Rejection
sampling: it solves practice puzzles, and only right replies are kept; the PPO kitten answers
questions, and the replies that the reward model likes best are kept. (3) SFT, the cold start: one
kitten learns from both. (4) RL on everything: puzzles are judged by the rules and chats by the
reward model, mixed in every batch. After every step the same exam.
The lesson is chapters/ch6_r1/lesson.md.
"""

import copy
from dataclasses import dataclass

from chapters.ch6_r1 import mixture
from chapters.ch6_r1.exams import EXAM_KEYS, Examiner, draw_steps, table
from chapters.common import exam
from chapters.common.kitten import Kitten, load_base, sft_stage
from chapters.common.measuring import taught_questions, with_scorer
from chapters.common.runner import ensure
from chapters.common.samples import DRAWN, TYPICAL, write_samples
from kittenllm.batches import PackedRows, pack
from kittenllm.chat import chat_prompt
from kittenllm.config import check_options, nested, option
from kittenllm.evaluation import ERRORS_MEAN
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.rewards import mixed_reward
from kittenllm.runs.checkpoints import load_model, save_model
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.scorer import Scorer, load_reward_model
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.sft import SFTConfig, train_sft

ROW_LENGTH = 256  # of the packed rows of the cold start
LIVE = ("accuracy", "format", "score", "reply_tokens", "truncated", "kl")
TEACHERS = ("base", "chat", "PPO", "Zero")  # the kittens of earlier chapters, in the table's order
STARTS = {"base": "base", "zero": "Zero", "ppo": "PPO"}


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    start: str = option("base", "the kitten that the cold start begins with", choices=tuple(STARTS))
    problems: int = option(800, "practice puzzles that Zero is asked", low=1)
    attempts: int = option(4, "its replies to each", low=1)
    kept_each: int = option(2, "right replies that are kept of each puzzle, at most", low=1)
    questions: int = option(1500, "taught questions that the PPO kitten is asked", low=1)
    replies_each: int = option(4, "its replies to each; the one that is liked best is kept", low=1)
    chats: int = option(300, "conversations of chapter 1 beside them, at most", low=0)
    drill_tokens: int = option(100_000, "tokens of sums and comparisons beside them", low=0)
    sft: SFTConfig = nested(  # the cold start, in rows of 256 tokens
        SFTConfig(steps=350, rows_per_step=8, replay_fraction=0.2, matrix_lr=3e-3, other_lr=3e-3),
        prefix="sft_",
        hidden="warmup cooldown max_grad_norm",
    )
    grpo: GRPOConfig = nested(
        GRPOConfig(steps=30),
        hidden="kl_coef tokens_per_pass skip_equal_groups max_grad_norm",
        steps="grpo_steps",
    )
    puzzle_share: float = option(0.5, "share of the prompts of RL that are puzzles", low=0, high=1)
    format_weight: float = option(
        0.3, "what the right form is worth; a right answer is worth 1", low=0, high=1
    )
    chat_weight: float = option(
        0.3, "what a point of the reward model's standardised score is worth", low=0
    )
    chat_kl: float = option(0.05, "price of a nat from the cold start, in chats only", low=0)

    def __post_init__(self):
        check_options(self)


QUICK = {
    "problems": 24,
    "attempts": 2,
    "questions": 24,
    "replies_each": 2,
    "chats": 20,
    "drill_tokens": 1_000,
    "sft_steps": 30,
    "sft_rows_per_step": 4,
    "grpo_steps": 4,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_new_tokens": 48,
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
    return chapter.summary if chapter.finished else join(chapter, settings, earlier)


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
    cold_start(chapter, Kitten(policy, tokenizer, common, base.texts), rows, settings.sft)
    save_model(chapter.folder / "cold_start.pt", policy, tokenizer)
    scores["cold_start"] = examiner.once("cold_start", policy)

    # Step 4: RL on everything, with two kinds of rewards in every batch.
    learn_from_both(chapter, chat, policy, settings)
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
    return chapter.finish(keys, model=(policy, tokenizer))


# ----------------------------------------------------------------------- step 2: rejection sampling


def teach_material(
    chapter: Run, settings: Settings, chat: Kitten, zero: GPT, ppo: GPT
) -> tuple[PackedRows, dict]:
    """The documents of the cold start in packed rows; how many replies were kept of how many."""
    common, tokenizer = chapter.common, chat.tokenizer

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
        liked = mixture.liked_replies(
            ppo,
            tokenizer,
            taught_questions(common, settings.questions, "liked", mixture.ASKED_SHARES),
            settings.replies_each,
            chat.scorer,
            new_generator(common.device, common.seed, "ch6_r1", "liked"),
        )
        documents = mixture.thought_documents(tokenizer, kept) + liked
        counts = {
            "thoughts_drawn": len(attempts),
            "thoughts_right": sum(attempt.right for attempt in attempts),
            "thoughts_kept": len(kept),
            "replies_drawn": settings.questions * settings.replies_each,
            "replies_kept": len(liked),
        }
        return {"counts": counts, "documents": [[d.tokens, d.loss_mask] for d in documents]}

    found = chapter.once("rejection_sampling", sample)
    counts = found["counts"]
    print(
        f"rejection sampling: {counts['thoughts_kept']:,} thoughts kept of "
        f"{counts['thoughts_drawn']:,} drawn ({counts['thoughts_right']:,} were right, at most "
        f"{settings.kept_each} of one puzzle are kept); {counts['replies_kept']:,} chat replies of "
        f"{counts['replies_drawn']:,}",
        flush=True,
    )
    row_length = min(ROW_LENGTH, zero.config.context_length)
    chats = mixture.chat_documents(tokenizer, common, settings.chats, row_length)
    documents = [(tokens, mask) for tokens, mask in found["documents"] if len(tokens) <= row_length]
    rng = new_random(common.seed, "ch6_r1", "drills")
    drills = mixture.drill_documents(tokenizer, settings.drill_tokens, rng)
    documents += [(document.tokens, document.loss_mask) for document in chats + drills]
    counts["chats"] = len(chats)
    return pack(documents, row_length=row_length, pad_id=tokenizer.pad_id), counts


# ----------------------------------------------------------------------------------- the two loops


def cold_start(chapter: Run, kitten: Kitten, rows: PackedRows, config: SFTConfig) -> None:
    """Step 3: the next-token loss on verified thoughts and liked replies, with replay of the
    town."""
    generator = new_generator("cpu", kitten.common.seed, "ch6_r1", "cold_start")
    stage, optimizer = sft_stage(chapter, "cold_start", kitten.gpt, config, generator)
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


def learn_from_both(chapter: Run, chat: Kitten, policy: GPT, settings: Settings) -> None:
    """Step 4: GRPO on puzzles and chats, mixed in every batch. The reward of a prompt is found by
    its number: rules for the puzzles, which come first, the reward model for the chats. Only chats
    pay a price for leaving the cold start: rules cannot be sweet-talked, a reward model can."""
    common, tokenizer, config = chapter.common, chat.tokenizer, settings.grpo
    asked = config.steps * config.prompts_per_step
    puzzles = round(settings.puzzle_share * asked)
    practice = exam.countdown_practice(puzzles, new_random(common.seed, "ch6_r1", "practice"))
    questions = taught_questions(common, asked - puzzles, "rl", mixture.ASKED_SHARES)
    puzzle_prompts = [exam.as_user(tokenizer, exercise.text) for exercise in practice]
    chat_prompts = [chat_prompt(tokenizer, question.messages()) for question in questions]

    rules = exam.reward_for(practice, tokenizer, settings.format_weight)
    likes = mixture.liking(tokenizer, chat_prompts, chat.scorer, settings.chat_weight)
    reward = mixed_reward([(len(puzzle_prompts), rules), (len(chat_prompts), likes)])
    prices = [0.0] * len(puzzle_prompts) + [settings.chat_kl] * len(chat_prompts)

    reference = copy.deepcopy(policy)  # the cold start, as it is before the first round
    optimizer = make_optimizer(policy, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator(common.device, common.seed, "ch6_r1", "grpo")
    objects = {"gpt": policy, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage("grpo", total=config.steps, objects=objects)
    training = train_grpo(
        policy,
        puzzle_prompts + chat_prompts,
        reward,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
        reference=reference,
        kl_coefs=prices,
    )
    for _ in stage.follow(training, show=LIVE):
        pass
