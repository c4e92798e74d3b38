"""Rank replies yourself: you are the annotator, and a reward model learns your taste.

Shows two replies of the chat kitten to one question: type 1 or 2 for the better one, s to skip,
u to undo, q to quit, each followed by Enter. Where a fact decides, the page of the town's book
stands under the question. With --replies 4 you put up to four replies in order, best first, as
2 1 4 3 or, where two are equally good, 2>1=4>3; that makes up to six pairs at once.
Everything is saved at once, the same command goes on where you stopped. The labels become a file
of preferences, and a reward model learns from it.

For a class: with the same seed and kitten the first five pairs (--shared) are the same for
everybody, and the others are different for each --name. Collect the pupils' files in a folder:
--train-on FOLDER shows who agrees with whom, trains one reward model on all labels, and then a
kitten with PPO. --agreement anna.jsonl,ben.jsonl compares two people.
"""

import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from chapters.common.pairs import LabelledPair, preferences_file, sample_pairs
from chapters.common.runner import ensure, exit_code, has_finished
from chapters.common.terminal import safe_text, wrap
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
from chapters.rank.learning import (
    FEWEST_LABELS,
    class_kitten,
    labels_of,
    learn_taste,
)
from chapters.rank.tastes import class_table, read_class
from chapters.rank.town_page import RANKED_SHARES, can_be_judged, page
from kittenllm.config import check_options, option
from kittenllm.data_file import DataFile, read_data_file
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.reward_model import RewardModel
from kittenllm.runs.checkpoints import load_model
from kittenllm.settings import Common, new_generator, new_random, parse_settings
from kittenllm.tokenizer import Tokenizer

DRAWS = 4  # times that more pairs are drawn, until enough of them can be judged
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
    shared: int = option(5, "of these, as many are the same for everybody", low=0)
    replies: int = option(2, "replies to put in order at once; 2 is the quick way", low=2, high=4)
    pairs_file: str = option("", "rank the pairs of this preferences file, its labels are hidden")
    train: bool = option(True, "train a reward model on the labels at the end")
    train_on: tuple[str, ...] = option(
        (), "only train, on these files of labels or on all files of a folder (a comma list)"
    )
    agreement: tuple[str, ...] = option((), "only compare two files of labels (a comma list)")
    train_kitten: bool = option(False, "train the chat kitten first if there is none (minutes)")
    test_pairs: int = option(
        300, "pairs about held-out questions that test the reward model", low=1
    )
    ppo_steps: int = option(
        30, "with a folder: rounds of PPO after the reward model of the class; 0: none", low=0
    )

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name must be letters, digits, _ and -, got {self.name!r}")
        check_options(self)
        if len(self.agreement) not in (0, 2):
            count = len(self.agreement)
            raise ValueError(f"agreement compares two files, as a.jsonl,b.jsonl; got {count}")


QUICK = {"pairs": 5, "test_pairs": 20, "ppo_steps": 2}


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
    """What to show: first the choices that everybody gets, then those of this name."""
    if pairs_file:
        records = read_labels(pairs_file)[: settings.pairs]
        pairs = [
            (record["prompt"], Shown(record["chosen"], None), Shown(record["rejected"], None))
            for record in records
        ]
        return shuffled_choices(pairs, settings.replies, new_random(common.seed, "rank"))
    shared = min(settings.shared, settings.pairs)
    found: dict[tuple, Choice] = {}
    for salt, count in (((), shared), ((settings.name,), settings.pairs - shared)):
        pairs = drawn_pairs(count, settings.replies, salt, common, gpt, tokenizer)
        rng = new_random(common.seed, "rank", "order", *salt)
        for choice in shuffled_choices(pairs, settings.replies, rng):
            found.setdefault(choice.key, choice)
    return list(found.values())


def drawn_pairs(
    count: int,
    replies_each: int,
    salt: tuple[str, ...],
    common: Common,
    gpt: GPT,
    tokenizer: Tokenizer,
) -> list[tuple[str, Shown, Shown]]:
    """`count` pairs of the kitten's replies that a person can tell apart, the same for each salt.

    A kitten that babbles says nothing that can be judged; then other pairs fill the list.
    """
    if count == 0:
        return []
    rng = new_random(common.seed, "rank", *salt)
    generator = new_generator(common.device, common.seed, "rank", *salt)
    clear, others = [], []
    for _ in range(DRAWS):
        sampled = sample_pairs(
            gpt,
            tokenizer,
            build_town(),
            count=2 * count,
            rng=rng,
            generator=generator,
            annotators="exact",
            replies_each=replies_each,
            shares=RANKED_SHARES,
        )
        for pair in sampled:
            first, second = reply_texts(pair, tokenizer)
            shown = Shown(first, pair.chosen_gold), Shown(second, pair.rejected_gold)
            judged = can_be_judged(pair.question.text, first, second)
            (clear if judged else others).append((pair.question.text, *shown))
        if len(clear) >= count:
            break
    return (clear + others)[:count]


def shuffled_choices(
    pairs: list[tuple[str | list[dict[str, str]], Shown, Shown]], most: int, rng: random.Random
) -> list[Choice]:
    """The replies of each choice in random order; pairs that read the same are left out."""
    choices = {}
    for prompt, replies in shown_together(pairs, most):
        rng.shuffle(replies)
        golds = tuple(reply.gold for reply in replies)
        known = () if None in golds else golds
        choice = Choice(prompt, tuple(reply.text for reply in replies), known)
        choices.setdefault(choice.key, choice)
    return list(choices.values())


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
        if len(messages) == 1 and (told := page(messages[0]["content"])):
            print(wrap(f"(the town's book: {safe_text(told)})", WIDTH, indent="  "))
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


# ------------------------------------------------------------------------------------ the program


def rank(argv=None) -> None:
    """The whole program."""
    settings, common = parse_settings(Settings, __doc__, argv, quick=QUICK, prog="chapters.rank")
    if settings.agreement:
        print(agreement_line(*agreement(*(Path(path) for path in settings.agreement))))
        return
    # Files are read first: one that cannot be used is said before a kitten is trained.
    pairs_file = preferences_file(settings.pairs_file)
    paths, pooled = labels_of(settings.train_on)
    label_files = [preferences_file(str(path)) for path in paths]
    if not settings.train_kitten and not has_finished("ch1_sft", common):
        raise ValueError(
            f"there is no finished chat kitten in {common.folder('ch1_sft')}. Train one first with "
            f"{common.command('chapters.ch1_sft')}, or add --train-kitten; it takes minutes"
        )
    sft = ensure("ch1_sft", common)
    sft_path = common.folder("ch1_sft") / sft["model"]
    gpt, tokenizer, _ = load_model(sft_path, device=common.device)

    def learn(files: list[DataFile]) -> RewardModel | None:
        tests = settings.test_pairs
        return learn_taste(files, settings.name, tests, common, gpt, tokenizer)

    folder = common.folder("rank")
    path = folder / f"{settings.name}.jsonl"
    if label_files:
        if pooled:
            print(class_table(read_class(label_files)))
        reward_model = learn(label_files)
        if pooled and reward_model and settings.ppo_steps:
            steps, name = settings.ppo_steps, settings.name
            class_kitten(label_files, name, steps, common, gpt, tokenizer, reward_model)
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
        learn([read_data_file(path)])


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: rank(argv))


if __name__ == "__main__":
    sys.exit(main())
