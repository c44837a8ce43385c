"""Bytes through memory by component: what its operators take from others and hand to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.follower import FollowingMode, tensors_of
from mmdit_cli.model_parts.tensor_bytes import total_bytes

Gemm = tuple[int, int, int]  # rows, inner, columns
CallKey = tuple[str, str, int]  # phase, component, number of the call


@dataclass
class Traffic:
    """Bytes that have to go through memory in each call of a component: those of weights and their gradients, which
    come by once a call of the model, and those of activations. A pair of them counts as often as it occurs."""

    calls: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        return sum((weights + activations) * count for (weights, activations), count in self.calls.items())

    def seconds(self, rate: Callable[[int], float], model_bytes: int) -> float:
        """The time they take at `rate(size)` bytes/s: weights at that of the size of all weights, which pass between
        two uses of one, and activations at that of the call's own size, for they may lie in a cache."""
        return sum(
            count * (weights / rate(model_bytes) + activations / rate(activations))
            for (weights, activations), count in self.calls.items()
        )


class TrafficCounter(FollowingMode):
    """Adds up, while it is active, what each component's operators read that others wrote, and write that others read.

    Every tensor counts once a call; what stays inside a call is free, as if the component were one kernel. Works on
    real tensors and on fake ones.

    Args:
        weights: the model's parameters.
        components: what the bytes are told apart by; the `follower` is to be told the phases.
    """

    def __init__(self, weights: Sequence[Tensor], components: Sequence[Component]) -> None:
        super().__init__(components)
        self.weights = {_storage(p) for p in weights}
        self.kept: dict[int, Any] = {_storage(p): p.untyped_storage() for p in weights}  # no id comes twice
        self.producers: dict[int, CallKey] = {}
        self.read: dict[tuple[CallKey, int], dict[Any, int]] = {}  # bytes of each view of a storage
        self.handed_on: set[int] = set()
        self.gemms: Counter[Gemm] = Counter()  # FLOPs by size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = tensors_of([args, kwargs or {}]), tensors_of(out)
        known = {_storage(x) for x in given}
        if not func._schema.is_mutable and all(_storage(x) in known for x in made):
            return out  # a view, or a question about a tensor, moves nothing
        for x in given:
            is_table = func is torch.ops.aten.embedding.default and x is args[0]  # of which only some rows are read
            self._take(x, at_most=total_bytes(made[:1] if is_table else [x]))
        for x in made:
            self.kept.setdefault(_storage(x), x.untyped_storage())
            self.producers[_storage(x)] = self._call
        if func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            (rows, inner), (_, columns) = (x.shape for x in given[-2:])
            self.gemms[rows, inner, columns] += 2 * rows * inner * columns
        return out

    @property
    def _call(self) -> CallKey:
        """A call's forward and its backward are two; what `other` does in a phase is one."""
        return *self.follower.place, self.follower.running.number

    def _take(self, x: Tensor, at_most: int) -> None:
        key, call = _storage(x), self._call
        self.kept.setdefault(key, x.untyped_storage())
        if self.producers.get(key) != call:
            self.handed_on.add(key)
            view = (x.storage_offset(), x.shape, x.stride())
            self.read.setdefault((call, key), {})[view] = min(total_bytes([x]), at_most)

    def finish(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor] = ()) -> dict[str, Traffic]:
        """The traffic by component. Outputs and gradients are read by whoever called the model."""
        of_weights = self.weights | {_storage(x) for x in gradients}
        moved: dict[CallKey, list[int]] = {}

        def add(call: CallKey, key: int, count: int) -> None:
            moved.setdefault(call, [0, 0])[key not in of_weights] += min(count, self.kept[key].nbytes())

        for (call, key), views in self.read.items():
            add(call, key, sum(views.values()))
        handed_on = self.handed_on | {_storage(x) for x in (*outputs, *gradients)}
        for key in handed_on & self.producers.keys():
            add(self.producers[key], key, self.kept[key].nbytes())
        traffic: dict[str, Traffic] = {}
        for (_, name, _), (weights, activations) in moved.items():
            traffic.setdefault(name, Traffic()).calls[weights, activations] += 1
        return traffic


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata
