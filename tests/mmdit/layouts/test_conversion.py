"""Files of other layouts, as a user meets them: checked by their headers, converted, loaded, brought back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mmdit
from benchmarks.families.comparison import call_theirs, ours_of, random_call, random_theirs, relative
from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from mmdit.layouts import to_layout
from mmdit.layouts.layout import Layout
from mmdit.options import as_written
from mmdit.weights import writer
from mmdit.weights.saved_model import CheckpointError
from mmdit.weights.writer import TensorSpec, layout_of
from mmdit_cli.errors import UserError
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from mmdit_cli.shape_check.weights import check_weights
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.sparse_files import sparse

PREFIX = "model.diffusion_model."


def written(config, *, source, target, **asked):
    return convert_weights(config, Export(**asked), source=source, target=target)


def tool_config(family) -> ToolConfig:
    return as_tool_config(
        {"name": family.config, "model": family.small_config().model, "run": {"tokens": {"text": 7, family.drawn: 16}}}
    )


def config_file(family, path: Path) -> Path:
    model = as_written(family.small_config().model)
    content = {"name": family.config, "model": model, "run": {"tokens": {family.drawn: 16}}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def save_theirs(family, path: Path) -> Path:
    save_file(dict(random_theirs(family).state_dict()), path, metadata={"format": "pt"})
    return path


def official(family, path: Path, layout: str, prefix: str = PREFIX) -> Path:
    """A file as its publisher made it: in half precision, with the whole pipeline's autoencoder in it."""
    ours = ours_of(random_theirs(family), family).bfloat16()
    theirs = to_layout(ours.state_dict(), family.small_config().model, layout)
    tensors = {prefix + name: x for name, x in theirs.items()}
    if prefix:
        tensors |= {
            "first_stage_model.decoder.conv_in.bias": torch.ones(3),
            "first_stage_model.encoder.x": torch.ones(2),
        }
    save_file(tensors, path, metadata={"modelspec.title": "x"})
    return path


@pytest.mark.parametrize("family", slow_but(FAMILIES, BY_NAME["sd3.5-medium"], BY_NAME["flux.1-dev"]), ids=str)
def test_a_file_of_diffusers_becomes_ours_and_comes_back_byte_for_byte(family, tmp_path):
    config, theirs = tool_config(family), save_theirs(family, tmp_path / "theirs")
    result = written(config, out=tmp_path / "ours", weights=theirs, source="diffusers", target="mmdit")
    assert result.verified and result.max_abs_diff == 0 and result.changed == ()
    written(config, out=tmp_path / "back", weights=tmp_path / "ours", source="mmdit", target="diffusers")
    assert (tmp_path / "back").read_bytes() == theirs.read_bytes()
    arguments = random_call(family)
    with torch.no_grad():
        got = mmdit.load(tmp_path / "ours", verify=True)(**arguments)[family.drawn]
        wanted = call_theirs(random_theirs(family), family, arguments)
    assert relative(got, wanted) < 1e-5


@pytest.mark.parametrize(
    ("name", "layout", "prefix"),
    [
        ("sd3.5-large", "stability", PREFIX),
        pytest.param("flux.1-dev", "flux", "", marks=pytest.mark.slow),
        pytest.param("sd3-medium", "stability", PREFIX, marks=pytest.mark.slow),
        pytest.param("sd3.5-medium", "stability", "", marks=pytest.mark.slow),
        pytest.param("flux.1-dev", "flux", PREFIX, marks=pytest.mark.slow),
        pytest.param("flux.2-dev", "flux", "", marks=pytest.mark.slow),
    ],
)
def test_an_official_file_is_checked_converted_and_brought_back(name, layout, prefix, tmp_path):
    family = BY_NAME[name]
    config, file = tool_config(family), official(family, tmp_path / "official", layout, prefix)
    check = check_weights(config.model, file, layout)
    assert check.problems == [] and check.prefix == prefix and check.left_aside == (2 if prefix else 0)
    said: list[str] = []
    result = written(config, out=tmp_path / "ours", weights=file, source=layout, target="mmdit", on_message=said.append)
    assert result.left_aside == (2 if prefix else 0)
    assert bool(said) == bool(prefix) and all("first_stage_model.decoder.conv_in.bias" in line for line in said)
    net = mmdit.load(tmp_path / "ours")
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}  # as it was
    written(config, out=tmp_path / "back", weights=tmp_path / "ours", source="mmdit", target=layout)
    back, was = load_file(tmp_path / "back"), load_file(file)
    assert {key: x.dtype for key, x in back.items()} == {
        key: x.dtype for key, x in was.items() if not key.startswith("first_stage")
    }
    assert all(torch.equal(x, was[key]) for key, x in back.items())
    with safe_open(tmp_path / "back", "pt") as opened:
        assert opened.metadata() == {"modelspec.title": "x"}


