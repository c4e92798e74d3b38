"""The tokenizer: hand-worked merges, tiktoken as an outside oracle, and text that tries tricks."""

import io
import random
import sys
import unicodedata
from pathlib import Path

import pytest
import tiktoken
import torch

from kittenllm import tokenizer as tokenizer_module
from kittenllm.tokenizer import (
    SMALLEST_VOCABULARY,
    SPECIAL_TOKENS,
    SPLIT_PATTERN,
    Tokenizer,
    character_class,
    split_text,
    train_bpe,
)

STORY = (Path(__file__).parent / "data" / "story.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_bpe(STORY, 450))


def learnt(ranks):
    """The tokens that training added, in order."""
    return [token for token in ranks if ranks[token] >= 346]


def random_text(rng, length):
    """Words of the story mixed with characters from every corner of Unicode."""
    corners = (
        "aZ' ,.<|>/\\_-=0059\n\t\r ßéñжקक你日가ªʰ٣²½Ⅷ\u0301\u200d\u00a0\u2003\u2028\x85\x1c\x00"
    )
    corners += "🐱🐟👩‍🚀\U0001f9f6\ufffd\ufeff\U0010ffff"
    words = STORY.split()
    pieces = [
        rng.choice(words) if rng.random() < 0.2 else rng.choice(corners) for _ in range(length)
    ]
    return "".join(pieces)


# ---------------------------------------------------------------------------------- splitting


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("the cat's fish", ["the", " cat", "'", "s", " fish"]),  # a word owns the space before it
        ("12 345", ["12", " ", "34", "5"]),  # at most two digits, and a space is never theirs
        ("3+4 = 7!", ["3", "+", "4", " =", " ", "7", "!"]),
        ("a\n\nb\n  c", ["a", "\n\n", "b", "\n", "  ", "c"]),
        ("<think>", ["<", "think", ">"]),  # so no merge can ever spell a special token
        ("", []),
    ],
)
def test_split_by_hand(text, pieces):
    assert split_text(text) == pieces


def test_split_loses_nothing():
    rng = random.Random(0)
    for _ in range(200):
        text = random_text(rng, 40)
        assert "".join(split_text(text)) == text


@pytest.mark.parametrize(
    "pattern, names", [(r"\p{L}", "L"), (r"\p{N}", "N"), (r"\s", " \nS"), (r"[^\s\p{L}\p{N}]", "P")]
)
def test_character_classes_are_those_of_tiktoken(pattern, names):
    # An Encoding drops what its pattern does not match, so it tells which characters do match.
    single_bytes = {bytes([byte]): byte for byte in range(256)}
    probe = tiktoken.Encoding("p", pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={})
    old = unicodedata.ucd_3_2_0  # characters on which all versions of Unicode agree
    stable = [c for c in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= c <= "\udfff"]
    stable = [c for c in stable if old.category(c) == unicodedata.category(c) != "Cn"]
    assert len(stable) > 80_000
    matched = set(probe.decode_bytes(probe.encode_ordinary("".join(stable))).decode())
    assert matched == {c for c in stable if character_class(c) in names}


# ----------------------------------------------------------------------------------- training


def test_merges_by_hand():
    # aaabdaaabac: "aa" occurs most often; then "a b" and "aa a" twice each, and bytes decide;
    # then "aa ab". It is the example of the article on byte-pair encoding in Wikipedia.
    ranks = train_bpe("aaabdaaabac", SMALLEST_VOCABULARY + 3)
    assert learnt(ranks) == [b"aa", b"ab", b"aaab"]
    assert Tokenizer(ranks).tokens_as_text(Tokenizer(ranks).encode("aaabdaaabac")) == [
        "aaab", "d", "aaab", "a", "c",
    ]  # fmt: skip


