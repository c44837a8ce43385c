"""Bytes of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from torch import Tensor, nn


def local(x: Tensor) -> Tensor:
    """Of a tensor that lies on several processes this one's part."""
    own: Tensor = getattr(x, "_local_tensor", x)
    return own


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements on this process, which an expanded dimension has but once."""
    return sum(_elements(x) * x.element_size() for x in map(local, tensors))


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return total_bytes((*model.parameters(), *model.buffers()))


def _elements(x: Tensor) -> int:
    return prod(size if stride or not size else 1 for size, stride in zip(x.shape, x.stride(), strict=True))
