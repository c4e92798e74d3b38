"""One file, opened once, read whole: what is checked, hashed and trained on are the same bytes."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
from pathlib import Path

import pytest

from kittenllm.data_file import DataFile, RecordError, read_data_file
from kittenllm.records import load_chats, load_preferences, load_questions, load_text
from kittenllm.runs.run import file_digest

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "meow"}]
LINES = {  # reader -> a line that it takes
    load_text: "The cat sat on the mat.",
    load_chats: json.dumps({"messages": MESSAGES}),
    load_preferences: json.dumps({"prompt": "hi", "chosen": "meow", "rejected": "no"}),
    load_questions: json.dumps({"question": "1+1?", "answer": "two #### 2"}),
}
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFO")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    data = read_data_file(path)
    assert data == DataFile(str(path), b"\xef\xbb\xbfone\r\ntwo\n")
    assert data.text == "one\ntwo\n"
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert data.digest == file_digest(path)  # a run of an earlier version is still the same run


def test_a_data_file_that_has_changed_since_is_the_old_one(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("old")
    data = read_data_file(path)
    path.unlink()
    assert read_data_file(data) is data
    assert load_text(data) == "old"
    assert data.digest == hashlib.sha256(b"old").hexdigest()[:16]


@pytest.mark.parametrize("load", LINES)
def test_every_reader_opens_a_file_once(tmp_path, load, count_opens):
    path = tmp_path / "data.jsonl"
    path.write_text(LINES[load])
    opens = count_opens(path)
    from_path = load(path)
    assert opens == [str(path)]
    assert load(read_data_file(path)) == from_path
    assert len(opens) == 2


@needs_pipes
@pytest.mark.parametrize("load", LINES)
def test_every_reader_takes_a_pipe(tmp_path, load, fill_pipe):
    content = (LINES[load] + "\n").encode() * 3_000  # more than a pipe holds at a time
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(content)
    data = read_data_file(fill_pipe(content))
    assert data.digest == read_data_file(whole).digest
    assert load(data) == load(whole)


@pytest.mark.parametrize(
    "pack, name, command",
    [
        (gzip.compress, "gzip", "zcat"),
        (bz2.compress, "bzip2", "bzcat"),
        (lzma.compress, "xz", "xzcat"),
    ],
)
def test_a_packed_file_is_named_with_its_remedy(tmp_path, pack, name, command):
    path = tmp_path / "book"
    path.write_bytes(pack(b"The cat sat on the mat.\n" * 50))
    remedy = rf"this is a {name} file; unpack it first, or give <\({command} .*book\)"
    with pytest.raises(RecordError, match=remedy):
        read_data_file(path)


def test_what_is_no_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: this is a folder; give a file"):
        read_data_file(tmp_path)
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        read_data_file(tmp_path / "absent")
    with pytest.raises(RecordError, match="cannot be read: embedded null byte"):
        read_data_file("a\0b")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_file_without_an_end_is_refused():
    with pytest.raises(RecordError, match="byte 0 is zero"):
        read_data_file("/dev/zero")
