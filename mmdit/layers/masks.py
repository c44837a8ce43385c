"""Masks, and what stands where they are False: it is replaced before anything reads it.

Keeping it out of the attention is not enough. With nan or inf there, 0 * nan = nan in the attention's sum of values and
in the gradients of weights, and one bad number at the end of a caption makes its whole sample nan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmdit.layers.arguments import described
from mmdit.layers.modulation import Conditioning
from mmdit.layers.neighbours import Valid
from mmdit.packing import Packing


class Masks(NamedTuple):
    """One `b n` bool mask, or None, for each modality. `filled`: nothing of the caller's stands at masked places."""

    by_modality: tuple[Tensor | None, ...]
    filled: bool = False

    def only(self, *indexes: int) -> Masks:
        """Those of some modalities."""
        return Masks(tuple(self.by_modality[index] for index in indexes), self.filled)

    def valid(self, packing: Packing | None) -> Sequence[Valid]:
        """By modality, which tokens are: of packed ones the packing tells."""
        if packing is None:
            return self.by_modality
        return [packing.only(index) for index in range(len(self.by_modality))]


def check_mask(mask: Tensor, x: Tensor, name: str, shape: Sequence[int] | None = None) -> None:
    """Raises ValueError where it is not a bool mask `b n` beside tokens `b n ...` (or of the shape `b n`)."""
    shape = x.shape[:2] if shape is None else shape
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = str(mask.dtype) if isinstance(mask, Tensor) else described(mask)
        raise ValueError(f"{name} mask must be of dtype torch.bool (True = valid token), got {got}")
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name} mask must have the shape {tuple(shape)} (batch, length), got {tuple(mask.shape)}")
    if mask.device != x.device:
        raise ValueError(f"{name} mask is on {mask.device}, but the tokens are on {x.device}; move it there")


def check_masks(masks: Sequence[Tensor | None] | Masks | None, tokens: Sequence[Tensor], names: Sequence[str]) -> Masks:
    """One `b n` bool mask or None for each modality, of tokens `b n ...`; as they are where that is known."""
    if isinstance(masks, Masks):
        return masks
    if isinstance(masks, Packing):
        raise ValueError("a Packing in place of masks is for a whole stack; here tokens come packed, with packing=...")
    if masks is None:
        return Masks((None,) * len(tokens))
    if isinstance(masks, Tensor) or len(masks) != len(tokens):
        got = "one tensor" if isinstance(masks, Tensor) else f"{len(masks)}"
        raise ValueError(
            f"masks must be a sequence of {len(tokens)}, one (or None) for each of {', '.join(names)}, got {got}"
        )
    for mask, x, name in zip(masks, tokens, names, strict=True):
        if mask is not None:
            check_mask(mask, x, name)
    return Masks(tuple(masks))


def fill_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`: b n ...; `mask`: b n or None -> the same with 1, -1, 1, ... where it is False (0 in integers), through which
    no gradient flows.

    Not with zeros: what is constant has no size, so norms would divide it by their eps, and by nothing where that is 0.
    """
    if mask is None:
        return x
    mask = mask.view(mask.shape + (1,) * (x.ndim - mask.ndim))
    if not x.is_floating_point():
        return x.masked_fill(~mask, 0)
    filler = x.new_ones(x.shape[-1])
    filler[1::2] = -1
    return torch.where(mask, x, filler)


def fill_conditioning(
    conds: Sequence[Conditioning | None], mask: Callable[[int], Tensor | None]
) -> list[Conditioning | None]:
    """The same of each modality's conditioning where that is a vector for each token, `b n d`."""
    return [fill_masked(c, mask(i)) if isinstance(c, Tensor) and c.ndim == 3 else c for i, c in enumerate(conds)]


def enter_masked(
    tokens: Sequence[Tensor],
    masks: Sequence[Tensor | None] | Masks | None,
    names: Sequence[str],
    conds: Sequence[Conditioning | None] = (),
) -> tuple[Sequence[Tensor], Masks, Sequence[Conditioning | None]]:
    """Tokens `b n_i ...` and their conditioning with masked places filled, and the masks, checked: once, where tokens
    enter.

    Raises:
        ValueError: a count, a mask's dtype or its shape is wrong.
    """
    checked = check_masks(masks, tokens, names)
    if checked.filled:
        return tokens, checked, conds
    entered = [fill_masked(x, mask) for x, mask in zip(tokens, checked.by_modality, strict=True)]
    return entered, Masks(checked.by_modality, filled=True), fill_conditioning(conds, checked.by_modality.__getitem__)
