"""The whole weights of a model that is spread over processes, under the names and in the order of one that is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mmdit.parallel.cuts import WHOLE, Cut, cut_of
from mmdit.parallel.mesh_layout import TENSOR


def cuts_by_name(model: nn.Module) -> dict[str, Cut]:
    """How each of a model's weights is cut along the tensor dimension."""
    return {
        f"{prefix}.{name}" if prefix else name: cut_of(module, name)
        for prefix, module in model.named_modules()
        for name in module._parameters
    }


def whole(x: Tensor, cut: Cut | None = None) -> Tensor:
    """A weight, or what an optimizer keeps of it, with all its parts; every process has to ask."""
    if not isinstance(x, DTensor):
        return x
    return (cut or WHOLE).joined(x.full_tensor(), tensor_processes(x))


def put(target: Tensor, source: Tensor, cut: Cut | None = None) -> None:
    """Copy a whole tensor, which every process has, into one that may be spread over them."""
    if isinstance(target, DTensor):
        source = (cut or WHOLE).parted(source.to(target.device), tensor_processes(target))
        source = distribute_tensor(source, target.device_mesh, target.placements, src_data_rank=None)
    with torch.no_grad():
        target.detach().copy_(source)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """One tensor of a model's state after the other, whole; every process has to go through all of them."""
    cuts = cuts_by_name(model)
    for name, x in model.state_dict().items():
        yield name, whole(x, cuts.get(name))


def whole_state(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The state of a model that is spread over processes, as one that is not has it: what `load_state_dict` takes in
    any other. Every process has to ask; one that does not `keep` it holds one tensor at a time. As in a `state_dict`,
    what is whole in the model shares its memory.
    """
    return {name: x for name, x in whole_weights(model) if keep}


def load_whole_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a model, spread over processes or not, whole weights, which every process has.

    Raises:
        ValueError: they are not those of the model.
    """
    cuts, own = cuts_by_name(model), model.state_dict()
    if own.keys() != state.keys():
        missing, further = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise ValueError(f"the weights are not the model's: missing {missing[:3]}, unknown {further[:3]}")
    for name, x in own.items():
        if x.shape != state[name].shape:
            raise ValueError(f"{name} must have the shape {tuple(x.shape)}, got {tuple(state[name].shape)}")
        put(x, state[name], cuts.get(name))


def tensor_processes(x: DTensor) -> int:
    """How many processes share a weight's heads."""
    names = x.device_mesh.mesh_dim_names or ()
    return x.device_mesh[TENSOR].size() if TENSOR in names else 1
