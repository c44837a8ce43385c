"""Which boxes of a whole weight a process holds: what it writes of a checkpoint, and what it reads of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from mmdit.parallel.cuts import WHOLE, Cut
from mmdit.parallel.whole_weights import tensor_processes


@dataclass(frozen=True)
class OwnPiece:
    """A box of a whole weight, and where it lies in the part that this process holds."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    place: tuple[slice, ...]


def own_pieces(x: Tensor, cut: Cut | None = None) -> list[OwnPiece]:
    """The boxes of a weight, or of what an optimizer keeps of it, that this process holds: all of its part.

    Args:
        cut: how the weight is cut by heads, whose rows lie apart in the whole.
    """
    along = [_runs(_places(x, dim, cut or WHOLE)) for dim in range(x.ndim)]
    return [
        OwnPiece(
            tuple(start for start, _, _ in box),
            tuple(count for _, count, _ in box),
            tuple(slice(at, at + count) for _, count, at in box),
        )
        for box in product(*along)
    ]


def writes(x: Tensor) -> bool:
    """Whether of all processes that hold this part of a weight this is the one to write it."""
    if not isinstance(x, DTensor):
        return dist.get_rank() == 0
    where = x.device_mesh.get_coordinate()
    assert where is not None  # every process is in the mesh
    return not any(at for at, placement in zip(where, x.placements, strict=True) if placement.is_replicate())


def _places(x: Tensor, dim: int, cut: Cut) -> list[int]:
    """Where along a dimension of the whole weight that of this process's part lies, one by one."""
    whole = torch.arange(x.shape[dim])
    if isinstance(x, DTensor):
        if cut.dim == dim:
            whole = replace(cut, dim=0).parted(whole, tensor_processes(x))
        along = [each if getattr(each, "dim", None) == dim else Replicate() for each in x.placements]
        whole = whole.view([-1 if each == dim else 1 for each in range(x.ndim)]).to(x.device_mesh.device_type)
        whole = distribute_tensor(whole, x.device_mesh, along, src_data_rank=None).to_local()  # which sends nothing
    return [int(place) for place in whole.flatten().tolist()]


def _runs(places: list[int]) -> list[tuple[int, int, int]]:
    """Places that follow each other: the first, how many there are, and where they begin in the list."""
    begins = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    ends = [*begins[1:], len(places)] if places else []
    return [(places[begin], end - begin, begin) for begin, end in zip(begins, ends, strict=True)]
