"""What a file of weights is: told from its header, at any size, whatever else is in it."""

from __future__ import annotations

import json
import re
import shlex
from time import process_time

import pytest
import torch
from safetensors.torch import save_file

import mmdit
from benchmarks.families.comparison import random_theirs
from benchmarks.families.diffusers_networks import BY_NAME
from mmdit.config import as_config
from mmdit.layouts import LAYOUTS, LayoutError, fitting
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import KNOWN_PREFIXES
from mmdit.layouts.published_names import (
    _said,
    computed_names,
    published_configs,
    published_names,
    published_with,
)
from mmdit.layouts.recognition import recognize, recognize_layout
from mmdit.layouts.registry import family_name
from mmdit.weights.reader import WeightFiles
from mmdit_cli.shape_check.identity import identify
from tests.support.families import each_kind
from tests.support.marks import slow_but
from tests.support.sparse_files import sparse_shapes

PREFIX = "model.diffusion_model."


@pytest.mark.parametrize("name", slow_but(published_configs(), "mmaudio-small-16k"))
def test_a_published_file_is_recognized_in_every_layout_that_holds_it(name, tmp_path):
    """A sparse file of the published size: its names and shapes are all that is read."""
    config = as_config(name).model
    for layout in LAYOUTS[1:]:
        try:
            known = Layout(layout, config)
        except LayoutError:
            continue
        if layout == "lucidrains":  # bare transformers of any size, of no published one
            continue
        found = identify(sparse_shapes(tmp_path / "f", {PREFIX + key: shape for key, shape in known.theirs.items()}))
        assert found.ok and name in (found.config, *found.others) and found.set == ()
        assert (found.layout, found.prefix, found.family) == (layout, PREFIX, family_name(layout, config))
        with torch.device("meta"):
            assert found.parameters == sum(p.numel() for p in mmdit.build(config).parameters())


@pytest.mark.parametrize("name", slow_but(published_configs(), "mmaudio-small-16k"))
def test_the_index_of_shapes_says_what_comparing_with_every_config_says(name, tmp_path):
    """If not: python -c "from mmdit.layouts.published_names import write_index; write_index()"."""
    config = as_config(name).model
    for layout in LAYOUTS:
        try:
            shapes = Layout(layout, config).theirs
        except LayoutError:
            continue
        held = WeightFiles(sparse_shapes(tmp_path / "f", shapes)).tensors
        if (found := recognize(held)) is None:  # our own names of a bare transformer
            continue
        configs = [each for names in found.configs.values() for each in names]
        assert published_with(layout, shapes) is not None
        assert fitting.fit(layout, configs, held) == fitting._nearest(layout, configs, held)


def test_a_published_file_is_told_without_a_network_or_a_config(tmp_path, monkeypatch):
    file = sparse_shapes(tmp_path / "f", Layout("mmaudio", as_config("mmaudio-small-16k").model).theirs)
    monkeypatch.delattr("mmdit.layouts.layout.build_on_meta")
    monkeypatch.delattr("mmdit.layouts.fitting.load_config")
    assert identify(file).config == "mmaudio-small-16k"


def test_the_index_of_names_is_that_of_the_configs_and_layouts():
    """If not: python -c "from mmdit.layouts.published_names import write_index; write_index()"."""
    assert _said() is not None  # it is read, and not computed in its place
    assert published_names() == computed_names()


@each_kind
def test_diffusers_own_names_of_each_family_are_recognized(family):
    with torch.device("meta"):
        names = family.theirs(**family.options).state_dict()
    found = recognize(names)
    assert (found.layout, found.prefix, found.lora) == ("diffusers", "", False)
    assert list(found.configs) == [family_name("diffusers", family.small_config().model)]


