"""Whether a design has been decided against another: on one figure, at an interval that holds however often one looks.

The figure is the loss, which a few seeds tell apart best; of designs that minimize different quantities it is the
accuracy: the mean over the categories of scenes, else that of the first modality.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmdit_cli.toy.comparability import same_loss
from mmdit_cli.toy.designs import DesignRuns
from mmdit_cli.toy.seed_plan import SeedPlan
from mmdit_cli.toy.seed_statistics import Verdict

MEAN = "accuracy, mean"


@dataclass(frozen=True)
class Decision:
    """A design against another, `to`: `decided` where the interval of the figure's difference leaves out 0 after so
    many seeds that both finished, `n`. None where there are too few of them for an interval. Where runs have `failed`,
    of either with the design's seeds, nothing is decided: the seeds that are left are no fair sample."""

    config: str
    to: str
    figure: str
    decided: bool
    failed: int
    n: int
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict | None


def decision(design: DesignRuns, first: DesignRuns, plan: SeedPlan) -> Decision:
    """What the runs so far say."""
    figures = {each.figure: each for each in design.differences(first, plan)}
    accuracies = [MEAN] * (MEAN in figures) + [name for name in figures if name.startswith("accuracy")] + ["accuracy"]
    figure = "loss" if same_loss(first.config, design.config) else accuracies[0]
    found = figures.get(figure)
    names = design.config.name, first.config.name, figure
    failed = sum(seed not in each.runs for each in (design, first) for seed in design.started)
    if found is None:
        return Decision(*names, False, failed, 0, None, None, None, None)
    decided = not failed and found.verdict in ("better", "worse")
    return Decision(*names, decided, failed, found.n, found.mean, found.low, found.high, found.verdict)
