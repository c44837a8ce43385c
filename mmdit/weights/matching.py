"""Whether tensors are those of a config's model, and if not, which are wrong and how."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mmdit.config import build
from mmdit.config.yaml_document import one_line
from mmdit.options import ModelOptions
from mmdit.weights.header import FLOATS, MAX_TENSORS, CheckpointError, named
from mmdit.weights.reader import WeightFiles

__all__ = ["check_savable", "empty_model", "misfits"]

SHOWN = 5  # tensors named in an error
CANDIDATES = 1000  # names among which the nearest is looked for

Shapes = Mapping[str, tuple[int, ...]]


def empty_model(files: WeightFiles, config: ModelOptions) -> nn.Module:
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
    problems = misfits(wanted, {name: info.shape for name, info in held.items()})
    problems += [
        f"{name} has the dtype {held[name].dtype}, wanted one of {', '.join(FLOATS)}"
        for name in sorted(wanted.keys() & held.keys())
        if held[name].dtype not in FLOATS
    ]
    if problems:
        raise CheckpointError(f"{files.path}: does not fit the config: {listed(problems)}")
    return model


def misfits(wanted: Shapes, held: Shapes) -> list[str]:
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


def listed(problems: list[str]) -> str:
    return "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")


def check_savable(tensors: Mapping[str, Tensor], config: ModelOptions) -> None:
    """Nothing is written that could not be loaded: a wrapped or altered model, or one without values."""
    wanted = {name: tuple(tensor.shape) for name, tensor in _meta_model(config).state_dict().items()}
    problems = misfits(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if len(tensors) > MAX_TENSORS:
        problems.append(f"{len(tensors):,} tensors are more than the {MAX_TENSORS:,} that are read")
    for name, tensor in tensors.items():
        if tensor.is_meta:
            problems.append(f"{name} is on the meta device and has no values")
        elif tensor.dtype not in FLOATS.values():
            problems.append(f"{name} has the dtype {tensor.dtype}, wanted floating point")
    if problems:
        raise ValueError(
            f"the model could not be loaded from a file, as it is not what its config says: {listed(problems)}"
        )


def _meta_model(config: ModelOptions) -> nn.Module:
    with torch.device("meta"):
        return build(config)
