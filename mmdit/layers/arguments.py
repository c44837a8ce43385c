"""Checks of what a caller passes, whose messages name the modality, what came and what was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def described(given: object) -> str:
    """What was given in place of something else: a tensor by its shape, and otherwise its type."""
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__


def as_vector(given: object, argument: str, batch: int, device: torch.device) -> Tensor:
    """`b` numbers, from a tensor of them or from one number for all.

    Raises:
        ValueError: it is something else, or of another length.
    """
    if isinstance(given, (int, float)):
        return torch.full((batch,), float(given), device=device)
    if not isinstance(given, Tensor) or given.shape != (batch,):
        raise ValueError(f"{argument} must have the shape (batch,) = ({batch},), got {described(given)}")
    return given


def check_tokens(
    tokens: Sequence[Tensor], widths: Sequence[int], names: Sequence[str], argument: str, *, dims: int = 3
) -> None:
    """One for each modality, `b n d` (or `b n s d` for `dims=4`) of its width, all of one batch size."""
    if isinstance(tokens, Tensor) or len(tokens) != len(names):
        got = f"one tensor of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else f"{len(tokens)} tensors"
        raise ValueError(f"{argument} must be a sequence of {len(names)} tensors ({', '.join(names)}), got {got}")

    for x, width, name in zip(tokens, widths, names, strict=True):
        if not isinstance(x, Tensor) or x.ndim != dims or x.shape[-1] != width:
            streams = "streams, " if dims == 4 else ""
            raise ValueError(f"{name} tokens must have the shape (batch, length, {streams}{width}), got {described(x)}")
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
    conds: tuple[Any, ...] = tuple(cond) if isinstance(cond, (tuple, list)) else (cond,) * len(names)
    if len(conds) != len(names):
        raise ValueError(f"{argument} must be one tensor or one for each of {', '.join(names)}, got {len(conds)}")
    for c, name in zip(conds, names, strict=True):
        if not isinstance(c, Tensor) or c.shape != (batch, dim_cond):
            raise ValueError(
                f"{argument} for {name} must have the shape ({batch}, {dim_cond}) (batch, dim_cond), got {described(c)}"
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
