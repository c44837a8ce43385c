"""When a weight may be read past the call of its module, for speed."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module does what `kind` says and nothing else: no adapter around it, no quantized or sharded weight, no
    hook that brings the weight or watches the call. Any other is to be called."""
    hooks: tuple[Any, ...] = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    own = type(module) is kind and "forward" not in vars(module)
    return own and not is_traceable_wrapper_subclass(module.weight) and not any(hooks)
