"""Converting: weights of one layout written in another, with no model built."""

from __future__ import annotations

import json
from math import prod

import torch

from mmdit.config import build
from mmdit.config.construct import build_on_meta
from mmdit.layouts import LayoutError
from mmdit.layouts.adapters import read_adapter
from mmdit.layouts.conversion import convert
from mmdit.layouts.diffusers_files import diffusers_json
from mmdit.layouts.layout_files import LayoutFiles, Weights
from mmdit.layouts.merging import FittedAdapter, find_targets
from mmdit.layouts.recognition import recognize_layout
from mmdit.options import ModelOptions
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CONFIG_KEY, own_metadata
from mmdit.weights.shards import CONFIG
from mmdit.weights.writer import specs_of
from mmdit_cli.errors import UserError
from mmdit_cli.export.card import export_card
from mmdit_cli.export.preconditions import Export, check_disk, check_room
from mmdit_cli.export.weights_export import ExportResult, MergedLora
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.request.weights_layout import find_layout, layout_of

SHOWN = 3


def convert_weights(config: ToolConfig, asked: Export, *, source: str | None, target: str) -> ExportResult:
    """Write weights of the layout `source` (None: it is recognized) in the layout `target`, and compare what comes back
    with the source.

    Raises:
        UserError: a layout has no place for the model, or the file can't be written.
        mmdit.weights.saved_model.CheckpointError: the weights are damaged or do not fit the config; no file is left.
    """
    model, out, dtype = config.model, asked.out, asked.dtype
    to = find_layout("--to", target, model)
    if asked.weights is None and source not in (None, "mmdit"):
        raise UserError(f"--from {source}: names the layout of --weights, which is missing")
    file, shards = asked.prepared()
    opened = None if file is None else WeightFiles(file)
    source = "mmdit" if opened is None else layout_of(source, opened, model)
    layouts = find_layout("--from", source, model), to
    about, aside = asked.about(config, file), list[str]()
    if opened is None:
        if asked.lora:
            raise UserError("--lora changes the weights of a file; name it with --weights")
        check_room(config, out, dtype=asked.weights_dtype, device=torch.device("cpu"), file=None)
        torch.manual_seed(asked.seed)
        state = build(model, dtype=asked.weights_dtype).state_dict()
        given = Weights(specs_of(state), state.__getitem__)
    else:
        held = LayoutFiles(opened, layouts[0])
        other = recognize_layout(held.files.tensors, model)[0] if held.problems else None
        if other not in (None, source):
            raise UserError(f"--weights {file}: has the names of another layout; say --from {other}, or leave it out")
        given, aside = held.weights(None if asked.lora else dtype), held.left_aside
        # as many bytes as the file has, or as its weights have in the dtype: no model is built, so memory is no matter
        check_disk(sum(dtype.itemsize * prod(s.shape) if dtype else s.nbytes for s in given.specs.values()), out)
    if aside:
        first = ", ".join(aside[:SHOWN]) + (", ..." if len(aside) > SHOWN else "")
        asked.on_message(f"left aside: {len(aside)} tensors that are none of the model's ({first})")
    adapters = _adapters(asked, model)
    beside = {} if shards is None else _beside(target, model)
    card = None if shards is None else export_card(config, asked.told_source(file), target)
    try:
        done = convert(
            given,
            out,
            source_layout=layouts[0],
            target_layout=layouts[1],
            metadata=about | own_metadata(model),
            dtype=dtype,
            fp8=asked.fp8,
            adapters=adapters,
            max_shard_size=shards,
            beside=beside,
            card=card,
            force=asked.force,
            on_stage=asked.on_progress,
        )
    except LayoutError as error:
        hint = ", as with --dtype bfloat16" if "several dtypes" in str(error) else ""
        raise UserError(f"{error}{hint}") from None
    parameters = sum(p.numel() for p in build_on_meta(model).parameters())
    return ExportResult(
        config=config.name,
        format="safetensors",
        files=asked.names(done.written.files),
        source=about["source"],
        tensors=len(layouts[1].theirs),
        parameters=parameters,
        bytes=done.written.bytes,
        verified=True,
        max_abs_diff=done.max_abs_diff,
        sha256=done.written.sha256,
        source_layout=source,
        layout=target,
        changed=tuple(done.changed),
        left_aside=len(aside),
        errors=done.errors,
        lora=tuple(map(_described, adapters)),
    )


def _adapters(asked: Export, model: ModelOptions) -> list[FittedAdapter]:
    """The LoRAs that are to be merged, found in the model."""
    found = []
    for path, scale in asked.lora:
        adapter = read_adapter(path)
        if adapter.left_aside:
            asked.on_message(f"--lora {path}: left aside: {adapter.left_aside} tensors of text encoders")
        found.append(find_targets(adapter, model, scale))
    return found


def _described(fitted: FittedAdapter) -> MergedLora:
    adapter = fitted.adapter
    return MergedLora(
        file=str(adapter.path),
        scale=fitted.scale,
        spelling=adapter.spelling,
        layout=fitted.layout.name,
        ranks=adapter.ranks,
        targets=len(fitted.targets),
    )


def _beside(target: str, model: ModelOptions) -> dict[str, bytes]:
    """What stands in a folder beside its weights: the config, as who reads the layout wants it."""
    if target == "mmdit":
        return {CONFIG: json.dumps(json.loads(own_metadata(model)[CONFIG_KEY]), indent=2).encode() + b"\n"}
    if target != "diffusers":
        return {}
    try:
        return {CONFIG: diffusers_json(model)}
    except LayoutError as error:
        raise UserError(f"--to diffusers: {error}; --out NAME.safetensors writes the weights alone") from None
