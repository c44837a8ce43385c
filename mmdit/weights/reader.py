"""Weights on the disk, in one safetensors file or in shards that an index names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdit.config.yaml_document import one_line
from mmdit.weights.header import DTYPES, CheckpointError, TensorFile, TensorInfo, named, read_header, read_json
from mmdit.weights.places import is_index, weights_file
from mmdit.weights.writer import HASH_KEY, TensorSpec

__all__ = ["WeightFiles"]


class WeightFiles:
    """The tensors of a safetensors file, of an index's shards (`model.safetensors.index.json`), or of a folder with
    either, such as that of a pipeline of diffusers or one in the Hub's cache. All headers are read and checked at once,
    the tensors when they are asked for.

    Attributes:
        path: the file or the index.
        tensors: what the headers say of each tensor, by name.
        headers: of each file.
        sha256: the hash of the whole content, where the index or the only file holds one.

    Raises:
        CheckpointError: a file can't be read or is damaged, or index and shards do not agree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = weights_file(Path(path))
        self.tensors: dict[str, TensorInfo] = {}
        self.headers: dict[Path, TensorFile] = {}
        self._shards: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        if not is_index(self.path):
            self._add(self.path, None)
            self.sha256 = self.metadata.get(HASH_KEY)
            return
        places, self.sha256 = _index(self.path)
        names: dict[str, set[str]] = {}
        for name, shard in places.items():
            names.setdefault(shard, set()).add(name)
        for shard in sorted(names):
            self._add(self.path.parent / shard, names[shard])

    @property
    def metadata(self) -> dict[str, str]:
        """The first file's metadata: shards repeat it."""
        return next(iter(self.headers.values())).metadata

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.clear()  # tensors that were read keep their mapping

    def spec(self, name: str) -> TensorSpec:
        """A tensor's dtype and shape, from the header alone.

        Raises:
            CheckpointError: torch has no such dtype.
        """
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise CheckpointError(f"{self._shards[name]}: {named(name)} has the dtype {info.dtype}, which is not read")
        return TensorSpec(DTYPES[info.dtype], info.shape)

    def read(self, name: str) -> Tensor:
        """A tensor, mapped from its file: nothing is copied, and writing to it does not change the file.

        Raises:
            CheckpointError: the file has changed, or torch has no such dtype.
        """
        spec, shard = self.spec(name), self._shards[name]
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(shard, framework="pt")
            tensor: Tensor = self._open[shard].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{shard}: {named(name)} can't be read: {error}") from None
        if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise CheckpointError(f"{shard}: {named(name)} changed while it was read")
        return tensor

    def copy(self, name: str) -> Tensor:
        """A tensor in memory of its own, which is given back with it: what is mapped counts as used while it is open.

        Raises:
            CheckpointError: the file has changed, or torch has no such dtype.
        """
        spec, shard, info = self.spec(name), self._shards[name], self.tensors[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        try:
            with open(shard, "rb") as file:
                file.seek(self.headers[shard].start + info.start)
                count = file.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise CheckpointError(f"{shard}: {named(name)} can't be read: {error.strerror or error}") from None
        if count != spec.nbytes:
            raise CheckpointError(f"{shard}: {named(name)} changed while it was read")
        return tensor

    def _add(self, shard: Path, wanted: set[str] | None) -> None:
        """Take up a file, which holds all that is wanted of it and nothing else."""
        header = read_header(shard)
        if wanted is not None and wanted != header.tensors.keys():
            name = min(wanted ^ header.tensors.keys())
            problem = "is not in it" if name in wanted else "is in it and not in the index, or in another shard there"
            raise CheckpointError(f"{shard}: does not agree with {self.path.name}: {named(name)} {problem}")
        self.tensors |= header.tensors
        self.headers[shard] = header
        self._shards |= dict.fromkeys(header.tensors, shard)


def _index(path: Path) -> tuple[dict[str, str], str | None]:
    """The shard of each tensor, and the hash of them all where the index holds one.

    A shard's name is a bare name: an index can't point out of its folder.
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
