"""The safetensors format, and its header, which is checked before it is believed.

A file is 8 bytes of length (little-endian), so much JSON (`{name: {dtype, shape, data_offsets}}` and `__metadata__`),
and the tensors' bytes without a gap. Nothing is allocated by what a file claims, only by what it holds.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mmdit.config.regular_file import NotRegular, open_regular
from mmdit.config.yaml_document import one_line
from mmdit.weights.file_kinds import HEAD, foreign

__all__ = [
    *("DTYPES", "FLOATS", "CheckpointError", "TensorFile", "TensorInfo"),
    *("check_places", "opened", "read_header", "read_json"),
]

MAX_HEADER = 8_000_000  # bytes; published headers have some 100,000
MAX_TENSORS = 20_000  # in a file; SD3.5-large has 922
MAX_DIMS = 8

# In the order in which the library that defines the format (safetensors, in Rust) puts tensors into a file.
DTYPES = {
    **{"U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64},
    **{"F32": torch.float32, "U32": torch.uint32, "I32": torch.int32},
    **{"BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16, "I16": torch.int16},
    **{"F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E4M3FNUZ": torch.float8_e4m3fnuz},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool},
}
FLOATS = {name: DTYPES[name] for name in ("F64", "F32", "F16", "BF16")}
_BITS = {name: dtype.itemsize * 8 for name, dtype in DTYPES.items()} | {
    **{"F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},  # a header may name them; their tensors are not read
}


class CheckpointError(ValueError):
    """A weights file that can't be read or does not fit; the message names the file, the tensor, got and wanted."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a header describes it; `start` and `stop` are bytes after the header, `problem` is what keeps it from
    being read, if anything does."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    problem: str = ""


@dataclass(frozen=True)
class TensorFile:
    """The checked header of a file; `start` is where it ends and the tensors begin, in bytes."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    start: int


def read_header(path: str | Path) -> TensorFile:
    """The header of a safetensors file, checked against itself and the file's size.

    Raises:
        CheckpointError: it says what is wrong, with which tensor, or what else the file is.
    """
    with opened(path, "not a whole safetensors file: ") as file:
        return _header(file, os.fstat(file.fileno()).st_size)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file, which may be as large as a header.

    Raises:
        CheckpointError: it is none, or has a key twice.
    """
    with opened(path) as file:
        return _object(file.read(MAX_HEADER + 1))


@contextmanager
def opened(path: str | Path, wrong: str = "") -> Iterator[BinaryIO]:
    """A regular file; all errors, `wrong` before those of the content, become one that names it."""
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except NotRegular as error:
        raise CheckpointError(f"{path}: is {error.kind}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{one_line(str(path))}: {wrong}{error}") from None  # a NUL in the path ends here, too


def _header(file: BinaryIO, size: int) -> TensorFile:
    head = file.read(HEAD)
    file.seek(9)
    prefix = head[:9]
    (length,) = struct.unpack("<Q", prefix[:8].ljust(8, b"\0"))
    if (prefix[8:] != b"{" or length > MAX_HEADER) and (kind := foreign(head, size)) is not None:
        raise ValueError(f"it {kind}")
    if prefix[8:] != b"{":
        raise ValueError(f"the 9th of its {size:,} bytes begins no header")
    if not 2 <= length <= MAX_HEADER:
        raise ValueError(f"it claims a header of {length:,} bytes; 2 to {MAX_HEADER:,} are read")
    if 8 + length > size:
        raise ValueError(f"truncated: its header reaches byte {8 + length:,} of {size:,}")
    header = _object(prefix[8:] + file.read(length - 1))
    metadata = header.pop("__metadata__", {})
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it names {len(header):,} tensors; at most {MAX_TENSORS:,} are read")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ does not map text to text")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    check_places(tensors, size - 8 - length, gaps=False)
    return TensorFile(tensors, metadata, 8 + length)


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


def check_places(tensors: Mapping[str, TensorInfo], size: int, *, gaps: bool) -> None:
    """The tensors follow each other without overlap in the `size` bytes after a header; without `gaps` they fill them.

    Raises:
        ValueError: it names the first that does not.
    """
    end, before = 0, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start < end:
            raise ValueError(
                f"{named(name)}: begins at byte {info.start:,}, overlapping {before}, which ends at {end:,}"
            )
        if info.start > end and not gaps:
            raise ValueError(f"{named(name)}: begins at byte {info.start:,}, but the tensor before it ends at {end:,}")
        if info.stop > size:
            raise ValueError(
                f"truncated: {named(name)} reaches byte {info.stop:,} of {max(size, 0):,} after the header"
            )
        end, before = info.stop, named(name)
    if end != size and not gaps:
        raise ValueError(f"it has {size - end:,} bytes after its last tensor")


def named(tensor: str) -> str:
    """A tensor's name for a message: a file may call one anything."""
    return one_line(tensor, 200)
