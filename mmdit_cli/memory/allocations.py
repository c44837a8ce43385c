"""What a forward pass allocates in all: a bound of what it holds at once, found sooner than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.model_parts.tensor_bytes import total_bytes
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig


class Allocations(TorchDispatchMode):
    """Adds up every storage that operators make, `bytes` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, torch.UntypedStorage] = {}  # held, so that no id comes twice

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.made.setdefault(storage._cdata, storage)
        return out

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.made.values())


def forward_allocations(config: ToolConfig, dtype: torch.dtype) -> int:
    """Bytes of the weights and of every tensor that a forward pass makes on the meta device, where attention makes its
    scores as well: no less than it holds at any time."""
    with without_compiler():
        model, inputs = meta_model(config, dtype), example_inputs(config, device="meta", dtype=dtype)
        with torch.inference_mode(), Allocations() as allocations:
            model(**inputs.kwargs)
    return allocations.bytes + total_bytes([*model.parameters(), *model.buffers()])
