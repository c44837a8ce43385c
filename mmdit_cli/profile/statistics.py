"""Medians of measured times, how well they are known, and whether two things measured together can be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from mmdit_cli.model_parts.intervals import median_interval, order_interval


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median, 10th and 90th percentile, number of runs, and the median's 95 % interval (None
    below 6 runs, which can't give one)."""

    median: float
    p10: float
    p90: float
    runs: int
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Ratio:
    """A config's time over that of another, measured in the same rounds: the median of the rounds' ratios and its 95 %
    interval (None below 6 rounds). Where the interval includes 1, the two can't be told apart."""

    to: str
    ratio: float
    low: float | None
    high: float | None
    rounds: int
    distinguishable: bool


def summarize(seconds: Sequence[float]) -> Latency:
    """The statistics of measured times.

    Raises:
        ValueError: there are none.
    """
    if not seconds:
        raise ValueError("at least one measured time is needed, got none")
    times = [t * 1e3 for t in seconds]
    p10, middle, p90 = np.quantile(times, (0.1, 0.5, 0.9)).tolist()
    low, high = median_interval(times) or (None, None)
    return Latency(middle, p10, p90, len(times), low, high)


def compare(seconds: Sequence[float], reference: Sequence[float], *, to: str) -> Ratio:
    """The ratio of times that were measured in rounds, one of each in a round and in random order.

    What a round has in common, such as a slow spell of the machine, cancels in its ratio. Were both the same thing, a
    round's random order would make either sign of its log ratio equally likely whatever the noise, so that the interval
    of order statistics leaves out 1 at most once in twenty times.
    """
    logs = [math.log(a / b) for a, b in zip(seconds, reference, strict=True)]
    interval = order_interval(logs)
    low, high = (None, None) if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return Ratio(
        to=to,
        ratio=math.exp(median(logs)),
        low=low,
        high=high,
        rounds=len(logs),
        distinguishable=interval is not None and not interval[0] <= 0 <= interval[1],
    )


def is_known(seconds: Sequence[float], tolerance: float) -> bool:
    """Whether the median's 95 % interval is within `tolerance` of it to either side, on average."""
    interval = median_interval(seconds)
    return interval is not None and (interval[1] - interval[0]) / 2 <= tolerance * median(seconds)
