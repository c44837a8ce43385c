from __future__ import annotations

import random
from math import comb, log

import numpy as np
import pytest

from mmdit_cli.model_parts.intervals import median_interval, order_interval
from mmdit_cli.profile.statistics import compare, summarize


def test_quantiles_are_order_statistics():
    latency = summarize([t / 1e3 for t in range(1, 102)])
    assert (latency.median, latency.p10, latency.p90, latency.runs) == pytest.approx((51, 11, 91, 101))
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


@pytest.mark.parametrize("count", [1, 5, 6, 7, 10, 25, 101, 400])
def test_the_order_interval_is_the_narrowest_that_coins_allow(count):
    """It leaves out the median when fewer than k of n values fall to one side: exact, in whole numbers."""
    interval = order_interval(list(range(1, count + 1)))
    below = [sum(comb(count, heads) for heads in range(k)) for k in range(count + 1)]
    allowed = [k for k in range(1, count + 1) if 40 * below[k] <= 2**count]
    if not allowed:
        assert interval is None and count < 6
        assert summarize([1.0] * count).ci_low is None
    else:
        assert interval == (max(allowed), count + 1 - max(allowed))


def test_the_order_interval_holds_a_heavy_tailed_median_at_least_19_times_in_20():
    rng = random.Random(0)
    held = 0
    for _ in range(1000):
        low, high = order_interval([rng.paretovariate(1.1) for _ in range(25)])
        held += low <= 2 ** (1 / 1.1) <= high
    assert held >= 950


@pytest.mark.parametrize("count", [6, 8, 15])
@pytest.mark.parametrize(("draw", "median"), [("standard_normal", 0), ("standard_exponential", log(2))])
def test_the_medians_interval_holds_it_19_times_in_20_and_is_narrower(draw, median, count):
    samples = getattr(np.random.default_rng(count), draw)((4000, count)).tolist()
    inner = np.array([median_interval(values) for values in samples])
    outer = np.array([order_interval(values) for values in samples])
    assert (outer[:, 0] < inner[:, 0]).all() and (inner[:, 1] < outer[:, 1]).all()
    held = np.mean((inner[:, 0] <= median) & (median <= inner[:, 1]))
    assert abs(held - 0.95) < 0.005 + 3 * (0.95 * 0.05 / 4000) ** 0.5
    assert median_interval([3.0] * count) == pytest.approx((3.0, 3.0))
    assert median_interval([1.0] * 5) is None


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    reference = [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 8.0]
    ratio = compare(
        [t * f for t, f in zip(reference, (1.1, 1.2, 1.3, 1.2, 1.2, 1.2, 1.1, 9.0), strict=True)], reference, to="a"
    )
    assert ratio.ratio == pytest.approx(1.2) and (ratio.to, ratio.rounds) == ("a", 8)
    assert (ratio.low, ratio.high) == pytest.approx((1.1, 9.0)) and ratio.distinguishable


def test_five_rounds_tell_nothing_apart():
    ratio = compare([2.0] * 5, [1.0] * 5, to="a")
    assert (ratio.low, ratio.high, ratio.distinguishable) == (None, None, False)
    assert compare([2.0] * 6, [1.0] * 6, to="a").distinguishable
