"""Configs as a user writes them."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from mmdit.options import as_data


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
