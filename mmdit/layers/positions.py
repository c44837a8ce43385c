"""Positions that are added to tokens: sine-cosine tables, computed from closed forms, and a learned one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """`... -> ... dim`: sines then cosines of `positions` at `dim / 2` frequencies, 1 down to about 1e-4.

    Vaswani et al. 2017, section 3.5. Computed in float64, because large positions lose their phase in float32.
    """
    exponents = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim // 2)
    angles = positions.to(torch.float64)[..., None] * (1 / MAX_PERIOD**exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def timestep_sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """`b -> b dim`, `b n -> b n dim`: the same of timesteps, cosines first, as SD3, FLUX and Qwen-Image have it.

    In float32, in the order of operations of their code: at a timestep of 1000 the angles are rounded by 3e-5, and the
    checkpoints were trained with that rounding.
    """
    exponents = -math.log(MAX_PERIOD) * torch.arange(dim // 2, dtype=torch.float32, device=timestep.device) / (dim // 2)
    angles = timestep.float()[..., None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def scaled_sinusoid(timestep: Tensor, dim: int, fastest: float) -> Tensor:
    """`b -> b dim`, `b n -> b n dim`: the same with frequencies from `fastest` down, in the order of operations of
    MMAudio's code (hkchengrex/MMAudio, `embeddings.py`), whose angles reach 10,000 and are rounded by 5e-4."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=timestep.device) / dim
    angles = timestep.float()[..., None] * (fastest * (1.0 / MAX_PERIOD**exponents))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def ddpm_sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """The same with the sines first and the slowest at 1 / 10000 itself, as DDPM has it (Ho et al. 2020)."""
    step = math.log(MAX_PERIOD) / (dim // 2 - 1)
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=timestep.device) * -step
    angles = timestep.float()[..., None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SinCos1D(nn.Module):
    """Adds the sinusoid of each token's index to it."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b n d."""
        return x + sinusoid(torch.arange(x.shape[1], device=x.device), x.shape[2]).to(x.dtype)


class SinCos2D(nn.Module):
    """Adds a 2D sinusoid, cropped at the centre of a `max_size` x `max_size` grid, to an image's patches.

    The first half of the features tells the column, the second half the row, in steps of `base_size / max_size`, as in
    the SD3 checkpoints (Esser et al. 2024, section 5.3.2, "positional encodings for varying aspect ratios").

    Only one axis is ever tabulated, `max_size` by `dim / 2`: the checkpoints' full table is its outer sum.
    """

    def __init__(self, dim: int, *, max_size: int, base_size: int | None = None) -> None:
        super().__init__()
        self.dim, self.max_size = dim, max_size
        self.places_a_step = max_size / (base_size or max_size)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b h w d.

        Raises:
            ValueError: the image has more patches a side than the table.
        """
        return x + self.table(*_size_within(x, self.max_size), x)

    def table(self, height: int, width: int, like: Tensor) -> Tensor:
        """What is added to an image of this size: h w d, in the dtype and on the device of `like`."""
        rows, columns = self._axis(height, like), self._axis(width, like)
        grid = (height, width, self.dim // 2)
        return torch.cat([columns[None].expand(grid), rows[:, None].expand(grid)], dim=-1)

    def _axis(self, length: int, like: Tensor) -> Tensor:
        start = (self.max_size - length) // 2
        # in float32, so that the table has the bits of the checkpoints' own
        positions = torch.arange(start, start + length, dtype=torch.float32, device=like.device) / self.places_a_step
        return sinusoid(positions, self.dim // 2).to(like.dtype)


class Learned2D(nn.Module):
    """Adds a learned table of `max_size` x `max_size` places, cropped at its centre, to an image (AuraFlow)."""

    def __init__(self, dim: int, *, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.table = nn.Parameter(torch.randn(max_size, max_size, dim) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b h w d.

        Raises:
            ValueError: the image has more patches a side than the table.
        """
        height, width = _size_within(x, self.max_size)
        # its middle, in AuraFlow's rounding: SinCos2D's begins a place earlier where one of the sizes is odd
        top, left = self.max_size // 2 - height // 2, self.max_size // 2 - width // 2
        return x + self.table[top : top + height, left : left + width].to(x.dtype)


def _size_within(x: Tensor, max_size: int) -> tuple[int, int]:
    """Patches a side of `b h w d`."""
    height, width = x.shape[1:3]
    if height > max_size or width > max_size:
        raise ValueError(f"image positions reach {max_size} patches a side, got {height} x {width}")
    return height, width
