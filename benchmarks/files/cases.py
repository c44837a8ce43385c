"""The files that are converted: each a published network with as many blocks as give the size, of random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import mmdit
from mmdit.config import as_config
from mmdit.layouts import to_layout
from mmdit.options import ModelOptions, as_written
from tests.support.quantized_files import save_gguf, scaled


@dataclass(frozen=True)
class Case:
    """A file that is converted.

    Args:
        config: the network's, which gets fewer blocks.
        source, target: layouts.
        write: makes the source's file of tensors in bfloat16.
        most: the goal, over copying and reading.
    """

    name: str
    config: str
    source: str
    target: str
    write: Callable[[Mapping[str, Tensor], Path], None]
    most: float


def plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path, metadata={"format": "pt"})


def scaled_fp8(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(scaled(tensors), path)


CASES = (
    Case("SD3-medium of diffusers to ours", "sd3-medium", "diffusers", "mmdit", plain, 1.5),
    Case("SD3-medium of ours to diffusers", "sd3-medium", "mmdit", "diffusers", plain, 1.5),
    Case("FLUX.1-dev, original, to diffusers", "flux.1-dev", "flux", "diffusers", plain, 1.5),
    Case("FLUX.1-dev, scaled fp8, to ours in bf16", "flux.1-dev", "flux", "mmdit", scaled_fp8, 2.0),
    Case("FLUX.1-dev, GGUF Q8_0, to ours in bf16", "flux.1-dev", "flux", "mmdit", save_gguf, 2.0),
)


def model_of(case: Case, size: float) -> ModelOptions:
    """The network with so many blocks that its weights take `size` bytes in bfloat16, or one more."""

    def with_blocks(depth: int, single: int) -> ModelOptions:
        model = as_written(whole)
        model["depth"] = depth
        if whole.single_stream is not None:
            model["single_stream"]["depth"] = single
        return as_config(model).model

    def nbytes(model: ModelOptions) -> int:
        with torch.device("meta"):
            return 2 * sum(p.numel() for p in mmdit.build(model).parameters())

    whole = as_config(case.config).model
    singles = 0 if whole.single_stream is None else whole.single_stream.depth
    base, more = nbytes(with_blocks(2, min(singles, 2))), nbytes(with_blocks(3, min(singles, 4)))
    steps = max(0, round((size - base) / (more - base)))
    return with_blocks(min(2 + steps, whole.depth), min(2 + 2 * steps, singles))


def write_source(case: Case, model: ModelOptions, path: Path) -> None:
    """The file, of random weights in bfloat16."""
    with torch.device("meta"):
        net = mmdit.build(model)
    torch.manual_seed(0)
    state = {name: (torch.randn(x.shape) * 0.02).bfloat16() for name, x in net.state_dict().items()}
    case.write(to_layout(state, model, case.source) if case.source != "mmdit" else state, path)
