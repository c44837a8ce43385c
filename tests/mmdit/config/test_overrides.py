"""`*` in the key of an override: every key that the config has there. Other overrides are in `test_file.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdit.config.file import load_points
from tests.support.config_files import GOOD, WholeFile, load, refusal


def test_a_star_is_every_key_that_the_config_has_there() -> None:
    layers = load(GOOD, "net.layers.c.width=5", "net.layers.*.width=9", "net.layers.c.mode=slow").net.layers
    assert {name: (layer.width, layer.mode) for name, layer in layers.items()} == {
        "a": (9, "fast"),
        "b": (9, "fast"),
        "c": (9, "slow"),
    }
    assert load(GOOD, "note={p: {x: 1, y: 2}, q: {x: 3}}", "note.*.*=0").note == {"p": {"x": 0, "y": 0}, "q": {"x": 0}}
    assert load(GOOD, "note={p: 1, q: 2}", "note.*=[7]").note == {"p": [7], "q": [7]}


def test_what_it_sets_is_of_the_point_of_a_sweep_and_of_what_is_extended() -> None:
    Path("a.yaml").write_text(GOOD)
    Path("c.yaml").write_text("extends: a.yaml\nnet: {layers: {c: {width: 1}}}\n")
    points = load_points("c.yaml", WholeFile, points=[["net.layers.*.width=3"], ["net.layers.*.width=4"], []])
    widths = [[layer.width for layer in point.net.layers.values()] for point in points]
    assert widths == [[3, 3, 3], [4, 4, 4], [8, 2, 1]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("net.layer.*.width=3", "* finds no key in net.layer; the keys of net are depth, layers"),
        ("net.depth.*=3", "* finds no key in net.depth; the keys of net are depth, layers"),
        ("net.layers.*.width=x", "net.layers.a.width: expected a whole number, got 'x'"),
        ("net.layers.*.widht=3", "net.layers.a.widht: unknown key; did you mean width?"),
        ("net.layers.a*.width=3", "a * is a whole part of a key, as in model.modalities.*.dim=64"),
        ("net.layers[*].width=3", "a * is a whole part of a key, as in model.modalities.*.dim=64"),
        ("net.**.width=3", "a * is a whole part of a key, as in model.modalities.*.dim=64"),
        ("nothing.*=3", "* finds no key in nothing; the keys of the config are net, note"),
    ],
)
def test_a_star_that_finds_nothing_or_is_part_of_a_name_is_refused(override: str, message: str) -> None:
    assert refusal(GOOD, override).startswith(f"--set {override}: {message}")


def test_a_star_is_refused_where_a_key_has_one_and_where_it_finds_very_many() -> None:
    text = "net: {depth: 1}\nnote: {'a*': 1, b: 2}\n"
    message = "note has a key with a * of its own; name the keys that you mean"
    assert refusal(text, "note.*=3") == f"--set note.*=3: {message}"
    many = "net: {depth: 1}\nnote: {" + ", ".join(f"k{i}: 1" for i in range(101)) + "}\n"
    assert refusal(many, "note.*=3") == "--set note.*=3: * finds 101 keys in note; at most 100 are set at once"
    empty = "net: {depth: 1}\nnote: {}\n"
    assert refusal(empty, "note.*=3") == "--set note.*=3: * finds no key in note; the keys of note are none"
