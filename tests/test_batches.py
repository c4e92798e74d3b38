"""Rows for training: nothing lost, nothing twice, the same seed gives the same batches."""

import random

import pytest
import torch

from kittenllm.batches import (
    PackedRows,
    TokenStream,
    pack,
    pad_rows,
)
from kittenllm.chat import ChatTokens

PAD = 99


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sequences_of(lengths):
    """Sequences of these lengths; each holds its own number, so it can be found again."""
    return [([i] * length, [True] * length) for i, length in enumerate(lengths)]


# ------------------------------------------------------------------------------------- packing


def test_packing_by_hand():
    # Rows of 6. Longest first: 5 opens row 0, 4 opens row 1, 2 fits best behind the 4, 1 behind
    # the 5; the last 1 finds no room and opens row 2.
    rows = pack(sequences_of([2, 5, 1, 4, 1]), row_length=6, pad_id=PAD)
    assert rows.tokens.tolist() == [
        [1, 1, 1, 1, 1, 2],
        [3, 3, 3, 3, 0, 0],
        [4, PAD, PAD, PAD, PAD, PAD],
    ]
    assert rows.document_ids.tolist() == [
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1],
        [0, -1, -1, -1, -1, -1],
    ]
    # Nothing produces the first token of a sequence, so it is never trained; padding neither.
    assert rows.loss_mask.int().tolist() == [
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 0, 1],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_pad_id_inside_a_sequence_is_a_token_like_any_other():
    """Padding is told by its place. A caller whose padding is the end mark still trains the end."""
    rows = pack([([7, 8, 2], [False, True, True])], row_length=4, pad_id=2)
    assert rows.tokens.tolist() == [[7, 8, 2, 2]]
    assert rows.loss_mask.tolist() == [[False, True, True, False]]
    assert rows.document_ids.tolist() == [[0, 0, 0, -1]]


def unpack(rows):
    """All (tokens, loss_mask) sequences of packed rows."""
    sequences = []
    for tokens, mask, documents in zip(rows.tokens, rows.loss_mask, rows.document_ids, strict=True):
        for document in range(int(documents.max()) + 1):
            own = documents == document
            sequences.append((tuple(tokens[own].tolist()), tuple(mask[own].tolist())))
    return sequences


def test_packing_loses_nothing():
    rng = random.Random(0)
    chats = []
    for _ in range(300):
        chat = ChatTokens()
        chat.add([rng.randrange(50) for _ in range(rng.randrange(1, 20))], trained=False)
        chat.add([rng.randrange(50) for _ in range(rng.randrange(0, 12))], trained=True)
        chats.append(chat)
    rows = pack(chats, row_length=32, pad_id=PAD)
    expected = [(tuple(chat.tokens), tuple(chat.loss_mask)) for chat in chats]
    assert sorted(unpack(rows)) == sorted(expected)

    padding = rows.document_ids == -1
    assert (rows.tokens[padding] == PAD).all() and not rows.loss_mask[padding].any()
    assert not rows.loss_mask[:, 0].any()
    used = sum(len(chat) for chat in chats)
    assert used / rows.tokens.numel() > 0.95  # packing by best fit leaves little empty
    assert len(rows) < len(chats) / 1.5


def test_no_first_token_of_a_packed_sequence_is_trained():
    """The token before it belongs to another sequence, so nothing that was read produces it.

    With that, `loss_mask[:, 1:]` alone says which productions are trained; no row needs a second
    look at `document_ids`. The masks here are True at first tokens too, as no chat's is.
    """
    rng = random.Random(1)
    lengths = [rng.randrange(1, 9) for _ in range(200)]
    wanted = [[rng.random() < 0.7 for _ in range(length)] for length in lengths]
    rows = pack(
        [([i] * len(mask), mask) for i, mask in enumerate(wanted)], row_length=24, pad_id=PAD + 200
    )
    same_document = rows.document_ids[:, 1:] == rows.document_ids[:, :-1]
    assert torch.equal(rows.loss_mask[:, 1:], rows.loss_mask[:, 1:] & same_document)
    assert not rows.loss_mask[:, 0].any()
    behind_the_first = sum(sum(mask[1:]) for mask in wanted)
    assert rows.loss_mask.sum() == behind_the_first < sum(map(sum, wanted))  # and nothing else goes


def test_documents_of_a_row_stand_side_by_side():
    rows = pack(sequences_of([3, 7, 2, 2, 5, 1]), row_length=8, pad_id=PAD)
    for documents in rows.document_ids.tolist():
        real = [document for document in documents if document >= 0]
        assert real == sorted(real)
        assert documents == real + [-1] * (len(documents) - len(real))  # padding comes last
        assert set(real) == set(range(max(real) + 1))


