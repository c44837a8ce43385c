"""Is one design better than another? Each is trained with several seeds, told apart where their spread allows it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdit_cli.errors import UserError
from mmdit_cli.measure.flops import count_flops
from mmdit_cli.schema import ToolConfig
from mmdit_cli.toy.train import TrainResult
from mmdit_cli.toy.trainer import Diverged

BETTER, WORSE, ALIKE, UNKNOWN = "better", "worse", "can't be told apart", "one seed tells nothing"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A figure over a design's runs: mean, standard deviation (None for one run), smallest and largest."""

    mean: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A figure less that of the first design, seed by seed: the mean and its 95 % interval (None for one seed)."""

    mean: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Design:
    """One config's runs together.

    `steps_to_target`, `seconds_to_target` and `flops_to_target` are medians over the `reached` runs in which an
    evaluation showed `target` accuracy in every modality; the first such evaluation counts, so that they are known to
    `train.evaluate_every` steps. Seconds are at a run's mean speed, evaluations apart; FLOPs are model FLOPs at the
    batch size of training and the token counts of `run`. The differences are None for the first design.
    """

    config: str
    runs: int
    failed: list[str]
    parameters: int
    step_flops: int
    loss: Spread | None
    accuracy: dict[str, Spread]
    held_out: dict[str, Spread]
    target: float
    reached: int
    steps_to_target: float | None
    seconds_to_target: float | None
    flops_to_target: float | None
    loss_difference: Difference | None
    accuracy_difference: dict[str, Difference]


@dataclass
class Runs:
    """What came of each design's runs, by seed."""

    config: ToolConfig
    results: dict[int, TrainResult] = field(default_factory=dict)
    records: dict[int, Sequence[Record]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def run_designs(
    configs: Sequence[ToolConfig],
    seeds: Sequence[int],
    train: Callable[[ToolConfig, int], TrainResult | None],
    read: Callable[[TrainResult], Sequence[Record]],
    on_message: Callable[[str], None] = lambda message: None,
) -> list[Runs]:
    """Train each config with each seed, the configs in turn for every seed, so that the machine's drift hits all alike.

    A run that diverges is noted, and the others go on.

    Args:
        train: trains a config with a seed.
        read: the metrics of a run.

    Raises:
        UserError: two configs have one name.
    """
    names = [config.name for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two configs are called {name}; give each a name of its own to tell them apart")
    designs = [Runs(config) for config in configs]
    for seed in seeds:
        for design in designs:
            try:
                result = train(design.config, seed)
            except Diverged as problem:
                design.failed.append(f"seed {seed}: {problem}")
                on_message(f"{design.config.name}, {design.failed[-1]}")
                continue
            if result is not None:
                design.results[seed], design.records[seed] = result, read(result)
    return designs


def compare_designs(designs: Sequence[Runs], target: float) -> list[Design]:
    """What the runs say of the designs, each against the first."""
    return [_design(each, designs[0] if index else None, target) for index, each in enumerate(designs)]


def _design(runs: Runs, first: Runs | None, target: float) -> Design:
    results, settings = list(runs.results.values()), runs.config.train
    flops_config = runs.config.model_copy(
        update={"run": runs.config.run.model_copy(update={"batch_size": settings.batch_size})}
    )
    counted = count_flops(flops_config)
    reached = {seed: step for seed in runs.results if (step := steps_to(runs.records[seed], target)) is not None}
    steps = statistics.median(reached.values()) if reached else None
    names = list(results[0].accuracy) if results else []
    shared = [seed for seed in runs.results if first is not None and seed in first.results]

    def against(figure: Callable[[TrainResult], float], *, more_is_better: bool) -> Difference:
        assert first is not None
        pairs = [(figure(runs.results[seed]), figure(first.results[seed])) for seed in shared]
        return difference([mine - theirs for mine, theirs in pairs], more_is_better=more_is_better)

    return Design(
        config=runs.config.name,
        runs=len(results) + len(runs.failed),
        failed=runs.failed,
        parameters=counted.parameters,
        step_flops=counted.step_flops,
        loss=spread([r.loss["last"] for r in results]) if results else None,
        accuracy={name: spread([r.accuracy[name] for r in results]) for name in names},
        held_out={name: spread([r.held_out[name] for r in results]) for name in names},
        target=target,
        reached=len(reached),
        steps_to_target=steps,
        seconds_to_target=statistics.median(step / runs.results[s].steps_per_s for s, step in reached.items())
        if reached
        else None,
        flops_to_target=None if steps is None else steps * counted.step_flops,
        loss_difference=against(lambda r: r.loss["last"], more_is_better=False) if shared else None,
        accuracy_difference={
            name: against(lambda r, name=name: r.accuracy[name], more_is_better=True)  # type: ignore[misc]
            for name in names
            if shared
        },
    )


def steps_to(records: Sequence[Record], target: float) -> int | None:
    """The step of the first evaluation with `target` accuracy in every modality; None where there was none."""
    for record in records:
        if "accuracy" in record and min(record["accuracy"].values()) >= target:
            return int(record["step"])
    return None


def spread(values: Sequence[float]) -> Spread:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), sd, min(values), max(values))


def difference(values: Sequence[float], *, more_is_better: bool) -> Difference:
    """The mean of paired differences with Student's 95 % interval: mean ± t(n - 1) sd / sqrt(n). Where it leaves out 0,
    the difference is larger than the spread over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Difference(mean, None, None, UNKNOWN)
    half = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    low, high = mean - half, mean + half
    verdict = ALIKE if low <= 0 <= high else BETTER if (mean > 0) == more_is_better else WORSE
    return Difference(mean, low, high, verdict)


EXACT_T = (12.7062, 4.3027, 3.1824, 2.7764)  # where the expansion is off by more than a thousandth


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: exact to 4 degrees of freedom, then the expansion in 1 / n around the normal
    quantile (Abramowitz and Stegun 1964, 26.7.5)."""
    if freedom <= len(EXACT_T):
        return EXACT_T[freedom - 1]
    z, n = statistics.NormalDist().inv_cdf(0.975), freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, start=1))
