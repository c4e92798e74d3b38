"""Pairs as rows: chosen first, and the end-of-turn token inside the mask."""

import pytest
import torch

from kittenllm.gpt import GPTConfig
from kittenllm.pairs import (
    PreferencePair,
    check_pairs,
    compared_together,
    comparisons,
    pair_rows,
    pairs_of_step,
)

END, PAD = 2, 0
PAIRS = [
    PreferencePair(prompt=[5, 6, 7], chosen=[10, 11, END], rejected=[20, END]),
    PreferencePair(prompt=[5], chosen=[12, END], rejected=[21, 22, 23, 24, END]),
]


def test_rows_and_mask_by_hand():
    tokens, mask, rows = pair_rows(PAIRS, pad_id=PAD)
    assert rows.tolist() == [[0, 2], [1, 3]]  # chosen and rejected of each pair
    assert tokens.tolist() == [
        [5, 6, 7, 10, 11, END],  # chosen, pair 0
        [5, 12, END, PAD, PAD, PAD],  # chosen, pair 1
        [5, 6, 7, 20, END, PAD],  # rejected, pair 0
        [5, 21, 22, 23, 24, END],  # rejected, pair 1
    ]
    assert mask.int().tolist() == [  # index t is about producing tokens[:, t + 1]
        [0, 0, 1, 1, 1],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_the_mask_holds_exactly_the_replies_with_their_end():
    tokens, mask, _ = pair_rows(PAIRS, pad_id=PAD)
    replies = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]
    assert [row[1:][m].tolist() for row, m in zip(tokens, mask, strict=True)] == replies


def test_a_pad_id_inside_a_reply_is_a_token_like_any_other():
    tokens, mask, _ = pair_rows([PreferencePair([5], [PAD, END], [PAD])], pad_id=PAD)
    assert mask.int().tolist() == [[1, 1], [1, 0]]
    assert tokens.dtype == torch.int64


def test_a_reply_of_several_pairs_is_one_row():
    a, b, c = [10, END], [11, END], [12, END]
    pairs = [PreferencePair([5], a, b), PreferencePair([5], b, c), PreferencePair([6], a, b)]
    tokens, mask, rows = pair_rows(pairs, pad_id=PAD)
    assert tokens[rows[0]].tolist() == [[5, *a], [5, *b]]
    assert tokens[rows[1]].tolist() == [[5, *b], [5, *c]]
    assert tokens[rows[2]].tolist() == [[6, *a], [6, *b]]  # another prompt: another row
    assert len(tokens) == len(mask) == 5


def test_pairs_that_share_replies_stand_together():
    groups = compared_together([("a", "b"), ("x", "y"), ("c", "b"), ("a", "c"), ("z", "x")])
    assert groups == [[0, 2, 3], [1, 4]]
    again = PreferencePair(PAIRS[0].prompt, PAIRS[0].rejected, [9, END])
    assert comparisons([*PAIRS, again]) == [[0, 2], [1]]


def test_a_step_takes_whole_comparisons_and_misses_none():
    groups = [[0, 1, 2], [3], [4, 5], [6, 7], [8]]  # 9 pairs
    generator = torch.Generator().manual_seed(0)
    seen = [pairs_of_step(groups, step, 2, generator) for step in range(5)]
    assert sorted(map(tuple, seen)) == sorted(map(tuple, groups))  # 2 pairs: one comparison each
    both = pairs_of_step(groups, 0, 4, generator)
    assert both == seen[0] + seen[1]  # 4 pairs: two comparisons on average
    assert len(pairs_of_step(groups, 0, 9, generator)) == 9


@pytest.mark.parametrize(
    "pair, message",
    [
        (PreferencePair([], [3], [4]), "pair 1: prompt is empty"),
        (PreferencePair([3], [], [4]), "pair 1: chosen is empty"),
        (PreferencePair([3], [4], []), "pair 1: rejected is empty"),
        (PreferencePair([3], [4, 5], [4, 5]), "pair 1: chosen and rejected are equal"),
        (PreferencePair([3] * 10, [4] * 7, [4]), "pair 1 has 17 tokens, the context holds 16"),
        (PreferencePair([3], [4], [30]), "pair 1: rejected holds token 30.*0 to 29.*tokenizer"),
        (PreferencePair([3], [-1], [4]), "pair 1: chosen holds token -1"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_named(pair, message):
    config = GPTConfig(vocab_size=30, context_length=16)
    check_pairs(PAIRS, config)
    with pytest.raises(ValueError, match=message):
        check_pairs([PAIRS[0], pair], config)
    with pytest.raises(ValueError, match="no preference pairs"):
        check_pairs([], config)
