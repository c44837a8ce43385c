"""Tensors in pieces: safetensors files that hold boxes of whole tensors each, as the processes of a run write them.

torch's own writer of such files (`torch.distributed.checkpoint.HuggingFaceStorageWriter`) takes one box of a tensor
from a process, where queries, keys and values that are cut by heads are three.

A file says in its metadata of which tensor each of its own is a piece, how large that is, and where the piece begins.
A file that says nothing of it holds whole tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdit.weights.header import DTYPES, CheckpointError, TensorFile, named, read_header
from mmdit.weights.writer import TensorSpec, specs_of, write_tensors

PIECES_KEY = "mmdit_pieces"
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A box of a tensor: the tensor's name and whole shape, where the box begins, and its values."""

    name: str
    whole: Sizes
    start: Sizes
    values: Tensor


@dataclass(frozen=True)
class _Stored:
    """A box in a file, under a key of its own."""

    path: Path
    key: str
    start: Sizes
    shape: Sizes


def write_pieces(path: Path, pieces: Sequence[Piece], metadata: Mapping[str, str]) -> None:
    """Write a file of pieces.

    Raises:
        OSError: it can't be written; what is there by then stays.
    """
    held = {f"{piece.name}@{','.join(map(str, piece.start))}": piece for piece in pieces}
    places = {key: [piece.name, piece.whole, piece.start] for key, piece in held.items()}
    tensors = {key: piece.values for key, piece in held.items()}
    write_tensors(path, specs_of(tensors), tensors.__getitem__, {**metadata, PIECES_KEY: json.dumps(places)})


class PieceFiles:
    """The tensors of which some files hold all pieces. Headers are read and checked at once, boxes when asked for.

    Attributes:
        specs: each tensor's dtype and whole shape, by name.
        metadata: the first file's, without what it says of pieces.

    Raises:
        CheckpointError: a file can't be read, or the pieces are not those of whole tensors.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.specs: dict[str, TensorSpec] = {}
        self.metadata: dict[str, str] = {}
        self._pieces: dict[str, list[_Stored]] = {}
        self._open: dict[Path, Any] = {}
        for number, path in enumerate(paths):
            header = read_header(path)
            self.metadata = self.metadata if number else dict(header.metadata)
            self._add(path, header)
        self.metadata.pop(PIECES_KEY, None)
        for name, stored in self._pieces.items():
            size = sum(math.prod(each.shape) for each in stored)
            if size != math.prod(self.specs[name].shape) or _overlap(stored):
                raise CheckpointError(f"{stored[0].path}: the files do not hold all pieces of {named(name)}")

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.box(name, (0,) * len(self.specs[name].shape), self.specs[name].shape)

    def box(self, name: str, start: Sizes, shape: Sizes) -> Tensor:
        """A box of a tensor, of so many pieces as it takes.

        Raises:
            CheckpointError: the file has changed, or can't be read.
        """
        found = torch.empty(shape, dtype=self.specs[name].dtype, device="cpu")
        for piece in self._pieces[name]:
            low = [max(a, b) for a, b in zip(start, piece.start, strict=True)]
            ends = zip(start, shape, piece.start, piece.shape, strict=True)
            high = [min(a + n, b + m) for a, n, b, m in ends]
            if all(a < b for a, b in zip(low, high, strict=True)):
                within = tuple(slice(a - b, c - b) for a, c, b in zip(low, high, piece.start, strict=True))
                target = tuple(slice(a - b, c - b) for a, c, b in zip(low, high, start, strict=True))
                found[target] = self._values(piece, within)
        return found

    def _values(self, piece: _Stored, within: tuple[slice, ...]) -> Tensor:
        try:
            if piece.path not in self._open:
                self._open[piece.path] = safe_open(piece.path, framework="pt")
            file = self._open[piece.path]
            values: Tensor = file.get_slice(piece.key)[within] if within else file.get_tensor(piece.key)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{piece.path}: {named(piece.key)} can't be read: {error}") from None
        return values

    def _add(self, path: Path, header: TensorFile) -> None:
        for key, info in header.tensors.items():
            if info.dtype not in DTYPES:
                raise CheckpointError(f"{path}: {named(key)} has the dtype {info.dtype}, which is not read")
        places = _places(path, header)
        for key, (name, whole, start) in places.items():
            info = header.tensors[key]
            spec = TensorSpec(DTYPES[info.dtype], whole)
            ends = [a + n for a, n in zip(start, info.shape, strict=True)] if len(start) == len(info.shape) else [-1]
            if self.specs.setdefault(name, spec) != spec or not _fits(ends, whole):
                raise CheckpointError(f"{path}: {named(key)} is no piece of {named(name)} of the shape {list(whole)}")
            self._pieces.setdefault(name, []).append(_Stored(path, key, start, info.shape))


def _overlap(stored: Iterable[_Stored]) -> bool:
    """Whether two boxes of a tensor share a value. Only those are held against each other that share a row."""
    beside: list[_Stored] = []
    for each in sorted((box for box in stored if math.prod(box.shape)), key=lambda box: box.start):
        beside = [box for box in beside if not box.start or box.start[0] + box.shape[0] > each.start[0]]
        for box in beside:
            edges = zip(box.start, box.shape, each.start, each.shape, strict=True)
            if all(a < b + m and b < a + n for a, n, b, m in edges):
                return True
        beside.append(each)
    return False


def _fits(ends: Sequence[int], whole: Sizes) -> bool:
    return len(ends) == len(whole) and all(0 <= end <= size for end, size in zip(ends, whole, strict=True))


def _places(path: Path, header: TensorFile) -> dict[str, tuple[str, Sizes, Sizes]]:
    """Of each tensor in a file: of which it is a piece, that one's shape, and where it begins in it."""
    if PIECES_KEY not in header.metadata:
        return {key: (key, info.shape, (0,) * len(info.shape)) for key, info in header.tensors.items()}
    try:
        said = json.loads(header.metadata[PIECES_KEY])
        places = {key: (str(name), _sizes(whole), _sizes(start)) for key, (name, whole, start) in said.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        places = {}
    if places.keys() != header.tensors.keys():
        raise CheckpointError(f"{path}: what it says of its pieces ({PIECES_KEY}) is not of its tensors")
    return places


def _sizes(value: Any) -> Sizes:
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in value):
        raise ValueError(f"{value!r} are no sizes")
    if math.prod(max(each, 1) for each in value) >= 1 << 63:
        raise ValueError(f"{value!r} are sizes of no tensor")
    return tuple(value)
