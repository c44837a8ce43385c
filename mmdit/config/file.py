"""From a config file (or a mapping) and `KEY=VALUE` overrides to a validated config."""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mmdit.config.regular_file import read_regular
from mmdit.config.shipped import find_shipped, shipped_configs
from mmdit.config.yaml_document import (
    MAX_BYTES,
    MAX_DEPTH,
    ConfigError,
    Document,
    KeyPath,
    dotted,
    one_line,
    parse,
    short,
)
from mmdit.options.suggestions import meant
from mmdit.options.values import Reading

__all__ = ["ConfigError", "load_config", "validate_mapping"]

Schema = TypeVar("Schema")
MAX_LINES = 10  # of an error


def load_config(path: str | Path, schema: type[Schema], *, overrides: Sequence[str] = ()) -> Schema:
    """Read a YAML file (`-`: standard input), apply `KEY=VALUE` overrides in their order and validate it.

    The name of a shipped config (`sd3-medium`) stands for its file where no file has that name.

    An override's value is read as YAML: `model.depth=4`, `model.attention={kind: standard}`, `model.dim_cond=null`.

    Raises:
        ConfigError: the file can't be read, an override is malformed, or a key is wrong. Each line of the message
            names `file:line:column` (or `--set KEY=VALUE`) and the key.
    """
    return load_points(path, schema, overrides=overrides)[0]


def load_points(
    path: str | Path,
    schema: type[Schema],
    *,
    overrides: Sequence[str] = (),
    points: Sequence[Sequence[str]] = ((),),
    on_document: Callable[[Document], None] = lambda document: None,
    text: bytes | None = None,
) -> list[Schema]:
    """The same once for each point of a sweep, whose `KEY=VALUE`s come after the overrides. `on_document` is given what
    each is made of, with the place of every key; `text` is the config, where the file holds more than that.

    Raises:
        ConfigError: as `load_config`; a wrong value of a point is named `--sweep KEY=VALUE`.
    """
    path = find_shipped(path) or path
    if os.path.isfile(own := os.path.join(path, "config.yaml")):  # of a training run
        path = own
    source = "<stdin>" if str(path) == "-" else one_line(str(path), 300)
    text = _read(path, source) if text is None else text  # once, for standard input can't be read again
    configs = []
    for point in points:
        document = parse(text, source)
        if document.data is None:
            raise ConfigError(f"{source}: the file is empty; expected a mapping")
        if not isinstance(document.data, dict):
            raise ConfigError(f"{document.where(())}: expected a mapping, got {short(document.data)}")
        for override in overrides:
            _override(document, override, "--set")
        for override in point:
            _override(document, override, "--sweep")
        configs.append(_validate(document, schema))
        on_document(document)
    return configs


def validate_mapping(mapping: Mapping[str, Any], schema: type[Schema], *, source: str) -> Schema:
    """Validate plain data.

    Raises:
        ConfigError: a key is wrong. Each line of the message names `source` and the key.
    """
    return _validate(Document(source, _plain(mapping, source)), schema)


def _validate(document: Document, schema: type[Schema]) -> Schema:
    reading = Reading(short, plain=True, meant=partial(meant, schema))
    config: Schema = reading.read(document.data, schema, {})
    if not reading.problems:
        return config
    placed = [(document.where(problem.at, key=problem.key), problem) for problem in reading.problems]
    placed.sort(key=lambda each: (each[0].line == 0, each[0].line, each[0].column))
    lines = [f"{place}: {dotted(each.at) or 'the whole config'}: {each.message}" for place, each in placed[:MAX_LINES]]
    more = [f"and {len(placed) - MAX_LINES} more"] if len(placed) > MAX_LINES else []
    raise ConfigError("\n".join([*map(one_line, lines), *more]))


def _plain(value: Any, source: str, depth: int = 0) -> Any:
    """The value with every kind of mapping made a dict, which is what a strict schema takes."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{source}: nested deeper than {MAX_DEPTH} levels, or part of itself")
    if isinstance(value, Mapping):
        return {key: _plain(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, source, depth + 1) for item in value]
    return value


def _override(document: Document, override: str, option: str) -> None:
    key, equals, text = override.partition("=")
    label = f"{option} {one_line(override, 60)}"
    path: KeyPath = tuple(key.strip().split("."))
    if not equals or "" in path:
        raise ConfigError(f"{label}: expected KEY=VALUE with a dotted key, as in {option} model.depth=4")
    if len(path) > MAX_DEPTH:
        raise ConfigError(
            f"{label}: its key has {len(path)} parts, and nothing is nested deeper than {MAX_DEPTH} levels"
        )
    document.set(path, parse(text, label, lines=False))


def _read(path: str | Path, source: str) -> bytes:
    try:
        return sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else read_regular(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file{_hint(Path(path))}") from None
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror or error}") from None
    except (AttributeError, ValueError) as error:  # standard input is closed, or the path holds a NUL
        raise ConfigError(f"{source}: can't be read: {error}") from None


def _hint(path: Path) -> str:
    """The nearest name in the folder where the file was looked for, or else among the shipped configs."""
    shipped = difflib.get_close_matches(path.stem if path.suffix == ".yaml" else path.name, shipped_configs(), n=1)
    ours = f"; mmdit comes with one that is called {shipped[0]}" if shipped else ""
    try:
        with os.scandir(path.parent) as entries:
            names = {Path(entry.name).stem: entry.name for entry in itertools.islice(entries, 1000)}
    except FileNotFoundError:
        return f"; the folder {short(str(path.parent))} does not exist either{ours}"
    except OSError:
        return ours
    configs = sorted(stem for stem, name in names.items() if name.endswith((".yaml", ".yml")))
    near = difflib.get_close_matches(path.stem, configs, n=1)
    return f"; did you mean {one_line(str(path.with_name(names[near[0]])), 300)}?" if near else ours
