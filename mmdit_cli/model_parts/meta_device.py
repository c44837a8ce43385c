"""Runs on the meta device, which need no more of torch than their shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch._decomp import global_decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

DISABLED = "__dynamo_disable"  # where `torch._disable_dynamo` keeps what it runs in place of a function


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep torch's compiler unimported: it takes as long to import as torch itself.

    Operators on the meta device are Python references, and these and dispatch modes are wrapped by
    `torch._disable_dynamo`, which at a function's first call imports the compiler only to be told not to trace it. Here
    each function is noted as its own untraced form beforehand. A torch that keeps the note elsewhere starts slower, no
    more; so does checkpointing, which asks for the compiler's settings. May be nested.
    """
    functions = [] if "torch._dynamo" in sys.modules else [f for f in _wrapped() if DISABLED not in f.__dict__]
    for function in functions:
        setattr(function, DISABLED, function)
    try:
        yield
    finally:
        for function in functions:
            function.__dict__.pop(DISABLED, None)


def _wrapped() -> list[FunctionType]:
    """The functions that `torch._disable_dynamo` wraps: they lie in the closures of its own."""
    waiting: list[Any] = [f for table in global_decomposition_table.values() for f in table.values()]
    modes = [TorchDispatchMode]
    for mode in modes:  # which grows
        modes += mode.__subclasses__()
        waiting.append(mode.__torch_dispatch__)
    seen, found = set(), []
    while waiting:
        function = waiting.pop()
        if isinstance(function, FunctionType) and function not in seen:
            seen.add(function)
            inside = [cell.cell_contents for cell in function.__closure__ or ()]
            waiting += inside
            if function.__code__.co_filename == torch._compile.__file__:
                found += [f for f in inside if isinstance(f, FunctionType)]
    return found
