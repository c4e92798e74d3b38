"""The teacher's page: every number of a solution is computed again with the package's functions.

A lesson's solution must hold the number as it is written there, so page and code cannot drift.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from chapters.check.table import EXERCISES
from chapters.common.exam import pass_at_k
from chapters.common.runner import CHAPTERS
from kittenllm.dpo import dpo_loss, ipo_loss, preference_metrics
from kittenllm.grpo import group_advantages, grpo_loss
from kittenllm.kitten_town.countdown import Problem, check_answer
from kittenllm.kitten_town.judge import preference_probability
from kittenllm.logprobs import sequence_logprobs, token_logprobs
from kittenllm.orpo import log_odds, orpo_loss
from kittenllm.ppo import gae, kl_shaped_rewards, ppo_policy_loss
from kittenllm.reward_model import bradley_terry_loss, ranking_to_pairs
from kittenllm.sft import sft_loss
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "chapters" / "TEACHING.md").read_text(encoding="utf-8")
LESSONS = dict(enumerate(re.split(r"^## Lesson \d: ", PAGE, flags=re.MULTILINE)[1:], start=1))
PARTS = ("Goal", "Preparation", "Run", "Ask", "On paper", "Solution", "Homework")


def solution(lesson: int) -> str:
    """The text between "Solution" and "Homework" of a lesson, on one line."""
    text = LESSONS[lesson].split("**Solution**")[1].split("**Homework.**")[0]
    return " ".join(text.split())


def stands_in(lesson: int, *numbers: float, digits: int = 3) -> None:
    """Each number, rounded, is written in the solution; 1.040 may stand there as 1.04."""
    for number in map(float, numbers):
        rounded = f"{number:.{digits}f}"
        short = rounded.rstrip("0").rstrip(".")
        written = f"(?:{re.escape(rounded)}|{re.escape(short)})"
        found = re.search(rf"(?<![\d.]){written}(?!\.?\d)", solution(lesson))
        assert found, f"lesson {lesson}: {rounded} ({number}) is not in the solution"


def logits_with(probabilities: list[float], words: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens of one row whose tokens, from the second on, had these probabilities."""
    tokens = torch.tensor([[0] + [1] * len(probabilities)])
    logits = torch.zeros(1, len(probabilities) + 1, words)
    for t, p in enumerate(probabilities):
        logits[0, t] = math.log((1 - p) / (words - 1))
        logits[0, t, 1] = math.log(p)
    return logits, tokens


# --------------------------------------------------------------------------------- the page's shape


def test_six_lessons_with_all_their_parts():
    assert list(LESSONS) == [1, 2, 3, 4, 5, 6]
    for lesson, text in LESSONS.items():
        for part in PARTS:
            assert f"**{part}" in text, f"lesson {lesson} has no {part}"
        places = [text.index(f"**{part}") for part in PARTS]
        assert places == sorted(places)


@pytest.mark.parametrize("lesson", range(1, 7))
def test_a_lesson_has_45_minutes(lesson):
    minutes = [int(number) for number in re.findall(r"^\| (\d+) \|", LESSONS[lesson], re.MULTILINE)]
    assert len(minutes) >= 5 and sum(minutes) == 45


def test_what_is_to_be_run_exists():
    exercises = re.findall(r"python -m chapters\.check (\w+)", PAGE)
    assert len(exercises) >= 8 and set(exercises) <= set(EXERCISES)
    exhibits = re.findall(r"python -m chapters\.museum ([a-z][\w-]*)", PAGE)
    halls = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "chapters/museum").glob("hall_*.py")
    )
    assert exhibits and all(f'name="{name}"' in halls for name in exhibits)
    from chapters.trace.__main__ import TOPICS

    traced = re.findall(r"python -m chapters\.trace (\w+)", PAGE)
    assert len(traced) >= 5 and set(traced) <= set(TOPICS)


def test_the_pictures_that_are_shown_are_drawn():
    """`runs/ch3_ppo/token_credit.png` is written by some file of chapters/."""
    files = (ROOT / "chapters").rglob("*.py")
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    shown = re.findall(r"`runs/(\w+)/(\w+\.\w+)`", PAGE)
    names = {chapter.name for chapter in CHAPTERS}
    for chapter, file in shown:
        assert chapter in names and file in sources + "summary.json"
    assert len(shown) >= 8


