"""The shipped configs made small, so that a test can run them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import mmdit
from mmdit.config.file import load_config
from mmdit.config.shipped import shipped_configs
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig
from tests.support.draws import drawn

SHIPPED = [name for name in shipped_configs() if "/" not in name]
FAMILIES = ("sd3-medium", "sd3.5-medium", "flux.1-dev", "flux.2-dev", "qwen-image", "auraflow")
WIDTH, DIM_HEAD = 32, 16


def small(name: str, *overrides: str) -> ToolConfig:
    """A shipped config with two blocks of each kind and narrow streams."""
    whole = load_config(name, ToolConfig)
    model = whole.model
    changes: dict[str, Any] = {"run.batch_size": 2, "model.depth": 2, "model.heads": 2, "model.dim_head": DIM_HEAD}
    changes["model.dim_joint_attn"] = changes["model.feedforward.dim"] = "null"
    if model.attention.dual:
        changes["model.attention.dual"] = "[0]"
    if model.single_stream is not None:
        changes["model.single_stream.depth"] = 2
    if model.rotary is not None:
        axes = [2] * (len(model.rotary.axes) - 1)
        changes["model.rotary.axes"] = [*axes, DIM_HEAD - sum(axes)]
    if model.dim_cond is not None:
        changes["model.dim_cond"] = 12
    if model.pooled is not None:
        changes["model.pooled.dim"] = 8
    changes |= dict.fromkeys((f"run.frames.{name}" for name in whole.run.frames), 2)
    for modality, options in model.modalities.items():
        at = f"model.modalities.{modality}"
        changes[f"{at}.dim"] = WIDTH
        changes[f"run.tokens.{modality}"] = 4 if getattr(options.input, "kind", None) == "patches" else 5
        for end, key, value in (("input", "max_size", 8), ("input", "channels", 4), ("output", "channels", 4)):
            if hasattr(getattr(options, end), key):
                changes[f"{at}.{end}.{key}"] = value
        if getattr(options.input, "base_size", None) is not None:
            changes[f"{at}.input.base_size"] = 4
    return load_config(name, ToolConfig, overrides=[*(f"{key}={value}" for key, value in changes.items()), *overrides])


def small_network(name: str, *overrides: str) -> tuple[nn.Module, dict[str, Any]]:
    """Its network in eval mode and in float32, every weight drawn, and the arguments of a call."""
    config = small(name, *overrides)
    torch.manual_seed(0)
    return drawn(mmdit.build(config.model)).float().eval(), example_inputs(config, device="cpu", seed=0).kwargs


def outputs(result: Any) -> list[torch.Tensor]:
    """The tensors that a network gives."""
    values = result.values() if isinstance(result, dict) else result
    return [x for x in values if x is not None]