@pytest.mark.parametrize("family", slow_but(FAMILIES, BY_NAME["flux.2-dev"]), ids=str)
def test_the_header_of_a_full_size_file_is_checked_without_reading_it(family, tmp_path):
    """A sparse file with the published names and shapes, of up to 64 GB."""
    with torch.device("meta"):
        state = family.theirs(**family.published).state_dict()
    specs = {name: TensorSpec(torch.bfloat16, tuple(x.shape)) for name, x in state.items()}
    file = sparse(tmp_path / "theirs.safetensors", layout_of(specs))
    assert file.stat().st_size > 2 * family.parameters
    config = mmdit.config.as_config(CONFIGS / f"{family.config}.yaml").model
    assert check_weights(config, file, "diffusers").problems == []
    *_, last = specs
    renamed = {(name + "_" if name == last else name): spec for name, spec in specs.items()}
    problems = check_weights(config, sparse(file, layout_of(renamed)), "diffusers").problems
    assert problems == [f"{last} is missing (is it {last}_?)", f"{last}_ is not in the model"]


def test_a_published_file_is_loaded_with_its_config_and_layout(tmp_path):
    family = BY_NAME["flux.1-dev"]
    file, config = save_theirs(family, tmp_path / "theirs"), family.small_config()
    arguments = random_call(family)
    with torch.no_grad():
        got = mmdit.load(file, config=config, layout="diffusers")(**arguments)[family.drawn]
        assert relative(got, call_theirs(random_theirs(family), family, arguments)) < 1e-5
        assert relative(mmdit.load(file, config=config)(**arguments)[family.drawn], got) == 0
    for layout in ("diffusers", None):
        with pytest.raises(CheckpointError, match="in the layout diffusers says nothing of its model; pass its config"):
            mmdit.load(file, layout=layout)
    with pytest.raises(CheckpointError, match="has the names of the layout diffusers, not of flux"):
        mmdit.load(file, config=config, layout="flux")


def test_a_file_of_several_types_is_loaded_in_the_one_that_holds_them_all(tmp_path):
    family = BY_NAME["sd3-medium"]
    net, config = random_theirs(family), family.small_config()
    halves = {name: x.bfloat16() if x.ndim == 2 and "to_q" not in name else x for name, x in net.state_dict().items()}
    save_file(halves, tmp_path / "theirs")
    net.load_state_dict(halves)
    arguments = random_call(family)
    with torch.no_grad():
        ours = mmdit.load(tmp_path / "theirs", config=config, layout="diffusers")
        assert {x.dtype for x in ours.parameters()} == {torch.float32}
        assert relative(ours(**arguments)["image"], call_theirs(net, family, arguments)) < 1e-5
        half = mmdit.load(tmp_path / "theirs", config=config, layout="diffusers", dtype=torch.bfloat16)
        assert {x.dtype for x in half.parameters()} == {torch.bfloat16}
    ours.time_embed.bfloat16()
    mmdit.save(ours, tmp_path / "ours")
    assert {x.dtype for x in mmdit.load(tmp_path / "ours").parameters()} == {torch.float32}


def test_shards_are_converted_and_written(tmp_path):
    family = BY_NAME["sd3-medium"]
    config, file = tool_config(family), save_theirs(family, tmp_path / "theirs")
    kwargs = dict(source="diffusers", target="mmdit", max_shard_size="1MB")
    result = written(config, out=tmp_path / "ours", weights=file, **kwargs)
    assert len(result.files) > 2 and mmdit.load(tmp_path / "ours", config=config.model, verify=True)
    written(config, out=tmp_path / "back", weights=tmp_path / "ours", source="mmdit", target="diffusers")
    assert load_file(tmp_path / "back").keys() == load_file(file).keys()


