"""Pairs as rows: chosen first, and the end-of-turn token inside the mask."""

import pytest
import torch

from kittenllm.gpt import GPTConfig
from kittenllm.pairs import PreferencePair, check_pairs, pair_rows

END, PAD = 2, 0
PAIRS = [
    PreferencePair(prompt=[5, 6, 7], chosen=[10, 11, END], rejected=[20, END]),
    PreferencePair(prompt=[5], chosen=[12, END], rejected=[21, 22, 23, 24, END]),
]


def test_rows_and_mask_by_hand():
    tokens, mask = pair_rows(PAIRS, pad_id=PAD)
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
    tokens, mask = pair_rows(PAIRS, pad_id=PAD)
    replies = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]
    assert [row[1:][m].tolist() for row, m in zip(tokens, mask, strict=True)] == replies


def test_a_pad_id_inside_a_reply_is_a_token_like_any_other():
    tokens, mask = pair_rows([PreferencePair([5], [PAD, END], [PAD])], pad_id=PAD)
    assert mask.int().tolist() == [[1, 1], [1, 0]]
    assert tokens.dtype == torch.int64


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
