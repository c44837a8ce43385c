"""Pad tokens that are learned, with which every sample is filled up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.masks import fill_masked
from mmdit.options import PadOptions
from mmdit.packing import Packing


class PadTokens(nn.Module):
    """`b n d -> b m d`: beside each sample's valid tokens as many of a learned one as make a multiple, as valid
    (Z-Image). They stand behind the others, or where a mask leaves some out in the first of those places.
    """

    def __init__(self, options: PadOptions, dim: int) -> None:
        super().__init__()
        self.multiple = options.multiple
        self.token = nn.Parameter(torch.zeros(1, dim))

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`x`: b n d; `mask`: b n, True = valid -> the same of longer sequences."""
        token, length = self.token.to(x.dtype), filled_up(x.shape[1], self.multiple)
        longer = lengthened(x, token, length)
        if mask is None:
            return longer, None
        count = mask.sum(1, keepdim=True)
        valid = lengthened(mask.float(), count.new_zeros((), dtype=torch.float32), length) > 0  # ONNX chooses no bools
        pads = ~valid & ((~valid).cumsum(1) <= filled_up(count, self.multiple) - count)
        return fill_masked(torch.where(pads.unsqueeze(-1), token, longer), valid | pads), valid | pads


def pack_with_pads(packing: Packing, masks: Sequence[Tensor | None], multiples: Sequence[int | None]) -> Packing:
    """A packing of what is given, with the pad tokens that are valid in the `masks`, `b m`; nothing waits for a GPU."""
    lengths, padded, index = list(packing.lengths), list(packing.padded), list(packing.index)
    for i, (mask, multiple) in enumerate(zip(masks, multiples, strict=True)):
        if multiple is None:
            continue
        lengths[i] = tuple(filled_up(count, multiple) for count in lengths[i])
        padded[i], index[i] = filled_up(padded[i], multiple), None
        if mask is not None and sum(lengths[i]) < packing.batch * padded[i]:
            index[i] = mask.flatten().logical_not().to(torch.uint8).argsort(stable=True)[: sum(lengths[i])]
    return Packing(tuple(lengths), tuple(padded), tuple(index))


def filled_up(length: Any, multiple: int) -> Any:
    """So many tokens and the pad tokens behind them."""
    return (length + multiple - 1) // multiple * multiple


def lengthened(x: Tensor, filler: Tensor, length: int) -> Tensor:
    """`b n ... -> b m ...` with so many of m: a filler behind the n; in steps that torch.export follows at any size."""
    places = torch.arange(length, device=x.device)
    own = (places < x.shape[1]).view(-1, *(1,) * (x.ndim - 2))
    return torch.where(own, x.index_select(1, places.clamp(max=x.shape[1] - 1)), filler)
