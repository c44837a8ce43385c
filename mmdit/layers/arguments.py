"""Checks of what a caller passes, whose messages name the modality, what came and what was wanted."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_count(tokens: Sequence[Tensor], names: Sequence[str], argument: str) -> None:
    if isinstance(tokens, Tensor) or len(tokens) != len(names):
        got = f"one tensor of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else f"{len(tokens)} tensors"
        raise ValueError(f"{argument} must be a sequence of {len(names)} tensors ({', '.join(names)}), got {got}")


def check_tokens(tokens: Sequence[Tensor], widths: Sequence[int], names: Sequence[str], *, dims: int = 3) -> None:
    """Each is `b n d` (or `b n s d` for `dims=4`) of its width, all of one batch size."""
    for x, width, name in zip(tokens, widths, names, strict=True):
        if x.ndim != dims or x.shape[-1] != width:
            streams = "streams, " if dims == 4 else ""
            raise ValueError(
                f"{name} tokens must have the shape (batch, length, {streams}{width}), got {tuple(x.shape)}"
            )
        if x.shape[0] != tokens[0].shape[0]:
            raise ValueError(
                f"{name} tokens have a batch of {x.shape[0]}, but {names[0]} tokens have one of {tokens[0].shape[0]}"
            )


def check_conditioning(
    cond: Tensor | Sequence[Tensor] | None,
    dim_cond: int | None,
    batch: int,
    names: Sequence[str],
    *,
    argument: str = "time_cond",
) -> Sequence[Tensor | None]:
    """One `b dim_cond` vector for each modality, or None for each where the module takes no conditioning."""
    if dim_cond is None:
        if cond is not None:
            raise ValueError(
                f"{argument} was passed, but this module was built without conditioning (dim_cond is None)"
            )
        return (None,) * len(names)
    if cond is None:
        raise ValueError(
            f"{argument} is missing: this module was built with dim_cond={dim_cond} and needs (batch, {dim_cond})"
        )
    conds = (cond,) * len(names) if isinstance(cond, Tensor) else tuple(cond)
    if len(conds) != len(names):
        raise ValueError(f"{argument} must be one tensor or one for each of {', '.join(names)}, got {len(conds)}")
    for c, name in zip(conds, names, strict=True):
        if c.ndim != 2 or c.shape[0] != batch or c.shape[1] != dim_cond:
            raise ValueError(
                f"{argument} for {name} must have the shape ({batch}, {dim_cond}) (batch, dim_cond), "
                f"got {tuple(c.shape)}"
            )
    return conds


def check_positions(
    positions: Sequence[Tensor | None], tokens: Sequence[Tensor], axes: int, names: Sequence[str]
) -> None:
    """One `n a` or `b n a` tensor of coordinates, or None, for each modality."""
    if isinstance(positions, Tensor) or len(positions) != len(tokens):
        got = "one tensor" if isinstance(positions, Tensor) else f"{len(positions)}"
        raise ValueError(f"modality_positions must be one (or None) for each of {', '.join(names)}, got {got}")
    for place, x, name in zip(positions, tokens, names, strict=True):
        if place is not None and place.shape not in ((x.shape[1], axes), (*x.shape[:2], axes)):
            raise ValueError(
                f"the positions of {name} must have the shape {(x.shape[1], axes)} (length, axes), "
                f"got {tuple(place.shape)}"
            )
