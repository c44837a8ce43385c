"""How figures of a sweep grow: the exponents of power laws, by least squares on logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmdit_cli.profile.profile_result import ProfileResult

TOKENS = "tokens"


@dataclass(frozen=True)
class Growth:
    """`figure` grows like `variable ** exponent`, the other swept variables staying as they are.

    `first` and `last` are the exponents between the two smallest and the two largest values (None for two values, or
    where points were left out that would tell): where they differ, no power law holds throughout, as from linear work
    to that of attention. `worst`: the largest ratio between a measured figure and the fitted one.
    """

    config: str
    figure: str
    variable: str
    smallest: float
    largest: float
    exponent: float
    first: float | None
    last: float | None
    worst: float


FIGURES: dict[str, Callable[[ProfileResult], float]] = {
    "time": lambda r: r.latency_ms.median,
    # what is held whatever the sizes of the inputs would hide how the rest grows
    "memory beside weights and optimizer": lambda r: (
        r.memory_bytes.peak - r.memory_bytes.weights - r.memory_bytes.optimizer
    ),
}


def fit_growth(results: Sequence[ProfileResult]) -> list[Growth]:
    """The growth of time and memory of each config over the numbers that were swept.

    Swept token counts together are one variable: all tokens of a sample, for attention joins them. Variables that never
    move apart have no exponents of their own, and nothing is fitted.
    """
    found = []
    for config in dict.fromkeys(result.config for result in results):
        own = [result for result in results if result.config == config]
        variables = swept_variables(own)
        for figure, value in FIGURES.items():
            found += _fit(config, figure, variables, [value(result) for result in own])
    return found


def swept_variables(results: Sequence[ProfileResult]) -> dict[str, list[float]]:
    """The numbers above 0 that change over a sweep, by name, one for each result."""
    variables: dict[str, list[float]] = {}
    for key in results[0].point:
        name = variable_of(key)
        if name == TOKENS:
            variables[name] = [float(sum(result.tokens.values())) for result in results]
        elif all(_is_number(result.point[key]) for result in results):
            variables[name] = [float(result.point[key]) for result in results]
    return {name: values for name, values in variables.items() if min(values) > 0 and len(set(values)) > 1}


def variable_of(key: str) -> str:
    """What a swept key is called: token counts of whichever modality are all `tokens`."""
    return TOKENS if key.startswith("run.tokens") else "batch size" if key == "run.batch_size" else key


def _fit(config: str, figure: str, variables: dict[str, list[float]], values: Sequence[float]) -> list[Growth]:
    if not variables or min(values) <= 0:
        return []
    x, y = np.vstack([np.log(list(variables.values())), np.ones(len(values))]), np.log(values)
    solution, _, rank, _ = np.linalg.lstsq(x.T, y, rcond=None)
    if rank < len(x):
        return []
    worst = math.exp(np.abs(solution @ x - y).max())

    def between(index: int, levels: Sequence[float]) -> float | None:
        """The exponent over the points where a variable has one of these values; None where points left out matter."""
        among = np.isin(list(variables.values())[index], levels)
        solution, _, rank, _ = np.linalg.lstsq(x[:, among].T, y[among], rcond=None)
        return float(solution[index]) if rank > np.linalg.matrix_rank(np.delete(x[:, among], index, 0)) else None

    rows = []
    for index, (name, column) in enumerate(variables.items()):
        levels = sorted(set(column))
        first, last = (between(index, ends) if len(levels) > 2 else None for ends in (levels[:2], levels[-2:]))
        rows.append(Growth(config, figure, name, levels[0], levels[-1], float(solution[index]), first, last, worst))
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
