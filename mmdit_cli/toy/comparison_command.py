"""`mmdit train-toy` of several configs or seeds."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdit.options import as_data
from mmdit.weights.atomic import write_atomic
from mmdit_cli.errors import CheckFailed
from mmdit_cli.output.renderings import render
from mmdit_cli.output.run_files import COMPARISON
from mmdit_cli.request.request import Request
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.toy.comparison import Comparison, compare_designs, draw_comparison, failed_runs
from mmdit_cli.toy.comparison_tables import compare_tables
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.equal_cost import StepFlops, at_equal_cost, step_seconds
from mmdit_cli.toy.kept_plan import KeptPlan
from mmdit_cli.toy.laws.asked import LawAsked
from mmdit_cli.toy.laws.law_tables import law_tables
from mmdit_cli.toy.laws.report import LawReport, fit_laws
from mmdit_cli.toy.run_folder import in_runs, open_comparison
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns, Runner
from mmdit_cli.toy.seed_plan import By, SeedPlan
from mmdit_cli.toy.side_by_side import SideBySide
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.training import Interrupted
from mmdit_cli.toy.tuning import tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Asked:
    """What is compared, and how: a design for each grid, at the best of its points, of which each is tried on
    `tuning_seeds`; None: nothing is tuned, and a grid has one point. `law`: what is to be fitted to their sizes."""

    grids: Sequence[Sequence[PointConfig]]
    plan: SeedPlan
    tuning_seeds: int | None
    by: By
    jobs: int
    target: float
    law: LawAsked | None = None


def compare(request: Request, asked: Asked, settings: RunSettings, *, run_dir: Path | None, plot: Path | None) -> None:
    """Train and compare, and show what was found.

    Raises:
        UserError: a config is not one of the toy's worlds, or the folder can't be used (`open_comparison`, `KeptPlan`).
        Interrupted: Ctrl-C; the message has the command that goes on.
        CheckFailed: runs failed; all others are shown.
    """
    folder = run_dir or in_runs("compare")
    for grid in asked.grids:
        for each in grid:
            world_of(each.config)  # before a folder is made
    try:
        with open_comparison(folder, resume=settings.resume):
            results, comparison, law = _compared(request, asked, settings, folder)
            beside: dict[str, Any] = {"comparison": comparison, "precision": settings.precision}
            beside |= {"law": law} if law else {}
            document = request.document(results, **beside)
            write_atomic(folder / COMPARISON, render(document, ".json").encode())
    except KeyboardInterrupt as stop:
        where = stop.where if isinstance(stop, Interrupted) else f"interrupted between runs in {folder}"
        more = ["--run-dir", str(folder)] * (run_dir is None) + ["--resume"] * (not settings.resume)
        raise Interrupted(where, shlex.join([*settings.command_line, *more])) from None
    request.show(
        results,
        lambda width: [
            *compare_tables(comparison, width, listed=law is not None),
            *(law_tables(law, width) if law else ()),
        ],
        picture=_picture(results, comparison, law, plot, folder),
        **beside,
    )
    if failed := failed_runs(comparison):
        raise CheckFailed(failed)


def _compared(
    request: Request, asked: Asked, settings: RunSettings, folder: Path
) -> tuple[list[TrainResult], Comparison, LawReport | None]:
    plan = KeptPlan(folder)
    plan.keep_seeds(asked.plan)
    runner: Runner = SideBySide(asked.jobs, settings.for_job) if asked.jobs > 1 else InTurns(settings.train)
    grids = asked.grids
    if asked.by == "flops":
        grids = at_equal_cost(grids, grids[0][0].config, StepFlops())
    elif asked.by == "seconds":
        timed = partial(step_seconds, device=settings.device, dtype=settings.dtype, threads=runner.threads)
        grids = at_equal_cost(grids, grids[0][0].config, lambda config: plan.kept_seconds(config, timed))
    configs, points, tuning = [grid[0].config for grid in grids], [grid[0].point for grid in grids], None
    if asked.tuning_seeds is not None:
        first, seeds = asked.plan.first, asked.tuning_seeds
        configs, tuning = tune(grids, first=first, seeds=seeds, folder=folder, runner=runner)
        points = [tuned.best for tuned in tuning.designs]
    request.read[:] = [as_data(config) for config in configs]
    results, comparison = compare_designs(
        configs,
        asked.plan,
        folder=folder,
        runner=runner,
        target=asked.target,
        tuning=tuning,
        by=asked.by,
        points=points,
        looks=plan.looks(asked.plan),
    )
    plan.keep_look(asked.plan)
    law = None if asked.law is None else fit_laws(configs, comparison, results, asked.law.budget)
    return results, comparison, law


def _picture(
    results: Sequence[TrainResult], comparison: Comparison, law: LawReport | None, plot: Path | None, folder: Path
) -> tuple[Path, Callable[[], Figure]]:
    """Where `--plot` goes, and what draws it: the laws, or else all runs' curves."""
    if law is None:
        return plot or folder / "comparison.png", lambda: draw_comparison(results, comparison)

    def draw() -> Figure:
        from mmdit_cli.toy.laws.law_plot import law_plot

        return law_plot(law)

    return plot or folder / "law.png", draw
