"""Writing and restoring a run's checkpoints: weights, their average and the optimizer's state as safetensors.

Nothing is unpickled. A checkpoint is a folder that is written under another name, synced and renamed, so it is there
whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mmdit
from mmdit_cli.request.newest_checkpoint import (
    EMA,
    OPTIMIZER,
    PREFIX,
    STATE,
    WEIGHTS,
    Checkpoint,
    checkpoint_folders,
    file_digest,
    state_digest,
)
from mmdit_cli.toy.processes import put, whole

SCALAR, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter
KEPT = 2


def save_checkpoint(
    run_dir: Path, step: int, model: nn.Module, average: nn.Module, optimizer: dict[str, Tensor], **state: Any
) -> Path:
    """Write the checkpoint of `step` finished steps, and drop all but the last two.

    Raises:
        OSError: it can't be written; the ones before are as they were.
    """
    target = run_dir / f"{PREFIX}{step:08d}"
    temporary = run_dir / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        mmdit.save(model, temporary / WEIGHTS)
        mmdit.save(average, temporary / EMA)
        _save_file(optimizer, temporary / OPTIMIZER)
        names = (WEIGHTS, EMA, OPTIMIZER)
        state |= {
            "step": step,
            "sha256": {name: file_digest(temporary / name) for name in names},
        }
        state["sha256"][STATE] = state_digest(state)
        (temporary / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        for name in (*names, STATE):
            _sync(temporary / name)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync(run_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in checkpoint_folders(run_dir)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def remove_unfinished(run_dir: Path) -> None:
    """Remove what a killed run left half written."""
    for folder in run_dir.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def restore(checkpoint: Checkpoint, model: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors back, to the bit, each process its part of those that are sharded.

    Raises:
        ValueError: they are not those of the model, which is as it was.
    """
    modules = ((model, WEIGHTS), (average.module, EMA))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = _tensors(checkpoint.path / OPTIMIZER)
    held = [(module.state_dict(), _tensors(checkpoint.path / name), name) for module, name in modules]
    for state, tensors, name in held:
        for key in dict.fromkeys([*tensors, *state]):
            there, wanted = (tuple(x[key].shape) if key in x else None for x in (tensors, state))
            if there != wanted:
                raise ValueError(f"{key} is {_shape(there)} in {name}, and {_shape(wanted)} in the model")
    _check_moments(moments, parameters)
    for state, tensors, _ in held:
        for key, tensor in state.items():
            put(tensor, tensors[key])
    average.n_averaged.fill_(checkpoint.state["averaged"])
    for key, tensor in moments.items():
        index, name = key.split(".")
        p = parameters[int(index)]
        new = torch.zeros_like(p) if tensor.shape == p.shape else torch.zeros_like(tensor, device=p.device)
        put(new, tensor)
        optimizer.state[p][name] = new


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as whole tensors; where it is sharded, every process has to ask."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": whole(tensor).contiguous() for i, values in state.items() for name, tensor in values.items()}


def _check_moments(tensors: dict[str, Tensor], parameters: list[nn.Parameter]) -> None:
    """Raises ValueError where the optimizer's state is not one of these parameters; some may have none."""
    held = {key.partition(".")[0] for key in tensors}
    wanted = {f"{i}.{name}" for i in range(len(parameters)) if str(i) in held for name in (SCALAR, *MOMENTS)}
    for key in tensors.keys() - wanted:
        raise ValueError(f"{key} is of no parameter in {OPTIMIZER}")
    for key in wanted - tensors.keys():
        raise ValueError(f"{key} is missing in {OPTIMIZER}")
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        shape = () if name == SCALAR else tuple(parameters[int(index)].shape)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{key} is {_shape(tuple(tensor.shape))} in {OPTIMIZER}, not {_shape(shape)}")


def _tensors(path: Path) -> dict[str, Tensor]:
    """Raises ValueError where the file is none of safetensors'."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises OSError where it can't be written; safetensors has an exception of its own for it."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found.group(1)) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a scalar"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
