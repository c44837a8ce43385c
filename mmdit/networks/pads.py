"""Pad tokens that are learned, with which every sample is filled up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.masks import fill_masked
from mmdit.options import PadOptions


class PadTokens(nn.Module):
    """`b n d -> b m d`: a learned token behind each sample's own, up to a multiple, and valid as they are (Z-Image)."""

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
        valid, places = lengthened(mask, mask.new_zeros(()), length), torch.arange(length, device=x.device)
        own = (valid * (places + 1)).amax(1, keepdim=True)  # up to the last valid token
        pads = (places >= own) & (places < filled_up(own, self.multiple))
        return fill_masked(torch.where(pads.unsqueeze(-1), token, longer), valid | pads), valid | pads


def filled_up(length: Any, multiple: int) -> Any:
    """So many tokens and the pad tokens behind them."""
    return (length + multiple - 1) // multiple * multiple


def lengthened(x: Tensor, filler: Tensor, length: int) -> Tensor:
    """`b n ... -> b m ...` with so many of m: a filler behind the n; in steps that torch.export follows at any size."""
    places = torch.arange(length, device=x.device)
    own = (places < x.shape[1]).view(-1, *(1,) * (x.ndim - 2))
    return torch.where(own, x.index_select(1, places.clamp(max=x.shape[1] - 1)), filler)
