"""The one attention call over the joined sequence, as a module of its own so that tools can see and time it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """`softmax(q k^T / sqrt(d)) v` through `scaled_dot_product_attention`, which picks a fused kernel."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """`q`: b h i d; `k`, `v`: b h j d; `mask`: b j, True = may be attended to -> b h i d."""
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v)
        mask, has_keys = _never_empty(mask)
        return F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :]) * has_keys.to(q.dtype)


class ExplicitAttention(nn.Module):
    """The same written out, which a soft clamp of the logits needs: `c * tanh(logits / c)`.

    `scaled_dot_product_attention` can't express the clamp, so this path holds the `b h i j` logits in memory and runs
    at a fraction of the fused speed. The clamp is the one of Gemma 2 (2024), section 2.
    """

    def __init__(self, *, softclamp_value: float | None = None) -> None:
        super().__init__()
        if softclamp_value is not None and not softclamp_value > 0:
            raise ValueError(f"softclamp_value must be above 0, got {softclamp_value}")
        self.softclamp_value = softclamp_value

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """`q`: b h i d; `k`, `v`: b h j d; `mask`: b j, True = may be attended to -> b h i d."""
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if self.softclamp_value is not None:
            logits = (logits / self.softclamp_value).tanh() * self.softclamp_value
        if mask is None:
            return logits.softmax(dim=-1) @ v
        mask, has_keys = _never_empty(mask)
        logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
        return (logits.softmax(dim=-1) @ v) * has_keys.to(q.dtype)


def _never_empty(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A sample without one valid key would be 0 / 0. It attends to everything, and `has_keys` (b 1 1 1) zeroes what
    comes out, so that outputs and gradients are 0 rather than NaN, without asking the device."""
    has_keys = mask.any(dim=-1, keepdim=True)
    return mask | ~has_keys, has_keys[:, :, None, None]


def make_attention(*, flash_attn: bool | None, softclamp_value: float | None) -> nn.Module:
    """The fused call, or the explicit one where it is asked for (`flash_attn=False`) or needed (a soft clamp).

    Raises:
        ValueError: `flash_attn=True` together with a soft clamp, which no fused kernel computes.
    """
    if flash_attn and softclamp_value is not None:
        raise ValueError("flash_attn=True can't soft-clamp the logits; leave flash_attn unset or softclamp off")
    if softclamp_value is not None or flash_attn is False:
        return ExplicitAttention(softclamp_value=softclamp_value)
    return FusedAttention()


def join_masks(masks: list[Tensor | None], lengths: list[int], like: Tensor) -> Tensor | None:
    """One `b N` mask over the joined sequence, or None where no modality has one, so that fast kernels stay usable."""
    if all(mask is None for mask in masks):
        return None
    batch, device = like.shape[0], like.device
    return torch.cat(
        [
            torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask
            for mask, length in zip(masks, lengths, strict=True)
        ],
        dim=1,
    )
