"""Chapter 2: a reward model, the kitten that learns what people prefer.

The chat kitten answers questions several times, annotators say which of two replies is better, and
a copy of the kitten learns to give each reply a number that agrees with them. The annotators make
mistakes, so the accuracy is compared with the best possible one. --preferences FILE learns from
your own pairs; python -m chapters.rank lets you be the annotator. The lesson is
chapters/ch2_reward_model/lesson.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from chapters.ch2_reward_model import truth
from chapters.ch2_reward_model.pictures import draw_judge
from chapters.common.measuring import is_right
from chapters.common.pairs import (
    CLEAR_DIFFERENCE,
    LabelledPair,
    PairSettings,
    clear_examples,
    file_pairs,
    full_tokens,
    pairs_view,
    preferences_file,
    saved_pairs,
    split_by_prompt,
)
from chapters.common.runner import ensure
from chapters.common.samples import TYPICAL, typical_replies, write_samples
from chapters.common.terminal import with_error
from kittenllm.calibration import calibration_error
from kittenllm.config import check_options, nested, option
from kittenllm.data_file import DataFile
from kittenllm.evaluation import ERRORS_MEAN, fixed_questions, mean_and_error, sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.optim import make_optimizer
from kittenllm.records import report_problems
from kittenllm.reward_model import (
    RewardModel,
    RewardModelConfig,
    score_sequences,
    train_reward_model,
)
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import Run, fingerprint_of
from kittenllm.scorer import new_reward_model, reward_extra
from kittenllm.settings import Common, new_generator, new_random
from kittenllm.tokenizer import Tokenizer

# What the annotators are asked about: mostly replies whose faults can be seen in the reply itself,
# danger and tone, and enough facts that the judge learns to look the truth up.
COMPARED_SHARES = {
    "risky": 0.18,
    "allowed": 0.26,
    "greeting": 0.06,
    "fact": 0.22,
    "sum": 0.07,
    "story": 0.03,
    "talk": 0.06,
    "outside": 0.06,
    "wish": 0.06,
}
WATCHED_PAIRS = 300  # held-out pairs whose accuracy is watched during training
BEST_OF = 16  # replies to each fixed question, of which the reward model picks one


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    data: PairSettings = nested(PairSettings(pairs=20_000))
    twin_share: float = option(
        0.2, "share of the pairs that differ in what is said alone, in one tone", low=0, below=1
    )
    held_out_pairs: int = option(5_000, "pairs about held-out questions to measure with", low=1)
    epochs: float = option(1.0, "how often each pair is seen", above=0)
    reward_model: RewardModelConfig = nested(
        RewardModelConfig(), hidden="steps warmup cooldown max_grad_norm"
    )
    likelihood: bool = option(True, "the judge also sees how likely the kitten finds a reply")

    def __post_init__(self):
        check_options(self)


QUICK = {"pairs": 160, "held_out_pairs": 80, "pairs_per_step": 16}


def run(settings: Settings, common: Common) -> dict:
    """Data, model, loop, look: the whole chapter; returns the summary."""
    file = preferences_file(settings.data.preferences, strict=settings.data.strict, prompts=2)
    sft = ensure("ch1_sft", common)
    inputs = {"sft": fingerprint_of(common, "ch1_sft")}
    if file:
        inputs["preferences"] = file.digest
    chapter = Run(common, "ch2_reward_model", settings, inputs=inputs, open_now=False)
    if chapter.finished:
        return chapter.summary
    sft_path = common.folder("ch1_sft") / sft["model"]
    gpt, tokenizer, _ = load_model(sft_path, device=common.device)

    # Data: two replies to one question, and which one people prefer.
    with chapter.timing("sampling"):
        if file:
            pairs, held_out = split_file(file, gpt, tokenizer, settings, common)
            chapter.open()  # not before: pairs that do not fit must not put an earlier run aside
        else:
            chapter.open()
            pairs, held_out = draw_pairs(chapter, gpt, tokenizer, settings)
    print(f"{len(pairs):,} pairs to learn from, {len(held_out):,} to measure with, for example:")
    print(pairs_view(clear_examples(held_out), tokenizer))

    # Model: a copy of the chat kitten with a new head that starts at zero.
    reward_model = new_reward_model(gpt)
    reward_model.likelihood_weight.requires_grad_(settings.likelihood)  # without: it stays 0

    # Loop: make the preferred reply score higher.
    train(chapter, reward_model, pairs, held_out, settings)

    # Look: is it right, does it know how sure it may be, does it merely follow the length?
    with chapter.timing("eval"):
        chosen, rejected = pair_scores(reward_model, held_out)
        keys = look(chosen, rejected, held_out)
        keys |= {"pairs": len(pairs), "held_out_pairs": len(held_out)}
        keys |= truth_keys(reward_model, tokenizer)
        draw_judge(chapter, chosen, rejected, keys)
        write_best_of(chapter, gpt, tokenizer, reward_model)
    report(keys)
    model = (reward_model.gpt, tokenizer)
    return chapter.finish(keys, model=model, extra=reward_extra(reward_model))


# ---------------------------------------------------------------------------------------- the data


def split_file(
    file: DataFile, gpt: GPT, tokenizer: Tokenizer, settings: Settings, common: Common
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """The pairs of a file: those to learn from, and those to measure with, on other prompts."""
    context = gpt.config.context_length
    pairs, problems = file_pairs(file, tokenizer, context, strict=settings.data.strict)
    print(report_problems(problems) or "every record of the file is fine")
    return split_by_prompt(pairs, new_random(common.seed, "ch2_reward_model", "split"))


def draw_pairs(
    chapter: Run, gpt: GPT, tokenizer: Tokenizer, settings: Settings
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Pairs of the kitten's own replies to learn from and to measure with, on other questions.

    The first ones are twins: a right and a wrong reply in the same tone.
    """
    print("the chat kitten answers, the annotators compare ...", flush=True)
    asked = {
        "annotators": settings.data.annotators,
        "label_noise": settings.data.label_noise,
        "shares": COMPARED_SHARES,
    }
    town = build_town()
    twins = truth.draw_pairs(
        town,
        tokenizer,
        round(settings.twin_share * settings.data.pairs),
        new_random(chapter.common.seed, "ch2_reward_model", "twins"),
        annotators=settings.data.annotators,
        label_noise=settings.data.label_noise,
    )
    pairs = twins + saved_pairs(
        chapter,
        "pairs",
        gpt,
        tokenizer,
        town,
        count=settings.data.pairs - len(twins),
        **asked,
    )
    held_out = saved_pairs(
        chapter,
        "held_out",
        gpt,
        tokenizer,
        town,
        count=settings.held_out_pairs,
        held_out=True,
        **asked,
    )
    return pairs, held_out


