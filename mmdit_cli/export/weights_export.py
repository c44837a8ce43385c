"""Exporting: write the weights, read them back, compare, and only then let the file stand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

import mmdit
from mmdit.config import build
from mmdit.layouts.fp8_weights import KindError
from mmdit.options import ModelOptions
from mmdit.weights.atomic import replacing, replacing_folder
from mmdit.weights.reader import WeightFiles
from mmdit.weights.shards import not_an_export
from mmdit.weights.writer import Written, digest
from mmdit_cli.errors import CheckFailed
from mmdit_cli.export.card import export_card
from mmdit_cli.export.preconditions import Export, check_room
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.targets import writing
from mmdit_cli.request.tool_config import ToolConfig

TOKENS = 64  # of a modality at most, in the outputs that are compared
# The tensors are the same to the bit; kernels may still add up in another order. Shares of the largest output.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class MergedLora:
    """A LoRA that was merged: its changes times `scale`, under whose names and in which layout they were found."""

    file: str
    scale: float
    spelling: str
    layout: str
    ranks: tuple[int, ...]
    targets: int


@dataclass(frozen=True)
class ExportResult:
    """What was written, and that it was read back.

    `verified`: the files hold the same tensors to the bit. `max_abs_diff`: the largest difference between the outputs
    of the model and of its copy on random inputs. `source`: where the weights came from. `sha256`: of the content,
    which the file or the index of shards holds as well (`mmdit.load(path, verify=True)`); None in another layout.

    Of a program, `inputs` says what it takes: the sizes of each tensor, those that may vary by name.

    Where weights were converted between layouts, `verified` says that they were brought back and compared with the
    source, and `max_abs_diff` is the largest difference of a weight; `changed` names the tensors that have one, and
    `left_aside` counts those of the file that are none of the model's. Where they were rounded to fp8, that is the
    difference, and `errors` has it by kind of layer. `lora`: what was merged; then the source is what that gave.
    """

    config: str
    format: str
    files: list[str]
    source: str
    tensors: int
    parameters: int
    bytes: int
    verified: bool
    max_abs_diff: float
    sha256: str | None
    source_layout: str = "mmdit"
    layout: str = "mmdit"
    changed: tuple[str, ...] = ()
    left_aside: int = 0
    errors: tuple[KindError, ...] = ()
    lora: tuple[MergedLora, ...] = ()
    inputs: dict[str, list[str]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


def export_model(config: ToolConfig, asked: Export) -> ExportResult:
    """Write a config's model: fresh weights by seed, or those of a safetensors file, of shards, or of a train-toy run.

    Raises:
        UserError: the file can't be written, or the model is larger than the free memory or disk.
        mmdit.weights.saved_model.CheckpointError: the weights are damaged or do not fit the config.
        CheckFailed: what was read back is not what was written; no file is left, and an old one is as it was.
    """
    file, shards = asked.prepared()
    check_room(config, asked.out, dtype=asked.weights_dtype, device=asked.device, file=file)
    asked.on_progress("building" if file is None else "reading", 0, None)
    model = fresh_or_read(config.model, file, asked)
    parameters = sum(p.numel() for p in model.parameters())
    target: AbstractContextManager[Path] = (
        replacing(asked.out, force=asked.force)
        if shards is None
        else replacing_folder(asked.out, force=asked.force, other=not_an_export)
    )
    about = asked.about(config, file)
    with writing("--out", asked.out), target as temporary:
        written = mmdit.save(
            model,
            temporary,
            metadata=about,
            max_shard_size=shards,
            card=None if shards is None else export_card(config, asked.told_source(file)),
            on_tensor=lambda *done: asked.on_progress("writing", *done),
        )
        asked.on_progress("comparing", 0, None)
        difference = verify(model, temporary, written, config, asked)
    return ExportResult(
        config=config.name,
        format="safetensors",
        files=asked.names(written.files),
        source=about["source"],
        tensors=len(written.digests),
        parameters=parameters,
        bytes=written.bytes,
        verified=True,
        max_abs_diff=difference,
        sha256=written.sha256,
    )


def fresh_or_read(config: ModelOptions, file: Path | None, asked: Export) -> nn.Module:
    """The model with the weights of a file, or with fresh ones."""
    if file is not None:
        with WeightFiles(file) as files:
            hashed = files.sha256 is not None
        return mmdit.load(file, asked.device, asked.weights_dtype, verify=hashed, config=config)
    torch.manual_seed(asked.seed)
    with asked.device:
        return build(config, dtype=asked.weights_dtype).eval()


def verify(model: nn.Module, path: Path, written: Written, config: ToolConfig, asked: Export) -> float:
    """Read the file back and compare: tensors to the bit, then outputs, whose largest difference it returns.

    Fresh gates are zero and hide most weights from the outputs, so the outputs alone would prove little. The model
    gives up its weights before the copy is read, so that never both are held; what was `written` stands for them.

    Raises:
        CheckFailed: they differ.
    """
    outputs = _outputs(model, config, asked)
    model.to("meta")
    copy = mmdit.load(path, device=asked.device)
    theirs = {name: digest(tensor) for name, tensor in copy.state_dict().items()}
    wrong = sorted(name for name, mine in written.digests.items() if theirs.get(name) != mine)
    if wrong:
        raise CheckFailed(f"verification failed: {len(wrong)} tensors came back changed, {wrong[0]} first")
    copied = _outputs(copy, config, asked)
    largest = max(_difference(outputs[name], copied[name]) for name in outputs)
    scale = max(x.abs().nan_to_num(0, 0).max().item() for x in outputs.values())
    if largest > TOLERANCE[asked.weights_dtype] * max(scale, 1):
        raise CheckFailed(f"verification failed: outputs of the copy differ by up to {largest:g}")
    return largest


def _outputs(model: nn.Module, config: ToolConfig, asked: Export) -> dict[str, torch.Tensor]:
    """What a model makes of a few random tokens."""
    small = {name: min(TOKENS, config.tokens_of(name)) for name in config.model.inputs}
    config = replace(config, run=replace(config.run, tokens=small, frames={}))
    inputs = example_inputs(config, batch_size=1, **asked.drawn)
    with torch.inference_mode():
        return outputs_by_name(config, model.eval()(**inputs.kwargs))


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, where weights that diverged give the same infinities and NaNs on both sides."""
    same = (a == b) | (a.isnan() & b.isnan())
    difference = (a.double() - b.double()).abs().masked_fill(same, 0).max().item()
    return difference if difference == difference else float("inf")
