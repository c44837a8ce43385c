"""What a config's YAML can hold, and what is refused before any schema sees it."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from mmdit.config.yaml_document import MAX_BYTES, MAX_NODES, parse
from tests.support.config_files import refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0xfF", 255),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-6", 1e-6),
        ("1E5", 100_000),
        ("-1e+3", -1000),
        ("1e16", 1e16),  # there are floats between which no whole number is
        ("0e99999999", 0),
        ("1e999", math.inf),
        ("1.0e3", 1000.0),
        ("-1.5e+3", -1500.0),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("null", None),
        ("Null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("off", "off"),
        ("No", "No"),
        ("tRUE", "tRUE"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ("1e", "1e"),
        ("0x", "0x"),
        ("٣", "٣"),
        ("=", "="),
        ("'1'", "1"),
        ('"null"', "null"),
        ("a b # c", "a b"),
        ("[1, [a, {}]]", [1, ["a", {}]]),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    data = parse(f"key: {text}\n", "c.yaml").data["key"]
    assert data == value
    assert type(data) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(parse("key: .nan", "c.yaml").data["key"])


def test_an_alias_repeats_what_it_names() -> None:
    assert parse("a: &x {b: [1]}\nc: *x\n", "c.yaml").data == {"a": {"b": [1]}, "c": {"b": [1]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml: the file is empty; expected a mapping"),
        ("# nothing\n", "c.yaml: the file is empty; expected a mapping"),
        ("3\n", "c.yaml:1:1: expected a mapping, got 3"),
        ("\n- a\n", "c.yaml:2:1: expected a mapping, got a list"),
        ("just words\n", "c.yaml:1:1: expected a mapping, got 'just words'"),
        (
            "net:\n  depth: 1\n  on: true\n  depth: 2\n",
            "c.yaml:4:3: net.depth: duplicate key, first given at c.yaml:2:3",
        ),
        (
            "net: {layers: {a: {x: 1, 'x': 2}}}\n",
            "c.yaml:1:26: net.layers.a.x: duplicate key, first given at c.yaml:1:20",
        ),
        ("net: 1\n---\nnet: 2\n", "c.yaml:2:1: a second document starts here; a config is one"),
        ("net: 1: 2\n", "c.yaml:1:7: not valid YAML: mapping values are not allowed here"),
        (
            "net:\n  a: [1, 2\n",
            "c.yaml:3:1: not valid YAML: expected ',' or ']', but got '<stream end>' "
            "while parsing a flow sequence that starts at 2:6",
        ),
        ("\tnet: 1\n", "c.yaml:1:1: not valid YAML: found character '\\\\t' that cannot start any token"),
        ("a: *b\n", "c.yaml:1:4: not valid YAML: found undefined alias 'b'"),
        ('a: "\\UFFFFFFFF"\n', "c.yaml:1:7: not valid YAML: a number in an escape or a directive is out of range"),
        ("a: b\x00\n", "c.yaml:1:5: character U+0000 is not allowed"),
        ("é: 1\na: \x1b[31m\n", "c.yaml:2:4: character U+001B is not allowed"),
        ('a: "x\\0"\n', "c.yaml:1:4: character U+0000 is not allowed"),
        ('a: "\\ud800"\n', "c.yaml:1:4: character U+D800 is not allowed"),
        (b"a: 1\nb: \xc3\xa9\xff", "c.yaml:2:5: not UTF-8 text (byte 0xff)"),
        (b"\xef\xbb\xbfa\xff", "c.yaml:1:2: not UTF-8 text (byte 0xff)"),
        ("net: 1".encode("utf-16"), "c.yaml:1:1: not UTF-8 text (byte 0xff)"),
        (
            "a: !!python/object/apply:os.system ['touch ran']\n",
            "c.yaml:1:4: tags are not allowed, got !!python/object/apply:os.system",
        ),
        ("a: !!binary aGk=\n", "c.yaml:1:4: tags are not allowed, got !!binary"),
        ("a: !!int 3\n", "c.yaml:1:4: tags are not allowed, got !!int"),
        ("!x {a: 1}\n", "c.yaml:1:1: tags are not allowed, got !x"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "c.yaml:3:3: merge keys (<<) are not supported; write the keys out"),
        ("1: a\n", "c.yaml:1:1: a key must be text, got 1"),
        ("true: a\n", "c.yaml:1:1: a key must be text, got true"),
        ("~: a\n", "c.yaml:1:1: a key must be text, got null"),
        ("{{ width }}: 3\n", "c.yaml:1:1: a key must be text, got a collection"),
        ("a: &x [1, *x]\n", "c.yaml:1:4: an alias in here stands for the whole, which has no end"),
        ("a: 99999999999999999999\n", "c.yaml:1:4: whole numbers have at most 64 bits, got 99999999999999999999"),
        ("a: " + "9" * 5000 + "\n", "c.yaml:1:4: a number of 5000 characters is too long"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused(text: str | bytes, message: str) -> None:
    assert refusal(text) == message.replace("\\\\", "\\")


def test_nothing_in_a_file_runs() -> None:
    refusal("a: !!python/object/apply:os.system ['touch ran']\n")
    assert not Path("ran").exists()


DEEP = "".join(f"k{i}: &k{i} " + "[" * 40 + (f"*k{i - 1}" if i else "") + "]" * 40 + "\n" for i in range(2))


LAUGHS = "".join(f"k{i}: &k{i} [" + (f"*k{i - 1}, " * 10 if i else "1") + "]\n" for i in range(30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 500_000, "c.yaml:1:67: nested deeper than 64 levels"),
        ("- " * 500_000, "c.yaml:1:129: nested deeper than 64 levels"),
        (DEEP, "c.yaml:1:33: nested deeper than 64 levels"),
        pytest.param(
            "a: [" + "b," * (MAX_NODES + 9) + "]",
            f"c.yaml:1:199999: more than {MAX_NODES} values, counting what aliases repeat",
            marks=pytest.mark.slow,
        ),
        (LAUGHS, f"c.yaml:1:5: more than {MAX_NODES} values, counting what aliases repeat"),
        ("#" * (MAX_BYTES + 1), f"c.yaml: larger than {MAX_BYTES} bytes, which no config is"),
    ],
)
def test_a_hostile_text_costs_little(text: str, message: str) -> None:
    start = time.process_time()
    assert refusal(text) == message
    assert time.process_time() - start < 10
