"""Pairs of replies and which one people prefer: the food of reward models, DPO, IPO and ORPO.

The kitten answers taught questions several times at temperature 1, two different replies to one
question make a pair, and an annotator says which is better. The annotators only lean towards the
gold score (kitten_town/judge.py), so for every pair the best possible accuracy of a guess about
their label is known.

Used by the chapters that learn from preferences. Pairs can also come from a file of the user's.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch

from chapters.common.terminal import safe_text
from kittenllm import checks
from kittenllm.chat import chat_prompt
from kittenllm.config import check_options, option
from kittenllm.data_file import DataFile, read_data_file
from kittenllm.evaluation import MAX_REPLY_TOKENS, Reply
from kittenllm.gpt import GPT
from kittenllm.kitten_town.chats import KIND_SHARES, Question, ask_any
from kittenllm.kitten_town.facts import Town
from kittenllm.kitten_town.judge import best_possible_accuracy, judge, prefers_first
from kittenllm.pairs import PreferencePair
from kittenllm.records import Problem, RecordError, load_preferences
from kittenllm.runs.run import Run
from kittenllm.sampling import Rollout, generate
from kittenllm.settings import new_generator, new_random
from kittenllm.tokenizer import Tokenizer

ANNOTATORS = ("noisy", "exact")
REPLIES_EACH = 4  # replies to one question; they make up to six pairs
QUESTIONS_AT_ONCE = 128
CLEAR_DIFFERENCE = 0.5  # gold points; below it two replies count as about equally good
FILE_HELD_OUT_SHARE = 0.1  # of the prompts of a user's file
ONE_PROMPT = "all pairs are about one prompt; pairs about two or more are needed"
PAIRS_AT_ONCE = 1_000  # a run that is stopped loses at most so many


@dataclass(frozen=True)
class PairSettings:
    """Which pairs a chapter learns from."""

    preferences: str = option("", "learn from the pairs of this JSON or JSONL file")
    strict: bool = option(False, "stop at the first bad record instead of skipping it")
    annotators: str = option(
        "noisy", "noisy: they lean towards the better reply; exact: never wrong", choices=ANNOTATORS
    )
    label_noise: float = option(
        0.0, "probability that a label is flipped on top of that", low=0, high=1
    )
    pairs: int = option(13_000, "pairs to learn from", low=1)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class LabelledPair:
    """Two different replies to one question, and what is known about them.

    Token ids; the replies hold their end-of-turn token, if the kitten wrote one. The gold scores
    and `best_accuracy` are None for pairs from a file, where nobody knows the truth.
    """

    question: Question | None  # None for pairs from a file
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    chosen_gold: float | None = None
    rejected_gold: float | None = None
    best_accuracy: float | None = None  # of the best possible guess about this noisy label

    @property
    def chosen_tokens(self) -> list[int]:
        """Prompt and chosen reply, as the reward model reads them."""
        return self.prompt + self.chosen

    @property
    def rejected_tokens(self) -> list[int]:
        """Prompt and rejected reply."""
        return self.prompt + self.rejected

    @property
    def about(self) -> tuple:
        """The topic: what the question is about, or the prompt of a pair from a file."""
        return tuple(self.prompt) if self.question is None else self.question.about

    @property
    def preference(self) -> PreferencePair:
        """The three token lists, as dpo.py and orpo.py read them."""
        return PreferencePair(self.prompt, self.chosen, self.rejected)


def sample_pairs(
    gpt: GPT,
    tokenizer: Tokenizer,
    town: Town,
    *,
    count: int,
    rng: random.Random,
    generator: torch.Generator,
    annotators: str = "noisy",
    label_noise: float = 0.0,
    held_out: bool = False,
    replies_each: int = REPLIES_EACH,
    shares: Mapping[str, float] = KIND_SHARES,
) -> list[LabelledPair]:
    """`count` pairs of replies that the kitten wrote at temperature 1, labelled by annotators.

    The questions are of all kinds, with the given `shares`; `held_out` takes those that no training
    asks. All different replies to one question are compared with each other, each pair by an
    annotator of its own; the pairs of one question stand side by side. rng draws questions and
    labels, `generator` (on the model's device) draws the replies.

    Raises: ValueError for unknown annotators, a label_noise outside [0, 1], fewer than 2 replies to
    a question, or a kitten that always says the same.
    """
    checks.count("replies_each", replies_each, low=2)
    drawn: list[tuple[Question, list[int], RatedReply, RatedReply]] = []
    for _ in range(20 + 8 * count // QUESTIONS_AT_ONCE):
        if len(drawn) >= count:
            break
        most_pairs = replies_each * (replies_each - 1) // 2  # of one question
        wanted = min(QUESTIONS_AT_ONCE, 4 + (count - len(drawn)) // most_pairs)
        questions = [ask_any(town, rng, held_out=held_out, shares=shares) for _ in range(wanted)]
        drawn += _unlabelled_pairs(
            gpt,
            tokenizer,
            town,
            questions,
            replies_each=replies_each,
            generator=generator,
        )
    if len(drawn) < count:
        raise ValueError(
            f"only {len(drawn)} of {count} pairs of different replies were found: this kitten "
            "nearly always says the same"
        )
    pairs = []  # labels come last: other annotators see the same questions and replies
    for question, prompt, first, second in drawn[:count]:
        better, worse = first, second
        if not prefers_first(
            first.gold, second.gold, rng, annotators=annotators, label_noise=label_noise
        ):
            better, worse = second, first
        golds = (better.gold, worse.gold)
        best_accuracy = best_guess_accuracy(*golds, annotators=annotators, label_noise=label_noise)
        pairs.append(
            LabelledPair(question, prompt, better.tokens, worse.tokens, *golds, best_accuracy)
        )
    return pairs


class RatedReply(NamedTuple):
    """A reply's tokens, its end of turn included, and its gold score."""

    tokens: list[int]
    gold: float


def _unlabelled_pairs(
    gpt: GPT,
    tokenizer: Tokenizer,
    town: Town,
    questions: Sequence[Question],
    *,
    replies_each: int,
    generator: torch.Generator,
) -> list[tuple[Question, list[int], RatedReply, RatedReply]]:
    """Sample and judge replies to each question; every two different ones make a pair."""
    prompts = [chat_prompt(tokenizer, question.messages()) for question in questions]
    rollout = generate(
        gpt,
        [prompt for prompt in prompts for _ in range(replies_each)],
        max_new_tokens=MAX_REPLY_TOKENS,
        temperature=1.0,
        generator=generator,
    )
    rows = zip(rollout.replies(), rollout.ended.tolist(), reply_tokens(rollout), strict=True)
    replies = list(rows)
    pairs = []
    for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
        different: dict[tuple[int, ...], RatedReply] = {}
        for words, ended, tokens in replies[number * replies_each : (number + 1) * replies_each]:
            verdict = judge(town, question, tokenizer.decode(words), words, ended=ended)
            different[tuple(tokens)] = RatedReply(tokens, verdict.score)
        for first, second in combinations(different.values(), 2):
            pairs.append((question, prompt, first, second))
    return pairs


def reply_tokens(rollout: Rollout) -> list[list[int]]:
    """The tokens of each reply, with its end of turn where there is one."""
    produced = rollout.tokens[:, 1:]  # (N, T-1)
    return [row[mask].tolist() for row, mask in zip(produced, rollout.response_mask, strict=True)]


def best_guess_accuracy(
    gold_a: float, gold_b: float, *, annotators: str, label_noise: float
) -> float:
    """How often the best possible guess about the annotators' label is right."""
    if annotators == "exact":
        return max(label_noise, 1 - label_noise) if gold_a != gold_b else 0.5
    return best_possible_accuracy(gold_a, gold_b, label_noise=label_noise)


def saved_pairs(
    chapter: Run,
    name: str,
    gpt: GPT,
    tokenizer: Tokenizer,
    town: Town,
    *,
    count: int,
    annotators: str = "noisy",
    label_noise: float = 0.0,
    held_out: bool = False,
    shares: Mapping[str, float] = KIND_SHARES,
) -> list[LabelledPair]:
    """`sample_pairs` for a chapter: with its seed, and in parts that survive a stop."""
    pairs = []
    for part, done in enumerate(range(0, count, PAIRS_AT_ONCE)):
        salt = (chapter.chapter, name, part)
        seed, device = chapter.common.seed, chapter.common.device

        def sample(salt=salt, seed=seed, device=device, done=done) -> list[dict]:
            sampled = sample_pairs(
                gpt,
                tokenizer,
                town,
                count=min(PAIRS_AT_ONCE, count - done),
                rng=new_random(seed, *salt),
                generator=new_generator(device, seed, *salt),
                annotators=annotators,
                label_noise=label_noise,
                held_out=held_out,
                shares=shares,
            )
            return [asdict(pair) for pair in sampled]

        for record in chapter.once(f"{name}_{part}", sample):
            question = record.pop("question")
            topic = tuple(question.pop("topic"))
            pairs.append(LabelledPair(Question(**question, topic=topic), **record))
    return pairs


def preferences_file(path: str, *, strict: bool = False, prompts: int = 1) -> DataFile | None:
    """The user's file of preferences, read once; None without a path.

    Everything that can be refused without a kitten is refused here, before one is trained.
    Raises: RecordError for a file without a usable pair, or about fewer than `prompts` prompts.
    """
    if not path:
        return None
    file = read_data_file(path)
    records, _ = load_preferences(file, strict=strict)
    if len({str(record["prompt"]) for record in records}) < prompts:
        raise RecordError(f"{path}: {ONE_PROMPT}")
    return file


def file_pairs(
    source: str | Path | DataFile,
    tokenizer: Tokenizer,
    context_length: int,
    *,
    strict: bool = False,
) -> tuple[list[LabelledPair], list[Problem]]:
    """Pairs from a file of {"prompt", "chosen", "rejected"} records, and what had to be skipped.

    A pair that does not fit into the context is skipped like a bad record. Empty and equal replies
    are refused by `load_preferences`.

    Raises: RecordError if nothing usable is left, or with `strict` at the first bad record.
    """
    file = read_data_file(source)
    records, problems = load_preferences(file, strict=strict)
    pairs = []
    for record in records:
        prompt = chat_prompt(tokenizer, record["prompt"])
        chosen = [*tokenizer.encode(record["chosen"]), tokenizer.im_end_id]
        rejected = [*tokenizer.encode(record["rejected"]), tokenizer.im_end_id]
        longest = len(prompt) + max(len(chosen), len(rejected))
        if longest > context_length:
            reason = f"the pair has {longest} tokens, the context holds {context_length}"
            problem = Problem(file.path, record["line"], reason)
            if strict:
                raise RecordError(f"{problem}; shorten or remove this record")
            problems.append(problem)
            continue
        pairs.append(LabelledPair(None, prompt, chosen, rejected))
    if not pairs:
        raise RecordError(f"{file.path}: no pair fits into the context of {context_length} tokens")
    return pairs, sorted(problems, key=lambda problem: problem.line)


def split_by_prompt(
    pairs: list[LabelledPair], rng: random.Random
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """A tenth of the prompts, with all their pairs, is kept to measure with.

    Raises: RecordError if all pairs are about one prompt.
    """
    prompts = list(dict.fromkeys(tuple(pair.prompt) for pair in pairs))
    if len(prompts) < 2:
        raise RecordError(ONE_PROMPT)
    rng.shuffle(prompts)
    kept = set(prompts[: max(1, round(FILE_HELD_OUT_SHARE * len(prompts)))])
    learnt = [pair for pair in pairs if tuple(pair.prompt) not in kept]
    return learnt, [pair for pair in pairs if tuple(pair.prompt) in kept]


def split_pairs(
    pairs: list[LabelledPair], most_watched: int, seed: int
) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """About a tenth of a file's pairs is only watched, and no watched prompt is learnt from. Pairs
    about a single prompt are learnt and watched, and that is said."""
    prompts = list(dict.fromkeys(tuple(pair.prompt) for pair in pairs))
    if len(prompts) == 1:
        print("all pairs are about one prompt: what is watched below is what is learnt")
        return pairs, pairs[:most_watched]
    new_random(seed, "ch4_preferences", "split").shuffle(prompts)
    wanted = max(1, min(most_watched, len(pairs) // 10))
    watched: list[LabelledPair] = []
    kept: set[tuple[int, ...]] = set()
    for prompt in prompts[:-1]:  # one prompt at least is learnt from
        if len(watched) >= wanted:
            break
        kept.add(prompt)
        watched += [pair for pair in pairs if tuple(pair.prompt) == prompt]
    learnt = [pair for pair in pairs if tuple(pair.prompt) not in kept]
    return learnt, watched[:most_watched]


def full_tokens(tokenizer: Tokenizer, reply: Reply) -> list[int]:
    """Prompt, reply and its end of turn: what the reward model reads."""
    end = [tokenizer.im_end_id] if reply.ended else []
    return chat_prompt(tokenizer, reply.question.messages()) + reply.tokens + end


def clear_examples(pairs: Sequence[LabelledPair], count: int = 3) -> list[LabelledPair]:
    """The first pairs, each about another question, of which one reply is clearly the better one.

    If nobody knows the truth, or there are too few, the next ones fill the list; ties never do.
    """
    clear, others, asked = [], [], set()
    for pair in pairs:
        known = pair.chosen_gold is not None
        difference = abs(pair.chosen_gold - pair.rejected_gold) if known else None
        if known and difference >= CLEAR_DIFFERENCE and tuple(pair.prompt) not in asked:
            asked.add(tuple(pair.prompt))
            clear.append(pair)
        elif difference != 0:
            others.append(pair)
    return (clear + others)[:count]


def pairs_view(pairs: Sequence[LabelledPair], tokenizer: Tokenizer) -> str:
    """A few pairs as a reader sees them; the gold score is in brackets where it is known."""
    if not pairs:
        return "  (none: in each pair both replies are equally good)"
    lines = []
    for pair in pairs:
        question = pair.question.text if pair.question else tokenizer.decode(pair.prompt)
        lines.append(f"  {safe_text(question)}")
        golds = (pair.chosen_gold, pair.rejected_gold)
        marks = ("preferred", "rejected")
        for mark, tokens, gold in zip(marks, (pair.chosen, pair.rejected), golds, strict=True):
            known = "" if gold is None else f"  ({gold:+.2f})"
            lines.append(f"    {mark:<10}{safe_text(tokenizer.decode(tokens))}{known}")
        if None not in golds and golds[0] < golds[1]:
            lines.append("    (this annotator erred: the rejected reply is the better one)")
    return "\n".join(lines)
