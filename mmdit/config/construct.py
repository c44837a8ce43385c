"""From a config, in whatever form it comes, to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from mmdit import mmdit_pytorch
from mmdit.config.extension import KEY as EXTENDS
from mmdit.config.file import load_config, validate_mapping
from mmdit.config.sections import Config
from mmdit.networks.model import MMDiTModel
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions

AnyConfig: TypeAlias = str | Path | Mapping[str, Any] | Config | ModelOptions


def as_config(config: AnyConfig) -> Config:
    """Read a config from a path, a mapping (`{"model": {...}}`, `{"extends": "sd3-medium", ...}` or the model section
    alone) or a config object.

    Raises:
        ConfigError: the file can't be read or a key is wrong; the message names `file:line:column` and the key.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, ModelOptions):
        return Config(model=config)
    if isinstance(config, Mapping):
        whole = config if config.keys() & {"model", EXTENDS} else {"model": config}
        return validate_mapping(whole, Config, source="config", may_extend=True)
    return load_config(config, Config)


def build(config: AnyConfig, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A model from a config: the bare `MMDiT`, or `MMDiTModel` where the config has inputs, outputs or a timestep.

    It keeps its options as `.config`. Build under `torch.device("meta")` to get its shapes without memory.

    Args:
        dtype: of the weights, with the bits of `build(config).to(dtype)`, but each module is cast as soon as it is
            made, so that the model is never there in float32; None: torch's default.

    Raises:
        ConfigError: the file can't be read or a key is wrong; the message names `file:line:column` and the key.
    """
    if dtype is not None:
        hook = register_module_module_registration_hook(lambda parent, name, module: module and module.to(dtype))
        with hook:
            return build(config).to(dtype)
    options = as_config(config).model
    if options.is_whole_network:
        return MMDiTModel(options)
    bare = (mmdit_pytorch.MMDiT if options.variant == "two_modality" else MMDiT)(options)
    bare.config = options  # type: ignore[assignment]
    return bare


def build_on_meta(config: AnyConfig) -> nn.Module:
    """The model without memory or values, for its names and shapes.

    Raises:
        ConfigError: as `build`.
    """
    with torch.device("meta"), _Undrawn():
        return build(config)


class _Undrawn(TorchFunctionMode):
    """First values are not drawn: on the meta device there are none, and some draws import sympy."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs and kwargs["tensor"]
        return func(*args, **(kwargs or {}))
