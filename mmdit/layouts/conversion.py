"""Weights of one layout written in another, brought back to be compared with the source, and read back.

No model is built and no more than a few tensors are held at a time, so that a file may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from mmdit.layouts.diffusers_files import STEM
from mmdit.layouts.exchange import Exchange
from mmdit.layouts.fp8_weights import Fp8, KindError, RoundingErrors, in_fp8
from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import SOURCE, LayoutFiles, Weights, our_weights, their_weights
from mmdit.layouts.merging import FittedAdapter, merged
from mmdit.weights.header import CheckpointError
from mmdit.weights.model_card import ModelCard
from mmdit.weights.read_back import read_back
from mmdit.weights.shards import writing
from mmdit.weights.writer import Written

__all__ = ["Converted", "convert"]


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
    card: ModelCard | None = None,
    force: bool = False,
    on_stage: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Converted:
    """Write weights in another layout, bring them back for a comparison with the source, and read what was written.

    Args:
        source: tensors under the names of `source_layout`.
        target: the file, or with `max_shard_size` (bytes) the folder, to write.
        beside: further files for a folder, by name.
        card: for a folder.
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
    change = partial(merged, adapters=adapters, dtype=dtype) if adapters else None
    if fp8 is None:
        exchange = Exchange(source, source_layout, target_layout, change, path=target)
        result, order = exchange.weights, exchange.order
    else:
        ours = our_weights(source, source_layout)
        unrounded = their_weights(ours if change is None else change(ours), target_layout)
        result, order = in_fp8(unrounded, target_layout, fp8), None
    own, origin = target_layout.name == "mmdit", source.origin
    prefix, kept = target_layout.prefix, {"format": "pt"}
    if own:
        kept = dict(metadata) | ({} if origin is None else {SOURCE: json.dumps(asdict(origin))})
    elif origin is not None and origin.layout == target_layout.name and max_shard_size is None:
        prefix, kept = origin.prefix, origin.metadata
    with (
        nullcontext() if adapters or fp8 is not None else _one_thread(),  # they compute more than they copy
        writing(
            target,
            {prefix + name: spec for name, spec in result.specs.items()},
            lambda name: result.read(name.removeprefix(prefix)),
            kept,
            order=order and [prefix + name for name in order],
            max_shard_size=max_shard_size,
            stem=STEM if target_layout.name == "diffusers" else "model",
            beside=beside,
            card=card,
            hashed=own,
            force=force,
            on_tensor=lambda *done: on_stage("writing", *done),
        ) as (temporary, written),
    ):
        errors: tuple[KindError, ...] = ()
        try:
            if fp8 is None:
                exchange.compare_rest()
                read_back(temporary, written, lambda *done: on_stage("comparing", *done))
                changed = exchange.changed
            else:
                changed, errors = _rounding(unrounded, temporary, target_layout, fp8, on_stage)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(temporary), str(target))) from None
    return Converted(written, list(changed), max([0.0, *changed.values()]), errors)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread computes within it: hashing and writing have theirs, and more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
