"""Weights with their config in a safetensors file, or in shards, so that they alone rebuild their model. Nothing is
unpickled."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdit.config import Config, ConfigError, as_config, build
from mmdit.config.file import validate_mapping
from mmdit.config.yaml_document import one_line
from mmdit.options import ModelOptions, as_data
from mmdit.weights.header import FLOATS, CheckpointError
from mmdit.weights.matching import check_savable, empty_model
from mmdit.weights.model_card import ModelCard
from mmdit.weights.reader import WeightFiles
from mmdit.weights.shards import CONFIG, parse_size, writing
from mmdit.weights.writer import Written, common_dtype, digest, specs_of

__all__ = [
    "CONFIG_KEY",
    "CheckpointError",
    "card_of",
    "check_dtype",
    "filled",
    "load_weights",
    "mmdit_version",
    "own_metadata",
    "read_config",
    "save",
]

FORMAT_KEY, CONFIG_KEY = "mmdit_format", "mmdit_config"
FORMAT = "1"


def save(
    model: nn.Module,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str | int | None = None,
    card: ModelCard | None = None,
    force: bool = True,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write a model that `build` made, with its config in the metadata. The file appears whole or not at all.

    The metadata also holds the versions of mmdit and torch, and a hash of the content, which `load` can verify. With
    `max_shard_size`, `path` is a folder in the layout of the Hugging Face hub: `model-00001-of-00003.safetensors` and
    so on, `model.safetensors.index.json`, the config once more in `config.json`, and a model card in `README.md`. It,
    too, appears whole or not.

    Args:
        metadata: further text to keep in the file.
        dtype: the floating-point type in the file; None: the model's own.
        max_shard_size: bytes of tensors in a file (one larger tensor has a file of its own), such as `"5GB"`.
        card: what a folder's model card says; None: what is known here.
        force: replace an existing file, or a folder that holds such an export and nothing else.
        on_tensor: told how many tensors are written, and of how many.

    Raises:
        ValueError: the model has no config because it was not made by `build`, or it could not be loaded again.
        OSError: the file can't be written; what was there is as it was.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled model
    config = getattr(model, "config", None)
    if not isinstance(config, ModelOptions):
        raise ValueError(
            f"{type(model).__name__} has no config to save with it; make the model with mmdit.build(config), "
            "or save its state_dict with safetensors"
        )
    check_dtype(dtype)
    tensors = model.state_dict()
    check_savable(tensors, config)
    kept = dict(metadata or {}) | own_metadata(config)
    with writing(
        path,
        specs_of(tensors, dtype),
        tensors.__getitem__,
        kept,
        max_shard_size=None if max_shard_size is None else parse_size(max_shard_size),
        beside={CONFIG: json.dumps(json.loads(kept[CONFIG_KEY]), indent=2).encode() + b"\n"},
        card=card or card_of(model, config),
        force=force,
        on_tensor=on_tensor,
    ) as (_, written):
        return written


def card_of(model: nn.Module, config: ModelOptions, title: str = "", **facts: str) -> ModelCard:
    """The model card of a folder in our own layout.

    Args:
        model: for its parameters; it may be on the meta device.
        title: empty: the model's class.
        facts: what else is known, by name.
    """
    name, parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
    opened = f"mmdit.{name}.from_pretrained" if config.is_whole_network else "mmdit.load"
    known = {"parameters": f"{parameters:,}", **facts, "written by": f"mmdit {mmdit_version()}"}
    return ModelCard(title or name, "mmdit", f'import mmdit\n\nmodel = {opened}("FOLDER_OR_REPOSITORY")', config, known)


def load_weights(
    path: str | Path,
    config: Config | ModelOptions | None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    verify: bool = False,
) -> nn.Module:
    """A model in eval mode from files in our own names; see `mmdit.load`.

    Args:
        config: None takes the one in the file.

    Raises:
        CheckpointError: a file can't be read, is damaged, holds no config, or its tensors do not fit the config.
    """
    check_dtype(dtype)
    with WeightFiles(path) as files:
        wanted = (read_config(files) if config is None else as_config(config)).model
        model = empty_model(files, wanted)
        dtype = dtype or common_dtype(map(files.spec, files.tensors))
        tensors, digests = {}, {}
        for name in files.tensors:
            tensor = files.read(name)
            if verify and name not in files.quantized:
                digests[name] = digest(tensor)
            tensors[name] = tensor.to(device=device, dtype=dtype)
        if verify:  # what is hashed is what is stored: the quantized weights, and their scales
            digests |= {name: digest(files.mapped(name)) for name in files.stored.keys() - digests.keys()}
            files.check_hash(digests)
    return filled(model, tensors, wanted, device)


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError where it is no floating-point type that files of weights have."""
    if dtype is not None and dtype not in FLOATS.values():
        raise ValueError(f"dtype must be float64, float32, float16 or bfloat16, got {dtype}")


def read_config(files: WeightFiles) -> Config:
    """The config in the files' metadata."""
    text, version = files.metadata.get(CONFIG_KEY), files.metadata.get(FORMAT_KEY)
    for path, header in files.headers.items():
        if header.metadata.get(CONFIG_KEY) != text:
            raise CheckpointError(f"{path}: holds another config than the first of its shards")
    if text is None:
        raise CheckpointError(f"{files.path}: holds no config (metadata {CONFIG_KEY!r}); was it written by mmdit.save?")
    if version != FORMAT:
        got = one_line(str(version), 40)
        raise CheckpointError(f"{files.path}: its {FORMAT_KEY} is {got}; this version of mmdit reads {FORMAT}")
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} is no config")
        return validate_mapping(data if "model" in data else {"model": data}, Config, source="config")
    except ConfigError as error:
        raise CheckpointError(
            f"{files.path}: its config does not fit this version: {one_line('; '.join(str(error).splitlines()))}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{files.path}: its config can't be read: {error}") from None


def filled(
    model: nn.Module, tensors: Mapping[str, Tensor], config: ModelOptions, device: str | torch.device
) -> nn.Module:
    """A model on the meta device with all its tensors, in eval mode.

    Buffers that files do not hold are computed when a model is built, so they come from one that is built whole.
    """
    model.load_state_dict(tensors, assign=True)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if empty and torch.device(device).type != "meta":
        whole = dict(build(config).named_buffers())
        for name in empty:
            owner, _, key = name.rpartition(".")
            setattr(model.get_submodule(owner), key, whole[name].to(device))
    return model.eval()


def own_metadata(config: ModelOptions) -> dict[str, str]:
    """What a file in our layout says of itself; `load` rebuilds the model from it."""
    return {
        "format": "pt",
        FORMAT_KEY: FORMAT,
        CONFIG_KEY: json.dumps({"model": as_data(config)}),  # defaults too: they may change
        "mmdit_version": mmdit_version(),
        "torch_version": str(torch.__version__),
    }


def mmdit_version() -> str:
    """That of the package that is installed."""
    try:
        return importlib.metadata.version("mmdit-cli")
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        return "unknown"
