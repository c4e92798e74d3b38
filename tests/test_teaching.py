"""The teacher's page: every number of a solution is computed again with the package's functions.

A lesson's solution must hold the number as it is written there, so page and code cannot drift. The
Chinese edition is held to the English one, part by part: the same numbers, commands and minutes.
"""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from chapters.check.table import EXERCISES
from chapters.common.exam import pass_at_k
from chapters.common.runner import CHAPTERS, default_settings
from chapters.sheets.lessons import EDITIONS, PARTS, lessons
from kittenllm.dpo import dpo_loss, ipo_loss, preference_metrics
from kittenllm.grpo import group_advantages, grpo_loss
from kittenllm.kitten_town.countdown import Problem, check_answer
from kittenllm.kitten_town.judge import preference_probability
from kittenllm.logprobs import sequence_logprobs, token_logprobs
from kittenllm.orpo import log_odds, orpo_loss
from kittenllm.ppo import gae, kl_shaped_rewards, ppo_policy_loss
from kittenllm.reward_model import bradley_terry_loss, ranking_to_pairs
from kittenllm.settings import Common
from kittenllm.sft import sft_loss
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

ROOT = Path(__file__).parent.parent
PAGES = {language: edition.text for language, edition in EDITIONS.items()}
PAGE = PAGES["en"]
LESSONS = {language: lessons(language) for language in EDITIONS}
BLOCK = re.compile(r"<!-- numbers: .*?<!-- end -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")


def solution(lesson: int, language: str = "en") -> str:
    """The solution of a lesson, on one line."""
    return " ".join(LESSONS[language][lesson - 1].parts["Solution"].split())


def stands_in(lesson: int, *numbers: float, digits: int = 3) -> None:
    """Each number, rounded, is written in the solutions of both languages; 1.040 may stand there
    as 1.04."""
    for language in EDITIONS:
        for number in map(float, numbers):
            rounded = f"{number:.{digits}f}"
            short = rounded.rstrip("0").rstrip(".")
            written = f"(?:{re.escape(rounded)}|{re.escape(short)})"
            found = re.search(rf"(?<![\d.]){written}(?!\.?\d)", solution(lesson, language))
            assert found, f"lesson {lesson}, {language}: {rounded} ({number}) is not in it"


def numbers_in(text: str) -> Counter:
    """The numbers of a text, without those in the targets of links."""
    return Counter(NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", text)))


def logits_with(probabilities: list[float], words: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens of one row whose tokens, from the second on, had these probabilities."""
    tokens = torch.tensor([[0] + [1] * len(probabilities)])
    logits = torch.zeros(1, len(probabilities) + 1, words)
    for t, p in enumerate(probabilities):
        logits[0, t] = math.log((1 - p) / (words - 1))
        logits[0, t, 1] = math.log(p)
    return logits, tokens


# --------------------------------------------------------------------------------- the page's shape


@pytest.mark.parametrize("language", EDITIONS)
def test_six_lessons_with_all_their_parts_in_order(language):
    assert [lesson.number for lesson in LESSONS[language]] == [1, 2, 3, 4, 5, 6]
    for lesson in LESSONS[language]:
        assert tuple(lesson.parts) == PARTS and all(lesson.parts.values())


@pytest.mark.parametrize("language", EDITIONS)
@pytest.mark.parametrize("number", range(1, 7))
def test_a_lesson_has_45_minutes(language, number):
    minutes = [step.minutes for step in LESSONS[language][number - 1].plan]
    assert len(minutes) >= 5 and sum(minutes) == 45


@pytest.mark.parametrize("number", range(1, 7))
def test_both_languages_have_the_same_lesson(number):
    """Numbers, tasks, plan and commands, part by part; so a solution that is computed for one
    language holds for the other."""
    english, chinese = (LESSONS[language][number - 1] for language in EDITIONS)
    for part in PARTS:
        ours, theirs = (lesson.parts[part] for lesson in (english, chinese))
        assert numbers_in(ours) == numbers_in(theirs), part
        counted = [re.findall(r"^(\d+\.|\*) ", text, re.MULTILINE) for text in (ours, theirs)]
        assert counted[0] == counted[1], f"{part}: tasks, questions"
    steps = [[(step.minutes, step.who) for step in one.plan] for one in (english, chinese)]
    assert steps[0] == steps[1]
    for step, other in zip(english.plan, chinese.plan, strict=True):
        assert numbers_in(step.what) == numbers_in(other.what), step.what
    assert english.commands == chinese.commands and english.typed == chinese.typed
    assert list(map(english.is_for_pupils, english.commands)) == list(
        map(chinese.is_for_pupils, chinese.commands)
    )
    codes = [
        Counter(re.findall(r"`([^`\n]+)`", "\n".join(lesson.parts.values())))
        for lesson in (english, chinese)
    ]
    assert codes[0] == codes[1]


def test_both_languages_begin_and_end_alike():
    """The numbers and commands before the first lesson, and of the table at the end."""
    outside = []
    for language, page in PAGES.items():
        first, *_, last = re.split(EDITIONS[language].heading, page, flags=re.MULTILINE)
        text = BLOCK.sub("", first) + last.partition("\n## ")[2]
        commands = re.findall(r"^    (python -m .*?)(?:  +#.*)?$", text, re.MULTILINE)
        text = re.sub(r"<!-- en: .*? -->|^    .*$", "", text, flags=re.MULTILINE)
        outside.append((numbers_in(text), commands))
    assert outside[0] == outside[1] and len(outside[0][1]) == 7


def test_what_is_to_be_run_exists():
    exercises = re.findall(r"python -m chapters\.check (\w+)\b(?! --csv)", PAGE)
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
    names = {chapter.name for chapter in CHAPTERS} | {"enumerable"}
    for chapter, file in shown:
        assert chapter in names and file in sources + "summary.json"
    assert len(shown) >= 8


def test_the_logarithms_and_sigmoids_of_the_introduction():
    for page in PAGES.values():
        for number in (2, 3, 8):
            assert f"log {number} = {math.log(number):.3f}" in page
        for x in (0, 0.5, 1, 3):
            value = torch.tensor(float(x)).sigmoid().item()
            assert f"s({x}) = {value:.3f}".rstrip("0") in page


def test_the_loss_of_a_kitten_that_knows_nothing():
    vocab_size = default_settings("ch0_base", Common()).vocab_size
    asked = LESSONS["en"][0].parts["Ask"]
    assert f"log {vocab_size} = {math.log(vocab_size):.3f}" in " ".join(asked.split())


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
    assert "3 个词元：`mimi`、` mimi`、` mimi`" in solution(1, "zh")


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
    assert f"= {pairs} pairs" in solution(3) and f"= {pairs} 对" in solution(3, "zh")
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
    form = default_settings("ch5_reasoning", Common()).format_weight
    rewards = torch.tensor([form, 1 + form, form, form])
    plain = group_advantages(rewards, group_size=4, normalize_std=False)
    divided = group_advantages(rewards, group_size=4)
    assert_close(plain, torch.tensor([-0.25, 0.75, -0.25, -0.25]))
    assert_close(divided, torch.tensor([-0.5, 1.5, -0.5, -0.5]), atol=5e-4, rtol=0)
    assert "-0.25, 0.75, -0.25, -0.25" in solution(6) and "-0.5, 1.5, -0.5, -0.5" in solution(6)
    stands_in(6, *rewards, rewards.mean(), rewards.std())
    assert group_advantages(torch.full((4,), form), group_size=4).tolist() == [0.0] * 4


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