@pytest.mark.parametrize(
    "layout", slow_but(["flux", "diffusers", "mmdit", "stability", "mmaudio"], "diffusers", "stability")
)
def test_every_known_prefix_is_recognized_in_every_layout(layout):
    name = {"stability": "sd3.5-medium", "mmaudio": "mmaudio-small-16k"}.get(layout, "flux.1-dev")
    config = BY_NAME[name].small_config().model if name in BY_NAME else as_config(name).model
    theirs = Layout(layout, config).theirs
    for prefix in (*KNOWN_PREFIXES, "module._orig_mod.", "", "_orig_mod.module.model.diffusion_model."):
        names = [prefix + each for each in theirs]
        found = recognize(names)
        assert (found.layout, found.prefix) == (layout, prefix)
        assert name in [config for configs in found.configs.values() for config in configs]
        assert recognize_layout(names, config) == (layout, prefix)


def test_what_is_set_makes_the_config_fit(run_command, tmp_path):
    """Sizes, blocks and the guidance that is not there; what no tensor tells is said."""
    family = BY_NAME["flux.1-schnell"]
    save_file(dict(random_theirs(family).state_dict()), tmp_path / "f.safetensors")
    done = run_command("shape-check", "--weights", "f.safetensors", "--json")
    (found,) = json.loads(done.stdout)["results"]
    assert done.returncode == 0 and found["config"] == "flux.1-schnell"
    assert "model.single_stream.depth=3" in found["set"] and "model.pooled.dim=24" in found["set"]
    assert any("rotary.axes" in doubt for doubt in found["doubts"])
    (command,) = found["next"]
    program, *arguments = shlex.split(command)
    assert program == "mmdit"
    assert run_command(*arguments, "--from", "diffusers").returncode == 0
    assert len(mmdit.load("OUT.safetensors").state_dict()) > 0


@pytest.mark.slow
def test_what_the_names_do_not_tell_is_said(tmp_path):
    shapes = Layout("diffusers", as_config("qwen-image").model).theirs
    found = identify(sparse_shapes(tmp_path / "f", shapes))
    assert found.config == "qwen-image" and found.others == ("qwen-image-edit", "qwen-image-edit-2511")
    assert any("which of them it is, no tensor tells" in doubt for doubt in found.doubts)


def test_what_else_is_inside_is_told_apart(tmp_path):
    shapes = Layout("stability", BY_NAME["sd3.5-medium"].small_config().model).theirs
    others = {
        "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (9, 4),
        "text_encoders.t5xxl.logit_scale": (),
        "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
        "model_ema.decay": (),
        "something": (2,),
    }
    for prefix in ("", PREFIX):
        found = identify(sparse_shapes(tmp_path / "f", {prefix + key: x for key, x in shapes.items()} | others))
        assert found.config == "sd3.5-medium" and found.ok == bool(prefix)
        inside = {part.what: part.tensors for part in found.inside}
        assert inside == {"text encoders": 2, "autoencoder": 1, "EMA copy": 1} | ({"unknown": 1} if prefix else {})
    assert found.tensors == len(shapes)


def test_weights_that_fit_no_config_are_said_to_be(run_command, tmp_path):
    shapes = dict(Layout("flux", BY_NAME["flux.1-dev"].small_config().model).theirs)
    del shapes["txt_in.bias"]
    sparse_shapes(tmp_path / "f", shapes)
    done = run_command("shape-check", "--weights", "f")
    assert done.returncode == 1 and "txt_in.bias is missing" in done.stderr and "family flux.1" in done.stdout


def test_a_file_without_a_known_network_is_told_by_its_parts(run_command, tmp_path):
    sparse_shapes(tmp_path / "f", {"decoder.conv_in.weight": (4, 4, 3, 3), "encoder.conv_in.weight": (4, 4, 3, 3)})
    done = run_command("shape-check", "--weights", "f", "--json")
    (found,) = json.loads(done.stdout)["results"]
    assert done.returncode == 1 and not found["ok"] and found["family"] is None
    assert [part["what"] for part in found["inside"]] == ["autoencoder"]


