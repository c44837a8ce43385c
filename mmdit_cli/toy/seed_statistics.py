"""Statistics of a few runs: mean and spread over seeds, and whether two designs trained on the same seeds differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmdit_cli.model_parts.intervals import CONFIDENCE, mean_interval

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
    95 % interval of the mean (of seeds that are added until it is decided: one that holds at every look), and what
    follows: where it includes 0, the two can't be told apart. Fewer than 3 pairs
    give no interval, and so no verdict: both are None."""

    figure: str
    to: str
    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    verdict: Verdict | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of a figure.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("at least one value is needed, got none")
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, min(values), max(values), len(values))


def paired_difference(
    figure: str,
    values: Sequence[float],
    reference: Sequence[float],
    *,
    to: str,
    lower_is_better: bool,
    resolution: float = 0.0,
    level: float = 1 - CONFIDENCE,
) -> Difference:
    """Compare two designs by what each pair of runs, trained on one seed, differs in.

    Student's interval of the differences' mean (for instance Box, Hunter and Hunter 2005, section 3.3). What a seed
    does to both designs, such as an easy data order, cancels in its difference.

    Args:
        values, reference: one figure a seed, in the same order of seeds.
        resolution, level: the smallest step of the figure, such as 1 / samples for a share, and how often the interval
            may leave out the truth; see `mean_interval`.

    Raises:
        ValueError: there are no pairs, or the lengths differ.
    """
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    each, interval = spread(differences), mean_interval(differences, resolution, level)
    if interval is None:
        return Difference(figure, to, each.n, each.mean, each.sd, None, None, None)
    verdict: Verdict = "can't be told apart"
    if not interval[0] <= 0 <= interval[1]:
        verdict = "better" if (each.mean < 0) == lower_is_better else "worse"
    return Difference(figure, to, each.n, each.mean, each.sd, *interval, verdict)
