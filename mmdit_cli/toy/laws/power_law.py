"""A saturating power law, `L(x) = E + A x^-a` (Henighan et al. 2020, arXiv 2010.14701), of a design's sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mmdit_cli.model_parts.intervals import CONFIDENCE
from mmdit_cli.toy.laws.noise import Noise, noise_of
from mmdit_cli.toy.laws.powers import GREATEST, LEAST, Array, Powers, fit_powers

Figure = Literal["loss", "1 - accuracy"]
Variable = Literal["parameters", "training FLOPs"]
FEWEST_SIZES = 4  # three numbers are fitted
VAGUE = 10.0  # how many times as large as the lower end of its interval the upper one of an exponent is, at most
REPLICATES, CURVE, BEYOND = 1000, 33, 2.0  # of the bootstrap; points of a curve, and how far beyond the sizes it goes


@dataclass(frozen=True)
class Known:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LawPoint:
    """A size: its figure, the mean over seeds, and what the law says there."""

    config: str
    x: float
    mean: float
    fitted: float


@dataclass(frozen=True)
class CurvePoint:
    """The law at a place, with the 95 % interval of what it says there."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """`figure` is about `floor + coefficient * variable ** -exponent` over the sizes of a design.

    `steps`: how long all were trained; None: of several lengths, those that are cheapest for their figure. `deviation`:
    the root mean square of the points from the law, relative for a loss. `lack_of_fit`: how often points would lie as
    far off by the noise of the runs alone, so that a small one says that no such law holds; None of one seed. `curve`
    goes to twice the largest size. `determined`: whether the exponent is known within what was tried; else `why` not.
    """

    design: str
    figure: Figure
    variable: Variable
    steps: int | None
    seeds: list[int]
    points: list[LawPoint]
    floor: Known
    coefficient: float
    exponent: Known
    r_squared: float
    deviation: float
    lack_of_fit: float | None
    curve: list[CurvePoint]
    determined: bool
    why: str


@dataclass(frozen=True)
class Measured:
    """What a law is fitted to: of n points, by size, their places `x` n and figures `table` n s, by `seeds`; those of
    one of `groups` n share what a seed does (they were trained equally long)."""

    design: str
    figure: Figure
    variable: Variable
    steps: int | None
    configs: list[str]
    seeds: list[int]
    x: Array
    table: Array
    groups: Array


class FittedLaw:
    """The fit and its bootstrap. A loss is fitted by relative deviations, for its noise is a share of it."""

    def __init__(self, measured: Measured) -> None:
        self.measured, self.means = measured, measured.table.mean(axis=1)
        self.weights = 1 / self.means if self.relative else np.ones_like(self.means)
        self.fit = fit_powers(measured.x[None], self.means[:, None], self.weights, zoomed=True)
        self.fitted: Array = self.fit.at(measured.x)[:, 0]

    @property
    def relative(self) -> bool:
        return self.measured.figure == "loss"

    @cached_property
    def noise(self) -> Noise:
        """In the unit of the weighted figures."""
        table = self.measured.table * self.weights[:, None]
        return noise_of(table, self.fitted * self.weights, self.measured.groups, free=3)

    def replicates(self) -> Powers:
        """The fits of what other seeds and points would have given."""
        drawn = self.noise.draw(self.measured.groups, REPLICATES, np.random.default_rng(0))
        y = self.fitted[:, None] + drawn / self.weights[:, None]
        return fit_powers(self.measured.x[None], y, self.weights)

    def result(self) -> PowerLaw:
        """All of it as figures."""
        of, again = self.measured, self.replicates()
        places = np.geomspace(of.x.min(), BEYOND * of.x.max(), CURVE)
        low, high = interval(again.at(places))
        curve = map(CurvePoint, *(x.tolist() for x in (places, self.fit.at(places)[:, 0], low, high)))
        exponent, floor = known(self.fit.exponents[0], again.exponents[0]), known(self.fit.floor, again.floor)
        off = (self.means - self.fitted) * self.weights
        spread = ((self.means - self.means.mean()) ** 2).sum()
        why = self._undetermined(exponent)
        return PowerLaw(
            design=of.design,
            figure=of.figure,
            variable=of.variable,
            steps=of.steps,
            seeds=of.seeds,
            points=[*map(LawPoint, of.configs, of.x.tolist(), self.means.tolist(), self.fitted.tolist())],
            floor=floor,
            coefficient=float(self.fit.coefficients[0, 0] * self.fit.scales[0] ** exponent.value),
            exponent=exponent,
            r_squared=float(1 - ((self.means - self.fitted) ** 2).sum() / spread) if spread else 0.0,
            deviation=float(np.sqrt((off**2).mean())),
            lack_of_fit=self.noise.lack_of_fit,
            curve=[*curve],
            determined=not why,
            why=why,
        )

    def _undetermined(self, exponent: Known) -> str:
        """Why the exponent is not known; empty where it is."""
        if not self.fit.coefficients[0, 0]:
            return f"the {self.measured.figure} does not fall with {self.measured.variable}"
        ends = exponent.low <= 1.05 * LEAST or exponent.high >= GREATEST / 1.05
        if ends or exponent.high > VAGUE * exponent.low:
            wide = f"{exponent.low:.2g} to {exponent.high:.2g}"
            return f"the exponent could be anything from {wide}: more seeds, or sizes that lie further apart, tell"
        return ""


def known(value: Array, replicates: Array) -> Known:
    """A fitted number (the first of an array) with the percentiles of its bootstrap, which the value itself is never
    outside of."""
    low, high = interval(replicates)
    best = float(value[0])
    return Known(best, min(float(low), best), max(float(high), best))


def interval(replicates: Array) -> tuple[Array, Array]:
    """The percentiles between which 95 % lie, along the last axis."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=-1)
    return low, high
