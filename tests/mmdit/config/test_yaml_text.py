"""Text that is written is read as the data that it was made of."""

from __future__ import annotations

from typing import Any

import pytest

from mmdit.config.yaml_document import parse
from mmdit.config.yaml_text import to_line, to_yaml

TEXTS = ["1e-6", "1e5", "0o17", "0x1F", "-.inf", ".nan", "1.", "null", "Null", "~", "", "true", "FALSE", "yes", "12"]
ODD = [
    "a: b",
    "# no",
    "- x",
    "{x}",
    "[x",
    "*a",
    "&a",
    "!t",
    "%x",
    "a\nb",
    " a ",
    "'",
    '"',
    "\t",
    "глубина",
    "🙂",
    "x" * 300,
]


@pytest.mark.parametrize("text", [*TEXTS, *ODD])
def test_a_text_stays_a_text(text: str) -> None:
    data = {"name": text, "model": {"x": [text, {"x": text}]}, "text": {text: 1}, text: None}
    assert parse(to_yaml(data), "written").data == data
    assert parse(to_line(data), "written").data == data


@pytest.mark.parametrize("value", [1e-6, 1e22, 0.1, -3, 1 << 62, True, None, [], {}, [[1], {}], {"a": {"b": [{}]}}])
def test_a_value_stays_what_it_is(value: Any) -> None:
    same = [value, value]  # the same object twice, which is written twice
    data = {"x": value, "y": {"z": value, "same": same}}
    assert repr(parse(to_yaml(data), "written").data) == repr(data)
    assert "\n" not in to_line(data)


def test_a_section_has_a_line_for_each_key_in_their_order() -> None:
    data = {"name": "b", "model": {"depth": 2, "attention": {"kind": "x", "bias": True}}, "run": {}}
    assert to_yaml(data) == "name: b\nmodel:\n  depth: 2\n  attention: {kind: x, bias: true}\nrun: {}\n"
