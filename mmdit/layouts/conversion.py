"""Weights of one layout written in another, and brought back to be compared with the source.

No model is built and no more than a few tensors are held at a time, so that a file may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import SOURCE, LayoutFiles, Weights, our_weights, their_weights
from mmdit.weights.header import CheckpointError
from mmdit.weights.shards import writing
from mmdit.weights.writer import Written

__all__ = ["Converted", "convert"]

ROUNDINGS = 4  # units in the last place of 1 that a gamma may differ by
TABLE = 2.0**-7  # what a table that is computed anew may differ by: half precision rounds it


@dataclass(frozen=True)
class Converted:
    """What was written, and what a conversion back differs by.

    `changed` names the tensors of the source whose bits do not come back: gammas, which 1 + scale rounds, and tables of
    positions, which are computed anew. `max_abs_diff` is the largest of their differences.
    """

    written: Written
    changed: list[str]
    max_abs_diff: float


def convert(
    source: Weights,
    target: Path,
    *,
    source_layout: Layout,
    target_layout: Layout,
    metadata: Mapping[str, str],
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
        LayoutError: tensors that become one have several dtypes, or a table is not that of the config.
        OSError: the file can't be written; what was there is as it was.
    """
    if dtype is not None:
        source = source.cast(dtype)
    result = their_weights(our_weights(source, source_layout), target_layout)
    ours, origin = target_layout.name == "mmdit", source.origin
    prefix, kept = target_layout.prefix, {"format": "pt"}
    if ours:
        kept = dict(metadata) | ({} if origin is None else {SOURCE: json.dumps(asdict(origin))})
    elif origin is not None and origin.layout == target_layout.name:
        prefix, kept = origin.prefix, origin.metadata
    with writing(
        target,
        {prefix + name: spec for name, spec in result.specs.items()},
        lambda name: result.read(name.removeprefix(prefix)),
        kept,
        max_shard_size=max_shard_size,
        hashed=ours,
        force=force,
        on_tensor=lambda *done: on_stage("writing", *done),
    ) as (temporary, written):
        try:
            changed = _changes(source, temporary, source_layout, target_layout, on_stage)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(temporary), str(target))) from None
    return Converted(written, list(changed), max([0.0, *changed.values()]))


def _changes(
    source: Weights, written: Path, layout: Layout, written_layout: Layout, on_stage: Callable[[str, int, int], None]
) -> dict[str, float]:
    """Of each tensor of the source whose bits do not come back from the files: its largest difference."""
    back = their_weights(our_weights(LayoutFiles(written, written_layout).weights(), written_layout), layout)
    changed = {}
    for done, name in enumerate(source.specs, 1):
        wanted, got = source.read(name), back.read(name)
        if got.dtype != wanted.dtype or not torch.equal(_bits(got), _bits(wanted)):
            difference = (got.double() - wanted.double()).abs()
            changed[name] = difference.max().item()
            if (difference > _allowed(name, wanted, layout, written_layout)).any():
                raise CheckpointError(
                    f"{written}: {name} came back changed by {changed[name]:g}, so nothing was written; "
                    "please report it"
                )
        on_stage("comparing", done, len(source.specs))
    return changed


def _allowed(name: str, wanted: Tensor, source: Layout, target: Layout) -> Tensor:
    """What each element of a tensor of the source may come back changed by."""
    if name in source.tables:
        return torch.tensor(TABLE)
    if name in source.rounded or name in target.rounded:
        return ROUNDINGS * torch.finfo(wanted.dtype).eps * wanted.double().abs().clamp(min=1)
    return torch.zeros(())


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)
