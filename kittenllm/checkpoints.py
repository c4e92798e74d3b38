"""Files that survive: a save is either complete or it did not happen.

The one idea of this file is the *atomic write*: the new content goes to a temporary file in the
same folder, is pushed to the disk (`fsync`), and only then takes the place of the old file in one
step (`os.replace`). Whoever pulls the plug in between finds the old file, whole. Loading is careful
too: `weights_only=True` lets a file hold tensors and plain containers, but no code, so a checkpoint
from a stranger cannot run anything on this machine.

Read before: nothing. Left out: sharded files, background saving, other formats (safetensors).
"""

import contextlib
import errno
import io
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import torch

from kittenllm.gpt import GPT, GPTConfig
from kittenllm.tokenizer import Tokenizer

FORMAT = "kittenllm"
VERSION = 1  # goes up when an older program could no longer read the file


class CheckpointError(Exception):
    """A file could not be written or read; the message names the file and what to do."""


def write_bytes_atomic(path, content: bytes) -> None:
    """Put `content` into `path`, completely or not at all; a missing folder is made.

    Raises: CheckpointError (full disk, no permission); the old file, if any, is untouched and no
    temporary file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # same folder: a rename never crosses disks
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk, not only in the system's memory
        os.replace(temporary, path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:  # after a success there is nothing left to remove
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomic(path, text: str) -> None:
    """Like `write_bytes_atomic`, for text (UTF-8)."""
    write_bytes_atomic(path, text.encode("utf-8", errors="replace"))


def write_json_atomic(path, value) -> None:
    """Like `write_bytes_atomic`, for plain dicts, lists, numbers and strings; NaN and infinity
    become null."""
    text = json.dumps(plain_numbers(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomic(path, text + "\n")


def plain_numbers(value):
    """`value` with tuples as lists, paths as strings and NaN or infinity as None: what strict JSON
    can hold."""
    if isinstance(value, dict):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_numbers(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def save_checkpoint(path, payload: dict) -> None:
    """Save `payload` (tensors and plain containers) atomically; format and version are added.

    Raises: CheckpointError when the file cannot be written; an earlier file of that name is then
    still there.
    """
    buffer = io.BytesIO()  # in memory first, so that a full disk shows as one clear OSError
    try:
        torch.save({**payload, "format": FORMAT, "version": VERSION}, buffer)
    except OSError as error:
        raise _write_error(path, error) from error
    write_bytes_atomic(path, buffer.getbuffer())


def load_checkpoint(path, *, device="cpu") -> dict:
    """Read what `save_checkpoint` wrote, with its tensors on `device`.

    Raises: CheckpointError for a missing, truncated, damaged, foreign or newer file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file. Has the chapter that writes it run?")
    _check_whole(path)
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except (
        Exception
    ) as error:  # torch raises half a dozen kinds here; all mean the same to a reader
        raise CheckpointError(
            f"{path}: not a KittenLLM checkpoint ({type(error).__name__}). "
            "Give a model.pt that a chapter wrote."
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a torch file, but not one of KittenLLM. Give a model.pt that a chapter wrote."
        )
    version = payload.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: written in format version {version}, but this KittenLLM reads only up to "
            f"version {VERSION}. Update KittenLLM, or train the model again."
        )
    return payload


def save_model(path, gpt: GPT, tokenizer: Tokenizer, *, extra: dict | None = None) -> None:
    """Save a model together with its tokenizer; `extra` holds tensors or plain values (a reward
    head, say).

    Raises: CheckpointError as `save_checkpoint`.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in gpt.state_dict().items()}
    payload = {
        "kind": "model",
        "config": asdict(gpt.config),
        "weights": weights,  # on the CPU: the file loads on any device
        "tokenizer": tokenizer.to_state(),
        "extra": extra or {},
    }
    save_checkpoint(path, payload)


def load_model(path, *, device="cpu") -> tuple[GPT, Tokenizer, dict]:
    """Read what `save_model` wrote -> (gpt on `device`, tokenizer, extra).

    Raises: CheckpointError as `load_checkpoint`, and when the file holds no model.
    """
    payload = load_checkpoint(path, device=device)
    if payload.get("kind") != "model":
        raise CheckpointError(
            f"{path}: a KittenLLM file, but not a model. Give a chapter's model.pt."
        )
    try:
        gpt = GPT(GPTConfig(**payload["config"])).to(device)
        gpt.load_state_dict(payload["weights"])
        tokenizer = Tokenizer.from_state(payload["tokenizer"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the parts of this model do not fit together ({error}). Train it again."
        ) from error
    if tokenizer.vocab_size != gpt.config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{gpt.config.vocab_size}. Train it again."
        )
    return gpt, tokenizer, payload["extra"]


def _check_whole(path: Path) -> None:
    """A torch file is a zip archive: read it through once and compare its checksums (torch does
    not)."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except Exception as error:
        raise CheckpointError(
            f"{path}: cut off, or not a checkpoint at all. "
            "Delete it and run the chapter that writes it again."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged (its part {damaged!r} does not match its checksum). "
            "Delete it and run the chapter that writes it again."
        )


def _write_error(path, error: OSError) -> CheckpointError:
    remedy = "Make room on the disk" if error.errno == errno.ENOSPC else "Check the folder"
    return CheckpointError(
        f"{path}: could not be saved ({error.strerror or error}). {remedy} and run the same "
        "command again; an earlier version of the file is untouched."
    )
