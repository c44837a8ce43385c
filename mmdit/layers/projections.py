"""The projections an attention can hold: one weight, or several that every token or every sample mixes by a gate.

All kinds share one calling convention, chosen once at construction: a *gate* module maps tokens and conditioning to the
mixing weights (None for a single weight), a *qkv projection* maps tokens `b n d` to heads, and an *out projection* maps
heads back. The mixing is that of GigaGAN's adaptive convolutions (Kang et al. 2023, section 3.1), per head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmdit.layers.plain import is_plain
from mmdit.options import JointAttentionOptions

# ------------------------------------------------------------------------------------------------------------ gates


class NoGate(nn.Module):
    """A single weight needs no gate."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> None:
        return None


class TokenGate(nn.Module):
    """`b n h w` mixing weights: a softmax over `w`, from each token."""

    def __init__(self, dim: int, heads: int, num_weights: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim, heads * num_weights, bias=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """`x`: b n d."""
        return rearrange(self.linear(x), "b n (h w) -> b n h w", h=self.heads).softmax(dim=-1).to(x.dtype)


class SampleGate(nn.Module):
    """`b h w` mixing weights: a softmax over `w`, from the conditioning vector of each sample."""

    def __init__(self, dim_cond: int, heads: int, num_weights: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(dim_cond, heads * num_weights)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """`cond`: b dim_cond."""
        if cond is None:
            raise ValueError("gating 'sample' takes its gate from the conditioning vector; pass time_cond, got None")
        return rearrange(self.linear(F.silu(cond)), "b (h w) -> b h w", h=self.heads).softmax(dim=-1).to(x.dtype)


# ------------------------------------------------------------------------------------------------------ projections


class DenseQKV(nn.Module):
    """One weight for queries, keys and values together (rows in this order), or for keys and values alone.

    `stored_parts` may exceed `parts`: a published checkpoint can hold a query weight whose result nothing reads. It is
    left out of the product, but where the linear must be called as a whole, for an adapter or a quantized weight, say.
    """

    def __init__(
        self, dim: int, *, heads: int, kv_heads: int, dim_head: int, parts: int, stored_parts: int, bias: bool
    ) -> None:
        super().__init__()
        self.dim_head, self.parts = dim_head, parts
        self.counts = (heads, kv_heads, kv_heads)[-stored_parts:]
        self.unused = sum(self.counts[:-parts]) * dim_head  # rows
        self.linear = nn.Linear(dim, sum(self.counts) * dim_head, bias=bias)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> tuple[Tensor, ...]:
        """`x`: b n d -> `parts` of b n h d."""
        counts = self.counts
        if self.unused and is_plain(self.linear, nn.Linear):
            rows, counts = slice(self.unused, None), counts[-self.parts :]
            x = F.linear(x, self.linear.weight[rows], None if self.linear.bias is None else self.linear.bias[rows])
        else:
            x = self.linear(x)
        return x.unflatten(-1, (-1, self.dim_head)).split_with_sizes(counts, dim=-2)[-self.parts :]


class DenseOut(nn.Module):
    """One weight from the joined heads to the stream's width; `kernel`: of so many neighbouring tokens."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, bias: bool, kernel: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(kernel * heads * dim_head, dim, bias=bias)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """`x`: b n h d, or of neighbours b n (k h) d -> b n e."""
        return self.linear(x.flatten(2))


class AdaptiveWeights(nn.Module):
    """`num_weights` matrices `out in`, each initialized as `nn.Linear` would be, and one bias that is not mixed."""

    def __init__(self, dim_in: int, dim_out: int, *, heads: int, num_weights: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(num_weights, dim_out, dim_in))
        self.bias = nn.Parameter(torch.empty(dim_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[-1])
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)


class AdaptiveQKV(AdaptiveWeights):
    """Several weights for queries, keys and values (rows in this order), or for keys and values alone."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, num_weights: int, parts: int, bias: bool) -> None:
        super().__init__(dim, parts * heads * dim_head, heads=heads, num_weights=num_weights, bias=bias)
        self.parts = parts


class AdaptiveOut(AdaptiveWeights):
    """Several weights from the joined heads to the stream's width."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, num_weights: int, bias: bool) -> None:
        super().__init__(heads * dim_head, dim, heads=heads, num_weights=num_weights, bias=bias)


class TokenAdaptiveQKV(AdaptiveQKV):
    """Every token mixes the results of `num_weights` projections, per head: `sum_w gate_w * (W_w x)`.

    Weight by weight into one sum, so the `b n h d w` tensor of all results never exists.
    """

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        """`x`: b n d; `gate`: b n h w -> `parts` of b n h d."""
        weights, shares = self.weight.unbind(0), rearrange(gate, "b n h w -> w b n 1 h 1").unbind(0)
        mixed = self._project(x, weights[0]) * shares[0]
        if self.bias is not None:
            mixed = mixed + rearrange(self.bias, "(p h d) -> p h d", p=self.parts, h=self.heads)
        for weight, share in zip(weights[1:], shares[1:], strict=True):
            mixed.addcmul_(self._project(x, weight), share)  # in place: nothing saves the sum for the backward pass
        return mixed.unbind(2)

    def _project(self, x: Tensor, weight: Tensor) -> Tensor:
        return rearrange(F.linear(x, weight), "b n (p h d) -> b n p h d", p=self.parts, h=self.heads)


class TokenAdaptiveOut(AdaptiveOut):
    """`sum_w W_w (gate_w * heads)`: the gate scales each head's features before the projection sums the heads."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """`x`: b n h d; `gate`: b n h w -> b n e."""
        weights, shares = self.weight.unbind(0), rearrange(gate, "b n h w -> w b n h 1").unbind(0)
        out = F.linear(rearrange(x * shares[0], "b n h d -> b n (h d)"), weights[0], self.bias)
        for weight, share in zip(weights[1:], shares[1:], strict=True):
            out += F.linear(rearrange(x * share, "b n h d -> b n (h d)"), weight)
        return out


class SampleAdaptiveQKV(AdaptiveQKV):
    """Every sample mixes its own weight once, per head, and projects all its tokens with it."""

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        """`x`: b n d; `gate`: b h w -> `parts` of b n h d."""
        if _one_by_one(x):
            each = [self.forward(own, share) for own, share in zip(x.split(1), gate.split(1), strict=True)]
            return tuple(torch.cat(parts) for parts in zip(*each, strict=True))
        weight = rearrange(self.weight, "w (p h d) e -> w 1 p h d e", p=self.parts, h=self.heads).to(x.dtype)
        mixed = _mix(weight, rearrange(gate, "b h w -> w b 1 h 1 1"))
        y = _project_samples(x, rearrange(mixed, "b p h d e -> b (p h d) e"))
        y = y if self.bias is None else y + self.bias
        return rearrange(y, "b n (p h d) -> p b n h d", p=self.parts, h=self.heads).unbind(0)


class SampleAdaptiveOut(AdaptiveOut):
    """The out projection mixed once per sample, per head."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """`x`: b n h d; `gate`: b h w -> b n e."""
        if _one_by_one(x):
            return torch.cat([self.forward(own, share) for own, share in zip(x.split(1), gate.split(1), strict=True)])
        weight = rearrange(self.weight, "w e (h d) -> w 1 e h d", h=self.heads).to(x.dtype)
        mixed = _mix(weight, rearrange(gate, "b h w -> w b 1 h 1"))
        y = _project_samples(rearrange(x, "b n h d -> b n (h d)"), rearrange(mixed, "b e h d -> b e (h d)"))
        return y if self.bias is None else y + self.bias


def _one_by_one(x: Tensor) -> bool:
    """Whether to take a batch's samples in turn: to train on the CPU, where the backward of mixing weights for a whole
    batch takes up to twice as long."""
    eager = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return eager and x.shape[0] > 1 and torch.is_grad_enabled()


def _mix(weights: Tensor, shares: Tensor) -> Tensor:
    """`sum_w shares[w] * weights[w]`. The weights' batch dimension is 1, the shares' the batch."""
    (weight, *weights_left), (share, *shares_left) = weights.unbind(0), shares.unbind(0)
    mixed = weight * share
    for weight, share in zip(weights_left, shares_left, strict=True):
        mixed.addcmul_(weight, share)
    return mixed


def _project_samples(x: Tensor, weight: Tensor) -> Tensor:
    """`x`: b n d; `weight`: b e d, one a sample -> b n e."""
    if x.shape[0] == 1:  # the gradient of a batched product comes transposed, and the mix's backward would crawl
        return F.linear(x, weight.squeeze(0))
    return torch.matmul(x, rearrange(weight, "b e d -> b d e"))


# ---------------------------------------------------------------------------------------------------------- choosing


def make_projections(
    dim: int, options: JointAttentionOptions, *, out_bias: bool, discarded: bool, out_kernel: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The gate, the qkv projection and the out projection of one modality.

    A discarded modality has keys and values only, and no out projection (None), but for what `unused_weights` keeps.
    """
    heads, dim_head = options.head_sizes
    attention, sizes = options.attention, dict(heads=heads, dim_head=dim_head)
    parts, stored = (2 if discarded else 3), (2 if discarded and options.unused_weights == "none" else 3)
    holds_out = not discarded or options.unused_weights == "all"
    if attention.num_adaptive_weights == 1:
        kv_heads = attention.kv_heads or heads
        qkv = DenseQKV(dim, parts=parts, stored_parts=stored, bias=attention.bias, kv_heads=kv_heads, **sizes)
        return NoGate(), qkv, DenseOut(dim, bias=out_bias, kernel=out_kernel, **sizes) if holds_out else None
    sizes |= dict(num_weights=attention.num_adaptive_weights)
    gate: nn.Module
    kinds: tuple[type[AdaptiveQKV], type[AdaptiveOut]]
    if attention.gating == "token":
        gate, kinds = TokenGate(dim, heads, sizes["num_weights"]), (TokenAdaptiveQKV, TokenAdaptiveOut)
    else:
        assert options.dim_cond is not None
        gate, kinds = SampleGate(options.dim_cond, heads, sizes["num_weights"]), (SampleAdaptiveQKV, SampleAdaptiveOut)
    own = kinds[0](dim, parts=parts, bias=attention.bias, **sizes)
    return gate, own, kinds[1](dim, bias=out_bias, **sizes) if holds_out else None
