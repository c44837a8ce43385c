"""Plain data to YAML text that `yaml_document` reads as the same data."""

from __future__ import annotations

from textwrap import indent
from typing import Any

import yaml

from mmdit.config.yaml_document import is_text

WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML, by YAML 1.1, takes for text and we read as a number: `1e-6`, `0o17`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text(text) else "'")


_Dumper.add_representer(str, _text)


def to_yaml(data: dict[str, Any]) -> str:
    """A config as one writes it: a line for each key of a section; what holds no more than scalars stands on one."""
    text = ""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            lines = (_entry(inner, item) for inner, item in value.items())
            text += f"{to_line(key)}:\n{indent(''.join(lines), '  ')}"
        else:
            text += _entry(key, value)
    return text


def to_line(value: Any) -> str:
    """A value on one line."""
    return _dump([value], flow=True, width=float("inf")).strip()[1:-1]


def _entry(key: str, value: Any) -> str:
    return _dump({key: value}, flow=None if isinstance(value, (dict, list)) else False)


def _dump(data: Any, *, flow: bool | None, width: float = WIDTH) -> str:
    text: str = yaml.dump(
        data, Dumper=_Dumper, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=width
    )
    return text
