"""Standard errors by topic: by hand, in a simulation, and that every number has right topics."""

import math

import pytest
import torch

from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch4_preferences.story import AskedPairs, split_pairs, watch
from chapters.common import exam
from chapters.common.exam import Exercise, Result, countdown_held_out
from chapters.common.pairs import LabelledPair
from chapters.common.terminal import with_error
from kittenllm import evaluation
from kittenllm.evaluation import mean_and_error
from kittenllm.kitten_town.chats import Question
from kittenllm.kitten_town.meow_tasks import Task
from kittenllm.kitten_town.tool_chats import Request
from kittenllm.settings import Common

# ----------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(
    "values, topics, mean, error",
    [
        # Two topics: deviations +1 and -1, sqrt(2 / 1 * (1 + 1)) / 4.
        ([1, 1, 0, 0], "aabb", 0.5, 0.5),
        # Deviations that cancel inside a topic leave no doubt.
        ([1, 0, 1, 0], "aabb", 0.5, 0.0),
        # Unequal sizes: mean 3/4, deviations 3/4 and -3/4, sqrt(2 * (9/16 + 9/16)) / 4.
        ([1, 1, 1, 0], "aaab", 0.75, 0.375),
        # Three topics: mean 1, deviations -1, 0, +1, sqrt(3 / 2 * 2) / 3.
        ([0, 1, 2], "abc", 1.0, math.sqrt(3) / 3),
    ],
)
def test_by_hand(values, topics, mean, error):
    assert mean_and_error(values, topics) == (pytest.approx(mean), pytest.approx(error, abs=1e-12))


def test_one_value_per_topic_is_the_usual_error():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, error = mean_and_error(values.tolist(), range(50))
    assert error == pytest.approx(values.std().item() / math.sqrt(50), rel=1e-12)


def test_one_topic_says_nothing_about_other_topics():
    assert mean_and_error([1.0, 0.0, 1.0], ["wire"] * 3) == (pytest.approx(2 / 3), None)
    assert mean_and_error([], []) == (None, None)
    assert with_error(2 / 3, None, ".1%") == "66.7% +- n/a"
    assert with_error(None, None, ".1%") == "n/a" == with_error(math.nan, None, ".1%")
    assert with_error(0.612, 0.029, ".1%") == "61.2% +- 2.9%"
    with pytest.raises(ValueError):
        mean_and_error([1.0, 2.0], ["wire"])


def test_another_draw_of_topics():
    """30 topics with 4, 8 or 12 values, each topic with an effect of its own. The true standard
    deviation of the mean is 0.2 and is found to 3 %; values taken as independent give a third."""
    dice = torch.Generator().manual_seed(0)
    sizes = torch.tensor([4, 8, 12] * 10)
    topics = torch.arange(30).repeat_interleave(sizes)  # (240,)
    true_error = math.sqrt((sizes**2).sum() / 240**2 + 0.25 / 240)
    squares, naive = [], []
    for _ in range(1500):
        values = torch.randn(30, generator=dice)[topics] + 0.5 * torch.randn(240, generator=dice)
        squares.append(mean_and_error(values.tolist(), topics.tolist())[1] ** 2)
        naive.append(values.var().item() / 240)
    assert math.sqrt(sum(squares) / 1500) == pytest.approx(true_error, rel=0.03)
    assert math.sqrt(sum(naive) / 1500) < 0.4 * true_error


# ----------------------------------------------------------------------------- what is about what


def test_what_a_question_is_about():
    def about(kind, *topic):
        return Question(kind, "?", topic).about

    assert about("sum", 2, 3) == about("sum", 3, 2) != about("sum", 2, 4)
    assert about("risky", "eat", "grapes") == about("risky", "eat", "grapes")
    assert about("fact", "Pip", "home") != about("fact", "Pip", "color")
    assert about("story", "Pip") != about("greeting", "Pip")


def test_what_a_request_and_a_program_are_about():
    def about(*calls):
        return Request("plan", "?", calls, ("1",) * len(calls), "").about

    assert about("calc 85-4") == about("calc 4+85", "calc 89+1") != about("calc 85-5")
    assert about("search star Velvet") == about("search star Velvet", "calc 34+1")
    assert about("search star Velvet") != about("search sofa Olive")
    assert Task("write", "purr 1", "a?", "b").about == Task("repair", "purr 1", "c?", "d").about


