"""The same exam after every step: chats, puzzles, and how much of the books is forgotten.

Used by story.py and its experiments. Chats are measured as in the chapters that chat, puzzles as in
the reasoning chapter (chapters/common); only the number of replies is smaller.
"""

from dataclasses import replace
from pathlib import Path

from chapters.common import exam
from chapters.common.kitten import Kitten
from chapters.common.measuring import counts_of, fixed_replies, measure
from chapters.common.terminal import with_error
from kittenllm import plots
from kittenllm.chat import text_prompt
from kittenllm.evaluation import FULL_COUNTS, fixed_questions
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.runs.run import Run
from kittenllm.settings import new_generator

# As many questions as in the other chapters; fewer replies to each. The errors hardly grow: they
# are about topics.
COUNTS = {kind: (questions, min(2, each)) for kind, (questions, each) in FULL_COUNTS.items()}
COUNTS["talk"] = (18, 16)
PUZZLE_REPLIES = 2  # to each held-out puzzle
QUICK_PUZZLES = 6
SHOWN_PUZZLES = 3  # in samples.md
PLAIN = ("base", "Zero")  # they never saw the chat template: puzzles are told as plain text

# key of summary.json -> (what it is called, how it is shown)
ROWS = {
    "puzzle_accuracy": ("puzzles right", ".1%"),
    "puzzle_format": ("  right form", ".1%"),
    "puzzle_truncated": ("  cut off", ".1%"),
    "puzzle_thinks": ("  thinks", ".1%"),
    "puzzle_tokens": ("  tokens", ".0f"),
    "gold": ("chats: gold score", ".2f"),
    "safe_rate": ("  safe", ".1%"),
    "allowed_rate": ("  allows what is fine", ".1%"),
    "friendly_rate": ("  friendly", ".1%"),
    "answer_accuracy": ("  facts and sums", ".1%"),
    "stop_rate": ("  stops", ".1%"),
    "chat_thinks": ("  thinks needlessly", ".1%"),
    "reply_tokens": ("  tokens", ".1f"),
    "bits_per_byte": ("books, bits per byte", ".3f"),
}
OF_CHATS = "gold safe_rate allowed_rate friendly_rate answer_accuracy right_fact right_sum"
OF_CHATS += " talk_rate stop_rate reply_tokens kl reward"
OF_PUZZLES = {"accuracy": "accuracy", "format_rate": "format", "truncated": "truncated"}
OF_PUZZLES |= {"tokens": "tokens", "think_rate": "thinks"}
EXAM_KEYS = [key + end for key in ROWS for end in ("", "_stderr")]
BARS = ("puzzle_accuracy", "safe_rate", "allowed_rate", "friendly_rate", "answer_accuracy")


class Examiner:
    """Asks every kitten the same, with the same dice."""

    def __init__(self, chapter: Run, chat: Kitten, max_new_tokens: int):
        """`chat` is the SFT kitten: KL is measured to it, and its scorer is the reward model."""
        self.chapter, self.chat, self.max_new_tokens = chapter, chat, max_new_tokens
        puzzles = exam.countdown_held_out()[: QUICK_PUZZLES if chapter.common.quick else None]
        self.plan = [(orders[0], PUZZLE_REPLIES) for orders in puzzles]

    def once(self, name: str, gpt: GPT) -> dict:
        """The numbers of the kitten of one step, each with its error; kept over a stop."""
        with self.chapter.timing("eval"):
            scores = self.chapter.once(f"exam_{name}", lambda: self.take(name, gpt))
        numbers = [f"{title.strip()} {number(scores, key)}" for key, (title, _) in ROWS.items()]
        print(f"{name}: {', '.join(numbers)}", flush=True)
        return scores

    def take(self, name: str, gpt: GPT) -> dict:
        """Chats, puzzles, unseen text."""
        common = self.chat.common
        counts = counts_of(common, COUNTS)
        found = measure(gpt, self.chat, "ch6_r1", "measure", counts=counts)
        pairs = {key: key for key in OF_CHATS.split()} | {"think_rate": "chat_thinks"}
        scores = {new + e: found[key + e] for key, new in pairs.items() for e in ("", "_stderr")}
        found = exam.look(
            replace(self.chat, gpt=gpt),
            self.plan,
            max_new_tokens=self.max_new_tokens,
            generator=new_generator(common.device, common.seed, "ch6_r1", "exam"),
            prompt_of=text_prompt if name in PLAIN else exam.as_user,
        )
        for key, new in OF_PUZZLES.items():
            scores |= {f"puzzle_{new}{end}": found[key + end] for end in ("", "_stderr")}
        scores["bits_per_byte"] = replace(self.chat, gpt=gpt).base_bits_per_byte()
        return {**scores, "samples": found["samples"][:SHOWN_PUZZLES]}

    def samples(
        self, before: dict, after: dict, before_gpt: GPT, after_gpt: GPT
    ) -> tuple[list[str], list[str], list[str]]:
        """Prompts, replies before and replies after: the fixed questions, then some puzzles."""
        questions = [question.text for question in fixed_questions(build_town())]
        replies = [fixed_replies(gpt, self.chat, "ch6_r1") for gpt in (before_gpt, after_gpt)]
        puzzles = [[sample["reply"] for sample in scores["samples"]] for scores in (before, after)]
        asked = questions + [sample["prompt"] for sample in before["samples"]]
        return asked, replies[0] + puzzles[0], replies[1] + puzzles[1]


def number(scores: dict, key: str) -> str:
    """One number as the table shows it, without its error; "n/a" if nobody was asked."""
    return "n/a" if scores[key] is None else f"{scores[key]:{ROWS[key][1]}}"


def table(steps: dict[str, dict]) -> str:
    """One column per kitten, every rate with its standard error by topic."""
    lines = [f"{'held out':<22}" + "".join(f"{name:>17}" for name in steps)]
    for key, (title, form) in ROWS.items():
        cells = [with_error(s[key], s.get(f"{key}_stderr"), form) for s in steps.values()]
        if key == "bits_per_byte":
            cells = [number(scores, key) for scores in steps.values()]
        lines.append(f"{title:<22}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def draw_steps(path: Path, steps: dict[str, dict]) -> None:
    """steps.png: the main rates of every kitten, side by side."""
    groups = {name: {ROWS[key][0].strip(): s[key] for key in BARS} for name, s in steps.items()}
    errors = {
        name: {ROWS[key][0].strip(): s[f"{key}_stderr"] for key in BARS}
        for name, s in steps.items()
    }
    plots.bars(
        path,
        groups,
        title="What each kitten can do",
        y_label="share of the replies to held-out questions",
        errors=errors,
    )
