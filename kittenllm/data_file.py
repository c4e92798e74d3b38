"""One file of the user's, opened once and read whole.

One idea: what is checked, hashed and trained on are the same bytes. A pipe can be read only once,
and a file may change between two looks at it, so nobody opens a data file a second time.

    data = read_data_file("book.txt")        # or /dev/stdin, a FIFO, <(zcat book.txt.gz)
    data.text                                # what to train on
    data.digest                              # what a run is known by, see runs/run.py

Read before: nothing. Left out: files larger than memory, other encodings than UTF-8.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BLOCK = 1 << 20  # bytes read at a time
PACKED = {  # how packed files begin
    b"\x1f\x8b": ("gzip", "zcat"),
    b"BZh91AY": ("bzip2", "bzcat"),
    b"\xfd7zXZ": ("xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
}


class RecordError(ValueError):
    """A file that cannot be used; the message names the file, the place and the remedy."""


@dataclass(frozen=True)
class DataFile:
    """The bytes of a file, and the path that messages name."""

    path: str
    content: bytes

    @cached_property
    def digest(self) -> str:
        """A short hash of the content, for a run's `inputs`: a changed file is another run."""
        return hashlib.sha256(self.content).hexdigest()[:16]

    @cached_property
    def text(self) -> str:
        """The content as text; a byte order mark is dropped, every line end becomes \\n.

        Raises: RecordError for content that is empty, packed, binary or no UTF-8.
        """
        raw = self.content
        for start, (name, command) in PACKED.items():
            if raw.startswith(start):
                raise RecordError(
                    f"{self.path}: this is a {name} file; unpack it first, or give "
                    f"<({command} {self.path}) in its place"
                )
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise RecordError(f"{self.path}: this is UTF-16 text; save it as UTF-8")
        zero = raw.find(0)
        if zero >= 0:
            raise RecordError(
                f"{self.path}: this is no text, byte {zero} is zero; give a plain text file, "
                "not an archive, a picture or a word processor's document"
            )
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            wrong = raw[error.start]
            raise RecordError(
                f"{self.path}: byte {error.start} (0x{wrong:02x}) is no UTF-8; "
                "save the file as UTF-8"
            ) from error
        if not text.strip():
            raise RecordError(f"{self.path}: the file is empty; give a file with some text in it")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def read_data_file(source: str | Path | DataFile) -> DataFile:
    """Open a file once, read it whole, and check that it is text; a DataFile comes back as it is.

    Raises: RecordError for a file that is missing, a folder, empty, packed, binary or no UTF-8.
    """
    if isinstance(source, DataFile):
        return source
    content = bytearray()
    try:
        with open(source, "rb") as file:
            while block := file.read(BLOCK):
                content += block
                if 0 in block:  # no text holds a zero, and /dev/zero never ends
                    break
    except IsADirectoryError as error:
        raise RecordError(f"{source}: cannot be read: this is a folder; give a file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero in it
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{source}: cannot be read: {reason}") from error
    data = DataFile(str(source), bytes(content))
    data.text  # noqa: B018 (decoded now, so that a file that is no text is refused here)
    return data
