"""Damaged and hostile weights: each is one line that names the file and what is wrong, at once, and costs no memory."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mmdit
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CheckpointError
from tests.support.paths import ROOT

CONFIG = {"variant": "two_modality", "depth": 1, "modalities": {"text": {"dim": 4}, "image": {"dim": 4}}}
CONFIG |= {"dim_cond": 4, "heads": 1, "dim_head": 4}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    mmdit.save(mmdit.build(CONFIG), path)
    return path


def refused(path: Path | str, limit: int = 1500) -> str:
    with pytest.raises(CheckpointError) as caught:
        mmdit.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < limit, message
    return message


def test_every_damaged_file_is_refused_in_one_line(whole, tmp_path):
    damaged = dict(damaged_bytes(whole.read_bytes()))
    assert len(damaged) > 150
    for name, content in damaged.items():
        path = tmp_path / "m.safetensors"
        path.write_bytes(content)
        assert content != whole.read_bytes(), name
        refused(path)


@pytest.mark.slow
def test_none_costs_the_memory_that_it_claims(whole):
    program = f"""
import resource, sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
from tests.mmdit.weights.test_hostile_files import *
raw = open({str(whole)!r}, "rb").read()
mmdit.load({str(whole)!r})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
with tempfile.NamedTemporaryFile() as file:
    for name, content in damaged_bytes(raw):
        file.seek(0), file.truncate(), file.write(content), file.flush()
        refused(file.name)
    mmdit.load({str(whole)!r})
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("change", ["index", "header"])
def test_a_whole_file_of_another_shape_is_no_index_and_the_other_way_round(change, whole, tmp_path):
    path = tmp_path / ("model.safetensors.index.json" if change == "index" else "model.safetensors")
    path.write_bytes(whole.read_bytes() if change == "index" else b'{"weight_map": {"a": "model.safetensors"}}')
    assert ("its JSON can't be read" if change == "index" else "not a whole safetensors file") in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 1_000_000,
        b'{"weight_map": "model.safetensors"}',
        b'{"weight_map": {"a": "m"}, "weight_map": {"a": "m"}}',
        b'{"weight_map": {"\\u001b\\n": "../x"}}',
        b'{"weight_map": {"a": "' + b"x" * 100_000 + b'"}}',
        b'{"weight_map": {"a": "\\ud800"}}',
        b'{"weight_map": {"a": "model.safetensors.index.json"}}',
        b" " * 8_000_001,
    ],
    ids=range(13),
)
def test_every_damaged_index_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        mmdit.load(path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and message.isprintable() and len(message) < 1500


# ------------------------------------------------------------------------------------------------ not a file to be read


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert refused(tmp_path / "fifo").endswith("is not a regular file")
    assert refused("/dev/zero").endswith("is not a regular file")
    assert refused("/dev/null").endswith("is not a regular file")
    assert refused(tmp_path / "link").endswith("is not a regular file")
    assert "is a folder without" in refused(tmp_path)


def test_what_is_not_there_or_can_not_be_opened_is_refused(whole, tmp_path, monkeypatch):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / "nothing").endswith("no such file")
    assert refused(tmp_path / "dangling").endswith("no such file")
    assert "can't be read: Too many levels" in refused(tmp_path / "loop")
    assert "can't be read: Not a directory" in refused(whole / "x")
    assert "can't be read: File name too long" in refused(tmp_path / ("x" * 300))
    with pytest.raises(CheckpointError, match="null byte"):
        mmdit.load("a\0b")
    if os.geteuid() == 0:  # root may read everything
        monkeypatch.setattr(os, "open", denied)
    else:
        whole.chmod(0)
    try:
        assert refused(whole).endswith("can't be read: Permission denied")
    finally:
        whole.chmod(0o600)


def denied(path, *arguments):
    raise PermissionError(13, "Permission denied", path)


def test_a_file_that_shrinks_before_its_tensors_are_read_is_refused(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole.read_bytes())
    with WeightFiles(path) as files:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(CheckpointError, match="m.safetensors: .* can't be read: "):
            files.read(next(iter(files.tensors)))


def test_a_file_that_is_another_one_when_its_tensors_are_read_is_refused(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole.read_bytes())
    with WeightFiles(path) as files:
        name = next(iter(files.tensors))
        save_file({name: torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            files.read(name)
