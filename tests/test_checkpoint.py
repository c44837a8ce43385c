from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from conftest import drawn
from safetensors.torch import load_file, save_file

import mmdit
from mmdit import checkpoint
from mmdit.checkpoint import CheckpointError
from mmdit.tensor_file import read_header

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


def test_a_loaded_model_can_be_trained_and_leaves_its_file_alone(path):
    before, net = path.read_bytes(), mmdit.load(path).train()
    sum(x.square().sum() for x in outputs(net)).backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert path.read_bytes() == before


def test_a_model_without_a_config_is_refused(tmp_path):
    net = mmdit.JointAttention(dim_inputs=[8])
    with pytest.raises(ValueError, match="make the model with mmdit.build"):
        mmdit.save(net, tmp_path / "x.safetensors")


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, b: b"", "not a whole safetensors file"),
        (lambda h, b: b"not safetensors at all, only text", "not a whole safetensors file"),
        (lambda h, b: struct.pack("<Q", 1 << 62) + b"{}", "not a whole safetensors file"),
        (lambda h, b: struct.pack("<Q", 7) + b"[1,2,3]", "not a whole safetensors file"),
        (lambda h, b: struct.pack("<Q", len(t := json.dumps(h).encode())) + t + b[:-9], "not a whole safetensors file"),
        (lambda h, b: first(h).update(data_offsets=[0, 1 << 40]), "not a whole safetensors file"),
        (lambda h, b: first(h).update(data_offsets=[5, 4]), "not a whole safetensors file"),
        (lambda h, b: first(h).update(dtype="F99"), "not a whole safetensors file"),
        (lambda h, b: h["__metadata__"].pop("mmdit_config"), "holds no config .* was it written by mmdit.save"),
        (lambda h, b: h["__metadata__"].update(mmdit_config="{"), "its config can't be read"),
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
        (lambda h, b: h["final_norms.0.weight"].update(dtype="I32"), "final_norms.0.weight has the dtype I32"),
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

    monkeypatch.setattr(checkpoint, "write_tensors", cut_short)
    with pytest.raises(type(problem)):
        mmdit.save(model, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
