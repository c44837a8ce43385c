"""Checks of what a caller passes, whose messages name the modality, what came and what was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdit.layers.modulation import Conditioning, ConditioningRuns


def described(given: object) -> str:
    """What was given in place of something else: a tensor by its shape, and otherwise its type."""
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__


def as_vector(given: object, argument: str, batch: int, device: torch.device, *, tokens: int | None = None) -> Tensor:
    """`b` numbers, from a tensor of them or from one number for all; or `b n` for so many `tokens`.

    Raises:
        ValueError: it is something else, or of another length, or on another device.
    """
    if isinstance(given, (int, float)):
        return torch.full((batch,), float(given), dtype=torch.float32, device=device)
    of_tokens = isinstance(given, Tensor) and given.ndim == 2 and tokens is not None
    if not isinstance(given, Tensor) or given.shape != ((batch, tokens) if of_tokens else (batch,)):
        also = "" if tokens is None else f" or (batch, tokens) = ({batch}, {tokens})"
        raise ValueError(f"{argument} must have the shape (batch,) = ({batch},){also}, got {described(given)}")
    check_device(given, argument, device)
    return given


def as_labels(given: object, argument: str, batch: int, device: torch.device, *, classes: int) -> Tensor:
    """`b` labels of classes, from a tensor of them or from one for all.

    Raises:
        ValueError: it is something else, or of another length, or on another device; or a number without a class.
    """
    labels = torch.full((batch,), given, device=device) if isinstance(given, int) else given
    whole = isinstance(labels, Tensor) and labels.dtype in (torch.int64, torch.int32)
    if not whole or (isinstance(given, int) and not 0 <= given < classes):
        got = given if isinstance(given, (int, float)) else getattr(given, "dtype", described(given))
        raise ValueError(f"{argument} must be integers from 0 to {classes - 1}, got {got}")
    return as_vector(labels, argument, batch, device)


def check_device(given: Tensor, argument: str, device: torch.device) -> None:
    """Raises ValueError where it is on another one than the tokens."""
    if given.device != device:
        raise ValueError(f"{argument} is on {given.device}, but the tokens are on {device}; move it there")


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
    cond: Conditioning | Sequence[Conditioning] | None,
    dim_cond: int | None,
    batch: int,
    names: Sequence[str],
    *,
    lengths: Sequence[int] | None = None,
    argument: str = "time_cond",
) -> Sequence[Conditioning | None]:
    """One `b dim_cond` vector for each modality, or None for each where the module takes no conditioning; where the
    `lengths` of the modalities are told, it may be `b n dim_cond`, or runs of tokens."""
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
    conds: tuple[Any, ...] = tuple(cond) if type(cond) in (tuple, list) else (cond,) * len(names)
    if len(conds) != len(names):
        raise ValueError(f"{argument} must be one tensor or one for each of {', '.join(names)}, got {len(conds)}")
    for i, (c, name) in enumerate(zip(conds, names, strict=True)):
        vectors = c.vectors if isinstance(c, ConditioningRuns) else c
        shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else ()
        if isinstance(c, ConditioningRuns):
            of_tokens, got = len(shape) == 3 and shape[1] == len(c.lengths), f" for runs of {tuple(c.lengths)} tokens"
            fits = of_tokens and lengths is not None and sum(c.lengths) == lengths[i]
        else:
            fits, got = len(shape) == 2 or (lengths is not None and shape[1:-1] == (lengths[i],)), ""
        if not fits or shape[0] != batch or shape[-1] != dim_cond:
            each = "" if lengths is None else f", or ({batch}, {lengths[i]}, {dim_cond}), one for each token"
            raise ValueError(
                f"{argument} for {name} must have the shape ({batch}, {dim_cond}) (batch, dim_cond){each}, "
                f"got {described(vectors)}{got}"
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


def check_names(given: Mapping[str, Any], argument: str, names: Sequence[str], *, complete: bool) -> None:
    """A mapping by some of these names, or by all of them where it has to be complete."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument} must be a mapping by modality, got {described(given)}")
    if any(name not in names for name in given) or (complete and len(given) < len(names)):
        raise ValueError(f"{argument} must be named {', '.join(names)}, got {', '.join(given) or 'none'}")
