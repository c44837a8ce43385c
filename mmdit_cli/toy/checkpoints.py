"""Writing and restoring a run's checkpoints: weights, their average and the optimizer's state as safetensors.

Nothing is unpickled. A checkpoint is a folder that is written under another name, synced and renamed, so it is there
whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mmdit
from mmdit.weights.atomic import replacing_folder
from mmdit.weights.checkpoints import (
    EMA,
    OPTIMIZER,
    PREFIX,
    STATE,
    WEIGHTS,
    Checkpoint,
    checkpoint_folders,
    file_digest,
    newest_checkpoint,
    state_digest,
)
from mmdit.weights.matching import listed, misfits
from mmdit.weights.writer import specs_of, write_tensors
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.processes import put, whole
from mmdit_cli.toy.optimizer import MOMENTS, SCALAR, kept_of

KEPT = 2


def save_checkpoint(
    run_dir: Path, step: int, model: nn.Module, average: nn.Module, optimizer: dict[str, Tensor], **state: Any
) -> Path:
    """Write the checkpoint of `step` finished steps, and drop all but the last two.

    Raises:
        OSError: it can't be written; the ones before are as they were.
    """
    target = run_dir / f"{PREFIX}{step:08d}"
    with replacing_folder(target) as folder:
        mmdit.save(model, folder / WEIGHTS)
        mmdit.save(average, folder / EMA)
        write_tensors(folder / OPTIMIZER, specs_of(optimizer), optimizer.__getitem__)
        state |= {"step": step, "sha256": {name: file_digest(folder / name) for name in (WEIGHTS, EMA, OPTIMIZER)}}
        state["sha256"][STATE] = state_digest(state)
        (folder / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    for old in checkpoint_folders(run_dir)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoint_to_resume(run_dir: Path, on_problem: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """The newest whole checkpoint; None where the run has none yet. What was wrong with others is told.

    Raises:
        UserError: there are some, and none is whole.
    """
    checkpoint, problems = newest_checkpoint(run_dir)
    for problem in problems:
        on_problem(problem)
    if checkpoint is None and problems:
        raise UserError(f"--resume: {run_dir} holds no whole checkpoint: {'; '.join(problems)}")
    return checkpoint


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    *,
    cuts: Mapping[str, Any],
) -> None:
    """Put a checkpoint's tensors back, to the bit, each process its part of those that are sharded.

    Args:
        cuts: how each parameter is cut, by name in the model's order; see `Group.cuts`.

    Raises:
        ValueError: they are not those of the model, which is as it was.
    """
    held = []
    for module, name in ((model, WEIGHTS), (average.module, EMA)):
        state, tensors = module.state_dict(), _tensors(checkpoint, name)
        _check(tensors, {key: tuple(x.shape) for key, x in state.items()}, name)
        held.append((state, tensors))
    parameters = list(model.parameters())
    moments = _tensors(checkpoint, OPTIMIZER)
    known = {key.partition(".")[0] for key in moments}  # some parameters may have none
    wanted: dict[str, tuple[int, ...]] = {}
    for i, p in enumerate(parameters):
        if str(i) in known:
            names = kept_of(optimizer, p)
            wanted |= {f"{i}.{name}": tuple(p.shape) for name in names}
            wanted |= {f"{i}.{SCALAR}": ()} if names == MOMENTS else {}
    _check(moments, wanted, OPTIMIZER)
    for state, tensors in held:
        for key, tensor in state.items():
            put(tensor, tensors[key], cuts.get(key))
    of_parameter = list(cuts.values())
    average.n_averaged.fill_(checkpoint.state["averaged"])
    for key, tensor in moments.items():
        index, name = key.split(".")
        p = parameters[int(index)]
        new = torch.zeros_like(p) if tensor.shape == p.shape else torch.zeros_like(tensor, device=p.device)
        put(new, tensor, of_parameter[int(index)])
        optimizer.state[p][name] = new


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, cuts: Sequence[Any]) -> dict[str, Tensor]:
    """The optimizer's state as whole tensors, by the place of each weight in the model; where it is sharded, every
    process has to ask. `cuts`: how each weight is."""
    return {
        f"{i}.{name}": whole(tensor, cuts[i]).contiguous()
        for i, p in enumerate(model.parameters())
        if p in optimizer.state
        for name, tensor in optimizer.state[p].items()
    }


def _check(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises ValueError where the tensors of a file are not those that are wanted."""
    if problems := misfits(wanted, {key: tuple(x.shape) for key, x in tensors.items()}):
        raise ValueError(f"{name}: {listed(problems)}")


def _tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Raises ValueError where the file is none of safetensors'."""
    try:
        return load_file(checkpoint.path / name)
    except SafetensorError as error:
        raise ValueError(f"{name}: {error}") from None
