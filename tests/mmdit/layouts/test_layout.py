from __future__ import annotations

import math

import pytest
import torch

import mmdit
from benchmarks.families.comparison import random_theirs, randomize
from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from mmdit.config import as_config
from mmdit.layouts import LAYOUTS, Layout, LayoutError, from_layout, registry, to_layout
from mmdit.layouts.language import join
from mmdit.options import as_written
from tests.support.families import KINDS, each_kind
from tests.support.marks import slow_but

SLOW = pytest.mark.slow
SD3 = [family for family in FAMILIES if family.config.startswith("sd3")]
FLUX = [family for family in FAMILIES if family.config.startswith(("flux.1", "flux.2"))]
HELD = [(family, "diffusers") for family in FAMILIES]
HELD += [(family, "stability") for family in SD3] + [(family, "flux") for family in FLUX]
held = pytest.mark.parametrize(
    ("family", "layout"),
    [pair if pair[0] in KINDS else pytest.param(*pair, marks=SLOW) for pair in HELD],
    ids=str,
)
BARE = {
    "two": dict(
        variant="two_modality", modalities={"text": {"dim": 12}, "image": {"dim": 8}}, skip_last_feedforward=[]
    ),
    "three": dict(modalities={"text": {"dim": 12}, "video": {"dim": 8}, "audio": {"dim": 10}}),
}
RESIDUALS = {
    "plain": {},
    "hyper": dict(residual={"kind": "hyper_connections", "streams": 3}),
    "manifold": dict(residual={"kind": "manifold_hyper_connections", "streams": 3}),
}


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype and x.shape == b[name].shape, name
        assert torch.equal(x.view(torch.uint8) if x.ndim else x, b[name].view(torch.uint8) if x.ndim else b[name]), name


def our_state(config, dtype=torch.float32):
    net = mmdit.build(config)
    randomize(net)
    return {name: x.to(dtype) for name, x in net.state_dict().items()}


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.bfloat16))
@held
def test_there_and_back_are_the_same_bits(family, layout, dtype):
    config = family.small_config().model
    ours = our_state(config, dtype)
    theirs = to_layout(ours, config, layout)
    same_bits(from_layout(theirs, config, layout), ours)
    same_bits(to_layout(from_layout(theirs, config, layout), config, layout), theirs)


@pytest.mark.parametrize(
    "pair", slow_but(HELD, (BY_NAME["sd3.5-medium"], "diffusers")), ids=lambda pair: "-".join(map(str, pair))
)
def test_tensors_stay_on_their_device(pair):
    family, layout = pair
    config = family.small_config().model
    ours = {name: x.to("meta") for name, x in our_state(config).items()}
    theirs = to_layout(ours, config, layout)
    assert all(x.is_meta for x in (*theirs.values(), *from_layout(theirs, config, layout).values()))


@each_kind
def test_a_state_dict_of_diffusers_comes_back_with_the_same_bits_and_its_position_table(family):
    config, theirs = family.small_config().model, random_theirs(family).state_dict()
    same_bits(to_layout(from_layout(theirs, config, "diffusers"), config, "diffusers"), theirs)


@pytest.mark.parametrize("family", [*SD3, BY_NAME["flux.2-dev"]], ids=str)
def test_the_original_layouts_are_those_that_diffusers_converts_from(family):
    from diffusers.loaders import single_file_utils as converters

    config = family.small_config().model
    layout = "stability" if family in SD3 else "flux"
    theirs = random_theirs(family).state_dict()
    original = to_layout(from_layout(theirs, config, "diffusers"), config, layout)
    if family in SD3:
        converted = converters.convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    else:
        converted = converters.convert_flux2_transformer_checkpoint_to_diffusers(dict(original))
    same_bits(converted, theirs)


@pytest.mark.slow
def test_the_original_layout_of_flux_1_is_the_one_that_diffusers_converts_from():
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    # their converter knows one width only
    small = {"depth": 1, "single_stream": {"depth": 1}}
    config = as_config(as_written(as_config("configs/flux.1-dev.yaml").model) | small).model
    layouts = [Layout(name, config) for name in ("flux", "diffusers")]
    # every element one byte, of its place in the tensor and of the tensor's in the file
    original = {
        name: (torch.arange(math.prod(shape)) % 251 + index).to(torch.uint8).reshape(shape)
        for index, (name, shape) in enumerate(layouts[0].theirs.items())
    }
    ours = {name: layouts[0].to_ours(name, original.__getitem__) for name in layouts[0].ours}
    wanted = {name: layouts[1].to_theirs(name, ours.__getitem__) for name in layouts[1].theirs}
    same_bits(convert_flux_transformer_checkpoint_to_diffusers(dict(original)), wanted)


@pytest.mark.parametrize("residual", slow_but(RESIDUALS, "manifold"))
@pytest.mark.parametrize("bare", BARE)
def test_the_published_mmdit_package_comes_back_with_the_same_bits(bare, residual):
    config = lucidrains_config(bare, residual)
    ours = our_state(config)
    theirs = to_layout(ours, config, "lucidrains")
    again = to_layout(from_layout(theirs, config, "lucidrains"), config, "lucidrains")
    gammas = [name for name in theirs if ("cond" in name and name.endswith("bias")) or name.endswith("norm.gamma")]
    assert gammas
    same_bits({k: v for k, v in again.items() if k not in gammas}, {k: v for k, v in theirs.items() if k not in gammas})
    for name in gammas:  # 1 + scale keeps no more than the bits of 1
        assert (again[name] - theirs[name]).abs().max() <= 2**-24


