"""YAML text to plain data and the place of every key, with nothing constructed but strings, numbers, lists and dicts.

Scalars follow YAML 1.2's core schema: `1e-6` is a number, `yes` and `2020-01-01` are strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000  # after aliases are expanded

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1


class ConfigError(ValueError):
    """A config that can't be read or is wrong; the message names the place, what was expected and what was got."""


@dataclass
class Document:
    """Plain data, and where each key (or list item) of it stands."""

    source: str
    data: Any
    places: dict[Path, Place] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """`file:line:column` of the deepest part of the path that the text holds."""
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        return f"{self.source}:{line}:{column}"


class _Loader(yaml.SafeLoader):
    """Resolves scalars as YAML 1.2's core schema does, and no merge keys or timestamps."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str, source: str) -> Document:
    """Parse one YAML document.

    Raises:
        ConfigError: the text is too large, not YAML, holds several documents, duplicate keys, tags or merge keys.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES} characters, which no config is")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = (
            "more than one document; a config is one" if "single document" in str(error.context) else error.problem
        )
        raise ConfigError(f"{source}{place}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    document = Document(source, None)
    document.data = _Builder(document).build(node, ()) if node is not None else None
    return document


def parse_value(text: str, source: str) -> Any:
    """The value of one `KEY=VALUE`, read as in a file."""
    return parse(text, source).data


class _Builder:
    """Walks the node graph into plain data and notes where everything stands."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.nodes += 1
        if len(path) > MAX_DEPTH:
            self.fail(node, f"nested deeper than {MAX_DEPTH} levels (or an alias of itself)")
        if self.nodes > MAX_NODES:
            self.fail(node, f"more than {MAX_NODES} values once aliases are expanded")
        self.document.places.setdefault(path, _place(node))
        if isinstance(node, yaml.MappingNode):
            self.check_tag(node, "map")
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.check_tag(node, "seq")
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail(key_node, "a key must be a plain word")
            key = key_node.value
            if key == "<<":
                self.fail(key_node, "merge keys (<<) are not supported; write the keys out")
            here = (*path, key)
            if key in result:
                first = self.document.places[here][0]
                self.fail(key_node, f"{dotted(here)}: duplicate key, first given on line {first}")
            self.document.places[here] = _place(key_node)
            result[key] = self.build(value_node, here)
        return result

    def scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1].isalpha() else float(text)
        except ValueError:
            self.fail(node, f"{short(text)} is not a number this tool can hold")
        self.fail(node, f"tags such as {short(node.tag)} are not allowed in a config")

    def check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            self.fail(node, f"tags such as {short(node.tag)} are not allowed in a config")

    def fail(self, node: yaml.Node, problem: str) -> Any:
        line, column = _place(node)
        raise ConfigError(f"{self.document.source}:{line}:{column}: {problem}")


def dotted(path: Path) -> str:
    """`model.attention.dual[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def short(value: Any, limit: int = 60) -> str:
    """A value as an error quotes it, in YAML's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if len(str(value)[: limit + 1]) <= limit else repr(str(value)[:limit]) + "..."
    return text if len(text) <= limit + 6 else text[:limit] + "..."


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
