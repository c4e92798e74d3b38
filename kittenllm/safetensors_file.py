"""safetensors: a file of named tensors, read and written by hand.

One idea: the file is a table of contents and one long row of numbers. 8 bytes say how long the
table is; the table is JSON and says for every name which kind of numbers there are, in which shape,
and from which byte to which; then the numbers come, one tensor behind the other:

    48 00 00 00 00 00 00 00                                        the table has 72 bytes
    {"norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    00 00 80 3f 00 00 00 40                                        the numbers, here 1.0 and 2.0

Nothing in it can be run, and all that it says can be compared with its size before any memory is
taken: a file from a stranger that lies about a shape costs one line, and no gigabyte. A large model
is spread over several files, the *shards*, and an index says which name is in which.

Read before: nothing. Left out: kinds of numbers other than float32, float16 and bfloat16, and
memory maps: a tensor is read when its turn comes.
"""

import json
import math
import os
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kittenllm.runs.checkpoints import write_parts_atomic
from kittenllm.runs.json_files import is_file_name, parse_json, printable, read_json

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LARGEST_HEADER = 2**21  # bytes; a model of 100 layers has 0.1 MB
BLOCK = 2**20  # numbers that are converted at a time


class Place(NamedTuple):
    """Where a tensor is."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # its first byte, counted from the start of the file
    size: int  # bytes


def read_header(path: Path) -> dict[str, Place]:
    """Name -> place of all tensors in a file; they lie side by side and fill it to its end.

    Raises: ValueError for a header that lies, or a file that was cut off.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, LARGEST_HEADER):
                raise ValueError(f"{path}: header: {length} bytes long, in a file of {size}")
            text = file.read(length)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): is it there?") from error
    try:
        entries = parse_json(text)
        entries.pop("__metadata__", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: header: {printable(error)}") from error
    start = 8 + length
    places = {name: read_place(path, name, entry, start) for name, entry in entries.items()}
    end = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].size)):
        if place.begin != end:
            where = f"begins at byte {place.begin - start}, the one before ends at {end - start}"
            raise ValueError(f"{path}: {printable(name)}: data_offsets: it {where}")
        end += place.size
    if end != size:
        raise ValueError(f"{path}: data_offsets: the tensors end at byte {end}, the file at {size}")
    return places


def read_place(path: Path, name: str, entry: object, start: int) -> Place:
    """One entry of a header.  Raises: ValueError that names the tensor and the field."""
    where = f"{path}: {printable(name, 100)}"
    values = entry if isinstance(entry, dict) else {}
    dtype = values.get("dtype")
    if dtype not in list(DTYPES):
        raise ValueError(f"{where}: dtype: {printable(dtype, 40)} is not one of {list(DTYPES)}")
    shape = read_sizes(f"{where}: shape", values.get("shape"), counts=range(9))
    offsets = read_sizes(f"{where}: data_offsets", values.get("data_offsets"), counts=range(2, 3))
    size = offsets[1] - offsets[0]
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != size:
        raise ValueError(f"{where}: shape {shape} of {dtype} is {needed} bytes, it has {size}")
    return Place(path, DTYPES[dtype], tuple(shape), start + offsets[0], size)


def read_sizes(where: str, value: object, *, counts: range) -> list[int]:
    """A list of whole numbers from 0 up, as many as one of `counts`.  Raises: ValueError."""
    if not isinstance(value, list) or len(value) not in counts:
        raise ValueError(
            f"{where}: {printable(value, 60)} is no list of {counts[0]} to {counts[-1]}"
        )
    for size in value:
        if type(size) is not int or size < 0:
            raise ValueError(f"{where}: {printable(size, 60)} in {printable(value, 60)}")
    return value


def read_tensor(place: Place, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers, in the kind they have in the file or in another one.

    They are read a block at a time: beside the result, little memory is taken.
    Raises: ValueError if the file ends too early.
    """
    count = place.size // place.dtype.itemsize
    numbers = torch.empty(count, dtype=dtype or place.dtype)
    same = numbers.dtype == place.dtype
    block = numbers if same else torch.empty(min(count, BLOCK), dtype=place.dtype)
    with open(place.path, "rb") as file:
        file.seek(place.begin)
        for start in range(0, count, max(1, len(block))):
            part = block[: count - start]
            if file.readinto(part.view(torch.uint8).numpy().data) != part.nbytes:
                raise ValueError(f"{place.path}: it became shorter while it was read")
            if not same:
                numbers[start : start + len(part)] = part
    return numbers.view(place.shape)


def find_tensors(path: Path) -> dict[str, Place]:
    """Name -> place of all tensors of a file, or of a folder with one file or with shards.

    Raises: ValueError as `read_header`, and for an index that does not fit its shards.
    """
    index = path / "model.safetensors.index.json"
    if not path.is_dir():
        return read_header(path)
    if (path / "model.safetensors").exists() or not index.exists():
        return read_header(path / "model.safetensors")
    weight_map = object_of(index, "weight_map", read_object(index).get("weight_map"))
    found: dict[str, Place] = {}
    for shard in dict.fromkeys(weight_map.values()):
        if not is_file_name(shard):
            raise ValueError(f"{index}: weight_map: {printable(shard, 60)} is no file beside it")
        found |= read_header(path / shard)
    for name in weight_map.keys() | found.keys():
        says, has = weight_map.get(name), found[name].path.name if name in found else None
        if says != has:
            both = f"{printable(name, 60)} is in {has}, not in {printable(says, 60)}"
            raise ValueError(f"{index}: weight_map: {both}")
    return found


def read_safetensors(path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of a folder that holds one or its shards.

    Raises: ValueError for anything that is not as its header says, before memory is taken.
    """
    return {name: read_tensor(place) for name, place in find_tensors(Path(path)).items()}


def write_safetensors(path, tensors: dict[str, Tensor]) -> None:
    """The reverse, as one file.  Raises: ValueError for a dtype that it cannot hold."""
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in kinds:
            raise ValueError(f"{path}: {name}: {tensor.dtype} is not one of {list(kinds)}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind, shape = kinds[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of 8
    flat = (tensor.detach().cpu().contiguous().flatten() for tensor in tensors.values())
    numbers = (part.view(torch.uint8).numpy().data for part in flat)
    write_parts_atomic(path, chain([len(text).to_bytes(8, "little"), text], numbers))


def read_object(path: Path) -> dict:
    """The object in a JSON file that must be there."""
    content = read_json(path)
    if content is None:
        raise ValueError(f"{path}: there is no such file, and a model folder has one")
    return content


def object_of(path: Path, field: str, value: object) -> dict:
    """The value of a field, if it is an object.  Raises: ValueError that names file and field."""
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {field}: {printable(value, 60)} is no object")
    return value
