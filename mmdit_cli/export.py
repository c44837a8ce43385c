"""Exporting: write the weights, read them back, compare, and only then let the file stand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import mmdit
from mmdit.checkpoint import load_weights
from mmdit.config import ModelConfig, build
from mmdit.files import check_writable, replacing
from mmdit.tensor_writer import HASH_KEY
from mmdit.weight_files import INDEX, SINGLE, WeightFiles
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.inputs import example_inputs, outputs_by_name
from mmdit_cli.schema import ToolConfig
from mmdit_cli.toy.checkpoints import EMA, newest_checkpoint

TOKENS = 64  # of a modality at most, in the outputs that are compared
# The tensors are the same to the bit; kernels may still add up in another order. Shares of the largest output.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class ExportResult:
    """What was written, and that it was read back.

    `verified`: the file holds the same tensors to the bit. `max_abs_diff`: the largest difference between the outputs
    of the model and of its copy on random inputs. `source`: where the weights came from. `sha256`: of the content,
    which the file's metadata holds as well (`mmdit.load(path, verify=True)`).
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
    sha256: str


def export_model(
    config: ToolConfig,
    *,
    out: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    force: bool = False,
    weights: Path | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> ExportResult:
    """Write a config's model: fresh weights by seed, or those of a safetensors file, of shards, or of a train-toy run.

    Args:
        dtype: of the weights in the file.
        device: where the model and its copy are compared.
        weights: a safetensors file, a folder of shards, or a run, of which the newest whole checkpoint's averaged
            weights are taken (`weights.safetensors` in the checkpoint's folder holds the raw ones).
        on_progress: told the stage, what is done and the total (None where it is not known).
        on_message: told what a user should know, such as a damaged checkpoint that was passed over.

    Raises:
        UserError: the file can't be written, or the model is larger than the free memory or disk.
        mmdit.checkpoint.CheckpointError: the weights are damaged or do not fit the config.
        CheckFailed: what was read back is not what was written; no file is left, and an old one is as it was.
    """
    device = device or torch.device("cpu")
    _check_out(out, force)
    file = None if weights is None else _weights_file(weights, on_message)
    source = f"seed {seed}" if file is None else str(file)
    check_room(config.model, out, dtype=dtype, device=device, mapped=file is not None)
    on_progress("building" if file is None else "reading", 0, None)
    model = _model(config.model, file, seed=seed, dtype=dtype, device=device)
    try:
        with replacing(out, force=force) as temporary:
            metadata = {"config_name": config.name, "source": source}
            mmdit.save(model, temporary, metadata=metadata, on_tensor=lambda *done: on_progress("writing", *done))
            on_progress("comparing", 0, None)
            difference = verify(model, temporary, config, device=device, dtype=dtype, seed=seed)
            with WeightFiles(temporary) as written:
                digest = written.metadata[HASH_KEY]
            size = temporary.stat().st_size
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    return ExportResult(
        config=config.name,
        format="safetensors",
        files=[str(out)],
        source=source,
        tensors=len(model.state_dict()),
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=size,
        verified=True,
        max_abs_diff=difference,
        sha256=digest,
    )


# ------------------------------------------------------------------------------------------- before anything is built


def _check_out(out: Path, force: bool) -> None:
    """Raises UserError where the file could not be written."""
    try:
        check_writable(out)
    except IsADirectoryError:
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / SINGLE}") from None
    except FileNotFoundError:
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first") from None
    except PermissionError:
        raise UserError(f"--out {out}: the folder {out.parent} is not writable") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out}: {getattr(error, 'strerror', None) or error}") from None
    if os.path.lexists(out) and not force:
        raise UserError(f"--out {out}: exists; --force replaces it")


def _weights_file(weights: Path, on_message: Callable[[str], None]) -> Path:
    """The file or the folder of shards itself, or the averaged weights of a run's newest checkpoint."""
    if not weights.is_dir() or any((weights / name).is_file() for name in (SINGLE, INDEX)):
        return weights
    checkpoint, problems = newest_checkpoint(weights)
    if checkpoint is None:
        raise UserError(f"--weights {weights}: holds no whole checkpoint" + "".join(f"; {p}" for p in problems))
    for problem in problems:
        on_message(problem)
    return checkpoint.path / EMA


def check_room(config: ModelConfig, out: Path, *, dtype: torch.dtype, device: torch.device, mapped: bool) -> None:
    """Refuse a model that would not fit into the memory or onto the disk, before anything is allocated.

    Args:
        mapped: the weights come from a file, of which the system holds in memory what it has room for.

    Raises:
        UserError: it says what is needed and what there is.
    """
    try:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build(config).parameters())
    except (RuntimeError, TypeError, OverflowError):  # sizes beyond 63 bits
        raise UserError("the model is larger than any machine; check the config's sizes") from None
    written = parameters * dtype.itemsize
    # a fresh model is drawn in float32 and converted weight by weight; its copy is mapped from the file, or on the card
    held = (0 if mapped else parameters * 4) if device.type == "cpu" else max(parameters * 4, 2 * written)
    for what, needed, free in (
        ("memory", held, free_memory(device)),
        ("space on the disk", written, shutil.disk_usage(out.parent).free),
    ):
        if free is not None and needed > free:
            raise UserError(
                f"the model needs {needed / 1e9:,.1f} GB of {what} and {free / 1e9:,.1f} GB are free; "
                "fewer blocks would need less, as in --set model.depth=2"
            )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):  # not Linux
        pass
    try:  # a container may have less than its machine
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # no such limit
        pass
    return min(free, default=None)


def _model(config: ModelConfig, file: Path | None, *, seed: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    if file is not None:
        return load_weights(file, config, device=device, dtype=dtype)
    torch.manual_seed(seed)
    with torch.device(device):
        return build(config).to(dtype).eval()


# ------------------------------------------------------------------------------------------------ after it is written


def verify(
    model: nn.Module, path: Path, config: ToolConfig, *, device: torch.device, dtype: torch.dtype, seed: int
) -> float:
    """Read the file back and compare: tensors to the bit, then outputs, whose largest difference it returns.

    Fresh gates are zero and hide most weights from the outputs, so the outputs alone would prove little.

    Raises:
        CheckFailed: they differ.
    """
    copy = mmdit.load(path, device=device, verify=True)
    theirs = copy.state_dict()
    wrong = [name for name, x in model.state_dict().items() if not _same_bits(x, theirs[name])]
    if wrong:
        raise CheckFailed(f"verification failed: {len(wrong)} tensors came back changed, {wrong[0]} first")
    small = {name: min(TOKENS, config.tokens_of(name)) for name in config.model.modalities}
    config = config.model_copy(update={"run": config.run.model_copy(update={"tokens": small})})
    inputs = example_inputs(config, device=device, dtype=dtype, seed=seed, batch_size=1)
    with torch.inference_mode():
        outputs, copied = (outputs_by_name(config, net.eval()(**inputs.kwargs)) for net in (model, copy))
    largest = max(_difference(outputs[name], copied[name]) for name in outputs)
    scale = max(x.abs().nan_to_num(0, 0).max().item() for x in outputs.values())
    if largest > TOLERANCE[dtype] * max(scale, 1):
        raise CheckFailed(f"verification failed: outputs of the copy differ by up to {largest:g}")
    return largest


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, where weights that diverged give the same infinities and NaNs on both sides."""
    same = (a == b) | (a.isnan() & b.isnan())
    difference = (a.double() - b.double()).abs().masked_fill(same, 0).max().item()
    return difference if difference == difference else float("inf")


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
