"""How often a config is told from itself: the same network, trained on the same task with other seeds. Of comparisons
that are decided on what differs by chance alone there may be one in twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmdit_cli.errors import CheckFailed
from mmdit_cli.model_parts.intervals import CONFIDENCE, FEWEST_PAIRS
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy.comparison import compare_designs, failed_runs
from mmdit_cli.toy.decisions import Decision
from mmdit_cli.toy.runs import Failure, PlannedRun, Run, Runner, run_folder
from mmdit_cli.toy.seed_plan import SeedPlan

NAME = "a config against itself"
SIZE, STEPS = "ladder/1", 40
SHORT = (  # its loss decides, so that the rest of a run is to be quick
    f"train.checkpoint_every={STEPS}",
    "train.evaluate_every=0",
    "train.warmup_steps=10",
    "train.evaluation_samples=6",
    "train.sampler.steps=1",
)
PAIRINGS = 10_000


@dataclass(frozen=True)
class AgainstItself:
    """What came of each comparison, of at most `most` pairs of runs. `again`: the share that is decided of as many
    comparisons as `PAIRINGS`, of the same runs in pairs drawn anew; None of too few runs."""

    found: Sequence[Decision]
    most: int
    steps: int
    again: float | None

    @property
    def decided(self) -> int:
        return sum(each.decided for each in self.found)

    @property
    def interval(self) -> tuple[float, float]:
        """In which share of comparisons this happens, as far as they tell: at 95 % (Clopper and Pearson 1934)."""
        from scipy.special import betaincinv

        k, n, tail = self.decided, len(self.found), (1 - CONFIDENCE) / 2
        low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
        return low, float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0


class OtherSeeds:
    """Trains the design `name` with the seeds `apart` from those that are asked for."""

    def __init__(self, runner: Runner, name: str, apart: int) -> None:
        self.runner, self.name, self.apart = runner, name, apart
        self.jobs, self.threads = runner.jobs, runner.threads

    def __call__(self, planned: Sequence[PlannedRun]) -> list[Run | Failure]:
        return self.runner([self._moved(each) if each.config.name == self.name else each for each in planned])

    def _moved(self, planned: PlannedRun) -> PlannedRun:
        seed = planned.seed + self.apart
        return replace(planned, seed=seed, folder=run_folder(planned.folder.parent, planned.config, seed))


class Itself:
    """Comparisons of one config with itself, of which no two share a seed; runs that the folder has are not trained
    again. `losses`: of the runs so far."""

    def __init__(self, runner: Runner, folder: Path, *, most: int, steps: int = STEPS) -> None:
        self.runner, self.folder, self.most, self.steps = runner, folder, most, steps
        self.losses: list[float] = []

    def comparisons(self, count: int) -> Iterator[Decision]:
        """Train them, one after the other.

        Raises:
            CheckFailed: a run failed.
        """
        once, again = (
            load_tool_config(SIZE, [*SHORT, f"train.steps={self.steps}", f"name={name}"]) for name in ("once", "again")
        )
        for number in range(count):
            plan = SeedPlan(2 * self.most * number, self.most, auto=True)
            runner = OtherSeeds(self.runner, again.name, self.most)
            results, comparison = compare_designs([once, again], plan, folder=self.folder, runner=runner)
            if failed := failed_runs(comparison):
                raise CheckFailed(failed)
            self.losses += [each.loss["last"] for each in results]
            yield comparison.decisions[0]

    def summary(self, found: Sequence[Decision]) -> AgainstItself:
        """What all of them tell."""
        return AgainstItself(found, self.most, self.steps, decided_in_new_pairs(self.losses, self.most))


def decided_in_new_pairs(losses: Sequence[float], most: int) -> float | None:
    """How often `--seeds auto` decides between runs of which each is drawn once at random for a comparison of `most`
    pairs: the noise is that of real trainings, and the pairings are many."""
    from scipy.special import stdtrit

    if len(losses) < 2 * most:
        return None
    rows = np.random.default_rng(0).permuted(np.tile(losses, (PAIRINGS, 1)), axis=1)
    differences, plan = rows[:, :most] - rows[:, most : 2 * most], SeedPlan(0, most, auto=True)
    decided = np.zeros(PAIRINGS, bool)
    for n in range(FEWEST_PAIRS, most + 1):
        seen = differences[:, :n]
        reach = stdtrit(n - 1, 1 - plan.level(n) / 2) * seen.std(axis=1, ddof=1) / n**0.5
        decided |= abs(seen.mean(axis=1)) > reach
    return float(decided.mean())
