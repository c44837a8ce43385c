"""Statistics of a few runs: mean and spread over seeds, and whether two designs trained on the same seeds differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

CONFIDENCE = 0.95
FEWEST = 3  # pairs below which no interval is given: two leave one degree of freedom, and t is 12.7

Verdict = Literal["better", "worse", "can't be told apart"]


@dataclass(frozen=True)
class Spread:
    """A figure over `n` seeds; `sd` is the sample standard deviation (n - 1), None for one seed."""

    mean: float
    sd: float | None
    min: float
    max: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A design's figure minus the reference's, seed by seed: `n` pairs, their mean and sample standard deviation, the
    95 % interval of the mean (None below 3 pairs), and what follows: where the interval includes 0, or there is none,
    the two can't be told apart."""

    figure: str
    to: str
    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    verdict: Verdict


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of a figure.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("at least one value is needed, got none")
    return Spread(_mean(values), _deviation(values), min(values), max(values), len(values))


def paired_difference(
    figure: str,
    values: Sequence[float],
    reference: Sequence[float],
    *,
    to: str,
    lower_is_better: bool,
    resolution: float = 0.0,
) -> Difference:
    """Compare two designs by what each pair of runs, trained on one seed, differs in.

    mean ± t(0.975, n - 1) · sd / sqrt(n) of the differences: Student's interval for paired samples (for instance Box,
    Hunter and Hunter 2005, section 3.3). What a seed does to both designs, such as an easy data order, cancels in its
    difference. It takes the differences to be about normal.

    Args:
        values, reference: one figure a seed, in the same order of seeds.
        resolution: the smallest step of the figure, such as 1 / samples for a share; the interval reaches at least so
            far to either side, so that differences which happen to be equal do not pass for certainty.

    Raises:
        ValueError: there are no pairs, or the lengths differ.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    if not differences:
        raise ValueError("at least one pair is needed, got none")
    n, mean, sd = len(differences), _mean(differences), _deviation(differences)
    low = high = None
    verdict: Verdict = "can't be told apart"
    if sd is not None and n >= FEWEST:
        reach = max(t_quantile(n - 1) * sd / math.sqrt(n), resolution)
        low, high = mean - reach, mean + reach
        if not low <= 0 <= high:
            verdict = "better" if (mean < 0) == lower_is_better else "worse"
    return Difference(figure, to, n, mean, sd, low, high, verdict)


@cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| <= t) = `confidence` for Student's distribution with `freedom` degrees of freedom.

    Solved by bisection from the finite sums for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and
    26.7.4).

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"at least one degree of freedom is needed, got {freedom}")
    low, high = 0.0, math.pi / 2  # of theta = arctan(t / sqrt(freedom))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(theta: float, freedom: int) -> float:
    """P(|T| <= t) where theta = arctan(t / sqrt(freedom))."""
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(freedom // 2):
        total += term
        step = (2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2)
        term *= step * math.cos(theta) ** 2
    total *= math.sin(theta)
    return (theta + total) * 2 / math.pi if odd else total


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))
