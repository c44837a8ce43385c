"""Weights in eight bits, and the step that brings them to floating point, one tensor at a time.

A weight `x.weight` in fp8 stands for its values or, with a scale, for as many times them. The scale lies beside it
under one of these names (ComfyUI's `QUANTIZATION.md` and `comfy/utils.py`, NVIDIA's ModelOpt):

| beside `x.weight` | what |
| --- | --- |
| `x.scale_weight` | its scale, in a file that the tensor `scaled_fp8` marks |
| `x.weight_scale` | its scale, of the tensor or of each row; int8 has one, too |
| `x.comfy_quant` | the bytes of a JSON that names the format; the metadata `_quantization_metadata` may do so, too |
| `x.input_scale`, `x.scale_input` | of the activations: nothing of the weight |
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from mmdit.config.yaml_document import one_line
from mmdit.weights.gguf_file import block_types
from mmdit.weights.header import DTYPES, FLOATS, TensorInfo, named

__all__ = ["Quantized", "as_read", "check_format", "dequantize"]

Layers = Mapping[str, object]  # by the layer's name: its format, as the metadata say

FP8 = {"F8_E4M3": "e4m3fn", "F8_E5M2": "e5m2", "F8_E4M3FNUZ": "e4m3fnuz", "F8_E5M2FNUZ": "e5m2fnuz"}
FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8"}  # that ComfyUI names
SCALES = ("weight_scale", "scale_weight")
MARKER, FORMAT = "scaled_fp8", "comfy_quant"
OF_ACTIVATIONS = ("input_scale", "scale_input")
QUANTIZATION = "_quantization_metadata"  # of a file: the formats by layer
CHUNK = 1 << 17  # pairs of bytes, whose values are looked up at a time
LONGEST_FORMAT = 4096  # bytes of a JSON that names a format
NOT_READ = {  # by what lies beside a weight
    "weight.quant_state.bitsandbytes__nf4": "is in bitsandbytes' 4-bit NF4",
    "weight.quant_state.bitsandbytes__fp4": "is in bitsandbytes' 4-bit FP4",
    "weight_scale_2": "is scaled twice, as NVFP4 is",
    "weight_scale_inv": "is scaled by blocks",
    "pre_quant_scale": "is to be scaled with its activations",
    "SCB": "is in bitsandbytes' 8-bit",
}
STATES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".weight_format")  # of bitsandbytes


@dataclass(frozen=True)
class Quantized:
    """A weight that is not stored in floating point of 16 bits or more.

    Args:
        scheme: in words, such as `fp8 e4m3fn, scaled by row`.
        scale: the name of the tensor with its scale; None: it has none.
        format: the name of the tensor that names its format; None: there is none.
        blocks: it lies in blocks of GGUF, each with its own scales.
    """

    scheme: str
    scale: str | None = None
    format: str | None = None
    blocks: bool = False


def as_read(
    stored: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> tuple[dict[str, TensorInfo], dict[str, Quantized]]:
    """What headers describe, as it is read: without scales and marks, the weights that they belong to in floating point
    (bfloat16 holds all of fp8, a scaled weight is float32), or with the problem that keeps them from being read. And
    how each quantized weight is stored.
    """
    tensors, layers, found = dict(stored), _layers(metadata), {}
    marks = {name.removesuffix(MARKER): name for name in stored if name == MARKER or name.endswith("." + MARKER)}
    taken = set(marks.values())  # that belong to others
    for name, info in stored.items():
        if info.dtype in FLOATS:
            continue
        base = name.removesuffix("weight") if name == "weight" or name.endswith(".weight") else None
        beside = {end: base + end for end in _BESIDE if base + end in stored} if base is not None else {}
        taken.update(beside.values())
        if problem := next((problem for end, problem in NOT_READ.items() if end in beside), None):
            tensors[name] = replace(info, problem=f"{problem}, which is not read")
            taken.update(name + state for state in STATES)
        elif info.dtype in FP8 or info.dtype == "I8":
            matrix = base is not None and len(info.shape) > 1
            how, problem = _weight(info, stored, beside, matrix and _is_under(marks, name))
            if how is not None and base is not None:
                problem = _other_format(layers, base.removesuffix("."), info)
            if how is None or problem:
                tensors[name] = replace(info, problem=problem)
            else:
                tensors[name], found[name] = replace(info, dtype="BF16" if how.scale is None else "F32"), how
        elif info.dtype not in DTYPES and info.dtype in block_types():
            tensors[name], found[name] = replace(info, dtype="F32"), Quantized(f"GGUF {info.dtype}", blocks=True)
        elif beside:
            tensors[name] = replace(info, problem=f"is packed into {info.dtype}, which is not read")
    return {name: x for name, x in tensors.items() if name not in taken}, {
        name: how for name, how in found.items() if name not in taken
    }


_BESIDE = (*SCALES, FORMAT, *OF_ACTIVATIONS, *NOT_READ)


def _is_under(prefixes: Container[str], name: str) -> bool:
    return "" in prefixes or any(name[: match.end()] in prefixes for match in re.finditer(r"\.", name))


def _weight(
    info: TensorInfo, stored: Mapping[str, TensorInfo], beside: Mapping[str, str], scaled: bool
) -> tuple[Quantized | None, str]:
    """How a weight in fp8 or int8 is stored, or what is wrong with it; `scaled`: its file says that it has a scale."""
    kind = f"fp8 {FP8[info.dtype]}" if info.dtype in FP8 else "int8"
    scales = [beside[end] for end in SCALES if end in beside]
    if not scales:
        if kind != "int8" and not scaled and not beside:
            return Quantized(kind), ""
        return None, f"is in {kind} and its scale is missing (weight_scale or scale_weight)"
    if len(scales) > 1:
        return None, f"has two scales, {' and '.join(map(named, scales))}"
    scale, rows = stored[scales[0]], info.shape[:1]
    if scale.dtype not in FLOATS:
        return None, f"has a scale of the dtype {scale.dtype}, wanted one of {', '.join(FLOATS)}"
    of_rows = [rows + (1,) * n for n in range(max(len(info.shape), 1))]
    if prod(scale.shape) != 1 and scale.shape not in of_rows:
        wanted = f"one number or one for each row, {list(of_rows[-1])}"
        return None, f"has a scale of the shape {list(scale.shape)}, wanted {wanted}"
    of = "scaled" if prod(scale.shape) == 1 else "scaled by row"
    return Quantized(f"{kind}, {of}", scales[0], beside.get(FORMAT)), ""


def _layers(metadata: Mapping[str, str]) -> Layers:
    try:
        layers = json.loads(metadata[QUANTIZATION])["layers"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return layers if isinstance(layers, dict) else {}


def _other_format(layers: Layers, layer: str, info: TensorInfo) -> str:
    """What the metadata say of a layer that keeps its weight from being read; they may name it without a prefix."""
    while layer and layer not in layers:
        layer = layer.partition(".")[2]
    return _wrong_format(layers[layer], info) if layer else ""


def check_format(text: bytes, info: TensorInfo) -> None:
    """Whether the JSON beside a weight names how it is read here; `info`: of the weight, as it is stored.

    Raises:
        ValueError: it is none, or names another format.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if problem := _wrong_format(said, info):
        raise ValueError(problem)


