r"""Byte-pair encoding: how text becomes the numbers that a GPT reads.

A tokenizer cuts text into small pieces (words, digits, marks, spaces) and then writes each piece
with as few known byte strings, the *tokens*, as it can. Training finds useful tokens: start from
the 256 single bytes, and again and again give the pair of neighbours that occurs most often a
token of its own.

Paper:  Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units",
        2016, algorithm 1; bytes instead of letters as in GPT-2 (Radford et al., 2019).
Read before:  nothing, this is the bottom of the package.
Left out:  speed. Training is plain Python; for encoding, our tokens are handed to `tiktoken`.

Words used here:  *rank* is the number of a token, and also the order in which it was learnt;
*special token* is a mark such as <|im_end|> that no text can spell, it has an id but no bytes.
"""

import heapq
import operator
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable

import tiktoken
from tqdm import tqdm

SPECIAL_TOKENS = (
    "<|endoftext|>",  # end of a document
    "<|pad|>",  # fills short rows, never trained on, never the same as an end mark
    "<|im_start|>",  # a turn of a conversation begins
    "<|im_end|>",  # a turn ends; the model learns to say it, and that is how it stops
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<call>",
    "</call>",
)
FIRST_WORDS = tuple(str(number).encode() for number in range(10, 100))  # learnt before all others
SMALLEST_VOCABULARY = 256 + len(FIRST_WORDS) + len(SPECIAL_TOKENS)

# How text is cut before any merge; no token ever crosses a cut. The same rules are written twice:
# for tiktoken, and (on a text of character classes, see `split_text`) for Python's own `re`.
# In words:  word with the space before it | one or two digits | one mark, with the space before
#            it | line breaks | other white space
SPLIT_PATTERN = r" ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\n+|[^\S\n]+"
CLASS_PATTERN = re.compile(r" ?L+|N{1,2}| ?P|\n+|[ S]+")


def character_class(character: str) -> str:
    """L letter, N number, S white space, P anything else; space and line break stay themselves."""
    if character in " \n":
        return character
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":  # Unicode has these as controls
        return "S"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "P"


def split_text(text: str) -> list[str]:
    """Cut text into the pieces within which tokens may be merged; joined they are the text."""
    table = {ord(character): character_class(character) for character in set(text)}
    classes = text.translate(table)  # "It's 7!" -> "LLPL NP", one class per character
    return [text[match.start() : match.end()] for match in CLASS_PATTERN.finditer(classes)]


