"""What is known of a design by its runs over seeds, and how it differs from another's on the same seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdit_cli.model_parts.flop_count import FlopsResult, count_flops
from mmdit_cli.output.units import count
from mmdit_cli.output.units import flops as flop_text
from mmdit_cli.output.units import seconds as seconds_text
from mmdit_cli.request.sweep import Point
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import as_trained, same_loss
from mmdit_cli.toy.runs import Run
from mmdit_cli.toy.scenes.source import MEAN, SOUND
from mmdit_cli.toy.seed_plan import By, SeedPlan
from mmdit_cli.toy.seed_statistics import Difference, Spread, paired_difference, spread
from mmdit_cli.toy.train_result import AVERAGED

OF_ALL = (MEAN, SOUND)  # of all samples of scenes, where other accuracies are of those of a category
ALIKE, ALIKE_IN_TIME = 0.01, 0.1  # shares by which two designs may differ in cost and be called alike in it


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
    """One config over all seeds. Figures are of finished runs, None where there is none; `seeds` are those finished, of
    `runs`.

    `loss` is the mean over a run's last `loss_steps` steps; accuracies are those of `TrainResult`. `step_flops` are
    model FLOPs of a training step of `batch_size` samples of `tokens`, the lengths of the data's first batch;
    `step_seconds` the runs' median. `differences` are from the first design, which has none; a figure is missing where
    it is not the same quantity in both. `point`: what a sweep or a tuning set.
    """

    config: str
    point: Point
    parameters: int
    batch_size: int
    tokens: dict[str, int]
    steps: int
    step_flops: int
    step_seconds: float | None
    loss_steps: int
    runs: int
    seeds: list[int]
    loss: Spread | None
    accuracy: dict[str, Spread]
    held_out: dict[str, Spread]
    to_target: ToTarget
    differences: list[Difference]


class DesignRuns:
    """A config, and what its runs gave by seed, as they come.

    Args:
        target: the accuracy up to which steps are counted.
        point: what a sweep or a tuning set in it.
    """

    def __init__(self, config: ToolConfig, target: float, point: Point | None = None) -> None:
        self.config, self.target, self.point = config, target, point or {}
        self.flops: FlopsResult = count_flops(as_trained(config))
        self.runs: dict[int, Run] = {}
        self.started = set[int]()

    def differences(self, first: DesignRuns, plan: SeedPlan) -> list[Difference]:
        """Each figure that both have against the first design's, on the seeds that both finished."""
        seeds = [seed for seed in self.runs if seed in first.runs]
        if self is first or not seeds:
            return []
        mine, theirs = (each._figures(seeds) for each in (self, first))
        return [
            paired_difference(
                name,
                values,
                theirs[name][0],
                to=first.config.name,
                lower_is_better="accuracy" not in name,
                resolution=max(resolution, theirs[name][1]),
                level=plan.level(len(seeds)),
            )
            for name, (values, resolution) in mine.items()
            if name in theirs and (name != "loss" or same_loss(first.config, self.config))
        ]

    def summary(self, differences: list[Difference]) -> Design:
        """All of it as figures."""
        runs = list(self.runs.values())
        return Design(
            config=self.config.name,
            point=self.point,
            parameters=self.flops.parameters,
            batch_size=self.flops.batch_size,
            tokens=self.flops.tokens,
            steps=self.config.train.steps,
            step_flops=self.flops.step_flops,
            step_seconds=_step_seconds(runs),
            loss_steps=min(AVERAGED, self.config.train.steps),
            runs=len(self.started),
            seeds=list(self.runs),
            loss=spread([run.result.loss["last"] for run in runs]) if runs else None,
            accuracy=_by_modality(runs, "accuracy"),
            held_out=_by_modality(runs, "held_out"),
            to_target=self._to_target(),
            differences=differences,
        )

    def _to_target(self) -> ToTarget:
        reached = [found for run in self.runs.values() if (found := run.to_target(self.target)) is not None]
        if not reached:
            return ToTarget(0, len(self.runs), None, None, None)
        steps, seconds = (statistics.median(values) for values in zip(*reached, strict=True))
        return ToTarget(len(reached), len(self.runs), steps, seconds, steps * self.flops.step_flops)

    def _figures(self, seeds: Sequence[int]) -> dict[str, tuple[list[float], float]]:
        """What is compared: a value for each run, and the smallest step in which it is known.

        What the target took is left out where a run did not get there, for those that did would be the lucky ones.
        """
        runs, settings = [self.runs[seed] for seed in seeds], self.config.train
        figures = {"loss": ([run.result.loss["last"] for run in runs], 0.0)}
        for label, key in (("accuracy", "accuracy"), ("held-out accuracy", "held_out")):
            names = getattr(runs[0].result, key)
            categories = len([name for name in names if name not in OF_ALL]) if MEAN in names else 1
            for name in names:
                share = (1 if name in OF_ALL else categories) / settings.evaluation_samples
                figures[f"{label}, {name}"] = [getattr(run.result, key)[name] for run in runs], share
        reached = [found for run in runs if (found := run.to_target(self.target)) is not None]
        if len(reached) == len(runs):
            every, step_flops = settings.evaluate_every or settings.steps, self.flops.step_flops
            steps, seconds = ([float(found[i]) for found in reached] for i in (0, 1))
            figures["steps to the target"] = steps, every
            figures["FLOPs to the target"] = [x * step_flops for x in steps], every * step_flops
            figures["time to the target"] = seconds, every * max(t / n for n, t in reached)
        return figures


def other_cost(first: Design, other: Design, by: By = "steps") -> str:
    """In what two designs differ beside what they are, so that a better one may only be a larger one; empty where they
    are alike. What they are compared `by` is not among it, but parameters are."""
    figures: list[tuple[str, Any, Any, Callable[[Any], str], float]] = [
        ("parameters", first.parameters, other.parameters, count, ALIKE)
    ]
    if by != "flops":
        figures.append(("FLOPs a step", first.step_flops, other.step_flops, flop_text, ALIKE))
    if by == "steps":
        figures.append(("time a step", first.step_seconds, other.step_seconds, seconds_text, ALIKE_IN_TIME))
    apart = [
        f"{b / a:.2f} times the {name} ({show(b)}, {show(a)})"
        for name, a, b, show, alike in figures
        if a and b and abs(b / a - 1) > alike
    ]
    return f"{other.config} does not cost what {first.config} does: {', '.join(apart)}" if apart else ""


def _step_seconds(runs: Sequence[Run]) -> float | None:
    rates = [run.result.steps_per_s for run in runs if run.result.steps_per_s]
    return 1 / statistics.median(rates) if rates else None


def _by_modality(runs: Sequence[Run], key: str) -> dict[str, Spread]:
    """The spread of a figure of `TrainResult` that it has for each modality."""
    found: list[Mapping[str, float]] = [getattr(run.result, key) for run in runs]
    return {name: spread([each[name] for each in found]) for name in (found[0] if found else ())}
