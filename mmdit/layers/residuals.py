"""Residual connections: plain, hyper-connections, and hyper-connections constrained to a manifold.

Every residual has two halves, in the words of Zhu et al. 2024 (arXiv 2409.19606): the *width* connection reads the
branch's input from the residual, the *depth* connection writes the branch's output back. Between `expand_streams` and
`reduce_streams` a token has `s` parallel residual streams, `b n s d`; the plain residual has none, `b n d`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import reduce, repeat
from torch import Tensor, nn

from mmdit.layers.norms import RMSNorm
from mmdit.layers.plain import is_plain
from mmdit.layers.residual_kernels import (
    is_traced,
    read_streams,
    sinkhorn_knopp,
    wide_dtype,
    without_autocast,
    write_streams,
)
from mmdit.layers.runs import ConditioningRuns, over_runs
from mmdit.options import ResidualOptions

Gate = Tensor | ConditioningRuns | None

# ------------------------------------------------------------------------------------------------------------- plain


class PlainWidth(nn.Module):
    """The branch reads the residual itself."""

    def forward(self, x: Tensor, entered: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x`: b n d -> the branch's input and what it is added to, both `x`."""
        return x, x


class NestedWidth(nn.Module):
    """The branch reads the residual, and is added to what `entered` the block."""

    def forward(self, x: Tensor, entered: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x`, `entered`: b n d -> the branch's input `x`, and what its output is added to: what entered the block."""
        return x, x if entered is None else entered


class PlainDepth(nn.Module):
    """`x + gate * out`."""

    def forward(self, x: Tensor, out: Tensor, gate: Gate = None) -> Tensor:
        """`x`, `out`: b n d; `gate`: b 1 d, b n d, runs or None."""
        return x + out if gate is None else over_runs(torch.addcmul, x, gate, out)


class PlainResidual(nn.Module):
    """`x + gate * branch(x)`, as in the paper's figure."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.depth = PlainWidth(), PlainDepth()


class NestedResidual(nn.Module):
    """Of a feedforward that reads what attention gave, without that staying in the stream, as in AuraFlow:
    `x + gate * feedforward(norm(x + attn_gate * attention(x)))`."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.depth = NestedWidth(), PlainDepth()


# ------------------------------------------------------------------------------------------------- hyper-connections


class ShiftLinear(nn.Linear):
    """A linear in the dtype of its input, which under autocast is that of the streams."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class WidthConnection(nn.Module):
    """Mixes `s` streams into one branch input and `s` new streams (Zhu et al. 2024, eq. 10 to 14 and Algorithm 2).

    Holds the read weights `pre` (s 1), the stream mixing `mix` (s to s) and the write weights `post` (s 1). With
    `dynamic`, each is shifted token by token by `scale * tanh(norm(x) W)`. The branch of layer k reads stream k mod s
    at first and writes to all, so that the network starts as a plain residual network. The norm is an RMS norm, as in
    the registry's `hyper-connections` package; the paper has a layer norm. Coefficients are computed in float32 at
    least.

    `writes=False` keeps the read weights alone, for a branch whose output nobody needs.
    """

    scale_of = (0, 0, 1)  # which learned scale shifts pre, mix and post: alpha, alpha, beta

    def __init__(
        self, dim: int, *, streams: int, layer_index: int = 0, dynamic: bool = True, writes: bool = True
    ) -> None:
        super().__init__()
        self.streams = streams
        self.first_stream = layer_index % streams
        self.names = ("pre", "mix", "post") if writes else ("pre",)
        self.widths = [streams if name == "mix" else 1 for name in self.names]
        for name, width in zip(self.names, self.widths, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(streams, width)))
        self.dynamic = dynamic
        if dynamic:
            self.norm = RMSNorm(dim)
            self.to_shift = ShiftLinear(dim, sum(self.widths), bias=False)
            self.scales = nn.Parameter(torch.empty(len({*self.scale_of[: len(self.names)]})))
        self.reset_parameters()

    def initial(self) -> dict[str, Tensor]:
        """The static coefficients at the start."""
        first = F.one_hot(torch.tensor(self.first_stream), self.streams)[:, None]
        return {"pre": first.float(), "mix": torch.eye(self.streams), "post": torch.ones(self.streams, 1)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        initial = self.initial()
        for name in self.names:
            getattr(self, name).copy_(initial[name])
        if self.dynamic:
            self.to_shift.weight.zero_()
            self.scales.fill_(1e-2)

    def coefficients(self, x: Tensor) -> list[Tensor]:
        """pre, mix and post for `x`: b n s d; they have no token dimensions where they are static."""
        return self.weigh(self.to_shift(self.norm(x)) if self.dynamic else None, *self.weighing(x))

    def may_be_read(self) -> bool:
        """Whether the weights of norm and linear may be read past their calls."""
        return not self.dynamic or (is_plain(self.norm, RMSNorm) and is_plain(self.to_shift, ShiftLinear))

    def weighing(self, x: Tensor) -> list[Tensor]:
        """The parameters that `weigh` takes, in float32 at least."""
        names = (*self.names, "scales") if self.dynamic else self.names
        return [getattr(self, name).to(wide_dtype(x)) for name in names]

    def weigh(self, product: Tensor | None, *parameters: Tensor) -> list[Tensor]:
        """pre, mix and post from `norm(x) W`, b n s k, None where they are static, and `weighing`."""
        if product is None:
            return list(parameters)
        *static, scales = parameters
        shifts = self.bounded(product.to(scales.dtype)).split(self.widths, dim=-1)
        return [torch.addcmul(b, scales[i], s) for b, i, s in zip(static, self.scale_of, shifts, strict=False)]

    def bounded(self, product: Tensor) -> Tensor:
        return product.tanh()

    def forward(self, x: Tensor, entered: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """`x`: b n s d -> the branch's input b n d, and what `DepthConnection` needs (None without writes)."""
        with without_autocast(x):
            if is_traced(x) or not self.may_be_read():
                pre, *write = (c.to(x.dtype) for c in self.coefficients(x))
                branch, state = (pre.mT @ x).squeeze(-2), (x, *write)
            else:
                weight = (self.to_shift.weight * self.norm.weight).to(x.dtype) if self.dynamic else None
                eps = self.norm.eps if self.dynamic else 0.0
                branch, state = read_streams(x, weight, eps, self.weigh, self.weighing(x))
        return branch, state if len(self.names) > 1 else None


class ManifoldWidthConnection(WidthConnection):
    """The width connection of mHC (Xie et al. 2025, arXiv 2512.24880): `pre` through a sigmoid, `post` through twice a
    sigmoid, and `mix` made doubly stochastic by Sinkhorn-Knopp, so that streams are averaged and never amplified.

    At first the mix is the identity to within 1e-2, `post` is 1, and
    `pre` reads one stream, so that the network starts close to a plain residual network here too.
    """

    scale_of = (0, 1, 2)

    def initial(self) -> dict[str, Tensor]:
        first = F.one_hot(torch.tensor(self.first_stream), self.streams)[:, None]
        return {"pre": first * 16.0 - 8.0, "mix": torch.eye(self.streams) * 8.0, "post": torch.zeros(self.streams, 1)}

    def weigh(self, product: Tensor | None, *parameters: Tensor) -> list[Tensor]:
        pre, *write = super().weigh(product, *parameters)
        return [pre.sigmoid(), sinkhorn_knopp(write[0]), 2 * write[1].sigmoid()] if write else [pre.sigmoid()]

    def bounded(self, product: Tensor) -> Tensor:
        return product


class DepthConnection(nn.Module):
    """Mixes the streams, and adds the gated branch output to every one of them, weighted by `post`."""

    def forward(self, state: tuple[Tensor, Tensor, Tensor], out: Tensor, gate: Gate = None) -> Tensor:
        """`state`: streams b n s d, mix b n s s, post b n s 1; `out`: b n d; `gate`: b 1 d, b n d, runs or None
        -> b n s d."""
        x, mix, post = state
        with without_autocast(x):
            if isinstance(gate, ConditioningRuns):
                out, gate = over_runs(torch.mul, out, gate), None
            if not is_traced(x):
                return write_streams(x, mix, post, out, gate)
            out = out if gate is None else gate * out
            return torch.addcmul(mix.mT @ x, post, out.unsqueeze(-2).to(x.dtype))


class HyperConnection(nn.Module):
    """A residual of several parallel streams; `manifold` constrains how they mix; the rest: `WidthConnection`."""

    def __init__(self, dim: int, *, manifold: bool = False, **options: Any) -> None:
        super().__init__()
        self.width = (ManifoldWidthConnection if manifold else WidthConnection)(dim, **options)
        self.depth = DepthConnection()


# ---------------------------------------------------------------------------------------------------------- choosing


def make_residual(
    options: ResidualOptions, dim: int, *, layer_index: int, sublayer: int = 1, writes: bool = True
) -> nn.Module:
    """The residual of one branch of one modality.

    Args:
        layer_index: the place of the branch in the network; decides which stream it reads at first.
        sublayer: 0 for a block's first branch, whose output a nested residual keeps as a plain one does.
        writes: False for a branch whose output nobody needs.
    """
    if options.kind == "plain" or (options.kind == "nested" and sublayer == 0):
        return PlainResidual()
    if options.kind == "nested":
        return NestedResidual()
    return HyperConnection(
        dim,
        streams=options.streams,
        layer_index=layer_index,
        dynamic=options.dynamic,
        writes=writes,
        manifold=options.kind == "manifold_hyper_connections",
    )


class ExpandStreams(nn.Module):
    """`b n d -> b n s d`, every stream a copy (Zhu et al. 2024, section 2)."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n d -> b n s d; with one stream b n d."""
        return x if self.streams == 1 else repeat(x, "b n d -> b n s d", s=self.streams).contiguous()


class ReduceStreams(nn.Module):
    """`b n s d -> b n d`, the sum of the streams."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n s d (with one stream b n d) -> b n d."""
        return x if self.streams == 1 else reduce(x, "b n s d -> b n d", "sum")
