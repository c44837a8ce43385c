"""What is plain, for speed: a weight that may be read past the call of its module, and a step that changes nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def unchanged(x: Tensor) -> Tensor:
    """In place of `nn.Identity`, whose call takes as long as an operation on a vector."""
    return x


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
