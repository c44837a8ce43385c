"""Weights in eight bits are read as what they stand for; those that can't be are named, with the reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from mmdit.weights.header import CheckpointError
from mmdit.weights.matching import unreadable
from mmdit.weights.quantized import dequantize
from mmdit.weights.reader import WeightFiles
from tests.support.quantized_files import FP8, SPELLINGS, scaled, scaled_with_inputs, text_tensor, values


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = {"a.weight": (6, 4), "a.bias": (6,), "patch.weight": (4, 3, 2, 2), "norm.weight": (4,)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def saved(tensors, path, metadata=None):
    save_file({name: x.contiguous() for name, x in tensors.items()}, path, metadata=metadata)
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_weight_is_read_as_the_values_it_stands_for(spelling, tmp_path):
    made = SPELLINGS[spelling](weights())
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        assert files.tensors.keys() == weights().keys()
        for name in weights():
            wanted = values(made, name)
            for x in (files.read(name), files.copy(name)):
                assert x.dtype == files.spec(name).dtype and x.shape == wanted.shape
                assert torch.equal(x.double(), wanted.float().double())  # rounded once; without a scale it is exact
                assert torch.equal(x.to(torch.float16).double(), wanted.float().half().double())


@pytest.mark.parametrize("target", [None, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [None, torch.tensor(0.0317), torch.linspace(0.01, 3, 7)], ids=["none", "one", "rows"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8], ids=str)
def test_every_byte_has_its_value_wherever_it_lies(dtype, scale, target):
    stored = torch.cat([torch.arange(256), torch.randperm(256), torch.arange(2)]).to(torch.uint8)
    for begin in (0, 1):  # 7 rows of 73: an odd number, at an odd place
        x = stored[begin : begin + 7 * 73].view(dtype).reshape(7, 73)
        wanted = x.to(torch.float32) * (1.0 if scale is None else scale.reshape(-1, 1))
        got = dequantize(x, scale, target)
        assert got.dtype == (target or (torch.bfloat16 if scale is None else torch.float32))
        torch.testing.assert_close(got, wanted.to(got.dtype), rtol=0, atol=0, equal_nan=True)
        with torch.device("meta"):  # what a caller builds on is no matter
            assert dequantize(x, scale, target).device.type == "cpu"


@pytest.mark.parametrize("granularity", ["PerTensor", "PerRow"])
@pytest.mark.parametrize("kind", ["Float8Tensor", "Int8Tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_what_torchao_makes_of_it(kind, granularity, dtype, tmp_path):
    from torchao import quantization

    torch.manual_seed(3)
    theirs = getattr(quantization, kind).from_hp(torch.randn(32, 16), granularity=getattr(quantization, granularity)())
    made = {"a.weight": theirs.qdata, "a.weight_scale": theirs.scale}
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        wanted = theirs.dequantize(torch.float32)
        assert torch.equal(files.read("a.weight").to(dtype), wanted.to(dtype))


def test_a_scale_of_a_network_behind_a_prefix_is_found(tmp_path):
    made = {"model.diffusion_model." + name: x for name, x in scaled(weights()).items()}
    made["text_encoder.x.weight"] = torch.ones(2, 2).to(FP8)  # outside of what is marked
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        assert files.quantized["model.diffusion_model.a.weight"].scheme == "fp8 e4m3fn, scaled"
        assert files.quantized["text_encoder.x.weight"].scheme == "fp8 e4m3fn"
        assert "model.diffusion_model.scaled_fp8" not in files.tensors and files.stored.keys() == made.keys()


# ---------------------------------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize("scale", [torch.inf, -torch.inf, torch.nan])
def test_a_scale_that_is_not_finite_is_refused(scale, tmp_path):
    made = scaled(weights()) | {"a.scale_weight": torch.tensor(scale)}
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        for read in (files.read, files.copy):
            with pytest.raises(CheckpointError, match=r"x: a.weight: its scale is not finite$"):
                read("a.weight")


def without(tensors, name):
    return {key: x for key, x in tensors.items() if key != name}


INT8 = {"a.weight": torch.ones(6, 4, dtype=torch.int8)}
BAD = {
    "no scale, in a marked file": (without(scaled(weights()), "a.scale_weight"), "its scale is missing"),
    "no scale, with another": (without(scaled_with_inputs(weights()), "a.weight_scale"), "its scale is missing"),
    "int8 without a scale": (INT8, "is in int8 and its scale is missing (weight_scale or scale_weight)"),
    "a scale of columns": (
        INT8 | {"a.weight_scale": torch.ones(4)},
        "has a scale of the shape [4], wanted one number or one for each row, [6, 1]",
    ),
    "a scale of blocks": (INT8 | {"a.weight_scale": torch.ones(3, 2)}, "has a scale of the shape [3, 2]"),
    "a scale of nothing": (INT8 | {"a.weight_scale": torch.ones(0)}, "has a scale of the shape [0]"),
    "a scale of bytes": (INT8 | {"a.weight_scale": torch.ones(6, dtype=torch.uint8)}, "has a scale of the dtype U8"),
    "two scales": (INT8 | {"a.weight_scale": torch.ones(6), "a.scale_weight": torch.ones(6)}, "has two scales"),
    "NF4": (
        {
            "a.weight": torch.ones(12, 1, dtype=torch.uint8),
            "a.weight.absmax": torch.ones(1),
            "a.weight.quant_map": torch.ones(16),
            "a.weight.quant_state.bitsandbytes__nf4": torch.ones(9, dtype=torch.uint8),
        },
        "is in bitsandbytes' 4-bit NF4, which is not read",
    ),
    "NVFP4": (
        {"a.weight": torch.ones(6, 2, dtype=torch.uint8)}
        | {"a.weight_scale": torch.ones(6).to(FP8), "a.weight_scale_2": torch.ones(())},
        "is scaled twice, as NVFP4 is, which is not read",
    ),
    "packed": (
        {"a.weight": torch.ones(6, 2, dtype=torch.uint8), "a.weight_scale": torch.ones(6)},
        "is packed into U8, which is not read",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_weight_that_can_not_be_read_is_named_once_with_the_reason(name, tmp_path):
    made, reason = BAD[name]
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        problems = unreadable({"a.weight": (6, 4)}, {key: files.tensors[key] for key in files.tensors if key[0] == "a"})
        assert [text for text in problems if "a.bias" not in text] == [f"a.weight {files.tensors['a.weight'].problem}"]
        assert reason in problems[0]
        with pytest.raises(CheckpointError) as caught:
            files.read("a.weight")
        assert reason in str(caught.value)


def test_weights_with_one_problem_are_counted_not_listed(tmp_path):
    made = {f"blocks.{i}.weight": torch.ones(6, 4, dtype=torch.int8) for i in range(30)}
    with WeightFiles(saved(made, tmp_path / "x")) as files:
        (problem,) = unreadable({name: (6, 4) for name in made}, files.tensors)
    assert problem.startswith("blocks.0.weight is in int8") and problem.endswith(", and so are 29 more")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (text_tensor({"format": "nvfp4"}), "is F8_E4M3 in the format nvfp4, which is not read"),
        (text_tensor({"format": "float8_e5m2"}), "is F8_E4M3 in the format float8_e5m2, which is not read"),
        (text_tensor({"format": "float8_e4m3fn", "convrot": True}), "turned (convrot), which is not read"),
        (text_tensor({"form": 3}), "its comfy_quant is no JSON with a format"),
        (text_tensor([1]), "its comfy_quant is no JSON with a format"),
        (text_tensor(7), "its comfy_quant is no JSON with a format"),
        (torch.tensor(list(b"\xff{"), dtype=torch.uint8), "its comfy_quant is no JSON with a format"),
        (torch.tensor(list(b"[" * 100_000), dtype=torch.uint8), "its comfy_quant is no JSON with a format"),
        (torch.zeros(0, dtype=torch.uint8), "its comfy_quant is no JSON with a format"),
        (text_tensor({"format": {"\x1b[2J": "x" * 3000}}), "which is not read"),
        (torch.ones(3), "a.comfy_quant holds no bytes"),
    ],
    ids=range(11),
)
def test_a_format_that_is_none_or_another_is_refused(text, said, tmp_path):
    made = scaled_with_inputs(weights()) | {"a.comfy_quant": text}
    with WeightFiles(saved(made, tmp_path / "x")) as files, pytest.raises(CheckpointError) as caught:
        files.read("a.weight")
    message = str(caught.value)
    assert said in message and message.isprintable() and len(message) < 500


def test_a_format_in_the_metadata_alone_is_known(tmp_path):
    made = without(scaled_with_inputs(weights()), "a.comfy_quant")
    layers = {"layers": {"a": {"format": "int8_tensorwise", "convrot": True}}}
    path = saved(made, tmp_path / "x", {"_quantization_metadata": json.dumps(layers)})
    with WeightFiles(path) as files, pytest.raises(CheckpointError, match="turned .convrot., which is not read"):
        files.read("a.weight")
