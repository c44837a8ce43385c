"""From a config file (or a mapping) and `KEY=VALUE` overrides to a validated config, with the place in every error."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmdit.yaml_document import MAX_BYTES, ConfigError, Document, dotted, parse, parse_value, short
from mmdit.yaml_document import Path as KeyPath

__all__ = ["ConfigError", "load_config", "validate_mapping"]

Schema = TypeVar("Schema", bound=BaseModel)
MAX_ERRORS = 10


def load_config(path: str | Path, schema: type[Schema], *, overrides: Sequence[str] = ()) -> Schema:
    """Read a YAML file (`-`: standard input), apply `KEY=VALUE` overrides and validate it.

    Raises:
        ConfigError: the file can't be read, an override is malformed, or a key is wrong.
    """
    source = "standard input" if str(path) == "-" else str(path)
    document = parse(_read(path, source), source)
    if document.data is None:
        raise ConfigError(f"{source}: empty; expected a config with at least the section model:")
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.where(())}: expected a mapping with the section model:, got {short(document.data)}"
        )
    overridden = [_override(document.data, override) for override in overrides]
    return _validate(document, schema, overridden)


def validate_mapping(mapping: Mapping[str, Any], schema: type[Schema], *, source: str) -> Schema:
    """Validate plain data; errors name `source` and the key.

    Raises:
        ConfigError: a key is wrong.
    """
    return _validate(Document(source, dict(mapping)), schema, [])


# ------------------------------------------------------------------------------------------------------------ reading


def _read(path: str | Path, source: str) -> str:
    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else _read_regular(Path(path))
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror or error}{_suggest_file(Path(path), error)}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{short(source)}: {error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES} bytes, which no config is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 text (byte {error.start})") from None


def _read_regular(path: Path) -> bytes:
    # O_NONBLOCK, so that opening a FIFO nobody writes to returns; only regular files are read
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "is a folder, not a config file" if stat.S_ISDIR(mode) else "is not a regular file")
        return file.read(MAX_BYTES + 1)


def _suggest_file(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return ""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


# ---------------------------------------------------------------------------------------------------------- overrides


def _override(data: dict[str, Any], override: str) -> tuple[KeyPath, str]:
    """Set one `KEY=VALUE` in the data; returns its path and how errors in it are named."""
    key, equals, text = override.partition("=")
    label = f"--set {short(override)[1:-1]}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{label}: expected KEY=VALUE with a dotted key, such as model.depth=4")
    value = parse_value(text, label)
    here = data
    for depth, part in enumerate(parts[:-1], start=1):
        if here.get(part) is None:
            here[part] = {}
        here = here[part]
        if not isinstance(here, dict):
            raise ConfigError(f"{label}: {'.'.join(parts[:depth])} is {short(here)}, which has no keys")
    here[parts[-1]] = value
    return tuple(parts), label


# --------------------------------------------------------------------------------------------------------- validation


def _validate(document: Document, schema: type[Schema], overridden: list[tuple[KeyPath, str]]) -> Schema:
    try:
        return schema.model_validate(document.data)
    except ValidationError as error:
        problems: dict[KeyPath, str] = {}
        for details in error.errors(include_url=False):
            path, message = _path(details, document.data), _message(details, schema)
            if path in problems:  # each member of a union has an expectation of its own
                expected = problems[path].partition(", got ")[0]
                message = message.replace("expected ", f"{expected} or ", 1)
            problems[path] = message
        lines = []
        for path, message in problems.items():
            where = next((label for key, label in reversed(overridden) if path[: len(key)] == key), None)
            lines.append(f"{where or _where(document, path)}: {dotted(path)}: {message}")
        if len(lines) > MAX_ERRORS:
            lines[MAX_ERRORS:] = [f"and {len(lines) - MAX_ERRORS} more"]
        raise ConfigError("\n".join(lines)) from None


def _where(document: Document, path: KeyPath) -> str:
    return document.where(path) if document.places else document.source


def _path(details: ErrorDetails, data: Any) -> KeyPath:
    """The keys of the error, without the labels that pydantic puts in for the members of a union."""
    path: list[str | int] = []
    for part in details["loc"]:  # a part that is not in the data is such a label
        if isinstance(data, dict) and part in data:
            path.append(part)
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return (*path, *(details.get("ctx") or {}).get("at", ()))


def _message(details: ErrorDetails, schema: type[BaseModel]) -> str:
    kind, got, context = details["type"], details["input"], details.get("ctx") or {}
    if kind == "extra_forbidden":
        names = _names_at(schema, details["loc"][:-1])
        near = difflib.get_close_matches(str(details["loc"][-1]), names, n=1)
        return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; the keys here are {', '.join(names)}"
    if kind == "missing":
        return "missing; it is required"
    if kind == "union_tag_invalid":
        tags = str(context["expected_tags"]).replace("'", "")
        return f"expected a mapping whose kind is one of {tags}, got {short(got)}"
    if kind == "union_tag_not_found":
        return f"expected a mapping with a kind, got {short(got)}"
    if "at" in context:
        return str(context["message"])
    expected = _EXPECTED.get(kind)
    if expected is None:
        expected = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if expected.startswith(("greater", "less")):
            expected = f"a number {expected}"
    return f"expected {expected}, got {short(got)}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}


def _names_at(schema: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at an error's location may hold; unions are followed by pydantic's own labels."""
    candidates: list[Any] = [schema]
    for part in location:
        found: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                if part in candidate.model_fields:
                    found += _models_in(candidate.model_fields[str(part)].annotation)
                elif any(getattr(f.annotation, "__args__", ())[:1] == (part,) for f in candidate.model_fields.values()):
                    found.append(candidate)  # the label of a discriminated union: its member with this kind
        candidates = found or candidates
    return sorted({name for model in candidates for name in model.model_fields}, key=str)


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
