"""Weights with their config in one safetensors file, so that a file alone rebuilds its model. Nothing is unpickled."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mmdit.config import Config, ConfigError, ModelConfig, as_config, build
from mmdit.files import replacing

FORMAT_KEY, CONFIG_KEY = "mmdit_format", "mmdit_config"
FORMAT = "1"
SHOWN = 5  # tensors named in an error


class CheckpointError(ValueError):
    """A weights file that can't be read or does not fit; the message names the file, the tensor, got and wanted."""


def save(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None, force: bool = True) -> None:
    """Write a model that `build` made, with its config in the file's metadata. The file appears whole or not at all.

    Args:
        metadata: further text to keep in the file.
        force: replace an existing file.

    Raises:
        ValueError: the model has no config, because it was not made by `build`.
        OSError: the file can't be written; what was there is as it was.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"{type(model).__name__} has no config to save with it; make the model with mmdit.build(config), "
            "or save its state_dict with safetensors"
        )
    kept = dict(metadata or {}) | {
        "format": "pt",
        FORMAT_KEY: FORMAT,
        CONFIG_KEY: json.dumps({"model": config.model_dump(mode="json", exclude_defaults=True)}),
        "torch_version": str(torch.__version__),
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path, force=force) as temporary:
        save_file(tensors, temporary, metadata=kept)


def load(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """Rebuild a model from a file that `save` wrote, in eval mode.

    The model is built on the meta device and takes the file's tensors as they are read, so there is no second copy.

    Args:
        device: where the tensors go.
        dtype: what floating-point tensors are converted to; None: as in the file.

    Raises:
        CheckpointError: the file is damaged, holds no config, or its tensors do not fit the config.
        OSError: the file can't be opened.
    """
    return load_weights(path, None, device=device, dtype=dtype)


def load_weights(
    path: str | Path,
    config: Config | ModelConfig | None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """`load` for a given config; None takes the one in the file."""
    with open_weights(path) as file:
        wanted = read_config(file, path) if config is None else config
        with torch.device("meta"):
            model = build(wanted)
        _check_fit(file, model, path)
        tensors = {name: _place(file.get_tensor(name), device, dtype) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def open_weights(path: str | Path) -> Any:
    """A safetensors file whose header has been checked: sizes, offsets, dtypes, and the file's length."""
    if not Path(path).is_file():
        reason = "is a folder" if Path(path).is_dir() else "no such file"
        raise CheckpointError(f"{path}: {reason}; expected a safetensors file")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    except PermissionError:
        raise CheckpointError(f"{path}: permission denied") from None


def read_config(file: Any, path: str | Path) -> Config:
    """The config in a file's metadata."""
    text = (file.metadata() or {}).get(CONFIG_KEY)
    if text is None:
        raise CheckpointError(f"{path}: holds no config (metadata {CONFIG_KEY!r}); was it written by mmdit.save?")
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} is no config")
        return as_config(data)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its config does not fit this version: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its config can't be read: {error}") from None


def _check_fit(file: Any, model: nn.Module, path: str | Path) -> None:
    """Every tensor of the model is in the file, with its shape, and no other."""
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    held = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    problems = []
    for name in wanted.keys() - held.keys():
        near = difflib.get_close_matches(name, held.keys() - wanted.keys(), n=1)
        problems.append(f"{name} is missing" + (f" (is it {near[0]}?)" if near else ""))
    problems += [f"{name} is not in the model" for name in held.keys() - wanted.keys()]
    for name in wanted.keys() & held.keys():
        if wanted[name] != held[name]:
            problems.append(f"{name} has the shape {held[name]}, wanted {wanted[name]}")
        elif not file.get_slice(name).get_dtype().startswith(("F", "BF")):
            problems.append(f"{name} has the dtype {file.get_slice(name).get_dtype()}, wanted floating point")
    if problems:
        problems.sort()
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"{path}: does not fit the config: " + "; ".join(problems[:SHOWN]) + more)


def _place(tensor: torch.Tensor, device: str | torch.device, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(device=device, dtype=dtype)
