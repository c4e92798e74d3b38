r"""tokenizer.json, the file of a Hugging Face tokenizer: read into tiktoken's terms, and written.

Such a file says the same thing three times over. The *vocabulary* gives every token an id, the
*merges* say in which order pairs of tokens were learnt, and *steps* say how a text is cut before
that. tiktoken needs less: in byte-level BPE the id of a token is its place in that order, so the
ids are the merges. `check_merges` makes sure of it, token by token: then both cut every text alike.

Tokens are bytes, but JSON holds letters. GPT-2 wrote byte 32, a space, as the letter Ġ, and
everybody still does; `byte_letters` is that alphabet.

Read before:  tokenizer.py.
Left out:  SentencePiece, WordPiece, split patterns other than those of SPLIT_PATTERNS. Special
           tokens never come out of a text here, whatever the file says about spaces beside them.
"""

from kittenllm.runs.json_files import printable
from kittenllm.tokenizer import SPLIT_PATTERNS, Tokenizer, last_merges

MOST_WORK = 2**26  # squares of the tokens' lengths: some seconds to see how they are made
PLAIN = {  # fields of "model" that would change how text is cut, and what they must be
    "type": ("BPE",),
    "dropout": (None, 0),
    "byte_fallback": (None, False),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}


def byte_letters() -> dict[int, str]:
    """GPT-2's letters for the 256 bytes: what can be printed is itself, the rest gets Ā, ā ..."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


NO_BYTE = 0xFFFF
BYTE_OF = dict.fromkeys(range(256), NO_BYTE)  # for str.translate: code of a letter -> byte
BYTE_OF |= {ord(letter): byte for byte, letter in byte_letters().items()}


def as_bytes(text: str) -> bytes:
    """A token as bytes.  Raises: ValueError for a letter that is none of the 256."""
    return text.translate(BYTE_OF).encode("latin-1")


def split_steps(split: str) -> list[dict]:
    """The steps in which tokenizer.json writes one of SPLIT_PATTERNS."""
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if split == "gpt2":
        return [to_bytes | {"use_regex": True}]  # its pattern is known by name
    if split == "smollm":
        return [{"type": "Digits", "individual_digits": True}, to_bytes | {"use_regex": True}]
    pattern = {"Regex": SPLIT_PATTERNS[split]}
    cut = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return [cut, to_bytes | {"use_regex": False}]


# ------------------------------------------------------------------------------------------- in


def read_split(pre_tokenizer: object) -> str:
    """Which of SPLIT_PATTERNS a file means.  Raises: ValueError for any other."""
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    steps = steps if isinstance(steps, list) else [pre_tokenizer]
    usual = {"use_regex": True, "trim_offsets": True}  # the latter moves only places, no cuts
    same = [
        {**usual, **step, "trim_offsets": True} if "add_prefix_space" in (step or {}) else step
        for step in steps
    ]
    for split in SPLIT_PATTERNS:
        if same == split_steps(split):
            return split
    known = ", ".join(SPLIT_PATTERNS)
    raise ValueError(f"pre_tokenizer: it cuts otherwise than {known}: {printable(steps, 150)}")


def read_specials(added_tokens: object) -> dict[str, int]:
    """Name -> id of the special tokens.

    Raises: ValueError for an added token that is an ordinary word: text would have to make it.
    """
    specials: dict[str, int] = {}
    for entry in added_tokens if isinstance(added_tokens, list) else []:
        name, token = (entry or {}).get("content"), (entry or {}).get("id")
        if not isinstance(name, str) or not name or type(token) is not int:
            raise ValueError(f"added_tokens: {printable(entry, 80)} is no name with an id")
        is_mark = name[0] in "<[" and name[-1] in ">]"
        if not entry.get("special") and not is_mark:
            raise ValueError(f"added_tokens: {printable(name, 40)!r} is an ordinary word")
        specials[name] = token
    return specials


def read_ranks(model: dict, specials: dict[str, int]) -> dict[bytes, int]:
    """Bytes -> id of the ordinary tokens.  Raises: ValueError that names the token."""
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not all(type(token) is int for token in vocab.values()):
        raise ValueError("model.vocab: no object of tokens with their ids")
    ranks = {}
    for text, token in vocab.items():
        if text in specials:
            continue
        try:
            ranks[as_bytes(text)] = token
        except ValueError as error:
            name = printable(text, 40)
            raise ValueError(f"model.vocab: {name!r} is not in GPT-2's letters") from error
    if sum(len(token) ** 2 for token in ranks) > MOST_WORK:
        raise ValueError("model.vocab: tokens that are too long")
    pairs = []
    for merge in merges if isinstance(merges, list) else []:
        try:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pairs.append((as_bytes(left), as_bytes(right)))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"model.merges: {printable(merge, 60)} is no pair") from error
    check_merges(ranks, pairs, model.get("ignore_merges") is True)
    return ranks


def check_merges(ranks: dict[bytes, int], pairs: list, ignore_merges: bool) -> None:
    """Make sure that the ids alone, as tiktoken uses them, cut every text as the merges do.

    1. The tokens that the merges make come in the order of their ids.
    2. The bytes of every token, merged by lower ids, end in a pair that is one of the merges. Where
       a file takes whole words without merging (ignore_merges), all cuts of a token in two may be
       listed instead: then any pair that meets is merged, which is what tiktoken does.

    If tiktoken ever joined a pair that is not listed, the bytes of that token alone would end in
    it too, since no merge had crossed their border; the second rule excludes that.

    Raises: ValueError that names the first merge, or token, that is otherwise.
    """
    before = -1
    for left, right in pairs:
        rank = ranks.get(left + right, -1)
        if rank < before or (rank == before and not ignore_merges) or rank == -1:
            raise ValueError(f"model.merges: {left!r} + {right!r} is not in the order of the ids")
        before = rank
    listed = set(pairs)
    for token, parts in last_merges(ranks).items():
        if parts in listed:
            continue
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        met = {(left, right) for left, right in cuts if left in ranks and right in ranks}
        if not (ignore_merges and met <= listed):
            raise ValueError(f"model.merges: they do not make the token {token!r}")


def read_tokenizer_json(file: dict) -> dict:
    """The tokens of a file and how it cuts: ranks, split, special_ids, nfc.

    Raises: ValueError that names the field which is not byte-level BPE as tiktoken does it.
    """
    model = file.get("model")
    if not isinstance(model, dict):
        raise ValueError("model: there is none")
    for field, values in PLAIN.items():
        if model.get(field) not in values:
            raise ValueError(f"model.{field}: {printable(model.get(field), 60)}, not {values[0]}")
    normalizer = file.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise ValueError(f"normalizer: {printable(normalizer, 80)}, not NFC")
    specials = read_specials(file.get("added_tokens"))
    ranks = read_ranks(model, specials)
    if model.get("unk_token") is not None and any(bytes([b]) not in ranks for b in range(256)):
        raise ValueError("model.unk_token: it would be written for bytes that are no tokens")
    return {
        "ranks": ranks,
        "split": read_split(file.get("pre_tokenizer")),
        "special_ids": specials,
        "nfc": normalizer is not None,
    }


# ------------------------------------------------------------------------------------------ out


def write_tokenizer_json(tokenizer: Tokenizer) -> dict:
    """What tokenizer.json holds.  Raises: ValueError for a token that no merge of two makes."""
    letters = byte_letters()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    dialect = tokenizer.dialect
    made = last_merges(tokenizer.ranks)
    for token, parts in made.items():
        if len(parts) != 2:
            raise ValueError(f"token {token!r} is no merge of two others, and cannot be written")
    in_order = sorted(made, key=lambda token: tokenizer.ranks[token])
    merges = [[written(part) for part in made[token]] for token in in_order]
    vocab = {written(token): rank for token, rank in tokenizer.ranks.items()}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [  # <|...|> are special: they vanish when a reply is shown; <think> and its like do not
        {"id": token, "content": name, **plain, "special": name.startswith("<|")}
        for name, token in tokenizer.special_ids.items()
    ]
    steps = split_steps(dialect.split if dialect else "kitten")
    to_bytes = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    model = {field: values[0] for field, values in PLAIN.items()}
    model |= {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if dialect and dialect.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**to_bytes, "use_regex": True},
        "model": {**model, "vocab": vocab | tokenizer.special_ids, "merges": merges},
    }
