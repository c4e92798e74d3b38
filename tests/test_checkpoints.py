"""A file is either complete or untouched, and a bad file is a clear sentence, not a traceback."""

import errno
import json
import os
import signal
import zipfile

import pytest
import torch

from kittenllm.gpt import GPT, GPTConfig
from kittenllm.runs import checkpoints
from kittenllm.runs.checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
    write_json_atomic,
    write_text_atomic,
)
from kittenllm.tokenizer import Tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    """The smallest one: every token is a byte."""
    return Tokenizer({bytes([byte]): byte for byte in range(256)})


@pytest.fixture
def gpt(tokenizer) -> GPT:
    config = GPTConfig(
        tokenizer.vocab_size,
        layers=1,
        channels=32,
        ffn_channels=48,
        stop_ids=(tokenizer.im_end_id, tokenizer.endoftext_id),
        pad_id=tokenizer.pad_id,
    )
    return GPT(config, generator=torch.Generator().manual_seed(1))


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_model_comes_back_bit_for_bit(tmp_path, gpt, tokenizer, device):
    path = tmp_path / "new" / "model.pt"  # the folder is made
    save_model(path, gpt.to(device), tokenizer, extra={"head": torch.ones(3), "note": "hello"})
    loaded, loaded_tokenizer, extra = load_model(path, device=device)
    assert loaded.config == gpt.config
    assert loaded.device.type == torch.device(device).type
    for name, weight in gpt.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    tokens = torch.tensor([tokenizer.encode("meow, said the kitten")], device=device)
    assert torch.equal(loaded(tokens), gpt(tokens))
    assert loaded_tokenizer.encode("a kitten") == tokenizer.encode("a kitten")
    assert loaded_tokenizer.special_ids == tokenizer.special_ids
    assert torch.equal(extra["head"].cpu(), torch.ones(3)) and extra["note"] == "hello"


def test_weights_are_stored_for_any_device(tmp_path, gpt, tokenizer, device):
    save_model(tmp_path / "model.pt", gpt.to(device), tokenizer)
    stored = torch.load(tmp_path / "model.pt", weights_only=True)  # no map_location on purpose
    assert {tensor.device.type for tensor in stored["weights"].values()} == {"cpu"}


@pytest.mark.parametrize("broken", ["torch.save", "os.fsync", "os.replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"step": 1})
    monkeypatch.setattr(f"kittenllm.runs.checkpoints.{broken}", no_space)
    with pytest.raises(CheckpointError, match="state.pt.*No space left.*Make room"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_write_that_really_fails_half_way(tmp_path):
    """The system itself refuses to let a file grow beyond 64 kB."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    try:
        with pytest.raises(CheckpointError, match="could not be saved"):
            save_checkpoint(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_stop_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(number):
        raise KeyboardInterrupt

    write_text_atomic(tmp_path / "page.html", "old")
    monkeypatch.setattr(checkpoints.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Check the folder"):
        save_checkpoint(tmp_path / "file" / "model.pt", {})


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, gpt, tokenizer, share):
    path = tmp_path / "model.pt"
    save_model(path, gpt, tokenizer)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="model.pt: cut off"):
        load_model(path)


def test_a_single_flipped_bit_is_found(tmp_path, gpt, tokenizer):
    """torch.load would give back wrong weights without a word."""
    path = tmp_path / "model.pt"
    save_model(path, gpt, tokenizer)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


class Evil:
    """What a hostile file would hold: code that runs while it is read."""

    def __reduce__(self):
        return (os.mkdir, ("evil_was_here",))


def test_foreign_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("Once upon a time")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("story.txt", "Once upon a time")
    torch.save({"weights": 1}, tmp_path / "torch.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": "kittenllm", "version": 1, "evil": Evil()}, tmp_path / "evil.pt")
    for name in ("text.pt", "zip.pt", "torch.pt", "list.pt", "evil.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("version", [checkpoints.VERSION + 1, "two", None])
def test_newer_format(tmp_path, version):
    payload = {"format": "kittenllm", "version": version}
    torch.save(payload, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="Update KittenLLM"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_checkpoint_that_is_no_model(tmp_path, gpt, tokenizer):
    save_checkpoint(tmp_path / "state.pt", {"step": 1})
    with pytest.raises(CheckpointError, match="not a model"):
        load_model(tmp_path / "state.pt")


@pytest.mark.parametrize("part", ["config", "weights", "tokenizer"])
def test_a_model_with_a_part_that_does_not_fit(tmp_path, gpt, tokenizer, part):
    path = tmp_path / "model.pt"
    save_model(path, gpt, tokenizer)
    payload = torch.load(path, weights_only=True)
    payload[part] = {}
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match="model.pt"):
        load_model(path)


def test_a_tokenizer_of_another_size_than_the_model(tmp_path, tokenizer):
    path = tmp_path / "model.pt"
    save_model(path, GPT(GPTConfig(100, layers=1, channels=32, ffn_channels=32)), tokenizer)
    with pytest.raises(CheckpointError, match="266 tokens, the model 100"):
        load_model(path)


def test_json_is_strict(tmp_path):
    """NaN is no JSON: a page that reads it would stop there."""
    write_json_atomic(
        tmp_path / "a.json", {"a": float("nan"), 1: (2, -float("inf")), "ü": tmp_path}
    )
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "1": [2, None], "ü": str(tmp_path)}
