"""Scribbles: what the kitten reads before RL is true, varied, and never about a held-out triple."""

import random
import re
from collections import Counter

import pytest

from kittenllm.kitten_town import scribbles
from kittenllm.kitten_town.countdown import (
    HELD_OUT_TRIPLES,
    TRAINING_TRIPLES,
    TRIPLES,
    Problem,
    calculate,
    check_answer,
    draw_problem,
    make_chain,
    parse_chain,
    reachable,
    sorted_triple,
)
from kittenllm.kitten_town.scribbles import (
    DRILL_SHARES,
    MAX_ATTEMPTS,
    attempt_text,
    comparisons,
    drills,
    lap,
    lefts,
    scribble,
    sums,
)

ATTEMPT = re.compile(
    r"([1-9])([*+])([1-9])=(\d+) left ([1-9]),(\d+)([+-])([1-9])=(\d+) vs (\d+) (yes|no)"
)
LINE = re.compile(r"use ([1-9]), ([1-9]), ([1-9]) make (\d+): (.+) so ([^ ]+)\.")
LEFT = re.compile(r"use ([1-9]), ([1-9]), ([1-9]): ([1-9])([*+])([1-9])=(\d+) left ([1-9])")


def count_tokens(text: str) -> int:
    """Tokens by the tokenizer's split rule: a number, a word with its space, a mark, a space."""
    return len(re.findall(r" ?[a-z]+|[0-9]{1,2}| ?[*+=,.:-]|\s", text))


def draw_many(count: int, seed: int = 0, **settings) -> list[scribbles.Scribble]:
    rng = random.Random(seed)
    return [scribble(draw_problem(rng, TRAINING_TRIPLES), rng, **settings) for _ in range(count)]


def test_attempts_by_hand():
    problem_target = 19
    failed = make_chain((3, 5, 8), ("*", "+"))
    assert attempt_text(failed, problem_target) == "3*5=15 left 8,15+8=23 vs 19 no"
    hit = make_chain((3, 8, 5), ("*", "-"))
    assert attempt_text(hit, problem_target) == "3*8=24 left 5,24-5=19 vs 19 yes"


def test_every_attempt_has_18_tokens():
    for triple in TRIPLES:
        for chain in lap(triple):
            assert count_tokens(attempt_text(chain, 7)) == 18


def test_the_longest_reply_fits_into_192_tokens():
    longest = max(draw_many(3_000, give_up=0.0), key=lambda s: s.attempts)
    assert longest.attempts == MAX_ATTEMPTS
    # <think> </think> <answer> </answer> and the token that ends the reply
    tokens = count_tokens(longest.think) + count_tokens(longest.answer) + 5
    assert tokens == 20 * MAX_ATTEMPTS + 14 <= 192


def test_a_lap_by_hand():
    assert [chain.text for chain in lap((3, 5, 8))] == [
        "3+5=8,8+8=16",
        "3*5=15,15+8=23",
        "3*5=15,15-8=7",
        "3+5=8,8-8=0",
        "5*8=40,40+3=43",
        "5*8=40,40-3=37",
        "5+8=13,13-3=10",
        "8*3=24,24+5=29",
        "8*3=24,24-5=19",
        "8+3=11,11-5=6",
    ]


def test_a_lap_reaches_every_target_and_repeats_nothing():
    for triple in TRIPLES:
        chains = lap(triple)
        assert {chain.second.result for chain in chains} == set(reachable(triple))
        names = [
            (c.first.operator, c.second.operator, frozenset(c.numbers[:2]), c.numbers[2])
            for c in chains
        ]
        assert len(set(names)) == len(names) <= 10


@pytest.mark.parametrize("order", ["lap", "shuffle"])
def test_a_scribble_is_true_in_every_part(order):
    for drawn in draw_many(2_000, order=order):
        attempts = drawn.think.split(" wait ")
        assert len(attempts) == drawn.attempts
        for attempt in attempts:
            x, op, y, p, left, start, op2, z, r, target, verdict = ATTEMPT.fullmatch(
                attempt
            ).groups()
            assert calculate(int(x), op, int(y)) == int(p)
            assert start == p and left == z
            assert calculate(int(p), op2, int(z)) == int(r)
            assert sorted_triple((int(x), int(y), int(z))) == drawn.problem.triple
            assert int(target) == drawn.problem.target
            assert (verdict == "yes") == (r == target)
        assert [a.endswith("yes") for a in attempts] == [False] * (len(attempts) - 1) + [drawn.hit]
        assert check_answer(drawn.answer, drawn.problem) == drawn.hit