def test_a_dtype_converts_the_weights_that_are_written(tmp_path):
    family = BY_NAME["qwen-image"]
    config, file = tool_config(family), save_theirs(family, tmp_path / "theirs")
    written(config, out=tmp_path / "ours", weights=file, source="diffusers", target="mmdit", dtype=torch.bfloat16)
    wanted = ours_of(random_theirs(family), family).bfloat16().state_dict()
    assert all(torch.equal(x, wanted[name]) for name, x in load_file(tmp_path / "ours").items())


@pytest.mark.parametrize("name", slow_but(["sd3-medium", "auraflow"], "sd3-medium"))
def test_files_of_half_precision_come_back_byte_for_byte(name, tmp_path):
    family = BY_NAME[name]
    config, theirs = tool_config(family), tmp_path / "theirs"
    save_file({key: x.half() for key, x in random_theirs(family).state_dict().items()}, theirs)
    result = written(config, out=tmp_path / "ours", weights=theirs, source="diffusers", target="mmdit")
    assert set(result.changed) <= {"pos_embed.pos_embed"}  # the table is computed anew, and rounded as theirs
    written(config, out=tmp_path / "back", weights=tmp_path / "ours", source="mmdit", target="diffusers")
    back, was = load_file(tmp_path / "back"), load_file(theirs)
    assert all(torch.equal(x, was[key]) and x.dtype == torch.float16 for key, x in back.items())
    assert back.keys() == was.keys()


def test_tensors_of_several_dtypes_that_become_one_need_a_dtype(tmp_path):
    family = BY_NAME["sd3-medium"]
    config, state = tool_config(family), dict(random_theirs(family).state_dict())
    mixed = next(name for name in state if name.endswith("attn.to_q.weight"))
    state[mixed] = state[mixed].bfloat16()
    save_file(state, tmp_path / "theirs")
    kwargs = dict(out=tmp_path / "ours", weights=tmp_path / "theirs", source="diffusers", target="mmdit")
    with pytest.raises(UserError, match=r"several dtypes \(bfloat16, float32\).*--dtype"):
        written(config, **kwargs)
    assert written(config, **kwargs, dtype=torch.float32).verified


ORIGINS = [
    "[]",
    "{",
    '{"layout": "diffusers"}',
    '{"layout": "diffusers", "prefix": "../", "metadata": {}}',
    '{"layout": "diffusers", "prefix": "", "metadata": {"a": 1}}',
    '{"layout": [], "prefix": "", "metadata": 3}',
    "[" * 100_000,
]


