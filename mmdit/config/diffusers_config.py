"""A network of diffusers, as its `config.json` describes it, as a config of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdit.config.diffusers_arguments import DiffusersClass
from mmdit.config.diffusers_classes import CLASSES
from mmdit.config.model_folder import TRANSFORMER, model_folder
from mmdit.config.regular_file import read_regular
from mmdit.config.shipped import shipped_configs
from mmdit.config.yaml_document import ConfigError, Document, Place, one_line, short

__all__ = ["config_file", "diffusers_document", "nested", "our_keys"]

NAME, CLASS = "config.json", "_class_name"
EXTENDS = "extends"
MOST_ITEMS = 512  # of a list; there are some 50
LONGEST = 1_000_000  # bytes; they have some 1000
WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError)  # of values of any kind


def config_file(path: str | Path) -> Path | None:
    """The `config.json` of a network of diffusers: itself, or in its folder, a pipeline's or the Hub's cache."""
    folder = Path(path)
    if os.path.isdir(folder):
        folder = model_folder(folder) / NAME
    return folder if folder.name == NAME and os.path.isfile(folder) and CLASS in _content(folder) else None


def diffusers_document(path: str | Path) -> Document | None:
    """The config's document, which extends a shipped one; None where the path is none of a network of diffusers.

    Raises:
        ConfigError: its class is none that we know, or has arguments that we have no such network of.
    """
    file = config_file(path)
    if file is None:
        return None
    content, source = _content(file), one_line(str(file), 300)
    name = content[CLASS]
    if not isinstance(name, str) or name not in CLASSES:
        known = ", ".join(CLASSES)
        raise ConfigError(f"{source}: {short(name)} is no class of a network that mmdit knows; it knows {known}")
    given = {key: value for key, value in content.items() if not key.startswith("_")}
    try:
        base, keys = our_keys(CLASSES[name], given)
    except ConfigError as error:
        raise ConfigError(f"{source}: {one_line(str(error))}") from None
    folder = (file.parent.parent if file.parent.name == TRANSFORMER else file.parent).resolve()
    data = {"name": folder.name or base, EXTENDS: str(shipped_configs()[base]), "model": nested(keys)}
    return Document(source, data, {("model", *key.split(".")): Place(source) for key in keys})


def our_keys(known: DiffusersClass, given: Mapping[str, Any], base: str | None = None) -> tuple[str, dict[str, Any]]:
    """The shipped config that is nearest, and the keys of the model that say the rest.

    Args:
        given: arguments; those that are not are at their defaults.
        base: take this one, whatever the arguments choose.

    Raises:
        ConfigError: it names the argument.
    """
    unknown = [name for name in given if name not in known.arguments and given[name] not in (None, False)]
    if unknown:
        raise ConfigError(f"{short(unknown[0])}: an argument that mmdit does not know")
    arguments = {name: given.get(name, each.default) for name, each in known.arguments.items()}
    for name, each in known.arguments.items():
        if not _is_like(arguments[name], each.default):
            raise ConfigError(f"{name}: expected something like {each.default}, got {short(arguments[name])}")
    choosing = {name: arguments[name] for name, each in known.arguments.items() if each.chooses}
    if base is None:
        at_rest = {name: known.arguments[name].default for name in choosing}
        base = next((name for name, chosen in known.bases.items() if at_rest | dict(chosen) == choosing), None)
    if base is None:
        raise ConfigError(f"{', '.join(choosing)}: no network that mmdit knows has {choosing} together")
    name = ""
    keys: dict[str, Any] = {}
    try:
        keys |= known.derived(arguments)
        for name, each in known.arguments.items():
            keys |= each.ours(arguments[name], arguments)
    except WRONG as error:
        raise ConfigError(f"{name or 'its sizes'}: {error}") from None
    return base, keys


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the kind that an argument takes: a number, a list of some, a text, true or false."""
    if isinstance(value, bool) or isinstance(default, bool):
        return value is None or (isinstance(value, bool) and isinstance(default, bool))
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return (
            isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS and all(_is_like(item, 0) for item in value)
        )
    return value is None or _is_like(value, 0) or _is_like(value, ()) or isinstance(value, str)


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings in mappings."""
    whole: dict[str, Any] = {}
    for key, value in keys.items():
        *above, last = key.split(".")
        at = whole
        for part in above:
            at = at.setdefault(part, {})
        at[last] = value
    return whole


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
