"""Normalizations: layer and RMS norm, modulated or not, and the per-head RMS norm of queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.runs import ConditioningRuns, over_runs
from mmdit.options import BlockOptions, JointAttentionOptions


class AdaptiveNorm(nn.Module):
    """A norm whose shift and scale come from the conditioning: `norm(x) * (1 + scale) + shift`.

    DiT (Peebles & Xie 2022), section 3.2; Figure 2 of Esser et al. 2024. What is not given is left out.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.takes_affine = isinstance(norm, nn.LayerNorm) and norm.weight is None

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
        if self.takes_affine and shift.shape[:2] == (1, 1) and shift.dtype == x.dtype:
            return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], self.norm.eps)  # type: ignore[arg-type]
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension (Zhang & Sennrich 2019).

    `weights`: plain, none, or zero_centred, which are what is added to 1 (Gemma).
    """

    weight: nn.Parameter

    def __init__(self, dim: int, *, eps: float = 1e-6, weights: str = "plain") -> None:
        super().__init__()
        self.dim, self.eps, self.centre = dim, eps, float(weights == "zero_centred")
        weight = None if weights == "none" else nn.Parameter(torch.full((dim,), 1 - self.centre))
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: ... d."""
        if self.weight is None:
            return F.rms_norm(x, (self.dim,), None, self.eps)
        weight = self.weight + self.centre if self.centre else self.weight
        return F.rms_norm(x, (self.dim,), weight.to(x.dtype), self.eps)


def make_norm(dim: int, options: BlockOptions) -> AdaptiveNorm:
    """The norm before a branch, which the conditioning modulates."""
    return AdaptiveNorm(_block_norm(dim, options))


def make_norm_behind(dim: int, options: BlockOptions) -> nn.Module:
    """The norm of what a branch gives, before its gate, if there is one."""
    return _block_norm(dim, options) if options.norm.place == "around" else nn.Identity()


def _block_norm(dim: int, options: BlockOptions) -> nn.Module:
    weights = options.norm.weights or ("none" if options.modulates_norms else "plain")
    if options.norm.kind == "layer":
        return nn.LayerNorm(dim, eps=options.norm_eps, elementwise_affine=weights == "plain")
    return RMSNorm(dim, eps=options.norm_eps, weights=weights)


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


def make_head_norm(options: JointAttentionOptions, heads: int | None = None) -> nn.Module:
    """The norm of each head's queries or keys, if any; `heads`: how many, if not all."""
    own = options.attention.qk_norm_eps
    eps = options.norm_eps if own is None else own
    if options.qk_rmsnorm:
        every, dim_head = options.head_sizes
        heads = heads or every
        shared = options.attention.qk_norm_scale == "shared"
        return MultiHeadRMSNorm(dim_head, heads=heads, shared=shared, eps=eps)
    return HeadLayerNorm(eps=eps) if options.attention.qk_layernorm else nn.Identity()