def test_the_logarithms_and_sigmoids_of_the_introduction():
    for number in (2, 3, 8):
        assert f"log {number} = {math.log(number):.3f}" in PAGE
    for x in (0, 0.5, 1, 3):
        value = torch.tensor(float(x)).sigmoid().item()
        assert f"s({x}) = {value:.3f}".rstrip("0") in PAGE


# ----------------------------------------------------------------------------------- the six papers


def test_lesson_1_tokens():
    text = "mimi mimi mimi"
    tokens = {}
    for merges in (0, 1, 2, 3):
        tokenizer = Tokenizer(train_bpe(text, SMALLEST_VOCABULARY + merges))
        tokens[merges] = tokenizer.tokens_as_text(tokenizer.encode(text))
    assert len(tokens[0]) == 14
    assert tokens[1] == ["mi", "mi", " ", "mi", "mi", " ", "mi", "mi"]
    assert tokens[2] == ["mimi", " ", "mimi", " ", "mimi"]
    assert tokens[3] == ["mimi", " mimi", " mimi"]
    assert "3 tokens now: `mimi`, ` mimi`, ` mimi`" in solution(1)


def test_lesson_1_surprise():
    logits, tokens = logits_with([1 / 2, 1 / 4, 1 / 8, 1 / 4])
    nats = -token_logprobs(logits, tokens)[0]  # (4,)
    bits = nats / math.log(2)
    assert_close(bits, torch.tensor([1.0, 2.0, 3.0, 2.0]))
    stands_in(1, nats.mean(), bits.mean(), bits.sum() / 16, math.log(2))
    knows_nothing = -token_logprobs(torch.zeros(1, 2, 1024), torch.tensor([[0, 5]]))
    stands_in(1, knows_nothing, knows_nothing / math.log(2))


def test_lesson_2():
    logits, tokens = logits_with([1 / 8, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1 / 8])

    def loss(*trained: int) -> float:
        loss_mask = torch.zeros(1, 7, dtype=torch.bool)
        loss_mask[0, list(trained)] = True
        return sft_loss(logits, tokens, loss_mask)[0].item()

    right, without_end, everything, shifted = (
        loss(4, 5, 6),
        loss(4, 5),
        loss(1, 2, 3, 4, 5, 6),
        loss(3, 4, 5),
    )
    stands_in(2, right, without_end, everything, shifted)
    assert right == pytest.approx(2 * math.log(2))
    assert everything == pytest.approx(11 / 6 * math.log(2))
    assert shifted == pytest.approx(4 / 3 * math.log(2))
    assert shifted == min(right, without_end, everything, shifted)


def test_lesson_3():
    chosen, rejected = torch.tensor([1.5]), torch.tensor([0.5])
    if_a, if_b = bradley_terry_loss(chosen, rejected)[0], bradley_terry_loss(rejected, chosen)[0]
    stands_in(3, (-if_a).exp(), (-if_b).exp(), if_a, if_b)
    assert_close(bradley_terry_loss(chosen + 10, rejected + 10)[0], if_a)
    pairs = len(ranking_to_pairs(["a", "b", "c", "d"]))
    assert f"= {pairs} pairs" in solution(3)
    best = [preference_probability(difference, 0.0) for difference in (0, 1, 3)]
    stands_in(3, *best, sum(best) / 3)


def test_lesson_4_credit():
    mask = torch.ones(1, 3, dtype=torch.bool)
    ref = torch.full((1, 3), -2.0)
    logprobs = ref + torch.tensor([[0.5, 0.0, -0.5]])
    rewards = kl_shaped_rewards(torch.tensor([1.0]), logprobs, ref, mask, kl_coef=0.2)
    assert_close(rewards, torch.tensor([[-0.1, 0.0, 1.1]]))
    assert "1. -0.1, 0, and 1 + 0.1 = 1.1." in solution(4)
    values = torch.tensor([[0.4, 0.6, 0.8]])
    td_errors, half, full = (
        gae(rewards, values, mask, gamma=1.0, lam=lam)[0] for lam in (0.0, 0.5, 1.0)
    )
    assert_close(td_errors, torch.tensor([[0.1, 0.2, 0.3]]))
    assert_close(half, torch.tensor([[0.275, 0.35, 0.3]]))
    assert_close(full, torch.tensor([[0.6, 0.5, 0.3]]))
    stands_in(4, *td_errors[0], *half[0])
    assert "For lam = 1: 0.6, 0.5, 0.3" in solution(4)


