"""The provenance experiment of chapter 5: each key number made a second time from the replies, and
what the three kittens read, start from and practise.

The kittens are tiny, and what they say is dealt out here from a deck of replies of which the right
ones, the cut off ones and the waits are known. So no rule and no counter of the package is needed
to say what must come out.
"""

import hashlib
import itertools
import math
import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from byte_kitten import small_config

from chapters.ch5_reasoning import experiments, pictures
from chapters.ch5_reasoning.experiments import Loops, provenance
from chapters.ch5_reasoning.recipe import ROW_LENGTH, Recipe
from chapters.ch5_reasoning.story import Settings
from chapters.common import exam
from chapters.common.kitten import Kitten
from kittenllm.chat import text_prompt
from kittenllm.gpt import GPT
from kittenllm.grpo import GRPOConfig
from kittenllm.kitten_town.countdown import HELD_OUT_TRIPLES, reachable
from kittenllm.runs.run import Run
from kittenllm.settings import Common
from kittenllm.sft import SFTConfig

SHARES = {"0": "0_percent", "0.01": "1_percent", "0.1": "10_percent"}
LIMIT = 70  # tokens of a reply
RECIPE = Recipe(
    SFTConfig(steps=8, rows_per_step=4),
    GRPOConfig(steps=2, prompts_per_step=3, max_new_tokens=LIMIT),
    patient_share=0.3,
    format_weight=0.3,
    pass_problems=3,
    most_problems=7,
)


def mark(gpt: GPT) -> str:
    """The same for equal weights only."""
    numbers = [parameter.detach().numpy().tobytes() for parameter in gpt.parameters()]
    return hashlib.sha256(b"".join(numbers)).hexdigest()


@dataclass
class Said:
    """One reply that was dealt out, and what is known about it."""

    kitten: str  # the mark of its weights
    prompt: str
    tokens: int
    ended: bool
    right: bool
    form: bool
    waits: int


def solution(prompt: str) -> str:
    """A right answer to "use 3, 5, 8 make 19"."""
    numbers, target = prompt.removeprefix("use ").split(" make ")
    triple = [int(number) for number in numbers.split(", ")]
    return reachable(triple)[int(target)][0].text


