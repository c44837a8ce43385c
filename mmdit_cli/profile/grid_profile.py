"""A grid of configs profiled: its points measured, how they grow, what became worse since a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.profile.baseline import (
    MEASURED,
    BaselineChange,
    compare_with_baseline,
    find_earlier,
    other_surroundings,
    repeated_latency,
    seems_changed,
)
from mmdit_cli.profile.ceiling_cache import known_ceilings
from mmdit_cli.profile.conditions import Conditions, CoreWatch, judge
from mmdit_cli.profile.early_end import EarlyEnd
from mmdit_cli.profile.fresh_processes import median_latencies
from mmdit_cli.profile.growth import Growth, fit_growth
from mmdit_cli.profile.measurement import profile_configs
from mmdit_cli.profile.profile_result import ProfileResult
from mmdit_cli.profile.profile_settings import Progress, Settings
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.request.tool_config import ToolConfig


@dataclass(frozen=True)
class GridProfile:
    """A result for each point. `growth` is empty where nothing is swept, `changes` where there is no baseline."""

    results: list[ProfileResult]
    growth: list[Growth]
    changes: list[BaselineChange]
    conditions: Conditions


def profile_grid(
    grid: Sequence[PointConfig],
    settings: Settings,
    *,
    earlier: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    tolerance: float = 0.0,
    on_progress: Progress = lambda stage, done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
    on_results: Callable[[Callable[[], list[ProfileResult]]], bool] = lambda make: False,
    early: EarlyEnd | None = None,
) -> GridProfile:
    """Measure every point, and compare it with its earlier self.

    Args:
        earlier: the document of a baseline, and `tolerance` how much worse is still the same.
        on_results, early: as `profile_configs`.
        run: this run's own document so far; what differs from the baseline's is noticed.

    Raises:
        UserError: the baseline lacks a point or was measured with other settings (told before anything is measured).
    """
    if earlier is not None:
        how = {"mode": settings.mode, "compiled": settings.compile, "caches": "cold" if settings.cold else "warm"}
        find_earlier(
            [{"config": p.config.name, "point": p.point, **how, **_batch(p.config)} for p in grid], earlier, run
        )
    watch, (meter, cache) = CoreWatch(), known_ceilings(settings)
    with nullcontext() if settings.compile else without_compiler():
        results = profile_configs(
            [point.config for point in grid],
            settings,
            points=[point.point for point in grid],
            meter=meter,
            watch=watch,
            on_progress=on_progress,
            on_message=on_message,
            on_results=on_results,
            early=early,
        )
    conditions, changes = judge(results, watch, on_cpu=settings.device.type == "cpu"), []
    ended = [] if early is None else early.notices(results, len(grid))
    conditions = replace(conditions, ended_early=bool(ended), notices=[*ended, *conditions.notices])
    if conditions.quiet and not ended:  # else they may be far too low
        cache.save(meter.rates(), cache.measured if meter.known else None)
    if earlier is not None:
        other = other_surroundings(run or {}, earlier)
        withheld = (
            [figure for figure, _ in MEASURED] if other else [] if conditions.quiet and not ended else ["latency"]
        )
        conditions = replace(conditions, notices=[*conditions.notices, *other])
        changes = compare_with_baseline([asdict(result) for result in results], earlier, tolerance, withheld=withheld)
        if any(map(seems_changed, changes)):
            medians = iter(median_latencies([point.config for point in grid], settings, on_progress))
            repeated = [(c, next(medians) if c.figure == "latency" else []) for c in changes]
            changes = [repeated_latency(c, m, tolerance) if seems_changed(c) else c for c, m in repeated]
    growth = fit_growth(results) if any(point.point for point in grid) and not ended else []
    return GridProfile(results, growth, changes, conditions)


def _batch(config: ToolConfig) -> dict[str, Any]:
    tokens, valid = config.all_tokens(), config.valid_tokens()
    return {"batch_size": config.run.batch_size, "tokens": tokens, "valid_tokens": valid}
