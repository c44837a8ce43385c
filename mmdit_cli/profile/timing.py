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
SETTLING = 0.1  # seconds; a shorter call is made once more, untimed, after what drove the caches out


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
    times: Sequence[float] = (),
    max_seconds: float = 10.0,
    tolerance: float = 0.1,
    min_seconds: float = 0.1,
    on_run: Callable[[int], None] | None = None,
) -> list[float]:
    """Run until a call is faster than the one before by less than `tolerance`: 3 times and `min_seconds` at least
    (clocks rise slowly), 20 times or `min_seconds` at most; 2 runs are enough where the second takes `max_seconds`, as
    more are together, the first apart. `times`: of the runs before."""
    times = list(times)
    while len(times) < 2 or sum(times[1:]) < max_seconds:
        times.append(stopwatch(call))
        if on_run:
            on_run(len(times))
        if len(times) < 3 or sum(times) < min_seconds:
            continue
        if times[-1] >= (1 - tolerance) * times[-2] or len(times) >= 20:
            break
    return times


class Rounds:
    """Times every call once a round, in an order drawn anew each round, so that drift and neighbours hit all alike.

    `times` are seconds by call, and `others` those of what is timed beside them; the n-th of each are of the same
    round. They hold what was measured whenever a round is broken off.

    Args:
        beside: calls that are timed as well, until the others' times alone are wanted (`beside_known`).
    """

    def __init__(
        self,
        calls: Sequence[Callable[[], object]],
        stopwatch: Timer,
        *,
        beside: Sequence[Callable[[], object]] = (),
        seed: int = 0,
    ) -> None:
        self.calls, self.beside, self.stopwatch = calls, beside, stopwatch
        self.order = random.Random(seed)
        self.times: list[list[float]] = [[] for _ in calls]
        self.others: list[list[float]] = [[] for _ in beside]

    def run(
        self,
        *,
        repeats: int | None = None,
        max_seconds: float = 10.0,
        known: Callable[[], bool],
        beside_known: Callable[[], bool] = lambda: False,
        pause: Callable[[int], bool] = lambda rounds: False,
    ) -> None:
        """Go on until `repeats` rounds are measured; or, without, until what is wanted is `known`, or one more round
        would take the calls beyond `max_seconds` each on average (3 rounds at least).

        Args:
            known: asked after each round at first, and then after every twentieth part of them.
            beside_known: asked before each round: what is timed beside is no longer needed.
            pause: told the number of rounds after each of them, with no call under way; whether it did something
                that drives out what calls leave in the caches.
        """
        next_look, disturbed, spent = 0, False, 0.0
        with _no_collection():
            while True:
                turns = list(zip(self.calls, self.times, strict=True))
                if self.beside and not beside_known():
                    turns += zip(self.beside, self.others, strict=True)
                self.order.shuffle(turns)
                if disturbed and self.times[0][-1] < SETTLING:
                    self.calls[0]()  # none beside, which may keep count of its runs
                for call, taken in turns:
                    taken.append(self.stopwatch(call))
                rounds = len(self.times[0])
                disturbed = pause(rounds)
                if repeats is not None:
                    if rounds >= repeats:
                        return
                    continue
                before, spent = spent, sum(map(sum, (*self.times, *self.others)))
                more = min(spent - before, spent / rounds)
                if rounds >= FEWEST_ROUNDS and spent + more > max_seconds * len(self.calls):
                    return
                if rounds >= next_look:  # not after every one of ten thousand
                    if known():
                        return
                    next_look = rounds + rounds // 20


def run_rounds(
    calls: Sequence[Callable[[], object]],
    stopwatch: Timer,
    *,
    repeats: int | None = None,
    max_seconds: float = 10.0,
    tolerance: float = 0.02,
    seed: int = 0,
) -> list[list[float]]:
    """Seconds by call, of `Rounds` that end once every call's median is known to `tolerance` (6 rounds at least)."""
    rounds = Rounds(calls, stopwatch, seed=seed)
    known = lambda: all(is_known(taken, tolerance) for taken in rounds.times)  # noqa: E731
    rounds.run(repeats=repeats, max_seconds=max_seconds, known=known)
    return rounds.times


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
