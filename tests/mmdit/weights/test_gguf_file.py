"""GGUF files: their values are those that the `gguf` package gives; a header that lies is one message."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import mmdit
from benchmarks.families.comparison import ours_of, random_call, random_theirs, relative
from benchmarks.families.diffusers_networks import BY_NAME
from mmdit.layouts import to_layout
from mmdit.weights import gguf_file
from mmdit.weights.header import CheckpointError
from mmdit.weights.reader import WeightFiles
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.shape_check.weights import check_weights
from tests.mmdit.layouts.test_conversion import tool_config

Q = gguf.GGMLQuantizationType
MADE = (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1)  # that the package can make, too
READ = (Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL, Q.IQ4_XS)  # that it can only read


def write(path: Path, tensors: dict, shapes: dict | None = None, alignment: int | None = None) -> Path:
    """Arrays in floating point, or bytes and their type, as ComfyUI-GGUF's converter writes them."""
    writer = gguf.GGUFWriter(path, "flux")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_array("tokens", ["a", "bc", ""])
    for name, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(x: torch.Tensor, kind: Q):
    return gguf.quants.quantize(x.numpy(), kind), kind


def blocks(rows: int, columns: int, kind: Q):
    """Random blocks of a type that can't be made: whatever bytes they have, they mean something."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    draw = np.random.default_rng(4).integers(0, 60, (rows, columns // values * size), dtype=np.uint8)
    return draw, kind


@pytest.mark.parametrize("kind", [*MADE, *READ], ids=lambda kind: kind.name)
def test_values_and_shapes_are_those_of_the_package(kind, tmp_path):
    torch.manual_seed(0)
    made = quantized(torch.randn(6, 512), kind) if kind in MADE else blocks(6, 512, kind)
    path = write(tmp_path / "x.gguf", {"a.weight": made, "a.bias": quantized(torch.randn(6), Q.F32)})
    (theirs,) = (x for x in gguf.GGUFReader(path).tensors if x.name == "a.weight")
    wanted = torch.from_numpy(gguf.quants.dequantize(theirs.data, kind).copy())
    with WeightFiles(path) as files:
        assert files.tensors["a.weight"].shape == (6, 512) == tuple(theirs.shape[::-1])
        for got in (files.read("a.weight"), files.copy("a.weight")):
            assert got.dtype == files.spec("a.weight").dtype
            assert torch.equal(got.float(), wanted) and torch.isfinite(got).all()


def test_a_shape_that_was_flattened_comes_back(tmp_path):
    x = torch.arange(4.0 * 3 * 2 * 2).reshape(4, 12)
    path = write(tmp_path / "x", {"p.weight": quantized(x, Q.F16)}, {"p.weight": (4, 3, 2, 2)}, alignment=64)
    with WeightFiles(path) as files:
        assert torch.equal(files.read("p.weight"), x.reshape(4, 3, 2, 2).half())


def test_a_gguf_file_of_flux_becomes_the_network(tmp_path):
    family = BY_NAME["flux.1-dev"]
    net = ours_of(random_theirs(family), family)
    theirs = to_layout(net.state_dict(), family.small_config().model, "flux")
    kinds = {
        name: Q.Q8_0 if x.ndim == 2 and x.shape[1] % 32 == 0 else Q.BF16 if x.ndim == 2 else Q.F32
        for name, x in theirs.items()
    }
    assert Q.Q8_0 in kinds.values()
    path = write(tmp_path / "x.gguf", {name: quantized(x.contiguous(), kinds[name]) for name, x in theirs.items()})
    config = tool_config(family)
    check = check_weights(config.model, path, "flux")
    assert check.problems == [] and "Q8_0" in check.dtypes
    asked = Export(weights=path, out=tmp_path / "ours", dtype=torch.float32)
    convert_weights(config, asked, source="flux", target="mmdit")
    with torch.no_grad():
        call = random_call(family)
        got, wanted = (m(**call)[family.drawn] for m in (mmdit.load(tmp_path / "ours", verify=True), net))
    assert 0 < relative(got, wanted) < 0.02
    half = mmdit.load(path, dtype=torch.float16, config=family.small_config(), layout="flux").state_dict()
    assert all(torch.equal(half[name], x.half()) for name, x in mmdit.load(tmp_path / "ours").state_dict().items())
    back = Export(weights=tmp_path / "ours", out=tmp_path / "back")
    assert convert_weights(config, back, source="mmdit", target="flux").verified


def test_without_the_package_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "x.gguf", {"a": quantized(torch.ones(3), Q.F32)})
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    gguf_file.block_types.cache_clear()
    with pytest.raises(CheckpointError, match=r"x.gguf: is a GGUF file; to read it: pip install 'mmdit-cli\[gguf\]'"):
        WeightFiles(path)
    gguf_file.block_types.cache_clear()


# -------------------------------------------------------------------------------------------------------------- hostile


def text(name: str | bytes) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return struct.pack("<Q", len(raw)) + raw


def tensor(name: str | bytes = "a", shape=(4, 2), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def whole(infos: list[bytes], entries: list[bytes] = [], *, version=3, tensors=None, kvs=None, body=32) -> bytes:  # noqa: B006
    tensors, kvs = len(infos) if tensors is None else tensors, len(entries) if kvs is None else kvs
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, kvs) + b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % 32 + body)


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


GOOD = whole([tensor()])
HUGE = 1 << 62
BAD = {
    "nothing more": (b"GGUF", "truncated: its header reaches byte 8 of 4"),
    "a cut header": (GOOD[:50], "truncated: its header reaches byte"),
    "a cut body": (GOOD[:-8], "truncated: a reaches byte 32 of 24 after the header"),
    "version 1": (whole([tensor()], version=1), "it is of version 1; 2 and 3 are read"),
    "big-endian": (whole([tensor()], version=3 << 24), "little-endian"),
    "many tensors": (whole([tensor()], tensors=HUGE), "it names 4,611,686,018,427,387,904 tensors"),
    "many entries": (whole([tensor()], kvs=HUGE), "it names 1 tensors and 4,611"),
    "more tensors than there are": (whole([tensor()], tensors=9), " is there twice"),
    "an offset outside": (whole([tensor(offset=1 << 40)]), "truncated: a reaches byte 1,099,511,627,808 of 32"),
    "an offset past 63 bits": (whole([tensor(offset=(1 << 64) - 32)]), "truncated: a reaches byte"),
    "an odd offset": (whole([tensor(offset=5)]), "begins at byte 5, which is no multiple of 32"),
    "a huge shape": (whole([tensor(shape=(HUGE, 4))]), "can't have the shape"),
    "a shape that overflows": (whole([tensor(shape=(1 << 32, 1 << 32, 1 << 32))]), "can't have the shape"),
    "a large shape": (whole([tensor(shape=(1 << 40,))]), "truncated: a reaches byte"),
    "many dims": (whole([tensor(shape=(1,) * 9)]), "its shape must be at most 8 whole numbers"),
    "4 billion dims": (whole([text("a") + struct.pack("<I", 0xFFFFFFFF)]), "its shape must be at most 8"),
    "an unknown type": (whole([tensor(kind=999)]), "is of the unknown type 999"),
    "a row of no blocks": (whole([tensor(kind=8)]), "Q8_0 can't have the shape [2, 4]: its rows are of 32 values each"),
    "a scalar of blocks": (whole([tensor(shape=(), kind=8)]), "Q8_0 can't have the shape []"),
    "no rows of blocks": (whole([tensor(shape=(32, 0), kind=8)]), "Q8_0 can't have the shape [0, 32]"),
    "twice": (whole([tensor(), tensor(offset=32)], body=64), "a is there twice"),
    "overlapping": (whole([tensor(), tensor("b")]), "b: begins at byte 0, overlapping a, which ends at 32"),
    "a name of no UTF-8": (whole([tensor(b"\xff\xfe")]), "it has a name that is no UTF-8"),
    "a name of control characters": (whole([tensor("\x1b[2J\n", kind=99)]), "is of the unknown type 99"),
    "a huge name": (whole([struct.pack("<Q", HUGE)]), "truncated: its header reaches byte"),
    "an unknown entry": (whole([tensor()], [entry("k", 77, b"")]), "its entry k is of the unknown type 77"),
    "a huge text": (whole([tensor()], [entry("k", 8, struct.pack("<Q", HUGE))]), "truncated: its header"),
    "a huge array": (whole([tensor()], [entry("k", 9, struct.pack("<IQ", 5, HUGE))]), "truncated: its header"),
    "a huge array of texts": (whole([tensor()], [entry("k", 9, struct.pack("<IQ", 8, HUGE))]), "truncated: its header"),
    "arrays of arrays": (
        whole([tensor()], [entry("k", 9, struct.pack("<IQ", 9, 3))]),
        "an array of the unknown type 9",
    ),
    "an alignment of 0": (
        whole([tensor()], [entry("general.alignment", 4, struct.pack("<I", 0))]),
        "its alignment must be a number from 1",
    ),
    "an alignment of text": (whole([tensor()], [entry("general.alignment", 8, text("32"))]), "its alignment must be"),
    "another shape before": (
        whole([tensor()], [entry("comfy.gguf.orig_shape.a", 9, struct.pack("<IQ2i", 5, 2, 3, 3))]),
        "has the shape [2, 4] and is said to have had [3, 3]",
    ),
    "a header of 8 MB": (
        whole([tensor()], [entry("k", 8, text("x" * 8_000_000))]),
        "its header is longer than the 8,000,000",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_lies_is_one_message(name, tmp_path):
    content, said = BAD[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        WeightFiles(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a whole GGUF file: ") and said in message, message
    assert message.isprintable() and len(message) < 500


def test_the_file_that_they_are_made_from_is_read(tmp_path):
    (tmp_path / "x").write_bytes(GOOD)
    with WeightFiles(tmp_path / "x") as files:
        assert torch.equal(files.read("a"), torch.zeros(2, 4))


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = write(tmp_path / "x", {"a.weight": quantized(torch.randn(2, 64), Q.Q8_0)})
    with WeightFiles(path) as files:
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(CheckpointError, match="a.weight changed while it was read"):
            files.read("a.weight")
