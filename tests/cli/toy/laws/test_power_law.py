"""Laws with their intervals: what repeated experiments with a known law find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmdit_cli.toy.laws import power_law
from mmdit_cli.toy.laws.advantage import _trend, advantage
from mmdit_cli.toy.laws.power_law import FittedLaw, Known, Measured, PowerLaw

SIZES = np.array([2.4e5, 5.7e5, 1.1e6, 1.9e6, 4.6e6])
TRUTH = 0.03 + 20 * SIZES**-0.5
NEXT = 0.03 + 20 * (2 * SIZES[-1]) ** -0.5


def measured(
    truth: Any, generator: np.random.Generator, *, seeds: int = 3, own: float = 0.006, shared: Any = 0.02, **more: Any
) -> Measured:
    """Losses about a truth: what a seed shifts in all sizes alike, and what each run differs by itself."""
    shift = shared * generator.standard_normal(seeds) if isinstance(shared, float) else shared
    table = np.asarray(truth)[:, None] * (1 + shift + own * generator.standard_normal((len(truth), seeds)))
    given: dict[str, Any] = {"design": "d", "figure": "loss", "variable": "parameters", "steps": 9} | more
    return Measured(**given, configs=[*"abcde"], seeds=[*range(seeds)], x=SIZES, table=table, groups=np.zeros(5))


def coverage(experiments: int, **noise: Any) -> dict[str, float]:
    """How often the exponent, the floor and the loss at twice the largest size are within their intervals."""
    generator, inside = np.random.default_rng(7), {"exponent": 0, "floor": 0, "next": 0}
    for _ in range(experiments):
        law = FittedLaw(measured(TRUTH, generator, **noise)).result()
        end = law.curve[-1]
        inside["exponent"] += law.exponent.low <= 0.5 <= law.exponent.high
        inside["floor"] += law.floor.low <= 0.03 <= law.floor.high
        inside["next"] += end.low <= NEXT <= end.high
    return {name: count / experiments for name, count in inside.items()}


def test_a_known_law_is_within_its_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_law, "REPLICATES", 200)
    assert min(coverage(40).values()) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 8])
@pytest.mark.parametrize("own", [0.003, 0.01])
def test_intervals_hold_the_truth_in_about_95_of_100_experiments(
    seeds: int, own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_law, "REPLICATES", 300)
    found = coverage(200, seeds=seeds, own=own, shared=0.0 if seeds == 1 else 0.02)
    assert min(found.values()) >= 0.9, found


@pytest.mark.slow
def test_a_point_that_lies_off_the_law_is_noise_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each experiment the sizes lie off by as much as the runs' noise."""
    monkeypatch.setattr(power_law, "REPLICATES", 300)
    generator, inside = np.random.default_rng(3), 0
    for _ in range(200):
        off = 1 + 0.01 * generator.standard_normal(5)
        law = FittedLaw(measured(TRUTH * off, generator, own=0.005)).result()
        inside += law.exponent.low <= 0.5 <= law.exponent.high
    assert inside >= 0.88 * 200


def test_a_law_says_what_it_was_fitted_to_and_how_well() -> None:
    law = FittedLaw(measured(TRUTH, np.random.default_rng(0))).result()
    assert [point.x for point in law.points] == SIZES.tolist() and law.seeds == [0, 1, 2] and law.determined
    assert law.r_squared > 0.99 and law.deviation < 0.01 and law.lack_of_fit is not None and law.lack_of_fit > 0.05
    at = law.floor.value + law.coefficient * SIZES[2] ** -law.exponent.value
    assert at == pytest.approx(law.points[2].fitted, rel=1e-6)
    assert law.curve[0].x == pytest.approx(SIZES[0]) and law.curve[-1].x == pytest.approx(2 * SIZES[-1])


def test_sizes_that_follow_no_such_law_are_told_by_the_noise_of_their_runs() -> None:
    bent = TRUTH * [1, 1.2, 1, 1.2, 1]
    law = FittedLaw(measured(bent, np.random.default_rng(0), own=0.003)).result()
    assert law.lack_of_fit is not None and law.lack_of_fit < 0.01


def test_what_is_not_determined_is_said() -> None:
    generator = np.random.default_rng(0)
    rising = FittedLaw(measured(TRUTH[::-1], generator)).result()
    assert not rising.determined and rising.why == "the loss does not fall with parameters"
    noise = FittedLaw(measured([0.11, 0.1, 0.1, 0.1, 0.1], generator, own=0.05)).result()
    assert not noise.determined and "more seeds, or sizes that lie further apart" in noise.why


