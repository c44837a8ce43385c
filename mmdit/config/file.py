"""From a config file (or a mapping) and `KEY=VALUE` overrides to a validated config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mmdit.config.extension import read_document, with_extended
from mmdit.config.overrides import apply
from mmdit.config.yaml_document import MAX_DEPTH, ConfigError, Document, dotted, one_line, short
from mmdit.options.suggestions import meant
from mmdit.options.values import Reading

__all__ = ["ConfigError", "load_config", "validate_mapping"]

Schema = TypeVar("Schema")
MAX_LINES = 10  # of an error


def load_config(
    path: str | Path,
    schema: type[Schema],
    *,
    overrides: Sequence[str] = (),
    on_document: Callable[[Document], None] = lambda document: None,
    text: bytes | None = None,
) -> Schema:
    """Read a YAML file (`-`: standard input) with what it extends, apply `KEY=VALUE` overrides in their order, check.

    The name of a shipped config (`sd3-medium`) stands for its file where no file has that name.

    An override's value is read as YAML: `model.depth=4`, `model.attention={kind: standard}`, `model.dim_cond=null`. A
    `*` in its key is every key that the config has there: `model.modalities.*.dim=64`.

    Args:
        on_document: is given what the config is made of, with the place of every key.
        text: the config, where the file holds more than that.

    Raises:
        ConfigError: the file can't be read, an override is malformed, or a key is wrong. Each line of the message
            names `file:line:column` (or `--set KEY=VALUE`) and the key.
    """
    (config,) = load_points(path, schema, overrides=overrides, on_document=on_document, text=text)
    if isinstance(config, ConfigError):
        raise config
    return config


def load_points(
    path: str | Path,
    schema: type[Schema],
    *,
    overrides: Sequence[str] = (),
    points: Sequence[Sequence[str]] = ((),),
    option: str = "--sweep",
    on_document: Callable[[Document], None] = lambda document: None,
    text: bytes | None = None,
) -> list[Schema | ConfigError]:
    """The same once for each point of a sweep, whose `KEY=VALUE`s come after the overrides. In the place of a config
    that can't be stands what is wrong with it, where a value of the point is named `--sweep KEY=VALUE`, or by the
    option that it is of.

    Raises:
        ConfigError: the file can't be read.
    """
    configs: list[Schema | ConfigError] = []
    read = read_document(path, text)  # once, for standard input can't be read again
    for point in points:
        document = read.copy()
        try:
            for override in overrides:
                apply(document, override, "--set")
            for override in point:
                apply(document, override, option)
            configs.append(_validate(document, schema))
        except ConfigError as error:
            configs.append(error)
        else:
            on_document(document)
    return configs


def validate_mapping(
    mapping: Mapping[str, Any], schema: type[Schema], *, source: str, may_extend: bool = False
) -> Schema:
    """Validate plain data.

    Args:
        may_extend: a shipped config or a file, from the current folder; not where the data is of an unknown hand.

    Raises:
        ConfigError: a key is wrong. Each line of the message names `source` and the key.
    """
    document = Document(source, _plain(mapping, source))
    return _validate(with_extended(document) if may_extend else document, schema)


def _validate(document: Document, schema: type[Schema]) -> Schema:
    reading = Reading(short, plain=True, meant=partial(meant, schema))
    config: Schema = reading.read(document.data, schema, {})
    if not reading.problems:
        return config
    placed = [(document.where(problem.at, key=problem.key), problem) for problem in reading.problems]
    inherited = {place.source for place, _ in placed if place.line and place.source != document.source}
    placed.sort(key=lambda each: (not each[0].line, each[0].source in inherited, *each[0]))
    lines = []
    for place, each in placed[:MAX_LINES]:
        leave = ", and can leave it out by null" if each.message.startswith("unknown key") else ""
        by = f" ({document.source} extends this{leave})" if place.source in inherited else ""
        lines.append(f"{place}: {dotted(each.at) or 'the whole config'}: {each.message}{by}")
    more = [f"and {len(placed) - MAX_LINES} more"] if len(placed) > MAX_LINES else []
    error = ConfigError("\n".join([*map(one_line, lines), *more]))
    error.mistyped = tuple(dict.fromkeys(place.source for place, each in placed if each.expected))
    raise error


def _plain(value: Any, source: str, depth: int = 0) -> Any:
    """The value with every kind of mapping made a dict, which is what a strict schema takes."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{source}: nested deeper than {MAX_DEPTH} levels, or part of itself")
    if isinstance(value, Mapping):
        return {key: _plain(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, source, depth + 1) for item in value]
    return value
