"""Rotary positions (Su et al. 2021, arXiv 2104.09864) over several axes: frame, row, column, or what else they mean.

Each axis turns its own share of a head's features. Within a share, features 2i and 2i + 1 are a pair, turned by
`coordinate * theta^(-2i / share)`, as in the checkpoints of FLUX and Qwen-Image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdit.options import RotaryOptions


class RotaryTable(nn.Module):
    """From coordinates to the cosines and sines of every pair of a head's features.

    Args:
        axes: features of a head that each axis turns; even numbers that add up to `dim_head`.
        theta: the longest wavelength is about 2 pi theta.

    Raises:
        ValueError: a share is odd or not above 0.
    """

    def __init__(self, axes: Sequence[int], *, theta: float = 10_000.0) -> None:
        super().__init__()
        if not axes or any(share < 2 or share % 2 for share in axes):
            raise ValueError(f"rotary axes must be even numbers above 0, got {tuple(axes)}")
        self.axes, self.theta = tuple(axes), theta

    def forward(self, coordinates: Tensor) -> Tensor:
        """`coordinates`: n a, or b n a -> n d/2 2, or b n d/2 2; computed in float64, given in float32."""
        angles = []
        for axis, share in enumerate(self.axes):
            exponents = torch.arange(0, share, 2, dtype=torch.float64, device=coordinates.device) / share
            angles.append(coordinates[..., axis, None].double() * self.theta**-exponents)
        joined = torch.cat(angles, dim=-1)
        return torch.stack([joined.cos(), joined.sin()], dim=-1).float()


class SharedRotaryTable(RotaryTable):
    """The same where the axes take turns at the frequencies of one: each but the first at every a-th, in its turn, as
    often as its share says; the first has the rest (the interleaved "MRoPE" of Qwen3-VL).

    In float32, in the order of operations of Ideogram 4, whose places reach beyond 65,000: its checkpoint was trained
    with that rounding.
    """

    def forward(self, coordinates: Tensor) -> Tensor:
        """See `RotaryTable`."""
        width, count = sum(self.axes), len(self.axes)
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=coordinates.device) / width
        frequencies, places = 1 / self.theta**exponents, coordinates.float()
        angles = places[..., :1] * frequencies
        for axis, share in enumerate(self.axes[1:], start=1):
            turns = slice(axis, count * (share // 2), count)
            angles[..., turns] = places[..., axis : axis + 1] * frequencies[turns]
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


def make_rotary(options: RotaryOptions | None) -> RotaryTable | None:
    """The table of a network, if it has one."""
    if options is None:
        return None
    return (RotaryTable if options.ladder == "own" else SharedRotaryTable)(options.axes, theta=options.theta)


def rotate(x: Tensor, table: Tensor | None) -> Tensor:
    """Turn the pairs of each head's features.

    `x`: b n h d; `table`: n d/2 2 or b n d/2 2, or None where nothing turns. In float32 at least, as the checkpoints
    were trained: the angles of neighbours are too close for bfloat16.
    """
    if table is None:
        return x
    wide = x.to(torch.promote_types(x.dtype, table.dtype)).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # a complex product is one pass, 3 to 5 times as fast; inductor has none
        if not x.numel():  # whose gradient may lie at an odd place in memory, where no complex number can
            return x
        turned = torch.view_as_complex(wide) * torch.view_as_complex(table.to(wide.dtype)).unsqueeze(-2)
        return torch.view_as_real(turned).flatten(-2).type_as(x)
    first, second = wide.unbind(-1)
    cos, sin = table.unsqueeze(-3).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).type_as(x)


def fill_tables(tables: Sequence[Tensor | None], lengths: Sequence[int]) -> list[Tensor] | None:
    """A table for every modality, to be joined; one without a table does not turn. None where none has one."""
    like = next((table for table in tables if table is not None), None)
    if like is None:
        return None
    batch = next((table.shape[:-3] for table in tables if table is not None and table.ndim > 3), ())
    still = torch.stack([like.new_ones(like.shape[-2]), like.new_zeros(like.shape[-2])], dim=-1)
    return [
        (still if table is None else table).expand(*batch, length, *still.shape)
        for table, length in zip(tables, lengths, strict=True)
    ]
