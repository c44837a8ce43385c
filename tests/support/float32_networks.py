"""Small stacks in float32: what compilers and devices are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmdit.networks.transformer import MMDiT
from tests.support.draws import drawn, padded_mask

DIMS, COND = (24, 16, 32), 12


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": dict(qk_rmsnorm=True),
    "adaptive by token": dict(num_adaptive_weights=2),
    "adaptive by sample": dict(num_adaptive_weights=2, gating="sample", bias=True),
    "soft-clamped": dict(softclamp=True),
    "hyper-connections": dict(num_residual_streams=2, residual="hyper_connections"),
    "manifold": dict(num_residual_streams=2),
    "registers": dict(num_register_tokens=2),
    "discard": dict(discard=(0,), dual_blocks=(0,)),
    "recomputed": dict(checkpoint_activations=True),
}


def build(variant: str, depth: int = 2) -> nn.Module:
    net = MMDiT(depth=depth, dim_modalities=DIMS, heads=2, dim_head=16, dim_cond=COND, **VARIANTS[variant])
    return drawn(net).float()


def call(
    lengths: Sequence[int] = (7, 5, 9), batch: int = 2, masked: bool = True, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    tokens = tuple(torch.randn(batch, n, d, dtype=dtype) for n, d in zip(lengths, DIMS, strict=True))
    masks = (padded_mask(lengths[0], *range(1, batch + 1)), None, None) if masked else None
    return dict(modality_tokens=tokens, modality_masks=masks, time_cond=torch.randn(batch, COND, dtype=dtype))
