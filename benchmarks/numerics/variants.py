"""Stacks of every variant, their weights away from where they start, and the arguments of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmdit import mmdit_pytorch as two_modality
from mmdit.networks import transformer as generalized

DIM, COND, BATCH = 64, 32, 2
LENGTHS = (9, 24, 7)
SIZES: dict[str, Any] = dict(heads=2, dim_head=32)


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "unconditioned": dict(dim_cond=None),
    "adaln identity": dict(adaln="identity"),
    "qk norm": dict(qk_rmsnorm=True),
    "shared qk norm, biases": dict(qk_rmsnorm=True, qk_norm_shared=True, bias=True),
    "qk layer norm": dict(qk_layernorm=True),
    "adaptive by token": dict(num_adaptive_weights=3),
    "adaptive by sample": dict(num_adaptive_weights=3, gating="sample", bias=True),
    "explicit attention": dict(flash_attn=False),
    "soft clamp": dict(softclamp=True, softclamp_value=5.0),
    "registers": dict(num_register_tokens=4),
    "hyper-connections": dict(num_residual_streams=4, residual="hyper_connections"),
    "static hyper-connections": dict(num_residual_streams=4, residual="hyper_connections", dynamic_residual=False),
    "manifold": dict(num_residual_streams=4),
    "static manifold": dict(num_residual_streams=4, dynamic_residual=False),
    "nested residual": dict(residual="nested"),
    "dual attention, discard": dict(dual_blocks=(0,), discard=(0,)),
    "parallel single stream": dict(single_stream="parallel"),
    "sequential single stream": dict(single_stream="sequential"),
    "shared modulation": dict(single_stream="parallel", shared_modulation=True),
    "rotary": dict(rotary_axes=(8, 12, 12)),
    "swiglu": dict(ff_kwargs=dict(kind="swiglu", mult=2)),
    "geglu": dict(ff_kwargs=dict(kind="geglu", mult=2)),
    "masks": {},
    "masks, packed": dict(varlen=True),
    "two modalities": dict(two=True, qk_rmsnorm=True, num_register_tokens=4),
    "two modalities, streams": dict(two=True, num_residual_streams=2),
    "all together": dict(
        num_adaptive_weights=2,
        num_residual_streams=2,
        qk_rmsnorm=True,
        softclamp=True,
        num_register_tokens=2,
        rotary_axes=(8, 12, 12),
        ff_kwargs=dict(kind="swiglu"),
        single_stream="sequential",
        varlen=True,
    ),
}
MASKED = ("masks", "masks, packed", "all together")


def build(variant: str, depth: int, modalities: int = 3) -> nn.Module:
    """In float64, its weights away from where they start; half the blocks are single-stream ones where it has such."""
    options = dict(dim_cond=COND) | SIZES | VARIANTS[variant]
    if options.pop("two", False):
        return realistic(two_modality.MMDiT(depth=depth, dim_text=DIM, dim_image=DIM, **options).double())
    single = max(depth // 2, 1) if "single_stream" in options else 0
    net = generalized.MMDiT(
        depth=max(depth - single, 1), single_stream_depth=single, dim_modalities=[DIM] * modalities, **options
    )
    return realistic(net.double())


@torch.no_grad()
def realistic(net: nn.Module, noise: float = 0.3) -> nn.Module:
    """Matrices keep a vector's size, gates are about 0.6; norms, biases and stream coefficients stay near the start."""
    for name, parameter in net.named_parameters():
        if name.rsplit(".", 1)[-1] in ("pre", "mix", "post", "scales"):
            parameter.add_(torch.randn_like(parameter), alpha=noise / 3)
        elif parameter.ndim > 1 and "norm" not in name:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return net


def arguments(variant: str, dtype: torch.dtype) -> dict[str, Any]:
    """Those of a call, drawn in `dtype`."""
    options = VARIANTS[variant]
    tokens = [torch.randn(BATCH, n, DIM).to(dtype) for n in LENGTHS]
    given: dict[str, Any] = (
        {} if options.get("dim_cond", COND) is None else dict(time_cond=torch.randn(BATCH, COND).to(dtype))
    )
    if options.get("two"):
        return given | dict(text_tokens=tokens[0], image_tokens=tokens[1])
    if variant in MASKED:
        valid = (torch.tensor([n // 2, n])[:, None] for n in LENGTHS)
        given["modality_masks"] = [torch.arange(n) < count for n, count in zip(LENGTHS, valid, strict=True)]
    if "rotary_axes" in options:
        given["modality_positions"] = [None, *(torch.rand(n, 3) * 50 for n in LENGTHS[1:])]
    return given | dict(modality_tokens=tokens)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Tokens and conditioning in another dtype; masks and positions as they are."""
    if isinstance(value, dict):
        return {k: v if k.endswith(("masks", "positions")) else cast(v, dtype) for k, v in value.items()}
    return [cast(v, dtype) for v in value] if isinstance(value, list) else value.to(dtype)