@pytest.mark.parametrize("order", ["lap", "shuffle"])
def test_no_attempt_comes_twice(order):
    for drawn in draw_many(1_000, give_up=0.0, max_attempts=10, order=order):
        attempts = drawn.think.split(" wait ")
        assert len(set(attempts)) == len(attempts)
        assert drawn.hit  # ten attempts are a whole lap


def test_the_answer_is_the_last_attempt_hit_or_not():
    for drawn in draw_many(500):
        last = drawn.think.split(" wait ")[-1]
        steps = re.sub(r" left \d", "", last).split(" vs ")[0]
        assert drawn.answer == steps
        assert parse_chain(drawn.answer) is not None


def test_giving_up_has_the_stated_probability():
    drawn = draw_many(20_000, give_up=0.5)
    failed = sum(s.attempts - s.hit for s in drawn)
    gave_up = sum(not s.hit and s.attempts < MAX_ATTEMPTS for s in drawn)
    assert abs(gave_up / failed - 0.5) < 0.01  # 25,000 failures: 3 standard errors


def test_give_up_at_its_limits():
    assert all(s.attempts == 1 for s in draw_many(300, give_up=1.0))
    patient = draw_many(2_000, give_up=0.0)
    assert all(s.hit or s.attempts == MAX_ATTEMPTS for s in patient)
    assert 0.9 < sum(s.hit for s in patient) / 2_000 < 0.96  # 8 of at most 10 chains


def test_the_first_attempt_is_a_guess_by_chance():
    # 1 / (chains in the lap) for each chain: hits can only be as frequent as chance.
    drawn = draw_many(20_000)
    hits = sum(s.hit and s.attempts == 1 for s in drawn) / 20_000
    chance = 0.0
    for triple in TRAINING_TRIPLES:
        results = [chain.second.result for chain in lap(triple)]
        per_target = [results.count(target) / len(results) for target in reachable(triple)]
        chance += sum(per_target) / len(per_target) / len(TRAINING_TRIPLES)
    assert abs(hits - chance) < 0.008
    firsts = Counter(
        scribble(Problem((3, 5, 8), 44), random.Random(i)).think[:3] for i in range(900)
    )
    assert len(firsts) == 6  # 3+5 3*5 5*8 5+8 8*3 8+3


def test_a_scribble_as_plain_text():
    drawn = scribble(Problem((3, 5, 8), 19), random.Random(0), give_up=0.0)
    assert drawn.line == f"use 3, 5, 8 make 19: {drawn.think} so {drawn.answer}."
    assert "<" not in drawn.line


def test_sums_are_right_and_cover_both_kinds_of_step():
    rng = random.Random(0)
    lines = "\n".join(sums(rng) for _ in range(1_000)).split("\n")
    first_steps = 0
    for line in lines:
        left, operator, right, result = re.fullmatch(r"(\d+)([*+-])(\d)=(\d+)", line).groups()
        assert calculate(int(left), operator, int(right)) == int(result) <= 99
        first_steps += operator == "*"
    assert len(lines) == 8_000
    assert any(int(re.match(r"\d+", line).group()) > 50 for line in lines)
    assert 0.1 < first_steps / 8_000 < 0.3


def test_half_of_the_comparisons_are_equal_and_all_are_right():
    rng = random.Random(0)
    lines = "\n".join(comparisons(rng) for _ in range(1_000)).split("\n")
    equal = 0
    numbers = set()
    for line in lines:
        left, right, verdict = re.fullmatch(r"(\d+) vs (\d+) (yes|no)", line).groups()
        assert (verdict == "yes") == (left == right)
        assert int(left) <= 99 and int(right) <= 99
        equal += verdict == "yes"
        numbers.add(int(left))
    assert abs(equal / len(lines) - 0.5) < 0.02  # 10,000 lines: 4 standard errors
    assert numbers == set(range(100))


def test_lefts_name_the_number_that_is_left():
    rng = random.Random(0)
    for line in "\n".join(lefts(rng, HELD_OUT_TRIPLES) for _ in range(300)).split("\n"):
        a, b, c, x, operator, y, result, z = LEFT.fullmatch(line).groups()
        assert sorted((a, b, c)) == sorted((x, y, z))
        assert (x, y, z) in ((a, b, c), (b, c, a), (c, a, b))
        assert calculate(int(x), operator, int(y)) == int(result)


