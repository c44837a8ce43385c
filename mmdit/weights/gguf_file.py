"""GGUF files (ggml-org/ggml, `docs/gguf.md`): the header, checked before it is believed, and their tensors' values.

A file is `GGUF`, a version, the number of tensors and of entries; the entries, each a key, a type and a value; of each
tensor its name, its shape (the last dimension first), type and offset; and, from the next multiple of the alignment,
the tensors. The values of a quantized type are those that the `gguf` package gives.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdit.config.yaml_document import one_line
from mmdit.weights.header import (
    MAX_DIMS,
    MAX_HEADER,
    MAX_TENSORS,
    CheckpointError,
    TensorFile,
    TensorInfo,
    check_places,
    named,
    opened,
)

__all__ = ["block_types", "gguf_header", "gguf_values", "is_gguf"]

MAGIC, VERSIONS = b"GGUF", (2, 3)
BLOCKS = 4096  # whose values are computed at a time: what the package makes of them stays in a cache
MAX_ENTRIES = 65_536
ALIGNMENT, SHAPE = "general.alignment", "comfy.gguf.orig_shape."  # city96/ComfyUI-GGUF: of what had more dimensions
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # by the number of a value's type
TEXT, ARRAY = 8, 9


def is_gguf(path: Path) -> bool:
    """Whether a file begins as one."""
    try:
        with opened(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except CheckpointError:
        return False


def gguf_header(path: Path) -> TensorFile:
    """The header, with `dtype` as GGUF calls it; it is checked against itself and the file's size.

    Raises:
        CheckpointError: it says what is wrong, with which tensor; or that the package `gguf` is needed.
    """
    sizes = _types(path)
    with opened(path, "not a whole GGUF file: ") as file:
        size = os.fstat(file.fileno()).st_size
        text = _Text(file.read(MAX_HEADER), size)
        text.skip(len(MAGIC))
        version = text.number("I")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version:,}; 2 and 3 are read, of little-endian numbers")
        tensors, entries = text.number("Q"), text.number("Q")
        if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
            most = f"{MAX_TENSORS:,} and {MAX_ENTRIES:,}"
            raise ValueError(f"it names {tensors:,} tensors and {entries:,} entries; at most {most} are read")
        said = dict(text.entry() for _ in range(entries))
        alignment = said.get(ALIGNMENT, 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"its alignment must be a number from 1 to {1 << 20:,}")
        found: dict[str, TensorInfo] = {}
        for _ in range(tensors):
            name, info = _tensor(text, sizes, alignment, said)
            if name in found:
                raise ValueError(f"{named(name)} is there twice")
            found[name] = info
        start = -(-text.at // alignment) * alignment
        check_places(found, size - start, gaps=True)
    return TensorFile(found, {"format": "pt"}, start)


def gguf_values(data: Tensor, info: TensorInfo, dtype: torch.dtype | None = None) -> Tensor:
    """A quantized tensor's values, of its bytes: in float32, or rounded to `dtype`.

    Raises:
        ValueError: the package can't read its type.
    """
    from gguf import GGMLQuantizationType, quants

    count, size = block_types()[info.dtype]
    blocks = data.reshape(-1, size)
    values = torch.empty(len(blocks), count, dtype=dtype or torch.float32, device="cpu")
    try:
        for part, out in zip(blocks.split(BLOCKS), values.split(BLOCKS), strict=True):
            if info.dtype == "Q8_0":  # a scale in fp16 and as many bytes as values: half the package's time
                out.copy_(part[:, 2:].view(torch.int8) * part[:, :2].contiguous().view(torch.float16).float())
            else:
                found = quants.dequantize(part.reshape(1, -1).numpy(), GGMLQuantizationType[info.dtype])
                out.copy_(torch.from_numpy(found).reshape(-1, count))
    except NotImplementedError:
        raise ValueError(f"is of the type {info.dtype}, which is not read") from None
    return values.reshape(info.shape)


@lru_cache(maxsize=1)
def block_types() -> dict[str, tuple[int, int]]:
    """The quantized types of GGUF, none where the package `gguf` is not there: the values and bytes of a block."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError:
        return {}
    return {kind.name: sizes for kind, sizes in GGML_QUANT_SIZES.items() if sizes[0] > 1}


def _types(path: Path) -> dict[int, tuple[str, int, int]]:
    """By a type's number: its name, and the values and bytes of a block."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError:
        raise CheckpointError(f"{path}: is a GGUF file; to read it: pip install 'mmdit-cli[gguf]'") from None
    return {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


def _tensor(
    text: _Text, sizes: dict[int, tuple[str, int, int]], alignment: int, said: dict[str, Any]
) -> tuple[str, TensorInfo]:
    name, dims = text.string(), text.number("I")
    if dims > MAX_DIMS:
        raise ValueError(f"{named(name)}: its shape must be at most {MAX_DIMS} whole numbers")
    shape = tuple(text.number("Q") for _ in range(dims))[::-1]
    kind, start = text.number("I"), text.number("Q")
    if kind not in sizes:
        raise ValueError(f"{named(name)}: is of the unknown type {kind:,}")
    dtype, values, size = sizes[kind]
    count = prod(shape)
    if count >= 1 << 63 or (values > 1 and (not count or (shape or (1,))[-1] % values)):
        raise ValueError(
            f"{named(name)}: {dtype} can't have the shape {list(shape)}: its rows are of {values} values each"
        )
    if start % alignment:
        raise ValueError(f"{named(name)}: begins at byte {start:,}, which is no multiple of {alignment:,}")
    was = said.get(SHAPE + name)
    if was is not None and prod(was) != count:
        raise ValueError(f"{named(name)}: has the shape {list(shape)} and is said to have had {list(was)[:MAX_DIMS]}")
    return name, TensorInfo(dtype, tuple(was or shape), start, start + count // values * size)


class _Text:
    """A header's bytes, read one after the other, and none beyond their end."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.at = data, size, 0

    def skip(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            if end > self.size:
                raise ValueError(f"truncated: its header reaches byte {end:,} of {self.size:,}")
            raise ValueError(f"its header is longer than the {MAX_HEADER:,} bytes that are read")
        start, self.at = self.at, end
        return self.data[start:end]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.skip(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        raw = self.skip(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"it has a name that is no UTF-8: {one_line(repr(raw[:40]))}") from None

    def entry(self) -> tuple[str, Any]:
        """A key and its value; of arrays only those of a few numbers are kept."""
        key, kind = self.string(), self.number("I")
        if kind == ARRAY:
            return key, self._array(key)
        return key, self._value(key, kind)

    def _value(self, key: str, kind: int) -> Any:
        if kind == TEXT:
            return self.string()
        if kind not in SCALARS:
            raise ValueError(f"its entry {named(key)} is of the unknown type {kind:,}")
        return self.number(SCALARS[kind])

    def _array(self, key: str) -> tuple[int, ...] | None:
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS and SCALARS[kind] in "BbHhIiQq" and count <= MAX_DIMS:
            return tuple(max(self.number(SCALARS[kind]), 0) for _ in range(count))
        if kind in SCALARS:
            self.skip(count * struct.calcsize("<" + SCALARS[kind]))
        elif kind == TEXT:
            for _ in range(min(count, self.size)):  # each takes 8 bytes at least, so it ends with the header
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"its entry {named(key)} is an array of the unknown type {kind:,}")
        return None
