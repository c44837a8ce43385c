"""Whether what a design gains over another grows, stays or vanishes with size, by their laws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mmdit_cli.toy.laws.noise import shared_shifts
from mmdit_cli.toy.laws.power_law import Figure, FittedLaw, Known, Variable, interval, without_common
from mmdit_cli.toy.laws.powers import Array, Powers

Trend = Literal["grows", "stays", "shrinks", "vanishes", "turns round", "can't be told"]
APART = 1.5  # how far the smallest and the largest size that both designs reach must be apart
ALIKE = 0.5  # of the gain: a change that is surely less is none


@dataclass(frozen=True)
class Advantage:
    """What a design's law gains over that of another, `to`, at the `smallest` and the `largest` size that both reach: a
    share of the other's loss, or of samples; below 0 it is worse. `change`: the gain at the largest less that at the
    smallest. `trend`: what follows; it grows, shrinks, vanishes or turns round where the interval of the change leaves
    out 0, and stays where the change is surely less than half of the gain."""

    design: str
    to: str
    figure: Figure
    variable: Variable
    steps: int | None
    smallest: float
    largest: float
    at_smallest: Known
    at_largest: Known
    change: Known
    trend: Trend


def advantage(law: FittedLaw, other: FittedLaw) -> Advantage | None:
    """None where the sizes of the designs do not overlap."""
    smallest = max(each.measured.x.min() for each in (law, other))
    largest = min(each.measured.x.max() for each in (law, other))
    if largest < APART * smallest:
        return None
    ends = np.array([smallest, largest])

    def gains(mine: Powers, theirs: Powers) -> Array:
        own, reference = mine.at(ends), theirs.at(ends)
        return 1 - own / reference if law.relative else reference - own

    noise, (shift, dof) = without_common(law.noise), _shift_between(law, other)
    apart = replace(noise, common=shift, common_dof=dof)
    again = gains(law.replicates(seed=1, noise=apart), other.replicates(seed=2, noise=without_common(other.noise)))
    value = gains(law.fit, other.fit)[:, 0]
    small, large, change = (
        Known(float(best), *map(float, interval(drawn)))
        for best, drawn in zip([*value, value[1] - value[0]], [*again, again[1] - again[0]], strict=True)
    )
    of = law.measured
    return Advantage(
        design=of.design,
        to=other.measured.design,
        figure=of.figure,
        variable=of.variable,
        steps=of.steps,
        smallest=float(smallest),
        largest=float(largest),
        at_smallest=small,
        at_largest=large,
        change=change,
        trend=_trend(small, large, change),
    )


def _trend(small: Known, large: Known, change: Known) -> Trend:
    if change.low <= 0 <= change.high:
        gain = abs(small.value + large.value) / 2
        sure = all(not each.low <= 0 <= each.high for each in (small, large))
        return "stays" if sure and max(-change.low, change.high) < ALIKE * gain else "can't be told"
    if abs(large.value) > abs(small.value):
        return "turns round" if small.value * large.value < 0 and not small.low <= 0 <= small.high else "grows"
    if large.low <= 0 <= large.high:
        return "vanishes"
    return "turns round" if small.value * large.value < 0 else "shrinks"


def _shift_between(law: FittedLaw, other: FittedLaw) -> tuple[float, int]:
    """How far the mean over seeds of what a seed shifts in one design differs from that in the other, and its degrees
    of freedom: seeds are paired, so that what they shift in both cancels."""
    tables = [(each.scaled, each.measured) for each in (law, other)]
    seeds = [seed for seed in law.measured.seeds if seed in other.measured.seeds]
    if len(seeds) < 2:
        return 0.0, 1
    mine, theirs = (
        shared_shifts(table[:, [of.seeds.index(seed) for seed in seeds]], of.groups).mean(axis=0)
        for table, of in tables
    )
    return float((mine - theirs).std(ddof=1) / np.sqrt(len(seeds))), len(seeds) - 1
