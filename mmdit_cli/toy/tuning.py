"""Each design's own best value of some keys, on seeds that the comparison does not have: a design that is compared at a
learning rate that suits another is not compared fairly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdit_cli.errors import CheckFailed
from mmdit_cli.request.sweep import Point, PointConfig, value_text
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import same_loss
from mmdit_cli.toy.run_folder import safe_name
from mmdit_cli.toy.runs import Failure, PlannedRun, Run, Runner
from mmdit_cli.toy.seed_plan import MOST
from mmdit_cli.toy.seed_statistics import Spread, spread

FOLDER, LONGEST = "tuning", 60  # the folder of its runs in that of the comparison; letters of a point in a run's name
APART = MOST  # from the first seed of the comparison, which has no more of them


@dataclass(frozen=True)
class Candidate:
    """What a design is with some values: the figure over the seeds that finished; None where none did."""

    point: Point
    seeds: list[int]
    figure: Spread | None


@dataclass(frozen=True)
class Tuned:
    """What was found for a design. `best` is best in the mean of the figure, among those that failed least often; of
    equals the first. `at_end`: the keys whose best value is the least or the greatest of those tried, so that a better
    one may lie beyond."""

    config: str
    figure: str
    candidates: list[Candidate]
    best: Point
    at_end: list[str]


@dataclass(frozen=True)
class Tuning:
    """All designs, on the same tuning seeds, and the runs that failed."""

    seeds: list[int]
    designs: list[Tuned]
    failures: list[Failure]


def tune(
    grids: Sequence[Sequence[PointConfig]], *, first: int, seeds: int, folder: Path, runner: Runner
) -> tuple[list[ToolConfig], Tuning]:
    """Train every design at every point, and take the best of each.

    Args:
        grids: the points of each design, whose names differ.
        first: the comparison's first seed; tuning takes those from `APART` after it.
        folder: that of the comparison.

    Raises:
        CheckFailed: no run of a design finished.
        UserError, Interrupted: as the runner says.
    """
    tried = range(first + APART, first + APART + seeds)
    turns = [(grid, place, seed) for seed in tried for grid in grids for place in range(len(grid))]
    outcomes = runner([_planned(grid[place], place, seed, folder) for grid, place, seed in turns])
    found: dict[tuple[str, int], list[Run]] = {}
    for (grid, place, _), outcome in zip(turns, outcomes, strict=True):
        if isinstance(outcome, Run):
            found.setdefault((grid[place].config.name, place), []).append(outcome)
    failures = [outcome for outcome in outcomes if not isinstance(outcome, Run)]
    best, tuned = [], []
    for grid in grids:
        figure = "loss" if all(same_loss(grid[0].config, each.config) for each in grid) else "accuracy"
        runs = [found.get((each.config.name, place), []) for place, each in enumerate(grid)]
        candidates = [_candidate(each, of_point, figure) for each, of_point in zip(grid, runs, strict=True)]
        found_best = _best(candidates, lower=figure == "loss")
        if found_best is None:
            why = next(each.message for each in failures if each.config == grid[0].config.name)
            raise CheckFailed(f"--tune: no run of {grid[0].config.name} finished: {why}")
        best.append(grid[found_best].config)
        points = [each.point for each in grid]
        ends = at_end(points[found_best], points)
        tuned.append(Tuned(grid[0].config.name, figure, candidates, points[found_best], ends))
    return best, Tuning(list(tried), tuned, failures)


def at_end(best: Point, points: Sequence[Point]) -> list[str]:
    """The keys whose value is an end of the range that was tried."""

    def ends(key: str) -> bool:
        values = [point[key] for point in points]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        return numbers and min(values) < max(values) and best[key] in (min(values), max(values))

    return [key for key in best if ends(key)]


def point_text(point: Point) -> str:
    """A point as it is asked for."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in point.items())


def _planned(each: PointConfig, place: int, seed: int, folder: Path) -> PlannedRun:
    text = point_text(each.point)
    name = f"{safe_name(each.config.name)}-{place}-{safe_name(text)[:LONGEST]}-seed{seed}"
    return PlannedRun(each.config, seed, folder / FOLDER / name, about=text)


def _candidate(each: PointConfig, runs: Sequence[Run], figure: str) -> Candidate:
    values = [run.result.loss["last"] if figure == "loss" else run.result.mean_accuracy for run in runs]
    return Candidate(each.point, [run.result.seed for run in runs], spread(values) if values else None)


def _best(candidates: Sequence[Candidate], *, lower: bool) -> int | None:
    most = max(len(each.seeds) for each in candidates)
    kept = [
        (each.figure.mean * (1 if lower else -1), place)
        for place, each in enumerate(candidates)
        if each.figure is not None and len(each.seeds) == most
    ]
    return min(kept)[1] if kept else None
