"""The numbers of chapters 3 and 4, each made a second time from the replies by plain loops.

The kittens are tiny and untrained, with weights large enough that they disagree. A number that is
upside down, taken from the wrong questions or given to the wrong setting is found here.
"""

import math
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from byte_kitten import small_config

from chapters.ch2_reward_model import story as ch2_reward_model
from chapters.ch3_ppo import overoptimisation
from chapters.ch3_ppo import story as ch3_ppo
from chapters.ch4_preferences import frontier
from chapters.ch4_preferences import story as ch4_preferences
from chapters.common import measuring
from chapters.common.kitten import Kitten
from chapters.common.measuring import first_replies, golds_of, kl_and_reward, win_rate
from chapters.common.pairs import LabelledPair
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import Reply
from kittenllm.gpt import GPT
from kittenllm.kitten_town import facts, manners
from kittenllm.kitten_town.chats import KIND_SHARES, KINDS, Question
from kittenllm.kitten_town.judge import Verdict, judge
from kittenllm.ppo import ValueModel
from kittenllm.reward_model import RewardModel
from kittenllm.runs.run import Run
from kittenllm.sampling import generate
from kittenllm.scorer import Scorer
from kittenllm.settings import Common, with_values
from kittenllm.tokenizer import Tokenizer, train_bpe

TOWN = facts.build_town()
FEW = {kind: (2, 3) for kind in KINDS}  # two questions of each kind, three replies to each
COMMON = Common(seed=0, device=torch.device("cpu"), quick=True)
EXACT = {"rel": 1e-4, "abs": 1e-4}  # float32 sums in another order


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_bpe("the kitten eats the fish, my dear. " * 20, 400))


