"""Weights written in fp8: the blocks' matrices in e4m3fn, as they are or with a scale each, all else in bfloat16."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import Weights
from mmdit.weights.header import CheckpointError, named
from mmdit.weights.quantized import MARKER
from mmdit.weights.writer import TensorSpec

Fp8 = Literal["fp8", "fp8-scaled"]
DTYPE, REST = torch.float8_e4m3fn, torch.bfloat16
LARGEST = torch.finfo(DTYPE).max
SCALE = "scale_weight"
HALF_STEP, SMALLEST = 2.0**-4, 2.0**-10  # of e4m3fn: half a unit in the last place of 1, half the smallest number
_LINEAR = re.compile(r"(^|\.)(single_)?blocks\.\d+\.\w*(attn|feedforward|modulation)(?!.*norm)")  # of ours


@dataclass(frozen=True)
class KindError:
    """What rounding did to the weights of one kind of layer.

    Args:
        kind: such as `blocks.joint_attn.to_qkv`, or what is common to all that are not in fp8.
        tensors: how many there are.
        relative: the root mean square of the errors, over that of the weights.
        max_abs: the largest error.
    """

    kind: str
    tensors: int
    relative: float
    max_abs: float


def in_fp8(weights: Weights, layout: Layout, kind: Fp8) -> Weights:
    """Weights in a layout's names, the matrices of the blocks in e4m3fn. With `fp8-scaled` each lies beside its scale,
    its largest value over 448, as a `scale_weight`, and the tensor `scaled_fp8` marks the file: ComfyUI's names.

    A tensor is read once more for its scale. Reading raises CheckpointError where values are not finite or, without a
    scale, larger than 448.
    """
    scaled = kind == "fp8-scaled"
    specs = {
        name: TensorSpec(DTYPE if _is_matrix(name, spec, layout) else REST, spec.shape)
        for name, spec in weights.specs.items()
    }
    scales = {_scale_of(name): name for name, spec in specs.items() if scaled and spec.dtype == DTYPE}
    if scaled:
        specs |= {name: TensorSpec(torch.float32, ()) for name in scales} | {MARKER: TensorSpec(DTYPE, (2,))}

    def read(name: str) -> Tensor:
        if name in scales:
            return scale_of(weights.read(scales[name]), scales[name])
        if scaled and name == MARKER:
            return torch.zeros(2, dtype=DTYPE)  # of two values: its products are to be made in full precision
        x = weights.read(name)
        if specs[name].dtype != DTYPE:
            return x.to(REST)
        scale = scale_of(x, name)
        if not scaled and scale > 1:
            raise CheckpointError(
                f"{named(name)} reaches {scale * LARGEST:g}, fp8 {LARGEST:g}; write it with scales (--dtype fp8-scaled)"
            )
        return (x.float() / scale if scaled else x).to(DTYPE)

    return Weights(specs, read, weights.origin)


def scale_of(x: Tensor, name: str) -> Tensor:
    """What a tensor's largest value is over that of e4m3fn, 0-dim in float32; 1 for zeros.

    Raises:
        CheckpointError: there are values that are not finite.
    """
    largest = x.abs().max().float() if x.numel() else torch.zeros(())
    if not torch.isfinite(largest):
        raise CheckpointError(f"{named(name)} has values that are not finite, which fp8 can't hold")
    scale = largest / LARGEST
    return torch.where(scale > 0, scale, torch.ones(()))


class RoundingErrors:
    """Adds up, by kind of layer, how what is read back differs from what was to be written."""

    def __init__(self, layout: Layout, kind: Fp8) -> None:
        self._layout, self._scaled = layout, kind == "fp8-scaled"
        self._sums: dict[str, list[float]] = {}  # tensors, squares of errors, squares of weights, largest error

    def add(self, name: str, wanted: Tensor, got: Tensor) -> bool:
        """Take up a tensor; whether it is within the rounding of its format."""
        x, error = wanted.double(), (got.double() - wanted.double()).abs()
        if _is_matrix(name, TensorSpec(wanted.dtype, tuple(wanted.shape)), self._layout):
            kind = layer_kind(self._layout.made_of(name)[0])
            step = scale_of(wanted, name).item() if self._scaled else 1.0
            allowed = 1.001 * (HALF_STEP * x.abs() + SMALLEST * step)
        else:
            kind = "all others, in bfloat16"
            allowed = torch.finfo(REST).eps * x.abs() + torch.finfo(REST).tiny
        sums = self._sums.setdefault(kind, [0, 0.0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += error.square().sum().item()
        sums[2] += x.square().sum().item()
        sums[3] = max(sums[3], error.max().item() if error.numel() else 0.0)
        return bool((error <= allowed).all())

    def by_kind(self) -> Iterable[KindError]:
        for kind, (tensors, errors, squares, largest) in self._sums.items():
            yield KindError(kind, int(tensors), (errors / squares) ** 0.5 if squares else 0.0, largest)


def layer_kind(ours: str) -> str:
    """`blocks.joint_attn.to_qkv` of `transformer.blocks.3.joint_attn.to_qkv.1.linear.weight`."""
    parts = [part for part in ours.split(".")[:-1] if not part.isdecimal() and part not in ("transformer", "linear")]
    return ".".join(parts)


def _is_matrix(name: str, spec: TensorSpec, layout: Layout) -> bool:
    made_of = layout.made_of(name)
    in_blocks = bool(made_of) and all(map(_LINEAR.search, made_of))
    return in_blocks and name.endswith(".weight") and len(spec.shape) == 2


def _scale_of(weight: str) -> str:
    return weight.removesuffix("weight") + SCALE
