"""Adaptive attention over one sequence: the one-input face of `JointAttention`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmdit.layers.joint_attention import JointAttention
from mmdit.options import JointAttentionOptions
from mmdit.options.fields import Size, takes


@takes(JointAttentionOptions)
class AdaptiveAttention(nn.Module):
    """Self attention whose projections mix several weights by a softmax gate, per head.

    The idea is that of GigaGAN's adaptive convolutions (Kang et al. 2023, section 3.1). One weight is standard
    attention.

    Args:
        options: what it is; or as keywords: heads, dim_head, num_adaptive_weights, softclamp, qk_rmsnorm, gating, ...
        dim: width of the tokens.
    """

    def __init__(self, options: JointAttentionOptions | None = None, *, dim: Size, **keywords: Any) -> None:
        super().__init__()
        self.attention = JointAttention(options, dim_inputs=[dim], names=["sequence"], **keywords)

    def forward(self, x: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """`x`: b n dim; `mask`: b n, bool, True = valid; `cond`: b dim_cond for `gating="sample"` -> b n dim."""
        (out,) = self.attention([x], None if mask is None else [mask], cond)
        return out
