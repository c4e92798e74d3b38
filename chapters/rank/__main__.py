"""Rank replies yourself: you are the annotator, and a reward model learns your taste.

Shows two replies of the chat kitten to one question: type 1 or 2 for the better one, s to skip,
u to undo, q to quit, each followed by Enter. With --replies 4 you put up to four replies in order,
best first, as 2 1 4 3 or, where two are equally good, 2>1=4>3; that makes up to six pairs at once.
Everything is saved at once, the same command goes on where you stopped. The labels become a file
of preferences, and a reward model learns from it.
Everybody with the same seed, kitten and --replies sees the same replies, or give all the same
--pairs-file.
--agreement anna.jsonl,ben.jsonl tells how often two people agree.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

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
    parse_ranking,
    prompt_messages,
    read_labels,
    record_key,
    replies_key,
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
KEYS = "s skip, u undo, q quit"
HOW = {  # replies on the screen -> what to type
    2: "1 or 2",
    3: "the best first, as 2 1 3 or 2>1=3",
    4: "the best first, as 2 1 4 3 or 2>1=4>3",
}
WIDTH = 80


@dataclass(frozen=True)
class Settings:
    """What can be changed on the command line."""

    name: str = option("me", "who ranks; the labels are saved as <runs>/rank/<name>.jsonl")
    pairs: int = option(30, "pairs to rank; four replies to a question make up to six", low=1)
    replies: int = option(2, "replies to put in order at once; 2 is the quick way", low=2, high=4)
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


class Shown(NamedTuple):
    """A reply's text, and the judge's score if it is known."""

    text: str
    gold: float | None


def choices_to_rank(
    settings: Settings,
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
    pairs_file: DataFile | None,
) -> list[Choice]:
    """What to show, the replies in random order; pairs that read the same are left out."""
    rng = new_random(common.seed, "rank")
    if pairs_file:
        records = read_labels(pairs_file)[: settings.pairs]
        pairs = [
            (record["prompt"], Shown(record["chosen"], None), Shown(record["rejected"], None))
            for record in records
        ]
    else:
        sampled = sample_pairs(
            gpt,
            tokenizer,
            build_town(),
            count=settings.pairs,
            rng=rng,
            generator=new_generator(common.device, common.seed, "rank"),
            annotators="exact",
            replies_each=settings.replies,
        )
        pairs = []
        for pair in sampled:
            chosen, rejected = reply_texts(pair, tokenizer)
            both = Shown(chosen, pair.chosen_gold), Shown(rejected, pair.rejected_gold)
            pairs.append((pair.question.text, *both))
    found: dict[tuple, Choice] = {}
    for prompt, replies in shown_together(pairs, settings.replies):
        rng.shuffle(replies)
        golds = () if pairs_file else tuple(reply.gold for reply in replies)
        choice = Choice(prompt, tuple(reply.text for reply in replies), golds)
        found.setdefault(choice.key, choice)
    return list(found.values())


def shown_together(
    pairs: Iterable[tuple[str | list[dict[str, str]], Shown, Shown]], most: int
) -> list[tuple[str | list[dict[str, str]], list[Shown]]]:
    """Pairs that stand side by side and are about one prompt -> up to `most` replies to it.

    Pairs with an empty reply, or of two that read the same, are left out.
    """
    groups: list[tuple[str | list[dict[str, str]], dict[str, Shown]]] = []
    for prompt, first, second in pairs:
        replies = {reply.text.strip(): reply for reply in (first, second)}
        if "" in replies or len(replies) < 2:
            continue
        if groups and groups[-1][0] == prompt and len(replies | groups[-1][1]) <= most:
            for text, reply in replies.items():
                groups[-1][1].setdefault(text, reply)
        else:
            groups.append((prompt, replies))
    return [(prompt, list(replies.values())) for prompt, replies in groups]


def reply_texts(pair: LabelledPair, tokenizer: Tokenizer) -> tuple[str, str]:
    """Both replies as text, without the end of turn."""
    ends = (tokenizer.im_end_id, tokenizer.endoftext_id)
    replies = [reply[:-1] if reply[-1] in ends else reply for reply in (pair.chosen, pair.rejected)]
    return tokenizer.decode(replies[0]), tokenizer.decode(replies[1])


def session(ranking: Ranking) -> None:
    """Show replies and obey keys until all are ranked, or the reader leaves."""
    while (choice := ranking.current) is not None:
        print(f"\n{ranking.total - len(ranking.waiting) + 1} of {ranking.total}")
        messages = prompt_messages(choice.prompt)
        for message in messages:
            speaker = f"{message['role']}: " if len(messages) > 1 else ""
            print(wrap(f"> {speaker}{safe_text(message['content'])}", WIDTH, indent="  ", first=""))
        for number, reply in enumerate(choice.replies, start=1):
            print(wrap(safe_text(reply), WIDTH, indent="     ", first=f"  {number}  "))
        how = f"{HOW[len(choice.replies)]}; {KEYS}"
        try:
            typed = input(f"{how}: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            typed = "q"
            print()
        if typed == "s":
            ranking.skip()
        elif typed == "u":
            if not ranking.undo():
                print("(there is nothing to undo)")
        elif typed == "q":
            return
        else:
            try:
                places = parse_ranking(typed, len(choice.replies))
            except ValueError as error:
                print(f"({safe_text(str(error))}. Type {how}, then Enter)")
                continue
            ranking.rank(places)


def judge_line(choices: list[Choice], records: list[dict]) -> str:
    """How often the labels agree with the gold judge, pair by pair, "" if that is not known."""
    better: dict[tuple, str] = {}  # the pairs of which the judge prefers one
    for choice in choices:
        scored = zip(choice.replies, choice.golds, strict=False)  # no golds: no pairs
        for (reply, gold), (other, other_gold) in combinations(scored, 2):
            if gold != other_gold:
                key = replies_key(choice.prompt, reply, other)
                better[key] = (reply if gold > other_gold else other).strip()
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
    choices = choices_to_rank(settings, common, gpt, tokenizer, pairs_file)
    ranking = Ranking(choices, labels)
    if ranking.labelled:
        print(f"{path}: {ranking.labelled} of {ranking.total} are ranked, going on")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # letters that are no UTF-8 end nothing
    session(ranking)
    labels.close()
    print(f"\n{len(labels.records)} labels in {path}")
    print(judge_line(choices, labels.records))
    if settings.train and len(labels.records) >= FEWEST_LABELS:
        train_on_labels([read_data_file(path)], model_path, settings, common, gpt, tokenizer)


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: rank(argv))


if __name__ == "__main__":
    sys.exit(main())
