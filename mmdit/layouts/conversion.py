"""Weights on the disk in any layout: checked by their headers, read as ours, and written as another's.

No model is built and no more than a few tensors are held at a time, so that a file may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdit.layouts.families import prefixes
from mmdit.layouts.layout import LAYOUTS, Layout, LayoutError
from mmdit.options import ModelOptions
from mmdit.weights.atomic import replacing, replacing_folder
from mmdit.weights.header import FLOATS, CheckpointError
from mmdit.weights.matching import listed, misfits
from mmdit.weights.reader import WeightFiles
from mmdit.weights.shards import not_an_export, write_shards
from mmdit.weights.writer import TensorSpec, Written, write_tensors

__all__ = ["Converted", "LayoutFiles", "Weights", "convert", "nearest_layout", "our_weights"]

SOURCE = "mmdit_converted_from"  # in our files: the layout, prefix and metadata of the one that was converted
ROUNDINGS = 4  # units in the last place of 1 that a gamma may differ by
TABLE = 2.0**-7  # what a table that is computed anew may differ by: half precision rounds it


@dataclass(frozen=True)
class Origin:
    """Of a file in another layout: what it had beside its tensors, so that it can come back as it was."""

    layout: str
    prefix: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class Weights:
    """Tensors by name, each read when it is asked for; `specs` is known beforehand."""

    specs: Mapping[str, TensorSpec]
    read: Callable[[str], Tensor]
    origin: Origin | None = None


class LayoutFiles:
    """A file, or shards, in a layout.

    Attributes:
        prefix: what stands before every name.
        left_aside: tensors without the prefix, such as the autoencoder in the official file of a whole pipeline.
        problems: how the rest differs from what the config's model needs; empty where it fits.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        self.files, self.layout = WeightFiles(path), layout
        held = self.files.tensors
        self.prefix = max(layout.prefixes, key=lambda prefix: sum(prefix + name in held for name in layout.theirs))
        self.left_aside = sorted(name for name in held if not name.startswith(self.prefix))
        shapes = {name.removeprefix(self.prefix): held[name].shape for name in held if name.startswith(self.prefix)}
        self.problems = misfits(layout.theirs, shapes)
        self.problems += [
            f"{name} has the dtype {held[self.prefix + name].dtype}, wanted one of {', '.join(FLOATS)}"
            for name in layout.theirs
            if self.prefix + name in held and held[self.prefix + name].dtype not in FLOATS
        ]

    def weights(self) -> Weights:
        """The tensors under the layout's own names.

        Raises:
            CheckpointError: they are not those of the config's model.
        """
        if self.problems:
            raise CheckpointError(self.explain())
        specs = {name: self.files.spec(self.prefix + name) for name in self.layout.theirs}
        return Weights(specs, lambda name: self.files.copy(self.prefix + name), self._origin())

    def _origin(self) -> Origin | None:
        if self.layout.name != "mmdit":
            return Origin(self.layout.name, self.prefix, dict(self.files.metadata))
        try:
            origin = Origin(**json.loads(self.files.metadata[SOURCE]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        texts = origin.metadata.items() if isinstance(origin.metadata, dict) else [(None, None)]
        good = origin.layout in LAYOUTS and all(isinstance(part, str) for item in texts for part in item)
        return origin if good and origin.prefix in prefixes(origin.layout) else None

    def explain(self) -> str:
        """The problems in one line, or the layout that would fit better."""
        other = nearest_layout(self.files, self.layout.config)
        if other not in (None, self.layout.name):
            return f"{self.files.path}: has the names of the layout {other}, not of {self.layout.name}"
        return f"{self.files.path}: does not fit the config in the layout {self.layout.name}: {listed(self.problems)}"


def nearest_layout(files: WeightFiles, config: ModelOptions) -> str | None:
    """The layout that shares most names with a file, None where none has half of its own there."""
    best, share = None, 0.5
    for name in LAYOUTS:
        try:
            layout = Layout(name, config)
        except LayoutError:
            continue
        for prefix in layout.prefixes:
            found = sum(prefix + key in files.tensors for key in layout.theirs) / len(layout.theirs)
            if found > share:
                best, share = name, found
    return best


def our_weights(theirs: Weights, layout: Layout) -> Weights:
    """A layout's tensors under our names.

    Raises:
        LayoutError: a table of positions in the file is not the one that the config gives.
    """
    for name in layout.tables:
        layout.check_table(name, theirs.read(name))
    specs = {
        name: TensorSpec(layout.to_ours(name, _on_meta(theirs.specs)).dtype, shape)
        for name, shape in layout.ours.items()
    }
    return Weights(specs, lambda name: layout.to_ours(name, theirs.read), theirs.origin)


def their_weights(ours: Weights, layout: Layout) -> Weights:
    """Our tensors under a layout's names."""
    first = next(iter(ours.specs.values())).dtype
    specs = {
        name: TensorSpec(first if name in layout.tables else layout.to_theirs(name, _on_meta(ours.specs)).dtype, shape)
        for name, shape in layout.theirs.items()
    }
    return Weights(specs, lambda name: layout.to_theirs(name, ours.read), ours.origin)


def _on_meta(specs: Mapping[str, TensorSpec]) -> Callable[[str], Tensor]:
    return lambda name: torch.empty(specs[name].shape, dtype=specs[name].dtype, device="meta")


@dataclass(frozen=True)
class Converted:
    """What was written, the tensors that were left aside, and what a conversion back differs by.

    `changed` names the tensors of the source whose bits do not come back: gammas, which 1 + scale rounds, and tables of
    positions, which are computed anew. `max_abs_diff` is the largest of their differences.
    """

    written: Written
    left_aside: list[str]
    changed: list[str]
    max_abs_diff: float


def convert(
    source: Weights,
    target: Path,
    *,
    source_layout: Layout,
    target_layout: Layout,
    metadata: Mapping[str, str],
    left_aside: list[str] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
    force: bool = False,
    on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Converted:
    """Write weights in another layout, read them back, and bring them back for a comparison with the source.

    Args:
        source: tensors under the names of `source_layout`.
        target: the file, or with `max_shard_size` (bytes) the folder, to write.
        metadata: for a file in our layout. One in another layout has the prefix and metadata it once came with.
        dtype: the floating-point type to write; None: as it is.
        on_stage: told what is done, how many tensors of it, and of how many.

    Raises:
        CheckpointError: what was read back is not what was written.
        OSError: the file can't be written; what was there is as it was.
    """
    if dtype is not None:
        source = _cast(source, dtype)
    result = their_weights(our_weights(source, source_layout), target_layout)
    ours, origin = target_layout.name == "mmdit", source.origin
    prefix, kept = target_layout.prefixes[0], {"format": "pt"}
    if ours:
        kept = dict(metadata) | ({} if origin is None else {SOURCE: json.dumps(asdict(origin))})
    elif origin is not None and origin.layout == target_layout.name:
        prefix, kept = origin.prefix, origin.metadata
    specs = {prefix + name: spec for name, spec in result.specs.items()}

    def read(name: str) -> Tensor:
        return result.read(name.removeprefix(prefix))

    context: AbstractContextManager[Path] = (
        replacing(target, force=force)
        if max_shard_size is None
        else replacing_folder(target, force=force, other=not_an_export)
    )
    with context as temporary:
        if max_shard_size is None:
            written = write_tensors(
                temporary, specs, read, kept, hashed=ours, on_tensor=lambda *done: on_stage("writing", *done)
            )
        else:
            written = write_shards(
                temporary,
                specs,
                read,
                kept,
                max_size=max_shard_size,
                hashed=ours,
                on_tensor=lambda *done: on_stage("writing", *done),
            )
        try:
            changed, largest = _compare(source, temporary, source_layout, target_layout, prefix, on_stage)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(temporary), str(target))) from None
    return Converted(written, left_aside or [], changed, largest)


def _compare(
    source: Weights,
    written: Path,
    source_layout: Layout,
    target_layout: Layout,
    prefix: str,
    on_stage: Callable[[str, int, int], None],
) -> tuple[list[str], float]:
    """What comes back of each tensor of the source, against the source."""
    files = WeightFiles(written)
    back = their_weights(
        our_weights(
            Weights(
                {name: files.spec(prefix + name) for name in target_layout.theirs},
                lambda name: files.copy(prefix + name),
            ),
            target_layout,
        ),
        source_layout,
    )
    changed, largest = [], 0.0
    for done, name in enumerate(source.specs, 1):
        wanted = source.read(name)
        got = back.read(name)
        if got.dtype != wanted.dtype or not torch.equal(_bits(got), _bits(wanted)):
            changed.append(name)
            difference = (got.double() - wanted.double()).abs()
            allowed = torch.zeros(())
            if name in source_layout.tables:
                allowed = torch.tensor(TABLE)
            elif name in source_layout.rounded or name in target_layout.rounded:
                allowed = ROUNDINGS * torch.finfo(wanted.dtype).eps * wanted.double().abs().clamp(min=1)
            if (difference > allowed).any():
                raise CheckpointError(
                    f"{written}: {name} came back changed by {difference.max().item():g}, so nothing was written; "
                    "please report it"
                )
            largest = max(largest, difference.max().item())
        on_stage("comparing", done, len(source.specs))
    return changed, largest


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The weights in another floating-point type."""
    specs = {name: TensorSpec(dtype, spec.shape) for name, spec in weights.specs.items()}
    return Weights(specs, lambda name: weights.read(name).to(dtype), weights.origin)


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)
