"""A CUDA device for tests on any machine: under `FakeTensorMode`, tensors have a device and shapes but no values.

A CPU build of torch lacks the guard that sets the current device, without which no operator runs on "cuda". One that
does nothing is enough, since nothing is computed. With a CUDA build torch has what it takes.
"""

from __future__ import annotations

import os
import subprocess
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import cpp_extension
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda:0")
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
"""


def register_guard(folder: Path) -> None:
    """Give this process the guard, compiled into the folder unless it is there; for a CPU build of torch."""
    library = folder / "cuda_guard.so"
    if not library.exists():
        own = folder / f"cuda_guard.{os.getpid()}"  # processes may share the folder
        own.with_suffix(".cpp").write_text(GUARD)
        compiler = [cpp_extension.get_cxx_compiler(), "-std=c++20", "-shared", "-fPIC"]
        included = [f"-I{path}" for path in cpp_extension.include_paths()]
        linked = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-lc10"]
        command = [*compiler, *included, str(own.with_suffix(".cpp")), "-o", str(own), *linked]
        subprocess.run(command, check=True, capture_output=True, text=True)
        own.replace(library)
    torch.ops.load_library(library)


class HostTransfers(TorchDispatchMode):
    """Finds what makes a device wait for the host, or the host for it; enter it after a `FakeTensorMode`.

    `found` has each operator that reads a device's values (their number, or a size that depends on them), or that has
    tensors on both sides, with the last line of the library that led to it. A host's scalar beside a device's tensor is
    an argument of its kernel, and no copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.device.type == "cuda" for x in given) and _reads(func, args, kwargs or {}):
            self._note(func)  # before it runs: a fake tensor has no value to give
        out = func(*args, **(kwargs or {}))
        every = given + [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        moved = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if len({x.device.type for x in every if x.ndim or moved}) > 1:
            self._note(func)
        return out

    def _note(self, func: Any) -> None:
        lines = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename != __file__]
        self.found.append(f"{func} at {Path(lines[-1].filename).name}:{lines[-1].lineno}: {lines[-1].line}")


def _reads(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator needs values on the host. Indexing does where a mask says how many there are."""
    if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags})
