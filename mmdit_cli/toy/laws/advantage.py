"""Whether what a design gains over another grows, stays or vanishes with size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmdit_cli.toy.laws.noise import noise_of
from mmdit_cli.toy.laws.power_law import REPLICATES, Figure, FittedLaw, Known, Variable, interval
from mmdit_cli.toy.laws.powers import Array

Trend = Literal["grows", "stays", "shrinks", "vanishes", "turns round", "can't be told"]
NEAR = 2.0  # how many times as large a size may be as the one that it is held against
FEWEST = 3  # sizes for a line and what lies off it
ALIKE = 0.5  # of the gain: a change that is surely less is none


@dataclass(frozen=True)
class Advantage:
    """What a design gains over another, `to`, at the `smallest` and the `largest` size that have a like in the other: a
    share of the other's loss, or of samples; below 0 it is worse. `change`: the gain at the largest less that at the
    smallest. `trend`: what follows of the intervals that leave out 0. Where that of the change does, the gain grows if
    the largest's does, shrinks if both ends' do, turns round if they do on either side, and vanishes if the smallest's
    alone does; it stays where the change is surely less than half of a gain that is sure at both ends.

    Each run is held against that of the nearest size of the other on the same seed, moved along the other's law where
    the sizes differ, and a straight line is laid through the gains over the logarithm of the size. So what a seed does
    to both, and at a size to both, cancels.
    """

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
    """None where fewer than three sizes have a like in the other design, or no seed is shared."""
    of, to = law.measured, other.measured
    seeds = [seed for seed in of.seeds if seed in to.seeds]
    nearest = np.abs(np.log(of.x)[:, None] - np.log(to.x)).argmin(axis=1)
    kept = np.abs(np.log(of.x / to.x[nearest])) <= np.log(NEAR)
    if len({*of.x[kept]}) < FEWEST or not seeds:
        return None
    own, theirs = (each.table[:, [each.seeds.index(seed) for seed in seeds]] for each in (of, to))
    at, before = (other.fit.at(x) for x in (of.x, to.x[nearest]))
    moved = theirs[nearest] * at / before if law.relative else theirs[nearest] + at - before
    gains = (moved - own) / (moved if law.relative else 1.0)
    x, gains = np.log(of.x[kept]), gains[kept]
    line = np.polyfit(x, gains.mean(axis=1), 1)
    fitted = np.polyval(line, x)
    drawn = noise_of(gains, fitted, of.groups[kept], free=2).draw(of.groups[kept], REPLICATES, np.random.default_rng(0))
    again = np.polyfit(x, fitted[:, None] + drawn, 1)
    small, large, change = (
        _known(line, again, weights) for weights in ((x.min(), 1), (x.max(), 1), (x.max() - x.min(), 0))
    )
    return Advantage(
        design=of.design,
        to=to.design,
        figure=of.figure,
        variable=of.variable,
        steps=of.steps,
        smallest=float(of.x[kept].min()),
        largest=float(of.x[kept].max()),
        at_smallest=small,
        at_largest=large,
        change=change,
        trend=_trend(small, large, change),
    )


def _known(line: Array, again: Array, weights: tuple[float, float]) -> Known:
    """A sum of slope and height, with these weights."""
    low, high = interval(np.asarray(weights) @ again)
    return Known(float(np.asarray(weights) @ line), float(low), float(high))


def _trend(small: Known, large: Known, change: Known) -> Trend:
    at_first, at_last = (not each.low <= 0 <= each.high for each in (small, large))  # a gain, or a loss, that is sure
    if change.low <= 0 <= change.high:
        gain = abs(small.value + large.value) / 2
        stays = at_first and at_last and max(-change.low, change.high) < ALIKE * gain
        return "stays" if stays else "can't be told"
    if not at_last:
        return "vanishes" if at_first and change.value * small.value < 0 else "can't be told"
    if not at_first:
        return "grows" if change.value * large.value > 0 else "can't be told"
    if small.value * large.value < 0:
        return "turns round"
    return "grows" if abs(large.value) > abs(small.value) else "shrinks"
