"""A Chrome trace of one call: what ran when, by component, operator and (on CUDA) kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from mmdit.files import replacing
from mmdit_cli.measure.components import Component


def write_trace(
    call: Callable[[], object], path: Path, device: torch.device, components: Sequence[Component] = ()
) -> None:
    """Run `call` once under torch's profiler and write what it saw, for chrome://tracing or ui.perfetto.dev.

    Args:
        components: whose forward passes are marked by their names.

    Raises:
        OSError: the file can't be written; what was there is as it was.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on standard error
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    call()  # lazy initialization is none of the call's own time
    with _marked(components), profile(activities=activities, record_shapes=True) as profiler:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with replacing(path) as temporary:
        profiler.export_chrome_trace(str(temporary))


@contextmanager
def _marked(components: Sequence[Component]) -> Iterator[None]:
    """Each component's modules open a range of its name while they run."""
    running: list[Any] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            running.append(record_function(name))
            running[-1].__enter__()

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop().__exit__(None, None, None)

    for component in components:
        for module in component.modules:
            handles += [
                module.register_forward_pre_hook(enter(component.name)),
                module.register_forward_hook(leave, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
