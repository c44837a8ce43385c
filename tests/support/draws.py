"""Random draws: parameters away from their initial values, inputs and masks."""

from __future__ import annotations

import torch
from torch import nn


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


def padded_mask(length: int, *valid: int) -> torch.Tensor:
    """One row for each count of valid tokens, which come first."""
    return torch.arange(length) < torch.tensor(valid)[:, None]
