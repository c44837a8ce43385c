"""A gate on what attention gives, from what it reads (Qiu et al. 2025, arXiv 2505.06708, position G1; Krea 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdit.options import JointAttentionOptions


class OutputGate(nn.Module):
    """`attended * sigmoid(linear(x))` before the out projection, the same for `shared` features of a head."""

    def __init__(self, dim: int, dim_inner: int, *, bias: bool, shared: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim_inner // shared, bias=bias)

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        """`attended`: b n h d; `x`: b n dim, what the attention read of these tokens -> b n h d."""
        return attended * torch.sigmoid(self.linear(x)).unflatten(-1, (attended.shape[-2], -1))


class NoOutputGate(nn.Module):
    """What attention gives, as it is."""

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        return attended


def make_output_gate(dim: int, options: JointAttentionOptions) -> nn.Module:
    """That of one modality."""
    if not options.attention.out_gate:
        return NoOutputGate()
    heads, dim_head = options.head_sizes
    shared = dim_head if options.attention.out_gate == "per_head" else 1
    return OutputGate(dim, heads * dim_head, bias=options.attention.bias, shared=shared)
