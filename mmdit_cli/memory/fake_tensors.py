"""A model without memory, and what it would hold: every tensor has shape, type and device, and no data.

Unlike on the meta device, an operator here is the one that the real device would run: attention is its fused kernel,
which keeps q, k, v, its output and the log-sum-exp, and not the scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmdit.packing import Packing
from mmdit_cli.model_parts.tensor_bytes import local

__all__ = ["FakeTensorMode", "StorageTracker", "fake_inputs", "fake_parameters"]


def _like(t: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)


def fake_parameters(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device fake parameters and buffers; call it under a `FakeTensorMode`."""
    made: dict[int, Any] = {}  # a tensor that two modules share stays one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = made.setdefault(id(parameter), parameter)
                if fresh is parameter:
                    fresh = made[id(parameter)] = nn.Parameter(_like(parameter, device), parameter.requires_grad)
                module._parameters[name] = fresh
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer, device)


def fake_inputs(kwargs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same arguments with fake tensors; call it under a `FakeTensorMode`."""
    made: dict[str, Any] = tree_map_only(Tensor, lambda t: _like(t, device), kwargs)
    return tree_map_only(Packing, lambda packing: packing.map(lambda t: _like(t, device)), made)


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of every storage from the operator that makes it until the last tensor that holds it is gone.

    `curves` has the bytes held after each allocation, apart by the `place` of it.
    """

    def __init__(self, place: Callable[[], tuple[str, int]] = lambda: ("", 0)) -> None:
        super().__init__()
        self.held = 0
        self.place = place
        self.curves: dict[tuple[str, int], list[int]] = {}
        self._known: dict[int, weakref.ref[Any]] = {}
        self._sizes: dict[int, int] = {}

    def ignore(self, tensors: Any) -> None:
        """Don't count these: they were there before."""
        for t in tree_leaves(tensors):
            if isinstance(t, Tensor):
                self._know(t.untyped_storage(), 0)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(t, Tensor):
                storage = local(t).untyped_storage()
                if id(storage) not in self._known:
                    self._know(storage, storage.nbytes())
                    self.curves.setdefault(self.place(), []).append(self.held)
        return out

    def _know(self, storage: Any, size: int) -> None:
        key = id(storage)

        def gone(_: object) -> None:
            self._resize(key, 0)
            del self._known[key], self._sizes[key]

        if key not in self._known:
            self._known[key], self._sizes[key] = weakref.ref(storage, gone), 0
            self._resize(key, size)

    def _resize(self, key: int, size: int) -> None:
        self.held += size - self._sizes[key]
        self._sizes[key] = size
