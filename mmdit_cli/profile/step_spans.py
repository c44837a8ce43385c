"""Where a spread step's time goes: spans of a profile's timeline, and what of sending lies outside of computing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from torch.autograd import DeviceType

Span = tuple[int, int]  # nanoseconds: from, and to
STEP = "mmdit step"  # the range around the step that is looked at
COMPUTING, SENDING = "aten::", "gloo:"  # of operators, and of gloo's own record of a collective
WAITING = ("_c10d_functional::wait_tensor",)  # which an operator on sharded tensors may have within it
NCCL_KERNEL = re.compile(r"nccl\w*Kernel")


@dataclass(frozen=True)
class StepSplit:
    """Milliseconds of a step in one process: `wall` = `computing` + `exposed` + `neither`, and `communication` =
    `hidden` (behind computing) + `exposed`. Waiting for slower processes is communication."""

    wall: float
    computing: float
    communication: float
    hidden: float
    exposed: float
    neither: float


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time as spans that do not overlap, in order; empty ones are left out."""
    found: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """The spans' time that is in none of the others."""
    left, removed, first = [], union(others), 0
    for start, end in union(spans):
        while first < len(removed) and removed[first][1] <= start:
            first += 1
        for begin, stop in islice(removed, first, None):
            if begin >= end:
                break
            left.append((start, begin))
            start = stop
        left.append((start, end))
    return union(left)


def length(spans: Iterable[Span]) -> int:
    """Nanoseconds that the spans cover together."""
    return sum(end - start for start, end in union(spans))


def split(step: Span, computing: Iterable[Span], communication: Iterable[Span]) -> StepSplit:
    """The parts of a step, of spans that may overlap and reach beyond it."""
    within = [
        [(max(start, step[0]), min(end, step[1])) for start, end in spans] for spans in (computing, communication)
    ]
    computed, sent = map(union, within)
    exposed, both = length(without(sent, computed)), length([*computed, *sent])
    parts = dict(
        wall=step[1] - step[0],
        computing=length(computed),
        communication=length(sent),
        hidden=length(sent) - exposed,
        exposed=exposed,
        neither=step[1] - step[0] - both,
    )
    return StepSplit(**{name: nanoseconds / 1e6 for name, nanoseconds in parts.items()})


def split_events(events: Sequence[Any], *, cuda: bool) -> StepSplit:
    """The parts of the step that the profiler's raw events have a range `STEP` around.

    On CUDA kernels and copies on the device, of which NCCL's kernels are communication. On the CPU the operators of the
    step's own thread, without those that wait for a collective, and gloo's record of each collective, which begins when
    a thread of its own takes it up.
    """
    (step,) = (event for event in events if event.name() == STEP and event.device_type() == DeviceType.CPU)
    if cuda:
        work = [e for e in events if e.device_type() == DeviceType.CUDA and not e.is_user_annotation()]
        sending = [_span(e) for e in work if NCCL_KERNEL.match(e.name())]
        return split(_span(step), [_span(e) for e in work if not NCCL_KERNEL.match(e.name())], sending)
    own = [e for e in events if e.start_thread_id() == step.start_thread_id()]
    computing = without(
        [_span(e) for e in own if e.name().startswith(COMPUTING)], [_span(e) for e in own if e.name() in WAITING]
    )
    return split(_span(step), computing, [_span(e) for e in events if e.name().startswith(SENDING)])


def mean_split(splits: Sequence[StepSplit]) -> StepSplit:
    """The mean of several steps."""
    return StepSplit(**{f.name: sum(getattr(s, f.name) for s in splits) / len(splits) for f in fields(StepSplit)})


def _span(event: Any) -> Span:
    return event.start_ns(), event.end_ns()
