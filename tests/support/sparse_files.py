"""Safetensors files of any size that take no room: a header, and a hole where the tensors would be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmdit.weights.header import TensorInfo
from mmdit.weights.writer import TensorSpec, layout_of


def sparse(path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None = None) -> Path:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    header |= {
        name: {"dtype": x.dtype, "shape": x.shape, "data_offsets": [x.start, x.stop]} for name, x in tensors.items()
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + max(x.stop for x in tensors.values()))
    return path


def sparse_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.bfloat16) -> Path:
    """The same from shapes alone, all of one dtype."""
    return sparse(path, layout_of({name: TensorSpec(dtype, shape) for name, shape in shapes.items()}))
