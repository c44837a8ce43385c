"""What an optimizer's step holds: its state, and what it takes besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from mmdit_cli.memory.fake_tensors import FakeTensorMode, StorageTracker
from mmdit_cli.memory.shortened import ShortRun
from mmdit_cli.memory.training import OptimizerName
from mmdit_cli.model_parts.hidden_matrices import hidden_matrices
from mmdit_cli.model_parts.tensor_bytes import local, total_bytes

Shapes = tuple[tuple[tuple[int, ...], torch.dtype, int], ...]  # shape, type, how many


def with_gradients(model: nn.Module, runs: Sequence[ShortRun], among: Collection[Tensor] | None = None) -> Shapes:
    """The parameters that got a gradient, as far as they lie on this process; those of the missing blocks as well.
    `among`: these alone."""
    times = {id(p): 1 + run.missing for run in runs for p in run.block.parameters()}
    counts: Counter[tuple[tuple[int, ...], torch.dtype]] = Counter()
    for p in model.parameters():
        if p.grad is not None and (among is None or p in among):
            counts[tuple(local(p).shape), p.dtype] += times.get(id(p), 1)
    return tuple((shape, kind, count) for (shape, kind), count in counts.items())


def optimizer_bytes(
    name: OptimizerName, model: nn.Module, runs: Sequence[ShortRun], device: str, foreach: bool
) -> tuple[int, int]:
    """See `step_bytes`, of all parameters that got a gradient. Of two optimizers one steps after the other."""
    if name != "muon":
        return step_bytes(name, with_gradients(model, runs), device, foreach)
    matrices = frozenset(hidden_matrices(model))
    others = frozenset(p for p in model.parameters() if p not in matrices)
    first = step_bytes("muon", with_gradients(model, runs, matrices), device, False)
    second = step_bytes("adamw", with_gradients(model, runs, others), device, foreach)
    return first[0] + second[0], max(first[1], second[1])


@lru_cache(maxsize=16)
def step_bytes(name: OptimizerName, shapes: Shapes, device: str, foreach: bool) -> tuple[int, int]:
    """Bytes of an optimizer's state, and of what its step takes besides: one parameter after another, or (as on CUDA)
    all at once. Each shape is stepped once."""
    with FakeTensorMode():
        parameters = []
        for shape, kind, _ in shapes:
            p = nn.Parameter(torch.empty(shape, dtype=kind, device=device))
            p.grad = torch.empty_like(p)
            parameters.append(p)
        optimizer = _optimizer(name, parameters, foreach)
        optimizer.step()
        tracker = StorageTracker()
        tracker.ignore([parameters, [p.grad for p in parameters], [list(s.values()) for s in optimizer.state.values()]])
        with tracker:
            optimizer.step()
        state = 0
        for p, (_, _, count) in zip(parameters, shapes, strict=True):
            state += count * total_bytes(x for x in optimizer.state[p].values() if isinstance(x, Tensor))
        taken = max((max(curve) for curve in tracker.curves.values()), default=0)
        if foreach:
            stepped = total_bytes(parameters)
            total = sum(
                count * p.numel() * p.element_size() for p, (_, _, count) in zip(parameters, shapes, strict=True)
            )
            taken = round(taken * total / stepped) if stepped else 0
        return state, taken


def _optimizer(name: OptimizerName, parameters: list[nn.Parameter], foreach: bool) -> torch.optim.Optimizer:
    match name:
        case "muon":
            return torch.optim.Muon(parameters, lr=0.0)
        case "sgd":
            return torch.optim.SGD(parameters, lr=0.0, foreach=foreach, momentum=0.9)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=0.0, foreach=foreach)
