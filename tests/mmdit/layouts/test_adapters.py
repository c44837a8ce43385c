"""LoRAs of other programs: known by their names, merged as the program that made them merges."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmdit
from benchmarks.families.comparison import ours_of, random_theirs
from benchmarks.families.diffusers_networks import BY_NAME
from mmdit.layouts import to_layout
from mmdit.layouts.adapters import read_adapter
from mmdit.layouts.merging import find_targets
from mmdit.weights.header import CheckpointError
from mmdit_cli.errors import UserError
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.lora_option import lora_file
from mmdit_cli.export.preconditions import Export
from tests.mmdit.layouts.test_conversion import tool_config
from tests.support.marks import slow_but

FLUX, SD3, FLUX2 = BY_NAME["flux.1-dev"], BY_NAME["sd3.5-medium"], BY_NAME["flux.2-dev"]
LEFT_OUT = ("to_v", "net.0.proj", "to_qkv.0.linear")  # so that of a fused layer some part has no change


def merge(family, weights: Path, *lora, out: Path, source="mmdit", target="mmdit", **asked):
    asked = Export(weights=weights, lora=lora, out=out, **asked)
    return convert_weights(tool_config(family), asked, source=source, target=target)


def adapted(net, **config):
    """A copy of a network with adapters of random weights in its blocks."""
    torch.manual_seed(5)
    linears = [name for name, module in net.named_modules() if type(module) is torch.nn.Linear and "blocks." in name]
    config = {"r": 3, "lora_alpha": 7, "init_lora_weights": False} | config
    config["target_modules"] = [name for name in linears if not name.endswith(LEFT_OUT)]
    import peft  # takes seconds, which every process would spend that looks for tests

    return peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(**config))


def alike(got, wanted, atol=1e-6):
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        assert got[name].dtype == x.dtype and torch.allclose(got[name], x, rtol=1e-6, atol=atol), name


def saved(tensors, path, metadata=None):
    save_file({name: x.contiguous().clone() for name, x in tensors.items()}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (FLUX, {}),
        pytest.param(SD3, {"use_rslora": True}, marks=pytest.mark.slow),
        (FLUX2, {"alpha_pattern": {"to_q": 2}, "rank_pattern": {"to_out": 5}}),
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_a_merge_is_pefts_own(family, config, tmp_path):
    theirs = random_theirs(family)
    network = adapted(theirs, **config)
    network.save_pretrained(tmp_path / "lora")
    saved(theirs.state_dict(), tmp_path / "theirs")
    result = merge(
        family,
        tmp_path / "theirs",
        (tmp_path / "lora", 1.0),
        source="diffusers",
        target="diffusers",
        out=tmp_path / "merged",
    )
    alike(load_file(tmp_path / "merged"), dict(network.merge_and_unload().state_dict()))
    (lora,) = result.lora
    assert (lora.spelling, lora.layout) == ("peft", "diffusers") and lora.targets > 8
    assert lora.ranks == ((3, 5) if "rank_pattern" in config else (3,))


@pytest.mark.parametrize("metadata", slow_but([None, {"r": 3, "lora_alpha": 7}], {"r": 3, "lora_alpha": 7}))
def test_a_file_of_diffusers_is_merged_into_ours(metadata, tmp_path):
    """Without metadata its alpha is its rank, as it is to diffusers."""
    from diffusers import FluxPipeline
    from peft.utils import get_peft_model_state_dict

    theirs = random_theirs(FLUX)
    network = adapted(theirs, lora_alpha=7 if metadata else 3)
    FluxPipeline.save_lora_weights(
        tmp_path / "lora", get_peft_model_state_dict(network), transformer_lora_adapter_metadata=metadata
    )
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    saved({name.replace("base_model.model.", ""): x for name, x in load_file(file).items()}, file, _metadata(file))
    mmdit.save(ours_of(theirs, FLUX), tmp_path / "ours")
    merge(FLUX, tmp_path / "ours", (file, 1.0), out=tmp_path / "merged")
    wanted = to_ours(network.merge_and_unload())
    alike(dict(mmdit.load(tmp_path / "merged", verify=True).state_dict()), wanted)
    assert read_adapter(file).spelling == "diffusers"


def _metadata(file):
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()


def to_ours(theirs):
    from mmdit.layouts import from_layout

    return from_layout(dict(theirs.state_dict()), FLUX.small_config().model, "diffusers")


def kohya(layout="flux", ranks=4, alpha=2.0):
    """A file of kohya's for FLUX.1, its fused linear layers among the targets, and the changes in float64."""
    torch.manual_seed(9)
    theirs = to_layout(ours_of(random_theirs(FLUX), FLUX).state_dict(), FLUX.small_config().model, layout)
    names = [n for n in theirs if "blocks" in n and n.endswith(".weight") and theirs[n].ndim == 2 and "norm" not in n]
    made, changes = {}, {}
    for name in names:
        target = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        up, down = torch.randn(theirs[name].shape[0], ranks), torch.randn(ranks, theirs[name].shape[1])
        made |= {f"{target}.lora_up.weight": up, f"{target}.lora_down.weight": down}
        if alpha is not None:
            made[f"{target}.alpha"] = torch.tensor(alpha)
        changes[name] = up.double() @ down.double() * ((ranks if alpha is None else alpha) / ranks)
    return theirs, made, changes


