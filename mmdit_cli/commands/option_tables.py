"""The config's keys and the constructors' keywords as Markdown tables, made of the options' own fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from mmdit.options import ModelOptions, Options
from mmdit.options.fields import as_data, described
from mmdit.options.values import alternatives, fields_of, types_of
from mmdit_cli.output.renderings import table

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}
BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "multiple_of": "a multiple of {}"}


def key_table(schema: type[Options]) -> str:
    """Every key of a config file: its dotted path, what it may be, its default and its sentence."""
    rows = [[f"`{path}`", values, default, text] for path, values, default, text in _keys(schema, "")]
    return table(["key", "values", "default", "what it is"], rows, _cell) + "\n"


def keyword_table(options: type[Options] = ModelOptions) -> str:
    """Every keyword of the constructors, with its default and its sentence; those of one option stand together."""
    rows: list[list[str]] = []
    seen: set[str] = set()
    for names, text in described(options):
        own = {name: default for name, default in names.items() if name not in seen}
        seen |= own.keys()
        if own:
            defaults = ", ".join(f"`{default!r}`" for default in own.values() if default is not MISSING)
            rows.append([", ".join(f"`{name}`" for name in own), defaults, text])
    return table(["keyword", "default", "what it is"], rows, _cell) + "\n"


def _keys(schema: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for each in fields_of(schema):
        path, kinds = f"{prefix}{each.name}", types_of(schema)[each.name]
        inner: list[Any] = [kind for kind in kinds if is_dataclass(kind)]
        yield path, _values(each, kinds), _default(each, inner), each.metadata.get("description", "")
        for kind in kinds:
            if get_origin(kind) is dict:
                inner += [member for member in alternatives(get_args(kind)[1]) if is_dataclass(member)]
                path += ".NAME"
        for kind in inner:
            named = types_of(kind).get("kind", [])
            tag = f"({get_args(named[0])[0]})" if len(inner) > 1 else ""
            yield from _keys(kind, f"{path}{tag}.")


def _values(each: Field[Any], kinds: Sequence[Any]) -> str:
    texts = [_kind(kind) for kind in kinds if kind is not NoneType]
    bounds = [text.format(each.metadata[key]) for key, text in BOUNDS.items() if key in each.metadata]
    limits = " and ".join(bounds)
    return f"{' or '.join(dict.fromkeys(texts))} {limits}".rstrip() + (", or null" if NoneType in kinds else "")


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"list of {_kind(alternatives(get_args(kind)[0])[0])}s"
    return WORDS.get(kind, "mapping")


def _default(each: Field[Any], inner: Sequence[Any]) -> str:
    if each.default is MISSING:
        return "" if each.default_factory is MISSING else "{}"
    if inner and each.default is not None:
        return "as below"
    value = as_data(each.default)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cell(markdown: str) -> str:
    return markdown.replace("|", "\\|")
