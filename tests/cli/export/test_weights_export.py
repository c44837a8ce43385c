from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

import mmdit
from mmdit.options import as_data
from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.export import preconditions as export_checks
from mmdit_cli.export import weights_export as export
from mmdit_cli.export.preconditions import Export
from mmdit_cli.export.weights_export import export_model
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from mmdit_cli.toy.training import train
from tests.support.toy import CPU, tiny


@pytest.fixture
def run_main(monkeypatch, capfd):
    """Runs `mmdit` in a directory: exit code, standard output."""
    from mmdit_cli.app import main

    def run(*arguments, directory):
        monkeypatch.chdir(directory)
        monkeypatch.setattr(sys, "argv", ["mmdit", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capfd.readouterr().out

    return run


def config(**run) -> ToolConfig:
    model = {
        "variant": "two_modality",
        "depth": 1,
        "modalities": {"text": {"dim": 8}, "image": {"dim": 8}},
        "dim_cond": 4,
        "heads": 1,
        "dim_head": 8,
    }
    return as_tool_config({"name": "tiny", "model": model, "run": {"tokens": {"text": 3, "image": 4}} | run})


def test_what_is_exported_is_read_back_and_compared(tmp_path):
    out = tmp_path / "m.safetensors"
    result = export_model(config(), Export(out=out, seed=3, dtype=torch.bfloat16))
    assert result.verified and result.max_abs_diff == 0
    assert result.bytes == out.stat().st_size and result.files == [str(out)]
    net = mmdit.load(out)
    assert result.parameters == sum(p.numel() for p in net.parameters())
    assert result.tensors == len(net.state_dict())
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}


def test_the_seed_decides_fresh_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_model(config(), Export(out=tmp_path / name, seed=seed))
    states = [mmdit.load(tmp_path / name).state_dict() for name in "abc"]
    key = "blocks.0.joint_attn.to_qkv.0.linear.weight"
    assert torch.equal(states[0][key], states[1][key]) and not torch.equal(states[0][key], states[2][key])


def test_weights_of_a_file_go_into_the_new_one(tmp_path):
    export_model(config(), Export(out=tmp_path / "a", seed=1))
    export_model(config(), Export(out=tmp_path / "b", weights=tmp_path / "a"))
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
        export_model(config(), Export(out=tmp_path / "m.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_needs_force(tmp_path):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists; --force replaces it"):
        export_model(config(), Export(out=out))
    assert out.read_bytes() == b"mine"
    export_model(config(), Export(out=out, force=True))
    assert isinstance(mmdit.load(out), mmdit.MMDiT)


@pytest.mark.parametrize(
    ("name", "message"), [(".", "is a folder; name a file in it"), ("no/such/file", "there is no folder")]
)
def test_a_path_that_can_not_be_written_is_refused(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_model(config(), Export(out=tmp_path / name))


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(export_checks, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"^tiny: the model needs .* kB of memory and 1 kB are free; fewer blocks"):
        export_model(config(), Export(out=tmp_path / "m"))


def test_a_model_in_bfloat16_needs_two_bytes_a_weight(tmp_path, monkeypatch):
    needed = 2 * sum(p.numel() for p in mmdit.build(config().model).parameters())
    for free, what in ((needed, nullcontext()), (needed - 1, pytest.raises(UserError, match="of memory"))):
        monkeypatch.setattr(export_checks, "free_memory", lambda device, free=free: free)
        with what:
            export_model(config(), Export(out=tmp_path / str(free), dtype=torch.bfloat16))


def test_shards_are_exported_verified_and_exported_again(tmp_path):
    single = export_model(config(), Export(out=tmp_path / "m.safetensors", seed=3))
    result = export_model(config(), Export(out=tmp_path / "out", seed=3, max_shard_size="1KB"))
    assert result.verified and result.max_abs_diff == 0
    assert sorted(result.files) == sorted(str(tmp_path / "out" / name) for name in os.listdir(tmp_path / "out"))
    assert len(result.files) > 4 and result.bytes == sum(os.path.getsize(path) for path in result.files)
    assert (result.tensors, result.parameters, result.sha256) == (single.tensors, single.parameters, single.sha256)
    again = export_model(config(), Export(out=tmp_path / "b", weights=tmp_path / "out"))
    assert again.sha256 == single.sha256 and again.source == str(tmp_path / "out")


def test_old_shards_are_replaced_by_force_and_nothing_else_is(tmp_path):
    export_model(config(), Export(out=tmp_path / "out", max_shard_size="1KB"))
    with pytest.raises(UserError, match="out: exists; --force replaces it"):
        export_model(config(), Export(out=tmp_path / "out", max_shard_size="5GB"))
    export_model(config(), Export(out=tmp_path / "out", max_shard_size="5GB", force=True))
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors"]
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UserError, match="out: holds 'thesis.tex', which would be lost"):
        export_model(config(), Export(out=tmp_path / "out", max_shard_size="5GB", force=True))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is no folder; shards go into one of their own"):
        export_model(config(), Export(out=tmp_path / "file", max_shard_size="5GB", force=True))
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]


def test_a_copy_of_shards_that_differs_leaves_the_old_ones(tmp_path, monkeypatch):
    export_model(config(), Export(out=tmp_path / "out", seed=1, max_shard_size="1KB"))
    before = {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")}
    monkeypatch.setattr(export, "digest", lambda tensor: "")
    with pytest.raises(CheckFailed, match="tensors came back changed"):
        export_model(config(), Export(out=tmp_path / "out", seed=2, max_shard_size="1KB", force=True))
    assert {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")} == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_size_that_is_none_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(UserError, match="--max-shard-size: a size is a number of bytes or a text such as 5GB"):
        export_model(config(), Export(out=tmp_path / "out", max_shard_size="5 apples"))


def test_weights_that_changed_on_the_disk_are_not_exported(tmp_path):
    export_model(config(), Export(out=tmp_path / "a"))
    content = bytearray((tmp_path / "a").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a: its tensors are not those that were written: their hash differs"):
        export_model(config(), Export(out=tmp_path / "b", weights=tmp_path / "a"))


@pytest.mark.usefixtures("bare_training")
def test_a_run_gives_its_averaged_weights_or_the_raw_ones(tmp_path, run_main):
    settings = tiny()
    train(settings, device=CPU, run_dir=tmp_path / "run")
    newest, _ = newest_checkpoint(tmp_path / "run")
    tensors = {}
    for raw, name in ((False, "ema.safetensors"), (True, "weights.safetensors")):
        export_model(settings, Export(out=tmp_path / name, weights=tmp_path / "run", raw=raw))
        tensors[raw], held = load_file(tmp_path / name), load_file(newest.path / name)
        assert all(torch.equal(held[key], tensor) for key, tensor in tensors[raw].items())
    assert any(not torch.equal(tensors[True][key], tensor) for key, tensor in tensors[False].items())
    code, out = run_main("export", "-c", "run", "--out", "c.safetensors", directory=tmp_path)
    assert code == 0 and "weights" in out and "run/checkpoint-" in out
    taken = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(taken[key], tensor) for key, tensor in tensors[False].items())
    messages = []
    (newest.path / "weights.safetensors").write_bytes(b"torn")
    result = export_model(settings, Export(out=tmp_path / "b", weights=tmp_path / "run", on_message=messages.append))
    assert len(messages) == 1 and "is damaged" in messages[0] and str(newest.path) not in result.source


def test_fresh_weights_are_said_to_be_and_those_of_a_file_named_as_config_are_taken(tmp_path, run_main):
    (tmp_path / "small.json").write_text(json.dumps(as_data(config())))
    code, out = run_main("export", "-c", "small.json", "--out", "a.safetensors", "--seed", "3", directory=tmp_path)
    assert code == 0 and "fresh, of seed 3" in out
    code, out = run_main("export", "-c", "a.safetensors", "--out", "b.safetensors", directory=tmp_path)
    assert code == 0 and "a.safetensors" in out and "fresh" not in out
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(first[key], tensor) for key, tensor in again.items())


def test_a_program_is_what_the_name_of_its_file_says(tmp_path, run_main, monkeypatch):
    asked = []

    def export_program(config, given, *, format):
        asked.append(format)
        raise UserError("asked")

    monkeypatch.setattr("mmdit_cli.export.program_export.export_program", export_program)
    (tmp_path / "small.json").write_text(json.dumps(as_data(config())))
    for name in ("p.pt2", "p.onnx"):
        assert run_main("export", "-c", "small.json", "--out", name, directory=tmp_path)[0] == 2
    assert asked == ["pt2", "onnx"]


@pytest.mark.parametrize("weights", [None, "file"])
def test_raw_weights_are_those_of_a_run(weights, tmp_path):
    export_model(config(), Export(out=tmp_path / "file"))
    with pytest.raises(UserError, match="--weights must name the run's folder"):
        export_model(config(), Export(out=tmp_path / "m", weights=weights and tmp_path / weights, raw=True))


MEASURED = """
import resource, sys
from pathlib import Path
from mmdit_cli.export.weights_export import export_model
from mmdit_cli.request.tool_config import as_tool_config

def export(dim, out, **options):
    modalities = {"text": {"dim": dim}, "image": {"dim": dim}}
    model = {"variant": "two_modality", "depth": 7, "modalities": modalities, "heads": 8, "dim_head": 64}
    run = {"tokens": {"text": 4, "image": 4}}
    return export_model(as_tool_config({"name": "x", "model": model, "run": run}), Export(out=out, **options))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

out, weights, shards = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
export(8, out.with_name("small"), force=True)  # whatever is imported and prepared once
before = peak()
size = export(1024, out, weights=Path(weights) if weights else None, max_shard_size=shards or None).bytes
print(size, peak() - before)
"""


@pytest.mark.slow
def test_no_second_copy_of_the_model_is_ever_in_memory(tmp_path):
    def measured(name: str, weights: str = "", shards: str = "") -> tuple[int, int]:
        command = [sys.executable, "-c", MEASURED, str(tmp_path / name), weights, shards]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        size, grown = done.stdout.split()
        return int(size), int(grown)

    for size, grown in (measured("a"), measured("b", shards="100MB"), measured("c", weights=str(tmp_path / "a"))):
        assert size > 500e6 and grown < 1.2 * size
