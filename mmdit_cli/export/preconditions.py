"""What is checked before an export builds anything: where it goes, where the weights are, whether there is room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from mmdit.config import build
from mmdit.weights.atomic import check_folder, check_writable
from mmdit.weights.reader import SINGLE, WeightFiles
from mmdit.weights.shards import not_an_export, parse_size
from mmdit_cli.errors import UserError
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.free_memory import free_memory
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.checkpoints import EMA, WEIGHTS, newest_checkpoint

__all__ = ["check_out", "check_room", "free_memory", "shard_size", "weights_file"]


def shard_size(text: str) -> int:
    """Bytes. Raises UserError where the text is no size."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UserError(f"--max-shard-size: {error}") from None


def check_out(out: Path, force: bool, *, folder: bool, other: Callable[[Path], str | None] = not_an_export) -> None:
    """Raises UserError where the file or the folder could not be written."""
    try:
        if folder:
            check_folder(out, force=force, other=other)
        else:
            check_writable(out)
    except IsADirectoryError:
        raise UserError(f"--out {out}: is a folder; name a file in it, such as {out / SINGLE}") from None
    except NotADirectoryError:
        raise UserError(f"--out {out}: is no folder; shards go into one of their own") from None
    except FileExistsError:
        raise UserError(f"--out {out}: exists; --force replaces it") from None
    except FileNotFoundError:
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first") from None
    except PermissionError:
        raise UserError(f"--out {out}: the folder {out.parent} is not writable") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out}: {getattr(error, 'strerror', None) or error}") from None
    if not folder and os.path.lexists(out) and not force:
        raise UserError(f"--out {out}: exists; --force replaces it")


def weights_file(weights: Path | None, raw: bool, on_message: Callable[[str], None]) -> Path | None:
    """The file or the folder of shards itself, or the weights of a run's newest checkpoint.

    Raises:
        UserError: a folder holds neither; `raw` is said of something else than a run.
    """
    if weights is not None and weights.is_dir() and not _holds_weights(weights):
        checkpoint, problems = newest_checkpoint(weights)
        if checkpoint is None:
            raise UserError(f"--weights {weights}: holds no whole checkpoint" + "".join(f"; {p}" for p in problems))
        for problem in problems:
            on_message(problem)
        return checkpoint.path / (WEIGHTS if raw else EMA)
    if raw:
        raise UserError("--raw takes a train-toy run's weights before averaging; --weights must name the run's folder")
    return weights


def _holds_weights(folder: Path) -> bool:
    """Whether weights lie in the folder itself; a run has them in its checkpoints' folders."""
    return any(path.name.endswith((".safetensors", ".safetensors.index.json")) for path in folder.iterdir())


def check_disk(needed: int, out: Path) -> None:
    """Raises UserError where the disk has less room."""
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(f"--out {out}: needs {bytes_(needed)} on the disk and {bytes_(free)} are free")


def check_room(config: ToolConfig, out: Path, *, dtype: torch.dtype, device: torch.device, file: Path | None) -> None:
    """Refuse a model that would not fit into the memory or onto the disk, before anything is allocated.

    Args:
        file: where its weights come from; None: they are drawn.

    Raises:
        UserError: it says what is needed and what there is.
    """
    with possible(config), torch.device("meta"):
        parameters = sum(p.numel() for p in build(config.model).parameters())
    written = parameters * dtype.itemsize
    for what, needed, free in (
        ("memory", _held(parameters, dtype, device, file), free_memory(device)),
        ("space on the disk", written, shutil.disk_usage(out.parent).free),
    ):
        if free is not None and needed > free:
            raise UserError(
                f"{config.name}: the model needs {bytes_(needed)} of {what} and {bytes_(free)} are free; "
                "fewer blocks would need less, as in --set model.depth=2"
            )


def _held(parameters: int, dtype: torch.dtype, device: torch.device, file: Path | None) -> int:
    """Bytes of memory that can't be given back while the model is there; its copy comes when it is gone."""
    if file is None:
        return parameters * max(4, dtype.itemsize)  # drawn in float32, then converted weight by weight
    if device.type == "cpu":
        with WeightFiles(file) as files:
            if all(files.spec(name).dtype == dtype for name in files.tensors):
                return 0  # mapped: the system holds what it has room for
    return parameters * dtype.itemsize
