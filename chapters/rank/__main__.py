"""Rank replies yourself: you are the annotator, and a reward model learns your taste.

Shows two replies of the chat kitten to one question: type 1 or 2 for the better one, s to skip,
u to undo, q to quit, each followed by Enter. Every choice is saved at once, the same command goes
on where you stopped. The labels become a file of preferences, and a reward model learns from it.
Everybody with the same seed and kitten sees the same pairs, or give all the same --pairs-file.
--agreement anna.jsonl,ben.jsonl tells how often two people agree.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from chapters.common.pairs import (
    CLEAR_DIFFERENCE,
    LabelledPair,
    file_pairs,
    preferences_file,
    sample_pairs,
)
from chapters.common.runner import ensure, exit_code, has_finished
from chapters.common.terminal import safe_text, with_error, wrap
from chapters.rank.labels import (
    Choice,
    LabelFile,
    Ranking,
    agreement,
    agreement_line,
    prompt_messages,
    read_labels,
    record_key,
)
from kittenllm.config import check_options, option
from kittenllm.data_file import DataFile, read_data_file
from kittenllm.evaluation import mean_and_error
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
from kittenllm.runs.progress import Progress
from kittenllm.scorer import new_reward_model, save_reward_model
from kittenllm.settings import Common, new_generator, new_random, parse_settings
from kittenllm.tokenizer import Tokenizer

FEWEST_LABELS = 10  # fewer teach a reward model nothing
EPOCHS = 6  # few labels are seen several times
KEYS = "1 or 2, s skip, u undo, q quit: "
WIDTH = 80


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    name: str = option("me", "who ranks; the labels are saved as <runs>/rank/<name>.jsonl")
    pairs: int = option(30, "pairs to rank", low=1)
    pairs_file: str = option("", "rank the pairs of this preferences file, its labels are hidden")
    train: bool = option(True, "train a reward model on the labels at the end")
    train_on: tuple[str, ...] = option((), "only train, on these files of labels (a comma list)")
    agreement: tuple[str, ...] = option((), "only compare two files of labels (a comma list)")
    train_kitten: bool = option(False, "train the chat kitten first if there is none (minutes)")
    test_pairs: int = option(
        300, "pairs about held-out questions that test the reward model", low=1
    )

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name must be letters, digits, _ and -, got {self.name!r}")
        check_options(self)
        if len(self.agreement) not in (0, 2):
            count = len(self.agreement)
            raise ValueError(f"agreement compares two files, as a.jsonl,b.jsonl; got {count}")


QUICK = {"pairs": 5, "test_pairs": 20}


# ----------------------------------------------------------------------------------- the session


def choices_to_rank(
    settings: Settings,
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
    pairs_file: DataFile | None,
) -> list[Choice]:
    """The pairs to show, each in a random order; pairs that read the same are left out."""
    rng = new_random(common.seed, "rank")
    if pairs_file:
        records = read_labels(pairs_file)
        rows = [(r["prompt"], r["chosen"], r["rejected"], 0) for r in records]
    else:
        pairs = sample_pairs(
            gpt,
            tokenizer,
            build_town(),
            count=settings.pairs,
            rng=rng,
            generator=new_generator(common.device, common.seed, "rank"),
            annotators="exact",
            replies_each=2,  # one pair for each question: nobody reads the same reply twice
        )
        rows = [
            (pair.question.text, *reply_texts(pair, tokenizer), gold_sign(pair)) for pair in pairs
        ]
    found: dict[tuple, Choice] = {}
    for prompt, chosen, rejected, is_better in rows[: settings.pairs]:
        if not chosen.strip() or not rejected.strip() or chosen.strip() == rejected.strip():
            continue
        choice = Choice(prompt, chosen, rejected, better=1 if is_better else 0)
        if rng.random() < 0.5:
            choice = Choice(prompt, rejected, chosen, better=2 if is_better else 0)
        found.setdefault(choice.key, choice)
    return list(found.values())


def reply_texts(pair: LabelledPair, tokenizer: Tokenizer) -> tuple[str, str]:
    """Both replies as text, without the end of turn."""
    ends = (tokenizer.im_end_id, tokenizer.endoftext_id)
    replies = [reply[:-1] if reply[-1] in ends else reply for reply in (pair.chosen, pair.rejected)]
    return tokenizer.decode(replies[0]), tokenizer.decode(replies[1])


def gold_sign(pair: LabelledPair) -> int:
    """1 if the preferred reply is really better, 0 if both are worth the same."""
    return int(pair.chosen_gold > pair.rejected_gold)


def session(ranking: Ranking) -> None:
    """Show pairs and obey keys until all are done, or the reader leaves."""
    while (choice := ranking.current) is not None:
        print(f"\npair {ranking.total - len(ranking.waiting) + 1} of {ranking.total}")
        messages = prompt_messages(choice.prompt)
        for message in messages:
            speaker = f"{message['role']}: " if len(messages) > 1 else ""
            print(wrap(f"> {speaker}{safe_text(message['content'])}", WIDTH, indent="  ", first=""))
        for number, reply in ((1, choice.first), (2, choice.second)):
            print(wrap(safe_text(reply), WIDTH, indent="     ", first=f"  {number}  "))
        try:
            key = input(KEYS).strip().lower()
        except (EOFError, KeyboardInterrupt):
            key = "q"
            print()
        if key in ("1", "2"):
            ranking.pick(int(key))
        elif key == "s":
            ranking.skip()
        elif key == "u":
            if not ranking.undo():
                print("(there is nothing to undo)")
        elif key == "q":
            return
        else:
            print(f"(type {KEYS.rstrip(': ')}, then Enter)")


def judge_line(choices: list[Choice], records: list[dict[str, str]]) -> str:
    """How often the labels agree with the gold judge, "" if that is not known."""
    better = {
        choice.key: (choice.first, choice.second)[choice.better - 1].strip()
        for choice in choices
        if choice.better
    }
    hits = [
        record["chosen"].strip() == better[record_key(record)]
        for record in records
        if record_key(record) in better
    ]
    if not hits:
        return ""
    return (
        f"you and the judge of Kitten Town agree on {sum(hits)} of {len(hits)} pairs "
        "that are not equally good to it"
    )


# ----------------------------------------------------------------------------------- the training


def train_on_labels(
    files: list[DataFile],
    model_path: Path,
    settings: Settings,
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
) -> None:
    """Train a reward model on files of labels, test it against the gold judge, and save it."""
    context = gpt.config.context_length
    pairs = []
    for file in files:
        of_file, problems = file_pairs(file, tokenizer, context)
        if problems:
            print(report_problems(problems))
        pairs += of_file
    if len(pairs) < FEWEST_LABELS:
        print(f"{len(pairs)} labels are too few for a reward model; rank {FEWEST_LABELS} or more")
        return
    reward_model = new_reward_model(gpt)
    size = min(16, len(pairs))
    config = RewardModelConfig(
        steps=max(1, EPOCHS * len(pairs) // size),
        pairs_per_step=size,
        matrix_lr=1e-3,
        other_lr=2e-3,
    )
    training = train_reward_model(
        reward_model,
        [(pair.chosen_tokens, pair.rejected_tokens) for pair in pairs],
        config=config,
        optimizer=make_optimizer(
            reward_model, matrix_lr=config.matrix_lr, other_lr=config.other_lr
        ),
        generator=new_generator("cpu", common.seed, "rank", "train"),
    )
    progress = Progress(f"a reward model from {len(pairs)} labels", 0, config.steps)
    for metrics in training:
        progress.update(metrics, ("loss", "accuracy"))
    progress.close()
    share, error = test_against_judge(reward_model, settings, common, gpt, tokenizer)
    save_reward_model(model_path, reward_model, tokenizer)
    found = with_error(share, error, ".0%")
    print(
        f"on held-out questions it orders {found} of clearly different replies "
        f"as the judge of Kitten Town does\n{model_path}: let PPO follow your taste with "
        f"python -m chapters.ch3_ppo --reward-model {model_path}"
    )


def test_against_judge(
    reward_model: RewardModel,
    settings: Settings,
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
) -> tuple[float | None, float | None]:
    """Share of clearly different held-out pairs that it orders as the judge, and its error by
    topic; None if no two replies are clearly different."""
    pairs = sample_pairs(
        gpt,
        tokenizer,
        build_town(),
        count=settings.test_pairs,
        rng=new_random(common.seed, "rank", "test"),
        generator=new_generator(common.device, common.seed, "rank", "test"),
        annotators="exact",
        held_out=True,
        replies_each=2,
    )
    clear = [p for p in pairs if p.chosen_gold - p.rejected_gold >= CLEAR_DIFFERENCE]
    chosen = score_sequences(reward_model, [pair.chosen_tokens for pair in clear])
    rejected = score_sequences(reward_model, [pair.rejected_tokens for pair in clear])
    hits = (chosen > rejected).double().tolist()
    return mean_and_error(hits, [pair.about for pair in clear])


def rank(argv=None) -> None:
    """The whole program."""
    settings, common = parse_settings(Settings, __doc__, argv, quick=QUICK, prog="chapters.rank")
    if settings.agreement:
        print(agreement_line(*agreement(*(Path(path) for path in settings.agreement))))
        return
    # Files are read first: one that cannot be used is said before a kitten is trained.
    pairs_file = preferences_file(settings.pairs_file)
    label_files = [preferences_file(name) for name in settings.train_on]
    if not settings.train_kitten and not has_finished("ch1_sft", common):
        raise ValueError(
            f"there is no finished chat kitten in {common.folder('ch1_sft')}. Train one first with "
            f"{common.command('chapters.ch1_sft')}, or add --train-kitten; it takes minutes"
        )
    sft = ensure("ch1_sft", common)
    sft_path = common.folder("ch1_sft") / sft["model"]
    gpt, tokenizer, _ = load_model(sft_path, device=common.device)
    folder = common.folder("rank")
    path = folder / f"{settings.name}.jsonl"
    model_path = folder / f"{settings.name}_reward_model.pt"
    if label_files:
        train_on_labels(label_files, model_path, settings, common, gpt, tokenizer)
        return
    labels = LabelFile(path)  # before anything slow: a second session is told at once
    records = labels.records
    choices = choices_to_rank(settings, common, gpt, tokenizer, pairs_file)
    ranking = Ranking(choices, records, labels.save)
    if ranking.labelled:
        print(f"{path}: {ranking.labelled} of {ranking.total} pairs are ranked, going on")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # letters that are no UTF-8 end nothing
    session(ranking)
    labels.close()
    print(f"\n{len(records)} labels in {path}")
    print(judge_line(choices, records))
    if settings.train and len(records) >= FEWEST_LABELS:
        train_on_labels([read_data_file(path)], model_path, settings, common, gpt, tokenizer)


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: rank(argv))


if __name__ == "__main__":
    sys.exit(main())
