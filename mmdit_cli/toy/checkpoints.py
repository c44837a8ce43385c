"""A run's checkpoints: weights, their average and the optimizer's state as safetensors, and a JSON that binds them.

Nothing is unpickled. A checkpoint is a folder that is written under another name, synced and renamed, so it is there
whole or not at all; each file's SHA-256 is in its JSON, and a checkpoint that does not match is passed over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import mmdit
from mmdit.config.regular_file import open_regular, read_regular
from mmdit_cli.errors import UserError
from mmdit_cli.toy.processes import put, whole

PREFIX, STATE = "checkpoint-", "state.json"
NAME = re.compile(PREFIX + r"(\d{8,18})")  # a user may keep others beside them, such as checkpoint-best
WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
SCALAR, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter
KEPT = 2
LONGEST = 1 << 24  # bytes that are read of what a run says of itself; it takes some kB


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk that has been found whole."""

    path: Path
    step: int
    state: dict[str, Any]


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
            "sha256": {name: _digest(temporary / name) for name in names},
        }
        state["sha256"][STATE] = _own_digest(state)
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
    for old in _folders(run_dir)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def sweep(run_dir: Path) -> None:
    """Remove what a killed run left half written."""
    for folder in run_dir.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with those passed over."""
    problems: list[str] = []
    for folder in reversed(_folders(run_dir)):
        try:
            state = json.loads(read_regular(folder / STATE, LONGEST))
            if state["sha256"].get(STATE, _own_digest(state)) != _own_digest(state):  # older ones have none
                raise ValueError(f"{STATE} does not match its checksum")
            for name in (WEIGHTS, EMA, OPTIMIZER):
                if _digest(folder / name) != state["sha256"][name]:
                    raise ValueError(f"{name} does not match its checksum")
            if state["step"] != _step(folder) or not 0 <= int(state["averaged"]) < 1 << 63:
                raise ValueError(f"{STATE} is not that of step {_step(folder)}")
            return Checkpoint(folder, _step(folder), state), problems
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{folder} is damaged ({error}); passed over")
        except RecursionError:
            problems.append(f"{folder} is damaged ({STATE} is nested too deep); passed over")
    return None, problems


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


def _folders(run_dir: Path) -> list[Path]:
    """The checkpoints' folders, by their step."""
    return sorted((path for path in run_dir.iterdir() if NAME.fullmatch(path.name) and path.is_dir()), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


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


def _own_digest(state: dict[str, Any]) -> str:
    """The checksum of the JSON itself, without itself."""
    rest = state | {"sha256": {name: text for name, text in state["sha256"].items() if name != STATE}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
