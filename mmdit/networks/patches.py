"""An image cut into squares, or a video cut into boxes, and put together again."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

# by the number of sides: the whole, its patches, the inside of one
_SIDES = {2: ("(h p) (w q)", "h w", "p q"), 3: ("(f o) (h p) (w q)", "f h w", "o p q")}


def cut(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """`b c (h p) (w q) -> b h w (c p q)`, of a video `b c (f o) (h p) (w q) -> b f h w (c o p q)`.

    `sizes`: those of a patch.
    """
    whole, patches, inside = _SIDES[len(sizes)]
    return rearrange(x, f"b c {whole} -> b {patches} (c {inside})", **inside_of(sizes))


def together(patches: Tensor, sizes: Sequence[int], like: Tensor) -> Tensor:
    """`b (h w) (p q c) -> b c (h p) (w q)`, of a video with frames likewise; `like`: one of the same size."""
    whole, grid, inside = _SIDES[len(sizes)]
    rows = {name: like.shape[2 + i] // sizes[i] for i, name in enumerate(grid.split()[:-1])}
    return rearrange(patches, f"b ({grid}) ({inside} c) -> b c {whole}", **rows, **inside_of(sizes))


def inside_of(sizes: Sequence[int]) -> dict[str, int]:
    """The sizes of a patch by their names in the patterns: p and q, of a video o, p and q."""
    return dict(zip(_SIDES[len(sizes)][2].split(), sizes, strict=True))
