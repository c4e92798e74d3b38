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
import itertools
import operator
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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
# The rules of open models whose tokenizers we can read. Theirs keep more together.
SPLIT_PATTERNS = {
    "kitten": SPLIT_PATTERN,
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # as gpt2, after every digit was cut off: no token holds two, or a space before one
    "smollm": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
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


def last_merges(ranks: dict[bytes, int]) -> dict[bytes, tuple[bytes, ...]]:
    """How each token of two bytes or more is made: its parts just before the last merge.

    Its bytes are merged by all lower ranks. Two parts are left of every token that BPE has learnt;
    of one that no merges lead to, three or more.
    """
    made = {}
    for token, rank in ranks.items():
        if len(token) < 2:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in zip(parts, parts[1:], strict=False)]
            lowest = min(pairs)
            if lowest >= rank:
                break
            place = pairs.index(lowest)  # of equal ones the first
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        made[token] = tuple(parts)
    return made


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


@dataclass(frozen=True)
class Dialect:
    """How the tokenizer of an open model differs from ours, all but the tokens themselves.

    Raises: ValueError for an unknown split, or values of another type.
    """

    split: str  # a key of SPLIT_PATTERNS
    special_ids: dict[str, int]
    vocab_size: int  # rows of the model's embedding; some have more than there are tokens
    endoftext_id: int  # between documents
    pad_id: int
    nfc: bool = False  # text takes the Unicode form NFC first: e and an accent become é
    chats: bool = True  # False: a base model, which has no template
    turn_end: str = ""  # stands behind <|im_end|>; a line break in most ChatML templates
    system: str = ""  # the system message of a conversation that has none

    def __post_init__(self) -> None:
        if self.split not in SPLIT_PATTERNS:
            raise ValueError(f"split must be one of {', '.join(SPLIT_PATTERNS)}; {self.split!r}")
        numbers = (*self.special_ids.values(), self.vocab_size, self.endoftext_id, self.pad_id)
        texts = (*self.special_ids, self.turn_end, self.system)
        if any(type(n) is not int for n in numbers) or any(type(t) is not str for t in texts):
            raise ValueError("ids must be whole numbers, names and texts must be strings")


def kitten_dialect(ranks: dict[bytes, int]) -> Dialect:
    """That of our own tokenizers: the special tokens follow the ordinary ones."""
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
    return Dialect(
        "kitten",
        specials,
        vocab_size=len(ranks) + len(specials),
        endoftext_id=specials["<|endoftext|>"],
        pad_id=specials["<|pad|>"],
    )