class Deck:
    """In the place of `generate`: deals out replies, and remembers them."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.said: list[Said] = []
        self.limits: set[int] = set()
        self.temperatures: set[float] = set()

    def generate(self, gpt, prompts, *, max_new_tokens, temperature, generator):
        self.limits.add(max_new_tokens)
        self.temperatures.add(temperature)
        kitten = mark(gpt)
        dice = random.Random(kitten)  # every kitten has habits of its own
        luck = dice.random()
        replies, ended = [], []
        for prompt in prompts:
            text = self.tokenizer.decode(prompt).removeprefix(self.start())
            right, form = dice.random() < luck, dice.random() < 0.8
            waits, is_whole = dice.randrange(4), dice.random() < 0.9
            think = " wait ".join(["3*5=15 no"] * (waits + 1))
            ids = [self.tokenizer.think_id, *self.tokenizer.encode(think)]
            ids += [self.tokenizer.end_think_id, self.tokenizer.answer_id] if form else []
            ids += self.tokenizer.encode(solution(text) if right else "1+1=2")
            ids += [self.tokenizer.end_answer_id] if form else []
            replies.append(ids)
            ended.append(is_whole)
            counts = is_whole and form
            self.said.append(
                Said(kitten, text, len(ids) + is_whole, is_whole, counts and right, counts, waits)
            )
        return SimpleNamespace(replies=lambda: replies, ended=torch.tensor(ended))

    def start(self) -> str:
        return self.tokenizer.decode(text_prompt(self.tokenizer, ""))


class Lives:
    """In the place of both loops: notes what arrives, and gives every kitten other weights."""

    step = {"step": 0, **dict.fromkeys(pictures.NEEDED, 0.5)}

    def __init__(self):
        self.seen: dict[str, SimpleNamespace] = {}
        self.numbers = itertools.count(1)

    def change(self, gpt: GPT) -> None:
        generator = torch.Generator().manual_seed(next(self.numbers))
        with torch.no_grad():
            for parameter in gpt.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))

    def warm_up(self, run, name, thinker, documents, config):
        before = mark(thinker.gpt)
        self.change(thinker.gpt)
        self.seen[name] = SimpleNamespace(
            start=before, end=mark(thinker.gpt), documents=documents, config=config
        )

    def learn_from_rules(self, run, name, thinker, task, recipe):
        before = mark(thinker.gpt)
        self.change(thinker.gpt)
        self.seen[name] = SimpleNamespace(
            start=before, end=mark(thinker.gpt), task=task, recipe=recipe
        )
        stage = run.stage(name, total=1, objects={"gpt": thinker.gpt})
        for _ in stage.follow(iter([self.step | {"accuracy": float(name.split("_")[1])}])):
            pass


@pytest.fixture(scope="module")
def made(town_tokenizer, tmp_path_factory):
    """One run of the experiment: its result, and everything that went in and out."""
    tokenizer = town_tokenizer
    deck, lives, drawn = Deck(tokenizer), Lives(), {}
    chapters_own = GPT(small_config(tokenizer), generator=torch.Generator().manual_seed(77))
    common = Common(seed=0, runs=tmp_path_factory.mktemp("runs"), device=torch.device("cpu"))
    run = Run(common, "ch5_provenance", Settings())

    def trained_thinker(common, kitten):
        assert kitten == "warm-up"
        own = GPT(chapters_own.config)
        own.load_state_dict(chapters_own.state_dict())
        return Kitten(own, tokenizer, common)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "trained_thinker", trained_thinker)
        patch.setattr(exam, "generate", deck.generate)
        patch.setattr(
            pictures, "draw_comparison", lambda path, histories, title: drawn.update(histories)
        )
        loops = Loops(lives.warm_up, lives.learn_from_rules)
        result = provenance(run, RECIPE, common, loops)
    return SimpleNamespace(
        result=result,
        deck=deck,
        seen=lives.seen,
        drawn=drawn,
        chapters_own=mark(chapters_own),
        tokenizer=tokenizer,
    )


# ---------------------------------------------------------------- the plain way to the same numbers


def triple_of(prompt: str) -> tuple:
    """ "use 5, 3, 8 make 19" -> (3, 5, 8)."""
    numbers = prompt.removeprefix("use ").partition(" make ")[0]
    return tuple(sorted(int(number) for number in numbers.split(", ")))


def problem_of(prompt: str) -> tuple:
    return *triple_of(prompt), prompt.partition(" make ")[2]


def mean_and_stderr(values: list[float], topics: list) -> tuple:
    """The mean of the values, and its error from how far whole topics are off."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    names = sorted(set(topics))
    if len(names) < 2:
        return mean, None
    total = 0.0
    for name in names:
        off = sum(
            value - mean for value, topic in zip(values, topics, strict=True) if topic == name
        )
        total += off * off
    return mean, math.sqrt(total * len(names) / (len(names) - 1)) / len(values)


def over_problems(said: list[Said], value) -> tuple:
    """Replies into problems, problems into one number."""
    problems = list(dict.fromkeys(problem_of(reply.prompt) for reply in said))
    values, topics = [], []
    for problem in problems:
        replies = [value(reply) for reply in said if problem_of(reply.prompt) == problem]
        values.append(sum(replies) / len(replies))
        topics.append(problem[:3])
    return mean_and_stderr(values, topics)


def over_replies(said: list[Said], value) -> tuple:
    return mean_and_stderr([value(r) for r in said], [triple_of(r.prompt) for r in said])


def pass_at(said: list[Said], k: int) -> tuple:
    """How many of all sets of k replies hold a right one, over the problems with 16 replies."""
    values, topics = [], []
    for problem in dict.fromkeys(problem_of(reply.prompt) for reply in said):
        right = [reply.right for reply in said if problem_of(reply.prompt) == problem]
        if len(right) == 16:
            sets = list(itertools.combinations(right, k))
            values.append(sum(any(one) for one in sets) / len(sets))
            topics.append(problem[:3])
    return mean_and_stderr(values, topics)


def plain_keys(before: list[Said], after: list[Said]) -> dict:
    keys = {}
    for when, said in (("before", before), ("after", after)):
        right, wrong = [r for r in said if r.right], [r for r in said if not r.right]
        numbers = {
            "accuracy": over_problems(said, lambda r: r.right),
            "tokens": over_problems(said, lambda r: r.tokens),
            "waits": over_problems(said, lambda r: r.waits),
            "format_rate": over_problems(said, lambda r: r.form),
            "truncated": over_problems(said, lambda r: not r.ended),
            "tokens_right": over_replies(right, lambda r: r.tokens),
            "tokens_wrong": over_replies(wrong, lambda r: r.tokens),
            "waits_right": over_replies(right, lambda r: r.waits),
            "waits_wrong": over_replies(wrong, lambda r: r.waits),
            "pass_at_8": pass_at(said, 8),
        }
        for key, (mean, error) in numbers.items():
            keys[f"{key}_{when}"], keys[f"{key}_{when}_stderr"] = mean, error
        keys[f"replies_{when}"] = len(said)
        passes = {str(k): pass_at(said, k) for k in (1, 2, 4, 8, 16)}
        keys[f"pass_at_k_{when}"] = {k: mean for k, (mean, _) in passes.items()}
        keys[f"pass_at_k_{when}_stderr"] = {k: error for k, (_, error) in passes.items()}
    return keys


