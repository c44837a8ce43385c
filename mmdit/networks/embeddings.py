"""From what comes in to the stream's width: images, sequences and token ids; timesteps and other conditions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.feedforward import FEEDFORWARD_KINDS
from mmdit.layers.norms import RMSNorm
from mmdit.layers.positions import Learned2D, SinCos1D, SinCos2D, timestep_sinusoid
from mmdit.networks.patches import cut
from mmdit.options import LinearInput, MlpInput, PatchInput, TimestepOptions, TokenInput


class SequenceEmbed(nn.Module):
    """`b n dim_in -> b n d`: an RMS norm and sine-cosine positions if asked for, around a linear."""

    def __init__(self, options: LinearInput, dim: int, *, eps: float) -> None:
        super().__init__()
        self.dim_in = options.dim
        self.norm = RMSNorm(options.dim, eps=eps) if options.norm == "rms" else nn.Identity()
        self.linear = nn.Linear(options.dim, dim, bias=options.bias)
        self.positions = SinCos1D() if options.positions == "sincos" else nn.Identity()

    def forward(self, x: Tensor, name: str) -> Tensor:
        _check_sequence(x, self.dim_in, name)
        return self.positions(self.linear(self.norm(x)))


class MlpEmbed(nn.Module):
    """`b n dim_in -> b n d`: linears with an activation between them, a layer norm before or behind if asked for."""

    def __init__(self, options: MlpInput, dim: int) -> None:
        super().__init__()
        self.dim_in = options.dim
        widths = (options.dim, *options.hidden, dim)

        def norm(kind: str, width: int) -> nn.Module:
            return nn.LayerNorm(width, eps=options.norm_eps) if kind == "layer" else nn.Identity()

        self.norm, self.norm_out = norm(options.norm, options.dim), norm(options.norm_out, dim)
        self.linears = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.activation, _ = FEEDFORWARD_KINDS[options.activation]

    def forward(self, x: Tensor, name: str) -> Tensor:
        _check_sequence(x, self.dim_in, name)
        first, *rest = self.linears
        x = first(self.norm(x))
        for linear in rest:
            x = linear(self.activation(x))
        return self.norm_out(x)


class PatchEmbed(nn.Module):
    """`b c (h p) (w q) -> b (h w) d`: a linear on each patch, and a table of positions if asked for.

    Of a video `b c (f o) (h p) (w q) -> b (f h w) d`.
    """

    def __init__(self, options: PatchInput, dim: int) -> None:
        super().__init__()
        self.channels, self.sizes = options.channels, options.sizes
        self.linear = nn.Linear(options.channels * math.prod(self.sizes), dim, bias=options.bias)
        self.positions: nn.Module = nn.Identity()
        if options.positions == "sincos":
            self.positions = SinCos2D(dim, max_size=options.max_size, base_size=options.base_size)
        elif options.positions == "learned":
            self.positions = Learned2D(dim, max_size=options.max_size)

    def forward(self, x: Tensor, name: str) -> Tensor:
        sides = ("frames", "height", "width")[-len(self.sizes) :]
        if x.ndim != 2 + len(sides) or x.shape[1] != self.channels:
            wanted = ", ".join(sides)
            raise ValueError(f"{name} must have the shape (batch, {self.channels}, {wanted}), got {tuple(x.shape)}")
        if any(not length or length % p for length, p in zip(x.shape[2:], self.sizes, strict=True)):
            multiples = ", ".join(map(str, self.sizes if len({*self.sizes}) > 1 else self.sizes[:1]))
            lengths = "a height and width" if len(sides) == 2 else "frames, height and width"
            raise ValueError(f"{name} must have {lengths} that are multiples of {multiples}, got {tuple(x.shape)}")
        return self.positions(self.linear(cut(x, self.sizes))).flatten(1, -2)


class TokenEmbed(nn.Module):
    """`b n` integer ids `-> b n d`: an embedding, and learned positions."""

    def __init__(self, options: TokenInput, dim: int) -> None:
        super().__init__()
        self.max_length = options.max_length
        self.embedding = nn.Embedding(options.vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(options.max_length, dim) * 0.02)

    def forward(self, x: Tensor, name: str) -> Tensor:
        if x.ndim != 2 or x.is_floating_point() or x.shape[1] > self.max_length:
            raise ValueError(
                f"{name} must be integer ids of shape (batch, length up to {self.max_length}), "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        return self.embedding(x) + self.positions[: x.shape[1]]


class NoEmbed(nn.Module):
    """Tokens that come at the stream's width already."""

    def forward(self, x: Tensor, name: str) -> Tensor:
        return x


class VectorEmbed(nn.Module):
    """`linear -> silu -> linear`, from a vector to the conditioning."""

    def __init__(self, dim_in: int, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear_in, self.linear_out = nn.Linear(dim_in, dim, bias=bias), nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b dim_in -> b dim."""
        return self.linear_out(F.silu(self.linear_in(x)))


class TimestepEmbed(VectorEmbed):
    """A timestep's sinusoid through a `VectorEmbed` (DiT, section 3.2, with the cosines first as in SD3)."""

    def __init__(self, options: TimestepOptions, dim: int) -> None:
        super().__init__(options.frequencies, dim, bias=options.bias)
        self.frequencies, self.scale = options.frequencies, options.scale

    def forward(self, timestep: Tensor) -> Tensor:
        """`timestep`: b -> b dim."""
        # scaled after widening: 0.7 * 1000 in bfloat16 is rounded to a multiple of 4
        waves = timestep_sinusoid(timestep.float() * self.scale, self.frequencies)
        return super().forward(waves.to(self.linear_in.weight.dtype))


def make_embed(options: LinearInput | MlpInput | PatchInput | TokenInput | None, dim: int, *, eps: float) -> nn.Module:
    match options:
        case LinearInput():
            return SequenceEmbed(options, dim, eps=eps)
        case MlpInput():
            return MlpEmbed(options, dim)
        case PatchInput():
            return PatchEmbed(options, dim)
        case TokenInput():
            return TokenEmbed(options, dim)
        case _:
            return NoEmbed()


def _check_sequence(x: Tensor, dim: int, name: str) -> None:
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have the shape (batch, length, {dim}), got {tuple(x.shape)}")


def make_timestep_embed(options: TimestepOptions | None, dim_cond: int | None) -> TimestepEmbed | None:
    return None if options is None or dim_cond is None else TimestepEmbed(options, dim_cond)
