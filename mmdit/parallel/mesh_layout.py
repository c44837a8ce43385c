"""How processes are arranged: the dimensions of the device mesh, and what each of them is for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

REPLICATE, SHARD, CONTEXT, TENSOR = "replicate", "shard", "context", "tensor"
# the last is the innermost: neighbours in it speak the most, so that they should be within a node
DIMENSIONS = (REPLICATE, SHARD, CONTEXT, TENSOR)


@dataclass(frozen=True, kw_only=True)
class MeshLayout:
    """How many processes there are along each dimension of the mesh.

    Attributes:
        replicate: copies of the sharded weights, each for other samples (HSDP: one for each node).
        shard: processes that share weights and optimizer state among them, each with other samples (FSDP).
        context: processes that share the tokens of a sample (Ulysses), and its weights too.
        tensor: processes that share each layer's heads and hidden features (tensor parallel).

    Raises:
        ValueError: a number is below 1.
    """

    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")

    def __str__(self) -> str:
        counts = [f"{name} {count}" for name, count in asdict(self).items() if count > 1]
        return " x ".join(counts) or "one process"

    @property
    def size(self) -> int:
        """Processes in all."""
        return math.prod(asdict(self).values())

    def mesh(self, device_type: str) -> DeviceMesh:
        """The mesh of these processes, of all four dimensions; the process group has to be there.

        Raises:
            ValueError: there is another number of processes.
        """
        if dist.get_world_size() != self.size:
            raise ValueError(f"the layout ({self}) is of {self.size} processes, but there are {dist.get_world_size()}")
        return init_device_mesh(
            device_type, tuple(getattr(self, name) for name in DIMENSIONS), mesh_dim_names=DIMENSIONS
        )


def layout_of(mesh: DeviceMesh) -> MeshLayout:
    """That of a mesh, whose dimensions are named as those of `MeshLayout`; those that are not there are of 1.

    Raises:
        ValueError: a dimension has no name, or another one, or they stand in another order.
    """
    names = mesh.mesh_dim_names or ()
    if len(names) != mesh.ndim or [name for name in DIMENSIONS if name in names] != [*names]:
        got = ", ".join(names) or "no names"
        raise ValueError(f"mesh: its dimensions must be some of {', '.join(DIMENSIONS)}, in this order, got {got}")
    return MeshLayout(**{name: mesh[name].size() for name in names})


def data_place(mesh: DeviceMesh) -> tuple[int, int]:
    """Which of how many parts of a batch this process computes: `(part, parts)`. Processes that share a sample, along
    `context` or `tensor`, have to be given the same part.
    """
    layout = layout_of(mesh)
    place = 0
    for name in (REPLICATE, SHARD):
        if getattr(layout, name) > 1:
            place = place * getattr(layout, name) + mesh.get_local_rank(name)
    return place, layout.replicate * layout.shard
