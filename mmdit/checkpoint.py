"""Weights with their config in one safetensors file, so that a file alone rebuilds its model. Nothing is unpickled."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from mmdit.config import Config, ConfigError, ModelConfig, as_config, build
from mmdit.files import replacing
from mmdit.tensor_file import FLOATS, CheckpointError, named
from mmdit.tensor_writer import HASH_KEY, content_hash, digest, specs_of, write_tensors
from mmdit.weight_files import WeightFiles
from mmdit.yaml_document import one_line

__all__ = ["CheckpointError", "load", "load_weights", "save"]

FORMAT_KEY, CONFIG_KEY = "mmdit_format", "mmdit_config"
FORMAT = "1"
SHOWN = 5  # tensors named in an error
MAX_TENSORS = 20_000  # SD3.5-large has 922
CANDIDATES = 1000  # names among which the nearest is looked for

Shapes = Mapping[str, tuple[int, ...]]


def save(
    model: nn.Module,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    force: bool = True,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a model that `build` made, with its config in the file's metadata. The file appears whole or not at all.

    The metadata also holds the versions of mmdit and torch, and a hash of the content, which `load` can verify.

    Args:
        metadata: further text to keep in the file.
        dtype: the floating-point type in the file; None: the model's own.
        force: replace an existing file.
        on_tensor: told how many tensors are written, and of how many.

    Raises:
        ValueError: the model has no config because it was not made by `build`, or it could not be loaded again.
        OSError: the file can't be written; what was there is as it was.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled model
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"{type(model).__name__} has no config to save with it; make the model with mmdit.build(config), "
            "or save its state_dict with safetensors"
        )
    if dtype is not None and dtype not in FLOATS.values():
        raise ValueError(f"dtype must be float64, float32, float16 or bfloat16, got {dtype}")
    tensors = model.state_dict()
    _check_savable(tensors, config)
    kept = dict(metadata or {}) | {
        "format": "pt",
        FORMAT_KEY: FORMAT,
        CONFIG_KEY: json.dumps({"model": config.model_dump(mode="json")}),  # defaults too: they may change
        "mmdit_version": _version(),
        "torch_version": str(torch.__version__),
    }
    with replacing(path, force=force) as temporary:
        specs = specs_of(tensors, dtype)
        write_tensors(temporary, specs, tensors.__getitem__, kept, hashed=True, on_tensor=on_tensor)


def load(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, *, verify: bool = False
) -> nn.Module:
    """Rebuild a model from what `save` wrote, in eval mode.

    The header is checked first; then the model is built on the meta device and takes the tensors as they are read. On
    the CPU, without conversion, they are mapped from the file, so there is no second copy in memory.

    Args:
        path: a safetensors file, an index of shards (`*.index.json`), or a folder with either.
        device: where the tensors go.
        dtype: the floating-point type they are converted to; None: as in the file.
        verify: read everything and compare it with the hash in the metadata.

    Raises:
        CheckpointError: a file can't be read, is damaged, holds no config, or its tensors do not fit the config.
    """
    return load_weights(path, None, device=device, dtype=dtype, verify=verify)


def load_weights(
    path: str | Path,
    config: Config | ModelConfig | None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = False,
) -> nn.Module:
    """`load` for a given config; None takes the one in the file."""
    if dtype is not None and dtype not in FLOATS.values():
        raise ValueError(f"dtype must be float64, float32, float16 or bfloat16, got {dtype}")
    with WeightFiles(path) as files:
        wanted = (read_config(files) if config is None else as_config(config)).model
        model = _empty_model(files, wanted)
        tensors, digests = {}, {}
        for name in files.tensors:
            tensor = files.read(name)
            if verify:
                digests[name] = digest(tensor)
            tensors[name] = tensor.to(device=device, dtype=dtype)
        if verify:
            _check_hash(files, digests)
    model.load_state_dict(tensors, assign=True)
    _fill_buffers(model, wanted, device)
    return model.eval()


def read_config(files: WeightFiles) -> Config:
    """The config in the files' metadata."""
    text, version = files.metadata.get(CONFIG_KEY), files.metadata.get(FORMAT_KEY)
    if text is None:
        raise CheckpointError(f"{files.path}: holds no config (metadata {CONFIG_KEY!r}); was it written by mmdit.save?")
    if version != FORMAT:
        got = one_line(str(version), 40)
        raise CheckpointError(f"{files.path}: its {FORMAT_KEY} is {got}; this version of mmdit reads {FORMAT}")
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__} is no config")
        return as_config(data)
    except ConfigError as error:
        raise CheckpointError(f"{files.path}: its config does not fit this version: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{files.path}: its config can't be read: {error}") from None


