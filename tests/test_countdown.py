"""Countdown: the world holds what the game's rules say, and the checker believes nothing."""

import random
from collections import Counter

import pytest

from kittenllm.kitten_town import countdown
from kittenllm.kitten_town.countdown import (
    HELD_OUT_TRIPLES,
    OPERATOR_PAIRS,
    TRAINING_TRIPLES,
    TRIPLES,
    Chain,
    Problem,
    Step,
    calculate,
    check_answer,
    draw_problem,
    make_chain,
    parse_chain,
    problems_of,
    reachable,
    shuffle_numbers,
    sorted_triple,
    split_triples,
)

PROBLEM = Problem((3, 5, 8), 19)


def test_the_world_has_144_triples_and_1131_problems():
    assert len(TRIPLES) == 144
    assert len(problems_of(TRIPLES)) == 1131
    assert len(set(problems_of(TRIPLES))) == 1131


def test_triples_with_few_targets_are_left_out():
    # 1, 1, 1: 1*1+1 = 2, 1*1-1 = 0, 1+1-1 = 1, 1+1+1 = 3 and nothing else.
    assert sorted(reachable((1, 1, 1))) == [0, 1, 2, 3]
    assert (1, 1, 1) not in TRIPLES
    assert all(len(reachable(triple)) >= 5 for triple in TRIPLES)


def test_reachable_by_hand():
    # 2, 3, 4: products 6, 8, 12; sums 5, 6, 7; each with the third number added or taken away.
    by_hand = {
        2: ["2*3=6,6-4=2"],
        10: ["2*3=6,6+4=10", "3*4=12,12-2=10"],
        5: ["2*4=8,8-3=5", "3+4=7,7-2=5"],
        11: ["2*4=8,8+3=11"],
        14: ["3*4=12,12+2=14"],
        1: ["2+3=5,5-4=1"],
        3: ["2+4=6,6-3=3"],
        9: ["2+3=5,5+4=9", "2+4=6,6+3=9", "3+4=7,7+2=9"],
    }
    chains_of = reachable((4, 2, 3))
    assert list(chains_of) == sorted(by_hand)
    assert {target: [c.text for c in chains] for target, chains in chains_of.items()} == by_hand


def test_every_chain_of_the_world_passes_the_checker_and_stays_in_0_to_99():
    for triple in TRIPLES:
        for target, chains in reachable(triple).items():
            assert len(set(chains)) == len(chains)
            for chain in chains:
                assert check_answer(chain.text, Problem(triple, target))
                assert parse_chain(chain.text) == chain
                assert sorted_triple(chain.numbers) == triple
                assert 0 <= chain.first.result <= 99 and 0 <= chain.second.result <= 99


def test_equal_numbers_give_no_chain_twice():
    texts = [chain.text for chains in reachable((4, 4, 4)).values() for chain in chains]
    assert sorted(texts) == ["4*4=16,16+4=20", "4*4=16,16-4=12", "4+4=8,8+4=12", "4+4=8,8-4=4"]


def test_the_split_is_fixed_and_holds_out_every_fourth_triple():
    assert len(HELD_OUT_TRIPLES) == 36 and len(TRAINING_TRIPLES) == 108
    assert sorted(HELD_OUT_TRIPLES + TRAINING_TRIPLES) == list(TRIPLES)
    assert split_triples(TRIPLES, countdown.SPLIT_SEED) == (TRAINING_TRIPLES, HELD_OUT_TRIPLES)
    # Spelled out: a silent change of the split would leak old training triples into the exam.
    assert HELD_OUT_TRIPLES[:6] == (
        (1, 2, 2),
        (1, 2, 3),
        (1, 2, 6),
        (1, 2, 8),
        (1, 3, 4),
        (1, 3, 7),
    )
    assert len(problems_of(HELD_OUT_TRIPLES)) == 283


def test_another_seed_gives_another_split():
    assert split_triples(TRIPLES, 1) != split_triples(TRIPLES, 2)


def test_draw_problem_takes_triples_first_and_targets_second():
    # 2, 2, 2 has few targets and 5, 7, 9 many; both triples must come equally often.
    rng = random.Random(0)
    triples = [(1, 2, 3), (5, 7, 9)]
    drawn = Counter(draw_problem(rng, triples) for _ in range(20_000))
    by_triple: Counter = Counter()
    for problem, count in drawn.items():
        assert problem.target in reachable(problem.triple)
        by_triple[problem.triple] += count
    assert abs(by_triple[(1, 2, 3)] / 20_000 - 0.5) < 0.015  # 4 standard errors
    targets = Counter(p.target for p, n in drawn.items() for _ in range(n) if p.triple == (5, 7, 9))
    expected = by_triple[(5, 7, 9)] / len(reachable((5, 7, 9)))
    assert set(targets) == set(reachable((5, 7, 9)))
    assert all(abs(count - expected) < 5 * expected**0.5 for count in targets.values())


def test_draw_problem_tells_the_numbers_in_every_order():
    rng = random.Random(0)
    orders = Counter(draw_problem(rng, [(3, 5, 8)]).numbers for _ in range(6_000))
    assert len(orders) == 6
    assert min(orders.values()) > 850  # 1,000 expected, standard error 29


