"""Is one design better than another? Each is trained on the same seeds, and told apart where their spread allows it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdit.weights.atomic import write_atomic
from mmdit_cli.model_parts.flop_count import FlopsResult, count_flops
from mmdit_cli.model_parts.intervals import CONFIDENCE
from mmdit_cli.output.renderings import render
from mmdit_cli.output.run_files import COMPARISON, METRICS, read_metrics
from mmdit_cli.output.units import count
from mmdit_cli.output.units import flops as flop_text
from mmdit_cli.output.units import seconds as seconds_text
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import as_trained, same_loss, unlike
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.run_folder import open_comparison, safe_name
from mmdit_cli.toy.seed_statistics import Difference, Spread, paired_difference, spread
from mmdit_cli.toy.trainer import Diverged
from mmdit_cli.toy.training import AVERAGED, Interrupted, TrainResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 0.9
ALIKE, ALIKE_IN_TIME = 0.01, 0.1  # shares by which two designs may differ in cost and be called alike in it
Records: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ToTarget:
    """What it took until every modality had the target accuracy: medians over the `reached` of `runs` finished runs.

    Model FLOPs and seconds are of training steps alone. Accuracy is known every `train.evaluate_every` steps and at the
    end; a target passed between two evaluations is placed on the line between them. All None where no run reached it.
    """

    reached: int
    runs: int
    steps: float | None
    seconds: float | None
    flops: float | None


@dataclass(frozen=True)
class Design:
    """One config over all seeds. Figures are of finished runs, None where there is none; `seeds` are those finished.

    `loss` is the mean over a run's last `loss_steps` steps; accuracies are those of `TrainResult`. `step_flops` are
    model FLOPs of a training step of `batch_size` samples of `tokens`, the lengths of the data's first batch;
    `step_seconds` the runs' median. `differences` are from the first design, which has none; a figure is missing where
    it is not the same quantity in both.
    """

    config: str
    parameters: int
    batch_size: int
    tokens: dict[str, int]
    step_flops: int
    step_seconds: float | None
    loss_steps: int
    seeds: list[int]
    loss: Spread | None
    accuracy: dict[str, Spread]
    held_out: dict[str, Spread]
    to_target: ToTarget
    differences: list[Difference]


@dataclass(frozen=True)
class Failure:
    """A run that diverged, and the last step that it finished."""

    config: str
    seed: int
    step: int
    message: str
    run_dir: str


@dataclass(frozen=True)
class Comparison:
    """Designs trained on the same seeds, each against the first, `reference`. `notes`: what limits the comparison."""

    reference: str
    seeds: list[int]
    target: float
    confidence: float
    designs: list[Design]
    failures: list[Failure]
    notes: list[str]
    run_dir: str


@dataclass(frozen=True)
class Run:
    """A finished run with its metrics."""

    result: TrainResult
    records: Records

    def to_target(self, target: float) -> tuple[float, float] | None:
        """Steps and training seconds until every modality had the target; None where it never was seen to."""
        seconds = {record["step"]: record["seconds"] for record in self.records if "seconds" in record}
        before: tuple[float, float, float] | None = None
        for record in self.records:
            if "accuracy" not in record:
                continue
            now = (record["step"], seconds[record["step"]], min(record["accuracy"].values()))
            if now[2] >= target:
                if before is None:
                    return now[:2]
                share = (target - before[2]) / (now[2] - before[2])
                return before[0] + share * (now[0] - before[0]), before[1] + share * (now[1] - before[1])
            before = now
        return None


Train = Callable[[ToolConfig, int, Path, str], TrainResult | None]  # config, seed, folder, and what to call the run


def compare_designs(
    configs: Sequence[ToolConfig], seeds: Sequence[int], *, folder: Path, train: Train, target: float = TARGET
) -> tuple[list[TrainResult], Comparison]:
    """Train every config with every seed, and compare each with the first.

    The configs take turns (a and b with the first seed, then with the second), so that the machine's drift hits all
    alike. A run that diverges is noted, and the others go on.

    Args:
        configs: with names that differ, as `distinct` makes them.
        folder: gets a run's folder for each, NAME-seedN.
        train: trains a config with a seed in a folder.

    Raises:
        UserError: a config is not one of the toy's worlds.
        Interrupted: Ctrl-C; the run that was under way has been saved, and the message says which it was.
    """
    for config in configs:
        world_of(config)
    done: dict[str, dict[int, Run]] = {config.name: {} for config in configs}
    failures: list[Failure] = []
    turns = [(config, seed) for seed in seeds for config in configs]
    for number, (config, seed) in enumerate(turns, start=1):
        gc.collect()  # of the run before: torch's schedule and its optimizer hold each other, and the weights
        title, place = f"{config.name}, seed {seed}", folder / f"{safe_name(config.name)}-seed{seed}"
        try:
            result = train(config, seed, place, f"{title} ({number}/{len(turns)})")
        except Diverged as problem:
            failures.append(Failure(config.name, seed, _last_step(place), str(problem), str(place)))
            continue
        except Interrupted as stop:
            where = f"{title}, run {number} of {len(turns)} in {folder}: {stop.where}"
            raise Interrupted(where, stop.command) from None
        if result is not None:  # as in a process of a group that does not write
            done[config.name][seed] = Run(result, read_metrics(Path(result.files["metrics"])))
    flops = {config.name: count_flops(as_trained(config)) for config in configs}
    designs = [
        Design(
            config=config.name,
            parameters=flops[config.name].parameters,
            batch_size=flops[config.name].batch_size,
            tokens=flops[config.name].tokens,
            step_flops=flops[config.name].step_flops,
            step_seconds=_step_seconds(runs := done[config.name]),
            loss_steps=min(AVERAGED, config.train.steps),
            seeds=list(runs),
            loss=spread([run.result.loss["last"] for run in runs.values()]) if runs else None,
            accuracy=_by_modality(runs, "accuracy"),
            held_out=_by_modality(runs, "held_out"),
            to_target=_to_target(runs, target, flops[config.name].step_flops),
            differences=_differences(config, configs[0], done, flops, target),
        )
        for config in configs
    ]
    notes = [note for config in configs[1:] for note in unlike(configs[0], config)]
    notes += [text for design in designs[1:] if (text := other_cost(designs[0], design))]
    return [run.result for runs in done.values() for run in runs.values()], Comparison(
        configs[0].name, list(seeds), target, CONFIDENCE, designs, failures, notes, str(folder)
    )


def save_comparison(
    configs: Sequence[ToolConfig],
    seeds: Sequence[int],
    *,
    folder: Path,
    train: Train,
    target: float,
    resume: bool = False,
    document: Callable[[Sequence[TrainResult], Comparison], dict[str, Any]],
) -> tuple[list[TrainResult], Comparison]:
    """Compare designs in a folder, which also gets `comparison.json`; a new one, or that of a comparison to `resume`.

    Args:
        configs, seeds, train, target: as `compare_designs` takes them.
        document: the results and the comparison as plain data.

    Raises:
        UserError: a config is not one of the toy's worlds, or the folder can't be used (`open_comparison`).
        OSError: a file can't be written.
        Interrupted: Ctrl-C, as in `compare_designs`.
    """
    for config in configs:
        world_of(config)  # before a folder is made
    with open_comparison(folder, resume=resume):
        results, comparison = compare_designs(configs, seeds, folder=folder, train=train, target=target)
        text = render(document(results, comparison), ".json")
        write_atomic(folder / COMPARISON, text.encode())
    return results, comparison


def draw_comparison(results: Sequence[TrainResult], comparison: Comparison) -> Figure:
    """All runs' curves."""
    from mmdit_cli.toy.plots import comparison_plot

    costs = {design.config: design.step_flops for design in comparison.designs}
    return comparison_plot(_curves(comparison, results), costs, target=comparison.target)