def test_one_seed_gives_intervals_by_the_points_alone() -> None:
    law = FittedLaw(measured(TRUTH, np.random.default_rng(0), seeds=1)).result()
    assert law.lack_of_fit is None and law.exponent.low < law.exponent.value < law.exponent.high


# ---------------------------------------------------------------------------------------------------------- advantages


def trend(ratio: Any, *, own: float = 0.002, wider: float = 1.0) -> Any:
    """Of a design whose losses are those of another times a ratio by size, and what is its own in each run; `wider`: as
    many times the parameters, for which it gains what the law says."""
    generator = np.random.default_rng(5)
    first = measured(TRUTH, generator, seeds=4, own=0.02)
    moved = (0.03 + 20 * (wider * SIZES) ** -0.5) / TRUTH
    table = first.table * (ratio * moved)[:, None] * (1 + own * generator.standard_normal((5, 4)))
    second = replace(first, design="new", table=table, x=wider * SIZES)
    found = advantage(FittedLaw(second), FittedLaw(first))
    assert found is not None and (found.design, found.to) == ("new", "d")
    return found


SPAN = (np.log(SIZES) - np.log(SIZES[0])) / np.log(SIZES[-1] / SIZES[0])


@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [
        (np.full(5, 0.9), "stays"),
        (1 - 0.02 - 0.2 * SPAN, "grows"),
        (1 - 0.2 * (1 - SPAN), "vanishes"),
        (1 - 0.2 + 0.13 * SPAN, "shrinks"),
        (1 - 0.15 + 0.27 * SPAN, "turns round"),
        (np.full(5, 1.0), "can't be told"),
    ],
)
def test_whether_an_advantage_lasts(ratio: Any, wanted: str) -> None:
    found = trend(ratio)
    assert found.trend == wanted, found
    assert found.change.low <= (1 - ratio[-1]) - (1 - ratio[0]) <= found.change.high
    assert found.at_smallest.value == pytest.approx(1 - ratio[0], abs=0.005)


@pytest.mark.parametrize(
    ("small", "large", "change", "wanted"),
    [
        ((0.010, 0.004, 0.016), (-0.012, -0.030, 0.006), (-0.022, -0.04, -0.004), "vanishes"),  # on no side for sure
        ((0.010, -0.005, 0.025), (-0.005, -0.02, 0.01), (-0.015, -0.02, -0.01), "can't be told"),  # of none to vanish
        ((0.010, 0.004, 0.016), (-0.012, -0.018, -0.006), (-0.022, -0.04, -0.004), "turns round"),
        ((-0.010, -0.030, 0.010), (0.02, 0.01, 0.03), (0.03, 0.01, 0.05), "grows"),
        ((0.010, 0.001, 0.019), (0.03, -0.001, 0.061), (0.02, 0.001, 0.039), "can't be told"),
        ((0.030, -0.001, 0.061), (0.01, 0.005, 0.015), (-0.02, -0.03, -0.01), "can't be told"),
    ],
)
def test_a_trend_is_named_for_what_is_known_at_its_ends(small: Any, large: Any, change: Any, wanted: str) -> None:
    assert _trend(Known(*small), Known(*large), Known(*change)) == wanted


def test_what_seeds_and_sizes_do_to_both_designs_says_nothing_of_their_difference() -> None:
    found = trend(np.full(5, 0.9))  # runs scatter by 2 %, and pairs by a tenth of that
    assert found.change.high - found.change.low < 0.02


def test_what_is_gained_by_being_larger_is_no_advantage() -> None:
    found = trend(np.full(5, 1.0), wider=1.8)
    assert max(abs(found.at_smallest.value), abs(found.at_largest.value)) < 0.02


@pytest.mark.slow
def test_the_interval_of_a_change_holds_the_truth() -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(200):
        first = measured(TRUTH, generator, own=0.01)
        ratio = (1 - 0.1 * SPAN)[:, None] * (1 + 0.005 * generator.standard_normal((5, 3)))
        found = advantage(FittedLaw(replace(first, table=first.table * ratio)), FittedLaw(first))
        assert found is not None
        inside += found.change.low <= 0.1 <= found.change.high
    assert inside >= 0.9 * 200


def test_designs_without_a_size_in_common_are_not_held_against_each_other() -> None:
    generator = np.random.default_rng(0)
    small = FittedLaw(measured(TRUTH, generator))
    of = measured(TRUTH, generator)
    large = FittedLaw(replace(of, x=100 * SIZES))
    assert advantage(large, small) is None


def test_the_result_is_data() -> None:
    law = FittedLaw(measured(TRUTH, np.random.default_rng(0))).result()
    assert isinstance(law, PowerLaw) and all(isinstance(point.x, float) for point in law.curve)
