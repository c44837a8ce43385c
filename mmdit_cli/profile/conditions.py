"""Under which conditions a profile was measured: what else the machine did, and whether its speed held."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mmdit_cli.output import units as f
from mmdit_cli.profile.ceilings import LEAST_KEPT

MOST_TAKEN = 0.1  # of the cores' time, by others
MOST_SPREAD = 1.5  # p90 over p10 of a config's rounds
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # of a line of /proc/stat: user, nice, system, irq, softirq, steal; proc(5)


@dataclass(frozen=True)
class Conditions:
    """What else went on. `taken_by_others`: the share of the cores' time that went to other processes, and to other
    machines on the same host; `load_average`: of the minute before; None where the system does not say.

    `quiet`: nothing was found that makes times longer than they are. `notices`: what makes the figures less than they
    seem, one sentence each; none where all is well. `ended_early`: by a key or Ctrl-C, with what was known.
    """

    cores: int
    load_average: float | None
    taken_by_others: float | None
    quiet: bool = True
    notices: list[str] = field(default_factory=list)
    ended_early: bool = False


class CoreWatch:
    """Watches, in each `with` block, what other processes take of the cores that this one may use. Warming up belongs
    outside: processes that compile are no others."""

    def __init__(self) -> None:
        self.cores = _cores()
        self.load_average: float | None = None
        with suppress(OSError, AttributeError):  # Windows has none
            self.load_average = os.getloadavg()[0]
        self.elapsed, self.taken = 0.0, 0.0
        self.begin: tuple[float, float | None, float] | None = None

    def __enter__(self) -> CoreWatch:
        self.begin = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        assert self.begin is not None
        (begin, busy, own), (end, busy_now, own_now) = self.begin, self._now()
        if busy and busy_now:  # 0: a sandbox that does not say
            self.elapsed += end - begin
            self.taken += max(0.0, busy_now - busy - (own_now - own))

    def taken_by_others(self) -> float | None:
        """The share of the cores' time in all blocks; None where the system does not say."""
        return self.taken / (self.elapsed * len(self.cores)) if self.elapsed else None

    def _now(self) -> tuple[float, float | None, float]:
        """The clock, the seconds that the cores were busy, and those that this process and its children took."""
        return time.perf_counter(), _busy_seconds(self.cores), sum(os.times()[:4])


def judge(results: Sequence[Any], watch: CoreWatch, *, on_cpu: bool, by_component: bool = True) -> Conditions:
    """What was found while the results were measured, in sentences that stand above them.

    Args:
        results: profiles, of calls or of sampling runs.
        by_component: they are to say which component takes the time.
        on_cpu: the results are of the processor, whose cores others take.
    """
    taken, load, cores = watch.taken_by_others(), watch.load_average, len(watch.cores)
    found = []
    if on_cpu and taken is not None and taken > MOST_TAKEN:
        average = "" if load is None else f" (load average {f.number(load)} before)"
        found.append(f"Others took {f.percent(taken)} of the {cores} cores' time{average}.")
    elif on_cpu and taken is None and load is not None and load > cores / 2:
        found.append(f"The load average was {f.number(load)} on {cores} cores before measuring.")
    asked = results if by_component and not on_cpu else []
    unknown = [r.config for r in asked if not (r.compiled or r.attributed_by)]
    for result in results:
        spread = result.latency_ms.p90 / result.latency_ms.p10
        if spread > MOST_SPREAD:
            found.append(f"Rounds of {result.config} differed: p90 is {f.number(spread)} times p10.")
    kept = min((result.ceiling.kept for result in results), default=1.0)
    if kept < LEAST_KEPT:
        found.append(f"The machine's ceilings differed by {f.percent(1 - kept)} between the start and the end.")
    for reached, age_s in sorted(
        {(r.ceiling.reached, r.ceiling.age_s) for r in results if r.ceiling.age_s is not None}
    ):
        if reached < LEAST_KEPT:
            ago = f"the ceilings of {f.seconds(age_s)} ago (--fresh measures them again)"
            found.append(f"The machine reached {f.percent(reached)} of {ago}.")
    quiet = not found
    if not quiet:
        found.append(
            "Times may be far too long, so that nothing is said of what bounds them; measure again on a quiet machine."
        )
    if unknown:
        found.append(
            f"Which components take the time of {', '.join(dict.fromkeys(unknown))} is not known: torch's profiler "
            "recorded no kernel. It may lack the permission, or another profiler may be running."
        )
    return Conditions(cores, load, taken, quiet, found)


def _cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return list(range(os.cpu_count() or 1))


def _busy_seconds(cores: Sequence[int]) -> float | None:
    wanted, ticks = {f"cpu{core}" for core in cores}, 0
    try:
        with open("/proc/stat", encoding="ascii") as file:
            for name, *counts in map(str.split, file):
                if name in wanted:
                    ticks += sum(int(counts[index]) for index in BUSY_FIELDS)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux
        return None
