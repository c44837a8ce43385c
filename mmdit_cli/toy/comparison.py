"""Is one design better than another? Each is trained on the same seeds, and told apart where their spread allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmdit_cli.model_parts.intervals import CONFIDENCE
from mmdit_cli.output.run_files import METRICS, read_metrics
from mmdit_cli.request.sweep import Point
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import unlike
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.decisions import Decision, decision
from mmdit_cli.toy.designs import Design, DesignRuns, other_cost
from mmdit_cli.toy.equal_cost import in_steps
from mmdit_cli.toy.runs import Failure, PlannedRun, Records, Run, Runner, run_folder
from mmdit_cli.toy.seed_plan import By, SeedPlan
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.tuning import Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 0.9


@dataclass(frozen=True)
class Comparison:
    """Designs trained on the same seeds, each against the first, `reference`. `plan`: how many `seeds` were asked for.
    `decisions`: where seeds were added until each is decided. `notes`: what limits the comparison.
    `jobs`: runs that were trained side by side. `by`: of what all designs spend as much. `looks`: with which other
    seeds it has been shown before, as they were asked for; then its intervals are not of 95 %."""

    reference: str
    seeds: list[int]
    plan: SeedPlan
    target: float
    confidence: float
    designs: list[Design]
    decisions: list[Decision]
    failures: list[Failure]
    notes: list[str]
    run_dir: str
    jobs: int = 1
    by: By = "steps"
    tuning: Tuning | None = None
    looks: list[str] = field(default_factory=list)


def compare_designs(
    configs: Sequence[ToolConfig],
    plan: SeedPlan,
    *,
    folder: Path,
    runner: Runner,
    target: float = TARGET,
    tuning: Tuning | None = None,
    by: By = "steps",
    points: Sequence[Point] = (),
    looks: Sequence[str] = (),
) -> tuple[list[TrainResult], Comparison]:
    """Train every config with the seeds of a plan, and compare each with the first.

    A run that diverges is noted, and the others go on.

    Args:
        configs: with names that differ, as `distinct` makes them.
        folder: gets a run's folder for each, NAME-seedN.
        tuning, by, points: how the configs came to be, which the comparison says; `points` as many as configs, or none.
        looks: with which other seeds it has been shown before.

    Raises:
        UserError: a config is not one of the toy's worlds.
        Interrupted: Ctrl-C; see `Runner`.
    """
    for config in configs:
        world_of(config)
    at = points or [{} for _ in configs]
    designs = [DesignRuns(config, target, point) for config, point in zip(configs, at, strict=True)]
    failures, seeds = list[Failure](), set[int]()
    first = designs[0]

    def settled(design: DesignRuns) -> bool:
        found = decision(design, first, plan)
        return found.decided or found.failed > 0  # which no further seed mends

    for round_ in plan.rounds(designs, runner.jobs, settled):
        planned = [PlannedRun(each.config, seed, run_folder(folder, each.config, seed)) for each, seed in round_]
        for (design, seed), outcome in zip(round_, runner(planned), strict=True):
            design.started.add(seed)
            seeds.add(seed)
            if isinstance(outcome, Run):
                design.runs[seed] = outcome
            else:
                failures.append(outcome)
    summaries = [design.summary(design.differences(first, plan)) for design in designs]
    like_steps = configs if by == "steps" else [in_steps(config, configs[0].train.steps) for config in configs]
    notes = [note for config in like_steps[1:] for note in unlike(like_steps[0], config)]
    notes += [text for each in summaries[1:] if (text := other_cost(summaries[0], each, by))]
    return [run.result for design in designs for run in design.runs.values()], Comparison(
        reference=first.config.name,
        seeds=sorted(seeds),
        plan=plan,
        target=target,
        confidence=CONFIDENCE,
        designs=summaries,
        decisions=[decision(design, first, plan) for design in designs[1:]] if plan.auto else [],
        failures=failures,
        notes=notes,
        run_dir=str(folder),
        jobs=runner.jobs,
        by=by,
        tuning=tuning,
        looks=list(looks),
    )


def draw_comparison(results: Sequence[TrainResult], comparison: Comparison) -> Figure:
    """All runs' curves."""
    from mmdit_cli.toy.plots import comparison_plot

    costs = {design.config: design.step_flops for design in comparison.designs}
    return comparison_plot(_curves(comparison, results), costs, target=comparison.target)


def failed_runs(comparison: Comparison) -> str:
    """Which runs failed and why, in words; empty where none did."""
    failed = [f"{x.config}, seed {x.seed}: {x.message}" for x in comparison.failures]
    runs = sum(design.runs for design in comparison.designs)
    return f"{len(failed)} of {runs} runs failed: {'; '.join(failed)}" if failed else ""


def _curves(comparison: Comparison, results: Sequence[TrainResult]) -> dict[str, list[Records]]:
    """All runs' metrics by design, those that failed included."""
    curves: dict[str, list[Records]] = {design.config: [] for design in comparison.designs}
    for name, run_dir in [(run.config, run.run_dir) for each in (results, comparison.failures) for run in each]:
        if (path := Path(run_dir) / METRICS).exists():
            curves[name].append(read_metrics(path))
    return curves
