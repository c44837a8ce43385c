"""Normalizations: adaptive layer norm, RMS norm, and the per-head RMS norm of queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.runs import ConditioningRuns, over_runs
from mmdit.options import JointAttentionOptions


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose shift and scale come from the conditioning: `norm(x) * (1 + scale) + shift`.

    DiT (Peebles & Xie 2022), section 3.2; Figure 2 of Esser et al. 2024. Without conditioning it is a plain layer norm
    with learned weight and bias. `normed=False` leaves the norm out and keeps the modulation (AuraFlow's last).
    """

    def __init__(self, dim: int, *, conditioned: bool, eps: float = 1e-6, normed: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=not conditioned) if normed else nn.Identity()

    def forward(
        self, x: Tensor, shift: Tensor | ConditioningRuns | None = None, scale: Tensor | ConditioningRuns | None = None
    ) -> Tensor:
        """`x`: b n d; `shift`, `scale`: b 1 d, b n d, runs, or None where the conditioning does not give them."""
        if scale is None:
            return self.norm(x)
        if shift is None:
            return over_runs(self._scaled, x, scale)
        return over_runs(self._modulated, x, shift, scale)

    def _scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x) * (1 + scale)

    def _modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        # one sample: its modulation is the norm's affine, which the kernel takes in the dtype of x alone
        if shift.shape[:2] == (1, 1) and shift.dtype == x.dtype and isinstance(self.norm, nn.LayerNorm):
            return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], self.norm.eps)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """`x`: ... d."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class HeadLayerNorm(nn.Module):
    """Layer norm over each head's features, without weights (AuraFlow)."""

    def __init__(self, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n h d."""
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class MultiHeadRMSNorm(nn.Module):
    """RMS norm over each head's features, with a learned scale (Esser et al. 2024, section 5.3.2: qk-norm).

    `shared=False` learns a scale for every head, `shared=True` one for all of them, as the SD3.5 checkpoints hold.
    """

    def __init__(self, dim_head: int, *, heads: int, shared: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim_head) if shared else torch.ones(heads, dim_head))

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n h d."""
        weight = self.weight.to(x.dtype)
        if weight.ndim == 1:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        return F.rms_norm(x, weight.shape[-1:], None, self.eps) * weight


def make_head_norm(options: JointAttentionOptions) -> nn.Module:
    """The norm of each head's queries or keys, if any."""
    own = options.attention.qk_norm_eps
    eps = options.norm_eps if own is None else own
    if options.qk_rmsnorm:
        heads, dim_head = options.head_sizes
        shared = options.attention.qk_norm_scale == "shared"
        return MultiHeadRMSNorm(dim_head, heads=heads, shared=shared, eps=eps)
    return HeadLayerNorm(eps=eps) if options.attention.qk_layernorm else nn.Identity()
