"""Small stacks of three modalities, one for each option: what the formulas are held against, in float64."""

from __future__ import annotations

import torch

from tests.support.draws import randn

DIMS, LENGTHS, COND = (10, 6, 8), (5, 4, 7), 9


SIZES = dict(dim_modalities=DIMS, heads=2, dim_head=4)


VARIANTS = {
    "standard": {},
    "qk-norm": dict(qk_rmsnorm=True),
    "shared qk-norm, bias": dict(qk_rmsnorm=True, qk_norm_shared=True, bias=True),
    "adaptive by token": dict(num_adaptive_weights=2),
    "adaptive by sample": dict(num_adaptive_weights=2, gating="sample"),
    "soft-clamped": dict(softclamp=True, softclamp_value=0.7),
    "explicit": dict(flash_attn=False),
    "hyper-connections": dict(num_residual_streams=3, residual="hyper_connections"),
    "static hyper-connections": dict(num_residual_streams=2, residual="hyper_connections", dynamic_residual=False),
    "manifold": dict(num_residual_streams=3),
    "static manifold": dict(num_residual_streams=2, dynamic_residual=False),
    "swiglu": dict(ff_kwargs=dict(kind="swiglu", mult=2)),
    "adaptive with streams": dict(
        num_adaptive_weights=3, num_residual_streams=2, residual="hyper_connections", qk_rmsnorm=True, bias=True
    ),
}


def tokens(batch: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(randn(batch, n, d) for n, d in zip(LENGTHS, DIMS, strict=True))
