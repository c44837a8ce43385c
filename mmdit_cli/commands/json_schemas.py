"""JSON Schemas of the config file and of every command's document, derived from the classes that make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """What an editor needs to check and complete a config file."""
    from mmdit_cli.request.tool_config import ToolConfig

    schema = ToolConfig.model_json_schema()
    return {"$schema": DIALECT, **schema, "title": "mmdit config"}


def _profile() -> Any:
    from mmdit_cli.memory.verdict import MemoryVerdict
    from mmdit_cli.profile.measurement import ProfileResult

    return ProfileResult | MemoryVerdict  # the latter with --estimate


def _flops() -> type:
    from mmdit_cli.model_parts.flop_count import FlopsResult

    return FlopsResult


def _shapes() -> type:
    from mmdit_cli.shape_check.shapes import ShapesResult

    return ShapesResult


def _train() -> type:
    from mmdit_cli.toy.training import TrainResult

    return TrainResult


def _export() -> type:
    from mmdit_cli.export.weights_export import ExportResult

    return ExportResult


def _beside_profiles() -> dict[str, Any]:
    from mmdit_cli.profile.baseline import BaselineChange
    from mmdit_cli.profile.growth import Growth

    return {"baseline": list[BaselineChange], "growth": list[Growth]}


def _configs() -> type:
    from mmdit_cli.commands.shipped_sizes import ShippedConfig

    return ShippedConfig


RESULTS: dict[str, Callable[[], Any]] = {
    "profile": _profile,
    "flops": _flops,
    "shape-check": _shapes,
    "train-toy": _train,
    "export": _export,
    "configs": _configs,
}


def _beside_runs() -> dict[str, Any]:
    from mmdit_cli.toy.comparison import Comparison

    return {"comparison": Comparison}


BESIDE: dict[str, Callable[[], dict[str, Any]]] = {  # what only some documents have
    "profile": _beside_profiles,
    "train-toy": _beside_runs,
}


def document_schema(command: str) -> dict[str, Any]:
    """The schema of `mmdit COMMAND --json`. A number that is not finite is written as null."""
    defs: dict[str, Any] = {}

    def schema_of(kind: Any) -> dict[str, Any]:
        made = TypeAdapter(kind).json_schema(mode="serialization", ref_template="#/$defs/{model}")
        defs.update(made.pop("$defs", {}))
        return made

    result = schema_of(RESULTS[command]())
    beside = {name: schema_of(kind) for name, kind in BESIDE.get(command, dict)().items()}
    text, whole = {"type": "string"}, {"type": "integer"}
    properties: dict[str, Any] = {
        "command": {"const": command},
        "mmdit_version": text,
        "torch_version": text,
        "device": text,
        "device_name": text,
        "threads": whole,
        "dtype": text,
        "seed": whole,
        "results": {"type": "array", "items": {"$ref": "#/$defs/Result"}},
    }
    return {
        "$schema": DIALECT,
        "title": f"mmdit {command}",
        "type": "object",
        "properties": {**properties, **_nullable_numbers(beside)},
        "required": list(properties),
        "$defs": _nullable_numbers({**defs, "Result": result}),
    }


def _nullable_numbers(schema: Any) -> Any:
    """Every number may be null."""
    if isinstance(schema, list):
        return [_nullable_numbers(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _nullable_numbers(value) for key, value in schema.items()}
    if changed.get("type") == "number":
        changed["type"] = ["number", "null"]
    return changed