class Tokenizer:
    """Text to token ids and back, with our own trained ranks inside a `tiktoken.Encoding`.

    Ids 0 .. len(ranks)-1 are ordinary tokens, the special tokens follow without a gap. A special
    id comes only from the code (`tokenizer.im_end_id`) or out of a model, never out of a text.
    With a `dialect` it is the tokenizer of an open model: its special tokens may stand anywhere,
    and those of ours that it has not got are -1, an id that nothing has.

    Raises:  ValueError for ranks with a gap, without all 256 bytes, or with unreachable tokens.
    """

    def __init__(self, ranks: dict[bytes, int], dialect: Dialect | None = None):
        self.ranks = dict(ranks)
        ours = kitten_dialect(ranks)
        self.dialect = None if dialect == ours else dialect  # a kitten that left and came back
        if self.dialect is None:
            _check_ranks(ranks)
        dialect = self.dialect or ours
        self.special_ids = dialect.special_ids
        self.vocab_size = dialect.vocab_size
        self.chats, self.turn_end, self.system = dialect.chats, dialect.turn_end, dialect.system
        self.endoftext_id = dialect.endoftext_id
        self.pad_id = dialect.pad_id
        self.im_start_id = self.special_ids.get("<|im_start|>", -1)
        self.im_end_id = self.special_ids.get("<|im_end|>", -1)
        self.think_id = self.special_ids.get("<think>", -1)
        self.end_think_id = self.special_ids.get("</think>", -1)
        self.answer_id = self.special_ids.get("<answer>", -1)
        self.end_answer_id = self.special_ids.get("</answer>", -1)
        self.call_id = self.special_ids.get("<call>", -1)
        self.end_call_id = self.special_ids.get("</call>", -1)
        self._token_bytes = {token: text for text, token in self.ranks.items()}
        self._names = {token: name for name, token in self.special_ids.items()}
        self._nfc = dialect.nfc
        used = sorted([*self._token_bytes, *self._names])
        if used != list(range(len(used))) or len(used) > self.vocab_size:
            raise ValueError(f"token ids must be 0, 1, 2, ... without a gap, to {self.vocab_size}")
        # A vocabulary may lack bytes that its makers never saw; tiktoken needs all 256. Those get
        # ids behind all others, which `encode` leaves out.
        bytes_left = [bytes([b]) for b in range(256) if bytes([b]) not in self.ranks]
        self._left_out = {byte: self.vocab_size + i for i, byte in enumerate(bytes_left)}
        self._encoding = tiktoken.Encoding(
            name="kittenllm",
            pat_str=SPLIT_PATTERNS[dialect.split],
            mergeable_ranks=self.ranks | self._left_out,
            special_tokens=self.special_ids,
        )

    def encode(self, text: str) -> list[int]:
        """Text -> ids, all of them ordinary: "<think>" in a text is seven letters and signs.

        A lone surrogate becomes U+FFFD.  Raises ValueError for anything that is no str.
        """
        text = _without_lone_surrogates(text)
        if self._nfc:
            text = unicodedata.normalize("NFC", text)
        ids = self._encoding.encode_ordinary(text)
        return [token for token in ids if token < self.vocab_size] if self._left_out else ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text. A plain loop: tiktoken's batches start threads, and for texts as
        short as ours these cost more than they save."""
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
            if token in self._token_bytes:
                run += self._token_bytes[token]
            else:
                shown.append(self._escaped(run.decode("utf-8", "replace")))
                shown.append(self._name(token))
                run = bytearray()
        shown.append(self._escaped(run.decode("utf-8", "replace")))
        return "".join(shown)

    def tokens_as_text(self, ids: Iterable[int]) -> list[str]:
        r"""One readable piece per token, for coloured views.

        Special ids by name; a token that holds only part of a character as its bytes, "\xf0\x9f".
        """
        pieces = []
        for token in self._checked(ids):
            if token in self._token_bytes:
                text = self._token_bytes[token].decode("utf-8", "backslashreplace")
                pieces.append(self._escaped(text))
            else:
                pieces.append(self._name(token))
        return pieces

    def to_state(self) -> dict:
        """The tokenizer as plain strings, for a checkpoint or JSON: tokens in hex, rank order."""
        tokens = [self._token_bytes[token].hex() for token in sorted(self._token_bytes)]
        state: dict = {"tokens": tokens, "special_tokens": list(self.special_ids)}
        return state if self.dialect is None else state | {"dialect": asdict(self.dialect)}

    @classmethod
    def from_state(cls, state: dict) -> "Tokenizer":
        """The reverse of `to_state`.  Raises ValueError for anything else."""
        try:
            tokens = [bytes.fromhex(token) for token in state["tokens"]]
            special_tokens = tuple(state["special_tokens"])
            dialect = Dialect(**state["dialect"]) if "dialect" in state else None
            special_ids = set(dialect.special_ids.values()) if dialect else set()
            free = (token for token in itertools.count() if token not in special_ids)
            ranks = dict(zip(tokens, free, strict=False))
            if dialect:
                return cls(ranks, dialect)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"this is no saved tokenizer: {error!r}") from error
        if special_tokens != SPECIAL_TOKENS:
            raise ValueError(f"the saved tokenizer has other special tokens: {special_tokens!r}")
        return cls(ranks)

    def _name(self, token: int) -> str:
        """A special token by its name, or one of the rows behind the last token."""
        return self._names.get(token, f"<|unused {token}|>")

    def _escaped(self, text: str) -> str:
        r"""Write text that spells a special token with a backslash: "<think>" -> "<\think>"."""
        for name in self.special_ids:
            if name in text:
                text = text.replace(name, f"{name[0]}\\{name[1:]}")
        return text

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
