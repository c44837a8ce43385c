"""Tokens that come in runs, all of one run conditioned by one vector: packed samples, an image and its references."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ConditioningRuns(NamedTuple):
    """What conditions or modulates a sequence whose tokens are of several kinds, one kind behind the other.

    `vectors`: b k d; `lengths`: how many tokens each of the k is for. What follows from a vector is computed once.
    """

    vectors: Tensor
    lengths: tuple[int, ...]


LONG = 1 << 17  # elements of a run from which a call of its own costs less than copies of its vector


def each_token(part: Tensor | ConditioningRuns) -> Tensor:
    """`b n d`, a copy for every token of a run; a tensor as it is."""
    if isinstance(part, Tensor):
        return part
    vectors, lengths = part
    # row by row: the gradient is a sum over neighbours, not one scattered token by token
    return torch.cat([vectors[:, i : i + 1].expand(-1, n, -1) for i, n in enumerate(lengths)], dim=1)


def over_runs(function: Callable[..., Tensor], *given: Tensor | ConditioningRuns) -> Tensor:
    """`function(*given)`, which acts on each token alone. Among runs, every tensor is of tokens, `b n d`.

    The vectors of long runs are broadcast over their tokens, not copied for each: autograd would keep the copies.
    """
    lengths = None
    for x in given:  # a loop takes a quarter of the time of a generator, and this is called eight times a block
        if isinstance(x, ConditioningRuns):
            lengths = x.lengths
    if lengths is None:
        return function(*given)
    count = len(lengths)
    if count > 2:  # of an image and its references, the lengths may be unknown to torch.compile and are not compared
        if all(n == lengths[0] for n in lengths):
            views = [
                x.unflatten(1, (count, lengths[0])) if isinstance(x, Tensor) else x.vectors[:, :, None] for x in given
            ]
            return function(*views).flatten(1, 2)
        if max(x.numel() for x in given if isinstance(x, Tensor)) < LONG * count:
            return function(*map(each_token, given))
    pieces = [x.split(lengths, dim=1) if isinstance(x, Tensor) else x.vectors.split(1, dim=1) for x in given]
    return torch.cat([function(*piece) for piece in zip(*pieces, strict=True)], dim=1)
