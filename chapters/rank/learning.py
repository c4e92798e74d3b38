"""What is made of labels: a reward model, and for a class a kitten that PPO trains with it.

Both trainings are those of chapters 2 and 3: their own loops are handed in, with smaller settings,
because a class has hundreds of labels and not thousands, and minutes and not an hour. They run in
run folders, so a stopped one goes on, and the same labels are never learnt twice.

Used by: chapters.rank. Read before: ch2_reward_model/story.py, ch3_ppo/story.py.
"""

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from torch import Tensor

from chapters.common.kitten import Kitten
from chapters.common.measuring import fixed_replies, with_scorer
from chapters.common.pairs import CLEAR_DIFFERENCE, LabelledPair, file_pairs, sample_pairs
from chapters.common.runner import story_of
from chapters.common.samples import DRAWN, TYPICAL, side_by_side, write_samples
from chapters.common.terminal import with_error
from chapters.rank.town_page import RANKED_SHARES, seen_in
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import DataFile
from kittenllm.evaluation import fixed_questions, mean_and_error, sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import ask_any
from kittenllm.kitten_town.facts import build_town
from kittenllm.ppo import PPOConfig, ValueModel
from kittenllm.records import report_problems
from kittenllm.reward_model import RewardModel, RewardModelConfig
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.scorer import Scorer, load_reward_model, new_reward_model, reward_extra
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

FEWEST_LABELS = 10  # fewer teach a reward model nothing
WATCH_EVERY = 10  # rounds of PPO between two looks
MEASURED = 150  # held-out questions that the class's kitten answers before and after


@dataclass(frozen=True)
class JudgeSettings:
    """What chapter 2's stage reads; few labels are seen several times."""

    reward_model: RewardModelConfig = nested(
        RewardModelConfig(pairs_per_step=16, matrix_lr=1e-3, other_lr=2e-3)
    )
    epochs: float = option(6.0, "how often each label is seen", above=0)
    test_pairs: int = option(300, "pairs that test it", low=1)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class KittenSettings:
    """What chapter 3's loop reads."""

    ppo: PPOConfig = nested(PPOConfig())


def label_pairs(files: list[DataFile], gpt: GPT, tokenizer: Tokenizer) -> list[LabelledPair]:
    """The labels of all files as pairs of token lists; what cannot be used is said."""
    pairs = []
    for file in files:
        of_file, problems = file_pairs(file, tokenizer, gpt.config.context_length)
        if problems:
            print(report_problems(problems))
        pairs += of_file
    return pairs


def learn_taste(
    files: list[DataFile],
    name: str,
    test_pairs: int,
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
) -> RewardModel | None:
    """Train a reward model on the labels and test it against the gold judge; None if they are too
    few. Its file is <runs>/rank/<name>_reward_model/model.pt."""
    pairs = label_pairs(files, gpt, tokenizer)
    if len(pairs) < FEWEST_LABELS:
        print(f"{len(pairs)} labels are too few for a reward model; rank {FEWEST_LABELS} or more")
        return None
    usual = JudgeSettings().reward_model
    size = min(usual.pairs_per_step, len(pairs))
    settings = JudgeSettings(replace(usual, pairs_per_step=size), test_pairs=test_pairs)
    print(f"a reward model from {len(pairs)} labels, {different(pairs)} different pairs")
    run = Run(common, f"rank/{name}_reward_model", settings, inputs=known_by(files, common))
    path = run.folder / "model.pt"
    if run.finished:
        reward_model, summary = load_reward_model(path, tokenizer, device=gpt.device), run.summary
    else:
        reward_model = new_reward_model(gpt)
        clear = clear_pairs(test_pairs, common, gpt, tokenizer)
        story = story_of("ch2_reward_model")
        story.train(run, reward_model, pairs, clear or pairs, settings)
        share, error = None, None  # a kitten that babbles has no clearly better replies
        if clear:
            share, error = judged_right(story.pair_scores(reward_model, clear), clear)
        keys = {"gold_accuracy": share, "gold_accuracy_stderr": error, "labels": len(pairs)}
        model = (reward_model.gpt, tokenizer)
        summary = run.finish(keys, model=model, extra=reward_extra(reward_model))
    found = with_error(summary["gold_accuracy"], summary["gold_accuracy_stderr"], ".0%")
    print(
        f"on held-out questions it orders {found} of clearly different "
        f"replies as the judge of Kitten Town does\n{path}: let PPO follow your taste with "
        f"python -m chapters.ch3_ppo --reward-model {path}"
    )
    return reward_model


def judged_right(
    scores: tuple[Tensor, Tensor], pairs: list[LabelledPair]
) -> tuple[float | None, float | None]:
    """The share of pairs whose better reply scores higher, and its error by topic.

    scores: those of the chosen and of the rejected replies, (P,), (P,).
    """
    chosen, rejected = scores
    hits = (chosen > rejected).double().tolist()
    return mean_and_error(hits, [pair.about for pair in pairs])


def different(pairs: list[LabelledPair]) -> int:
    """How many pairs differ: 20 pupils with the same pair have only one."""
    return len(
        {frozenset((tuple(pair.chosen_tokens), tuple(pair.rejected_tokens))) for pair in pairs}
    )


