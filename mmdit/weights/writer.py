"""Writing safetensors files: the bytes the format's own library writes, made one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from mmdit.weights.header import DTYPES, MAX_HEADER, TensorInfo, named
from mmdit.weights.syncing import Syncing

HASH_KEY = "mmdit_sha256"
_METADATA = "__metadata__"
PIECE = 1 << 18  # bytes that are written at a time
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {name: place for place, name in enumerate(DTYPES)}


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before it is made."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Written:
    """What was written: the files, their size in bytes, and the SHA-256 of each tensor's bytes and of the content
    (`content_hash`)."""

    files: tuple[Path, ...]
    bytes: int
    digests: dict[str, str]
    sha256: str


def specs_of(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, TensorSpec]:
    """What `write_tensors` wants to know of tensors that are there: `write_tensors(path, specs_of(x), x.__getitem__)`.

    Args:
        dtype: what floating-point tensors are to be converted to; None: all stay as they are.
    """
    return {
        name: TensorSpec(dtype if dtype is not None and x.is_floating_point() else x.dtype, tuple(x.shape))
        for name, x in tensors.items()
    }


def common_dtype(specs: Iterable[TensorSpec]) -> torch.dtype:
    """The narrowest type that holds the numbers of all."""
    return reduce(torch.promote_types, (spec.dtype for spec in specs))


def write_tensors(
    path: str | Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    order: Sequence[str] | None = None,
    hashed: bool = False,
    syncing: Syncing | None = None,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write a safetensors file: byte for byte what `safetensors.torch.save_file` writes for the same tensors and
    metadata. (For several keys of metadata that library's order changes from run to run; here they are sorted.)

    Each tensor is made when its turn comes, while the one before it is written and hashed in two threads, so no more
    than two are held at a time, and what they are made of.

    Args:
        specs: the tensors by name.
        read: makes a tensor, on any device; it is converted between floating-point types where its spec says so.
        metadata: text by key, for the header; None: the header has none.
        order: of the names, in which the tensors are made; None: that of the file.
        hashed: add the hash of the content to the metadata, under `HASH_KEY`.
        syncing: has the disk take the rest after this returns; None: it has all.
        on_tensor: told how many tensors are written, and of how many.

    Raises:
        ValueError: a spec can't be written, or `read` gives something else than a spec says.
        OSError: the file can't be written. What is there by then stays: see `mmdit.weights.atomic.replacing`.
    """
    layout = layout_of(specs)
    kept = None if metadata is None and not hashed else dict(metadata or {}) | ({HASH_KEY: "0" * 64} if hashed else {})
    header = _header(layout, kept)
    hashes: dict[str, Future[str]] = {}
    waiting: deque[tuple[int, Future[str], Future[None]]] = deque()
    with (
        nullcontext(syncing) if syncing is not None else Syncing() as synced,
        open(path, "wb", buffering=0) as file,
        ThreadPoolExecutor(1) as hashing,
        ThreadPoolExecutor(1) as writing,
    ):
        _write_whole(file, memoryview(header))
        for name in [*(layout if order is None else order), None]:
            if name is not None:
                data = _made(name, specs[name], read)
                hashes[name] = hashing.submit(_digest, data)
                place = len(header) + layout[name].start
                waiting.append((len(data), hashes[name], writing.submit(_write_at, file, place, data)))
                del data  # before the next one is made
            while len(waiting) > (name is not None):
                count, its_hash, its_bytes = waiting.popleft()
                its_hash.result(), its_bytes.result()
                synced.written(file, count)
                on_tensor(len(hashes) - len(waiting), len(layout))
        digests = {name: each.result() for name, each in hashes.items()}
        sha256 = content_hash(layout, digests)
        if kept is not None and hashed:
            file.seek(0)
            _write_whole(file, memoryview(_header(layout, kept | {HASH_KEY: sha256})))  # of the same length
        synced.sync(file)
    size = len(header) + max((info.stop for info in layout.values()), default=0)
    return Written((Path(path),), size, digests, sha256)


def content_hash(tensors: Mapping[str, TensorInfo], digests: Mapping[str, str]) -> str:
    """SHA-256 over each tensor's name, dtype, shape and the SHA-256 of its bytes, in the names' order.

    It depends neither on the order in a file nor on how tensors are shared out among files.
    """
    lines = [[name, tensors[name].dtype, list(tensors[name].shape), digests[name]] for name in sorted(digests)]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return _digest(_bytes(tensor.detach().cpu()))


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def layout_of(specs: Mapping[str, TensorSpec]) -> dict[str, TensorInfo]:
    """Where each tensor goes, in the file's order: by dtype, then by name."""
    for name, spec in specs.items():
        if name == _METADATA:
            raise ValueError(f"a tensor can't be called {_METADATA} in a safetensors file")
        if spec.dtype not in _NAMES:
            raise ValueError(f"{named(name)}: {spec.dtype} can't be written to a safetensors file")
    result, end = {}, 0
    for name in sorted(specs, key=lambda name: (_ORDER[_NAMES[specs[name].dtype]], name)):
        start, end = end, end + specs[name].nbytes
        result[name] = TensorInfo(_NAMES[specs[name].dtype], tuple(specs[name].shape), start, end)
    return result


def _header(layout: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None) -> bytes:
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata must map text to text, got {key!r}: {value!r}")
    header: dict[str, object] = {} if metadata is None else {_METADATA: dict(sorted(metadata.items()))}
    for name, info in layout.items():
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [info.start, info.stop]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header of {len(text):,} bytes is larger than the {MAX_HEADER:,} that are read")
    return struct.pack("<Q", len(text)) + text


def _made(name: str, spec: TensorSpec, read: Callable[[str], Tensor]) -> memoryview:
    """The bytes of a tensor that is as its spec says."""
    tensor = read(name).detach()
    if tuple(tensor.shape) != tuple(spec.shape):
        raise ValueError(f"{named(name)}: was to have the shape {list(spec.shape)}, got {list(tensor.shape)}")
    if tensor.dtype != spec.dtype and not (tensor.is_floating_point() and spec.dtype.is_floating_point):
        raise ValueError(f"{named(name)}: was to have the dtype {spec.dtype}, got {tensor.dtype}")
    return _bytes(tensor.to("cpu", spec.dtype))


def _write_at(file: FileIO, place: int, data: memoryview) -> None:
    file.seek(place)
    _write_whole(file, data)


def _write_whole(file: FileIO, data: memoryview) -> None:
    """In pieces: for large ones the system looks for large pages, which takes up to four times as long."""
    done = 0
    while done < len(data):
        done += file.write(data[done : done + PIECE]) or 0


def _bytes(tensor: Tensor) -> memoryview:
    """A CPU tensor's bytes, without a copy where it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
