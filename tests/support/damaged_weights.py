"""A weight file damaged in every way, and how it must be refused."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmdit
from mmdit.weights.saved_model import CheckpointError

HUGE = 1 << 62


NOTHING = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


Header = dict[str, Any]


def pack(header: bytes | Header, body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def header_changes() -> dict[str, Callable[[Header, Header], Any]]:
    """Changes to a header `h`, or to the entry `e` of its first tensor, each of which makes it wrong."""
    return {
        "offsets beyond the file": lambda h, e: e.update(data_offsets=[0, HUGE]),
        "offsets backwards": lambda h, e: e.update(data_offsets=e["data_offsets"][::-1]),
        "offsets negative": lambda h, e: e.update(data_offsets=[-4, e["data_offsets"][1] - 4]),
        "offsets of one": lambda h, e: e.update(data_offsets=[0]),
        "offsets of three": lambda h, e: e.update(data_offsets=[0, 4, 8]),
        "offsets of text": lambda h, e: e.update(data_offsets=["0", "4"]),
        "offsets of fractions": lambda h, e: e.update(data_offsets=[0.0, 4.0]),
        "offsets of truths": lambda h, e: e.update(data_offsets=[False, True]),
        "offsets of nothing": lambda h, e: e.update(data_offsets=None),
        "offsets an object": lambda h, e: e.update(data_offsets={"0": 4}),
        "offsets past 64 bits": lambda h, e: e.update(data_offsets=[0, 10**30]),
        "overlap": lambda h, e: h.update(zzz=dict(e)),
        "gap": lambda h, e: h.pop(next(name for name in h if h[name] is e)),
        "shape negative": lambda h, e: e.update(shape=[-1, -4]),
        "shape huge": lambda h, e: e.update(shape=[HUGE]),
        "shape that overflows to itself": lambda h, e: e.update(shape=[1 << 32, 1 << 32, *e["shape"]]),
        "shape of zeros and huge": lambda h, e: e.update(shape=[0, HUGE]),
        "shape of text": lambda h, e: e.update(shape=["4"]),
        "shape of fractions": lambda h, e: e.update(shape=[4.0]),
        "shape nested": lambda h, e: e.update(shape=[[4]]),
        "shape a number": lambda h, e: e.update(shape=4),
        "shape of many dims": lambda h, e: e.update(shape=[*e["shape"], *[1] * 100]),
        "dtype unknown": lambda h, e: e.update(dtype="F99"),
        "dtype a number": lambda h, e: e.update(dtype=32),
        "dtype a list": lambda h, e: e.update(dtype=["F32"]),
        "dtype with control characters": lambda h, e: e.update(dtype="F32\n\x1b[31m"),
        "dtype very long": lambda h, e: e.update(dtype="F" * 100_000),
        "dtype of twice the size": lambda h, e: e.update(dtype="F64"),
        "dtype of no weights": lambda h, e: e.update(dtype="I32"),
        "dtype missing": lambda h, e: e.pop("dtype"),
        "shape missing": lambda h, e: e.pop("shape"),
        "offsets missing": lambda h, e: e.pop("data_offsets"),
        "an extra field": lambda h, e: e.update(device="cuda"),
        "an entry that is a number": lambda h, e: h.update(x=1),
        "an entry that is a list": lambda h, e: h.update(x=[]),
        "an entry that is null": lambda h, e: h.update(x=None),
        "a tensor the model has not": lambda h, e: h.update(x={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        "a name of control characters": lambda h, e: h.update({"\x1b[2J\r\n\0": 1}),
        "a very long name": lambda h, e: h.update({"x" * 100_000: 1}),
        "metadata of numbers": lambda h, e: h["__metadata__"].update(x=1),
        "metadata nested": lambda h, e: h["__metadata__"].update(x={}),
        "metadata a list": lambda h, e: h.update(__metadata__=[]),
        "metadata null": lambda h, e: h.update(__metadata__=None),
        "metadata empty": lambda h, e: h.update(__metadata__={}),
        "config no JSON": lambda h, e: h["__metadata__"].update(mmdit_config="{"),
        "config deep": lambda h, e: h["__metadata__"].update(mmdit_config="[" * 1_000_000),
        "config a number": lambda h, e: h["__metadata__"].update(mmdit_config="7"),
        "config of many blocks": lambda h, e: config(h, depth=10**9),
        "config of wide blocks": lambda h, e: config(h, dim_head=10**15),
        "config of another model": lambda h, e: config(h, dim_cond=5),
        "config with an unknown key": lambda h, e: config(h, __class__="os.system"),
        "config with keys of control characters": lambda h, e: config(h, **{"\r\x1b[2J\n": 1}),
        "config with many unknown keys": lambda h, e: config(h, **{f"key_{i}": i for i in range(20_000)}),
        "config with a very long value": lambda h, e: config(h, variant="x" * 1_000_000),
        "config with many modalities": lambda h, e: config(h, modalities={f"m{i}": {"dim": 4} for i in range(5000)}),
        "format of the future": lambda h, e: h["__metadata__"].update(mmdit_format="2"),
    }


def config(header: Header, **values: Any) -> None:
    content = json.loads(header["__metadata__"]["mmdit_config"])
    content["model"] |= values
    header["__metadata__"]["mmdit_config"] = json.dumps(content)


def damaged_bytes(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """A whole file's damaged copies, by what was done to them."""
    length = struct.unpack("<Q", raw[:8])[0]
    text, body = raw[8 : 8 + length], raw[8 + length :]
    for name, change in header_changes().items():
        header = json.loads(text)
        change(header, next(entry for key, entry in header.items() if key != "__metadata__"))
        yield name, pack(header, body)
    yield "empty", b""
    yield "seven bytes", raw[:7]
    yield "eight bytes", raw[:8]
    yield "only a header", raw[: 8 + length]
    yield "a byte short", raw[:-1]
    yield "a byte long", raw + b"\0"
    yield "twice", raw + raw
    yield "text", b"not safetensors at all, only text\n" * 100
    yield "a pickle", b"\x80\x02}q\x00." * 100
    yield "a zip", b"PK\x03\x04" + bytes(1000)
    yield "zeros", bytes(10_000)
    for claimed in (0, 1, 8_000_001, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        yield f"a header that claims {claimed} bytes", pack(text, body, claimed)
    yield "header shorter than it is", pack(text, body, length - 8)
    yield "header longer than it is", pack(text, body, length + 8)
    for name, header in {
        "a list": b"[1,2,3]",
        "text": b'"x"',
        "nested deep": b'{"a":' + b"[" * 500_000,
        "objects deep": b'{"a":' * 500_000,
        "not UTF-8": b'{"\xff\xfe":1}',
        "UTF-16": '{"a":1}'.encode("utf-16"),
        "NaN": b'{"a":NaN}',
        "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
        "two objects": b"{}{}",
        "space first": b" " + text,
        "a BOM first": b"\xef\xbb\xbf" + text,
        "a key twice": text.rstrip()[:-1] + b',"__metadata__":{}}',
        "many keys": b"{" + b",".join(b'"%d":1' % i for i in range(300_000)) + b"}",
        "many tensors": b"{" + b",".join(b'"%d":%s' % (i, NOTHING) for i in range(120_000)) + b"}",
        "too long": text + b" " * 8_000_000,
    }.items():
        yield f"header: {name}", pack(header, body)
    draw = random.Random(20240305)
    for i in range(60):  # quotes, brackets and digits of the structure, not a letter of the metadata's text
        places = [at for at in range(length) if text[at : at + 1] in b'{}[]":,' and at < text.rindex(b"}")]
        at = draw.choice(places)
        yield f"flip {i}", raw[: 8 + at] + bytes([text[at] ^ 1 << draw.randrange(8)]) + raw[9 + at :]
    for i in range(20):
        yield f"cut {i}", raw[: draw.randrange(len(raw))]


def refused(path: Path | str, limit: int = 1500) -> str:
    with pytest.raises(CheckpointError) as caught:
        mmdit.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < limit, message
    return message