def test_gammas_above_a_half_keep_their_bits():
    config = lucidrains_config("three", "plain")
    theirs = to_layout(our_state(config), config, "lucidrains")
    for name, x in theirs.items():
        if name.endswith("bias") and "cond" in name:
            theirs[name] = torch.rand_like(x) * 3 + 0.5
    same_bits(to_layout(from_layout(theirs, config, "lucidrains"), config, "lucidrains"), theirs)


def lucidrains_config(bare, residual):
    rest = dict(depth=2, dim_cond=6, heads=2, dim_head=4, adaln="identity")
    return as_config(BARE[bare] | RESIDUALS[residual] | rest).model


def test_conversions_go_through_ours_from_any_layout_to_any_other():
    family = BY_NAME["flux.1-dev"]
    config = family.small_config().model
    assert set(LAYOUTS) == {"mmdit", "diffusers", "stability", "flux", "mmaudio", "lucidrains"}
    names = Layout("flux", config).theirs
    assert names["double_blocks.0.img_attn.qkv.weight"] == (192, 64)
    assert names["single_blocks.2.linear1.weight"] == (64 * 3 + 256, 64)
    theirs = random_theirs(family).state_dict()
    original = to_layout(from_layout(theirs, config, "diffusers"), config, "flux")
    assert {name: tuple(x.shape) for name, x in original.items()} == names
    same_bits(to_layout(from_layout(original, config, "flux"), config, "diffusers"), theirs)


def test_a_network_is_known_by_one_row_of_the_registry(monkeypatch):
    config = as_written(BY_NAME["sd3-medium"].small_config().model)
    config["modalities"]["image"]["input"]["positions"] = "none"
    config = as_config(config).model
    with pytest.raises(LayoutError, match="its positions are those of no published network"):
        Layout("diffusers", config)
    ours = our_state(config)
    lines = {"diffusers": lambda config: [f"{name} = net.{name}" for name in ours]}
    row = registry.Family("new", lambda config, image: image.positions == "none", "gelu_tanh", False, lines)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, row))
    theirs = to_layout(ours, config, "diffusers")
    assert list(theirs) == [f"net.{name}" for name in ours]
    same_bits(from_layout(theirs, config, "diffusers"), ours)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("proj_out.bias"), "proj_out.bias is missing"),
        (lambda s: s.update({"lora.up": torch.zeros(1)}), "lora.up is not in the model"),
        (lambda s: s.update({"proj_out.bias": torch.zeros(3)}), r"proj_out.bias has the shape \[3\], wanted \[16\]"),
        (lambda s: s["pos_embed.pos_embed"].mul_(0.5), "pos_embed.pos_embed is not the sine-cosine table"),
    ],
)
def test_a_tensor_that_is_missing_left_over_or_another_is_named(change, message):
    family = BY_NAME["sd3-medium"]
    theirs = dict(random_theirs(family).state_dict())
    change(theirs)
    with pytest.raises(LayoutError, match=message):
        from_layout(theirs, family.small_config().model, "diffusers")


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("qwen-image", "stability", "it holds the networks of sd3, this is one of qwen-image"),
        ("sd3-medium", "flux", "it holds the networks of flux.1 and flux.2, this is one of sd3"),
        ("auraflow", "lucidrains", "its networks are bare"),
        (
            "auraflow",
            "comfy",
            "layout must be one of mmdit, diffusers, stability, flux, mmaudio, lucidrains, got 'comfy'",
        ),
    ],
)
def test_a_layout_that_has_no_place_for_a_model_says_why(name, layout, message):
    with pytest.raises(LayoutError, match=message):
        Layout(layout, BY_NAME[name].small_config().model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "qk_norm_scale": "shared"}},
            "no place for .*gates",
        ),
        ({"register_tokens": {"image": 4}}, "no place for transformer.registers.1.tokens"),
        ({"residual": {"kind": "hyper_connections", "streams": 2}}, "no place for .*width"),
    ],
)
def test_a_weight_that_a_layout_can_not_name_is_named(changes, message):
    config = as_written(BY_NAME["qwen-image"].small_config().model)
    config = as_config(config | {"unused_weights": "none"} | changes).model
    with pytest.raises(LayoutError, match=message):
        Layout("diffusers", config)


def test_what_was_split_is_joined_without_a_copy_and_everything_else_with_one():
    whole = torch.randn(6, 8)
    for dim in (0, 1):
        parts = list(whole.split([2, whole.shape[dim] - 2], dim))
        assert torch.equal(join(parts, dim), whole) and join(parts, dim).data_ptr() == whole.data_ptr()
        for others in (parts[::-1], [parts[0], parts[1].clone()], [parts[0], parts[0]]):
            joined = join(others, dim)
            assert torch.equal(joined, torch.cat(others, dim)) and joined.data_ptr() != whole.data_ptr()
    inner = [whole[:2, :4], whole[2:, :4]]
    assert torch.equal(join(inner, 0), whole[:, :4])
    assert torch.equal(join([whole[:2, :4], whole[2:, 4:]], 0), torch.cat([whole[:2, :4], whole[2:, 4:]]))
    row = torch.randn(1, 4)
    assert torch.equal(join([row.expand(3, 4), row.expand(2, 4)], 0), row.expand(5, 4))
