"""Weights on the disk, in one safetensors or GGUF file or in shards that an index names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdit.config.yaml_document import one_line
from mmdit.weights.gguf_file import gguf_header, gguf_values, is_gguf
from mmdit.weights.header import DTYPES, CheckpointError, TensorFile, TensorInfo, named, read_header, read_json
from mmdit.weights.places import is_index, weights_file
from mmdit.weights.quantized import LONGEST_FORMAT, as_read, check_format, dequantize
from mmdit.weights.writer import HASH_KEY, TensorSpec, content_hash

__all__ = ["WeightFiles", "read_index"]

BLOCK = 1 << 18  # bytes that are hashed at a time


class WeightFiles:
    """The tensors of a safetensors or GGUF file, of an index's shards (`model.safetensors.index.json`), or of a folder
    with one of these, such as that of a pipeline of diffusers or one in the Hub's cache. All headers are read and
    checked at once, the tensors when they are asked for. Quantized weights are brought to floating point when they are
    read.

    Attributes:
        path: the file or the index.
        stored: what the headers say of each tensor, by name.
        tensors: the same as they are read: quantized weights in floating point, without their scales.
        quantized: how those are stored.
        headers: of each file.
        sha256: the hash of the whole content, where the index or the only file holds one.

    Raises:
        CheckpointError: a file can't be read or is damaged, or index and shards do not agree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = weights_file(Path(path))
        self.stored: dict[str, TensorInfo] = {}
        self.headers: dict[Path, TensorFile] = {}
        self._shards: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._gguf: set[Path] = set()
        if is_index(self.path):
            places, self.sha256 = read_index(self.path)
            names: dict[str, set[str]] = {}
            for name, shard in places.items():
                names.setdefault(shard, set()).add(name)
            for shard in sorted(names):
                self._add(self.path.parent / shard, names[shard])
        else:
            self._add(self.path, None)
            self.sha256 = self.metadata.get(HASH_KEY)
        self.tensors, self.quantized = as_read(self.stored, self.metadata)

    @property
    def format(self) -> str:
        """What the files are."""
        return "GGUF" if self._gguf else "safetensors"

    @property
    def metadata(self) -> dict[str, str]:
        """The first file's metadata: shards repeat it."""
        return next(iter(self.headers.values())).metadata

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.clear()  # tensors that were read keep their mapping

    def spec(self, name: str) -> TensorSpec:
        """The dtype and shape that a tensor is read with, from the header alone.

        Raises:
            CheckpointError: it can't be read, or torch has no such dtype.
        """
        info = self.tensors[name]
        if info.problem:
            raise CheckpointError(f"{self._shards[name]}: {named(name)} {info.problem}")
        return self._spec(name, info)

    def read(self, name: str) -> Tensor:
        """A tensor. It is mapped from its file, and writing to it does not change the file; one that is quantized is
        brought to floating point, in memory.

        Raises:
            CheckpointError: the file has changed, torch has no such dtype, or the scale is not finite.
        """
        return self._floating(name, self.mapped)

    def copy(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor in memory of its own, which is given back with it: what is mapped counts as used while it is open.

        Args:
            dtype: what it is rounded to.

        Raises:
            CheckpointError: as `read`.
        """
        return self._floating(name, self._copied, dtype)

    def mapped(self, name: str) -> Tensor:
        """A tensor as it is stored, mapped from its file; of GGUF it is a copy."""
        spec, shard = self._spec(name, self.stored[name]), self._shards[name]
        if shard in self._gguf:
            return self._copied(name)
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(shard, framework="pt")
            tensor: Tensor = self._open[shard].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{shard}: {named(name)} can't be read: {error}") from None
        if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise CheckpointError(f"{shard}: {named(name)} changed while it was read")
        return tensor

    def digest(self, name: str) -> str:
        """The SHA-256 of a tensor's bytes as they are stored, read in blocks that a processor's cache holds.

        Raises:
            CheckpointError: the file has changed, or can't be read.
        """
        left, digest = self.stored[name].stop - self.stored[name].start, hashlib.sha256()
        with self._at(name) as file:
            while left and (block := file.read(min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
        if left:
            raise CheckpointError(f"{self._shards[name]}: {named(name)} changed while it was read")
        return digest.hexdigest()

    def check_hash(self, digests: Mapping[str, str]) -> None:
        """Hold the SHA-256 of every stored tensor's bytes against the hash of the whole content.

        Raises:
            CheckpointError: there is none, or it is that of other tensors.
        """
        if self.sha256 is None:
            raise CheckpointError(f"{self.path}: holds no hash to verify (metadata {HASH_KEY!r})")
        if content_hash(self.stored, digests) != self.sha256:
            raise CheckpointError(f"{self.path}: its tensors are not those that were written: their hash differs")

    def _copied(self, name: str) -> Tensor:
        """A tensor as it is stored, in memory."""
        spec = self._spec(name, self.stored[name])
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        self._fill(name, tensor.reshape(-1).view(torch.uint8))
        return tensor

    def _fill(self, name: str, data: Tensor) -> None:
        """Read a tensor's bytes."""
        with self._at(name) as file:
            count = file.readinto(data.numpy().data)
        if count != self.stored[name].stop - self.stored[name].start:
            raise CheckpointError(f"{self._shards[name]}: {named(name)} changed while it was read")

    @contextmanager
    def _at(self, name: str) -> Iterator[BufferedReader]:
        """A tensor's file, where its bytes begin."""
        shard = self._shards[name]
        try:
            with open(shard, "rb") as file:
                file.seek(self.headers[shard].start + self.stored[name].start)
                yield file
        except OSError as error:
            raise CheckpointError(f"{shard}: {named(name)} can't be read: {error.strerror or error}") from None

    def _floating(self, name: str, get: Callable[[str], Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """A tensor in floating point if it is a weight, from those that are stored."""
        self.spec(name)  # it can be read
        how = self.quantized.get(name)
        if how is None:
            return get(name) if dtype is None else get(name).to(dtype)
        try:
            if how.blocks:
                info = self.stored[name]
                data = torch.empty(info.stop - info.start, dtype=torch.uint8)
                self._fill(name, data)
                return gguf_values(data, info, dtype)
            if how.format is not None:
                if self.stored[how.format].dtype != "U8":
                    raise ValueError(f"{named(how.format)} holds no bytes")
                check_format(bytes(get(how.format).flatten()[:LONGEST_FORMAT].tolist()), self.stored[name])
            return dequantize(get(name), None if how.scale is None else get(how.scale), dtype)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{self._shards[name]}: {named(name)}: {error}") from None

    def _spec(self, name: str, info: TensorInfo) -> TensorSpec:
        if info.dtype not in DTYPES:
            raise CheckpointError(f"{self._shards[name]}: {named(name)} has the dtype {info.dtype}, which is not read")
        return TensorSpec(DTYPES[info.dtype], info.shape)

    def _add(self, shard: Path, wanted: set[str] | None) -> None:
        """Take up a file, which holds all that is wanted of it and nothing else."""
        if is_gguf(shard):
            self._gguf.add(shard)
        header = gguf_header(shard) if shard in self._gguf else read_header(shard)
        if wanted is not None and wanted != header.tensors.keys():
            name = min(wanted ^ header.tensors.keys())
            problem = "is not in it" if name in wanted else "is in it and not in the index, or in another shard there"
            raise CheckpointError(f"{shard}: does not agree with {self.path.name}: {named(name)} {problem}")
        self.stored |= header.tensors
        self.headers[shard] = header
        self._shards |= dict.fromkeys(header.tensors, shard)


def read_index(path: Path) -> tuple[dict[str, str], str | None]:
    """The shard of each tensor, and the hash of them all where the index holds one.

    A shard's name is a bare name: an index can't point out of its folder.

    Raises:
        CheckpointError: it can't be read, or names something else.
    """
    content = read_json(path)
    places, about = content.get("weight_map"), content.get("metadata")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path}: has no weight_map of tensors to shards")
    for name, shard in places.items():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{path}: {named(name)}: its shard must be a file's name, got {one_line(str(shard), 60)}"
            )
        if shard in ("", ".", "..") or len(shard) > 255 or any(sign in shard for sign in "/\\:\0"):
            raise CheckpointError(
                f"{path}: {named(name)}: its shard {one_line(shard, 60)!r} is not a file's name in the same folder"
            )
    sha256 = about.get(HASH_KEY) if isinstance(about, dict) else None
    return places, sha256 if isinstance(sha256, str) else None
