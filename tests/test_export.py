from __future__ import annotations

import pytest
import torch

import mmdit
from mmdit_cli import export, export_checks
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.export import export_model
from mmdit_cli.schema import ToolConfig


def config(**run) -> ToolConfig:
    model = {
        "variant": "two_modality",
        "depth": 1,
        "modalities": {"text": {"dim": 8}, "image": {"dim": 8}},
        "dim_cond": 4,
        "heads": 1,
        "dim_head": 8,
    }
    return ToolConfig.model_validate({"name": "tiny", "model": model, "run": {"tokens": {"text": 3, "image": 4}} | run})


def test_what_is_exported_is_read_back_and_compared(tmp_path):
    out = tmp_path / "m.safetensors"
    result = export_model(config(), out=out, seed=3, dtype=torch.bfloat16)
    assert result.verified and result.max_abs_diff == 0
    assert result.bytes == out.stat().st_size and result.files == [str(out)]
    net = mmdit.load(out)
    assert result.parameters == sum(p.numel() for p in net.parameters())
    assert result.tensors == len(net.state_dict())
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}


def test_the_seed_decides_fresh_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_model(config(), out=tmp_path / name, seed=seed)
    states = [mmdit.load(tmp_path / name).state_dict() for name in "abc"]
    key = "blocks.0.joint_attn.to_qkv.0.linear.weight"
    assert torch.equal(states[0][key], states[1][key]) and not torch.equal(states[0][key], states[2][key])


def test_weights_of_a_file_go_into_the_new_one(tmp_path):
    export_model(config(), out=tmp_path / "a", seed=1)
    export_model(config(), out=tmp_path / "b", weights=tmp_path / "a")
    a, b = (mmdit.load(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("damage", ["weight", "output"])
def test_a_copy_that_differs_fails_and_leaves_no_file(damage, tmp_path, monkeypatch):
    real = mmdit.load

    def damaged(path, **options):
        net = real(path, **options)
        if damage == "weight":
            with torch.no_grad():
                net.blocks[0].feedforwards[1].proj_in.weight[0, 0] += 1e-3
        else:
            net.final_norms[1].register_forward_hook(lambda m, a, out: out + 1e-3)
        return net

    monkeypatch.setattr(export.mmdit, "load", damaged)
    with pytest.raises(CheckFailed, match="came back changed" if damage == "weight" else "differ by up to 0.001"):
        export_model(config(), out=tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_needs_force(tmp_path):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists; --force replaces it"):
        export_model(config(), out=out)
    assert out.read_bytes() == b"mine"
    export_model(config(), out=out, force=True)
    assert isinstance(mmdit.load(out), mmdit.MMDiT)


@pytest.mark.parametrize(
    ("name", "message"), [(".", "is a folder; name a file in it"), ("no/such/file", "there is no folder")]
)
def test_a_path_that_can_not_be_written_is_refused(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_model(config(), out=tmp_path / name)


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(export_checks, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"the model needs .* GB .* are free; fewer blocks"):
        export_model(config(), out=tmp_path / "m")
