"""Folders of diffusers: `from_pretrained` opens what we wrote, and we open what `save_pretrained` wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import mmdit
from benchmarks.families.comparison import call_theirs, ours_of, random_call, random_theirs, relative
from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from mmdit.config import ConfigError, as_config
from mmdit.config.diffusers_classes import CLASSES
from mmdit.config.shipped import shipped_configs
from mmdit.layouts import LayoutError
from mmdit.layouts.diffusers_files import written_config
from mmdit.layouts.published_names import published_configs
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CheckpointError
from mmdit_cli.errors import UserError
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.request.tool_config import as_tool_config
from mmdit_cli.shape_check.identity import identify
from tests.support.marks import slow_but

QUICK = [BY_NAME["flux.1-schnell"]]


def tool_config(model, drawn: str = "image"):
    return as_tool_config({"name": "small", "model": model, "run": {"tokens": {"text": 7, drawn: 16}}})


def exported(family, out: Path, weights: Path | None = None, **asked) -> Path:
    config = tool_config(family.small_config().model, family.drawn)
    given = Export(out=out, weights=weights, max_shard_size="10GB", **asked)
    convert_weights(config, given, source=None, target="diffusers")
    return out


@pytest.fixture(scope="module")
def schnell(tmp_path_factory) -> Path:
    """A folder of shards that diffusers wrote."""
    folder = tmp_path_factory.mktemp("schnell")
    random_theirs(BY_NAME["flux.1-schnell"]).save_pretrained(folder, max_shard_size="200KB")
    return folder


@pytest.mark.parametrize("family", slow_but(FAMILIES, *QUICK), ids=str)
def test_each_opens_what_the_other_wrote(family, tmp_path):
    theirs, arguments = random_theirs(family), random_call(family)
    theirs.save_pretrained(tmp_path / "theirs")
    wrote = mmdit.load(tmp_path / "theirs")  # with the config and the names that are found there
    mmdit.save(ours_of(theirs, family), tmp_path / "ours.safetensors")
    back = type(theirs).from_pretrained(exported(family, tmp_path / "out", tmp_path / "ours.safetensors"))
    with torch.no_grad():
        wanted = call_theirs(theirs, family, arguments)
        assert relative(call_theirs(back.eval(), family, arguments), wanted) < 1e-6
        given = mmdit.load(tmp_path / "ours.safetensors")(**arguments)[family.drawn]
        assert relative(given, wanted) < 1e-5
        if (
            wrote.config == family.small_config().model
        ):  # of those that edit, diffusers' class does not say what they do
            assert relative(wrote(**arguments)[family.drawn], wanted) < 1e-5
    assert wrote.state_dict().keys() == mmdit.load(tmp_path / "ours.safetensors").state_dict().keys()


@pytest.mark.parametrize(
    "name", slow_but(published_configs(), "flux.1-kontext-dev", "qwen-image-layered", "mmaudio-small-16k")
)
def test_the_arguments_of_a_published_network_give_its_config_back(name):
    config = as_config(name).model
    try:
        written = written_config(config)
    except LayoutError:
        assert name in (
            "two-modality",
            "generalized",
            "adaptive",
            "adaptive-generalized",
            "mmaudio-small-16k",
            "video-to-audio",
        )
        return
    assert written["_class_name"] in CLASSES and json.loads(json.dumps(written))["_diffusers_version"]


@pytest.mark.parametrize("family", slow_but(FAMILIES, *QUICK), ids=str)
def test_the_classes_defaults_are_those_of_diffusers(family):
    """A config.json may leave arguments out."""
    import inspect

    made = inspect.signature(type(family.theirs(**family.options)).__init__).parameters
    ours = CLASSES[type(family.theirs(**family.options)).__name__].arguments
    theirs = {name: each.default for name, each in made.items() if name != "self"}
    as_data = lambda x: list(x) if isinstance(x, tuple) else x  # noqa: E731
    assert {name: as_data(each.default) for name, each in ours.items()} == {k: as_data(v) for k, v in theirs.items()}


def test_a_pipeline_and_the_hubs_cache_lead_to_the_transformer(schnell, tmp_path):
    pipeline = tmp_path / "models--org--name" / "snapshots" / "abc123"
    (pipeline / "vae").mkdir(parents=True)
    (pipeline / "model_index.json").write_text("{}")
    blobs = pipeline.parent.parent / "blobs"
    blobs.mkdir()
    (pipeline / "transformer").mkdir()
    for file in schnell.iterdir():  # as the cache has them: links whose targets have no suffix
        shutil.copy(file, blobs / file.name.replace(".", ""))
        (pipeline / "transformer" / file.name).symlink_to(f"../../../blobs/{file.name.replace('.', '')}")
    names = WeightFiles(schnell).tensors.keys()
    for path in (pipeline, pipeline.parent.parent, pipeline / "transformer"):
        assert WeightFiles(path).tensors.keys() == names
        assert as_config(path).model == BY_NAME["flux.1-schnell"].small_config().model
    (pipeline.parent / "def456").mkdir()
    with pytest.raises(CheckpointError, match="is a folder without"):  # which of the two is meant?
        WeightFiles(pipeline.parent.parent)
    (pipeline.parent.parent / "refs").mkdir()
    (pipeline.parent.parent / "refs" / "main").write_text("abc123\n")
    assert WeightFiles(pipeline.parent.parent).tensors.keys() == names


def test_variants_are_found_and_several_are_a_question(schnell, tmp_path):
    random_theirs(BY_NAME["flux.1-schnell"]).save_pretrained(tmp_path, variant="fp16", max_shard_size="200KB")
    assert WeightFiles(tmp_path).tensors.keys() == WeightFiles(schnell).tensors.keys()
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    assert WeightFiles(tmp_path).path == index
    shutil.copy(index, tmp_path / "diffusion_pytorch_model.safetensors.index.bf16.json")
    with pytest.raises(CheckpointError, match="holds 2 of them; name one"):
        WeightFiles(tmp_path)
    for file in schnell.glob("*.safetensors*"):
        shutil.copy(file, tmp_path)
    assert WeightFiles(tmp_path).path == tmp_path / "diffusion_pytorch_model.safetensors.index.json"


def test_shards_that_an_index_does_not_name_are_said_and_left(schnell, tmp_path):
    folder = shutil.copytree(schnell, tmp_path / "x")
    (folder / "diffusion_pytorch_model-00001-of-00009.safetensors").write_bytes(b"older")
    found = identify(folder)
    assert found.ok and found.config == str(folder) and "-00001-of-00009" in found.doubts[0]
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="without their index, which says what is where"):
        WeightFiles(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "is no class of a network that mmdit knows"),
        ({"_class_name": 3}, "3 is no class"),
        ({"in_channels": 17}, "in_channels: expected a multiple of 4, got 17"),
        ({"in_channels": "64"}, "in_channels: expected something like 64, got '64'"),
        ({"num_layers": 10**9}, "model.depth"),
        ({"num_layers": None}, "num_layers: expected something like 19"),
        ({"axes_dims_rope": 3}, "axes_dims_rope: expected something like"),
        ({"axes_dims_rope": [16, "56"]}, "axes_dims_rope: expected something like"),
        ({"guidance_embeds": 1}, "guidance_embeds: expected something like False"),
        ({"patch_size": 4}, "patch_size: expected 1, got 4"),
        ({"num_attention_heads": [1]}, "num_attention_heads: expected something like 24"),
        ({"something_new": 3}, "something_new.*does not know"),
        ({"num_attention_heads": 0}, "heads"),
    ],
)
def test_a_config_json_that_is_none_of_ours_is_one_message(change, message, schnell, tmp_path):
    content = json.loads((schnell / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message) as caught:
        as_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_no_class_of_diffusers_is_is_refused_before_it_is_written(tmp_path):
    family = BY_NAME["flux.1-schnell"]
    config = tool_config(family.small_config().model)
    odd = tool_config(mmdit.options.as_data(config.model) | {"adaln": "identity"})
    with pytest.raises(
        UserError, match="no class of diffusers is this model; Flux.* has another model.adaln; --out NAME.safetensors"
    ):
        convert_weights(odd, Export(out=tmp_path / "out", max_shard_size="10GB"), source=None, target="diffusers")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_that_we_wrote_for_diffusers_is_replaced_by_force_and_theirs_is_not(schnell, tmp_path):
    family = BY_NAME["flux.1-schnell"]
    exported(family, tmp_path / "out")
    with pytest.raises(UserError, match="--force"):
        exported(family, tmp_path / "out")
    exported(family, tmp_path / "out", force=True)
    theirs = shutil.copytree(schnell, tmp_path / "theirs")
    with pytest.raises(UserError, match=r"holds 'config.json', which would be lost"):
        exported(family, theirs, force=True)


def test_every_shipped_config_is_found_by_the_table():
    bases = {base for known in CLASSES.values() for base in known.bases}
    assert bases <= shipped_configs().keys()