def _wrong_format(said: object, info: TensorInfo) -> str:
    said = {"format": said} if isinstance(said, str) else said
    if not isinstance(said, dict) or "format" not in said:
        return f"its {FORMAT} is no JSON with a format"
    if not said.get("convrot") and FORMATS.get(str(said["format"])) == info.dtype:
        return ""
    turned = ", turned (convrot)" if said.get("convrot") else ""
    return f"is {info.dtype} in the format {one_line(str(said['format']), 40)}{turned}, which is not read"


def dequantize(x: Tensor, scale: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """A weight's values: in bfloat16 those of fp8, which it holds exactly; with a scale in float32, rounded once.

    Args:
        x: as it is stored, `rows ...`.
        scale: of the tensor, or of each row.
        dtype: what these are rounded to; None: they stay.

    Raises:
        ValueError: a scale is not finite.
    """
    bytes_ = torch.arange(256, dtype=torch.uint8, device=x.device).view(x.dtype)
    if scale is None:
        return _looked_up(x, bytes_.to(torch.bfloat16).to(dtype or torch.bfloat16))
    if not torch.isfinite(scale).all():
        raise ValueError("its scale is not finite")
    scale, values = scale.to(torch.float32), bytes_.to(torch.float32)
    if scale.numel() == 1:
        return _looked_up(x, values.mul_(scale.reshape(())).to(dtype or torch.float32))
    return _looked_up(x, values).mul_(scale.reshape(-1, *[1] * (x.ndim - 1))).to(dtype or torch.float32)


def _looked_up(x: Tensor, values: Tensor) -> Tensor:
    """The value of each byte, of all 256; two at once, in chunks that a cache holds, which takes a sixth of the time of
    torch's own conversion."""
    data = x.contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 2:
        data = data.clone()
    out, whole = torch.empty(data.numel(), dtype=values.dtype, device=x.device), data.numel() // 2 * 2
    as_pair = {2: torch.int32, 4: torch.int64}[values.itemsize]
    pairs = torch.stack([values.repeat(256), values.repeat_interleave(256)], dim=1).view(as_pair).reshape(-1)
    places, found = data[:whole].view(torch.uint16), out[:whole].view(as_pair)
    for begin in range(0, len(places), CHUNK):
        part = slice(begin, begin + CHUNK)
        torch.index_select(pairs, 0, places[part].to(torch.int32), out=found[part])
    out[whole:] = values[data[whole:].int()]
    return out.reshape(x.shape)
