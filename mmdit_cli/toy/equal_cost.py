"""As many steps as cost the same: designs that are compared at equal FLOPs or at equal time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import as_trained
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.trainer import Trainer

WARM, TIMED = 3, 15  # steps


def at_equal_cost(
    grids: Sequence[Sequence[PointConfig]], reference: ToolConfig, cost: Callable[[ToolConfig], float]
) -> list[list[PointConfig]]:
    """Every config with as many steps as cost what the reference's do, and one step at least.

    Args:
        cost: of a training step of a config.
    """
    budget = reference.train.steps * cost(reference)

    return [[with_steps(each, max(1, round(budget / cost(each.config)))) for each in grid] for grid in grids]


def with_steps(each: PointConfig, steps: int) -> PointConfig:
    """The config with so many training steps."""
    return replace(each, config=in_steps(each.config, steps))


def in_steps(config: ToolConfig, steps: int) -> ToolConfig:
    """The same with so many."""
    return replace(config, train=replace(config.train, steps=steps))


class StepFlops:
    """Model FLOPs of a config's training step, of a batch with the lengths of the data's first; counted once for all
    that have one model and one batch."""

    def __init__(self) -> None:
        self._known: list[tuple[ToolConfig, int]] = []

    def __call__(self, config: ToolConfig) -> float:
        asked = as_trained(config)
        for counted, flops in self._known:
            if (counted.model, counted.run) == (asked.model, asked.run):
                return flops
        self._known.append((asked, count_flops(asked).step_flops))
        return self._known[-1][1]


def step_seconds(config: ToolConfig, device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Seconds of a training step: the median of some, after a few that warm up, on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        trainer = Trainer(config, world_of(config), device=device, dtype=dtype, seed=0)
        for _ in range(WARM):
            trainer.step()
        return statistics.median(_timed(trainer) for _ in range(TIMED))
    finally:
        torch.set_num_threads(before)


def _timed(trainer: Trainer) -> float:
    began = time.perf_counter()
    trainer.step()
    return time.perf_counter() - began
