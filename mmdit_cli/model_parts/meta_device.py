"""Runs on the meta device, which need no more of torch than their shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import torch


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep torch's compiler unimported: it takes as long to import as torch itself.

    The first elementwise operator on the meta device imports `torch._dynamo` to tell it not to trace the operator's
    Python reference, which matters to nobody who does not compile. For a process that counts or checks and ends.
    """
    name = "torch._dynamo"
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.disable = lambda fn, *_, **__: fn  # type: ignore[attr-defined]
    stand_in.config = SimpleNamespace(error_on_nested_fx_trace=False)  # type: ignore[attr-defined] # checkpoint asks
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        sys.modules.pop(name, None)
        if torch.__dict__.get("_dynamo") is stand_in:
            del torch._dynamo
