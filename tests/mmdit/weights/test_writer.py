"""The safetensors library is the oracle: the same bytes, and what it writes is read."""

from __future__ import annotations

import json
import random
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import _TYPES, load_file, save_file

from mmdit.weights.header import DTYPES, read_header
from mmdit.weights.reader import WeightFiles
from mmdit.weights.writer import HASH_KEY, TensorSpec, content_hash, digest, specs_of, write_tensors

LETTERS = 'abz.0_é中𝄞 "\\/\n\t\x01\x7f\u2028'


def random_tensors(seed: int) -> dict[str, torch.Tensor]:
    draw = random.Random(seed)
    tensors = {}
    for _ in range(draw.randrange(1, 12)):
        shape = [draw.randrange(5) for _ in range(draw.randrange(4))]
        dtype = draw.choice(list(DTYPES.values()))
        count = torch.Size(shape).numel() * dtype.itemsize
        data = bytearray(draw.randbytes(count) if dtype != torch.bool else bytes(draw.choices((0, 1), k=count)))
        flat = torch.frombuffer(data, dtype=torch.uint8) if count else torch.empty(0, dtype=torch.uint8)
        tensors["".join(draw.choices(LETTERS, k=draw.randrange(9)))] = flat.view(dtype).reshape(shape)
    return tensors


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"né\n": 'a "b" \\ \x1f'}], ids=range(4))
@pytest.mark.parametrize("seed", range(25))
def test_a_file_is_byte_for_byte_what_the_safetensors_library_writes(seed, metadata, tmp_path):
    tensors = random_tensors(seed)
    write_tensors(tmp_path / "ours", specs_of(tensors), tensors.__getitem__, metadata)
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_so_is_a_file_without_tensors(metadata, tmp_path):
    write_tensors(tmp_path / "ours", {}, {}.__getitem__, metadata)
    save_file({}, tmp_path / "theirs", metadata=metadata)  # with {} safetensors 0.8.0 writes what it can't read
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_every_dtype_the_library_writes_for_torch_is_written_in_its_order(tmp_path):
    known = {name: dtype for name, dtype in _TYPES.items() if name in DTYPES}
    assert set(_TYPES) - set(known) <= {"F4"}  # packed in pairs
    tensors = {f"{i}": torch.zeros(2, dtype=dtype) for i, dtype in enumerate(known.values())}
    save_file(tensors, tmp_path / "theirs")
    assert [info.dtype for info in read_header(tmp_path / "theirs").tensors.values()] == list(DTYPES)


def test_several_metadata_keys_are_sorted_and_read_by_the_library(tmp_path):
    metadata = {key: key * 3 for key in ("q", "b", "zz", "a")}
    write_tensors(tmp_path / "x", {}, {}.__getitem__, metadata)
    raw = (tmp_path / "x").read_bytes()
    assert list(json.loads(raw[8:])["__metadata__"].items()) == sorted(metadata.items())
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == metadata


