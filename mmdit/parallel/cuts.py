"""Weights that lie on several processes, and what a layer reads of them.

A weight becomes a `DTensor`, which optimizers, gradient norms and FSDP2 know. A layer computes with plain tensors: its
class is replaced by one that gives, in place of the weight, this process's part of it. So no layer has to know of
DTensors, and none runs slower for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from mmdit.parallel.exchanges import spread


@dataclass(frozen=True)
class Cut:
    """How a weight lies on the processes.

    Attributes:
        dim: along which it is cut; None: every process has the whole.
        parts: lengths along it of the parts that are each cut by itself: the rows of queries, keys and values, say, of
            which each process is to have those of its heads. In the `DTensor` they are ordered by process first.
        read: of a whole weight, who computes its gradient: `alike`, all of them; `in_parts`, each a part of it; or it
            is the bias of a sum, read by the `first` process.
    """

    dim: int | None = None
    parts: tuple[int, ...] = ()
    read: Literal["alike", "in_parts", "first"] = "alike"

    def own(self, whole: Tensor, place: int, processes: int) -> Tensor:
        """One process's part."""
        if self.dim is None:
            return whole
        pieces = [part.chunk(processes, self.dim)[place] for part in whole.split(self.parts, self.dim)]
        return torch.cat(pieces, self.dim)

    def joined(self, by_process: Tensor, processes: int) -> Tensor:
        """The whole weight of what is ordered by process first; the reverse of all of `own`."""
        if self.dim is None or len(self.parts) == 1:
            return by_process
        lengths = [part // processes for part in self.parts]
        pieces = by_process.split(lengths * processes, self.dim)
        return torch.cat([piece for i in range(len(lengths)) for piece in pieces[i :: len(lengths)]], self.dim)

    def parted(self, whole: Tensor, processes: int) -> Tensor:
        """The reverse of `joined`."""
        if self.dim is None or len(self.parts) == 1:
            return whole
        return torch.cat([self.own(whole, place, processes) for place in range(processes)], self.dim)


WHOLE, OF_PARTS, OF_SUM = Cut(), Cut(read="in_parts"), Cut(read="first")


def cut_weights(module: nn.Module, cuts: Mapping[str, Cut], mesh: DeviceMesh) -> None:
    """Leave a module its part of its own weights, by name; every process has the same whole ones before.

    Raises:
        ValueError: the processes do not divide a part.
    """
    for name, cut in cuts.items():
        weight = module._parameters[name]
        assert weight is not None
        if undivided := [part for part in cut.parts if part % mesh.size()]:
            raise ValueError(
                f"{mesh.size()} processes do not divide {undivided[0]} of {name} in {type(module).__name__}"
            )
        own = cut.own(weight.detach(), mesh.get_local_rank(), mesh.size()).contiguous()
        placement = Replicate() if cut.dim is None else Shard(cut.dim)
        spread_out = DTensor.from_local(own, mesh, [placement], run_check=False)
        module._parameters[name] = nn.Parameter(spread_out, requires_grad=weight.requires_grad)
    module.__class__ = _reading_own(type(module), tuple(cuts.items()))  # type: ignore[arg-type]


@cache
def _reading_own(kind: type[nn.Module], cuts: tuple[tuple[str, Cut], ...]) -> type[nn.Module]:
    """The same class, whose weights are read as plain tensors."""
    body: dict[str, Any] = {name: property(_reader(name, cut)) for name, cut in cuts}
    return type(kind.__name__, (kind,), {**body, "__module__": kind.__module__, "__doc__": kind.__doc__, "cuts": cuts})


def _reader(name: str, cut: Cut) -> Any:
    def own(module: nn.Module) -> Tensor:
        weight: Any = module._parameters[name]
        if not isinstance(weight, DTensor) or weight.device_mesh.ndim > 1:  # FSDP asks for what it has sharded
            return weight
        part = weight.to_local()
        if cut.read == "alike":
            return part
        part = spread(part, weight.device_mesh.get_group())
        return part if cut.read == "in_parts" or weight.device_mesh.get_local_rank() == 0 else part * 0

    return own


def cut_of(module: nn.Module, name: str) -> Cut:
    """How a module's own weight is cut."""
    return dict(getattr(module, "cuts", ())).get(name, WHOLE)
