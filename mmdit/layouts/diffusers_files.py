"""What stands beside the weights in a folder that diffusers' `from_pretrained` opens: the config of its own class."""

from __future__ import annotations

import json
from typing import Any

from mmdit.config import Config, ConfigError
from mmdit.config.diffusers_arguments import DiffusersClass
from mmdit.config.diffusers_classes import CLASSES
from mmdit.config.diffusers_config import CLASS, WRONG, nested, our_keys
from mmdit.config.file import validate_mapping
from mmdit.config.shipped import shipped_configs
from mmdit.layouts.language import LayoutError
from mmdit.options import ModelOptions, as_data
from mmdit.weights.saved_model import mmdit_version
from mmdit.weights.shards import WRITER

__all__ = ["STEM", "diffusers_json", "written_config"]

STEM = "diffusion_pytorch_model"  # what the names of its files begin with
VERSION = "0.42.0"  # of diffusers, whose classes these are


def written_config(config: ModelOptions) -> dict[str, Any]:
    """The class of diffusers that is a config's model, and its arguments: those of which `from_pretrained` makes it.

    Raises:
        LayoutError: no class of diffusers is this model; it names the nearest.
    """
    nearest: tuple[list[str], str] | None = None
    wanted = as_data(config)
    for name, known in CLASSES.items():
        for base, chosen in known.bases.items():
            try:
                arguments = {key: each.theirs(config) for key, each in known.arguments.items()} | dict(chosen)
                got = _ours(known, arguments, base)
            except (*WRONG, ConfigError):
                continue
            if got == config:
                return {CLASS: name, "_diffusers_version": VERSION} | arguments
            data = as_data(got)
            other = sorted(key for key in wanted.keys() | data.keys() if wanted.get(key) != data.get(key))
            if nearest is None or len(other) < len(nearest[0]):
                nearest = other, name
    more = f"; {nearest[1]} has another {', '.join(f'model.{key}' for key in nearest[0])}" if nearest else ""
    raise LayoutError(f"no class of diffusers is this model{more}")


def diffusers_json(config: ModelOptions) -> bytes:
    """The same as the text of `config.json`, which says that we wrote it.

    Raises:
        LayoutError: no class of diffusers is this model.
    """
    return json.dumps(written_config(config) | {WRITER: mmdit_version()}, indent=2).encode() + b"\n"


def _ours(known: DiffusersClass, arguments: dict[str, Any], base: str) -> ModelOptions:
    _, keys = our_keys(known, arguments, base)
    document = {"extends": str(shipped_configs()[base]), "model": nested(keys)}
    return validate_mapping(document, Config, source="config.json", may_extend=True).model
