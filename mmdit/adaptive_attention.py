"""Adaptive attention over one sequence: the one-input face of `JointAttention`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmdit.layers.joint_attention import JointAttention


class AdaptiveAttention(nn.Module):
    """Self attention whose projections mix several weights by a softmax gate, per head.

    The idea is that of GigaGAN's adaptive convolutions (Kang et al. 2023, section 3.1). One weight is standard
    attention.

    Args:
        dim: width of the tokens.
        heads, dim_head, dim_joint_attn: see `JointAttention`.
        num_adaptive_weights: weight matrices that each projection holds.
        **attention_kwargs: the other options of `JointAttention` (softclamp, qk_rmsnorm, gating, dim_cond, ...).
    """

    def __init__(
        self,
        *,
        dim: int,
        dim_head: int | None = None,
        heads: int | None = None,
        num_adaptive_weights: int = 1,
        **attention_kwargs: Any,
    ) -> None:
        super().__init__()
        self.attention = JointAttention(
            dim_inputs=[dim],
            names=["sequence"],
            dim_head=dim_head,
            heads=heads,
            num_adaptive_weights=num_adaptive_weights,
            **attention_kwargs,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """`x`: b n dim; `mask`: b n, bool, True = valid; `cond`: b dim_cond for `gating="sample"` -> b n dim."""
        (out,) = self.attention([x], None if mask is None else [mask], cond)
        return out
