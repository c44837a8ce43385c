"""Random draws: parameters away from their initial values, inputs and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def drawn(module: nn.Module, std: float = 0.3) -> nn.Module:
    """The module in float64 with every parameter drawn afresh: many start at 0 or 1, where faults hide."""
    module = module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            parameter.normal_(std=std if parameter.ndim < 2 else fan_in**-0.5)
            if "norm" in name and parameter.ndim < 3 and "linear" not in name:
                parameter.add_(1)
    return module


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def as_read(xs: Sequence[Tensor], masks: Sequence[Tensor | None] | None) -> list[Tensor]:
    """Tokens `b n d` with 1, -1, 1, ... at masked places, which is what networks read there whatever is given."""
    every = [None] * len(xs) if masks is None else masks
    return [
        x if mask is None else torch.where(mask[..., None], x, (-1.0) ** torch.arange(x.shape[-1]).to(x.dtype))
        for x, mask in zip(xs, every, strict=True)
    ]


def padded_mask(length: int, *valid: int) -> torch.Tensor:
    """One row for each count of valid tokens, which come first."""
    return torch.arange(length) < torch.tensor(valid)[:, None]
