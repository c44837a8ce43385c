"""The one attention call over the joined sequence, as a module of its own so that tools can see and time it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.attention_kernels import choosing_kernels, varlen_kernel
from mmdit.options import AttentionOptions
from mmdit.packing import Segments


class FusedAttention(nn.Module):
    """`softmax(q k^T / sqrt(d)) v` through `scaled_dot_product_attention`, which picks a fused kernel."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, segments: Segments | None = None
    ) -> Tensor:
        """`q`: b h i d; `k`, `v`: b h j d; `mask`: b j, True = may be attended to -> b h i d.

        With `segments`, b is 1 and each sample attends to its own segment.
        """
        if segments is not None:
            if q.device.type == "cuda" and torch.is_autocast_enabled("cuda"):  # norms leave float32 there
                q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
            kernel = varlen_kernel(q)
            if kernel is None or not q.shape[2]:
                return attend_by_segment(_fused, q, k, v, segments)
            packed = (x.squeeze(0).transpose(0, 1) for x in (q, k, v))
            longest = max(segments.query_lengths), max(segments.key_lengths)
            out: Tensor = kernel(*packed, segments.query_offsets, segments.key_offsets, *longest)
            return out.transpose(0, 1).unsqueeze(0)
        if mask is None:
            return _fused(q, k, v)
        mask, has_keys = _never_empty(mask)
        return _fused(q, k, v, mask[:, None, None, :]) * has_keys.to(q.dtype)


class GroupedAttention(nn.Module):
    """Each head of keys and values for several heads of queries (Ainslie et al. 2023, arXiv 2305.13245)."""

    def __init__(self, attend: nn.Module, *, group: int) -> None:
        super().__init__()
        self.attend, self.group = attend, group

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, segments: Segments | None = None
    ) -> Tensor:
        """See `FusedAttention`; `q`: b (h g) i d."""
        k, v = (x.repeat_interleave(self.group, dim=1) for x in (k, v))
        out: Tensor = self.attend(q, k, v, mask, segments)
        return out


class ScaledAttention(nn.Module):
    """Logits times `scale` in place of `1 / sqrt(d)`."""

    def __init__(self, attend: nn.Module, *, scale: float) -> None:
        super().__init__()
        self.attend, self.scale = attend, scale

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, segments: Segments | None = None
    ) -> Tensor:
        """See `FusedAttention`."""
        out: Tensor = self.attend(q * (self.scale * q.shape[-1] ** 0.5), k, v, mask, segments)
        return out


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

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, segments: Segments | None = None
    ) -> Tensor:
        """See `FusedAttention`."""
        if segments is not None:
            return attend_by_segment(self.forward, q, k, v, segments)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if self.softclamp_value is not None:
            logits = (logits / self.softclamp_value).tanh() * self.softclamp_value
        if mask is None:
            return logits.softmax(dim=-1) @ v
        mask, has_keys = _never_empty(mask)
        logits = logits.masked_fill(~mask[:, None, None, :], float("-inf"))
        return (logits.softmax(dim=-1) @ v) * has_keys.to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`q`: b h i d; `k`, `v`: b h j d; `mask`: b 1 1 j or None -> b h i d."""
    with choosing_kernels(q, k, v, masked=mask is not None):
        return F.scaled_dot_product_attention(q, k, v, mask)


def attend_by_segment(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, segments: Segments
) -> Tensor:
    """One call for each sample's slice of `1 h T d`; one for all where all are of one length."""
    queries, keys = segments.query_lengths, segments.key_lengths
    if len({*queries}) == 1 and len({*keys}) == 1:
        batch = len(queries)
        q, k, v = (x.squeeze(0).unflatten(1, (batch, -1)).transpose(0, 1) for x in (q, k, v))
        return attend(q, k, v).transpose(0, 1).flatten(1, 2).unsqueeze(0)
    if not q.shape[2]:
        return q
    slices = zip(q.split(queries, dim=2), k.split(keys, dim=2), v.split(keys, dim=2), strict=True)
    return torch.cat([attend(*each) if each[0].shape[2] else each[0] for each in slices], dim=2)


def _never_empty(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A sample without one valid key would be 0 / 0. It attends to everything, and `has_keys` (b 1 1 1) zeroes what
    comes out, so that outputs and gradients are 0 rather than NaN, without asking the device."""
    has_keys = mask.any(dim=-1, keepdim=True)
    return mask | ~has_keys, has_keys[:, :, None, None]


def make_attention(options: AttentionOptions, heads: int) -> nn.Module:
    """The fused call, or the explicit one where it is asked for (`flash_attn=False`) or needed (a soft clamp)."""
    attend: nn.Module = FusedAttention()
    if options.softclamp is not None or options.flash_attn is False:
        attend = ExplicitAttention(softclamp_value=options.softclamp)
    if options.scale is not None:
        attend = ScaledAttention(attend, scale=options.scale)
    group = heads // (options.kv_heads or heads)
    return attend if group == 1 else GroupedAttention(attend, group=group)


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
