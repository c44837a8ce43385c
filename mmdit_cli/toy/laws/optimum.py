"""The size that is best for a budget of training FLOPs.

By the third approach of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3): `L(N, D) = E + A N^-a + B D^-b`, of
parameters N and training samples D, fitted to the last losses of runs of several sizes and lengths. Losses on the way
of a longer run would mislead, for its learning rate has not come down yet. FLOPs of a sample are those that were
counted, between sizes by a power of N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmdit_cli.toy.laws.noise import noise_of
from mmdit_cli.toy.laws.power_law import Known, interval, known
from mmdit_cli.toy.laws.powers import GREATEST, GRID, LEAST, Array, Powers, fit_powers

FEWEST_LENGTHS = 3
REPLICATES, TRIED, BEYOND = 300, 400, 100.0  # sizes that are tried, and how far beyond those that were trained
FREE = 5  # numbers that are fitted
STEP = (GREATEST / LEAST) ** (1 / (GRID[2] - 1))  # of the exponents that a bootstrap tries


@dataclass(frozen=True)
class Optimum:
    """What a design is best trained as with `budget` FLOPs, and the loss to expect: `parameters`, and as many
    `samples`, in so many `steps`. `nearest`: the config among those that were trained. `exponents`: of parameters and
    of samples. `beyond`: whether this size or length lies outside of what was trained. `determined`: whether the
    interval of the size ends within what was tried."""

    design: str
    budget: float
    parameters: Known
    samples: float
    steps: int
    loss: Known
    nearest: str
    floor: Known
    exponents: dict[str, Known]
    deviation: float
    lack_of_fit: float | None
    beyond: bool
    determined: bool


@dataclass(frozen=True)
class Trained:
    """Points of n sizes and lengths: configs, `parameters`, `samples`, `sample_flops` n and losses `table` n s."""

    configs: list[str]
    parameters: Array
    samples: Array
    sample_flops: Array
    table: Array
    batch_size: int


def optimum(design: str, trained: Trained, budget: float) -> Optimum:
    """See `Optimum`; of at least `FEWEST_LENGTHS` lengths, and more points than numbers that are fitted."""
    means = trained.table.mean(axis=1)
    x, weights = np.stack([trained.parameters, trained.samples]), 1 / means
    fit = fit_powers(x, means[:, None], weights, zoomed=True)
    fitted = fit.at(*x)[:, 0]
    noise = noise_of(trained.table * weights[:, None], fitted * weights, trained.samples, FREE)
    drawn = noise.draw(trained.samples, REPLICATES, np.random.default_rng(0))
    again = fit_powers(x, fitted[:, None] + drawn * means[:, None], weights)

    sizes = np.geomspace(trained.parameters.min() / BEYOND, trained.parameters.max() * BEYOND, TRIED)
    slope, height = np.polyfit(np.log(trained.parameters), np.log(trained.sample_flops), 1)
    samples = budget / np.exp(height + slope * np.log(sizes))
    best, losses = _least(fit, sizes, samples)
    others, their_losses = _least(again, sizes, samples)
    low, high = interval(sizes[others])
    size, length = float(sizes[best[0]]), float(samples[best[0]])
    parameters = Known(size, min(float(low), size), max(float(high), size))
    inside = all(of.min() <= at <= of.max() for at, of in zip((size, length), x, strict=True))
    return Optimum(
        design=design,
        budget=budget,
        parameters=parameters,
        samples=length,
        steps=max(1, round(length / trained.batch_size)),
        loss=known(losses, their_losses),
        nearest=trained.configs[int(np.abs(np.log(trained.parameters / size)).argmin())],
        floor=known(fit.floor, again.floor),
        exponents={
            name: _to_the_grid(known(fit.exponents[place], again.exponents[place]))
            for place, name in enumerate(("parameters", "samples"))
        },
        deviation=float(np.sqrt((((means - fitted) * weights) ** 2).mean())),
        lack_of_fit=noise.lack_of_fit,
        beyond=not inside,
        determined=bool(sizes[0] < parameters.low and parameters.high < sizes[-1]) and not fit.at_an_end.any(),
    )


def _to_the_grid(x: Known) -> Known:
    """An exponent with an interval that is wider by half a step of the grid to either side."""
    return Known(x.value, x.low / STEP**0.5, x.high * STEP**0.5)


def _least(fit: Powers, sizes: Array, samples: Array) -> tuple[Array, Array]:
    """b: the place of the least loss among sizes with as many samples as the budget pays for, and that loss."""
    losses = fit.at(sizes, samples)
    best = losses.argmin(axis=0)
    return best, losses[best, np.arange(losses.shape[1])]
