"""How long calls take: warm-up until stable, then rounds of all of them until their medians are known well enough."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from mmdit_cli.profile.statistics import is_known

Timer = Callable[[Callable[[], object]], float]
CPU_CACHE_BYTES = 1 << 28  # more than the caches of any processor hold
FEWEST_ROUNDS = 3


class Stopwatch:
    """Seconds of one call: the host's clock on the CPU, device events on CUDA, where the host runs ahead.

    `cold` drives what the caches hold out of them before each run (on CUDA: the L2 cache), as a call would find them
    whose weights and inputs have not been used for a while.
    """

    def __init__(self, device: torch.device, *, cold: bool = False) -> None:
        self.cuda = device.type == "cuda"
        self.device = device
        self.evictor: torch.Tensor | None = None
        if cold:
            size = 4 * torch.cuda.get_device_properties(device).L2_cache_size if self.cuda else CPU_CACHE_BYTES
            self.evictor = torch.zeros(size // 4, dtype=torch.int32, device=device)

    def evict(self) -> None:
        """Drive out what the caches hold, where runs are to be cold."""
        if self.evictor is not None:
            self.evictor.add_(1)

    def __call__(self, call: Callable[[], object]) -> float:
        self.evict()
        if not self.cuda:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        stream = torch.cuda.current_stream(self.device)
        begin.record(stream)
        call()
        end.record(stream)
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / 1e3


def warm_up(
    call: Callable[[], object],
    stopwatch: Timer,
    *,
    max_seconds: float = 10.0,
    tolerance: float = 0.1,
    min_seconds: float = 0.1,
    on_run: Callable[[int], None] | None = None,
) -> list[float]:
    """Run until two calls in a row differ by less than `tolerance`: 3 times and `min_seconds` at least (clocks rise
    slowly), 20 times or `min_seconds` at most; 2 runs are enough where they take `max_seconds`."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < max_seconds:
        times.append(stopwatch(call))
        if on_run:
            on_run(len(times))
        if len(times) < 3 or sum(times) < min_seconds:
            continue
        if abs(times[-1] - times[-2]) <= tolerance * times[-1] or len(times) >= 20:
            break
    return times


def run_rounds(
    calls: Sequence[Callable[[], object]],
    stopwatch: Timer,
    *,
    repeats: int | None = None,
    max_seconds: float = 10.0,
    tolerance: float = 0.02,
    seed: int = 0,
    beside: Sequence[Callable[[], object]] = (),
    most_beside: int = 20,
    on_round: Callable[[int], None] | None = None,
) -> tuple[list[list[float]], list[list[float]]]:
    """Time every call once a round, in an order drawn anew each round, so that drift and neighbours hit all alike.

    Ends after `repeats` rounds; or, without, once every call's median is known to `tolerance` (6 rounds at least), or
    once the calls have taken `max_seconds` each on average (3 rounds at least).

    Args:
        beside: calls that are timed in the first `most_beside` rounds as well, and have no say in when to end.

    Returns:
        Seconds by call, and by call beside; the n-th of each are of the same round.
    """
    times: list[list[float]] = [[] for _ in calls]
    others: list[list[float]] = [[] for _ in beside]
    order, next_look = random.Random(seed), 0
    with _no_collection():
        while True:
            turns = list(zip(calls, times, strict=True))
            if len(times[0]) < most_beside:
                turns += zip(beside, others, strict=True)
            order.shuffle(turns)
            for call, taken in turns:
                taken.append(stopwatch(call))
            rounds = len(times[0])
            if on_round:
                on_round(rounds)
            if repeats is not None:
                if rounds >= repeats:
                    return times, others
                continue
            out_of_time = sum(map(sum, times)) >= max_seconds * len(calls)
            if rounds >= FEWEST_ROUNDS and out_of_time:
                return times, others
            if rounds >= next_look:  # not after every one of ten thousand
                if all(is_known(taken, tolerance) for taken in times):
                    return times, others
                next_look = rounds + rounds // 20


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector would run in the middle of one call or another."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