@pytest.mark.parametrize("origin", slow_but(ORIGINS, ORIGINS[4], ORIGINS[6]))
def test_what_a_file_says_of_its_origin_is_not_trusted(origin, tmp_path):
    family = BY_NAME["sd3-medium"]
    config = tool_config(family)
    written(config, out=tmp_path / "ours", weights=None, source="mmdit", target="mmdit")
    with safe_open(tmp_path / "ours", "pt") as opened:
        metadata = opened.metadata() | {"mmdit_converted_from": origin}
    save_file(load_file(tmp_path / "ours"), tmp_path / "hostile", metadata=metadata)
    written(config, out=tmp_path / "back", weights=tmp_path / "hostile", source="mmdit", target="diffusers")
    with safe_open(tmp_path / "back", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_what_was_written_wrong_is_noticed(tmp_path, monkeypatch):
    family = BY_NAME["qwen-image"]
    file = save_theirs(family, tmp_path / "theirs")
    monkeypatch.setattr(writer, "_write_whole", lambda file, data: file.write(bytes(data)[:-1] + b" "))
    with pytest.raises(CheckpointError, match=r"ours: .* came back changed, so nothing was written"):
        written(
            tool_config(family),
            out=tmp_path / "ours",
            weights=file,
            source="diffusers",
            target="mmdit",
            dtype=torch.bfloat16,
        )
    assert os.listdir(tmp_path) == ["theirs"]


def test_memory_is_no_matter_but_the_disk_is(tmp_path, monkeypatch):
    """No model is built, so that one larger than the memory is converted; a full disk is noticed beforehand."""
    from mmdit_cli.export import preconditions as export_checks

    family = BY_NAME["sd3-medium"]
    file = save_theirs(family, tmp_path / "theirs")
    monkeypatch.setattr(export_checks, "free_memory", lambda device: 1000)
    kwargs = dict(weights=file, source="diffusers", target="mmdit")
    assert written(tool_config(family), out=tmp_path / "ours", **kwargs).verified
    monkeypatch.setattr(export_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"needs .* on the disk and 1 kB are free"):
        written(tool_config(family), out=tmp_path / "more", **kwargs)


def test_fresh_weights_are_written_in_another_layout(tmp_path):
    family = BY_NAME["flux.2-dev"]
    written(tool_config(family), out=tmp_path / "fresh", weights=None, source="mmdit", target="diffusers", seed=3)
    theirs = random_theirs(family)
    theirs.load_state_dict(load_file(tmp_path / "fresh"))
    torch.manual_seed(3)
    net = mmdit.build(family.small_config())
    arguments = random_call(family)
    assert torch.equal(net(**arguments)["image"], torch.zeros_like(arguments["inputs"]["image"]))  # adaLN-zero
    assert torch.equal(theirs.x_embedder.weight, net.inputs["image"].linear.weight)


def test_fresh_weights_in_bfloat16_are_never_there_in_float32(tmp_path, monkeypatch):
    """So that they fit where they need two bytes each, and are those of float32 rounded."""
    from mmdit_cli.export import preconditions as export_checks

    family = BY_NAME["flux.2-dev"]
    count = sum(p.numel() for p in mmdit.build(family.small_config()).parameters())
    monkeypatch.setattr(export_checks, "free_memory", lambda device: 2 * count)
    kwargs = dict(weights=None, source="mmdit", target="diffusers", seed=3)
    written(tool_config(family), out=tmp_path / "half", dtype=torch.bfloat16, **kwargs)
    with pytest.raises(UserError, match="of memory"):
        written(tool_config(family), out=tmp_path / "whole", **kwargs)
    monkeypatch.undo()
    written(tool_config(family), out=tmp_path / "whole", **kwargs)
    half, whole = load_file(tmp_path / "half"), load_file(tmp_path / "whole")
    assert all(torch.equal(half[name], x.bfloat16()) for name, x in whole.items())


def test_a_table_of_positions_of_another_config_is_refused(tmp_path):
    family = BY_NAME["sd3-medium"]
    model = as_written(family.small_config().model)
    model["modalities"]["image"]["input"]["base_size"] = 12
    config = as_tool_config({"model": model, "run": {"tokens": {"image": 16}}})
    file = save_theirs(family, tmp_path / "theirs")
    with pytest.raises(UserError, match="pos_embed.pos_embed is not the sine-cosine table of this config.*base_size"):
        written(config, out=tmp_path / "ours", weights=file, source="diffusers", target="mmdit")
    assert not (tmp_path / "ours").exists()


def test_what_comes_back_changed_fails_and_leaves_no_file(tmp_path, monkeypatch):
    family = BY_NAME["qwen-image"]
    file = save_theirs(family, tmp_path / "theirs")
    to_ours = Layout.to_ours

    def wrong(self, name, read):
        return to_ours(self, name, read) + (self.name == "diffusers" and name.endswith("proj_in.bias"))

    monkeypatch.setattr(Layout, "to_ours", wrong)
    with pytest.raises(CheckpointError, match=r"net.0.proj.bias came back changed by 1"):
        written(tool_config(family), out=tmp_path / "ours", weights=file, source="diffusers", target="mmdit")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("name", "layout", "prefix"),
    [
        ("qwen-image", "diffusers", "model.diffusion_model."),
        pytest.param("sd3.5-medium", "mmdit", "module._orig_mod.", marks=pytest.mark.slow),
        pytest.param("flux.1-dev", "flux", "module.", marks=pytest.mark.slow),
        pytest.param("flux.1-dev", "diffusers", "transformer.", marks=pytest.mark.slow),
        pytest.param("sd3.5-medium", "stability", "_orig_mod.", marks=pytest.mark.slow),
    ],
)
def test_layout_and_prefix_are_recognized_where_they_are_left_out(name, layout, prefix, run_command, tmp_path):
    family = BY_NAME[name]
    config_file(family, tmp_path / "c.yaml")
    official(family, tmp_path / "f.safetensors", layout, prefix)
    checked = run_command("shape-check", "-c", "c.yaml", "--weights", "f.safetensors", "--json")
    held = json.loads(checked.stdout)["results"][0]["weights"]
    assert (checked.returncode, held["layout"], held["prefix"], held["left_aside"]) == (0, layout, prefix, 2)
    to = ["--to", "mmdit"] if layout == "mmdit" else []
    done = run_command("export", "-c", "c.yaml", "--weights", "f.safetensors", "--out", "ours", *to)
    assert done.returncode == 0, done.stderr
    ours = ours_of(random_theirs(family), family).bfloat16().state_dict()
    assert all(torch.equal(x, ours[key]) for key, x in mmdit.load("ours").state_dict().items())
    if layout != "mmdit":
        assert mmdit.load("f.safetensors", config="c.yaml").state_dict().keys() == ours.keys()