def test_a_lora_is_told_from_a_network(tmp_path):
    kohya = "lora_unet_double_blocks_{}_{}.lora_{}.weight"
    parts = [(of, way) for of in ("img_attn_qkv", "txt_mlp_0") for way in ("up", "down")]
    names = [kohya.format(n, *part) for n in range(2) for part in parts]
    found = identify(sparse_shapes(tmp_path / "f", dict.fromkeys(names, (4, 4))))
    assert found.lora and found.layout == "flux" and found.family == "flux.1" and "flux.2" in found.doubts[0]
    assert (found.spelling, found.ranks, found.targets) == ("kohya", (4,), 4) and "--lora" in found.next[0]
    peft = "transformer.layers.{}.attention.to_q.lora_{}.weight"
    names = [peft.format(n, way) for n in range(2) for way in "AB"]
    found = identify(sparse_shapes(tmp_path / "f", dict.fromkeys(names, (4, 4))))
    assert found.lora and (found.layout, found.prefix) == ("diffusers", "transformer.")
    assert (found.spelling, found.ranks, found.targets) == ("diffusers", (4,), 2)
    assert "z-image" in (found.family, *found.doubts[0].split(" of ")[-1].split(", "))


def test_a_lora_of_a_kind_that_is_not_merged_is_said_to_be_one(tmp_path):
    names = [f"lora_unet_double_blocks_0_img_attn_qkv.hada_w{n}_{part}" for n in (1, 2) for part in "ab"]
    found = identify(sparse_shapes(tmp_path / "f", dict.fromkeys(names, (4, 4))))
    assert found.lora and not found.ok and "so it is no plain LoRA" in found.problems[0]


def test_what_mmdit_wrote_is_told_by_its_own_config(tmp_path):
    mmdit.save(mmdit.build("two-modality"), tmp_path / "f.safetensors", metadata={"config_name": "mine"})
    found = identify(tmp_path / "f.safetensors")
    assert found.ok and found.config == "mine" and found.layout == "mmdit" and found.inside == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 23802\n",
            "a Git LFS pointer.* 23,802 bytes",
        ),
        (b"PK\x03\x04" + bytes(200), "a zip archive, as torch.save writes"),
        (b"\x80\x04\x95" + bytes(200), "is a pickle; nothing is unpickled"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 200, "not a whole GGUF file: it names 18,446,"),
        (b"<!doctype html><html>restricted</html>", "a web page"),
        (b"", "it is empty"),
        (bytes(500), "nothing but zeros"),
        (b'{"weight_map": {}}', "it is JSON"),
        ((640).to_bytes(8, "little") + b'{"a', "truncated"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content, message, run_command, tmp_path):
    (tmp_path / "f").write_bytes(content)
    done = run_command("shape-check", "--weights", "f")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert re.search(message, done.stderr), done.stderr


def test_names_and_sizes_of_any_kind_are_answered(tmp_path):
    """A header may claim anything: what it claims costs no memory, and no error but those that say what it is."""
    flux = dict(Layout("flux", BY_NAME["flux.1-dev"].small_config().model).theirs)
    odd = {"\x1b[31m": (1,), "a" * 5000: (), ".": (1,), "..weight": (0,), "model.model.model.model.model.x": (2,)}
    huge = {name: (1 << 40, *([0] * len(shape[1:])), 0) for name, shape in flux.items()}
    empty = {name: (0,) * len(shape) for name, shape in flux.items()}
    blocks = {f"double_blocks.{n}.img_attn.qkv.weight": (3, 1) for n in range(3_000)}
    swapped = {name: shape[::-1] for name, shape in flux.items()}
    for shapes in (odd, huge, empty, swapped, flux | odd, flux | blocks):
        file, start = sparse_shapes(tmp_path / "f", shapes), process_time()
        found = identify(file)
        assert not found.ok and found.problems
    assert process_time() - start < 2  # four times what thousands of names take; all pairs of them take more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "Name a model by --config"), (("--weights", "f", "--set", "model.depth=2"), "changes a config")],
)
def test_a_question_about_nothing_is_refused(arguments, message, run_command):
    done = run_command("shape-check", *arguments)
    assert done.returncode == 2 and message in done.stderr
