"""What the scripts of the page need: the kittens themselves, their tokenizer, data and sentences.

One idea: everything a script knows lies in the page as JSON, in blocks that no browser runs. A "<"
is written as an escape there, so no text can end its block.

Used by page.py. The scripts are the .js files beside it; dom.js reads this data.
"""

import json
from dataclasses import dataclass, field

from chapters.report import sentences
from chapters.report.data import Stage
from chapters.report.html import Markup, join, tag
from chapters.report.languages import both, in_both
from chapters.report.life import KITTENS, Kitten
from chapters.report.weights import can_be_packed, packed
from kittenllm.evaluation import fixed_questions
from kittenllm.gpt import GPT
from kittenllm.kitten_town.countdown import exam_problems
from kittenllm.kitten_town.facts import build_town
from kittenllm.runs.checkpoints import CheckpointError, load_model, plain_numbers
from kittenllm.runs.json_files import read_json_if_possible
from kittenllm.tokenizer import Tokenizer

MOST_LETTERS = 10_400_000  # of all weights together: the page stays below 12 MB
LARGEST_FILE = 400_000  # letters, without line breaks; larger ones are not put into the page
LONGEST_BARE = 60  # tokens of a kitten that never stops
LONGEST = 192
BUTTONS = (0, 1, 3, 4, 5, 7, 8, 10, 12)  # nine of the thirteen fixed questions
PUZZLE_BUTTONS = (0, 40, 120)  # places in the exam of held-out puzzles


@dataclass
class Live:
    """Kittens that the page can run: facts and weights by stage; and their tokenizers."""

    kittens: list[dict] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    tokenizers: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kitten: Kitten, gpt: GPT, tokenizer: Tokenizer, exam: list) -> None:
        """Put one kitten in, or say why not."""
        cause = can_be_packed(gpt, tokenizer)
        weights = "" if cause else in_script(packed(gpt))
        taken = sum(map(len, self.weights.values()))
        if not cause and taken + len(weights) > MOST_LETTERS:
            cause = "it is too large for a page"
        if cause:
            self.refuse(kitten, both(cause))
            return
        state = {"tokens": tokenizer.to_state()["tokens"], "special": list(tokenizer.special_ids)}
        if state not in self.tokenizers:
            self.tokenizers.append(state)
        self.weights[kitten.stage] = weights
        self.kittens.append(
            {
                "stage": kitten.stage,
                "name": in_both(kitten.name),
                "bare": kitten.bare,
                "answers": kitten.answers,
                "most": LONGEST_BARE if kitten.stage == "ch0_base" else LONGEST,
                "stops": list(gpt.config.stop_ids),
                "context": gpt.config.context_length,
                "tokenizer": self.tokenizers.index(state),
                "exam": exam,
            }
        )

    def refuse(self, kitten: Kitten, cause: object) -> None:
        """Say why a kitten is not there."""
        sentence = "the {name} kitten cannot talk here: {cause}"
        self.notes.append(both(sentence, name=both(kitten.name), cause=cause))


def live_kittens(stages: dict[str, Stage], life: dict) -> Live:
    """The kittens of all finished stages; never an error, but notes."""
    live = Live()
    for kitten in KITTENS:
        stage = stages.get(kitten.stage)
        if stage is None or stage.state != "finished" or not stage.summary.get("model"):
            continue
        entry = life.get("kittens", {}).get(kitten.stage)
        exam = entry.get("exam") if isinstance(entry, dict) else None
        try:
            gpt, tokenizer, _ = load_model(stage.folder / str(stage.summary["model"]))
        except (CheckpointError, ValueError, RuntimeError, OSError) as error:
            live.refuse(kitten, error)
            continue
        live.add(kitten, gpt, tokenizer, exam if isinstance(exam, list) else [])
    return live


def data_blocks(stages: dict[str, Stage], live: Live) -> Markup:
    """The blocks of JSON that the scripts read."""
    questions = [question.text for question in fixed_questions(build_town())]
    problems = [orders[0].prompt for orders in exam_problems()]
    data = {
        "words": in_both(sentences.SCRIPT),
        "kittens": live.kittens,
        "tokenizers": live.tokenizers,
        "questions": [sentences.FIRST_QUESTION, *(questions[place] for place in BUTTONS)],
        "puzzles": [problems[place] for place in PUZZLE_BUTTONS],
        "groups": file_of(stages, "ch5_reasoning", "groups.json"),
        "credit": file_of(stages, "ch3_ppo", "token_credit.json"),
    }
    blocks = [block("data", in_script(plain_numbers(data)))]
    blocks += [block(f"weights-{stage}", weights) for stage, weights in live.weights.items()]
    return join(*blocks)


def file_of(stages: dict[str, Stage], stage: str, name: str) -> dict:
    """What a stage wrote for the scripts; {} if there is nothing, or if it is too large."""
    if stage not in stages:
        return {}
    content = plain_numbers(read_json_if_possible(stages[stage].folder / name))
    return content if len(in_script(content)) <= LARGEST_FILE else {}


def block(name: str, content: str) -> Markup:
    """A script element that holds data: no browser runs it."""
    return tag("script", Markup(content), type="application/json", id=name)


def in_script(content: object) -> str:
    """JSON that can stand inside a <script>: pure ASCII, and no "<" that could end it.

    >>> in_script("</script>\u2028")
    '"\\\\u003c/script>\\\\u2028"'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
