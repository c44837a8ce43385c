"""How far the means of runs over seeds lie off a law, and what other seeds and other points would have given.

A seed shifts all sizes alike, for they see the same data, noise and timesteps; beside that each run differs by itself,
and a point may lie off because the law does not hold there. A parametric bootstrap (Efron and Tibshirani 1993, section
6.5) draws all three anew. With a handful of points the size of the noise is not known well, so that it is drawn too, by
its chi-squared distribution: of a straight line the intervals would be Student's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmdit_cli.toy.laws.powers import Array

POOLED_ABOVE = 0.25  # of a lack of fit: the p above which points are off by the runs' noise alone (Bancroft 1964)


@dataclass(frozen=True)
class Noise:
    """Standard deviations and degrees of freedom, in the unit of the scaled figures: of a point's mean about the law,
    and of what seeds shift in all points of a group alike (its mean; 0 of one seed, which does not tell).

    `lack_of_fit`: how often points would lie as far off by the noise of the runs alone; None of one seed.
    """

    point: float
    point_dof: int
    common: float
    common_dof: int
    lack_of_fit: float | None

    def draw(self, groups: Array, count: int, generator: np.random.Generator) -> Array:
        """n count: what is added to the law at each point."""
        n, labels = len(groups), np.unique(groups, return_inverse=True)[1]
        point = _sizes(self.point, self.point_dof, count, generator) * generator.standard_normal((n, count))
        common = generator.standard_normal((labels.max() + 1, count))
        drawn: Array = point + (_sizes(self.common, self.common_dof, count, generator) * common)[labels]
        return drawn


def noise_of(table: Array, law: Array, groups: Array, free: int) -> Noise:
    """The noise of runs about a law.

    Args:
        table: n s, the scaled figure of each point and seed.
        law: n, what is fitted.
        groups: n, points whose runs share what a seed does.
        free: how many numbers were fitted.
    """
    from scipy.special import fdtrc

    n, seeds = table.shape
    means = table.mean(axis=1)
    off, dof = float(((means - law) ** 2).sum()), n - free
    if seeds == 1:
        return Noise(float(np.sqrt(off / dof)), dof, 0.0, 1, None)
    common = _shared_shifts(table, groups)
    labels, places = np.unique(groups, return_inverse=True)
    own = table - means[:, None] - common[places]
    own_dof, common_dof = (n - len(labels)) * (seeds - 1), len(labels) * (seeds - 1)
    of_mean = float((own**2).sum()) / seeds  # of a mean over seeds, times its degrees of freedom
    p = 1.0
    if own_dof and off > 0:
        p = float(fdtrc(dof, own_dof, (off / dof) / (of_mean / own_dof))) if of_mean > 0 else 0.0
    if own_dof and p > POOLED_ABOVE:
        off, dof = off + of_mean, dof + own_dof
    shift = float(np.sqrt((common**2).sum() / common_dof / seeds))
    return Noise(float(np.sqrt(off / dof)), dof, shift, common_dof, p if own_dof else None)


def _shared_shifts(table: Array, groups: Array) -> Array:
    """g s: what each seed shifts in all points of each group, in the order of their labels."""
    within = table - table.mean(axis=1, keepdims=True)
    return np.stack([within[groups == label].mean(axis=0) for label in np.unique(groups)])


def _sizes(size: float, dof: int, count: int, generator: np.random.Generator) -> Array:
    """Standard deviations that may as well have given the one that was found."""
    sizes: Array = size * np.sqrt(dof / generator.chisquare(dof, count))
    return sizes