def _without_lone_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which no UTF-8 file can hold, by the character U+FFFD."""
    if not isinstance(text, str):
        raise ValueError(f"text must be a str, got {type(text).__name__}: {text!r:.60}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Words:
    """All distinct words as chains of pieces, and how often each pair of neighbours occurs.

    Each piece has a place. Joining two pieces touches only them and their neighbours, so a merge
    costs as much as it changes, in a word of three letters and in one of three million.
    """

    def __init__(self, word_counts: Counter[str], ranks: dict[bytes, int]):
        self.piece: list[bytes] = []  # at each place
        self.left, self.right = array("q"), array("q")  # places of the neighbours; -1: none
        self.weight = array("q")  # how often the word occurs that the place belongs to
        self.counts: Counter[tuple[bytes, bytes]] = Counter()
        self.places: defaultdict[tuple[bytes, bytes], array] = defaultdict(lambda: array("q"))
        for word, count in word_counts.items():
            word_bytes = word.encode()
            pieces = [word_bytes] if word_bytes in ranks else [bytes([b]) for b in word_bytes]
            first, behind = len(self.piece), len(self.piece) + len(pieces)
            self.piece += pieces
            self.left.extend([-1, *range(first, behind - 1)])
            self.right.extend([*range(first + 1, behind), -1])
            self.weight.extend([count] * len(pieces))
            for place in range(first, behind - 1):
                self._count(place, place + 1, +1)

    def _count(self, place: int, after: int, sign: int) -> tuple[bytes, bytes]:
        """Count, or with sign -1 no longer count, the pair at these two places."""
        pair = self.piece[place], self.piece[after]
        self.counts[pair] += sign * self.weight[place]
        if sign > 0:
            self.places[pair].append(place)
        return pair

    def merge(self, pair: tuple[bytes, bytes]) -> set[tuple[bytes, bytes]]:
        """Join this pair wherever it stands, from left to right; returns the pairs recounted."""
        token, changed = pair[0] + pair[1], set()
        for place in sorted(self.places.pop(pair)):
            after = self.right[place]
            if self.piece[place] != pair[0] or after < 0 or self.piece[after] != pair[1]:
                continue  # one of the two was joined with another piece since it was noted down
            before, behind = self.left[place], self.right[after]
            self.counts[pair] -= self.weight[place]
            if before >= 0:
                changed.add(self._count(before, place, -1))
            if behind >= 0:
                changed.add(self._count(after, behind, -1))
                self.left[behind] = place
            self.piece[place], self.piece[after] = token, b""
            self.right[place] = behind
            if before >= 0:
                changed.add(self._count(before, place, +1))
            if behind >= 0:
                changed.add(self._count(place, behind, +1))
        return changed


def train_bpe(text_or_texts: str | Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Learn the tokens of a vocabulary of `vocab_size`, the special tokens counted.

    Works on the counts of distinct words, so that a word that occurs 10,000 times costs no more
    than one that occurs once, and recounts only the pairs that a merge has changed. A bar appears
    where it takes longer than two seconds, as in a long text without spaces.

    Returns:  token bytes -> rank. Ranks 0-255 are the single bytes, the next 90 are the numbers
        10 to 99, then come the merges in the order they were learnt; of pairs that occur equally
        often the first in byte order wins. A text with too few different pairs gives fewer tokens.
    Raises:  ValueError for a vocabulary too small for bytes, numbers and special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size must be at least {SMALLEST_VOCABULARY}, got {vocab_size}")
    texts = [text_or_texts] if isinstance(text_or_texts, str) else text_or_texts
    word_counts: Counter[str] = Counter()
    for text in texts:
        word_counts.update(split_text(_without_lone_surrogates(text)))

    ranks = {bytes([byte]): byte for byte in range(256)}
    for number in FIRST_WORDS:
        ranks[number] = len(ranks)

    words = _Words(word_counts, ranks)
    # The most frequent pair is on top, of equals the first in byte order. An entry whose count is
    # not true any more is passed over: its pair stands there again with the new one.
    queue = [(-count, pair) for pair, count in words.counts.items()]
    heapq.heapify(queue)
    merges = vocab_size - len(SPECIAL_TOKENS) - len(ranks)
    bar = tqdm(total=merges, desc="learning the tokens", delay=2, leave=False, dynamic_ncols=True)
    with bar:
        while bar.n < merges and queue:
            negative_count, best = heapq.heappop(queue)
            if words.counts[best] != -negative_count or negative_count == 0:
                continue
            token = best[0] + best[1]
            assert token not in ranks  # no other pair spells it: ab+c and a+bc never both occur
            ranks[token] = len(ranks)
            for pair in words.merge(best):
                heapq.heappush(queue, (-words.counts[pair], pair))
            bar.update()
    return ranks


def _check_ranks(ranks: dict[bytes, int]) -> None:
    """Refuse ranks on which tiktoken would panic or never use a token (ValueError)."""
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"ranks must be 0, 1, 2, ... without a gap; these {len(ranks)} are not")
    for byte in range(256):
        if ranks.get(bytes([byte])) != byte:
            raise ValueError(f"rank {byte} must be the single byte {bytes([byte])!r}")
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        lower = [max(ranks.get(a, rank), ranks.get(b, rank)) < rank for a, b in cuts]
        if rank > 255 and not any(lower):
            raise ValueError(f"token {token!r} of rank {rank} is no merge of two lower ranks")


class Tokenizer:
    """Text to token ids and back, with our own trained ranks inside a `tiktoken.Encoding`.

    Ids 0 .. len(ranks)-1 are ordinary tokens, the special tokens follow without a gap. A special
    id comes only from the code (`tokenizer.im_end_id`) or out of a model, never out of a text.

    Raises:  ValueError for ranks with a gap, without all 256 bytes, or with unreachable tokens.
    """

    def __init__(self, ranks: dict[bytes, int]):
        _check_ranks(ranks)
        self.ranks = dict(ranks)
        self.special_ids = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.endoftext_id = self.special_ids["<|endoftext|>"]
        self.pad_id = self.special_ids["<|pad|>"]
        self.im_start_id = self.special_ids["<|im_start|>"]
        self.im_end_id = self.special_ids["<|im_end|>"]
        self.think_id = self.special_ids["<think>"]
        self.end_think_id = self.special_ids["</think>"]
        self.answer_id = self.special_ids["<answer>"]
        self.end_answer_id = self.special_ids["</answer>"]
        self.call_id = self.special_ids["<call>"]
        self.end_call_id = self.special_ids["</call>"]
        self._token_bytes = sorted(ranks, key=ranks.__getitem__)  # rank -> bytes
        self._encoding = tiktoken.Encoding(
            name="kittenllm",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens=self.special_ids,
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        """Text -> ids, all of them ordinary: "<think>" in a text is seven letters and signs.

        A lone surrogate becomes U+FFFD.  Raises ValueError for anything that is no str.
        """
        return self._encoding.encode_ordinary(_without_lone_surrogates(text))

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        r"""Ids -> text to read. Special ids are shown by name.

        Text that only spells a special token is shown with a backslash, "<\think>", so that the
        two cannot be mixed up; any other valid text comes back exactly. Bytes that are no UTF-8
        (a model may produce any) become U+FFFD.  Raises ValueError for an id out of range.
        """
        shown = []
        run = bytearray()  # ordinary bytes since the last special token
        for token in self._checked(ids):
            if token < len(self._token_bytes):
                run += self._token_bytes[token]
            else:
                shown.append(_escape_specials(run.decode("utf-8", "replace")))
                shown.append(SPECIAL_TOKENS[token - len(self._token_bytes)])
                run = bytearray()
        shown.append(_escape_specials(run.decode("utf-8", "replace")))
        return "".join(shown)

    def tokens_as_text(self, ids: Iterable[int]) -> list[str]:
        r"""One readable piece per token, for coloured views.

        Special ids by name; a token that holds only part of a character as its bytes, "\xf0\x9f".
        """
        pieces = []
        for token in self._checked(ids):
            if token < len(self._token_bytes):
                text = self._token_bytes[token].decode("utf-8", "backslashreplace")
                pieces.append(_escape_specials(text))
            else:
                pieces.append(SPECIAL_TOKENS[token - len(self._token_bytes)])
        return pieces

    def to_state(self) -> dict[str, list[str]]:
        """The tokenizer as plain strings, for a checkpoint or JSON: tokens in hex, rank order."""
        tokens = [token.hex() for token in self._token_bytes]
        return {"tokens": tokens, "special_tokens": list(SPECIAL_TOKENS)}

    @classmethod
    def from_state(cls, state: dict[str, list[str]]) -> "Tokenizer":
        """The reverse of `to_state`.  Raises ValueError for anything else."""
        try:
            ranks = {bytes.fromhex(token): rank for rank, token in enumerate(state["tokens"])}
            special_tokens = tuple(state["special_tokens"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"this is no saved tokenizer: {error!r}") from error
        if special_tokens != SPECIAL_TOKENS:
            raise ValueError(f"the saved tokenizer has other special tokens: {special_tokens!r}")
        return cls(ranks)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        """Ids (a list, or a tensor of one dimension) as plain ints in 0 .. vocab_size-1."""
        checked = []
        for token in ids:
            try:
                number = operator.index(token)
            except TypeError as error:
                raise ValueError(f"a token id must be a whole number, got {token!r}") from error
            if not 0 <= number < self.vocab_size:
                limit = self.vocab_size - 1
                raise ValueError(f"token id {number} is outside the vocabulary, 0 to {limit}")
            checked.append(number)
        return checked


def _escape_specials(text: str) -> str:
    r"""Write text that spells a special token with a backslash: "<think>" -> "<\think>"."""
    if "<" in text:
        for name in SPECIAL_TOKENS:
            text = text.replace(name, f"<\\{name[1:]}")
    return text