@pytest.mark.parametrize("alpha", slow_but([2.0, None], 2.0))
def test_a_file_of_kohyas_is_merged_into_fused_layers_and_out_of_them(alpha, tmp_path):
    theirs, made, changes = kohya(alpha=alpha)
    made["lora_te1_text_model_encoder.lora_down.weight"] = torch.ones(2, 2)
    saved(made, tmp_path / "lora"), saved(theirs, tmp_path / "theirs")
    said = []
    for target in ("flux", "diffusers"):  # the one has queries, keys and values in one layer, the other in three
        result = merge(
            FLUX,
            tmp_path / "theirs",
            (tmp_path / "lora", 0.5),
            source="flux",
            target=target,
            out=tmp_path / target,
            on_message=said.append,
        )
        assert (result.lora[0].spelling, result.lora[0].layout, result.lora[0].targets) == (
            "kohya",
            "flux",
            len(changes),
        )
    wanted = {name: (x + 0.5 * changes[name]).float() if name in changes else x for name, x in theirs.items()}
    alike(load_file(tmp_path / "flux"), wanted, atol=1e-5)
    loaded = mmdit.load(tmp_path / "diffusers", config=FLUX.small_config(), layout="diffusers")
    alike(to_layout(loaded.state_dict(), FLUX.small_config().model, "flux"), wanted, atol=1e-5)
    assert said[0].endswith("left aside: 1 tensors of text encoders")


def test_adapters_of_our_own_network_are_merged_too(tmp_path):
    net = ours_of(random_theirs(SD3), SD3)
    mmdit.save(net, tmp_path / "ours")
    network = adapted(net)
    network.save_pretrained(tmp_path / "lora")
    merge(SD3, tmp_path / "ours", (tmp_path / "lora", 1.0), out=tmp_path / "merged")
    alike(dict(mmdit.load(tmp_path / "merged").state_dict()), dict(network.merge_and_unload().state_dict()))


@pytest.mark.slow
def test_several_are_added_and_a_negative_scale_takes_one_away(tmp_path):
    theirs, made, changes = kohya()
    saved(made, tmp_path / "lora"), saved(theirs, tmp_path / "theirs")
    twice = [(tmp_path / "lora", 2.0), (tmp_path / "lora", -2.0)]
    merge(FLUX, tmp_path / "theirs", *twice, source="flux", target="flux", out=tmp_path / "x")
    alike(load_file(tmp_path / "x"), theirs, atol=1e-5)
    assert changes


