"""Converting: weights of one layout written in another, with no model built."""

from __future__ import annotations

from math import prod

import torch

from mmdit.config import build
from mmdit.layouts import LayoutError
from mmdit.layouts.conversion import convert
from mmdit.layouts.layout_files import LayoutFiles, Weights
from mmdit.layouts.recognition import recognize_layout
from mmdit.weights.saved_model import own_metadata
from mmdit.weights.writer import specs_of
from mmdit_cli.errors import UserError
from mmdit_cli.export.preconditions import Export, check_disk, check_room
from mmdit_cli.export.weights_export import ExportResult
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
    source = "mmdit" if file is None else layout_of(source, file, model)
    layouts = find_layout("--from", source, model), to
    about, aside = asked.about(config, file), list[str]()
    if file is None:
        check_room(config, out, dtype=asked.weights_dtype, device=torch.device("cpu"), file=None)
        torch.manual_seed(asked.seed)
        state = build(model, dtype=asked.weights_dtype).state_dict()
        given = Weights(specs_of(state), state.__getitem__)
    else:
        held = LayoutFiles(file, layouts[0])
        other = recognize_layout(held.files.tensors, model)[0] if held.problems else None
        if other not in (None, source):
            raise UserError(f"--weights {file}: has the names of another layout; say --from {other}, or leave it out")
        given, aside = held.weights(), held.left_aside
        # as many bytes as the file has, or as its weights have in the dtype: no model is built, so memory is no matter
        check_disk(sum(dtype.itemsize * prod(s.shape) if dtype else s.nbytes for s in given.specs.values()), out)
    if aside:
        first = ", ".join(aside[:SHOWN]) + (", ..." if len(aside) > SHOWN else "")
        asked.on_message(f"left aside: {len(aside)} tensors that are none of the model's ({first})")
    try:
        done = convert(
            given,
            out,
            source_layout=layouts[0],
            target_layout=layouts[1],
            metadata=about | own_metadata(model),
            dtype=dtype,
            max_shard_size=shards,
            force=asked.force,
            on_stage=asked.on_progress,
        )
    except LayoutError as error:
        hint = ", as with --dtype bfloat16" if "several dtypes" in str(error) else ""
        raise UserError(f"{error}{hint}") from None
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(model).parameters())
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
    )
