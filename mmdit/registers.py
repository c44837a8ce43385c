"""Register tokens: learned tokens in front of a sequence, dropped at the end (Darcet et al. 2023, arXiv 2309.16588)."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn


class RegisterTokens(nn.Module):
    """Puts `count` learned tokens in front of a modality's sequence; its mask counts them as valid."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.tokens = nn.Parameter(torch.randn(count, dim) * 0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`x`: b n d, `mask`: b n or None -> b (count n) d and its mask."""
        registers = repeat(self.tokens.to(x.dtype), "r d -> b r d", b=x.shape[0])
        if mask is not None:
            mask = torch.cat([mask.new_ones(x.shape[0], self.count), mask], dim=1)
        return torch.cat([registers, x], dim=1), mask


class NoRegisterTokens(nn.Module):
    """A sequence as it is."""

    count = 0

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x, mask


def make_registers(dim: int, count: int) -> nn.Module:
    """Raises ValueError where `count` is negative."""
    if count < 0:
        raise ValueError(f"num_register_tokens must be at least 0, got {count}")
    return RegisterTokens(dim, count) if count else NoRegisterTokens()