def test_the_same_seed_draws_the_same_problems():
    first, second = random.Random(7), random.Random(7)
    for _ in range(20):
        assert draw_problem(first, TRIPLES) == draw_problem(second, TRIPLES)


def test_shuffle_numbers_keeps_the_problem():
    shuffled = shuffle_numbers(PROBLEM, random.Random(1))
    assert shuffled.triple == PROBLEM.triple and shuffled.target == PROBLEM.target


def test_prompt_and_triple():
    assert Problem((8, 3, 5), 19).prompt == "use 8, 3, 5 make 19"
    assert Problem((8, 3, 5), 19).triple == (3, 5, 8)


def test_parse_chain_reads_without_judging():
    chain = parse_chain("3*8=25,24-5=99")
    assert chain == Chain(Step(3, "*", 8, 25), Step(24, "-", 5, 99))
    assert chain.text == "3*8=25,24-5=99"
    assert chain.numbers == (3, 8, 5)


@pytest.mark.parametrize("text", ["3*8=24,24-5=19", "8*3=24,24-5=19"])
def test_right_answers(text):
    assert check_answer(text, PROBLEM)
    assert check_answer(text, Problem((8, 5, 3), 19))  # the order of the prompt does not matter


def test_right_answers_of_the_other_forms():
    assert check_answer("3+5=8,8-8=0", Problem((3, 5, 8), 0))
    assert check_answer("3+5=8,8+8=16", Problem((3, 5, 8), 16))
    assert check_answer("3*5=15,15+8=23", Problem((3, 5, 8), 23))
    assert check_answer("5+5=10,10-5=5", Problem((5, 5, 5), 5))  # three fives, each used once


@pytest.mark.parametrize(
    "text, why",
    [
        ("3*8=24,24-5=20", "wrong result"),
        ("3*8=25,25-5=20", "wrong first result"),
        ("3*8=25,24-5=19", "first result wrong, second step starts from the right one"),
        ("3*8=24,25-6=19", "a second step that starts from another number"),
        ("3*8=24,5-24=19", "second step turned round"),
        ("3*8=24,24+5=29", "another target"),
        ("3*5=15,15+4=19", "a number that was not given"),
        ("3*8=24,24-5=19,19+0=19", "three steps"),
        ("3*8=24", "one step"),
        ("24-5=19", "second step alone"),
        ("19", "the target alone"),
        ("3*8-5=19", "two operators in one step"),
        ("3*8=24,24-5=19.", "something after it"),
        (" 3*8=24,24-5=19", "a space before it"),
        ("3*8=24, 24-5=19", "a space in it"),
        ("3*8=24,24-5=19\n", "a line end after it"),
        ("03*8=24,24-5=19", "a leading zero"),
        ("3*8=024,24-5=19", "three digits"),
        ("3*8=24,24--5=19", "a doubled sign"),
        ("-3*8=24,24-5=19", "a negative number"),
        ("3**8=24,24-5=19", "a power"),
        ("3x8=24,24-5=19", "another sign for times"),
        ("3*8=٢٤,24-5=19", "digits of another script"),
        ("3*8=24,24−5=19", "a typographic minus"),
        ("", "nothing"),
    ],
)
def test_wrong_answers(text, why):
    assert not check_answer(text, PROBLEM), why


def test_each_number_counts_once_and_all_of_them_count():
    assert not check_answer("3*5=15,15+5=20", Problem((3, 5, 8), 20))  # 5 twice, 8 dropped
    assert not check_answer("8+8=16,16+3=19", PROBLEM)  # 8 twice, 5 dropped
    assert check_answer("8+8=16,16+3=19", Problem((3, 8, 8), 19))
    assert not check_answer(
        "3*3=9,9+8=17", Problem((3, 8, 8), 17)
    )  # the right digits, not so often


def test_forms_that_are_no_chain_of_the_game():
    assert not check_answer("8-5=3,3*3=9", Problem((3, 5, 8), 9))  # minus first
    assert not check_answer("3+5=8,8*8=64", Problem((3, 5, 8), 64))  # times second
    assert not check_answer("8*9=72,72*1=72", Problem((1, 8, 9), 72))


def test_values_outside_0_to_99_are_no_chain():
    assert make_chain((1, 2, 9), ("*", "-")) is None  # 2 - 9
    assert make_chain((9, 9, 9), ("*", "+")).second.result == 90  # the largest of all
    assert not check_answer("1*2=2,2-9=-7", Problem((1, 2, 9), -7))


def test_callers_mistakes_are_named():
    with pytest.raises(ValueError, match=r"\(0, 3, 5\)"):
        reachable((0, 3, 5))
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        reachable((3, 5))
    with pytest.raises(ValueError, match="10"):
        sorted_triple((1, 2, 10))
    with pytest.raises(ValueError, match="/"):
        calculate(6, "/", 3)
    with pytest.raises(ValueError, match="operators"):
        make_chain((1, 2, 3), ("-", "+"))
    with pytest.raises(ValueError, match="at least one triple"):
        draw_problem(random.Random(0), [])


def test_operator_pairs_are_the_four_of_the_game():
    assert set(OPERATOR_PAIRS) == {("*", "+"), ("*", "-"), ("+", "-"), ("+", "+")}
