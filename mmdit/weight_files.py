"""Weights on the disk, in one safetensors file or in shards that an index names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdit.tensor_file import DTYPES, CheckpointError, TensorInfo, named, read_header, read_json
from mmdit.tensor_writer import TensorSpec
from mmdit.yaml_document import one_line

__all__ = ["INDEX", "SINGLE", "WeightFiles"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
INDEX_SUFFIX = ".index.json"


class WeightFiles:
    """The tensors of a safetensors file, of an index's shards (`model.safetensors.index.json`), or of a folder with
    either. All headers are read and checked at once, the tensors when they are asked for.

    Raises:
        CheckpointError: a file can't be read or is damaged, or index and shards do not agree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _file_of(Path(path))
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._shards: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        if not self.path.name.endswith(INDEX_SUFFIX):
            self._add(self.path, None)
            return
        places = _weight_map(self.path)
        for shard in sorted(set(places.values())):
            self._add(self.path.parent / shard, {name for name, place in places.items() if place == shard})

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

    def _add(self, shard: Path, wanted: set[str] | None) -> None:
        """Take up a file, which holds all that is wanted of it and nothing else."""
        header = read_header(shard)
        if wanted is not None and wanted != header.tensors.keys():
            name = min(wanted ^ header.tensors.keys())
            problem = "is not in it" if name in wanted else "is in it and not in the index, or in another shard there"
            raise CheckpointError(f"{shard}: does not agree with {self.path.name}: {named(name)} {problem}")
        self.tensors |= header.tensors
        self.metadata = header.metadata | self.metadata
        self._shards |= dict.fromkeys(header.tensors, shard)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (INDEX, SINGLE):
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path}: is a folder without {SINGLE} or {INDEX}; expected a safetensors file")


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor. A shard's name is a bare name: an index can't point out of its folder."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: has no weight_map of tensors to shards")
    for name, shard in places.items():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{index}: {named(name)}: its shard must be a file's name, got {one_line(str(shard), 60)}"
            )
        if shard in ("", ".", "..") or any(sign in shard for sign in "/\\:\0"):
            raise CheckpointError(
                f"{index}: {named(name)}: its shard {one_line(str(shard), 60)} is not a file's name in the same folder"
            )
    return places
