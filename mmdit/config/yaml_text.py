"""Plain data to YAML text that `yaml_document` reads as the same data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from mmdit.config.yaml_document import is_text


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML, by YAML 1.1, takes for text and we read as a number: `1e-6`, `0o17`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = '"' if not text.isprintable() else None if is_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(data: dict[str, Any]) -> str:
    """A config as one writes it: a line for each key, but what holds no mappings, and is no section, stands on one."""
    return "".join(f"{line}\n" for key, value in data.items() for line in _lines(key, value, ""))


def to_line(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return text.strip()[1:-1]


def _lines(key: str, value: Any, indent: str) -> Iterator[str]:
    spread = isinstance(value, dict) and value and (not indent or any(isinstance(x, dict) for x in value.values()))
    yield f"{indent}{to_line(key)}:" + ("" if spread else f" {to_line(value)}")
    if spread:
        for inner, item in value.items():
            yield from _lines(inner, item, f"{indent}  ")
