"""Configs as a user writes them, and the shipped ones with few blocks."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from mmdit.options import as_data
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config


def as_written(options: Any) -> Any:
    """Options as plain data, without what is at its default; what chooses a kind stays."""
    if isinstance(options, dict):
        return {name: as_written(value) for name, value in options.items()}
    if not is_dataclass(options):
        return as_data(options)
    kept = {}
    for each in fields(options):
        value = getattr(options, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if each.name == "kind" or value != default:
            kept[each.name] = as_written(value)
    return kept


def with_two_blocks(path: Path) -> ToolConfig:
    """A shipped config with two blocks of each kind that it has."""
    model, overrides = load_tool_config(path).model, ["model.depth=2"]
    if model.attention.dual:
        overrides.append("model.attention.dual=[0]")
    if model.single_stream is not None:
        overrides.append("model.single_stream.depth=2")
    return load_tool_config(path, overrides)
