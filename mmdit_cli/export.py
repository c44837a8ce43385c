"""Exporting: write the weights, read them back, compare, and only then let the file stand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import mmdit
from mmdit.checkpoint import load_weights
from mmdit.config import ModelConfig, build
from mmdit.files import replacing
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.inputs import example_inputs, outputs_by_name
from mmdit_cli.schema import ToolConfig
from mmdit_cli.toy.checkpoints import EMA, newest_checkpoint


@dataclass(frozen=True)
class ExportResult:
    """What was written. `verified`: the file was read back with the same tensors to the bit, and `max_abs_diff` is the
    largest difference between the outputs of the model and of its copy on random inputs."""

    config: str
    format: str
    files: list[str]
    tensors: int
    parameters: int
    bytes: int
    verified: bool
    max_abs_diff: float


def export_model(
    config: ToolConfig,
    *,
    out: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    force: bool = False,
    weights: Path | None = None,
) -> ExportResult:
    """Write a config's model: fresh weights by seed, or those of a safetensors file or of a train-toy run.

    Raises:
        UserError: the file can't be written, the weights do not fit, or the model is larger than the free memory.
        CheckFailed: what was read back is not what was written; no file is left.
    """
    device = device or torch.device("cpu")
    _check_out(out, force)
    model = _model(config, weights, seed=seed, dtype=dtype, device=device)
    tensors = model.state_dict()
    try:
        with replacing(out, force=force) as temporary:
            mmdit.save(model, temporary, metadata={"source": str(weights or f"seed {seed}")})
            difference = _verify(model, temporary, config, device=device, dtype=dtype, seed=seed)
            size = temporary.stat().st_size
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    return ExportResult(
        config=config.name,
        format="safetensors",
        files=[str(out)],
        tensors=len(tensors),
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=size,
        verified=True,
        max_abs_diff=difference,
    )


def _check_out(out: Path, force: bool) -> None:
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / 'model.safetensors'}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and not force:
        raise UserError(f"--out {out}: exists; --force replaces it")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: the folder {out.parent} is not writable")


def _model(
    config: ToolConfig, weights: Path | None, *, seed: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    if weights is not None:
        return load_weights(_weights_file(weights), config.model, device=device, dtype=dtype)
    check_memory(config.model, dtype)
    torch.manual_seed(seed)
    with torch.device(device):
        return build(config.model).to(dtype).eval()


def _weights_file(weights: Path) -> Path:
    """The file itself, or the averaged weights of a run's newest checkpoint."""
    if not weights.is_dir():
        return weights
    checkpoint, problems = newest_checkpoint(weights)
    if checkpoint is None:
        raise UserError(f"--weights {weights}: holds no whole checkpoint" + "".join(f"; {p}" for p in problems))
    return checkpoint.path / EMA


def check_memory(config: ModelConfig, dtype: torch.dtype) -> None:
    """Refuse a model that would not fit beside its copy, before anything is allocated.

    Raises:
        UserError: it says what is needed and what there is.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(config).parameters())
    # built in float32, then converted; the copy that is read back lies in the page cache
    needed = parameters * max(4, 4 + dtype.itemsize if dtype != torch.float32 else 4)
    free = _free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"the model needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "fewer blocks would need less, as in --set model.depth=2"
        )


def _free_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _verify(
    model: nn.Module, path: Path, config: ToolConfig, *, device: torch.device, dtype: torch.dtype, seed: int
) -> float:
    """Tensors equal to the bit, and outputs equal. Fresh gates are zero and hide most weights from the outputs, so the
    outputs alone would prove little.

    Raises:
        CheckFailed: they are not.
    """
    copy = mmdit.load(path, device=device)
    wrong = [name for name, x in model.state_dict().items() if not _same_bits(x, copy.state_dict()[name])]
    if wrong:
        raise CheckFailed(f"verification failed: {len(wrong)} tensors came back changed, {wrong[0]} first")
    inputs = example_inputs(config, device=device, dtype=dtype, seed=seed, batch_size=min(2, config.run.batch_size))
    model.eval()
    with torch.inference_mode():
        ours, theirs = (outputs_by_name(config, net(**inputs.kwargs)) for net in (model, copy))
    difference = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    if not difference == 0:
        raise CheckFailed(f"verification failed: outputs of the copy differ by up to {difference:g}")
    return difference


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
