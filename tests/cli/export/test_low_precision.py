"""Files in eight bits, as a user meets them: converted, loaded, run; and written."""

from __future__ import annotations

import copy
import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmdit
from benchmarks.families.comparison import ours_of, random_call, random_theirs, relative
from benchmarks.families.diffusers_networks import BY_NAME
from mmdit.layouts import from_layout, to_layout
from mmdit.weights.header import CheckpointError
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.export.tables import export_tables
from mmdit_cli.shape_check.identity import identify
from mmdit_cli.shape_check.weights import check_weights
from tests.mmdit.layouts.test_conversion import PREFIX, tool_config
from tests.support.marks import slow_but
from tests.support.quantized_files import SPELLINGS, values

FLUX, SD3 = BY_NAME["flux.1-dev"], BY_NAME["sd3.5-medium"]
PLACES = {
    "flux": (FLUX, "flux", ""),
    "flux in ComfyUI": (FLUX, "flux", PREFIX),
    "diffusers": (FLUX, "diffusers", ""),
    "stability": (SD3, "stability", PREFIX),
}


def network(family):
    return _network(family.config)


@cache
def _network(name):
    return ours_of(random_theirs(BY_NAME[name]), BY_NAME[name])


def written(config, *, source="mmdit", target="mmdit", **asked):
    return convert_weights(config, Export(**asked), source=source, target=target)


def quantized(family, layout, prefix, spelling, path):
    """A file of a family's small network, and the values that it stands for, under our names."""
    weights = to_layout(network(family).state_dict(), family.small_config().model, layout)
    made = SPELLINGS[spelling](weights)
    save_file({prefix + name: x.contiguous() for name, x in made.items()}, path)
    theirs = {name: values(made, name).float() for name in weights}
    theirs |= {name: x for name, x in weights.items() if name.endswith("pos_embed")}  # a table, which we compute
    return from_layout(theirs, family.small_config().model, layout)


def outputs(net, family):
    with torch.no_grad():
        return net(**random_call(family))[family.drawn]


@pytest.mark.parametrize("place", slow_but(PLACES, "flux in ComfyUI"))
@pytest.mark.parametrize("spelling", slow_but(SPELLINGS, list(SPELLINGS)[1]))
def test_a_quantized_file_becomes_the_network_that_it_stands_for(spelling, place, tmp_path):
    family, layout, prefix = PLACES[place]
    wanted = quantized(family, layout, prefix, spelling, tmp_path / "theirs")
    config = tool_config(family)
    assert check_weights(config.model, tmp_path / "theirs").problems == []
    found = identify(tmp_path / "theirs")
    assert (found.layout, found.prefix) == (layout, prefix) and spelling.split(",")[0] in min(found.quantized)
    written(config, source=layout, weights=tmp_path / "theirs", out=tmp_path / "ours", dtype=torch.float32)
    net = mmdit.load(tmp_path / "ours", verify=True)
    assert all(torch.equal(x, wanted[name]) for name, x in net.state_dict().items())
    for dtype in (torch.bfloat16, torch.float16):
        loaded = mmdit.load(tmp_path / "theirs", dtype=dtype, config=family.small_config(), layout=layout)
        assert all(torch.equal(x, wanted[name].to(dtype)) for name, x in loaded.state_dict().items())
    error = relative(outputs(net, family), outputs(network(family), family))
    assert 0 < error < (0.3 if "e5m2" in spelling else 0.15)


def test_no_more_than_a_tensor_is_held_beside_what_is_asked_for(tmp_path, monkeypatch):
    """Each weight is read when its turn comes, not all at once."""
    from mmdit.weights import reader

    quantized(FLUX, "flux", "", "fp8, scale_weight", tmp_path / "theirs")
    alive: list[int] = []
    most = 0
    made = reader.dequantize

    def counted(*given):
        nonlocal most
        result = made(*given)
        storage = result.untyped_storage()
        alive.append(id(storage))
        import weakref

        weakref.finalize(storage, alive.remove, id(storage))
        most = max(most, len(alive))
        return result

    monkeypatch.setattr(reader, "dequantize", counted)
    written(tool_config(FLUX), source="flux", weights=tmp_path / "theirs", out=tmp_path / "ours", dtype=torch.bfloat16)
    assert 0 < most <= 4  # a weight, and the queries, keys and values that one is made of


# -------------------------------------------------------------------------------------------------------------- written