@pytest.mark.parametrize("share", SHARES)
def test_each_key_number_is_that_of_the_replies(made, share):
    name = SHARES[share]
    after_reading = made.seen[f"reading_{name}"].end
    after_grpo = made.seen[f"grpo_{name}"].end
    before = [reply for reply in made.deck.said if reply.kitten == after_reading]
    after = [reply for reply in made.deck.said if reply.kitten == after_grpo]
    wanted = plain_keys(before, after)
    thinks = {f"think_rate_{when}{end}" for when in ("before", "after") for end in ("", "_stderr")}
    assert made.result[share].keys() == wanted.keys() | thinks
    for key, value in wanted.items():
        assert made.result[share][key] == pytest.approx(value, abs=1e-9), key
    # The deck can tell: the numbers differ, and none of them is 0 or 1 by chance.
    assert 0 < wanted["accuracy_before"] != wanted["accuracy_after"] < 1
    assert 0 < wanted["truncated_before"] != wanted["truncated_after"] < 1
    assert wanted["tokens_before"] != wanted["tokens_after"]


def test_the_three_exams_are_the_same_questions_asked_as_often(made):
    """3 problems with 16 replies each, 4 with 4 to each of two wordings; twice for each kitten."""
    kittens = dict.fromkeys(reply.kitten for reply in made.deck.said)
    asked = [[r.prompt for r in made.deck.said if r.kitten == kitten] for kitten in kittens]
    assert len(asked) == 6 and all(prompts == asked[0] for prompts in asked)
    assert len(asked[0]) == 3 * 16 + 4 * 8
    assert {triple_of(prompt) for prompt in asked[0]} <= set(HELD_OUT_TRIPLES)
    assert made.deck.limits == {LIMIT} and made.deck.temperatures == {1.0}


def test_the_kittens_start_from_the_same_random_weights_and_go_on_from_their_own(made):
    starts = {made.seen[f"reading_{name}"].start for name in SHARES.values()}
    assert len(starts) == 1 and made.chapters_own not in starts
    for name in SHARES.values():
        assert made.seen[f"grpo_{name}"].start == made.seen[f"reading_{name}"].end


@pytest.mark.parametrize("share", SHARES)
def test_a_kitten_reads_twice_a_warm_up_and_its_own_share_of_waits(made, share):
    seen = made.seen[f"reading_{SHARES[share]}"]
    assert seen.config.steps == 2 * RECIPE.warm_up.steps
    assert seen.config.rows_per_step == RECIPE.warm_up.rows_per_step
    wanted = 2 * RECIPE.warm_up.steps * RECIPE.warm_up.rows_per_step * ROW_LENGTH
    assert wanted <= sum(len(document) for document in seen.documents) < wanted + 300
    texts = [made.tokenizer.decode(document.tokens) for document in seen.documents]
    scribbles = [text for text in texts if "<answer>" in text]
    found = sum("wait" in text for text in scribbles) / len(scribbles)
    assert len(scribbles) > 60
    assert found == 0 if share == "0" else abs(found - float(share)) < 0.08
    assert made.seen[f"grpo_{SHARES[share]}"].task.documents is seen.documents


def test_all_practise_the_same_problems_with_the_chapters_recipe(made):
    tasks = [made.seen[f"grpo_{name}"].task for name in SHARES.values()]
    practice = [[exercise.text for exercise in task.practice] for task in tasks]
    assert len(practice[0]) == 6 and practice[0] == practice[1] == practice[2]
    assert all(made.seen[f"grpo_{name}"].recipe is RECIPE for name in SHARES.values())


def test_each_curve_is_that_of_its_kitten(made):
    curves = {label: [entry["accuracy"] for entry in made.drawn[label]] for label in made.drawn}
    assert curves == {"0% read": [0.0], "1% read": [1.0], "10% read": [10.0]}  # in the stage's name
