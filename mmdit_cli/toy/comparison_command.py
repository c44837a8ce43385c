"""`mmdit train-toy` of several configs or seeds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mmdit_cli.errors import CheckFailed
from mmdit_cli.request.request import Request
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import distinct
from mmdit_cli.toy.comparison import draw_comparison, failed_runs, save_comparison
from mmdit_cli.toy.comparison_tables import compare_tables
from mmdit_cli.toy.run_folder import in_runs
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns, Runner
from mmdit_cli.toy.seed_plan import SeedPlan
from mmdit_cli.toy.side_by_side import SideBySide
from mmdit_cli.toy.training import Interrupted


def compare(
    request: Request,
    configs: Sequence[ToolConfig],
    plan: SeedPlan,
    settings: RunSettings,
    *,
    jobs: int,
    target: float,
    run_dir: Path | None,
    plot: Path | None,
) -> None:
    """Train and compare, and show what was found.

    Raises:
        UserError: the folder or a config is no good; see `save_comparison`.
        Interrupted: Ctrl-C; the message has the command that goes on.
        CheckFailed: runs failed; all others are shown.
    """
    folder = run_dir or in_runs("compare")
    runner: Runner = SideBySide(jobs, settings.for_job) if jobs > 1 else InTurns(settings.train)
    try:
        results, comparison = save_comparison(
            distinct(configs, request.configs),
            plan,
            folder=folder,
            runner=runner,
            target=target,
            resume=settings.resume,
            document=lambda results, comparison: request.document(
                results, comparison=comparison, precision=settings.precision
            ),
        )
    except KeyboardInterrupt as stop:
        where = stop.where if isinstance(stop, Interrupted) else f"interrupted between runs in {folder}"
        more = ["--run-dir", str(folder)] * (run_dir is None) + ["--resume"] * (not settings.resume)
        raise Interrupted(where, shlex.join([*settings.command_line, *more])) from None
    request.show(
        results,
        lambda width: compare_tables(comparison, width),
        picture=(plot or folder / "comparison.png", lambda: draw_comparison(results, comparison)),
        comparison=comparison,
        precision=settings.precision,
    )
    if failed := failed_runs(comparison):
        raise CheckFailed(failed)
