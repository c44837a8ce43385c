"""The ends of a modality: from its own form to tokens of the stream's width, and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmdit.config.model import LinearInput, LinearOutput, ModalityConfig, PatchInput, PatchOutput, TokenInput
from mmdit.layers.norms import AdaptiveLayerNorm, RMSNorm
from mmdit.layers.positions import Learned2D, SinCos1D, SinCos2D

ShiftScale = tuple[Tensor | None, Tensor | None]


class SequenceEmbed(nn.Module):
    """`b n dim_in -> b n d`: an RMS norm and sine-cosine positions if asked for, around a linear."""

    def __init__(self, dim_in: int, dim: int, *, normed: bool, positions: bool, bias: bool, eps: float) -> None:
        super().__init__()
        self.dim_in = dim_in
        self.norm = RMSNorm(dim_in, eps=eps) if normed else nn.Identity()
        self.linear = nn.Linear(dim_in, dim, bias=bias)
        self.positions = SinCos1D() if positions else nn.Identity()

    def forward(self, x: Tensor, name: str) -> Tensor:
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


class SequenceHead(nn.Module):
    """Adaptive final norm and projection: `b n d -> b n dim_out` (DiT, section 3.2, "transformer decoder").

    Args:
        normed: False modulates the tokens as they are.
        zero: start the projection at zero; the modulation always is.
        bias, modulation_bias: whether the projection and the modulation have one.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        *,
        dim_cond: int | None,
        eps: float,
        zero: bool,
        normed: bool = True,
        bias: bool = True,
        modulation_bias: bool = True,
    ) -> None:
        super().__init__()
        self.modulation = None if dim_cond is None else nn.Linear(dim_cond, 2 * dim, bias=modulation_bias)
        self.norm = AdaptiveLayerNorm(dim, conditioned=dim_cond is not None, eps=eps, normed=normed)
        self.linear = nn.Linear(dim, dim_out, bias=bias)
        for linear in (self.modulation, self.linear if zero else None):
            for parameter in () if linear is None else linear.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, cond: Tensor | None, like: Tensor, modulation: ShiftScale | None = None) -> Tensor:
        """`x`: b n d; `cond`: b dim_cond; `like`: what came in at the other end; `modulation`: what `modulate` gave."""
        shift, scale = self.modulate(cond) if modulation is None else modulation
        return self.linear(self.norm(x, shift, scale))

    def modulate(self, cond: Tensor | None) -> ShiftScale:
        """Shift and scale, `b 1 d`, of the conditioning `b dim_cond`; None of none."""
        if self.modulation is None or cond is None:
            return None, None
        shift, scale = self.modulation(F.silu(cond)).unsqueeze(1).chunk(2, dim=-1)
        return shift, scale


class PatchHead(SequenceHead):
    """The same for an image: `b (h w) d -> b c (h p) (w p)`."""

    def __init__(self, dim: int, channels: int, patch: int, **options: Any) -> None:
        super().__init__(dim, channels * patch * patch, **options)
        self.patch = patch

    def forward(self, x: Tensor, cond: Tensor | None, like: Tensor, modulation: ShiftScale | None = None) -> Tensor:
        """`like`: the image b c' h' w' that came in, whose size the output takes."""
        p = self.patch
        patches = super().forward(x, cond, like, modulation)
        return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=like.shape[2] // p, p=p, q=p)


def make_embed(config: ModalityConfig, *, eps: float) -> nn.Module:
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


def make_head(config: ModalityConfig, **options: Any) -> nn.Module | None:
    """`options`: those of `SequenceHead` that do not lie in the modality's config."""
    match config.output, config.input:
        case LinearOutput() as end, _:
            return SequenceHead(config.dim, end.dim, normed=end.norm, bias=end.bias, **options)
        case PatchOutput() as end, PatchInput(patch=patch):
            return PatchHead(config.dim, end.channels, patch, normed=end.norm, bias=end.bias, **options)
        case _:
            return None
