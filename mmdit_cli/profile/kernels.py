"""Components in torch's profiler: kernel times on CUDA, where the host runs ahead, and Chrome traces on any device."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from mmdit.weights.atomic import write_atomic
from mmdit_cli.model_parts.components import OTHER, Component
from mmdit_cli.model_parts.follower import FORWARD, PHASES, Follower
from mmdit_cli.profile.clock import Parts

PhasedCall = Callable[[Callable[[str], None]], object]
RUNTIME = re.compile("cu(da)?[A-Z]")  # calls of CUDA itself, such as cudaLaunchKernel and cuLaunchKernelEx


def _nothing() -> None:
    pass


class Ranges(Follower):
    """Puts a range of the profiler around every phase, and around every component within it, forward and backward."""

    def __init__(self, components: Sequence[Component]) -> None:
        super().__init__(components)
        self.open: list[Any] = []
        self.phase_range: Any = None

    def start(self, phase: str = FORWARD) -> None:
        self.finish()
        super().start(phase)

    def entered(self) -> None:
        inside = self.stack or self.running.name != OTHER
        label = component_label(self.phase, self.running.name) if inside else self.phase
        opened = record_function(label)
        opened.__enter__()
        if inside:
            self.open.append(opened)
        else:
            self.phase_range = opened

    def left(self) -> None:
        self.open.pop().__exit__(None, None, None)

    def finish(self) -> None:
        """End the phase."""
        self._leave_to(0)
        if self.phase_range is not None:
            self.phase_range.__exit__(None, None, None)
            self.phase_range = None


def component_label(phase: str, name: str) -> str:
    """How a component is called in a trace."""
    return f"{phase}: {name}"


def profiled(
    call: PhasedCall,
    components: Sequence[Component],
    device: torch.device,
    *,
    runs: int = 1,
    before: Callable[[], object] = _nothing,
) -> profile:
    """torch's profile of `runs` calls, with the components' ranges in it; `before` each of them, and in no range."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on standard error
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with Ranges(components) as ranges, profile(activities=activities) as profiler:
        for _ in range(runs):
            before()
            call(ranges.start)
            ranges.finish()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return profiler


def kernel_parts(
    call: PhasedCall,
    components: Sequence[Component],
    device: torch.device,
    *,
    runs: int = 5,
    before: Callable[[], object] = _nothing,
) -> Parts:
    """Seconds of the device's own work in one call, by phase and component: the mean over `runs` calls.

    Empty where the profiler recorded no kernel: it lacks the permission, or another profiler holds the counters.

    Args:
        before: what precedes each call, such as flushing the caches; its own kernels do not count.
    """
    profiled(call, components, device)  # the first profile of a process pays for starting the profiler
    events = profiled(call, components, device, runs=runs, before=before).events() or []
    return {part: seconds / runs for part, seconds in kernel_seconds(events, [c.name for c in components]).items()}


def kernel_seconds(events: Iterable[Any], names: Sequence[str]) -> Parts:
    """Seconds of kernels and copies, by the innermost range around the operator that launched them.

    An operator outside every component is `other`, of the phase in whose time it began: the backward pass launches from
    a thread of its own, where the phase's range does not reach. One that began in no phase is no part of the call. A
    call of CUDA's runtime is no operator: the profiler links its kernel to the operator above it, and where it finds
    none, its number may be another operator's, whose kernels it would count again.
    """
    known = {component_label(phase, name): (phase, name) for phase in PHASES for name in names}
    events = [event for event in events if event.device_type == DeviceType.CPU and not RUNTIME.match(event.name)]
    phases = [(e.time_range.start, e.time_range.end, e.name) for e in events if e.name in PHASES]
    parts: Parts = defaultdict(float)
    for event in events:
        # ranges have shadows on the device's own timeline, which are no work
        spent = sum(k.duration for k in event.kernels if k.name not in known and k.name not in PHASES) / 1e6
        if not spent:
            continue
        above = event
        while above is not None and above.name not in known:
            above = above.cpu_parent
        if above is not None:
            parts[known[above.name]] += spent
        else:
            began = event.time_range.start
            phase = next((name for start, end, name in phases if start <= began <= end), None)
            if phase is not None:
                parts[phase, OTHER] += spent
    return dict(parts)


def write_trace(
    call: PhasedCall,
    components: Sequence[Component],
    device: torch.device,
    path: Path,
    *,
    before: Callable[[], object] = _nothing,
) -> None:
    """A Chrome trace of one call, for chrome://tracing and ui.perfetto.dev; compressed where the name ends in `.gz`.

    Raises:
        OSError: it can't be written.
    """
    profiler = profiled(call, components, device, before=before)
    with tempfile.TemporaryDirectory() as folder:  # torch writes more files than it is told to, and fails in silence
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        try:
            content = file.read_bytes()
            json.loads(content)["traceEvents"]
        except (OSError, ValueError, KeyError):
            raise OSError(errno.ENOSPC, "torch could not write the trace; is there space?", folder) from None
    write_atomic(path, gzip.compress(content) if path.suffix == ".gz" else content)