def test_wide_lefts_hold_numbers_that_no_problem_has():
    rng = random.Random(0)
    lines = "\n".join(lefts(rng, HELD_OUT_TRIPLES, largest=30) for _ in range(300)).split("\n")
    wide = 0
    for line in lines:
        a, b, c, x, y, result, z = map(int, re.findall(r"\d+", line))
        assert (x, y, z) in ((a, b, c), (b, c, a), (c, a, b)) and result <= 99
        if max(a, b, c) > 9:
            wide += max(a, b, c) <= 30
        else:
            assert sorted_triple([a, b, c]) in TRAINING_TRIPLES
    assert abs(wide / len(lines) - 0.5) < 0.07


def triples_used(line: str) -> set[tuple[int, int, int]]:
    """Every group of three problem numbers that a line uses: told, tried and answered."""
    used = set()
    told = re.match(r"use ([1-9]), ([1-9]), ([1-9])", line)
    if told:
        used.add(sorted_triple([int(n) for n in told.groups()]))
    chain = r"([1-9])[*+]([1-9])=\d+(?: left [1-9])?,\d+[+-]([1-9])"
    for numbers in re.findall(chain, line):
        used.add(sorted_triple([int(n) for n in numbers]))
    for numbers in re.findall(r"([1-9])[*+]([1-9])=\d+ left ([1-9])", line):
        used.add(sorted_triple([int(n) for n in numbers]))
    return used


def test_no_line_uses_a_held_out_triple():
    rng = random.Random(0)
    held_out = set(HELD_OUT_TRIPLES)
    seen: set[tuple[int, int, int]] = set()
    for _ in range(6_000):
        for line in drills(rng, HELD_OUT_TRIPLES).split("\n"):
            used = triples_used(line)
            assert len(used) <= 1  # one line, one triple
            assert not used & held_out
            seen |= used
    assert seen == set(TRAINING_TRIPLES)  # and every other triple does come


def test_the_finder_of_triples_would_find_one():
    assert triples_used(
        "use 3, 5, 8 make 19: 8*3=24 left 5,24-5=19 vs 19 yes so 8*3=24,24-5=19."
    ) == {(3, 5, 8)}
    assert triples_used("use 3, 5, 8: 9*3=27 left 4") == {(3, 5, 8), (3, 4, 9)}
    assert triples_used("7+8=15") == set()


def test_drills_mix_by_their_shares():
    rng = random.Random(0)
    kinds: Counter = Counter()
    for _ in range(8_000):
        text = drills(rng, HELD_OUT_TRIPLES)
        if LINE.fullmatch(text):
            kinds["scribbles"] += 1
        elif LEFT.match(text):
            kinds["lefts"] += 1
        elif " vs " in text:
            kinds["comparisons"] += 1
        else:
            kinds["sums"] += 1
    for kind, share in DRILL_SHARES.items():
        assert abs(kinds[kind] / 8_000 - share) < 0.025
    assert sum(DRILL_SHARES.values()) == pytest.approx(1.0)


def test_documents_of_each_kind_are_about_equally_long():
    rng = random.Random(0)
    for kind in DRILL_SHARES:
        texts = [drills(rng, HELD_OUT_TRIPLES, shares={kind: 1.0}) for _ in range(500)]
        mean = sum(count_tokens(text) for text in texts) / 500
        assert 40 < mean < 70, kind


def test_shares_can_leave_kinds_out():
    rng = random.Random(0)
    texts = [drills(rng, HELD_OUT_TRIPLES, shares={"sums": 1, "lefts": 1}) for _ in range(200)]
    assert not any("wait" in text or " vs " in text for text in texts)


def test_the_same_seed_writes_the_same_text():
    first, second = random.Random(3), random.Random(3)
    for _ in range(30):
        assert drills(first, HELD_OUT_TRIPLES) == drills(second, HELD_OUT_TRIPLES)


def test_callers_mistakes_are_named():
    rng = random.Random(0)
    problem = Problem((3, 5, 8), 19)
    with pytest.raises(ValueError, match=r"1\.5"):
        scribble(problem, rng, give_up=1.5)
    with pytest.raises(ValueError, match="max_attempts.* 0"):
        scribble(problem, rng, max_attempts=0)
    with pytest.raises(ValueError, match="zigzag"):
        scribble(problem, rng, order="zigzag")
    with pytest.raises(ValueError, match="poems"):
        drills(rng, HELD_OUT_TRIPLES, shares={"poems": 1.0})
    with pytest.raises(ValueError, match="shares"):
        drills(rng, HELD_OUT_TRIPLES, shares={"sums": 0.0})
    with pytest.raises(ValueError, match="shares"):
        drills(rng, HELD_OUT_TRIPLES, shares={"sums": 2.0, "lefts": -1.0})
