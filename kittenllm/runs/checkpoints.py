"""Files that survive: a save is either complete or it did not happen.

The one idea of this file is the *atomic write*: the new content goes to a temporary file in the
same folder, is pushed to the disk (`fsync`), and only then takes the place of the old file in one
step (`os.replace`). Whoever pulls the plug in between finds the old file, whole. Loading is careful
too: `weights_only=True` lets a file hold tensors and plain containers, but no code, so a checkpoint
from a stranger cannot run anything on this machine.

Read before: nothing. Left out: sharded files, background saving; huggingface.py has the format
of other programs.
"""

import contextlib
import errno
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import torch

from kittenllm.distributed import whole, world
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.runs.json_files import LARGEST_NUMBER, printable
from kittenllm.tokenizer import Tokenizer

FORMAT = "kittenllm"
VERSION = 1  # goes up when an older program could no longer read the file
LARGEST_CHECKPOINT = 2**36  # bytes, 64 GB
WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LONGEST_CONTEXT = 131_072  # tokens; its tables of RoPE must fit into memory
TOKENIZER_WORK = 2**33  # squares of the tokens' lengths: about a second to check them


class CheckpointError(Exception):
    """A file could not be written or read; the message names the file and what to do."""


def write_bytes_atomic(path, content: bytes | memoryview) -> None:
    """Put `content` into `path`, completely or not at all; a missing folder is made.

    Raises: CheckpointError as `write_parts_atomic`.
    """
    write_parts_atomic(path, [content])


def write_parts_atomic(path, parts: Iterable[bytes | memoryview]) -> None:
    """The same for content that comes in parts, one behind the other.

    Under torchrun only the first process writes, whatever the others are asked to write.

    Raises: CheckpointError (full disk, no permission); the old file, if any, is untouched and no
    temporary file stays.
    """
    if not world().is_first:
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # same folder: a rename never crosses disks
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.writelines(parts)
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
    """`value` with tuples as lists, paths as strings, and None for NaN, infinity and whatever is
    beyond 1e100: what strict JSON can hold and json_files.py reads."""
    if isinstance(value, dict):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_numbers(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
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
    try:
        found = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: there is no such file. Has the chapter that writes it run?"
        ) from None
    except (OSError, ValueError) as error:  # a loop of links, a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}).") from error
    if not found:
        raise CheckpointError(f"{path}: not a file. Give a model.pt that a chapter wrote.")
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
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path}: written in format version {printable(version)}, but this KittenLLM reads "
            f"only up to version {VERSION}. Update KittenLLM, or train the model again."
        )
    return payload


def save_model(path, gpt: GPT, tokenizer: Tokenizer, *, extra: dict | None = None) -> None:
    """Save a model together with its tokenizer; `extra` holds tensors or plain values (a reward
    head, say).

    Raises: CheckpointError as `save_checkpoint`.
    """
    weights = {name: whole(tensor).detach().cpu() for name, tensor in gpt.state_dict().items()}
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
    extra = payload.get("extra")
    try:
        gpt = model_from(payload.get("config"), payload.get("weights")).to(device)
        tokenizer = tokenizer_from(payload.get("tokenizer"))
        if not isinstance(extra, dict) or not isinstance(extra.get("chat", True), bool):
            raise ValueError('"extra" is not what a chapter writes')
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the parts of this model do not fit together ({printable(error)}). "
            "Train it again."
        ) from error
    if tokenizer.vocab_size != gpt.config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{gpt.config.vocab_size}. Train it again."
        )
    return gpt, tokenizer, extra


def model_from(config: object, weights: object) -> GPT:
    """The GPT of a file. Its numbers are compared before anything is built: a config that asks for
    three million layers costs no time and no memory.

    Raises: ValueError for anything but the config and the weights of one GPT.
    """
    if not isinstance(config, dict) or not set(config) <= {f.name for f in fields(GPTConfig)}:
        raise ValueError("the config is not that of a GPT")
    if not isinstance(weights, dict):
        raise ValueError("there are no weights")
    stop_ids = config.get("stop_ids", ())
    if not isinstance(stop_ids, (list, tuple)) or len(stop_ids) > 1000:
        raise ValueError("stop_ids must be a short list of token ids")
    for token in (*stop_ids, config.get("pad_id", 0)):
        if type(token) is not int:
            raise ValueError(f"{printable(token, 40)} is no token id")
    try:
        shape = GPTConfig(**config)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"the config is not that of a GPT: {printable(error)}") from error
    if shape.context_length > LONGEST_CONTEXT:
        raise ValueError(f"a context of {printable(shape.context_length)} tokens")
    if not 1 <= shape.rope_base <= 1e12 or not shape.norm_eps <= 1:
        raise ValueError(f"rope_base {shape.rope_base}, norm_eps {shape.norm_eps}")
    check_weights(shape, weights)
    gpt = GPT(shape)
    gpt.load_state_dict(weights)
    return gpt


