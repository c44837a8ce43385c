from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmdit
from mmdit.config import construct
from mmdit.weights import saved_model, shards, syncing
from mmdit.weights.header import read_header
from mmdit.weights.saved_model import CheckpointError
from mmdit.weights.writer import HASH_KEY
from tests.support.draws import drawn

CONFIG = {
    "variant": "generalized",
    "depth": 2,
    "modalities": {"a": {"dim": 8}, "b": {"dim": 4}},
    "dim_cond": 6,
    "heads": 2,
    "dim_head": 4,
    "attention": {"kind": "adaptive", "num_adaptive_weights": 2},
    "residual": {"kind": "manifold_hyper_connections", "streams": 2},
}


@pytest.fixture
def model():
    return drawn(mmdit.build(CONFIG)).float()


@pytest.fixture
def path(model, tmp_path) -> Path:
    mmdit.save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def outputs(net):
    torch.manual_seed(1)
    tokens = (torch.randn(2, 3, 8), torch.randn(2, 5, 4))
    dtype = next(net.parameters()).dtype
    return net(modality_tokens=tuple(x.to(dtype) for x in tokens), time_cond=torch.randn(2, 6).to(dtype))


def test_a_file_alone_rebuilds_the_model_to_the_bit(model, path):
    loaded = mmdit.load(path)
    assert loaded.config == model.config and not loaded.training
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(loaded), strict=True))