def test_ranks_begin_with_bytes_and_numbers():
    ranks = train_bpe(STORY, 400)
    assert len(ranks) == 400 - len(SPECIAL_TOKENS)
    assert [ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    assert [ranks[str(number).encode()] for number in range(10, 100)] == list(range(256, 346))
    tokenizer = Tokenizer(ranks)
    for number in range(100):
        assert len(tokenizer.encode(str(number))) == 1


def recounting_bpe(text, vocab_size):
    """The same algorithm in its simplest form: count all pairs of all words again each time."""
    words = [list(map(bytes, zip(word.encode(), strict=True))) for word in split_text(text)]
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {str(number).encode(): 246 + number for number in range(10, 100)}
    words = [[b"".join(word)] if b"".join(word) in ranks else word for word in words]
    while len(ranks) < vocab_size - len(SPECIAL_TOKENS):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        a, b = min(counts, key=lambda pair: (-counts[pair], pair))
        ranks[a + b] = len(ranks)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return ranks


@pytest.mark.parametrize("text", [STORY, "aaaa aaaaaaa aaabab abab ababab aaaaab baaaa" * 3])
def test_incremental_counts_equal_recounting(text):
    size = SMALLEST_VOCABULARY + (60 if text is STORY else 8)
    assert train_bpe(text, size) == recounting_bpe(text, size)


def test_training_is_deterministic_and_takes_any_iterable():
    lines = STORY.splitlines(keepends=True)
    assert train_bpe(lines, 420) == train_bpe(iter(lines), 420)
    assert list(train_bpe(reversed(lines), 420)) == list(train_bpe(lines, 420))


def test_one_long_word_costs_as_much_per_letter_as_short_ones(monkeypatch):
    """Work is counted, not seconds: each merge touches only the places where its pair stands."""
    counted = tokenizer_module._Words._count
    calls = []
    monkeypatch.setattr(
        tokenizer_module._Words, "_count", lambda *given: calls.append(1) or counted(*given)
    )
    letters = "".join(random.Random(0).choices("ACGT", k=3000))
    for text in (letters, " ".join(letters[i : i + 10] for i in range(0, 3000, 10))):
        calls.clear()
        train_bpe(text, 500)
        assert len(text) < len(calls) < 6 * len(text)
    assert train_bpe(letters, 420) == recounting_bpe(letters, 420)


def test_a_short_text_gives_a_smaller_vocabulary():
    ranks = train_bpe("abc", 1000)
    assert learnt(ranks) == [b"ab", b"abc"]
    assert Tokenizer(ranks).vocab_size == 348 + len(SPECIAL_TOKENS)


@pytest.mark.parametrize("text", ["", "12 7\n", "🐱 \ud83d", "\x00"])
def test_training_survives_odd_texts(text):
    tokenizer = Tokenizer(train_bpe(text, 360))
    assert tokenizer.decode(tokenizer.encode("a cat")) == "a cat"


def test_training_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="at least 356, got 300"):
        train_bpe("abc", 300)
    with pytest.raises(ValueError, match="int: 7"):
        train_bpe(["abc", 7], 400)


# -------------------------------------------------------------------------- encoding, decoding


def slow_encode(ranks, text):
    """Byte-pair encoding word by word: always the neighbours with the lowest rank, leftmost."""
    ids = []
    for word in split_text(text):
        pieces = [bytes([byte]) for byte in word.encode()]
        while True:
            joined = [a + b for a, b in zip(pieces, pieces[1:], strict=False)]
            known = [(ranks[pair], i) for i, pair in enumerate(joined) if pair in ranks]
            if not known:
                break
            _, i = min(known)
            pieces[i : i + 2] = [joined[i]]
        ids += [ranks[piece] for piece in pieces]
    return ids


def test_tiktoken_agrees_with_our_own_slow_encoder(tokenizer):
    rng = random.Random(1)
    mixed = [random_text(rng, 60) for _ in range(300)]
    trained_on_them = Tokenizer(train_bpe(mixed, 700))  # merges inside odd characters, too
    for text in [STORY, *mixed]:
        assert tokenizer.encode(text) == slow_encode(tokenizer.ranks, text)
        assert trained_on_them.encode(text) == slow_encode(trained_on_them.ranks, text)


def test_every_text_comes_back(tokenizer):
    rng = random.Random(2)
    for text in ["", " ", STORY, *(random_text(rng, 50) for _ in range(300))]:
        if not any(name in text for name in SPECIAL_TOKENS):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_byte_is_an_id_of_its_own(tokenizer):
    for byte in range(256):
        assert tokenizer.decode([byte]) == bytes([byte]).decode("utf-8", "replace")
    assert tokenizer.decode("🐱".encode()) == "🐱"  # 4 bytes, 4 ids, 1 character
    assert tokenizer.decode("🐱".encode()[:3]) == "\ufffd"  # a model may stop in the middle


def test_lone_surrogates_are_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\udc31\ud83d")) == "\ufffd\ufffd"
    assert tokenizer.decode(tokenizer.encode("\ud83d\udc31")) == "🐱"  # two halves in order


@pytest.mark.parametrize("text", [None, 7, b"cat", ["cat"]])
def test_only_strings_are_encoded(tokenizer, text):
    with pytest.raises(ValueError, match="text must be a str"):
        tokenizer.encode(text)


def test_encode_batch(tokenizer):
    assert tokenizer.encode_batch(["fish", ""]) == [tokenizer.encode("fish"), []]


