"""The fit of falling powers: exact where there is no noise, and as good as any other where there is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from mmdit_cli.toy.laws.powers import fit_powers

SIZES = np.array([2.4e5, 5.7e5, 1.1e6, 1.9e6, 4.6e6])


@pytest.mark.parametrize(("floor", "coefficient", "exponent"), [(0.03, 12.0, 0.5), (0.0, 3.0, 0.12), (0.2, 1e6, 1.4)])
def test_a_law_without_noise_is_found(floor: float, coefficient: float, exponent: float) -> None:
    y = floor + coefficient * SIZES**-exponent
    fit = fit_powers(SIZES[None], y[:, None], 1 / y, zoomed=True)
    assert fit.exponents.item() == pytest.approx(exponent, rel=2e-3)
    assert fit.floor.item() == pytest.approx(floor, rel=5e-3, abs=1e-3 * y.min())
    assert fit.at(np.array([1e7])).item() == pytest.approx(floor + coefficient * 1e7**-exponent, rel=2e-3)


def test_a_law_of_two_variables_is_found() -> None:
    x = np.stack([np.repeat(SIZES, 3), np.tile([3e4, 6e4, 1.2e5], 5)])
    y = 0.03 + 20 * x[0] ** -0.5 + 30 * x[1] ** -0.8
    fit = fit_powers(x, y[:, None], 1 / y, zoomed=True)
    assert fit.exponents[:, 0] == pytest.approx([0.5, 0.8], rel=0.01)
    assert fit.at(*x)[:, 0] == pytest.approx(y, rel=1e-5)


def test_no_descent_from_the_truth_finds_a_better_fit() -> None:
    generator, better = np.random.default_rng(0), 0
    for _ in range(20):
        y = (0.03 + 12 * SIZES**-0.5) * (1 + 0.02 * generator.standard_normal(5))
        fit = fit_powers(SIZES[None], y[:, None], 1 / y, zoomed=True)
        ours = ((fit.at(SIZES)[:, 0] / y - 1) ** 2).sum()
        scaled = SIZES / fit.scales[0]
        theirs, _ = curve_fit(
            lambda x, e, a, b: e + a * x**-b, scaled, y, (0.03, 0.012, 0.5), sigma=y, bounds=(0, [1, 1, 4]), maxfev=5000
        )
        found = ((theirs[0] + theirs[1] * scaled ** -theirs[2]) / y - 1) ** 2
        assert ours <= found.sum() * (1 + 1e-4)
        better += ours < found.sum() * (1 - 1e-4)
    assert better <= 20


def test_many_columns_are_fitted_as_each_alone() -> None:
    generator = np.random.default_rng(1)
    y = (0.03 + 12 * SIZES**-0.5)[:, None] * (1 + 0.05 * generator.standard_normal((5, 7)))
    weights = 1 / y.mean(axis=1)
    together = fit_powers(SIZES[None], y, weights)
    for column in range(7):
        alone = fit_powers(SIZES[None], y[:, [column]], weights)
        assert alone.exponents[0, 0] == together.exponents[0, column]
        assert alone.floor[0] == pytest.approx(together.floor[column])


def test_what_rises_has_no_power_and_nothing_is_below_zero() -> None:
    y = 0.1 * (SIZES / SIZES[0]) ** 0.3
    fit = fit_powers(SIZES[None], y[:, None], 1 / y)
    assert fit.coefficients.item() == 0 and fit.at_an_end.item() and fit.floor.item() > 0
    steep = 12 * SIZES**-0.5 - 0.004  # its floor would be below 0
    assert fit_powers(SIZES[None], steep[:, None], 1 / steep).floor.item() == 0