def test_loading_converts_the_dtype(path):
    assert {p.dtype for p in mmdit.load(path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_saving_converts_the_dtype_and_keeps_the_metadata(model, tmp_path):
    mmdit.save(model, tmp_path / "x", dtype=torch.bfloat16, metadata={"note": "né"})
    assert read_header(tmp_path / "x").metadata["note"] == "né"
    state = mmdit.load(tmp_path / "x", verify=True).state_dict()
    assert all(torch.equal(x.bfloat16(), state[name]) for name, x in model.state_dict().items())


def test_the_file_of_a_model_is_the_same_whenever_it_is_written(model, path, tmp_path):
    mmdit.save(model, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_safetensors_library_reads_the_file(model, path):
    tensors = load_file(path)
    assert all(torch.equal(x, tensors[name]) for name, x in model.state_dict().items())


def test_a_changed_bit_of_a_weight_does_not_verify(path):
    mmdit.load(path, verify=True)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    mmdit.load(path)
    with pytest.raises(CheckpointError, match="model.safetensors: its tensors are not those that were written"):
        mmdit.load(path, verify=True)


def test_a_file_without_a_hash_can_not_be_verified(path):
    metadata = {key: text for key, text in read_header(path).metadata.items() if key != HASH_KEY}
    save_file(load_file(path), path, metadata=metadata)
    mmdit.load(path)
    with pytest.raises(CheckpointError, match="holds no hash to verify"):
        mmdit.load(path, verify=True)


def test_a_compiled_model_is_saved_as_it_was_before(model, path, tmp_path):
    mmdit.save(torch.compile(model, backend="eager"), tmp_path / "compiled")
    assert (tmp_path / "compiled").read_bytes() == path.read_bytes()


def test_buffers_that_are_in_no_file_are_computed_again(model, path, monkeypatch):
    def with_table(config):
        net = build(config)
        net.final_norms[0].register_buffer("table", torch.arange(3.0), persistent=False)
        return net

    build = saved_model.build
    monkeypatch.setattr(saved_model, "build", with_table)
    monkeypatch.setattr(construct, "build", with_table)
    assert torch.equal(mmdit.load(path).final_norms[0].table, torch.arange(3.0))
    assert mmdit.load(path, device="meta").final_norms[0].table.is_meta


def test_a_loaded_model_can_be_trained_and_leaves_its_file_alone(path):
    before, net = path.read_bytes(), mmdit.load(path).train()
    sum(x.square().sum() for x in outputs(net)).backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert path.read_bytes() == before


def test_a_model_without_a_config_is_refused(tmp_path):
    net = mmdit.JointAttention(dim_inputs=[8])
    with pytest.raises(ValueError, match="make the model with mmdit.build"):
        mmdit.save(net, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.to("meta"), "is on the meta device and has no values"),
        (lambda net: net.register_buffer("extra", torch.zeros(1)), "extra is not in the model"),
        (lambda net: net.blocks.__delitem__(1), "it has 1 block, the config 2"),
        (lambda net: net.half().to(torch.complex64), "has the dtype torch.complex64, wanted floating point"),
    ],
)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_model_that_could_not_be_loaded_is_not_saved(change, message, model, tmp_path):
    change(model)
    with pytest.raises(ValueError, match=f"not what its config says: .*{message}"):
        mmdit.save(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_wrong_arguments_are_refused(model, path, tmp_path):
    for options, message in (
        ({"dtype": torch.int8}, "dtype must be float64, float32, float16 or bfloat16, got torch.int8"),
        ({"metadata": {"a": 1}}, "metadata must map text to text, got 'a': 1"),
        ({"max_shard_size": "much"}, "a size is a number of bytes or a text such as 5GB or 500MiB, got 'much'"),
    ):
        with pytest.raises(ValueError, match=message):
            mmdit.save(model, tmp_path / "x", **options)
    with pytest.raises(ValueError, match="dtype must be float64"):
        mmdit.load(path, dtype=torch.int8)
    with pytest.raises(FileExistsError):
        mmdit.save(model, path, force=False)
    assert os.listdir(tmp_path) == [path.name]


def changed(path: Path, change) -> Path:
    """The same file with its header or bytes changed."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    result = change(header, body)
    if result is not None:
        path.write_bytes(result)
    else:
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def first(header) -> dict:
    return header[min(name for name in header if name != "__metadata__")]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, b: b"", "not a whole safetensors file"),
        pytest.param(lambda h, b: b"not safetensors at all, only text", "not a whole safetensors file", marks=SLOW),
        (lambda h, b: struct.pack("<Q", 1 << 62) + b"{}", "not a whole safetensors file"),
        pytest.param(lambda h, b: struct.pack("<Q", 7) + b"[1,2,3]", "not a whole safetensors file", marks=SLOW),
        (lambda h, b: struct.pack("<Q", len(t := json.dumps(h).encode())) + t + b[:-9], "not a whole safetensors file"),
        (lambda h, b: first(h).update(data_offsets=[0, 1 << 40]), "not a whole safetensors file"),
        pytest.param(lambda h, b: first(h).update(data_offsets=[5, 4]), "not a whole safetensors file", marks=SLOW),
        pytest.param(lambda h, b: first(h).update(dtype="F99"), "not a whole safetensors file", marks=SLOW),
        (lambda h, b: h["__metadata__"].pop("mmdit_config"), "holds no config .* was it written by mmdit.save"),
        pytest.param(lambda h, b: h["__metadata__"].update(mmdit_config="{"), "its config can't be read", marks=SLOW),
        (lambda h, b: h["__metadata__"].update(mmdit_config="[" * 100_000), "its config can't be read"),
        (lambda h, b: h["__metadata__"].update(mmdit_config="[1]"), "its config can't be read: a list is no config"),
        (
            lambda h, b: h["__metadata__"].update(mmdit_config='{"depth": "x"}'),
            "its config does not fit this version.*depth",
        ),
        (
            lambda h, b: h.update({"blocks.0.ff_norm": h.pop("blocks.0.attn_residuals.0.width.mix")}),
            "blocks.0.attn_residuals.0.width.mix is missing.*blocks.0.ff_norm is not in the model",
        ),
        (
            lambda h, b: h["final_norms.0.weight"].update(shape=[4, 2]),
            r"final_norms.0.weight has the shape \[4, 2\], wanted \[8\]",
        ),
        pytest.param(
            lambda h, b: h["final_norms.0.weight"].update(dtype="I32"),
            "final_norms.0.weight has the dtype I32",
            marks=SLOW,
        ),
    ],
)
def test_a_damaged_file_is_refused_and_says_what_is_wrong(change, message, path):
    with pytest.raises(CheckpointError, match=f"model.safetensors: .*{message}"):
        mmdit.load(changed(path, lambda h, b: r if isinstance(r := change(h, b), bytes) else None))


@pytest.mark.parametrize(("name", "message"), [("nothing.safetensors", "no such file"), (".", "is a folder")])
def test_a_path_without_a_file_is_refused(name, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        mmdit.load(tmp_path / name)


def test_a_missing_tensor_is_named_with_its_nearest(path):
    tensors = load_file(path)
    tensors["blocks.1.joint_attn.to_qkv.0.weights"] = tensors.pop("blocks.1.joint_attn.to_qkv.0.weight")
    save_file(tensors, path, metadata=read_header(path).metadata)
    with pytest.raises(CheckpointError, match=r"to_qkv.0.weight is missing \(is it .*to_qkv.0.weights\?\)"):
        mmdit.load(path)


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(problem, path, model, monkeypatch):
    before = path.read_bytes()

    def cut_short(target, *rest, **options):
        Path(target).write_bytes(b"half")
        raise problem

    monkeypatch.setattr(shards, "write_tensors", cut_short)
    with pytest.raises(type(problem)):
        mmdit.save(model, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_what_the_disk_does_not_take_leaves_the_old_file(path, model, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(syncing, "_synced", full)
    with pytest.raises(OSError, match="No space left"):
        mmdit.save(model, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
