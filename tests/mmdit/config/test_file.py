"""What a config file can hold, and the exact words in which a wrong one is refused."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mmdit.config.file import ConfigError, load_config, validate_mapping
from tests.support.config_files import GOOD, Layer, Round, WholeFile, load, refusal
from tests.support.marks import slow_but
from tests.support.work import lines_run


def test_a_good_file_becomes_the_schema() -> None:
    config = load(GOOD)
    assert config.net.depth == 4
    assert list(config.net.layers) == ["a", "b"]
    assert config.net.layers["b"].shape == Round(kind="round", radius=1e-6)


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert load_config("-", WholeFile).net.depth == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"net: {depth: x}")))
    with pytest.raises(ConfigError, match=r"^<stdin>:1:14: net.depth: expected a whole number, got 'x'$"):
        load_config("-", WholeFile)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match=r"^<stdin>: can't be read: "):
        load_config("-", WholeFile)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()])
def test_byte_order_mark_and_windows_line_ends_are_fine(text: bytes) -> None:
    assert load(text) == load(GOOD)


# ------------------------------------------------------------------------------------------------- files that aren't


def test_a_missing_file_names_the_nearest_one() -> None:
    Path("configs").mkdir()
    for name in ("two-modality.yaml", "generalized.yml", "two-modality.txt"):
        Path("configs", name).touch()
    for path, message in {
        "configs/two_modality.yaml": "no such file; did you mean configs/two-modality.yaml?",
        "configs/generalised.yaml": "no such file; did you mean configs/generalized.yml?",
        "configs/zzz.yaml": "no such file",
        "confgs/mine.yaml": "no such file; the folder 'confgs' does not exist either",
        "confgs/sd3-medium.yaml": "no such file; the folder 'confgs' does not exist either; "
        "mmdit comes with one that is called sd3-medium",
        "sd3-medum": "no such file; mmdit comes with one that is called sd3-medium",
    }.items():
        with pytest.raises(ConfigError) as error:
            load_config(path, WholeFile)
        assert str(error.value) == f"{path}: {message}"


def test_only_regular_files_are_read() -> None:
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("file").touch()
    special = "it is not a regular file; pipe it to standard input and name it -"
    for path, message in {
        ".": "it is a folder",
        "fifo": special,
        "/dev/zero": special,
        "file/c.yaml": "Not a directory",
        "loop": "Too many levels of symbolic links",
        "a" * 300: "File name too long",
        "a\0b": "embedded null byte",
    }.items():
        with pytest.raises(ConfigError) as error:
            load_config(path, WholeFile)
        assert str(error.value) == f"{path}: can't be read: {message}".replace("\0", "\\x00")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused() -> None:
    Path("c.yaml").touch(mode=0)
    with pytest.raises(ConfigError, match=r"^c.yaml: can't be read: Permission denied$"):
        load_config("c.yaml", WholeFile)


# ------------------------------------------------------------------------------------------------------ wrong values


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


NET_KEYS = "depth, layers, scale, on, label, registers, picks"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("note: 1", "nite: 1"), "c.yaml:8:1: nite: unknown key; did you mean note? Valid keys are net, note"),
        (
            changed("width: 8", "width: 8, shpe: 1"),
            "c.yaml:4:19: net.layers.a.shpe: unknown key; did you mean shape? Valid keys are width, shape, mode, even",
        ),
        (
            changed("radius: 1e-6", "radius: 1, round: 2"),
            "c.yaml:7:39: net.layers.b.shape.round: unknown key. Valid keys are kind, radius",
        ),
        (changed("  depth: 4\n", ""), "c.yaml:1:1: net.depth: missing, and it has no default"),
        ("note: 1\n", "c.yaml:1:1: net: missing, and it has no default"),
        (changed("      width: 2\n", ""), "c.yaml:5:5: net.layers.b.width: missing, and it has no default"),
        (changed(", radius: 1e-6", ""), "c.yaml:7:7: net.layers.b.shape.radius: missing, and it has no default"),
        (changed("depth: 4", "depth: four"), "c.yaml:2:10: net.depth: expected a whole number, got 'four'"),
        (changed("depth: 4", "depth: '4'"), "c.yaml:2:10: net.depth: expected a whole number, got '4'"),
        (changed("depth: 4", "depth: true"), "c.yaml:2:10: net.depth: expected a whole number, got true"),
        (changed("depth: 4", "depth: 4.0"), "c.yaml:2:10: net.depth: expected a whole number, got 4.0"),
        (changed("depth: 4", "depth:"), "c.yaml:2:9: net.depth: expected a whole number, got null"),
        (changed("depth: 4", "depth: 0"), "c.yaml:2:10: net.depth: expected a number > 0, got 0"),
        (changed("depth: 4", "depth: {a: 1}"), "c.yaml:2:10: net.depth: expected a whole number, got a mapping"),
        (changed("depth: 4", "depth:\n  - 4"), "c.yaml:2:3: net.depth: expected a whole number, got a list"),
        (
            changed("depth: 4", "depth: " + "x" * 99),
            f"c.yaml:2:10: net.depth: expected a whole number, got '{'x' * 56}...",
        ),
        (changed("width: 8", "width: 8, even: 3"), "c.yaml:4:25: net.layers.a.even: expected a multiple of 2, got 3"),
        (changed("depth: 4", "depth: 4\n  scale: true"), "c.yaml:3:10: net.scale: expected a number, got true"),
        (changed("depth: 4", "depth: 4\n  scale: .inf"), "c.yaml:3:10: net.scale: expected a finite number, got .inf"),
        (
            changed("depth: 4", "depth: 4\n  scale: -1e999"),
            "c.yaml:3:10: net.scale: expected a finite number, got -.inf",
        ),
        (changed("depth: 4", "depth: 4\n  scale: .NaN"), "c.yaml:3:10: net.scale: expected a finite number, got .nan"),
        (changed("depth: 4", "depth: 4\n  on: yes"), "c.yaml:3:7: net.on: expected true or false, got 'yes'"),
        (changed("depth: 4", "depth: 4\n  on: 1"), "c.yaml:3:7: net.on: expected true or false, got 1"),
        (changed("depth: 4", "depth: 4\n  label: 1"), "c.yaml:3:10: net.label: expected text, got 1"),
        (
            changed("depth: 4", "depth: 4\n  label: ''"),
            "c.yaml:3:10: net.label: expected text of 1 or more characters, got ''",
        ),
        (changed("depth: 4", "depth: 4\n  label: Up"), "c.yaml:3:10: net.label: a label is lower case, not 'Up'"),
        ("net: {depth: 1, layers: {}}", "c.yaml:1:25: net.layers: expected 1 or more entries, got 0"),
        ("net: {depth: 1, layers: [a]}", "c.yaml:1:25: net.layers: expected a mapping, got a list"),
        ("net: {depth: 1, layers: {a: 8}}", "c.yaml:1:29: net.layers.a: expected a mapping, got 8"),
        (
            changed("width: 8", "width: 8, mode: fsat"),
            "c.yaml:4:25: net.layers.a.mode: expected one of fast, slow or null, got 'fsat'; did you mean fast?",
        ),
        (
            changed("kind: round", "kind: rond"),
            "c.yaml:7:21: net.layers.b.shape.kind: expected one of round, square, got 'rond'; did you mean round?",
        ),
        (
            changed("kind: round", "kind: [round]"),
            "c.yaml:7:21: net.layers.b.shape.kind: expected one of round, square, got a list",
        ),
        (
            changed("kind: round, ", ""),
            "c.yaml:7:7: net.layers.b.shape.kind: missing; expected one of round, square, as in kind: round",
        ),
        (
            changed("{kind: round, radius: 1e-6}", "round"),
            "c.yaml:7:14: net.layers.b.shape: expected a mapping or null, got 'round'",
        ),
        (
            changed("radius: 1e-6", "radius: r"),
            "c.yaml:7:36: net.layers.b.shape.radius: expected a number, got 'r'",
        ),
        (
            changed("depth: 4", "depth: 4\n  registers: many"),
            "c.yaml:3:14: net.registers: expected a whole number or a mapping, got 'many'",
        ),
        (
            changed("depth: 4", "depth: 4\n  registers: -1"),
            "c.yaml:3:14: net.registers: expected a number >= 0 or a mapping, got -1",
        ),
        (
            changed("depth: 4", "depth: 4\n  registers: {a: -1}"),
            "c.yaml:3:18: net.registers.a: expected a number >= 0, got -1",
        ),
        (changed("depth: 4", "depth: 4\n  picks: 3"), "c.yaml:3:10: net.picks: expected a list, got 3"),
        (
            changed("depth: 4", "depth: 4\n  picks: [0, x]"),
            "c.yaml:3:14: net.picks[1]: expected a whole number, got 'x'",
        ),
        (
            changed("depth: 4", "depth: 4\n  picks:\n    - 0\n    - 7"),
            "c.yaml:5:7: net.picks[1]: block 7 does not exist",
        ),
        (  # the deepest key on the way that the file holds
            changed("depth: 4", "depth: 4\n  scale: 0"),
            "c.yaml:5:5: net.layers.a.even: scale 0 needs an even width",
        ),
        (
            changed("    a: {width: 8}", "    'x.y z': {}"),
            "c.yaml:4:5: net.layers.'x.y z'.width: missing, and it has no default",
        ),
        (
            changed("note: 1", '"a\\nb\\u202e": 1'),
            "c.yaml:8:1: 'a\\nb\\u202e': unknown key. Valid keys are net, note",
        ),
        (
            "note: &x {width: two}\nnet: {depth: 1, layers: {a: *x}}\n",
            "c.yaml:1:18: net.layers.a.width: expected a whole number, got 'two'",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(text: str, message: str) -> None:
    assert refusal(text) == message


def test_several_mistakes_are_told_in_the_order_of_the_file() -> None:
    text = "note: 1\nwhat: 1\nnet:\n  layers: {a: {width: x}}\n  on: 1\n  depth: y\n"
    assert [line.split(":")[1] for line in refusal(text).splitlines()] == ["2", "4", "5", "6"]


def mistakes(count: int) -> str:
    return refusal("net: {depth: 1, layers: {" + ", ".join(f"k{i}: {{}}" for i in range(count)) + "}}")


def test_at_most_ten_mistakes_are_told() -> None:
    lines = mistakes(300).splitlines()
    assert len(lines) == 11
    assert lines[9] == "c.yaml:1:98: net.layers.k9.width: missing, and it has no default"
    assert lines[10] == "and 290 more"


def test_four_times_the_mistakes_are_four_times_the_work() -> None:
    mistakes(1)  # what is made once
    assert lines_run(lambda: mistakes(200)) < 4.1 * lines_run(lambda: mistakes(50))


def test_a_message_is_short_whatever_is_in_the_file() -> None:
    name, value = "n" * 100_000, "v" * 100_000
    assert len(refusal(f"net: {{depth: {value}, layers: {{{name}: {{{name}: 1}}}}, {name}: 1}}")) < 4_000
    repeated = "[" + ", ".join(["*v"] * 2_000) + "]"
    assert len(refusal(f"note: &v {value}\nnet: {{depth: {repeated}}}")) < 1_000


LONG = ["v" * 500_000, "1" * 500_000 + "x", "'" + "v" * 500_000 + "'"]


@pytest.mark.parametrize("value", slow_but(LONG, LONG[1]), ids=["text", "digits", "quoted"])
def test_a_long_value_is_read_once_however_often_it_is_repeated(value: str) -> None:
    start = time.process_time()
    assert len(load(f"note: [&v {value}" + ", *v" * 1_000 + "]\nnet: {depth: 1}").note) == 1_001
    assert time.process_time() - start < 2


# ---------------------------------------------------------------------------------------------------------- overrides


def test_overrides_set_any_value_in_their_order() -> None:
    config = load(
        GOOD,
        "net.depth=5",
        "net.depth=0x10",
        "net.scale=1e-3",
        "net.layers.b.shape=null",
        "net.layers.a={width: 3, mode: slow}",
        "net.layers.c.width=7",
        "note=null",
        "note.deep.er=a=b",
        "net.picks=[1, 2]",
    )
    assert (config.net.depth, config.net.scale, config.net.picks) == (16, 1e-3, (1, 2))
    assert config.net.layers["b"].shape is None
    assert config.net.layers["a"] == Layer(width=3, mode="slow")
    assert list(config.net.layers) == ["a", "b", "c"]


def test_an_override_makes_the_mappings_on_its_way() -> None:
    assert load("note: null\nnet: {depth: 1}", "note.a.b=1").note == {"a": {"b": 1}}


def test_an_override_replaces_a_whole_mapping() -> None:
    assert load("note: {a: 1, b: 2}\nnet: {depth: 1}", "note={b: 3}").note == {"b": 3}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("net.depth=abc", "net.depth: expected a whole number, got 'abc'"),
        ("net.depth=true", "net.depth: expected a whole number, got true"),
        ("net.depth=", "net.depth: expected a whole number, got null"),
        ("net.depht=3", f"net.depht: unknown key; did you mean depth? Valid keys are {NET_KEYS}"),
        ("netz.depth=3", "netz: unknown key; did you mean net? Valid keys are net, note"),
        ("net.layers.c={}", "net.layers.c.width: missing, and it has no default"),
        ("net.layers.c.mode=slow", "net.layers.c.width: missing, and it has no default"),
        ("net.layers.a={width: x}", "net.layers.a.width: expected a whole number, got 'x'"),
        (
            "net.layers.b.shape.kind=squar",
            "net.layers.b.shape.kind: expected one of round, square, got 'squar'; did you mean square?",
        ),
        ("net.picks=[0, 9]", "net.picks[1]: block 9 does not exist"),
        ("net.depth.x=1", "net.depth is 4 (c.yaml:2:10), which has no keys; set it whole"),
        ("net.depth", "expected KEY=VALUE with a dotted key, as in --set model.depth=4"),
        ("=3", "expected KEY=VALUE with a dotted key, as in --set model.depth=4"),
        ("net..depth=3", "expected KEY=VALUE with a dotted key, as in --set model.depth=4"),
        (
            "note=[1",
            "not valid YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence",
        ),
        ("note={a: 1, a: 2}", "a: duplicate key, first given at --set note={a: 1, a: 2}"),
        ("note=!!int 3", "tags are not allowed, got !!int"),
    ],
)
def test_a_wrong_override_is_named_by_its_flag(override: str, problem: str) -> None:
    assert refusal(GOOD, override) == f"--set {override}: {problem}"


def test_an_override_is_quoted_short_and_on_one_line() -> None:
    assert refusal(GOOD, "net.depth=" + "9" * 99 + "x").startswith("--set net.depth=" + "9" * 50 + "...: net.depth: ")
    assert refusal(GOOD, "net.depth=a\nb").startswith("--set net.depth=a\\nb: net.depth: expected a whole number")


def test_mistakes_of_the_file_stay_at_their_lines_beside_an_override() -> None:
    text = changed("width: 8", "width: x")
    assert refusal(text, "net.depth=y").splitlines() == [
        "c.yaml:4:16: net.layers.a.width: expected a whole number, got 'x'",
        "--set net.depth=y: net.depth: expected a whole number, got 'y'",
    ]
    assert load(text, "net.layers.a.width=1").net.layers["a"].width == 1


# ----------------------------------------------------------------------------------------------------------- mappings


def test_a_mapping_of_any_kind_is_validated() -> None:
    mapping = MappingProxyType({"net": MappingProxyType({"depth": 2, "picks": (0, 1)})})
    assert validate_mapping(mapping, WholeFile, source="config").net.picks == (0, 1)


ENDLESS: dict[str, Any] = {}
ENDLESS["note"] = ENDLESS


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"net": {"depth": True}}, "config: net.depth: expected a whole number, got true"),
        (
            {"net": {"dept": 1, "depth": 1}},
            "config: net.dept: unknown key; did you mean depth? Valid keys are " + NET_KEYS,
        ),
        ({}, "config: net: missing, and it has no default"),
        (
            {"net": {"depth": 10**5000}, "x": 1},
            "config: net.depth: expected a number <= 4294967296, got a number of 16610 bits\n"
            "config: x: unknown key. Valid keys are net, note",
        ),
        ({"net": {"depth": -(10**5000)}}, "config: net.depth: expected a number > 0, got a number of 16610 bits"),
        ({"net": {"depth": object()}}, "config: net.depth: expected a whole number, got a value of type object"),
        ({"net": {"depth": 1, "scale": math.nan}}, "config: net.scale: expected a finite number, got .nan"),
        (ENDLESS, "config: nested deeper than 64 levels, or part of itself"),
    ],
)
def test_a_wrong_mapping_is_refused_by_key(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_mapping(mapping, WholeFile, source="config")
    assert str(error.value) == message