def test_lesson_4_clip():
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0]])
    old = torch.full((1, 4), -1.0)
    logprobs = (old + ratios.log()).requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    paid = []
    for t in range(4):
        one = mask.clone()
        one[0] = torch.arange(4) == t
        loss, _ = ppo_policy_loss(logprobs, old, advantages, one, clip_eps=0.2)
        paid.append(-loss.item())
    assert paid == pytest.approx([2.4, 1.0, -3.0, -1.6])
    for text in ("= 2.4,", "= 1,", "= -3,", "= -1.6."):
        assert text in solution(4)
    loss, _ = ppo_policy_loss(logprobs, old, advantages, mask, clip_eps=0.2)
    stands_in(4, loss.item())
    loss.backward()
    assert (logprobs.grad[0] != 0).tolist() == [False, True, True, False]
    assert "The second and the third still pull" in solution(4)


def test_lesson_5():
    chosen, rejected, ref = torch.tensor([-4.0]), torch.tensor([-5.0]), torch.tensor([-5.0])
    metrics = preference_metrics(chosen, rejected, ref, ref, beta=0.5)
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (0.5, 0.0)
    now, start = (
        dpo_loss(chosen, rejected, ref, ref, beta=0.5)[0],
        dpo_loss(ref, ref, ref, ref, beta=0.5)[0],
    )
    stands_in(5, metrics["margin"], metrics["margin"].sigmoid(), now, start)
    assert ipo_loss(chosen, rejected, ref, ref, beta=0.5)[0] == 0
    assert ipo_loss(ref, ref, ref, ref, beta=0.5)[0] == 1
    assert "The loss is 0:" in solution(5) and "(0 - 1)^2 = 1" in solution(5)
    half, quarter = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert_close(log_odds(half).exp(), torch.tensor([1.0]))
    assert_close(log_odds(quarter).exp(), torch.tensor([1 / 3]))
    loss, numbers = orpo_loss(half, quarter, weight=2.0)
    ratio = numbers["margin"]
    stands_in(5, ratio, ratio.sigmoid(), numbers["odds_loss"], numbers["nll"], loss)


def test_lesson_6_groups():
    rewards = torch.tensor([0.1, 1.1, 0.1, 0.1])
    plain = group_advantages(rewards, group_size=4, normalize_std=False)
    divided = group_advantages(rewards, group_size=4)
    assert_close(plain, torch.tensor([-0.25, 0.75, -0.25, -0.25]))
    assert_close(divided, torch.tensor([-0.5, 1.5, -0.5, -0.5]), atol=5e-4, rtol=0)
    assert "-0.25, 0.75, -0.25, -0.25" in solution(6) and "-0.5, 1.5, -0.5, -0.5" in solution(6)
    stands_in(6, rewards.mean(), rewards.std())
    assert group_advantages(torch.full((4,), 0.1), group_size=4).tolist() == [0.0] * 4


def test_lesson_6_lengths():
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :2] = mask[1] = True
    old = torch.full((2, 8), -1.0)
    assert sequence_logprobs(old, mask, reduce="sum").tolist() == [-2.0, -8.0]
    push = {}
    for normalize, most in (("reply", None), ("token", None), ("constant", 10)):
        logprobs = old.clone().requires_grad_()
        loss, _ = grpo_loss(
            logprobs, old, torch.tensor([-1.0, -1.0]), mask, normalize=normalize, max_tokens=most
        )
        loss.backward()
        push[normalize] = (logprobs.grad[0, 0].item(), logprobs.grad[1, 0].item())
    assert push["reply"] == pytest.approx((0.25, 0.0625))
    assert push["token"] == pytest.approx((0.1, 0.1))
    assert push["constant"] == pytest.approx((0.05, 0.05))
    stands_in(6, *push["reply"], *push["token"], *push["constant"], digits=4)
    assert "four times less" in solution(6)


def test_lesson_6_luck():
    stands_in(6, pass_at_k(16, 4, 1), pass_at_k(16, 4, 2), 1 - 0.8**8)
    assert check_answer("3*8=24,24-5=19", Problem((3, 5, 8), 19))  # the game of the first minutes