@pytest.mark.slow
def test_the_three_commands_of_a_user_with_an_official_file(run_command, quick_ceilings, tmp_path):
    family = BY_NAME["flux.1-dev"]
    config_file(family, tmp_path / "c.yaml")
    official(family, tmp_path / "flux.safetensors", "flux")
    checked = run_command("shape-check", "-c", "c.yaml", "--weights", "flux.safetensors", "--from", "flux")
    assert checked.returncode == 0, checked.stderr
    assert "every tensor is there, and no other" in checked.stdout
    done = run_command(
        "export", "-c", "c.yaml", "--weights", "flux.safetensors", "--from", "flux", "--out", "ours", "--json"
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["source_layout"] == "flux" and result["layout"] == "mmdit" and result["verified"]
    assert "left aside: 2 tensors" in done.stderr
    back = run_command(
        "export",
        "-c",
        "c.yaml",
        "--weights",
        "ours",
        "--to",
        "diffusers",
        "--out",
        "transformer",
        "--max-shard-size",
        "1MB",
    )
    assert back.returncode == 0, back.stderr
    assert Path("transformer/diffusion_pytorch_model.safetensors.index.json").is_file()  # as diffusers names it
    again = run_command(
        "export", "-c", "transformer", "--out", "again"
    )  # its config.json is one, and its weights those
    assert again.returncode == 0, again.stderr
    assert load_file("again").keys() == load_file("ours").keys()
    assert all(torch.equal(x, load_file("ours")[name]) for name, x in load_file("again").items())
    profiled = run_command("profile", "-c", "c.yaml", "--repeats", "1", "--max-seconds", "0.1", "--json")
    assert json.loads(profiled.stdout)["results"][0]["parameters"] == result["parameters"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shape-check", "--weights", "theirs", "--from", "mmdit"], 1, r"its names are those of --from diffusers"),
        (["shape-check", "--weights", "theirs", "--from", "flux"], 2, r"--from flux: the layout 'flux' has no place"),
        (
            ["export", "--weights", "theirs", "--from", "mmdit", "--out", "x"],
            2,
            "has the names of another layout; say --from diffusers, or leave it out",
        ),
        (
            ["export", "--weights", "theirs", "--from", "stability", "--out", "x"],
            2,
            "names of another layout; say --from diffusers",
        ),
        (["export", "--from", "diffusers", "--out", "x"], 2, "names the layout of --weights, which is missing"),
        (["export", "--to", "lucidrains", "--out", "x"], 2, "its networks are bare"),
        (["export", "--to", "comfy", "--out", "x"], 2, "comfy"),
        (["export", "--weights", "none", "--from", "diffusers", "--out", "x"], 2, "none: no such file"),
        (["export", "--weights", "theirs", "--from", "diffusers", "--out", "theirs"], 2, "--force replaces it"),
    ],
)
def test_a_request_that_can_not_be_is_one_message(arguments, code, message, run_command, tmp_path):
    family = BY_NAME["sd3-medium"]
    save_theirs(family, tmp_path / "theirs")
    config_file(family, tmp_path / "c.yaml")
    done = run_command(*arguments, "-c", "c.yaml")
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr.replace("\n", " ")), done.stderr
    assert not (tmp_path / "x").exists()
