"""Losses of a narrow and a wide network over learning rates, in both parametrizations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from mmdit_cli.toy.coordinates import Parametrization
from mmdit_cli.toy.parametrization import at_width
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns, PlannedRun, Run
from mmdit_cli.toy.seed_statistics import Spread, spread

BASE = "ablations/attention/standard"  # two blocks, 64 wide, heads of 16
WIDTHS = (64, 256)
RATES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
KINDS: tuple[Parametrization, ...] = get_args(Parametrization)

Point = tuple[Parametrization, int, float]  # its parametrization, width and learning rate


@dataclass(frozen=True)
class Transfer:
    """`losses` over seeds of each point; None where a run diverged."""

    config: ToolConfig
    device: str
    steps: int
    seeds: int
    losses: Mapping[Point, Spread | None]

    def best(self, kind: Parametrization, width: int) -> float:
        """The learning rate of the least loss in the mean."""

        def loss(rate: float) -> float:
            found = self.losses[kind, width, rate]
            return math.inf if found is None else found.mean

        return min(RATES, key=loss)

    def moved(self, kind: Parametrization) -> int:
        """Steps of the grid by which the best learning rate of the wide network lies below that of the narrow one."""
        narrow, wide = (RATES.index(self.best(kind, width)) for width in (WIDTHS[0], WIDTHS[-1]))
        return narrow - wide


def transfer(folder: Path, device: torch.device, *, steps: int, seeds: int) -> Transfer:
    """Train every point with every seed; what is finished in the folder is taken as it is."""
    config = load_tool_config(
        BASE, [f"train.steps={steps}", f"train.checkpoint_every={steps}", "train.evaluate_every=0", *_QUICK]
    )
    points = [(kind, width, rate) for width in WIDTHS for kind in KINDS for rate in RATES]
    runner = InTurns(RunSettings(device, torch.float32, resume=True).train)
    planned = [(point, _planned(config, point, seed, folder)) for seed in range(seeds) for point in points]
    outcomes = runner([run for _, run in planned])
    found: dict[Point, list[float]] = {}
    for (point, _), outcome in zip(planned, outcomes, strict=True):
        loss = outcome.result.loss["last"] if isinstance(outcome, Run) else math.inf
        found.setdefault(point, []).append(loss)
    losses = {point: spread(own) if all(map(math.isfinite, own)) else None for point, own in found.items()}
    return Transfer(config, str(device), steps, seeds, losses)


# small batches, for a core is to do with it; of samples nothing is asked
_QUICK = ("train.batch_size=16", "train.evaluation_samples=8", "train.sampler.steps=2")


def _planned(config: ToolConfig, point: Point, seed: int, folder: Path) -> PlannedRun:
    kind, width, rate = point
    settings = replace(config.train, learning_rate=rate, parametrization=kind)
    name = f"{kind}-{width}-{rate}"
    own = replace(config, name=name, model=at_width(config.model, width), train=settings)
    return PlannedRun(own, seed, folder / f"{name}-seed{seed}")