@pytest.mark.parametrize("seed", range(25))
def test_what_the_library_writes_is_read_to_the_bit(seed, tmp_path):
    tensors = random_tensors(seed)
    save_file(tensors, tmp_path / "x", metadata={"a": "b"})
    with WeightFiles(tmp_path / "x") as files:
        assert files.metadata == {"a": "b"} and files.stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            stored = files.mapped(name)  # as it lies there: what is read of eight bits is in floating point
            assert (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
            assert digest(stored) == digest(tensor)


def test_the_hash_is_in_the_metadata_and_is_that_of_the_content_in_any_order(tmp_path):
    tensors = {"b": torch.randn(3, 2), "a": torch.arange(4)}
    written = write_tensors(tmp_path / "x", specs_of(tensors), tensors.__getitem__, {"k": "v"}, hashed=True)
    header = read_header(tmp_path / "x")
    assert header.metadata == {"k": "v", HASH_KEY: written.sha256}
    assert written.digests == {name: digest(tensor) for name, tensor in tensors.items()}
    assert content_hash(dict(reversed(header.tensors.items())), written.digests) == written.sha256
    changed = written.digests | {"a": digest(torch.arange(1, 5))}
    assert content_hash(header.tensors, changed) != written.sha256
    assert written.bytes == (tmp_path / "x").stat().st_size
    save_file(tensors, tmp_path / "y", metadata={HASH_KEY: written.sha256})
    write_tensors(tmp_path / "z", specs_of(tensors), tensors.__getitem__, hashed=True)
    assert (tmp_path / "z").read_bytes() == (tmp_path / "y").read_bytes()


def test_tensors_are_made_one_at_a_time_in_the_file_s_order(tmp_path):
    events = []

    class Made(torch.Tensor):
        def __del__(self):
            events.append("let go")

    def read(name):
        events.append(name)
        return torch.zeros(2).as_subclass(Made)

    specs = {name: TensorSpec(torch.float32, (2,)) for name in "cab"}
    done = []
    write_tensors(tmp_path / "x", specs, read, on_tensor=lambda *count: done.append(count))
    assert [event for event in events if event != "let go"] == ["a", "b", "c"]
    assert all("let go" in events[events.index(a) : events.index(b)] for a, b in ("ab", "bc"))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_no_more_than_one_tensor_waits_to_be_written(tmp_path):
    done, seen = [0], []

    def read(name):
        seen.append(done[-1])
        return torch.zeros(2)

    specs = dict.fromkeys("abcd", TensorSpec(torch.float32, (2,)))
    write_tensors(tmp_path / "x", specs, read, on_tensor=lambda count, total: done.append(count))
    assert seen == [0, 0, 1, 2] and done == [0, 1, 2, 3, 4]


def test_floating_point_tensors_are_converted_as_torch_converts_them(tmp_path):
    tensors = {"x": torch.randn(9), "transposed": torch.randn(3, 4).T, "count": torch.arange(3)}
    specs = specs_of(tensors, torch.bfloat16)
    write_tensors(tmp_path / "x", specs, tensors.__getitem__)
    read = load_file(tmp_path / "x")
    assert torch.equal(read["x"], tensors["x"].bfloat16()) and torch.equal(read["count"], tensors["count"])
    assert torch.equal(read["transposed"], tensors["transposed"].bfloat16())


@pytest.mark.parametrize(
    ("spec", "made", "message"),
    [
        (TensorSpec(torch.float32, (2,)), torch.zeros(3), r"x: was to have the shape \[2\], got \[3\]"),
        (TensorSpec(torch.int64, (2,)), torch.zeros(2), "x: was to have the dtype torch.int64, got torch.float32"),
        (TensorSpec(torch.complex128, (2,)), None, "x: torch.complex128 can't be written"),
    ],
)
def test_a_tensor_that_is_not_as_its_spec_says_is_refused(spec, made, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_tensors(tmp_path / "x", {"x": spec}, lambda name: made)


def test_names_and_metadata_that_a_file_can_not_hold_are_refused(tmp_path):
    spec = TensorSpec(torch.float32, ())
    with pytest.raises(ValueError, match="can't be called __metadata__"):
        write_tensors(tmp_path / "x", {"__metadata__": spec}, lambda name: torch.zeros(()))
    with pytest.raises(ValueError, match="metadata must map text to text, got 'a': 1"):
        write_tensors(tmp_path / "x", {"x": spec}, lambda name: torch.zeros(()), {"a": 1})
    with pytest.raises(ValueError, match="larger than the 8,000,000 that are read"):
        write_tensors(tmp_path / "x", {"x": spec}, lambda name: torch.zeros(()), {"a": "b" * 8_000_000})
    assert not (tmp_path / "x").exists()


def test_a_dtype_that_torch_has_not_is_named_when_its_tensor_is_wanted(tmp_path):
    header = b'{"x":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with WeightFiles(tmp_path / "x") as files, pytest.raises(ValueError, match="x: x has the dtype F8_E8M0, which"):
        files.read("x")
