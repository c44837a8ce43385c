"""Weights of one layout written in another, and brought back to be compared with the source.

No model is built and no more than a few tensors are held at a time, so that a file may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdit.layouts.diffusers_files import STEM
from mmdit.layouts.fp8_weights import Fp8, KindError, RoundingErrors, in_fp8
from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import SOURCE, LayoutFiles, Weights, our_weights, their_weights
from mmdit.layouts.merging import FittedAdapter, merged
from mmdit.weights.header import CheckpointError
from mmdit.weights.shards import writing
from mmdit.weights.writer import Written

__all__ = ["Converted", "convert"]

ROUNDINGS = 4  # units in the last place of 1 that a gamma may differ by
TABLE = 2.0**-4  # what a table that is computed anew may differ by: the source's dtype, fp8 at worst, rounds it


@dataclass(frozen=True)
class Converted:
    """What was written, and what a conversion back differs by.

    `changed` names the tensors of the source whose bits do not come back: gammas, which 1 + scale rounds, and tables of
    positions, which are computed anew. `max_abs_diff` is the largest of their differences. Where fp8 was written, both
    are of what it rounds, under the names that were written, and `errors` says it by kind of layer.
    """

    written: Written
    changed: list[str]
    max_abs_diff: float
    errors: tuple[KindError, ...] = ()


def convert(
    source: Weights,
    target: Path,
    *,
    source_layout: Layout,
    target_layout: Layout,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    fp8: Fp8 | None = None,
    adapters: Sequence[FittedAdapter] = (),
    max_shard_size: int | None = None,
    beside: Mapping[str, bytes] | None = None,
    force: bool = False,
    on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Converted:
    """Write weights in another layout, read them back, and bring them back for a comparison with the source.

    Args:
        source: tensors under the names of `source_layout`.
        target: the file, or with `max_shard_size` (bytes) the folder, to write.
        beside: further files for a folder, by name.
        metadata: for a file in our layout. One in another layout has the prefix and metadata it once came with.
        dtype: the floating-point type to write; None: as it is.
        fp8: write the blocks' matrices in e4m3fn and the rest in bfloat16 (`in_fp8`).
        adapters: LoRAs to merge; the source that the result is compared with is the merged one.
        on_stage: told what is done, how many tensors of it, and of how many.

    Raises:
        CheckpointError: what was read back is not what was written, or fp8 can't hold it.
        LayoutError: tensors that become one have several dtypes, or a table is not that of the config.
        OSError: the file can't be written; what was there is as it was.
    """
    if dtype is not None:
        source = source.cast(torch.float32 if adapters else dtype)
    ours = our_weights(source, source_layout)
    if adapters:
        ours = merged(ours, adapters, dtype)
        source = their_weights(ours, source_layout)
    unrounded = their_weights(ours, target_layout)
    result = unrounded if fp8 is None else in_fp8(unrounded, target_layout, fp8)
    own, origin = target_layout.name == "mmdit", source.origin
    prefix, kept = target_layout.prefix, {"format": "pt"}
    if own:
        kept = dict(metadata) | ({} if origin is None else {SOURCE: json.dumps(asdict(origin))})
    elif origin is not None and origin.layout == target_layout.name and max_shard_size is None:
        prefix, kept = origin.prefix, origin.metadata
    with writing(
        target,
        {prefix + name: spec for name, spec in result.specs.items()},
        lambda name: result.read(name.removeprefix(prefix)),
        kept,
        max_shard_size=max_shard_size,
        stem=STEM if target_layout.name == "diffusers" else "model",
        beside=beside,
        hashed=own,
        force=force,
        on_tensor=lambda *done: on_stage("writing", *done),
    ) as (temporary, written):
        errors: tuple[KindError, ...] = ()
        try:
            if fp8 is None:
                changed = _changes(source, temporary, source_layout, target_layout, on_stage)
            else:
                changed, errors = _rounding(unrounded, temporary, target_layout, fp8, on_stage)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(temporary), str(target))) from None
    return Converted(written, list(changed), max([0.0, *changed.values()]), errors)


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


def _rounding(
    wanted: Weights, written: Path, layout: Layout, fp8: Fp8, on_stage: Callable[[str, int, int], None]
) -> tuple[dict[str, float], tuple[KindError, ...]]:
    """What fp8 rounds: the largest difference of each tensor that has one, and the errors by kind of layer."""
    back, changed, errors = LayoutFiles(written, layout).weights(), {}, RoundingErrors(layout, fp8)
    for done, name in enumerate(wanted.specs, 1):
        x, got = wanted.read(name), back.read(name)
        if not errors.add(name, x, got):
            raise CheckpointError(f"{written}: {name} came back changed by more than fp8 rounds; please report it")
        if difference := (got.double() - x.double()).abs().max().item() if x.numel() else 0.0:
            changed[name] = difference
        on_stage("comparing", done, len(wanted.specs))
    return changed, tuple(errors.by_kind())


def _allowed(name: str, wanted: Tensor, source: Layout, target: Layout) -> Tensor:
    """What each element of a tensor of the source may come back changed by."""
    if name in source.tables:
        return torch.tensor(TABLE)
    if name in source.rounded or name in target.rounded:
        return ROUNDINGS * torch.finfo(wanted.dtype).eps * wanted.double().abs().clamp(min=1)
    return torch.zeros(())


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)