def test_a_very_long_word_is_no_trouble(tokenizer):
    for unit in ["a", " ", "\n", "7", "!", "tilly"]:
        text = unit * (200_000 // len(unit))
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("ids", [[-1], [10**9], [1, 450], [1.0], ["a"], [None]])
def test_unknown_ids_are_refused(tokenizer, ids):
    with pytest.raises(ValueError, match="token id"):
        tokenizer.decode(ids)


def test_decode_takes_tensors(tokenizer):
    ids = tokenizer.encode("the old cat")
    assert tokenizer.decode(torch.tensor(ids)) == "the old cat"


# ------------------------------------------------------------------------------ special tokens


def test_special_ids_follow_the_ranks_without_a_gap(tokenizer):
    first = len(tokenizer.ranks)
    assert list(tokenizer.special_ids) == list(SPECIAL_TOKENS)
    assert list(tokenizer.special_ids.values()) == list(range(first, first + 10))
    assert tokenizer.vocab_size == first + 10 == 450
    assert tokenizer.pad_id != tokenizer.endoftext_id != tokenizer.im_end_id
    by_attribute = [
        tokenizer.endoftext_id, tokenizer.pad_id, tokenizer.im_start_id, tokenizer.im_end_id,
        tokenizer.think_id, tokenizer.end_think_id, tokenizer.answer_id, tokenizer.end_answer_id,
        tokenizer.call_id, tokenizer.end_call_id,
    ]  # fmt: skip
    assert [tokenizer.decode([token]) for token in by_attribute] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_text_never_makes_a_special_token(tokenizer, name):
    first_special = tokenizer.endoftext_id
    for text in [name, f"a {name} b", name * 3, f"<{name}>"]:
        ids = tokenizer.encode(text)
        assert max(ids) < first_special
        shown = tokenizer.decode(ids)
        assert name not in shown  # typed ...
        assert shown.replace("\\", "") == text
    assert tokenizer.decode([tokenizer.special_ids[name]]) == name  # ... and real


def test_a_name_in_the_view_is_always_a_real_special_token(tokenizer):
    rng = random.Random(3)
    parts = [
        tokenizer.encode(part) for name in SPECIAL_TOKENS for part in (name, name[0], name[1:])
    ]
    parts += [[token] for token in tokenizer.special_ids.values()]
    for _ in range(300):
        ids = sum(rng.choices(parts, k=8), [])
        shown = tokenizer.decode(ids)
        for name, token in tokenizer.special_ids.items():
            assert shown.count(name) == ids.count(token)


def test_tokens_as_text(tokenizer):
    ids = [tokenizer.im_start_id, *tokenizer.encode(" the 47"), *"é".encode(), 10]
    assert tokenizer.tokens_as_text(ids) == [
        "<|im_start|>", " the", " ", "47", "\\xc3", "\\xa9", "\n",
    ]  # fmt: skip
    assert "".join(tokenizer.tokens_as_text(tokenizer.encode(STORY))) == STORY


# ---------------------------------------------------------------------------------------- state


def test_state_survives_a_checkpoint(tokenizer):
    file = io.BytesIO()
    torch.save(tokenizer.to_state(), file)
    file.seek(0)
    again = Tokenizer.from_state(torch.load(file, weights_only=True))
    assert again.ranks == tokenizer.ranks
    assert again.encode(STORY) == tokenizer.encode(STORY)


@pytest.mark.parametrize(
    "state",
    [None, {}, {"tokens": ["zz"], "special_tokens": []}, {"tokens": [], "special_tokens": ["<x>"]}],
)
def test_a_wrong_state_is_refused(state):
    with pytest.raises(ValueError, match="saved tokenizer"):
        Tokenizer.from_state(state)


def test_ranks_that_tiktoken_cannot_use_are_refused(tokenizer):
    without_a_byte = {token: rank for token, rank in tokenizer.ranks.items() if rank != 65}
    with pytest.raises(ValueError, match="without a gap"):
        Tokenizer(without_a_byte)
    swapped = tokenizer.ranks | {b"A": 66, b"B": 65}
    with pytest.raises(ValueError, match="rank 65 must be the single byte"):
        Tokenizer(swapped)
    unreachable = tokenizer.ranks | {b"xyz": len(tokenizer.ranks)}
    with pytest.raises(ValueError, match="no merge of two lower ranks"):
        Tokenizer(unreachable)


def test_the_pattern_needs_no_looking_around():
    # Look-ahead makes tiktoken's matcher keep its way in memory: it fails on long runs of spaces.
    assert "(?" not in SPLIT_PATTERN
