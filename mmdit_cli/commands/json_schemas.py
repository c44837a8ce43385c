"""JSON Schemas of the config file and of every command's document, derived from the classes that make them."""

from __future__ import annotations

import functools
import operator
from pkgutil import resolve_name
from typing import Any

from pydantic import TypeAdapter

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """What an editor needs to check and complete a config file, whole or with what it `extends`."""
    from mmdit_cli.request.tool_config import ToolConfig

    whole = TypeAdapter(ToolConfig).json_schema()
    parts = whole.pop("$defs") | {"Config": whole}
    return {
        "$schema": DIALECT,
        "title": "mmdit config",
        "properties": {name: {"anyOf": [each, {}]} for name, each in whole["properties"].items()},  # these names, and:
        "if": {"required": ["extends"], "properties": {"extends": {"type": "string"}}},
        "then": {"$ref": f"#/$defs/{CHANGE}Config"},
        "else": {"$ref": "#/$defs/Config"},
        "$defs": parts | {CHANGE + name: _changes(part) for name, part in parts.items()},
    }


CHANGE = "ChangesOf"
WHOLE_ONLY = ("required", "discriminator", "default", "title", "minProperties")
NULL = {"type": "null"}


def _changes(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of what is written of it where the rest is extended: nothing is required, and null leaves a key out."""
    changed = {key: value for key, value in schema.items() if key not in WHOLE_ONLY}
    if "$ref" in changed:
        changed["$ref"] = changed["$ref"].replace("#/$defs/", f"#/$defs/{CHANGE}")
    for key in ("anyOf", "oneOf"):
        if key in changed:  # of several kinds, as many as have what is written
            changed["anyOf"] = [_changes(each) for each in changed.pop(key)]
    if "properties" in changed:
        changed["properties"] = {name: _or_null(_changes(each)) for name, each in changed["properties"].items()}
    if isinstance(values := changed.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(_changes(values))
    return changed


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        return schema | {"anyOf": [*(each for each in schema["anyOf"] if each != NULL), NULL]}
    if "type" not in schema:
        return {"anyOf": [schema, NULL]}
    more = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **more}


RESULTS = {  # by command: the classes of what its `results` may hold
    "profile": (
        "profile.profile_result:ProfileResult",
        "profile.sampling_profile:SamplingProfile",  # with --mode sample
        "profile.spread_profile:SpreadProfile",  # under torchrun
        "memory.verdict:MemoryVerdict",  # with --estimate
    ),
    "flops": ("model_parts.flop_count:FlopsResult", "model_parts.sampling_flops:SamplingFlops"),
    "plan": ("plan.plans:PlanResult",),
    "shape-check": ("shape_check.shapes:ShapesResult", "shape_check.identity:Identity"),  # the latter without --config
    "train-toy": ("toy.train_result:TrainResult", "toy.coordinates:CoordinateCheck"),  # with --coordinate-check
    "sample": ("toy.drawings:Drawing",),
    "export": ("export.weights_export:ExportResult",),
    "configs": ("commands.shipped_sizes:ShippedConfig", "commands.config_contents:DifferingConfig"),  # with --diff
}
MATCHED = {"matched": ("model_parts.matching:Matched", True)}
BESIDE = {  # what only some documents have: a type, and whether it is a list of them
    "profile": {
        "conditions": ("profile.conditions:Conditions", False),
        "baseline": ("profile.baseline:BaselineChange", True),
        "growth": ("profile.growth:Growth", True),
        "left_out": ("request.sweep:LeftOut", True),
        **MATCHED,
    },
    "sample": {"samples": ("toy.shown_samples:ShownSample", True)},
    "flops": {"left_out": ("request.sweep:LeftOut", True), **MATCHED},
    "train-toy": {
        "comparison": ("toy.comparison:Comparison", False),
        "law": ("toy.laws.report:LawReport", False),
        "precision": ("toy.trainer:Precision", False),
        **MATCHED,
    },
}


def _class(name: str) -> Any:
    return resolve_name(f"mmdit_cli.{name}")


def document_schema(command: str) -> dict[str, Any]:
    """The schema of `mmdit COMMAND --json`. A number that is not finite is written as null."""
    defs: dict[str, Any] = {}

    def schema_of(kind: Any) -> dict[str, Any]:
        made = TypeAdapter(kind).json_schema(mode="serialization", ref_template="#/$defs/{model}")
        defs.update(made.pop("$defs", {}))
        return made

    result = schema_of(functools.reduce(operator.or_, map(_class, RESULTS[command])))
    beside = {
        key: schema_of(list[_class(name)] if several else _class(name))  # type: ignore[misc]
        for key, (name, several) in BESIDE.get(command, {}).items()
    }
    text, whole = {"type": "string"}, {"type": "integer"}
    properties: dict[str, Any] = {
        "command": {"const": command},
        "mmdit_version": text,
        "torch_version": text,
        "python_version": text,
        "device": text,
        "device_name": text,
        "threads": whole,
        "dtype": text,
        "seed": whole,
        "command_line": {"type": "array", "items": text},
        "configs": {"type": "array", "items": {"type": "object"}},
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
