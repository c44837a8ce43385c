"""From what comes in to the stream's width: images, sequences and token ids; timesteps and other conditions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmdit.layers.norms import RMSNorm
from mmdit.layers.positions import Learned2D, SinCos1D, SinCos2D, timestep_sinusoid
from mmdit.options import LinearInput, ModalityOptions, PatchInput, TimestepOptions, TokenInput


class SequenceEmbed(nn.Module):
    """`b n dim_in -> b n d`: an RMS norm and sine-cosine positions if asked for, around a linear."""

    def __init__(self, dim_in: int, dim: int, *, normed: bool, positions: bool, bias: bool, eps: float) -> None:
        super().__init__()
        self.dim_in = dim_in
        self.norm = RMSNorm(dim_in, eps=eps) if normed else nn.Identity()
        self.linear = nn.Linear(dim_in, dim, bias=bias)
        self.positions = SinCos1D() if positions else nn.Identity()

    def forward(self, x: Tensor, name: str) -> Tensor:
        """`x`: b n dim_in -> b n d. Raises ValueError, with `name`, where it has another shape."""
        if x.ndim != 3 or x.shape[-1] != self.dim_in:
            raise ValueError(f"{name} must have the shape (batch, length, {self.dim_in}), got {tuple(x.shape)}")
        return self.positions(self.linear(self.norm(x)))


class PatchEmbed(nn.Module):
    """`b c (h p) (w p) -> b (h w) d`: a linear on each p x p patch, and a table of positions if asked for."""

    def __init__(
        self,
        channels: int,
        patch: int,
        dim: int,
        *,
        positions: str = "none",
        max_size: int = 192,
        base_size: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch
        self.linear = nn.Linear(channels * patch * patch, dim, bias=bias)
        self.positions: nn.Module = nn.Identity()
        if positions == "sincos":
            self.positions = SinCos2D(dim, max_size=max_size, base_size=base_size)
        elif positions == "learned":
            self.positions = Learned2D(dim, max_size=max_size)

    def forward(self, x: Tensor, name: str) -> Tensor:
        """`x`: b c h w -> b n d, a token a patch. Raises ValueError, with `name`, where it has another shape."""
        p = self.patch
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"{name} must have the shape (batch, {self.channels}, height, width), got {tuple(x.shape)}"
            )
        if x.shape[2] % p or x.shape[3] % p or not x.shape[2] or not x.shape[3]:
            raise ValueError(f"{name} must have a height and width that are multiples of {p}, got {tuple(x.shape)}")
        patches = rearrange(x, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p)
        return rearrange(self.positions(self.linear(patches)), "b h w d -> b (h w) d")


class TokenEmbed(nn.Module):
    """`b n` integer ids `-> b n d`: an embedding, and learned positions."""

    def __init__(self, vocabulary: int, max_length: int, dim: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)

    def forward(self, x: Tensor, name: str) -> Tensor:
        """`x`: ids b n -> b n d. Raises ValueError, with `name`, where they are no integers or too many."""
        if x.ndim != 2 or x.is_floating_point() or x.shape[1] > self.max_length:
            raise ValueError(
                f"{name} must be integer ids of shape (batch, length up to {self.max_length}), "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        return self.embedding(x) + self.positions[: x.shape[1]]


class NoEmbed(nn.Module):
    """Tokens that come at the stream's width already."""

    def forward(self, x: Tensor, name: str) -> Tensor:
        """`x`: b n d -> the same."""
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

    def __init__(self, frequencies: int, dim: int, *, scale: float = 1.0, bias: bool = True) -> None:
        super().__init__(frequencies, dim, bias=bias)
        self.frequencies, self.scale = frequencies, scale

    def forward(self, timestep: Tensor) -> Tensor:
        """`timestep`: b -> b dim."""
        # scaled after widening: 0.7 * 1000 in bfloat16 is rounded to a multiple of 4
        waves = timestep_sinusoid(timestep.float() * self.scale, self.frequencies)
        return super().forward(waves.to(self.linear_in.weight.dtype))


def make_embed(config: ModalityOptions, *, eps: float) -> nn.Module:
    match config.input:
        case LinearInput() as end:
            positions, normed = end.positions == "sincos", end.norm == "rms"
            return SequenceEmbed(end.dim, config.dim, normed=normed, positions=positions, bias=end.bias, eps=eps)
        case PatchInput() as end:
            return PatchEmbed(
                end.channels,
                end.patch,
                config.dim,
                positions=end.positions,
                max_size=end.max_size,
                base_size=end.base_size,
                bias=end.bias,
            )
        case TokenInput(vocabulary=vocabulary, max_length=max_length):
            return TokenEmbed(vocabulary, max_length, config.dim)
        case _:
            return NoEmbed()


def make_timestep_embed(options: TimestepOptions | None, dim_cond: int | None) -> TimestepEmbed | None:
    if options is None or dim_cond is None:
        return None
    return TimestepEmbed(options.frequencies, dim_cond, scale=options.scale, bias=options.bias)
