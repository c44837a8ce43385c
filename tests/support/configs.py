"""The shipped configs with few blocks."""

from __future__ import annotations

from pathlib import Path

from mmdit_cli.request.tool_config import ToolConfig, load_tool_config


def with_two_blocks(path: Path) -> ToolConfig:
    """A shipped config with two blocks of each kind that it has."""
    model, overrides = load_tool_config(path).model, ["model.depth=2"]
    if model.attention.dual:
        overrides.append("model.attention.dual=[0]")
    if model.single_stream is not None:
        overrides.append("model.single_stream.depth=2")
    return load_tool_config(path, overrides)