def test_packing_is_deterministic_and_leaves_its_input_alone():
    sequences = sequences_of([2, 5, 1, 4, 1, 3, 3])
    before = [(list(tokens), list(mask)) for tokens, mask in sequences]
    first = pack(sequences, row_length=6, pad_id=PAD)
    second = pack(sequences, row_length=6, pad_id=PAD)
    assert torch.equal(first.tokens, second.tokens)
    assert sequences == before


def test_a_sequence_may_fill_its_row_exactly():
    rows = pack(sequences_of([6, 6]), row_length=6, pad_id=PAD)
    assert rows.tokens.shape == (2, 6)
    assert (rows.document_ids == 0).all()


@pytest.mark.parametrize(
    "sequences, complaint",
    [
        ([], "no sequences"),
        (sequences_of([3, 9]), "sequence 1 has 9 tokens, a row holds 1 to 8"),
        ([([], [])], "sequence 0 has 0 tokens"),
        ([([1, 2], [True])], "2 tokens, a mask of 1"),
    ],
)
def test_packing_refuses(sequences, complaint):
    with pytest.raises(ValueError, match=complaint):
        pack(sequences, row_length=8, pad_id=PAD)


def test_select_and_move(device):
    rows = pack(sequences_of([2, 5, 1, 4, 1]), row_length=6, pad_id=PAD).to(device)
    picked = rows.select(torch.tensor([2, 0]))  # indices may live on another device
    assert len(rows) == 3 and len(picked) == 2
    assert picked.tokens.device.type == torch.device(device).type
    assert picked.tokens.tolist() == [rows.tokens[2].tolist(), rows.tokens[0].tolist()]
    assert torch.equal(picked.loss_mask, rows.loss_mask[[2, 0]])
    assert torch.equal(picked.document_ids, rows.document_ids[[2, 0]])


def test_packed_rows_check_their_tensors():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="loss_mask must be a bool mask"):
        PackedRows(tokens, mask.long(), tokens)
    with pytest.raises(ValueError, match="document_ids"):
        PackedRows(tokens, mask, tokens[:, :2])
    with pytest.raises(ValueError, match="tokens must hold integer"):
        PackedRows(tokens.float(), mask, tokens)


# -------------------------------------------------------------------------------------- stream


def test_windows_are_pieces_of_the_stream():
    stream = TokenStream(torch.arange(50, dtype=torch.int32))
    batch = stream.batch(200, 8, seeded())  # (200, 8)
    assert batch.dtype == torch.int64 and batch.shape == (200, 8)
    assert torch.equal(batch, batch[:, :1] + torch.arange(8))  # each row counts on by one
    assert batch.min() == 0 and batch.max() == 49  # the first and the last token are reached
    assert set(batch[:, 0].tolist()) == set(range(43))  # every place is


def test_windows_come_from_the_generator_alone():
    stream = TokenStream(torch.arange(1000))
    torch.manual_seed(1)
    first = stream.batch(4, 16, seeded(7))
    torch.manual_seed(2)
    assert torch.equal(first, stream.batch(4, 16, seeded(7)))
    assert not torch.equal(first, stream.batch(4, 16, seeded(8)))


def test_a_window_may_be_the_whole_stream():
    assert TokenStream(torch.tensor([4, 5])).batch(1, 2, seeded()).tolist() == [[4, 5]]
    with pytest.raises(ValueError, match="the text has 2 tokens, a row needs 3"):
        TokenStream(torch.tensor([4, 5])).batch(1, 3, seeded())


def test_the_stream_checks_its_tensor():
    with pytest.raises(ValueError, match="one dimension"):
        TokenStream(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="integer"):
        TokenStream(torch.zeros(3))
    with pytest.raises(ValueError, match="rows must be"):
        TokenStream(torch.arange(9)).batch(0, 3, seeded())


# ------------------------------------------------------------------------------------- padding


def test_pad_rows():
    tokens, lengths = pad_rows([[1], [2, 3, 4], [5, 6]], PAD)
    assert tokens.tolist() == [[1, PAD, PAD], [2, 3, 4], [5, 6, PAD]]
    assert lengths.tolist() == [1, 3, 2]
    assert tokens.dtype == lengths.dtype == torch.int64
    with pytest.raises(ValueError, match="row 1 is empty"):
        pad_rows([[1], []], PAD)
    with pytest.raises(ValueError, match="no rows"):
        pad_rows([], PAD)
