from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmdit
from mmdit.weights import shards
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CheckpointError
from mmdit.weights.shards import not_an_export, parse_size, split, writing
from mmdit.weights.writer import TensorSpec, specs_of
from tests.support.draws import drawn

CONFIG = {"variant": "two_modality", "depth": 2, "modalities": {"text": {"dim": 8}, "image": {"dim": 8}}}
CONFIG |= {"dim_cond": 4, "heads": 1, "dim_head": 8}
INDEX = "model.safetensors.index.json"
KEY = "blocks.0.feedforwards.0.proj_out.weight"


@pytest.fixture
def model():
    return drawn(mmdit.build(CONFIG)).float()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    mmdit.save(model, tmp_path / "out", max_shard_size=4000)
    return tmp_path / "out"


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("800000", 800_000),
        ("4.1kb", 4100),
        ("1B", 1),
        (7, 7),
        ("2TB", 2 * 10**12),
        ("24G", 24 * 10**9),
        ("24Gi", 24 << 30),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "-5GB", "5 G B", "GB", "5XB", "1e9", "nan", "0.1B", "٥GB", "9" * 400, True, 0]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="a size is a number of bytes or a text such as 5GB"):
        parse_size(text)


def test_files_are_filled_in_order_and_a_large_tensor_has_its_own():
    specs = {
        name: TensorSpec(torch.uint8, (size,)) for name, size in zip("abcdefg", (4, 6, 1, 30, 5, 5, 0), strict=True)
    }
    assert split(specs, 10) == [["a", "b"], ["c"], ["d"], ["e", "f", "g"]]
    assert split({}, 10) == [[]]


@pytest.mark.parametrize("size", [160, 200, 1000])
def test_the_split_is_that_of_huggingface_hub_where_every_tensor_fits(size):
    hub = pytest.importorskip("huggingface_hub")
    draw = torch.Generator().manual_seed(size)
    tensors = {f"{i}": torch.zeros(int(torch.randint(1, 40, (), generator=draw))) for i in range(50)}
    theirs = hub.split_torch_state_dict_into_shards(tensors, max_shard_size=size)
    assert split(specs_of(tensors), size) == list(theirs.filename_to_tensors.values())


def test_shards_are_laid_out_as_on_the_hub_and_hold_every_tensor_once(model, folder):
    names = sorted(os.listdir(folder))
    count = len(names) - 3
    assert count > 2
    shards = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert names == ["README.md", "config.json", *shards, INDEX]
    index = json.loads((folder / INDEX).read_text())
    held = {name: shard for shard in shards for name in load_file(folder / shard)}
    assert index["weight_map"] == held and held.keys() == model.state_dict().keys()
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in model.parameters())
    for shard in shards:
        tensors = load_file(folder / shard)
        assert sum(x.nbytes for x in tensors.values()) <= 4000 or len(tensors) == 1


@pytest.mark.parametrize("name", ["", INDEX])
def test_shards_rebuild_the_model_to_the_bit(name, model, folder):
    loaded = mmdit.load(folder / name, verify=True)
    assert loaded.config == model.config
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in model.state_dict().items())


def test_the_config_beside_the_shards_builds_the_same_model(model, folder):
    assert mmdit.build(folder / "config.json").config == model.config


def test_what_save_returns_is_what_is_there(model, folder, tmp_path):
    written = mmdit.save(model, folder, max_shard_size=4000)
    assert sorted(file.name for file in written.files) == sorted(os.listdir(folder))
    assert written.bytes == sum(file.stat().st_size for file in written.files)
    single = mmdit.save(model, tmp_path / "x.safetensors")
    assert (single.files, single.bytes) == ((tmp_path / "x.safetensors",), (tmp_path / "x.safetensors").stat().st_size)
    assert single.sha256 == written.sha256  # however they are shared out


def test_weights_that_fit_into_one_file_have_no_index(model, folder):
    mmdit.save(model, folder, max_shard_size="5GB")
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert mmdit.load(folder, verify=True).config == model.config


def test_foreign_shards_have_the_stem_and_the_metadata_that_are_asked_for(tmp_path):
    tensors, folder = {name: torch.randn(4) for name in "abc"}, tmp_path / "out"
    done = []
    with writing(
        folder,
        specs_of(tensors),
        tensors.__getitem__,
        {"format": "pt"},
        max_shard_size=32,
        stem="diffusion_pytorch_model",
        hashed=False,
        on_tensor=lambda *count: done.append(count),
    ):
        pass
    assert not_an_export(folder) is None
    first, second, index = sorted(os.listdir(folder))
    assert first == "diffusion_pytorch_model-00001-of-00002.safetensors"
    save_file({name: tensors[name] for name in "ab"}, tmp_path / "theirs", metadata={"format": "pt"})
    assert (folder / first).read_bytes() == (tmp_path / "theirs").read_bytes()
    assert json.loads((folder / index).read_text()) == {
        "metadata": {"total_size": 48},
        "weight_map": {"a": first, "b": first, "c": second},
    }
    assert done == [(1, 3), (2, 3), (3, 3)]
    with WeightFiles(folder) as files:
        assert files.metadata == {"format": "pt"} and files.sha256 is None
        assert all(torch.equal(files.read(name), tensors[name]) for name in "abc")


