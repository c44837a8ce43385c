"""The safetensors format: a header that is checked before it is believed, a writer that copies one tensor at a time.

A file is 8 bytes of length (little-endian), so much JSON (`{name: {dtype, shape, data_offsets}}` and `__metadata__`),
and the tensors' bytes without a gap. Nothing is allocated by what a file claims, only by what it holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmdit.yaml_document import one_line

__all__ = ["HASH_KEY", "CheckpointError", "TensorFile", "TensorInfo", "read_header", "read_json", "write_tensors"]

HASH_KEY = "mmdit_sha256"
MAX_HEADER = 16_000_000  # bytes; published headers have some 100,000
MAX_DIMS = 8
ALIGNMENT = 64  # bytes: the first tensor begins at a multiple, so that a mapped file is as fast as memory

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_BITS = {name: dtype.itemsize * 8 for name, dtype in FLOATS.items()} | {
    **{f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)},
    **{"BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}


class CheckpointError(ValueError):
    """A weights file that can't be read or does not fit; the message names the file, the tensor, got and wanted."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header describes it; `start` and `stop` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile:
    """The checked header of a file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


# ------------------------------------------------------------------------------------------------------------- reading


def read_header(path: str | Path) -> TensorFile:
    """The header of a safetensors file, checked against itself and the file's size.

    Raises:
        CheckpointError: it says what is wrong, with which tensor.
    """
    return _from_file(path, _header, "not a whole safetensors file: ")


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file, which may be as large as a header.

    Raises:
        CheckpointError: it is none, or has a key twice.
    """
    return _from_file(path, lambda file, size: _object(file.read(MAX_HEADER + 1)))


def _from_file(path: str | Path, read: Callable[[BinaryIO, int], Any], wrong: str = "") -> Any:
    """What `read` makes of a regular file and its size; `wrong` goes before what it finds wrong."""
    try:
        # without O_NONBLOCK, opening a FIFO that nobody writes to never returns
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise CheckpointError(f"{path}: is {kind}")
            with open(descriptor, "rb", closefd=False) as file:
                return read(file, status.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{one_line(str(path))}: {wrong}{error}") from None  # a NUL in the path ends here, too


def _header(file: BinaryIO, size: int) -> TensorFile:
    prefix = file.read(9)
    if len(prefix) < 9 or prefix[8:] != b"{":
        raise ValueError(f"the 9th of its {size:,} bytes begins no header")
    (length,) = struct.unpack("<Q", prefix[:8])
    if not 2 <= length <= MAX_HEADER:
        raise ValueError(f"it claims a header of {length:,} bytes; 2 to {MAX_HEADER:,} are read")
    if 8 + length > size:
        raise ValueError(f"truncated: its header reaches byte {8 + length:,} of {size:,}")
    header = _object(prefix[8:] + file.read(length - 1))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ does not map text to text")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_layout(tensors, size - 8 - length)
    return TensorFile(tensors, metadata)


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_HEADER:
        raise ValueError(f"it is larger than {MAX_HEADER:,} bytes")
    try:
        result = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON can't be read: {error}") from None
    if not isinstance(result, dict):
        raise ValueError(f"its JSON is no object but a {type(result).__name__}")
    return result


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{named(twice)} is there twice")
    return result


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{named(name)}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{named(name)}: has the unknown dtype {one_line(str(dtype), 40)}")
    if not _sizes(shape) or len(shape) > MAX_DIMS:
        raise ValueError(f"{named(name)}: its shape must be at most {MAX_DIMS} whole numbers >= 0")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{named(name)}: its data_offsets must be two whole numbers >= 0")
    start, stop = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if (stop - start) * 8 != bits:
        raise ValueError(
            f"{named(name)}: {dtype} of the shape {shape} fills {-(-bits // 8):,} bytes, but its data_offsets span "
            f"{stop - start:,}"
        )
    return TensorInfo(dtype, tuple(shape), start, stop)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_layout(tensors: Mapping[str, TensorInfo], size: int) -> None:
    """The tensors follow each other without gap or overlap and end with the file."""
    end, before = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start < end:
            raise ValueError(
                f"{named(name)}: begins at byte {info.start:,}, overlapping {before}, which ends at {end:,}"
            )
        if info.start > end:
            raise ValueError(f"{named(name)}: begins at byte {info.start:,}, but the tensor before it ends at {end:,}")
        if info.stop > size:
            raise ValueError(f"truncated: {named(name)} reaches byte {info.stop:,} of {size:,} after the header")
        end, before = info.stop, named(name)
    if end != size:
        raise ValueError(f"it has {size - end:,} bytes after its last tensor")


def named(tensor: str) -> str:
    """A tensor's name for a message: a file may call one anything."""
    return one_line(tensor, 200)


# ------------------------------------------------------------------------------------------------------------- writing


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write a safetensors file, and return the hash of its content, which its metadata holds as well.

    One tensor at a time is brought to the CPU and converted, so no second copy of the model is made.

    Args:
        dtype: what the tensors are converted to; None: as they are.
        on_tensor: told how many tensors are written, and of how many.

    Raises:
        OSError: the file can't be written.
    """
    kinds = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))  # wide first keeps all aligned
    entries: dict[str, Any] = {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        entries[name] = {"dtype": _NAMES[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    digests = {}
    with open(path, "wb") as file:
        file.write(_encode(entries, metadata, "0" * 64))
        for done, name in enumerate(names, 1):
            data = tensor_bytes(tensors[name].detach().to("cpu", kinds[name]))
            file.write(data)
            digests[name] = hashlib.sha256(data).hexdigest()
            on_tensor(done, len(names))
        digest = content_hash(entries, digests)
        file.seek(0)
        file.write(_encode(entries, metadata, digest))  # the same length: only the hash has changed
    return digest


def _encode(entries: Mapping[str, Any], metadata: Mapping[str, str], digest: str) -> bytes:
    header = {"__metadata__": {**metadata, HASH_KEY: digest}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8
    return struct.pack("<Q", padded) + text.ljust(padded)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A CPU tensor's bytes, without a copy where it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def content_hash(entries: Mapping[str, Mapping[str, Any]], digests: Mapping[str, str]) -> str:
    """SHA-256 over each tensor's name, dtype, shape and the SHA-256 of its bytes, in the names' order.

    It does not depend on the order in the file, nor on how the tensors are shared out among files.
    """
    lines = [[name, entries[name]["dtype"], entries[name]["shape"], digests[name]] for name in sorted(digests)]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()
