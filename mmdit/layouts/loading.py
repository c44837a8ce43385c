"""A model from weights on the disk, in our names or another's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdit.config import Config, as_config
from mmdit.config.construct import build_on_meta
from mmdit.config.diffusers_config import config_file
from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import LayoutFiles, our_weights
from mmdit.layouts.recognition import recognize, recognize_layout
from mmdit.options import ModelOptions
from mmdit.weights.checkpoints import EMA, newest_checkpoint
from mmdit.weights.header import CheckpointError
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CONFIG_KEY, check_dtype, filled, load_weights
from mmdit.weights.writer import common_dtype

__all__ = ["load"]


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    verify: bool = False,
    config: str | Path | Mapping[str, Any] | Config | ModelOptions | None = None,
    layout: str | None = None,
) -> nn.Module:
    """Rebuild a model from what `save` wrote, or from a published checkpoint, in eval mode.

    The header is checked first; then the model is built on the meta device and takes the tensors as they are read. On
    the CPU, without conversion, they are mapped from the file, so there is no second copy in memory.

    Args:
        path: a safetensors file, an index of shards (`*.index.json`), a folder with either, that of a pipeline of
            diffusers or of the Hub's cache, or the folder of a training run, of which the averaged weights of the
            newest checkpoint are taken whose checksums are right.
        device: where the tensors go.
        dtype: the floating-point type they are converted to; None: as in the file or, where it has several, the
            narrowest that holds them all, for a network computes in one.
        verify: read everything and compare it with the hash in the metadata.
        config: of the model, where neither the file nor a folder's `config.json` is one.
        layout: whose names the file has (`mmdit.layouts.LAYOUTS`). None: it is recognized.

    Raises:
        CheckpointError: a file can't be read, is damaged, holds no config, or its tensors do not fit the config.
        ConfigError: `config` can't be read.
        LayoutError: the layout has no place for the config's model.
    """
    if config is None and (averaged := _averaged(Path(path))) is not None:
        config, path = Path(path) / "config.yaml", averaged
    if config is None and config_file(path) is not None:
        config = path
    given = None if config is None else as_config(config)
    prefix = ""
    if layout is None:
        layout, prefix = _recognized(path, given)
    if layout == "mmdit" and not prefix:
        return load_weights(path, given, device, dtype, verify=verify)
    check_dtype(dtype)
    if verify:
        raise CheckpointError(f"{path}: a file in the layout {layout} holds no hash to verify")
    if given is None:
        raise CheckpointError(f"{path}: a file in the layout {layout} says nothing of its model; pass its config")
    wanted = given.model
    names = Layout(layout, wanted)
    theirs = LayoutFiles(path, names).weights()
    if len({spec.dtype for spec in theirs.specs.values()}) > 1:  # tensors of several types can't be joined
        theirs = theirs.cast(dtype or common_dtype(theirs.specs.values()))
    weights = our_weights(theirs, names)
    model = build_on_meta(wanted)
    tensors = {name: weights.read(name).to(device=device, dtype=dtype) for name in weights.specs}
    return filled(model, tensors, wanted, device)


def _recognized(path: str | Path, config: Config | None) -> tuple[str, str]:
    """The layout of a file, and what stands before its names; ours where it is none that is known, so that what is
    missing of it is said."""
    with WeightFiles(path) as files:
        if config is not None:
            layout, prefix = recognize_layout(files.tensors, config.model)
            return layout or "mmdit", prefix
        found = None if CONFIG_KEY in files.metadata else recognize(files.tensors)
        return ("mmdit", "") if found is None or found.lora else (found.layout, found.prefix)


def _averaged(run: Path) -> Path | None:
    """The averaged weights of the newest checkpoint in a run's folder that is whole; None where it is none."""
    if not os.path.isfile(run / "config.yaml"):  # which is false of names that are too long, too
        return None
    checkpoint, problems = newest_checkpoint(run)
    if checkpoint is None and problems:
        raise CheckpointError(f"{run}: holds no whole checkpoint; {'; '.join(problems)}")
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
    return None if checkpoint is None else checkpoint.whole(EMA)
