"""A network on several processes against the same on one: what it gives, gradients and their norm, steps of AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from benchmarks.parallel.cases import rows
from mmdit.parallel import data_place, load_whole_state, parallelize, whole_state
from mmdit.parallel.whole_weights import cuts_by_name, whole

STEPS, RATE = 3, 1e-3


@dataclass(frozen=True)
class Difference:
    """The largest difference of each, relative to the largest number of its tensor, or to 1 where that is less.

    `loaded`: of the outputs of a network of one process that takes up the weights that several end with.
    """

    outputs: float
    gradients: float
    norm: float
    steps: float
    loaded: float

    @property
    def largest(self) -> float:
        return max(self.outputs, self.gradients, self.norm, self.steps, self.loaded)


@dataclass(frozen=True)
class Known:
    """What one process finds."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    norm: Tensor
    weights: dict[str, Tensor]
    after: list[Tensor]


def known(model: nn.Module, call: dict[str, Any]) -> Known:
    """What one process finds, of a copy."""
    model = deepcopy(model)
    outs = results(model(**call))
    _loss(outs).backward()
    gradients = {name: _gradient(p).clone() for name, p in model.named_parameters()}
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    _train(model, call)
    with torch.no_grad():
        after = results(model(**call))
    return Known([x.detach() for x in outs], gradients, norm, _copy(model.state_dict()), after)


def difference(model: nn.Module, call: dict[str, Any], mesh: DeviceMesh, one: Known, **options: Any) -> Difference:
    """Of a copy of the model that is spread over the processes of the mesh."""
    spread, fresh = parallelize(deepcopy(model), mesh, **options), deepcopy(model)
    place = data_place(mesh)
    own, cuts = rows(call, *place), cuts_by_name(spread)
    outs = results(spread(**own))
    given = max(_apart(x, y) for x, y in zip(outs, rows(one.outputs, *place), strict=True))
    _loss(outs).backward()
    gradients = {name: whole(_gradient(p), cuts[name]) for name, p in spread.named_parameters()}
    norm: Any = nn.utils.get_total_norm([p.grad for p in spread.parameters() if p.grad is not None])
    _train(spread, own)
    state = _copy(whole_state(spread))
    load_whole_state(fresh, state)
    with torch.no_grad():
        loaded = results(fresh(**call))
    load_whole_state(spread, {name: x + 1 for name, x in state.items()})  # and what several take up
    taken_up = _farthest(whole_state(spread), {name: x + 1 for name, x in one.weights.items()})
    return Difference(
        given,
        _farthest(gradients, one.gradients),
        _apart(norm.full_tensor() if hasattr(norm, "full_tensor") else norm, one.norm),
        max(_farthest(state, one.weights), taken_up),
        max(map(_apart, loaded, one.after)),
    )


def results(given: Any) -> list[Tensor]:
    """The tensors that a network gives."""
    return [x for x in (given.values() if isinstance(given, dict) else given) if x is not None]


def _loss(outs: list[Tensor]) -> Tensor:
    """A mean over samples, to which every number counts differently."""
    each = [(x.flatten(1) * torch.arange(x[0].numel()).sin()).sum(1).mean() for x in outs]
    return torch.stack(each).sum()


def _train(model: nn.Module, call: dict[str, Any]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        _loss(results(model(**call))).backward()
        optimizer.step()


def _gradient(p: Tensor) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _apart(got: Tensor, wanted: Tensor) -> float:
    size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    return (got - wanted).abs().max().item() / size if wanted.numel() else 0.0


def _farthest(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    if got.keys() != wanted.keys():
        raise ValueError(f"other names: {sorted(got.keys() ^ wanted.keys())[:3]}")
    return max(_apart(got[name], x) for name, x in wanted.items())


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in state.items()}