@pytest.mark.parametrize("target", slow_but(["mmdit", "flux", "diffusers"], "flux"))
@pytest.mark.parametrize("fp8", slow_but(["fp8", "fp8-scaled"], "fp8-scaled"))
def test_fp8_is_written_and_read_within_its_own_error(fp8, target, tmp_path):
    mmdit.save(network(FLUX), tmp_path / "m")
    config = tool_config(FLUX)
    result = written(config, target=target, weights=tmp_path / "m", out=tmp_path / "x", fp8=fp8)
    held = load_file(tmp_path / "x")
    matrices = [name for name, x in held.items() if x.dtype == torch.float8_e4m3fn and x.ndim == 2]
    assert matrices and all("blocks" in name for name in matrices)
    assert ("scaled_fp8" in held) == (fp8 == "fp8-scaled") == any(name.endswith("scale_weight") for name in held)
    back = mmdit.load(tmp_path / "x", config=FLUX.small_config(), layout=target)
    if target == "mmdit":
        assert mmdit.load(tmp_path / "x", verify=True).config == back.config
    assert 0 < relative(outputs(back.float(), FLUX), outputs(network(FLUX), FLUX)) < 0.15
    # what the table says is so
    kinds = {error.kind: error for error in result.errors}
    assert (
        sum(error.tensors for error in result.errors) == len(network(FLUX).state_dict()) if target == "mmdit" else True
    )
    rounded, exact = back.state_dict(), network(FLUX).state_dict()
    names = [n for n in exact if "joint_attn.to_qkv" in n and n.endswith("weight")]
    error = sum((rounded[n].double() - exact[n].double()).square().sum() for n in names)
    squares = sum(exact[n].double().square().sum() for n in names)
    assert kinds["blocks.joint_attn.to_qkv"].relative == pytest.approx((error / squares).sqrt().item(), rel=1e-6)
    assert result.max_abs_diff == max(error.max_abs for error in result.errors)
    assert len(export_tables(result)) == 2


def test_scales_make_small_weights_as_exact_as_large_ones(tmp_path):
    net = copy.deepcopy(network(FLUX))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e-3)
    mmdit.save(net, tmp_path / "m")
    errors = {}
    for fp8 in ("fp8", "fp8-scaled"):
        result = written(tool_config(FLUX), weights=tmp_path / "m", out=tmp_path / fp8, fp8=fp8)
        errors[fp8] = max(error.relative for error in result.errors)
    assert errors["fp8-scaled"] < 0.03 < 0.2 < errors["fp8"]


@pytest.mark.slow
def test_an_fp8_file_in_shards_is_read_whole(tmp_path):
    config = tool_config(FLUX)
    written(config, out=tmp_path / "x", fp8="fp8-scaled", max_shard_size="100kB", seed=1)
    assert len(list((tmp_path / "x").glob("*.safetensors"))) > 2
    torch.manual_seed(1)
    fresh, loaded = mmdit.build(FLUX.small_config()).state_dict(), mmdit.load(tmp_path / "x", verify=True).state_dict()
    assert all(torch.allclose(x, fresh[name], rtol=2**-4, atol=1e-3) for name, x in loaded.items())


@pytest.mark.parametrize(
    ("value", "fp8", "said"),
    [
        (500.0, "fp8", "reaches 500, fp8 448; write it with scales (--dtype fp8-scaled)"),
        (float("nan"), "fp8", "has values that are not finite"),
        (float("inf"), "fp8-scaled", "has values that are not finite"),
    ],
)
def test_what_fp8_can_not_hold_is_refused_and_nothing_written(value, fp8, said, tmp_path):
    net = copy.deepcopy(network(FLUX))
    with torch.no_grad():
        net.transformer.blocks[0].joint_attn.to_out[1].linear.weight[0, 0] = value
    mmdit.save(net, tmp_path / "m")
    with pytest.raises(CheckpointError) as caught:
        written(tool_config(FLUX), weights=tmp_path / "m", out=tmp_path / "x", fp8=fp8)
    assert said in str(caught.value) and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_file_of_comfyui_keeps_its_prefix_for_the_scales_too(tmp_path):
    quantized(FLUX, "flux", PREFIX, "fp8", tmp_path / "theirs")
    config = tool_config(FLUX)
    written(config, source="flux", weights=tmp_path / "theirs", out=tmp_path / "ours")
    written(config, target="flux", weights=tmp_path / "ours", out=tmp_path / "back", fp8="fp8-scaled")
    assert all(name.startswith(PREFIX) for name in load_file(tmp_path / "back"))
    assert check_weights(config.model, tmp_path / "back", "flux").problems == []


def test_the_command_says_what_fp8_rounds(run_command, tmp_path):
    done = run_command("export", "-c", "toy-two-modality", "--dtype", "fp8-scaled", "--out", "x", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    kinds = {error["kind"] for error in document["results"][0]["errors"]}
    assert document["dtype"] == "fp8-scaled" and "blocks.joint_attn.to_qkv" in kinds
    shown = run_command("export", "-c", "toy-two-modality", "--dtype", "fp8", "--out", "y")
    assert "what fp8 rounds" in shown.stdout and "all others, in bfloat16" in shown.stdout
    refused = run_command("export", "-c", "toy-two-modality", "--dtype", "fp8", "--out", "y.pt2")
    assert refused.returncode == 2 and "--dtype fp8: is for --format safetensors" in refused.stderr
