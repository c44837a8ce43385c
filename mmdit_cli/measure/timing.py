"""How long a call takes: warm-up until stable, then repeats until the median is known well enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median, 10th and 90th percentile, number of runs, 95 % interval of the median."""

    median: float
    p10: float
    p90: float
    runs: int
    ci_low: float
    ci_high: float


def summarize(seconds: Sequence[float]) -> Latency:
    """The statistics of measured times. The interval is that of order statistics, free of any distribution:
    ranks n / 2 -+ 0.98 sqrt(n) (Conover 1999, section 3.2)."""
    if not seconds:
        raise ValueError("at least one measured time is needed, got none")
    ordered = sorted(t * 1e3 for t in seconds)
    n = len(ordered)
    spread = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - spread)), min(n - 1, math.ceil(n / 2 + spread))
    return Latency(
        median=_quantile(ordered, 0.5),
        p10=_quantile(ordered, 0.1),
        p90=_quantile(ordered, 0.9),
        runs=n,
        ci_low=ordered[low],
        ci_high=ordered[high],
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class Stopwatch:
    """Seconds of one call: the host's clock on the CPU, device events on CUDA, where the host runs ahead."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.device = device

    def __call__(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / 1e3


def warm_up(
    call: Callable[[], object],
    stopwatch: Callable[[Callable[[], object]], float],
    *,
    max_seconds: float = 10.0,
    tolerance: float = 0.1,
    on_run: Callable[[int], None] | None = None,
) -> list[float]:
    """Run until two calls in a row differ by less than `tolerance`, 2 to 20 times and up to `max_seconds`."""
    times: list[float] = []
    while len(times) < 20 and (len(times) < 2 or sum(times) < max_seconds):
        times.append(stopwatch(call))
        if on_run:
            on_run(len(times))
        if len(times) >= 3 and abs(times[-1] - times[-2]) <= tolerance * times[-1]:
            break
    return times


def repeat(
    call: Callable[[], object],
    stopwatch: Callable[[Callable[[], object]], float],
    *,
    repeats: int | None = None,
    max_seconds: float = 10.0,
    tolerance: float = 0.02,
    on_run: Callable[[int], None] | None = None,
) -> Latency:
    """Measure `repeats` times; or, without, until the median's 95 % interval is within `tolerance` of it (5 runs at
    least) or `max_seconds` have been measured (3 runs at least)."""
    times: list[float] = []
    while True:
        times.append(stopwatch(call))
        if on_run:
            on_run(len(times))
        if repeats is not None:
            if len(times) >= repeats:
                return summarize(times)
            continue
        latency = summarize(times)
        known = (latency.ci_high - latency.ci_low) / 2 <= tolerance * latency.median
        if (len(times) >= 5 and known) or (len(times) >= 3 and sum(times) >= max_seconds):
            return latency
