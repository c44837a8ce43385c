"""Bytes: what the weights hold, and the most that torch's allocator held at once during a call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. `peak` counts the weights, their gradients and everything torch allocated during the call, the inputs
    apart; `activations` is the peak above what was held before the call."""

    weights: int
    peak: int
    activations: int


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def measure_peak(model: nn.Module, call: Callable[[], object], device: torch.device) -> MemoryUse:
    """The peak of one call.

    On CUDA the caching allocator's own high-water mark. On the CPU every allocation and release that torch's allocator
    reports to the profiler, added up in order; scratch that a math library allocates by itself is not in it.
    """
    weights = weight_bytes(model)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        rise = torch.cuda.max_memory_allocated(device) - before
    else:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on standard error
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        rise = _highest([event.nbytes() for event in _memory_events(profiler)])
    return MemoryUse(weights=weights, peak=weights + rise, activations=rise)


def _memory_events(profiler: profile) -> list[Any]:
    """The allocator's events in time order. The one place that reads the profiler's raw record."""
    raw = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sorted((event for event in raw if event.name() == "[memory]"), key=lambda event: event.start_ns())


def _highest(changes: list[int]) -> int:
    held = highest = 0
    for change in changes:
        held += change
        highest = max(highest, held)
    return highest