def known_by(files: list[DataFile], common: Common) -> dict[str, str]:
    """What a run on these labels is known by."""
    digests = "".join(sorted(file.digest for file in files))
    labels = hashlib.sha256(digests.encode()).hexdigest()[:16]
    return {"labels": labels, "sft": fingerprint_of(common, "ch1_sft")}


def clear_pairs(count: int, common: Common, gpt: GPT, tokenizer: Tokenizer) -> list[LabelledPair]:
    """Of `count` pairs about held-out questions those of which one is clearly better."""
    pairs = sample_pairs(
        gpt,
        tokenizer,
        build_town(),
        count=count,
        rng=new_random(common.seed, "rank", "test"),
        generator=new_generator(common.device, common.seed, "rank", "test"),
        annotators="exact",
        held_out=True,
        replies_each=2,
    )
    return [p for p in pairs if p.chosen_gold - p.rejected_gold >= CLEAR_DIFFERENCE]


# -------------------------------------------------------------------------- the kitten of a class


def class_kitten(
    files: list[DataFile],
    name: str,
    steps: int,
    common: Common,
    reference: GPT,
    tokenizer: Tokenizer,
    reward_model: RewardModel,
) -> None:
    """PPO with the class's reward model, and what the kitten says before and after.

    Its file is <runs>/rank/<name>_kitten/model.pt.
    """
    replies_per_step = 16 if common.quick else PPOConfig().replies_per_step
    ppo = PPOConfig(steps=steps, replies_per_step=replies_per_step)
    settings = KittenSettings(ppo)
    run = Run(common, f"rank/{name}_kitten", settings, inputs=known_by(files, common))
    if not run.finished:
        start = with_scorer(Kitten(reference, tokenizer, common), Scorer(reward_model))
        policy = copy.deepcopy(reference)
        value_model = ValueModel(copy.deepcopy(reward_model.gpt))
        story_of("ch3_ppo").train(
            run,
            start,
            "ppo",
            policy,
            value_model,
            ppo,
            watch_every=WATCH_EVERY,
            watch_questions=16 if common.quick else 100,
        )
        questions = [question.text for question in fixed_questions(build_town())]
        write_samples(
            run.folder,
            questions,
            fixed_replies(reference, start, "rank"),
            fixed_replies(policy, start, "rank"),
            before_title="before",
            after_title="after",
            how=TYPICAL.format(drawn=DRAWN),
        )
        before, after = (visible(gpt, tokenizer, common) for gpt in (reference, policy))
        keys = {f"{key}_before": value for key, value in before.items()}
        keys |= {f"{key}_after": value for key, value in after.items()}
        summary = run.finish(keys, model=(policy, tokenizer))
    else:
        summary = run.summary
    print(side_by_side([run.folder]))
    print("\n" + before_after_text(summary))
    print(f"talk to it: python -m chapters.chat --model {run.folder / 'model.pt'}")


def visible(gpt: GPT, tokenizer: Tokenizer, common: Common) -> dict[str, float]:
    """What a pupil can see in a kitten's replies to held-out questions: shares and words."""
    rng = new_random(common.seed, "rank", "visible")
    count = 16 if common.quick else MEASURED
    town = build_town()
    questions = [ask_any(town, rng, held_out=True, shares=RANKED_SHARES) for _ in range(count)]
    replies = sample_replies(
        gpt,
        tokenizer,
        town,
        questions,
        replies_each=1,
        temperature=1.0,
        generator=new_generator(common.device, common.seed, "rank", "visible"),
    )
    seen = [seen_in(reply.question.text, reply.text) for reply in replies]
    return {
        "right": fmean(reply.verdict.right for reply in replies),
        "kind": fmean(one.kindness > 0 for one in seen),
        "grumpy": fmean(one.kindness < 0 for one in seen),
        "words": fmean(one.words for one in seen),
    }


def before_after_text(keys: dict) -> str:
    """The kitten of the class in numbers."""
    lines = [f"{'held-out questions':<22}{'before':>8}{'after':>8}"]
    labels = (("right", "right and safe"), ("kind", "kind"), ("grumpy", "grumpy"))
    for key, label in labels:
        lines.append(f"{label:<22}{keys[f'{key}_before']:>8.0%}{keys[f'{key}_after']:>8.0%}")
    lines.append(f"{'words in a reply':<22}{keys['words_before']:>8.1f}{keys['words_after']:>8.1f}")
    return "\n".join(lines)


def labels_of(names: tuple[str, ...]) -> tuple[list[Path], bool]:
    """The files of labels that --train-on names, and whether a whole folder is among them.

    Of a folder all files whose names end in .jsonl are taken, but for empty ones.
    Raises: ValueError for a folder without one.
    """
    files, pooled = [], False
    for name in names:
        path = Path(name)
        if not path.is_dir():
            files.append(path)
            continue
        pooled = True
        found = [file for file in sorted(path.glob("*.jsonl")) if file.stat().st_size > 0]
        if not found:
            raise ValueError(f"{path} holds no labels: put the pupils' .jsonl files into it")
        files += found
    return files, pooled