def other_cost(first: Design, other: Design) -> str:
    """In what two designs differ beside what they are, so that a better one may only be a larger one; empty where they
    are alike."""
    figures = (
        ("parameters", first.parameters, other.parameters, count, ALIKE),
        ("FLOPs a step", first.step_flops, other.step_flops, flop_text, ALIKE),
        ("time a step", first.step_seconds, other.step_seconds, seconds_text, ALIKE_IN_TIME),
    )
    apart = [
        f"{b / a:.2f} times the {name} ({show(b)}, {show(a)})"
        for name, a, b, show, alike in figures
        if a and b and abs(b / a - 1) > alike
    ]
    return f"{other.config} does not cost what {first.config} does: {', '.join(apart)}" if apart else ""


def failed_runs(comparison: Comparison) -> str:
    """Which runs failed and why, in words; empty where none did."""
    failed = [f"{x.config}, seed {x.seed}: {x.message}" for x in comparison.failures]
    runs = len(comparison.designs) * len(comparison.seeds)
    return f"{len(failed)} of {runs} runs failed: {'; '.join(failed)}" if failed else ""


def _curves(comparison: Comparison, results: Sequence[TrainResult]) -> dict[str, list[Records]]:
    """All runs' metrics by design, those that failed included."""
    curves: dict[str, list[Records]] = {design.config: [] for design in comparison.designs}
    for name, run_dir in [(run.config, run.run_dir) for each in (results, comparison.failures) for run in each]:
        if (path := Path(run_dir) / METRICS).exists():
            curves[name].append(read_metrics(path))
    return curves


