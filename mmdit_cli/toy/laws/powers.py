"""Fits of falling powers, `y = E + A x^-a` and `y = E + A x^-a + B z^-b`, with nothing below 0.

For given exponents the rest is a linear least squares problem (variable projection, Golub and Pereyra 1973), so that a
grid of exponents finds the best fit whatever the start, where descents end in local ones (Besiroglu et al. 2024, arXiv
2404.10102, on Hoffmann et al. 2022). Many columns of data are fitted at once, which a bootstrap needs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST, GREATEST = 0.02, 4.0  # exponents that are tried
GRID = {1: 300, 2: 80}  # values of each exponent, by how many there are
ZOOMS, ZOOM = 4, 15  # finer grids around the best of one column, and their values


@dataclass(frozen=True)
class Powers:
    """Fits of `b` columns in `m` variables: `floor` b, `coefficients` and `exponents` m b, of variables over `scales` m
    (which makes a coefficient what is above the floor at that size)."""

    scales: Array
    floor: Array
    coefficients: Array
    exponents: Array

    def at(self, *x: Array) -> Array:
        """`x`: of each variable, n or n b -> n b."""
        terms = (
            c * (np.reshape(np.asarray(of, float), (len(of), -1)) / scale) ** -e
            for of, scale, c, e in zip(x, self.scales, self.coefficients, self.exponents, strict=True)
        )
        total: Array = reduce(np.add, terms, self.floor)
        return total

    @property
    def at_an_end(self) -> Array:
        """m b: whether an exponent is an end of those that are tried, or its power is not there at all."""
        ends = (self.exponents <= LEAST * 1.02) | (self.exponents >= GREATEST / 1.02)
        return ends | (self.coefficients == 0)


def fit_powers(x: Array, y: Array, weights: Array, *, zoomed: bool = False) -> Powers:
    """Least squares of `weights * (y - fit)`.

    Args:
        x: m n, of each variable the place of each point, above 0.
        y: n b.
        weights: n.
        zoomed: find the exponents to 1 in 10,000, by finer grids; of one column.
    """
    scales = np.exp(np.log(x).mean(axis=1))
    axes = [np.geomspace(LEAST, GREATEST, GRID[len(x)])] * len(x)
    found = _on_grid(x, y, weights, scales, axes)
    for _ in range(ZOOMS if zoomed else 0):
        steps = [axis[1] / axis[0] for axis in axes]
        axes = [
            np.geomspace(max(LEAST, best[0] / step), min(GREATEST, best[0] * step), ZOOM)
            for best, step in zip(found.exponents, steps, strict=True)
        ]
        found = _on_grid(x, y, weights, scales, axes)
    return found


def _on_grid(x: Array, y: Array, weights: Array, scales: Array, axes: list[Array]) -> Powers:
    exponents = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])  # m g
    powers = [(of / scale) ** -each[:, None] for of, scale, each in zip(x, scales, exponents, strict=True)]  # g n
    columns = np.stack([np.ones_like(powers[0]), *powers], axis=-1) * weights[:, None]  # g n 1+m
    targets = y * weights[:, None]
    terms = range(columns.shape[-1])
    subsets = [list(s) for size in range(1, len(terms) + 1) for s in itertools.combinations(terms, size)]
    total, best = (targets**2).sum(axis=0), np.full((len(columns), y.shape[1]), np.inf)
    chosen = np.zeros(best.shape, dtype=int)
    for number, subset in enumerate(subsets):  # which of the terms are above 0
        part = columns[:, :, subset]
        solution = np.linalg.pinv(part) @ targets
        left = total - (solution * (part.transpose(0, 2, 1) @ targets)).sum(axis=1)
        left[(solution < 0).any(axis=1)] = np.inf
        better = left < best
        best[better], chosen[better] = left[better], number
    place = best.argmin(axis=0)
    coefficients = np.zeros((len(terms), y.shape[1]))
    for number, subset in enumerate(subsets):
        own = np.flatnonzero(chosen[place, np.arange(len(place))] == number)
        part = columns[place[own]][:, :, subset]
        solved = np.linalg.pinv(part) @ targets[:, own].T[:, :, None]
        for term, values in zip(subset, solved[:, :, 0].T, strict=True):
            coefficients[term, own] = values
    return Powers(scales, coefficients[0], coefficients[1:], exponents[:, place])
