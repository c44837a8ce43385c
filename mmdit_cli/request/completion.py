"""What a shell completes: the names of configs, and the keys of one with their values.

Keys and values are those of the JSON Schema that lies beside the shipped configs, so that no shell waits for torch.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from glob import escape, glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from mmdit_cli.request.cards import CARDS

FILES = (".yaml", ".yml", ".safetensors")
MOST_EXTENDED = 16
EVERY = "*"

Schema = dict[str, Any]


def config_names(incomplete: str) -> list[str]:
    """What `--config` takes: the shipped configs, and the files and runs of the current folder."""
    here = [path for path in sorted(glob(f"{escape(incomplete)}*")) if path.endswith(FILES) or _run(path).is_file()]
    return [*(name for name in _shipped() if name.startswith(incomplete)), *here]


def run_names(incomplete: str) -> list[str]:
    """The folders of runs that begin so, and those that runs may be in."""
    folders = [path for path in sorted(glob(f"{escape(incomplete)}*")) if os.path.isdir(path)]
    return [path if _run(path).is_file() else f"{path}/" for path in folders]


def card_names(incomplete: str) -> list[str]:
    """What `--card` takes."""
    return [name for name in CARDS if name.startswith(incomplete)]


def config_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """The dotted keys of a config, a part at a time."""
    return [found.removesuffix("=") for found in settings(ctx, incomplete) if not found.partition("=")[2]]


def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=VALUE`: the next part of the key, and the values that it may have where these are few."""
    key, equals, _ = incomplete.partition("=")
    *above, last = key.split(".")
    names = [*_modalities(ctx.params.get("config")), EVERY]
    here: Sequence[Schema] = list(_alternatives(_schema()))
    for part in above:
        here = _below(here, names).get(part, [])
    if equals:
        return [f"{key}={value}" for value in _values(_below(here, names).get(last, []))]
    found = {name: parts for name, parts in _below(here, names).items() if name.startswith(last)}
    while len(found) == 1:  # all the way to where there is a choice
        ((name, parts),) = found.items()
        above.append(name)
        if not (found := _below(parts, names)):
            return [f"{'.'.join(above)}={value}" for value in ("", *_values(parts))]
    return [".".join([*above, name]) + ("." if _below(parts, names) else "=") for name, parts in found.items()]


@cache
def _shipped() -> dict[str, Path]:
    """The shipped configs, found as the library finds them, without importing it and torch with it."""
    spec = find_spec("mmdit")
    assert spec is not None and spec.submodule_search_locations is not None
    found: dict[str, Path] = runpy.run_path(f"{spec.submodule_search_locations[0]}/config/shipped.py")[
        "shipped_configs"
    ]()
    return found


@cache
def _schema() -> Schema:
    whole: Schema = json.loads((_shipped()["two-modality"].parent / "schema.json").read_text(encoding="utf-8"))
    return whole


def _alternatives(part: Schema) -> Iterator[Schema]:
    """The kinds of value that a part of the schema allows."""
    if "$ref" in part:
        part = _schema()["$defs"][part["$ref"].rpartition("/")[2]]
    if "else" in part:  # the whole file; what it says where it extends nothing
        part = _schema()["$defs"]["Config"]
    kinds = part.get("anyOf") or part.get("oneOf")
    if kinds is None:
        yield part
    for each in kinds or ():
        yield from _alternatives(each)


def _below(parts: Iterable[Schema], names: Sequence[str]) -> dict[str, list[Schema]]:
    """What stands under each key of a mapping; where any name may be a key, under these."""
    found: dict[str, list[Schema]] = {}
    for part in parts:
        inner = part.get("properties", {})
        if isinstance(each := part.get("additionalProperties"), dict):
            inner = dict.fromkeys(names, each)
        for name, each in inner.items():
            found.setdefault(name, []).extend(_alternatives(each))
            if not isinstance(each.get("default", {}), (dict, list)):
                found[name].append({"enum": [each["default"]]})
    return found


def _values(parts: Iterable[Schema]) -> list[str]:
    """Those that the schema names, as YAML writes them."""
    of_types: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
    found: list[Any] = []
    for part in parts:
        found += part.get("enum", [part["const"]] if "const" in part else [])
        found += of_types.get(part.get("type", ""), [])
    texts = (value if isinstance(value, str) else json.dumps(value) for value in found)
    return list(dict.fromkeys(texts))


def _modalities(configs: Any) -> list[str]:
    """The names of a config's modalities, as far as a quick look tells."""
    import yaml

    name = configs if isinstance(configs, str) else next(iter(configs or ()), "")
    try:
        for _ in range(MOST_EXTENDED):
            path = _shipped().get(name) or (_run(name) if os.path.isdir(name) else Path(name))
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            if found := (data.get("model") or {}).get("modalities"):
                return list(map(str, found))
            name = data["extends"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, yaml.YAMLError):
        pass
    return []


def _run(folder: str) -> Path:
    return Path(folder) / "config.yaml"
