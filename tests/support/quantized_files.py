"""Files of quantized weights in the spellings that publishers use, and LoRAs, made from weights in floating point."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3fn


def plain(weights: Mapping[str, Tensor], dtype: torch.dtype = FP8) -> Tensors:
    """Every tensor in fp8, without a scale, as in the first files of FLUX.1."""
    return {name: x.to(dtype) for name, x in weights.items()}


def scaled(weights: Mapping[str, Tensor]) -> Tensors:
    """ComfyUI's first: a 0-dim `scale_weight` beside a weight, and a mark."""
    made = {"scaled_fp8": torch.zeros(2, dtype=FP8)}
    for name, x in weights.items():
        if not is_matrix(name, x):
            made[name] = x.bfloat16()
            continue
        scale = x.abs().max() / LARGEST
        made[name], made[name.removesuffix("weight") + "scale_weight"] = (x / scale).to(FP8), scale.reshape(())
    return made


def scaled_with_inputs(weights: Mapping[str, Tensor]) -> Tensors:
    """ComfyUI's second: `weight_scale`, `input_scale`, and the format's name as bytes."""
    made = {}
    for name, x in weights.items():
        if not is_matrix(name, x):
            made[name] = x.bfloat16()
            continue
        base, scale = name.removesuffix("weight"), x.abs().max() / LARGEST
        made[name], made[base + "weight_scale"] = (x / scale).to(FP8), scale.reshape(())
        made[base + "input_scale"] = torch.tensor(1.0)
        made[base + "comfy_quant"] = text_tensor({"format": "float8_e4m3fn"})
    return made


def by_row(weights: Mapping[str, Tensor]) -> Tensors:
    """int8 with a scale for each row."""
    made = {}
    for name, x in weights.items():
        if not is_matrix(name, x):
            made[name] = x.bfloat16()
            continue
        scale = x.flatten(1).abs().amax(1) / 127
        made[name] = (x / scale.reshape(-1, *[1] * (x.ndim - 1))).round().to(torch.int8)
        made[name + "_scale"] = scale[:, None]
    return made


def text_tensor(content: object) -> Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def is_matrix(name: str, x: Tensor) -> bool:
    return name.endswith(".weight") and x.ndim > 1


SPELLINGS: dict[str, Callable[[Mapping[str, Tensor]], Tensors]] = {
    "fp8": plain,
    "fp8 e5m2": lambda weights: plain(weights, torch.float8_e5m2),
    "fp8, scale_weight": scaled,
    "fp8, weight_scale": scaled_with_inputs,
    "int8": by_row,
}


def values(made: Mapping[str, Tensor], name: str) -> Tensor:
    """The formula, in float64: what a tensor in such a file stands for."""
    base = name.removesuffix("weight")
    scale = next((made[base + end] for end in ("scale_weight", "weight_scale") if base + end in made), None)
    x = made[name].double()
    return x if scale is None else x * scale.double().reshape(-1, *[1] * (x.ndim - 1))


def save_gguf(weights: Mapping[str, Tensor], path: Path) -> None:
    """Matrices in Q8_0 where their rows are of whole blocks, the rest in F32."""
    import gguf

    writer = gguf.GGUFWriter(path, "flux")
    for name, x in weights.items():
        whole = x.ndim == 2 and x.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if whole else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(x.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def low_rank(weights: Mapping[str, Tensor], rank: int = 4) -> Tensors:
    """A LoRA of kohya's for every matrix of the blocks; kernels of convolutions are none."""
    made = {}
    for name, x in weights.items():
        if is_matrix(name, x) and x.ndim == 2 and ("blocks" in name or "layers." in name):
            target = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            made[f"{target}.lora_down.weight"] = torch.randn(rank, x.shape[1])
            made[f"{target}.lora_up.weight"] = torch.randn(x.shape[0], rank)
            made[f"{target}.alpha"] = torch.tensor(2.0)
    return made