def test_a_shard_of_another_model_of_that_config_does_not_verify(model, folder, tmp_path):
    with torch.no_grad():
        model.blocks[0].feedforwards[0].proj_out.weight += 1
    mmdit.save(model, tmp_path / "other", max_shard_size=4000)
    shard = json.loads((folder / INDEX).read_text())["weight_map"][KEY]
    (folder / shard).write_bytes((tmp_path / "other" / shard).read_bytes())
    mmdit.load(folder)
    with pytest.raises(CheckpointError, match="their hash differs"):
        mmdit.load(folder, verify=True)


def last_shard(folder: Path) -> str:
    return sorted(os.listdir(folder))[-2]


@pytest.mark.parametrize(
    "place", ["../x.safetensors", "/etc/passwd", "a/b", "..", "", "C:x", "a\\b", "a\0b", 7, None, ["x"]]
)
def test_an_index_can_not_point_out_of_its_folder(place, folder):
    edit(folder / INDEX, lambda index: index["weight_map"].update({KEY: place}))
    with pytest.raises(CheckpointError, match=rf"index.json: {KEY}: its shard .*(must be|is not) a file's name"):
        mmdit.load(folder)


def test_a_missing_shard_is_named(folder):
    os.unlink(folder / (name := last_shard(folder)))
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        mmdit.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i["weight_map"].pop(KEY), f"{KEY} is in it and not in the index"),
        (lambda i: i["weight_map"].update(ghost=i["weight_map"][KEY]), "ghost is not in it"),
        (lambda i: i.pop("weight_map"), "has no weight_map"),
        (lambda i: i.update(weight_map={}), "has no weight_map"),
        (lambda i: i.update(weight_map=[1]), "has no weight_map"),
    ],
)
def test_an_index_that_does_not_agree_with_its_shards_is_refused(change, message, folder):
    edit(folder / INDEX, change)
    with pytest.raises(CheckpointError, match=message):
        mmdit.load(folder)


def test_shards_of_several_models_are_refused(folder, tmp_path):
    other = drawn(
        mmdit.build(CONFIG | {"qk_rmsnorm": not mmdit.build(CONFIG).config.qk_rmsnorm, "norm_eps": 0.1})
    ).float()
    mmdit.save(other, tmp_path / "other", max_shard_size="5GB")
    with WeightFiles(tmp_path / "other") as files:
        metadata = files.metadata
    name = last_shard(folder)
    save_file(load_file(folder / name), folder / name, metadata=metadata)
    with pytest.raises(CheckpointError, match=f"{name}: holds another config"):
        mmdit.load(folder)


@pytest.mark.parametrize("names", [(), ("a.safetensors", "b.safetensors"), ("notes.txt",)])
def test_a_folder_without_one_clear_choice_is_refused(names, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="is a folder without model.safetensors|holds 2 of them; name one"):
        mmdit.load(tmp_path)


# ----------------------------------------------------------------------------------------------------- what it replaces


def test_an_export_is_replaced_and_leaves_no_shard_behind(model, folder):
    assert not_an_export(folder) is None
    mmdit.save(model, folder, max_shard_size=9000)
    assert mmdit.load(folder, verify=True) is not None
    assert len({name.split("-of-")[1] for name in os.listdir(folder) if "-of-" in name}) == 1
    with pytest.raises(FileExistsError):
        mmdit.save(model, folder, max_shard_size=9000, force=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", ""), ("lora.safetensors", ""), ("config.json", '{"model_type": "clip"}'), ("config.json", "{")],
)
def test_a_folder_with_anything_else_is_not_replaced(name, content, model, folder):
    (folder / name).write_text(content)
    before = sorted(os.listdir(folder))
    with pytest.raises(OSError, match=f"holds '{name}', which would be lost"):
        mmdit.save(model, folder, max_shard_size=9000)
    assert sorted(os.listdir(folder)) == before and (folder / name).read_text() == content


def test_a_write_that_fails_leaves_the_old_shards(model, folder, monkeypatch):
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    real = shards.write_tensors

    def full(*arguments, **options):
        real(*arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        mmdit.save(model, folder, max_shard_size=9000)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(folder.parent) == [folder.name]