# ---------------------------------------------------------------------------------------- the loop


def train(
    chapter: Run,
    reward_model: RewardModel,
    pairs: list[LabelledPair],
    held_out: list[LabelledPair],
    settings: Settings,
) -> None:
    """Learn from the pairs, watching the accuracy on some held-out ones."""
    steps = max(1, round(settings.epochs * len(pairs) / settings.reward_model.pairs_per_step))
    config = replace(settings.reward_model, steps=steps)
    optimizer = make_optimizer(reward_model, matrix_lr=config.matrix_lr, other_lr=config.other_lr)
    generator = new_generator("cpu", chapter.common.seed, "ch2_reward_model", "train")
    objects = {"reward_model": reward_model, "optimizer": optimizer, "generator": generator}
    stage = chapter.stage("train", total=steps, objects=objects)
    training = train_reward_model(
        reward_model,
        [(pair.chosen_tokens, pair.rejected_tokens) for pair in pairs],
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=stage.step,
    )
    watched = held_out[:WATCHED_PAIRS]
    watch_every = max(1, steps // 10)
    for metrics in stage.follow(training, show=("loss", "accuracy", "held_out_accuracy")):
        if (metrics["step"] + 1) % watch_every == 0:
            chosen, rejected = pair_scores(reward_model, watched)
            metrics["held_out_accuracy"] = float(is_right(chosen - rejected).mean())


# ---------------------------------------------------------------------------------------- the look


def pair_scores(
    reward_model: RewardModel, pairs: Sequence[LabelledPair]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the chosen and of the rejected replies, (P,) and (P,); each reply is read once."""
    chosen = [tuple(pair.chosen_tokens) for pair in pairs]
    rejected = [tuple(pair.rejected_tokens) for pair in pairs]
    replies = list(dict.fromkeys(chosen + rejected))
    scores = dict(zip(replies, score_sequences(reward_model, replies).tolist(), strict=True))
    return (
        torch.tensor([scores[reply] for reply in chosen]),
        torch.tensor([scores[reply] for reply in rejected]),
    )


def look(
    chosen: torch.Tensor, rejected: torch.Tensor, pairs: list[LabelledPair]
) -> dict[str, float | None]:
    """The reward model's numbers on held-out pairs, from its scores (P,), (P,)."""
    topics = [pair.about for pair in pairs]
    accuracy, accuracy_error = mean_and_error(is_right(chosen - rejected).tolist(), topics)
    keys = {
        "accuracy": accuracy,
        "accuracy_stderr": accuracy_error,
        "bayes_accuracy": None,
        "gold_accuracy": None,
        "calibration_error": calibration_error(chosen, rejected),
        "length_correlation": length_correlation(chosen - rejected, pairs),
        "length_correlation_gold": None,
        "gold_accuracy_by_kind": None,
        "gold_accuracy_by_kind_stderr": None,
    }
    if pairs[0].best_accuracy is None:
        return keys  # pairs from a file: nobody knows the truth
    best = [pair.best_accuracy for pair in pairs]
    keys["bayes_accuracy"], keys["bayes_accuracy_stderr"] = mean_and_error(best, topics)
    gold_difference = torch.tensor([pair.chosen_gold - pair.rejected_gold for pair in pairs])
    keys["length_correlation_gold"] = length_correlation(gold_difference, pairs)
    agrees = is_right((chosen - rejected) * gold_difference.sign())
    clear = [i for i in range(len(pairs)) if abs(gold_difference[i]) >= CLEAR_DIFFERENCE]
    by_kind: dict[str, list[int]] = {}
    for i in clear:
        by_kind.setdefault(pairs[i].question.kind, []).append(i)

    def share(chosen_pairs: list[int]) -> tuple[float | None, float | None]:
        return mean_and_error(
            [float(agrees[i]) for i in chosen_pairs], [topics[i] for i in chosen_pairs]
        )

    shares = {kind: share(of_kind) for kind, of_kind in by_kind.items()}
    keys["gold_accuracy_by_kind"] = {kind: mean for kind, (mean, _) in shares.items()}
    keys["gold_accuracy_by_kind_stderr"] = {kind: error for kind, (_, error) in shares.items()}
    keys["gold_accuracy"], keys["gold_accuracy_stderr"] = share(clear)
    return keys


def truth_keys(reward_model: RewardModel, tokenizer: Tokenizer) -> dict[str, float | None]:
    """Pairs of equal words and tone, one of them true: about taught and about held-out facts."""
    keys: dict[str, float | None] = {}
    for key, held_out in (("truth_accuracy", False), ("truth_accuracy_held_out", True)):
        share, error = truth.truth_accuracy(
            reward_model, tokenizer, build_town(), held_out=held_out
        )
        keys[key], keys[f"{key}_stderr"] = share, error
    return keys


def length_correlation(difference: torch.Tensor, pairs: list[LabelledPair]) -> float:
    """Correlation of the score difference with the length difference of the two replies.

    Differences, because only replies to one question can be compared. 1: longer is always better;
    0: length does not matter. Pairs that do not vary give 0.
    """
    lengths = torch.tensor([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    # Which reply is called chosen is the label, not the score: look at each pair both ways.
    both_ways = torch.stack([difference, lengths])  # (2, P)
    both_ways = torch.cat([both_ways, -both_ways], dim=1)  # (2, 2P), mean 0
    covariance = both_ways @ both_ways.T
    scale = (covariance[0, 0] * covariance[1, 1]).sqrt()
    return float(covariance[0, 1] / scale) if scale > 0 else 0.0


def write_best_of(chapter: Run, gpt: GPT, tokenizer: Tokenizer, reward_model: RewardModel) -> None:
    """samples.md: a typical reply of the chat kitten, and the best of 16 in the judge's eyes."""
    questions = fixed_questions(build_town())
    replies = sample_replies(
        gpt,
        tokenizer,
        build_town(),
        questions,
        replies_each=BEST_OF,
        temperature=1.0,
        generator=new_generator(chapter.common.device, chapter.common.seed, "ch2", "best of"),
    )
    scores = score_sequences(
        reward_model, [full_tokens(tokenizer, reply) for reply in replies]
    ).view(len(questions), BEST_OF)
    best = scores.argmax(dim=1).tolist()
    write_samples(
        chapter.folder,
        [question.text for question in questions],
        typical_replies(replies, BEST_OF),
        [replies[i * BEST_OF + place].text for i, place in enumerate(best)],
        before_title="chat",
        after_title="best of 16",
        how=f"{TYPICAL.format(drawn=BEST_OF)} Beside it the one that the reward model likes best.",
    )


def report(keys: dict) -> None:
    """The key numbers in words."""
    accuracy = with_error(keys["accuracy"], keys["accuracy_stderr"], ".1%")
    line = f"held-out labels guessed right: {accuracy}"
    if keys["bayes_accuracy"] is not None:
        line += f"; the best possible guess: {keys['bayes_accuracy']:.1%}"
    print(line)
    if keys["gold_accuracy"] is not None:
        errors = keys["gold_accuracy_by_kind_stderr"]
        by_kind = [
            f"{kind} {with_error(share, errors[kind], '.0%')}"
            for kind, share in keys["gold_accuracy_by_kind"].items()
        ]
        agreement = with_error(keys["gold_accuracy"], keys["gold_accuracy_stderr"], ".1%")
        print(f"clearly different replies ordered right: {agreement} ({', '.join(by_kind)})")
    taught, held_out = (
        with_error(keys[key], keys[f"{key}_stderr"], ".1%")
        for key in ("truth_accuracy", "truth_accuracy_held_out")
    )
    print(f"true before false, in equal words: {taught} (held-out facts {held_out})")
    line = (
        f"calibration error {keys['calibration_error']:.3f}; "
        f"correlation with length {keys['length_correlation']:+.2f}"
    )
    if keys["length_correlation_gold"] is not None:
        line += f" (the gold score's own: {keys['length_correlation_gold']:+.2f})"
    print(f"{line}\n{ERRORS_MEAN}")