def test_a_kitten_that_knows_half_of_the_things():
    """Ten questions each about two dangerous things, one of which it knows: the error is 1/2."""
    replies = []
    for thing in ("wire", "glue"):
        for wording in range(10):
            question = Question("risky", f"{thing} {wording}?", ("chew", thing))
            verdict = evaluation.Verdict(thing == "wire", "plain", 0.0)
            replies.append(evaluation.Reply(question, "", [], True, verdict))
    rate = evaluation.rate(replies, lambda reply: reply.verdict.right)
    assert rate == (0.5, pytest.approx(0.5))  # questions taken as independent: 0.115
    scores = evaluation.scores_of({"risky": replies, "fact": replies[:10]})
    assert scores["safe_rate_stderr"] == pytest.approx(0.5)
    assert scores["gold"] == 0.0 and scores["gold_stderr"] is None  # one fact tells of no other


def test_problems_with_one_triple_are_one_topic():
    def results(*rows):
        found = []
        for problem, triple, right in rows:
            exercise = Exercise(problem, lambda text: 0.0, problem, triple)
            found.append(Result(exercise, "", 5, True, right, True, 0))
        return found

    rows = [("a", (1, 2, 3), True), ("b", (1, 2, 3), True), ("c", (4, 5, 6), False)]
    rows.append(("d", (4, 5, 6), False))
    found = results(*rows)
    assert exam.rate(found, lambda r: r.right) == (0.5, pytest.approx(0.5))
    assert exam.best_accuracy(found, 1) == exam.vote_accuracy(found, 1) == (0.5, pytest.approx(0.5))
    assert exam.scores_of(found)["tokens_right_stderr"] is None  # right about one triple only
    sixteen = [result for result in found for _ in range(exam.PASS_SAMPLES)]
    means, errors = exam.pass_rates(sixteen)
    assert means["1"] == 0.5 and errors["1"] == pytest.approx(0.5)
    alone = results(*[(problem, "", right) for problem, _, right in rows])
    assert exam.rate(alone, lambda r: r.right)[1] == pytest.approx(math.sqrt(1 / 3) / 2)


def test_the_exam_knows_its_triples():
    held_out = countdown_held_out()
    topics = {exercise.about for wordings in held_out for exercise in wordings}
    assert len(held_out) == 283 and len(topics) == 36
    assert all(len(topic) == 3 for topic in topics)


# ------------------------------------------------------------------ the watched pairs of chapter 4


def a_pair(prompt: int, reply: int = 0, thing: str = "") -> LabelledPair:
    question = Question("risky", f"{prompt}?", ("chew", thing)) if thing else None
    return LabelledPair(question, [prompt], [reply, 1], [reply, 2])


def test_watched_pairs_are_about_topics_that_are_not_learnt(monkeypatch):
    """The pairs to learn from are drawn as before; the watched ones ask about held-out topics."""
    calls = []

    def sample_pairs(*args, count, held_out=False, **drawn):
        calls.append((count, held_out, drawn["rng"].random()))
        return [a_pair(0)]

    monkeypatch.setattr(ch4_preferences, "sample_pairs", sample_pairs)
    common = Common(seed=0, device=torch.device("cpu"))
    settings = ch4_preferences.Settings()
    ch4_preferences.read_pairs(common, None, None, settings)
    assert [call[:2] for call in calls] == [(10_500, False), (300, True)]
    assert calls[0][2] != calls[1][2]  # their dice are apart: neither moves the other


@pytest.mark.parametrize("prompts, each", [(40, 5), (2, 10), (3, 1), (100, 1)])
def test_a_watched_prompt_of_a_file_is_not_learnt(prompts, each):
    pairs = [a_pair(prompt, reply) for prompt in range(prompts) for reply in range(each)]
    learnt, watched = split_pairs(pairs, 300, seed=0)
    assert learnt and watched
    assert not {tuple(pair.prompt) for pair in learnt} & {tuple(pair.prompt) for pair in watched}
    assert len(learnt) + len(watched) == len(pairs)
    assert len(watched) <= max(each, len(pairs) // 10 + each - 1)


def test_pairs_about_one_prompt_are_learnt_and_watched(capsys):
    pairs = [a_pair(7, reply) for reply in range(5)]
    assert split_pairs(pairs, 3, seed=0) == (pairs, pairs[:3])
    assert "what is watched below is what is learnt" in capsys.readouterr().out


def test_the_watched_curve_has_errors_by_topic(monkeypatch):
    """Two pairs about the wire gain 2 nats, two about the glue gain 0: 1 +- 1."""
    changed = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    monkeypatch.setattr("chapters.ch4_preferences.story.reference_logprobs", lambda *_: changed)
    pairs = [a_pair(n, thing="wire" if n < 2 else "glue") for n in range(4)]
    numbers = watch(None, AskedPairs(pairs, torch.zeros(4, 2), seconds=0.0))
    assert numbers["unseen_margin"] == 1.0
    assert numbers["unseen_margin_stderr"] == pytest.approx(1.0)
    assert numbers["unseen_accuracy"] == 0.75
