"""What processes send one another within a forward pass, each with its gradient.

`sum` alone: gloo's average has been wrong silently (pytorch/pytorch#162338).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

# torch 2.13's name of what was `all_gather_tensor` before
_all_gather: Any = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor


def _sum(x: Tensor, group: ProcessGroup) -> Tensor:
    return collectives.wait_tensor(collectives.all_reduce(x.contiguous(), "sum", group))


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _sum(grad, ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int, lengths: Sequence[int]) -> Tensor:
        ctx.dim, ctx.start, ctx.length = dim, sum(lengths[: dist.get_rank(group)]), x.shape[dim]
        longest = max(lengths)
        first = x.transpose(0, dim)
        if len(first) < longest:
            first = F.pad(first, (0, 0) * (first.ndim - 1) + (0, longest - len(first)))
        every = collectives.wait_tensor(_all_gather(first.contiguous(), 0, group))
        pieces = [piece[:length] for piece, length in zip(every.split(longest), lengths, strict=True)]
        return torch.cat(pieces).transpose(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.narrow(ctx.dim, ctx.start, ctx.length).contiguous(), None, None, None


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, sent: list[int], received: list[int]) -> Tensor:
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return _exchange(x, group, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(grad.contiguous(), ctx.group, ctx.received, ctx.sent), None, None, None


def _exchange(x: Tensor, group: ProcessGroup, sent: list[int], received: list[int]) -> Tensor:
    return collectives.wait_tensor(collectives.all_to_all_single(x, received, sent, group))


def spread(x: Tensor, group: ProcessGroup) -> Tensor:
    """What all processes have, to be read by each for a part of the work: as it is, its gradient the sum of theirs."""
    return _Spread.apply(x, group)


def summed(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of every process's part, which all go on with alike: the gradient of each part is that of the sum."""
    return _Summed.apply(x, group)


def gathered(x: Tensor, group: ProcessGroup, dim: int, lengths: Sequence[int]) -> Tensor:
    """Every process's part side by side along `dim`, of these lengths, which all go on with alike: the gradient of each
    part is its own of the whole."""
    return _Gathered.apply(x, group, dim, lengths)


def exchanged(x: Tensor, group: ProcessGroup, sent: list[int], received: list[int]) -> Tensor:
    """`x`: one dimension, of which the first `sent[0]` numbers go to the first process, and so on -> what came from the
    first process, `received[0]` numbers, and so on."""
    return _Exchanged.apply(x, group, sent, received)