# ---------------------------------------------------------------------------------------------------------- what fits


def _empty_model(files: WeightFiles, config: ModelConfig) -> nn.Module:
    """The model on the meta device, once its tensors are known to be those of the files."""
    held = files.tensors
    # before a model is built for nothing: at least the queries, keys and values, the out projection and the feedforward
    # of every modality in every block, of which the last may lack all but the first
    modalities = len(config.modalities)
    needed = ((config.depth - 1) * 4 + 1) * modalities
    if not needed <= len(held) <= MAX_TENSORS:
        raise CheckpointError(
            f"{files.path}: does not fit the config: {config.depth} blocks of {modalities} modalities have at least "
            f"{needed:,} tensors, the file has {len(held):,}, and at most {MAX_TENSORS:,} are read"
        )
    try:
        model = _meta_model(config)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{files.path}: a model of its config can't be built: {one_line(str(error), 200)}"
        ) from None
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = _misfits(wanted, {name: info.shape for name, info in held.items()})
    problems += [
        f"{name} has the dtype {held[name].dtype}, wanted one of {', '.join(FLOATS)}"
        for name in sorted(wanted.keys() & held.keys())
        if held[name].dtype not in FLOATS
    ]
    if problems:
        raise CheckpointError(f"{files.path}: does not fit the config: {_listed(problems)}")
    return model


def _misfits(wanted: Shapes, held: Shapes) -> list[str]:
    """How the tensors that are held differ from those that are wanted."""
    missing, unexpected = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
    problems = [f"{named(name)} is missing{_nearest(name, unexpected)}" for name in missing[:SHOWN]]
    problems += [f"{named(name)} is missing" for name in missing[SHOWN:]]
    problems += [f"{named(name)} is not in the model" for name in unexpected]
    problems += [
        f"{name} has the shape {list(held[name])}, wanted {list(wanted[name])}"
        for name in sorted(wanted.keys() & held.keys())
        if wanted[name] != held[name]
    ]
    return problems


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names)[:CANDIDATES], n=1)
    return f" (is it {named(near[0])}?)" if near else ""


def _listed(problems: list[str]) -> str:
    return "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")


def _check_savable(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Nothing is written that could not be loaded: a wrapped or altered model, or one without values."""
    wanted = {name: tuple(tensor.shape) for name, tensor in _meta_model(config).state_dict().items()}
    problems = _misfits(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if len(tensors) > MAX_TENSORS:
        problems.append(f"{len(tensors):,} tensors are more than the {MAX_TENSORS:,} that are read")
    for name, tensor in tensors.items():
        if tensor.is_meta:
            problems.append(f"{name} is on the meta device and has no values")
        elif tensor.dtype not in FLOATS.values():
            problems.append(f"{name} has the dtype {tensor.dtype}, wanted floating point")
    if problems:
        raise ValueError(
            f"the model could not be loaded from a file, as it is not what its config says: {_listed(problems)}"
        )


def _meta_model(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build(config)


def _check_hash(files: WeightFiles, digests: Mapping[str, str]) -> None:
    wanted = files.metadata.get(HASH_KEY)
    if wanted is None:
        raise CheckpointError(f"{files.path}: holds no hash to verify (metadata {HASH_KEY!r})")
    if content_hash(files.tensors, digests) != wanted:
        raise CheckpointError(f"{files.path}: its tensors are not those that were written: their hash differs")


def _fill_buffers(model: nn.Module, config: ModelConfig, device: str | torch.device) -> None:
    """Buffers that files do not hold are computed when a model is built, so they come from one that is built whole."""
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if not empty or torch.device(device).type == "meta":
        return
    whole = dict(build(config).named_buffers())
    for name in empty:
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, whole[name].to(device))


def _version() -> str:
    try:
        return importlib.metadata.version("mmdit-cli")
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        return "unknown"
