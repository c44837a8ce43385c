"""The most bytes that tensors made during a call held at once, counted by torch's dispatch. It needs torch alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts storages from the operator that makes them until they are freed; an operator's own scratch is not seen."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.storages: dict[int, Any] = {}
        for x in tree_leaves(known):
            if isinstance(x, Tensor):
                self._count(x, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and id(x.untyped_storage()) not in self.storages:
                self._count(x, x.untyped_storage().nbytes())
        self.peak = max(self.peak, self.held)
        return out

    def _count(self, x: Tensor, size: int) -> None:
        storage = x.untyped_storage()
        key = id(storage)

        def gone(_: object) -> None:
            self.held -= size
            self.storages.pop(key, None)

        self.held += size
        self.storages[key] = weakref.ref(storage, gone)


def peak_bytes(call: Callable[[], object], known: Any) -> int:
    """The peak of one call beside the tensors in `known`: weights, their gradients, and inputs."""
    with PeakBytes(known) as counter:
        call()
    return counter.peak
