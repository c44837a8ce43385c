"""Bytes: what weights, gradients and the optimizer hold, and the most that torch's allocator held during a call."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile, record_function

from mmdit_cli.model_parts.follower import FORWARD, OPTIMIZER
from mmdit_cli.model_parts.tensor_bytes import model_bytes, total_bytes

STEPS = 5  # of several processes, of which one is taken
_MARK = "mmdit memory: "


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. The inputs are apart from all of them.

    `peak` is the most that was held at once: weights, optimizer state, gradients, activations and temporaries.
    `activations` is what the forward pass leaves for the backward one. `gradients` are those of the parameters.
    `peak_phase` says in which phase the peak fell, and `temporaries` how much of it that phase gave back: the peak is
    weights + optimizer + what the phase held longer (activations, gradients, or the more of both) + temporaries.

    On CUDA `allocated` and `reserved` are the caching allocator's highest figures during the call for the whole
    process, without what it had kept of memory that was given back before; `process` is what the card has in use, its
    context and other programs included. On the CPU `process` is the highest resident set
    since the process began.
    """

    weights: int
    peak: int
    activations: int
    gradients: int = 0
    optimizer: int = 0
    temporaries: int = 0
    peak_phase: str = FORWARD
    allocated: int | None = None
    reserved: int | None = None
    process: int | None = None


@dataclass(frozen=True)
class Phase:
    """Bytes above what was held before the call: at the phase's start, at most, and at its end."""

    name: str
    start: int
    peak: int
    end: int

    @property
    def temporaries(self) -> int:
        return self.peak - max(self.start, self.end)


def highest(phases: Sequence[Phase]) -> Phase:
    """The phase of the peak."""
    return max(phases, key=lambda phase: phase.peak)


def optimizer_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of an optimizer's state."""
    if optimizer is None:
        return 0
    return total_bytes(x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))


def measure_memory(
    model: nn.Module,
    call: Callable[[Callable[[str], None]], object],
    device: torch.device,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> MemoryUse:
    """The memory of one call.

    On CUDA the caching allocator's own high-water marks. On the CPU every allocation and release that torch's allocator
    reports to the profiler, added up in order; scratch that a math library allocates by itself is not in it.

    Args:
        call: is given a function, and tells it the phase ("forward", "backward", "optimizer") as each begins. A call
            that tells none is a forward pass.
        optimizer: whose state the call updates.
    """
    weights, before, gradients = model_bytes(model), optimizer_bytes(optimizer), 0
    record = _CudaRecord(device) if device.type == "cuda" else _CpuRecord()

    def begins(name: str) -> None:
        nonlocal gradients
        if name == OPTIMIZER:
            gradients = total_bytes(p.grad for p in model.parameters() if p.grad is not None)
        record.begins(name)

    phases = record.run(lambda: call(begins))
    first, top = phases[0], highest(phases)
    return MemoryUse(
        weights=weights,
        peak=weights + before + top.peak,
        activations=first.end,
        gradients=gradients,
        optimizer=optimizer_bytes(optimizer),
        temporaries=top.temporaries,
        peak_phase=top.name,
        **record.process(),
    )


def measure_spread_memory(
    model: nn.Module,
    call: Callable[[Callable[[str], None]], object],
    device: torch.device,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> MemoryUse:
    """The memory of one training step of several processes, each of which has to make the same calls; see
    `measure_memory`. With gloo it is that of `STEPS` steps which held least: gloo holds what it sends until others have
    it, and what its threads free the profiler is not told of."""
    steps = STEPS if device.type == "cpu" else 1
    uses = [measure_memory(model, call, device, optimizer=optimizer) for _ in range(steps)]
    return min(uses, key=lambda use: use.peak)


class _CudaRecord:
    """The caching allocator's marks, read and set back at each phase's beginning; it counts on the host, in order."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.name, self.start = device, FORWARD, 0
        self.base, self.allocated, self.reserved = 0, 0, 0
        self.phases: list[Phase] = []

    def run(self, call: Callable[[], object]) -> list[Phase]:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # of buffers that measured something else
        self.base = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        torch.cuda.synchronize(self.device)
        self._end()
        return self.phases

    def begins(self, name: str) -> None:
        if name != self.name:
            self._end()
            self.name = name

    def _end(self) -> None:
        peak, now = torch.cuda.max_memory_allocated(self.device), torch.cuda.memory_allocated(self.device)
        self.allocated = max(self.allocated, peak)
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device))
        self.phases.append(Phase(self.name, self.start, peak - self.base, now - self.base))
        self.start = now - self.base
        torch.cuda.reset_peak_memory_stats(self.device)

    def process(self) -> dict[str, int]:
        free, total = torch.cuda.mem_get_info(self.device)
        return {"allocated": self.allocated, "reserved": self.reserved, "process": total - free}


class _CpuRecord:
    """The allocator's events as the profiler sees them, with marks where phases begin."""

    def run(self, call: Callable[[], object]) -> list[Phase]:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on standard error
        with profile(profile_memory=True) as profiler:  # torch.profiler's would import torch's compiler
            call()
        name, changes, held = FORWARD, [0], 0
        phases = []
        for event in _memory_events(profiler):
            mark = event.name().removeprefix(_MARK)
            if mark == event.name():
                changes.append(event.nbytes())
            elif mark != name:
                phases.append(_phase(name, held, changes))
                name, held, changes = mark, phases[-1].end, [0]
        return [*phases, _phase(name, held, changes)]

    def begins(self, name: str) -> None:
        with record_function(_MARK + name):
            pass

    def process(self) -> dict[str, int]:
        unit = 1 if sys.platform == "darwin" else 1024
        return {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _phase(name: str, start: int, changes: list[int]) -> Phase:
    held = list(accumulate(changes, initial=start))
    return Phase(name, start, max(held), held[-1])


def _memory_events(profiler: profile) -> list[Any]:
    """The allocator's events and the marks in time order. The one place that reads the profiler's raw record."""
    assert profiler.kineto_results is not None  # it has ended
    raw = profiler.kineto_results.events()
    wanted = (event for event in raw if event.name() == "[memory]" or event.name().startswith(_MARK))
    return sorted(wanted, key=lambda event: event.start_ns())