def kitten(tokenizer: Tokenizer, seed: int) -> GPT:
    """An untrained kitten with opinions of its own."""
    gpt = GPT(small_config(tokenizer), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return gpt


@pytest.fixture(scope="module")
def world(tokenizer):
    """Policy, reference and reward model as chapter 3 (`judged`) and chapter 4 (`start`) hold
    them; the scorer's zero and unit are not 0 and 1."""
    policy, reference = kitten(tokenizer, 5), kitten(tokenizer, 2)
    reward_model = RewardModel(kitten(tokenizer, 3))
    with torch.no_grad():
        reward_model.head.copy_(torch.randn(16, generator=torch.Generator().manual_seed(4)))
    scorer = Scorer(reward_model, mean=0.7, std=3.0)
    start = Kitten(reference, tokenizer, COMMON)
    judged = replace(start, scorer=scorer)
    return SimpleNamespace(policy=policy, judged=judged, start=start, tokenizer=tokenizer)


def said(tokenizer, kind, text, words, *, ended=True, score=0.0):
    """A reply to the question `text`, with tokens of its own."""
    tokens = tokenizer.encode(words)
    question = Question(kind, text, (text, "color"))
    return Reply(question, words, tokens, ended, Verdict(True, "plain", score))


@pytest.fixture(scope="module")
def replies(tokenizer):
    """Two kinds, questions of different length, a third reply that is not measured, a reply that
    did not end, and an empty one."""
    about_facts = [
        said(tokenizer, "fact", "What does the kitten eat?", "the fish"),
        said(tokenizer, "fact", "What does the kitten eat?", "the kitten, my dear.", ended=False),
        said(tokenizer, "fact", "What does the kitten eat?", "not to be measured"),
        said(tokenizer, "fact", "Fish?", "eats eats eats"),
        said(tokenizer, "fact", "Fish?", ""),
    ]
    stories = [
        said(tokenizer, "story", "A story, my dear?", "the kitten eats the fish"),
        said(tokenizer, "story", "Another one?", "dear"),
    ]
    return {"fact": about_facts, "story": stories}


# ---------------------------------------------------------------- the plain way to the same numbers


@torch.no_grad()
def plain_kl(
    policy: GPT, reference: GPT, tokenizer: Tokenizer, reply: Reply, end: int | None = None
) -> float:
    """sum over the reply's tokens (its end of turn is one) of log policy - log reference."""
    prompt = chat_prompt(tokenizer, reply.question.messages())
    end = tokenizer.im_end_id if end is None else end
    row = prompt + reply.tokens + ([end] if reply.ended else [])
    logs = [gpt(torch.tensor([row]))[0].log_softmax(dim=-1) for gpt in (policy, reference)]
    total = 0.0
    for place in range(len(prompt), len(row)):
        total += float(logs[0][place - 1, row[place]] - logs[1][place - 1, row[place]])
    return total


@torch.no_grad()
def plain_reward(
    scorer: Scorer, tokenizer: Tokenizer, reply: Reply, end: int | None = None
) -> float:
    """One row, no padding, in the scorer's unit."""
    prompt = chat_prompt(tokenizer, reply.question.messages())
    end = tokenizer.im_end_id if end is None else end
    row = prompt + reply.tokens + ([end] if reply.ended else [])
    raw = float(scorer.reward_model(torch.tensor([row]), torch.tensor([len(row)])))
    return (raw - scorer.mean) / scorer.std


def kl_by(policy: GPT, reference: GPT, tokenizer: Tokenizer):
    return lambda reply: plain_kl(policy, reference, tokenizer, reply)


def reward_by(scorer: Scorer, tokenizer: Tokenizer):
    return lambda reply: plain_reward(scorer, tokenizer, reply)


def plain_mean(replies: dict[str, list[Reply]], value, *, most: int = 10**9) -> float:
    """Replies into questions, questions into kinds, kinds with their shares."""
    total = 0.0
    for kind, of_kind in replies.items():
        by_question: dict[str, list[float]] = {}
        for reply in of_kind:
            values = by_question.setdefault(reply.question.text, [])
            if len(values) < most:
                values.append(value(reply))
        means = [sum(values) / len(values) for values in by_question.values()]
        total += KIND_SHARES[kind] * sum(means) / len(means)
    return total / sum(KIND_SHARES[kind] for kind in replies)


# -------------------------------------------------------------------------------- KL and the reward


def test_kl_and_reward_of_chapter_3(world, replies):
    policy, start = world.policy, world.judged
    found = kl_and_reward(policy, start, replies)
    kl, reward = found["kl"], found["reward"]
    kl_of = kl_by(policy, start.gpt, start.tokenizer)
    score_of = reward_by(start.scorer, start.tokenizer)
    assert kl == pytest.approx(plain_mean(replies, kl_of, most=2), **EXACT)
    assert reward == pytest.approx(plain_mean(replies, score_of, most=2), **EXACT)
    # Each mistake would be seen: another sign, the third reply, kinds that count alike.
    assert abs(kl) > 0.1
    assert abs(kl - plain_mean(replies, kl_of)) > 0.01
    alike = [plain_mean({kind: replies[kind]}, kl_of, most=2) for kind in replies]
    assert abs(kl - sum(alike) / 2) > 0.01


def test_kl_of_chapter_4(world, replies):
    policy, start = world.policy, world.start
    found = kl_and_reward(policy, start, replies)
    kl_of = kl_by(policy, start.gpt, start.tokenizer)
    assert found["kl"] == pytest.approx(plain_mean(replies, kl_of, most=2), **EXACT)
    assert set(found) == {"kl", "kl_stderr"}  # no reward without a scorer
    assert kl_and_reward(start.gpt, start, replies)["kl"] == 0.0


def test_kl_of_a_kittens_own_replies_is_above_zero(world):
    """Of many replies that the policy drew itself: upside down it would be far below 0."""
    found = kl_and_reward(world.policy, world.start, own_replies(world))
    assert found["kl"] > 3 * found["kl_stderr"] > 0


def own_replies(world) -> dict[str, list[Reply]]:
    questions = [Question("fact", f"{n} fish?", (str(n), "color")) for n in range(24)]
    rollout = generate(
        world.policy,
        [chat_prompt(world.tokenizer, question.messages()) for question in questions],
        max_new_tokens=8,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    verdict = Verdict(True, "plain", 0.0)
    drawn = zip(questions, rollout.replies(), rollout.ended.tolist(), strict=True)
    return {"fact": [Reply(q, "", tokens, ended, verdict) for q, tokens, ended in drawn]}


def test_two_replies_to_a_question_are_measured(replies):
    assert first_replies(replies["fact"]) == [replies["fact"][i] for i in (0, 1, 3, 4)]
    a, b = replies["fact"][0], replies["fact"][3]
    assert first_replies([a, b, a, b, a, b]) == [a, a, b, b]  # side by side or not


# -------------------------------------------------------------------------- who is asked about what


def is_held_out(question: Question) -> bool:
    """Looked up in the town; whoever greets without a name, or with a made-up one, is taught."""
    kind, topic = question.kind, question.topic
    if kind == "fact":
        return topic in {(fact.kitten, fact.attribute) for fact in TOWN.held_out_facts}
    if kind in ("risky", "allowed"):
        return topic in {(thing.verb, thing.name) for thing in TOWN.held_out_things}
    if kind == "sum":
        return bool({topic, topic[::-1]} & set(TOWN.held_out_sums))
    if kind == "greeting":
        return topic[0] in TOWN.held_out_guests
    if kind == "story":
        return topic[0] in TOWN.held_out_heroes
    if kind == "talk":
        return topic[1] in manners.TALK[topic[0]][1]
    if kind == "outside" and "+" in topic[0]:
        return sum(map(int, topic[0].split("+"))) % 2 == 1
    if kind == "outside" and topic[0] in manners.OUTSIDE:
        return topic[0] in manners.HELD_OUT_OUTSIDE
    if kind == "outside":  # no taught stranger has a name of such letters
        return sum(map(ord, topic[0])) % 4 == 0
    held_out = [text.split("{act}")[0] for text in manners.HELD_OUT_WISH_QUESTIONS]
    return question.text.startswith(tuple(held_out))


def recorded(monkeypatch) -> list[dict[str, list[Reply]]]:
    """What `evaluate` gave to `measure`, call by call; few questions, so that it is quick."""
    seen, real = [], measuring.evaluate

    def evaluate(*args, counts, **named):
        scores, replies = real(*args, counts=FEW, **named)
        seen.append(replies)
        return scores, replies

    monkeypatch.setattr(measuring, "evaluate", evaluate)
    return seen


def test_chapter_3_measures_on_held_out_questions(world, monkeypatch):
    seen = recorded(monkeypatch)
    found = measuring.measure(world.policy, world.judged, "ch3_ppo", "after")
    (replies,) = seen
    asked = [reply.question for of_kind in replies.values() for reply in of_kind]
    assert set(replies) == set(KINDS) and all(is_held_out(question) for question in asked)
    golds = plain_mean(replies, lambda reply: reply.verdict.score)
    assert found["gold"] == pytest.approx(golds)
    policy, start = world.policy, world.judged
    kl = plain_mean(replies, kl_by(policy, start.gpt, start.tokenizer), most=2)
    reward = plain_mean(replies, reward_by(start.scorer, start.tokenizer), most=2)
    assert found["kl"] == pytest.approx(kl, **EXACT)
    assert found["reward"] == pytest.approx(reward, **EXACT)


def test_chapter_4_measures_on_held_out_questions(world, monkeypatch):
    seen = recorded(monkeypatch)
    rivals = measuring.measure(world.start.gpt, world.start, "chat")
    found = measuring.measure(world.policy, world.start, "dpo", rivals=rivals["golds"])
    before, replies = seen
    asked = [reply.question for of_kind in replies.values() for reply in of_kind]
    assert set(replies) == set(KINDS) and all(is_held_out(question) for question in asked)
    assert rivals["kl"] == 0.0 and "win_rate" not in rivals
    kl_of = kl_by(world.policy, world.start.gpt, world.tokenizer)
    kl = plain_mean(replies, kl_of, most=2)
    assert found["kl"] == pytest.approx(kl, **EXACT)
    assert found["golds"] == golds_of(replies) and rivals["golds"] == golds_of(before)
    assert found["win_rate"] == win_rate(replies, rivals["golds"])[0]


def test_the_quick_look_of_chapter_3(world, monkeypatch):
    """Held-out questions, and means of what the judge, the scorer and both kittens say."""
    asked, real = [], measuring.answers

    def answers(policy, start, questions, salt):
        rollout = real(policy, start, questions, salt)
        asked.append((questions, rollout))
        return rollout

    monkeypatch.setattr(measuring, "answers", answers)
    numbers, _ = measuring.watch(world.policy, world.judged, 12)
    ((questions, rollout),) = asked
    assert len(questions) == 12 and all(is_held_out(question) for question in questions)
    golds, kls, scores = [], [], []
    ends = rollout.ended.tolist()
    rows = zip(rollout.tokens[:, 1:], rollout.response_mask, strict=True)
    last = [int(row[mask][-1]) for row, mask in rows]
    drawn = zip(questions, rollout.replies(), ends, last, strict=True)
    for question, tokens, ended, end in drawn:  # this kitten may end with <|endoftext|> as well
        text = world.tokenizer.decode(tokens)
        verdict = judge(TOWN, question, text, tokens, ended=ended)
        reply = Reply(question, text, tokens, ended, verdict)
        golds.append(verdict.score)
        kls.append(plain_kl(world.policy, world.start.gpt, world.tokenizer, reply, end))
        scores.append(plain_reward(world.judged.scorer, world.tokenizer, reply, end))
    assert numbers["gold"] == pytest.approx(sum(golds) / 12)
    assert numbers["kl_held_out"] == pytest.approx(sum(kls) / 12, **EXACT)
    assert numbers["proxy"] == pytest.approx(sum(scores) / 12, **EXACT)


def test_chapter_3_trains_on_taught_questions():
    questions = measuring.taught_questions(COMMON, 200, "train")
    assert not any(is_held_out(question) for question in questions)
    assert {question.kind for question in questions} == set(KINDS)


@pytest.mark.parametrize(
    "shares", [ch2_reward_model.COMPARED_SHARES, ch3_ppo.ASKED_SHARES], ids=["compared", "asked"]
)
def test_what_a_chapter_asks_has_shares_that_sum_to_1(shares):
    """Of every kind a little; of fine things more than of dangerous ones."""
    assert shares.keys() == set(KINDS) and min(shares.values()) > 0
    assert math.isclose(sum(shares.values()), 1.0)
    assert shares["allowed"] > shares["risky"]
    count = 4000
    asked = measuring.taught_questions(COMMON, count, "prompts", shares)
    kinds = Counter(question.kind for question in asked)
    for kind, share in shares.items():
        assert abs(kinds[kind] - count * share) < 4 * math.sqrt(count * share * (1 - share)), kind


def test_questions_have_the_shares_of_the_town_unless_others_are_given():
    town = measuring.taught_questions(COMMON, 200, "credit")
    assert town == measuring.taught_questions(COMMON, 200, "credit", KIND_SHARES)
    assert town != measuring.taught_questions(COMMON, 200, "credit", ch3_ppo.ASKED_SHARES)


def test_ppo_is_asked_with_its_own_shares(world, tmp_path, monkeypatch):
    """The prompts of the loop are those questions, in chat format, and no others."""
    given = []
    monkeypatch.setattr(ch3_ppo, "train_ppo", lambda *models, **_: given.extend(models) or iter(()))
    chapter = Run(replace(COMMON, runs=tmp_path), "ch3_ppo", ch3_ppo.Settings())
    config = ch3_ppo.PPOConfig(steps=3, replies_per_step=20)
    value_model = ValueModel(kitten(world.tokenizer, 6))
    looks = {"watch_every": 3, "watch_questions": 1}
    ch3_ppo.train(chapter, world.judged, "train", world.policy, value_model, config, **looks)
    policy, reference, value, prompts, scorer = given
    assert (policy, reference, value) == (world.policy, world.start.gpt, value_model)
    assert scorer is world.judged.scorer
    asked = measuring.taught_questions(COMMON, 60, "prompts", ch3_ppo.ASKED_SHARES)
    assert prompts == [chat_prompt(world.tokenizer, question.messages()) for question in asked]


# --------------------------------------------------------------------------- settings to algorithms


def test_every_setting_reaches_its_own_method():
    """Every number is another one, so a number in a wrong place is seen."""
    values = {
        "pairs_per_step": 7,
        "beta": 0.11,
        "label_smoothing": 0.12,
        "ipo_beta": 0.13,
        "orpo_weight": 0.14,
        "matrix_lr": 0.21,
        "other_lr": 0.22,
        "ipo_matrix_lr": 0.23,
        "ipo_other_lr": 0.24,
        "orpo_matrix_lr": 0.25,
        "orpo_other_lr": 0.26,
    }
    settings = with_values(ch4_preferences.Settings(), values)
    methods = {name: asdict(config) for name, config in settings.methods(steps=9).items()}
    expected = {
        "dpo": {"loss": "dpo", "beta": 0.11, "label_smoothing": 0.12},
        "ipo": {"loss": "ipo", "beta": 0.13, "label_smoothing": 0.0},
        "orpo": {"weight": 0.14},
    }
    rates = {"dpo": (0.21, 0.22), "ipo": (0.23, 0.24), "orpo": (0.25, 0.26)}
    assert list(methods) == list(expected)
    for name, own in expected.items():
        matrix_lr, other_lr = rates[name]
        shared = {"steps": 9, "pairs_per_step": 7, "matrix_lr": matrix_lr, "other_lr": other_lr}
        assert methods[name] | own | shared == methods[name], name


def test_the_frontier_changes_one_number_of_each_method():
    explored = frontier.FrontierSettings(frontier_betas=(0.1, 1.0), frontier_weights=(4.0, 0.5))
    methods = ch4_preferences.Settings().methods(steps=3)
    found = [(v.method, v.label, v.config) for v in explored.variants(methods)]
    assert found == [
        ("DPO", "beta 1", replace(methods["dpo"], beta=1.0)),
        ("DPO", "beta 0.1", replace(methods["dpo"], beta=0.1)),
        ("IPO", "beta 1", replace(methods["ipo"], beta=1.0)),
        ("IPO", "beta 0.1", replace(methods["ipo"], beta=0.1)),
        ("ORPO", "weight 0.5", replace(methods["orpo"], weight=0.5)),
        ("ORPO", "weight 4", replace(methods["orpo"], weight=4.0)),
    ]


# ---------------------------------------------------------------------------- wins and ways by hand


def judged(text: str, *golds: float, kind: str = "fact") -> list[Reply]:
    """Replies to one question, with these gold scores."""
    question = Question(kind, text, (text, "color"))
    return [Reply(question, "", [1], True, Verdict(True, "plain", gold)) for gold in golds]


def test_a_tie_is_half_a_win():
    rivals = {"a?": [0.0, 1.0], "b?": [2.0]}
    win = {"fact": judged("a?", 1.0) + judged("b?", 2.0)}  # 3/4 and 1/2
    assert win_rate(win, rivals)[0] == pytest.approx(0.625)
    lost = {"fact": judged("a?", -1.0) + judged("b?", 3.0)}  # 0 and 1
    assert win_rate(lost, rivals)[0] == pytest.approx(0.5)


def test_a_kitten_against_itself_wins_half():
    itself = {"fact": judged("a?", 1.0, 0.0, 3.0) + judged("b?", 2.0, 2.0)}
    assert win_rate(itself, golds_of(itself))[0] == pytest.approx(0.5)


def test_wins_count_with_the_shares_of_the_kinds():
    """All facts won, all stories lost: 0.31 / (0.31 + 0.05), however many are asked."""
    stories = [reply for n in range(5) for reply in judged(f"{n}?", 0.0, kind="story")]
    rivals = {"a?": [0.0]} | {f"{n}?": [1.0] for n in range(5)}
    share, _ = win_rate({"fact": judged("a?", 1.0), "story": stories}, rivals)
    assert share == pytest.approx(0.31 / 0.36)


def test_the_share_of_the_way_by_hand(tmp_path):
    """From 1 to 2.5 of a best possible 4 is half of the way; the last look at the pairs counts."""
    scores = ch4_preferences.SCORES.split()
    before = {key: 1.0 for key in scores} | {f"{key}_stderr": 0.1 for key in scores}
    after = {key: 2.5 for key in scores} | {f"{key}_stderr": 0.2 for key in scores}
    after |= {"win_rate": 0.7, "win_rate_stderr": 0.01, "kl": 5.0, "kl_stderr": 0.3}
    chapter = Run(Common(runs=tmp_path), "ch4_preferences", ch4_preferences.Settings())
    chapter.seconds["dpo_eval_seconds"] = 4.0
    for step, (sign, seconds, pairs) in enumerate(((-1.0, 0.5, 20), (1.0, 1.5, 30))):
        values = {"unseen_chosen": -2.0, "unseen_rejected": -6.0, "unseen_accuracy": 0.8}
        errors = {f"{key}_stderr": 0.5 for key in values}
        entry = {key: sign * value for key, value in (values | errors).items()}
        chapter.log("dpo", step, {**entry, "seconds": seconds, "pairs": pairs})
    config = ch4_preferences.Settings().methods(steps=2)["dpo"]
    learnt = ch4_preferences.AskedPairs([], torch.zeros(0, 2), seconds=3.0)
    keys = measuring.before_and_after(ch4_preferences.SCORES, before, after, 4.0)
    keys |= ch4_preferences.training_keys(chapter, "dpo", learnt, config)
    assert keys["gold_share_of_distance"] == pytest.approx(0.5)
    assert (keys["gold_before"], keys["gold_after"]) == (1.0, 2.5)
    assert (keys["gold_before_stderr"], keys["gold_after_stderr"]) == (0.1, 0.2)
    assert (keys["kl"], keys["win_rate"]) == (5.0, 0.7)
    assert (keys["kl_stderr"], keys["win_rate_stderr"]) == (0.3, 0.01)
    assert keys["chosen_logprob_change"] == -2.0 and keys["rejected_logprob_change"] == -6.0
    assert keys["pairs_per_second"] == 10.0  # 50 in 2 seconds and 3 of asking the reference
    assert (keys["train_seconds"], keys["seconds"]) == (5.0, 9.0)
    assert keys["unseen_accuracy"] == 0.8 and keys["chosen_logprob_change_stderr"] == 0.5


def test_the_watched_pairs_are_changes_since_the_reference(world):
    """log p of chosen and of rejected, now minus then, with logits of one row at a time."""
    watched = [
        LabelledPair(None, [9, 10, 11], [20, 21, 22], [30]),
        LabelledPair(None, [12], [50, 51, 52, 53], [40, 41]),
        LabelledPair(None, [13, 14], [60], [61, 62]),
    ]
    policy, reference = world.policy, world.start.gpt
    unseen = ch4_preferences.asked(reference, watched)
    chosen = [change(policy, reference, pair.prompt, pair.chosen) for pair in watched]
    rejected = [change(policy, reference, pair.prompt, pair.rejected) for pair in watched]
    numbers = ch4_preferences.watch(policy, unseen)
    gained = [float(c > r) for c, r in zip(chosen, rejected, strict=True)]
    assert numbers["unseen_chosen"] == pytest.approx(sum(chosen) / 3, **EXACT)
    assert numbers["unseen_rejected"] == pytest.approx(sum(rejected) / 3, **EXACT)
    margin = (sum(chosen) - sum(rejected)) / 3
    assert numbers["unseen_margin"] == pytest.approx(margin, **EXACT)
    assert numbers["unseen_accuracy"] == pytest.approx(sum(gained) / 3)
    assert 0 < sum(gained) < 3 and abs(margin) > 0.1  # or a swap could not be seen
    assert ch4_preferences.watch(reference, unseen)["unseen_accuracy"] == 0.5  # ties


@torch.no_grad()
def change(policy: GPT, reference: GPT, prompt: list[int], reply: list[int]) -> float:
    row = prompt + reply
    logs = [gpt(torch.tensor([row]))[0].log_softmax(dim=-1) for gpt in (policy, reference)]
    places = range(len(prompt), len(row))
    return sum(float(logs[0][p - 1, row[p]] - logs[1][p - 1, row[p]]) for p in places)


# ---------------------------------------------------------------------------------------- best-of-n


def test_the_best_of_each_block_is_kept():
    """The reward model's best, not the gold judge's: of a's the second, of b's the third."""
    a, b = judged("a?", 9.0, 1.0, 5.0, 7.0), judged("b?", 2.0, 8.0, 3.0, 4.0)
    scores = [0.1, 0.9, 0.2, 0.3, -4.0, -3.0, -1.0, -2.0]
    score_of = {id(reply): score for reply, score in zip(a + b, scores, strict=True)}
    golds = {
        n: [reply.verdict.score for reply in frontier.picks(a + b, score_of, n)] for n in (1, 2, 4)
    }
    assert golds == {1: [9, 1, 5, 7, 2, 8, 3, 4], 2: [1, 7, 8, 3], 4: [1, 3]}


class Likes:
    """A scorer that likes high token ids at the end of a row."""

    def of_tokens(self, tokens, lengths):
        return tokens[torch.arange(len(tokens)), lengths - 1].float()


def test_best_of_n_from_replies_to_points(world, monkeypatch):
    """Gold is the scorer's token, so the gold of every point is a maximum by hand."""
    monkeypatch.setattr(frontier, "counts_of", lambda common: {"fact": (4, 1), "story": (2, 1)})
    # Of one token each: a is asked first, with ids 5, 9, 7, 3, b with 8, 2, 4, 6.
    ids = {"fact": [5, 9, 7, 3, 8, 2, 4, 6], "story": [10, 12, 11, 13]}

    def sample_replies(gpt, tokenizer, town, questions, *, replies_each, **named):
        assert replies_each == 4 and all(is_held_out(question) for question in questions)
        kind = questions[0].kind
        asked = [question for question in questions for _ in range(replies_each)]
        verdicts = [Verdict(True, "plain", float(token)) for token in ids[kind]]
        drawn = zip(asked, ids[kind], verdicts, strict=True)
        return [Reply(question, "", [token], False, verdict) for question, token, verdict in drawn]

    monkeypatch.setattr(frontier, "sample_replies", sample_replies)
    points = frontier.best_of_n(COMMON, None, world.tokenizer, Likes(), (1, 2, 4))
    fact, story = 0.31 / 0.36, 0.05 / 0.36
    golds = [fact * 5.5 + story * 11.5, fact * (9 + 7 + 8 + 6) / 4 + story * 12.5]
    golds.append(fact * (9 + 8) / 2 + story * 13)
    assert [point["gold"] for point in points] == pytest.approx(golds)
    kls = [0.0, math.log(2) - 1 / 2, math.log(4) - 3 / 4]
    assert [point["kl"] for point in points] == pytest.approx(kls, abs=1e-12)
    assert [point["label"] for point in points] == ["n 1", "n 2", "n 4"]


def finish_judge(common: Common, sft: str, sizes: tuple[int, ...] = (1,)) -> None:
    """A finished chapter 2 that started from the chat kitten `sft`; `sizes` make it another run."""
    Run(common, "ch2_reward_model", frontier.BestOf(sizes), inputs={"sft": sft}).finish({})


def test_best_of_n_takes_a_judge_of_the_same_kitten_only(tmp_path, monkeypatch, capsys):
    common = replace(COMMON, runs=tmp_path)
    asked = []

    def best_of_n(common, reference, tokenizer, scorer, sizes):
        asked.append((scorer.reward_model, scorer.mean, scorer.std, sizes))
        return [{"label": "n 1", "kl": 0.0, "gold": 1.0, "gold_stderr": None}]

    monkeypatch.setattr(frontier, "load_reward_model", lambda path, *_, **__: path.parent.name)
    monkeypatch.setattr(frontier, "best_of_n", best_of_n)

    def points(sft: str) -> list[dict]:
        return frontier.best_of_n_path(common, None, None, {"sft": sft})

    assert points("Pip") == []  # no judge
    finish_judge(common, "Miso")
    assert frontier.built_on(common, "ch2_reward_model", "Pip") is None
    assert frontier.built_on(common, "ch2_reward_model", "Miso")["chapter"] == "ch2_reward_model"
    assert points("Pip") == [] and not asked  # the judge of another kitten
    assert capsys.readouterr().out.count("no best-of-n") == 2
    assert [point["label"] for point in points("Miso")] == ["n 1"] and points("Miso")
    assert asked == [("ch2_reward_model", 0.0, 1.0, (1, 2, 4, 8, 16))]  # once, then it is kept
    finish_judge(common, "Miso", sizes=(2,))
    assert points("Miso") and len(asked) == 2  # another judge


# -------------------------------------------------------------------------------- over-optimisation


def test_the_judge_that_goes_wrong_sees_few_pairs_labelled_without_mistakes(world, monkeypatch):
    pairs = [LabelledPair(None, [3], [4, n], [5, n]) for n in range(10, 20)]
    asked, given = {}, {}

    def sample_pairs(gpt, tokenizer, town, **named):
        asked.update(named, gpt=gpt)
        return pairs

    def train_reward_model(model, pairs, *, config, **named):
        given.update(model=model, pairs=pairs, config=config)
        return iter(())

    monkeypatch.setattr(overoptimisation, "sample_pairs", sample_pairs)
    monkeypatch.setattr(overoptimisation, "train_reward_model", train_reward_model)
    reference, judge_model = world.start.gpt, world.judged.scorer.reward_model
    given_to = (COMMON, judge_model, reference, world.tokenizer)
    overoptimisation.train_on_few_pairs(*given_to, count=10, epochs=6)
    assert asked["gpt"] is reference and asked["count"] == 10 and asked["annotators"] == "exact"
    assert not asked.get("held_out") and not asked.get("label_noise")
    assert given["model"] is judge_model
    assert given["pairs"] == [([3, 4, n], [3, 5, n]) for n in range(10, 20)]  # chosen comes first
    assert (given["config"].steps, given["config"].pairs_per_step) == (6, 10)


def looks(golds: list[float], proxies: list[float]) -> list[dict]:
    """The start, then one look after each round; the KL is twice the number of the look."""
    rows = []
    for number, (gold, proxy) in enumerate(zip(golds, proxies, strict=True)):
        row = {"gold": gold, "proxy": proxy, "kl_held_out": 2.0 * number}
        row |= {"gold_stderr": 0.1 * number, "proxy_stderr": 0.2 * number}
        rows.append(row if number == 0 else row | {"step": number - 1})
    return rows


UP = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "golds, proxies, turned",
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], UP, False),  # rises to the end: falls short by 1 of 10
        ([0.0, 4.0, 6.0, 3.0, 2.0, 1.0], UP, True),
        ([2.0] * 6, UP, False),  # flat
        ([5.0, 5.2, 5.0, 5.1, 5.0, 5.1], UP, False),  # flat but for noise
        ([0.0, 4.0, 6.0, 3.0, 2.0, 1.0], UP[::-1], False),  # both fall: the proxy was not fooled
        ([0.0, 4.0, 6.0, 3.0, 2.0, 1.0], [2.0] * 6, False),  # the proxy stands still
    ],
)
def test_turned_or_not(golds, proxies, turned):
    found = overoptimisation.turning_point(looks(golds, proxies), gold_best=12.0)
    assert found["turned"] is turned