def _differences(
    config: ToolConfig,
    first: ToolConfig,
    done: Mapping[str, Mapping[int, Run]],
    flops: Mapping[str, FlopsResult],
    target: float,
) -> list[Difference]:
    """Each figure that both have against the first design's, on the seeds that both finished."""
    seeds = [seed for seed in done[config.name] if seed in done[first.name]]
    if config is first or not seeds:
        return []
    mine, theirs = (
        _figures([done[c.name][seed] for seed in seeds], c, flops[c.name].step_flops, target) for c in (config, first)
    )
    return [
        paired_difference(
            name,
            values,
            theirs[name][0],
            to=first.name,
            lower_is_better="accuracy" not in name,
            resolution=max(resolution, theirs[name][1]),
        )
        for name, (values, resolution) in mine.items()
        if name in theirs and (name != "loss" or same_loss(first, config))
    ]


def _figures(
    runs: Sequence[Run], config: ToolConfig, step_flops: int, target: float
) -> dict[str, tuple[list[float], float]]:
    """What is compared: a value for each run, and the smallest step in which it is known.

    What the target took is left out where a run did not get there, for those that did would be the lucky ones.
    """
    figures = {"loss": ([run.result.loss["last"] for run in runs], 0.0)}
    share = 1 / config.train.evaluation_samples
    for label, key in (("accuracy", "accuracy"), ("held-out accuracy", "held_out")):
        for name in getattr(runs[0].result, key):
            figures[f"{label}, {name}"] = [getattr(run.result, key)[name] for run in runs], share
    reached = [found for run in runs if (found := run.to_target(target)) is not None]
    if len(reached) == len(runs):
        every = config.train.evaluate_every or config.train.steps
        steps, seconds = ([float(found[i]) for found in reached] for i in (0, 1))
        figures["steps to the target"] = steps, every
        figures["FLOPs to the target"] = [x * step_flops for x in steps], every * step_flops
        figures["time to the target"] = seconds, every * max(t / n for n, t in reached)
    return figures


def _step_seconds(runs: Mapping[int, Run]) -> float | None:
    rates = [run.result.steps_per_s for run in runs.values() if run.result.steps_per_s]
    return 1 / statistics.median(rates) if rates else None


def _to_target(runs: Mapping[int, Run], target: float, step_flops: int) -> ToTarget:
    reached = [found for run in runs.values() if (found := run.to_target(target)) is not None]
    if not reached:
        return ToTarget(0, len(runs), None, None, None)
    steps, seconds = (statistics.median(values) for values in zip(*reached, strict=True))
    return ToTarget(len(reached), len(runs), steps, seconds, steps * step_flops)


def _by_modality(runs: Mapping[int, Run], key: str) -> dict[str, Spread]:
    """The spread of a figure of `TrainResult` that it has for each modality."""
    found: list[dict[str, float]] = [getattr(run.result, key) for run in runs.values()]
    return {name: spread([each[name] for each in found]) for name in (found[0] if found else ())}


def _last_step(folder: Path) -> int:
    metrics = folder / METRICS
    steps = [record["step"] for record in read_metrics(metrics) if "loss" in record] if metrics.exists() else []
    return max(steps, default=0)
