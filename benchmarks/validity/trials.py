"""Findings tried on the toy: both designs trained with seeds until they are told apart, or no more are allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from benchmarks.validity.findings import Finding
from mmdit_cli.toy.comparison import compare_designs
from mmdit_cli.toy.decisions import Decision
from mmdit_cli.toy.runs import PlannedRun, Runner
from mmdit_cli.toy.scenes.source import MEAN, Scenes
from mmdit_cli.toy.seed_plan import SeedPlan
from mmdit_cli.toy.train_result import TrainResult, kept_result
from mmdit_cli.toy.training import Progress

Answer = Literal["agrees", "opposes", "can't tell", "too early", "failed"]
SAME = {"loss": 0.02, "accuracy": 0.03}  # a difference that counts as none: a share of the plain one's loss, and points
Column = tuple[str, int]  # a size, and steps


@dataclass(frozen=True)
class Trial:
    """A finding at a size, after so many steps: how the claimed design differs from the plain one.

    Attributes:
        loss: the plain one's.
        drawn: the share that each draws right, the claimed one and the plain one, in the mean of the categories. None
            where one has no run that finished.
        parameters, flops: how many times the plain one's the claimed one has, and takes in a step.
        failed: which of the two, `plain` and `claimed`, had a run that diverged.
    """

    finding: Finding
    size: str
    steps: int
    found: Decision
    loss: float
    drawn: tuple[float, float] | None = None
    parameters: float = 1.0
    flops: float = 1.0
    failed: frozenset[str] = frozenset()

    @property
    def column(self) -> Column:
        return self.size, self.steps

    @property
    def answer(self) -> Answer:
        """What the toy says of the finding. That two are the same is known where the whole interval counts as none; and
        it is too early for accuracy to tell where neither draws more than a guesser gets right."""
        found, expected = self.found, self.finding.expected
        if self.failed:  # the seeds that are left are no fair sample; that one design alone diverges tells by itself
            if expected == "same" or len(self.failed) > 1:
                return "failed"
            return "agrees" if ("plain" in self.failed) == (expected == "better") else "opposes"
        if found.low is None or found.high is None:
            return "failed" if found.n == 0 else "can't tell"
        if found.figure != "loss" and not found.decided and max(self.drawn or (1.0,)) <= guessed():
            return "too early"
        if expected != "same":
            told = found.verdict in ("better", "worse")
            return "can't tell" if not told else "agrees" if found.verdict == expected else "opposes"
        least = SAME["loss"] * self.loss if found.figure == "loss" else SAME["accuracy"]
        if max(abs(found.low), abs(found.high)) <= least:
            return "agrees"
        return "opposes" if max(found.low, -found.high) > least else "can't tell"


@cache
def guessed() -> float:
    """What a guesser draws right, in the mean of the categories."""
    return Scenes(16).chance()[MEAN]


class NotKept(Exception):
    """A run has not been made, or not to its end."""


def only_kept(planned: PlannedRun, on_progress: Progress, on_message: Callable[[str], None]) -> TrainResult:
    """The result of a run that was made before, in place of training it.

    Raises:
        NotKept: see there.
    """
    result = kept_result(planned.folder, planned.config, planned.seed, torch.float32)
    if result is None:
        raise NotKept
    return result


def try_finding(
    finding: Finding, size: str, runner: Runner, folder: Path, *, most_seeds: int, settings: Sequence[str]
) -> Trial:
    """Train what it takes; runs that the folder has, of this finding or another at that size, are not trained again.

    Args:
        settings: of all runs alike, as by `--set`.
    """
    plain, claimed = finding.designs(size, settings)
    plan = SeedPlan(0, most_seeds, auto=True)
    _, comparison = compare_designs([plain, claimed], plan, folder=folder, runner=runner)
    (found,) = comparison.decisions
    base, other = comparison.designs
    diverged = {each.config for each in comparison.failures}
    drawn = [each.accuracy[MEAN].mean for each in (other, base) if MEAN in each.accuracy]
    return Trial(
        finding=finding,
        size=size,
        steps=plain.train.steps,
        found=found,
        loss=base.loss.mean if base.loss else math.nan,
        drawn=(drawn[0], drawn[1]) if len(drawn) == 2 else None,
        parameters=other.parameters / base.parameters,
        flops=other.step_flops / base.step_flops,
        failed=frozenset(which for which, each in (("plain", plain), ("claimed", claimed)) if each.name in diverged),
    )