def test_a_turning_point_by_hand():
    golds = [0.0, 4.0, 6.0, 3.0, 2.0, 1.0]
    found = overoptimisation.turning_point(looks(golds, UP), gold_best=10.0)
    expected = {
        "peak_gold": 6.0,
        "peak_gold_stderr": 0.2,
        "peak_step": 2,
        "peak_kl": 4.0,
        "last_gold": 2.0,
        "last_gold_stderr": 0.4,
        "lowest_gold": 0.0,
        "last_kl": 8.0,
        "proxy_at_peak": 2.0,
        "proxy_at_peak_stderr": 0.4,
        "proxy_last": 4.0,
        "proxy_last_stderr": 0.8,
        "needed_fall": 1.0,
        "turned": True,
    }
    assert found == {key: pytest.approx(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    "lowest, last, turned",
    [(0.0, 5.1, False), (0.0, 4.9, True), (-10.0, 4.1, False), (-10.0, 3.9, True)],
)
def test_a_fall_must_be_large_enough(lowest, last, turned):
    """A tenth of the way from the lowest to the best, 10: a fall from 6 by 1, or by 2."""
    rows = looks([lowest, 6.0, last, last, last], UP[:5])
    assert overoptimisation.turning_point(rows, gold_best=10.0)["turned"] is turned


def test_a_peak_at_the_start_is_round_0():
    found = overoptimisation.turning_point(looks([5.0, 1.0, 1.0, 1.0], UP[:4]), gold_best=6.0)
    assert found["peak_step"] == 0 and found["peak_kl"] == 0.0 and found["turned"] is True
