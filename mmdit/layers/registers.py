"""Register tokens: learned tokens in front of a sequence, dropped at the end (Darcet et al. 2023, arXiv 2309.16588)."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn

from mmdit.packing import Packing


class RegisterTokens(nn.Module):
    """Puts `count` learned tokens in front of a modality's sequence."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.tokens = nn.Parameter(torch.randn(count, dim) * 0.02)

    def forward(self, x: Tensor, packed: Packing | None = None) -> Tensor:
        """`x`: b n d -> b (count n) d; packed, `1 T d`, each sample's in front of its own."""
        tokens = self.tokens.to(x.dtype)
        if packed is None:
            return torch.cat([repeat(tokens, "r d -> b r d", b=x.shape[0]), x], dim=1)
        return packed.join([repeat(tokens, "r d -> 1 (b r) d", b=packed.batch), x])


class NoRegisterTokens(nn.Module):
    """A sequence as it is."""

    count = 0

    def forward(self, x: Tensor, packed: Packing | None = None) -> Tensor:
        """`x`: b n d, or packed 1 T d -> the same."""
        return x


def make_registers(dim: int, count: int) -> nn.Module:
    """Raises ValueError where `count` is negative."""
    if count < 0:
        raise ValueError(f"num_register_tokens must be at least 0, got {count}")
    return RegisterTokens(dim, count) if count else NoRegisterTokens()