def check_weights(config: GPTConfig, weights: dict) -> None:
    """Raises: ValueError if these are not, name by name, finite weights of a GPT of this shape."""
    stored: dict[int, str] = {}
    for name, shape in weight_shapes(config, count=len(weights)).items():
        weight = weights.get(name)
        if not isinstance(weight, torch.Tensor) or weight.is_meta:
            raise ValueError(f"{name} is no tensor")
        if tuple(weight.shape) != shape or weight.dtype not in WEIGHT_TYPES:
            raise ValueError(
                f"{name} is {weight.dtype} of the shape {tuple(weight.shape)}, not real numbers "
                f"of the shape {shape}"
            )
        if weight.layout != torch.strided or not weight.is_contiguous():
            raise ValueError(f"{name} is not stored number by number")
        storage = weight.untyped_storage()
        if stored.setdefault(storage.data_ptr(), name) != name:
            raise ValueError(f"{name} and {stored[storage.data_ptr()]} share their numbers")
        if not bool(weight.isfinite().all()):
            raise ValueError(f"{name} holds values that are no numbers")


def load_head(model: torch.nn.Module, head: dict) -> None:
    """Put the weights beside the GPT of a reward or value model into it: all but "gpt. ...".

    Raises: ValueError for other names, shapes or kinds of numbers.
    """
    state = model.state_dict()
    expected = {name for name in state if not name.startswith("gpt.")}
    if not isinstance(head, dict) or set(head) != expected:
        names = printable(sorted(map(str, head))) if isinstance(head, dict) else type(head).__name__
        raise ValueError(f"a head of {names}, not {sorted(expected)}")
    for name, weight in head.items():
        if not isinstance(weight, torch.Tensor) or weight.is_meta:
            raise ValueError(f"{name} is no tensor")
        if weight.shape != state[name].shape or weight.dtype not in WEIGHT_TYPES:
            raise ValueError(f"{name} is {weight.dtype} of the shape {tuple(weight.shape)}")
        if weight.layout != torch.strided or not bool(weight.isfinite().all()):
            raise ValueError(f"{name} holds values that are no numbers")
    model.load_state_dict({**state, **head})


def weight_shapes(config: GPTConfig, *, count: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a GPT, of which there are `count`.

    Raises: ValueError for another count, before a name is made: a file may say three million
    layers.
    """
    shapes = {
        "embed_tokens.weight": (config.vocab_size, config.channels),
        "norm.weight": (config.channels,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab_size, config.channels)
    in_layers = count - len(shapes)
    if in_layers != config.layers * len(layer_shapes(config)):
        raise ValueError(f"{printable(config.layers)} layers, but {count} weights")
    for layer in range(config.layers):
        for name, shape in layer_shapes(config).items():
            shapes[f"layers.{layer}.{name}"] = shape
    return shapes


def layer_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of one layer."""
    C, wide = config.channels, config.ffn_channels
    q_channels = config.heads * config.head_channels
    kv_channels = config.kv_heads * config.head_channels
    biases = {
        "self_attn.q_proj.bias": (q_channels,),
        "self_attn.k_proj.bias": (kv_channels,),
        "self_attn.v_proj.bias": (kv_channels,),
    }
    return (biases if config.qkv_bias else {}) | {
        "input_layernorm.weight": (C,),
        "self_attn.q_proj.weight": (q_channels, C),
        "self_attn.k_proj.weight": (kv_channels, C),
        "self_attn.v_proj.weight": (kv_channels, C),
        "self_attn.o_proj.weight": (C, q_channels),
        "post_attention_layernorm.weight": (C,),
        "mlp.gate_proj.weight": (wide, C),
        "mlp.up_proj.weight": (wide, C),
        "mlp.down_proj.weight": (C, wide),
    }


def tokenizer_from(state: object) -> Tokenizer:
    """The tokenizer of a file.  Raises: ValueError for anything but the state of a tokenizer."""
    state = state if isinstance(state, dict) else {}
    tokens = state.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("this is no saved tokenizer")
    if sum((len(token) // 2) ** 2 for token in tokens) > TOKENIZER_WORK:
        raise ValueError("the tokenizer has tokens that are too long")
    return Tokenizer.from_state(state)


def _check_whole(path: Path) -> None:
    """A torch file is a zip archive: read it through once and compare its checksums (torch does
    not). What it promises is compared with its size first, so that a bomb is never unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            size = path.stat().st_size
            if packed or sum(part.file_size for part in parts) > min(size, LARGEST_CHECKPOINT):
                raise ValueError("torch stores its parts unpacked, side by side")
            damaged = archive.testzip()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:
        raise CheckpointError(
            f"{path}: cut off, or not a checkpoint at all. Is it really a file of KittenLLM? Then "
            "move it away and run the chapter that writes it again."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged (its part {printable(damaged)!r} does not match its checksum). "
            "Move it away and run the chapter that writes it again."
        )


def _write_error(path, error: OSError) -> CheckpointError:
    remedy = "Make room on the disk" if error.errno == errno.ENOSPC else "Check the folder"
    return CheckpointError(
        f"{path}: could not be saved ({error.strerror or error}). {remedy} and run the same "
        "command again; an earlier version of the file is untouched."
    )