@pytest.mark.slow
def test_weights_in_half_precision_are_rounded_once(tmp_path):
    theirs, made, changes = kohya()
    half = {name: x.bfloat16() for name, x in theirs.items()}
    saved(made, tmp_path / "lora"), saved(half, tmp_path / "theirs")
    given = dict(source="flux", target="flux")
    for dtype, out in ((None, "as it is"), (torch.float32, "fp32"), (torch.float16, "fp16")):
        merge(FLUX, tmp_path / "theirs", (tmp_path / "lora", 1.0), out=tmp_path / out, dtype=dtype, **given)
        got = load_file(tmp_path / out)
        for name, change in changes.items():
            wanted = (half[name].double() + change).to(dtype or torch.bfloat16)
            allowed = 1e-5 if dtype == torch.float32 else 2**-7
            assert torch.allclose(got[name].double(), wanted.double(), rtol=allowed, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- what is not


def test_a_lora_for_another_model_says_what_does_not_match(tmp_path):
    config = FLUX.small_config().model
    _, made, _ = kohya()
    other = {name.replace("double_blocks_1", "double_blocks_31"): x for name, x in made.items()}
    with pytest.raises(CheckpointError) as caught:
        find_targets(read_adapter(saved(other, tmp_path / "deeper")), config)
    assert "is a LoRA for another model: " in str(caught.value) and "_double_blocks_31_" in str(caught.value)
    assert "of its" in str(caught.value) and "targets are not in the model" in str(caught.value)
    wide = {name: torch.cat([x, x]) if "lora_up" in name else x for name, x in made.items()}
    with pytest.raises(CheckpointError, match=r"changes \[\d+, \d+\], the model's is \[\d+, \d+\]") as caught:
        find_targets(read_adapter(saved(wide, tmp_path / "wider")), config)
    assert len(str(caught.value)) < 900 and "\n" not in str(caught.value)


TWO = {"transformer.x.lora_A.weight": torch.ones(2, 3), "transformer.x.lora_B.weight": torch.ones(4, 2)}
BAD = {
    "weights": ({"x.weight": torch.ones(2)}, "is no part of a LoRA"),
    "nothing": ({}, "is no LoRA: none of its 0 tensors"),
    "no up": ({"x.lora_A.weight": torch.ones(2, 3)}, "x has no up matrix"),
    "no down": ({"x.lora_up.weight": torch.ones(2, 3)}, "x has no down matrix"),
    "two ranks": (TWO | {"transformer.x.lora_B.weight": torch.ones(4, 3)}, "are not of one rank"),
    "a vector": (TWO | {"transformer.x.lora_B.weight": torch.ones(4)}, "are not of one rank"),
    "empty": ({"x.lora_A.weight": torch.ones(0, 3), "x.lora_B.weight": torch.ones(4, 0)}, "are not of one rank"),
    "integers": (TWO | {"transformer.x.lora_B.weight": torch.ones(4, 2, dtype=torch.int32)}, "has the dtype I32"),
    "an alpha of many": (TWO | {"transformer.x.alpha": torch.ones(3)}, "must be one number"),
    "DoRA": (
        TWO | {"transformer.x.lora_magnitude_vector": torch.ones(4)},
        "a lora_magnitude_vector, so it is no plain",
    ),
    "kohya's DoRA": (TWO | {"transformer.x.dora_scale": torch.ones(4)}, "a dora_scale, so it is no plain LoRA"),
    "LoHa": ({"lora_unet_x.hada_w1_a": torch.ones(4)}, "a hada_w1_a, so it is no plain LoRA"),
    "LoKr": ({"lora_unet_x.lokr_w1": torch.ones(4)}, "a lokr_w1, so it is no plain LoRA"),
    "a bias": (TWO | {"transformer.x.lora_B.bias": torch.ones(4)}, "is no part of a LoRA"),
    "no config of peft": (
        {name.replace("transformer", "base_model.model"): x for name, x in TWO.items()},
        "its alpha is not known; put peft's adapter_config.json beside it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_lora_or_another_kind_is_refused_in_one_line(name, tmp_path):
    tensors, said = BAD[name]
    with pytest.raises(CheckpointError) as caught:
        read_adapter(saved(tensors, tmp_path / "x"))
    assert said in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lora_alpha": "x"}, "its lora_alpha must be a number"),
        ({"lora_alpha": True}, "its lora_alpha must be a number"),
        ({"lora_alpha": 3, "use_dora": True}, "asks for use_dora"),
        ({"lora_alpha": 3, "alpha_pattern": {"(a+)+$": 3}}, "is an expression, which is not read"),
        ({"lora_alpha": 3, "alpha_pattern": [3]}, "or an alpha_pattern; not merged"),
    ],
)
def test_what_a_config_says_is_not_trusted(config, said, tmp_path):
    saved({name.replace("transformer", "base_model.model"): x for name, x in TWO.items()}, tmp_path / "a")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        read_adapter(tmp_path / "a")
    assert said in str(caught.value)


@pytest.mark.parametrize("alpha", slow_but([float("nan"), float("inf")], float("inf")))
def test_an_alpha_that_is_not_finite_writes_nothing(alpha, tmp_path):
    theirs, made, _ = kohya(alpha=alpha)
    saved(made, tmp_path / "lora"), saved(theirs, tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="its alpha is not finite"):
        merge(FLUX, tmp_path / "theirs", (tmp_path / "lora", 1.0), source="flux", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_lora_in_the_place_of_weights_is_called_one(tmp_path):
    saved(kohya()[1], tmp_path / "lora")
    with pytest.raises(CheckpointError, match="it is a LoRA, which changes weights and holds none"):
        merge(FLUX, tmp_path / "lora", source="flux", out=tmp_path / "x")
    with pytest.raises(UserError, match="--lora changes the weights of a file"):
        merge(FLUX, None, (tmp_path / "lora", 1.0), out=tmp_path / "x")


def test_a_scale_stands_behind_the_last_colon(tmp_path):
    odd = tmp_path / "a:0.5"
    odd.touch()
    assert lora_file("x.safetensors") == (Path("x.safetensors"), 1.0)
    assert lora_file("x.safetensors:-0.8") == (Path("x.safetensors"), -0.8)
    assert lora_file(str(odd)) == (odd, 1.0) and lora_file(f"{odd}:2") == (odd, 2.0)
    for text in ("x:y", ":1", "x:nan", "x:inf", "x:"):
        with pytest.raises(UserError, match="expected FILE or FILE:SCALE"):
            lora_file(text)
