"""A call that is to fit into memory, and what a user could change to make it fit, each with its figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch

from mmdit_cli.memory.estimate import MemoryEstimate, estimate
from mmdit_cli.memory.training import PROFILED, Training
from mmdit_cli.model_parts.timed_call import Mode
from mmdit_cli.request.tool_config import ToolConfig

CHECKPOINT = "--set model.checkpoint_activations=true"


@dataclass(frozen=True)
class Demand:
    """A forward pass of a config's model, or a step of its training; `batch_size` None: the config's."""

    config: ToolConfig
    mode: Mode
    dtype: torch.dtype
    device: torch.device
    training: Training = PROFILED
    batch_size: int | None = None

    def estimate(self) -> MemoryEstimate:
        """Raises UserError where the model's sizes are beyond any machine."""
        return estimate(self.config, self.mode, self.dtype, self.device, self.batch_size, training=self.training)

    def peak(self) -> int:
        return self.estimate().peak


def changed(demand: Demand) -> dict[str, Demand]:
    """Recomputed activations and another dtype, by the option that asks for them, each alone and then both."""
    found = {}
    if demand.mode == "train" and not demand.config.model.checkpoint_activations:
        found[CHECKPOINT] = _with(demand, "model", checkpoint_activations=True)
    if demand.dtype.itemsize > 2:
        for text, other in {"": demand, **found}.items():
            found[f"--dtype bf16 {text}".rstrip()] = replace(other, dtype=torch.bfloat16)
    return found


def shrunk(demand: Demand, limit: int, *, section: str = "run") -> dict[str, Demand]:
    """The largest batch, and the largest square picture (or as many tokens), below those asked for that fit `limit`.

    Args:
        limit: bytes.
        section: of the config, that has the batch; where it is `train`, the data have the sizes that they have.
    """
    found = {}
    batch = demand.batch_size or demand.config.run.batch_size
    smaller = largest(lambda n: replace(demand, batch_size=n).peak(), limit, most=batch - 1)
    if smaller:
        found[f"--set {section}.batch_size={smaller}"] = replace(demand, batch_size=smaller)
    if section == "run":
        counts = {name: demand.config.tokens_of(name) for name in demand.config.model.inputs}
        name = max(counts, key=lambda name: counts[name])
        frames = demand.config.run.frames.get(name, 1)

        def at(side: int) -> Demand:
            return _with(demand, "run", tokens={**demand.config.run.tokens, name: frames * side * side})

        if side := largest(lambda n: at(n).peak(), limit, most=isqrt((counts[name] - 1) // frames)):
            found[f"--set run.tokens.{name}={frames * side * side}"] = at(side)
    return found


def largest(size: Callable[[int], int], limit: int, *, most: int | None = None) -> int:
    """The largest n from 1 (to `most`) with `size(n) <= limit`, 0 where there is none; `size` must not fall.

    Sizes mostly lie on a line, so each guess lies on the line through two known ones; every second guess halves what is
    left. The answer and the one above it have been tried themselves.
    """
    low, at_low, high, at_high = 0, 0, None if most is None else most + 1, None
    slope: float | None = None
    halve = False
    while high is None or high - low > 1:
        if high is not None and at_high is not None:
            line = low + int((limit - at_low) * (high - low) / (at_high - at_low))
            guess, halve = (low + high) // 2 if halve else line, not halve
        elif slope is None:
            guess = low + 1
        else:
            guess = low + int((limit - at_low) / slope) if slope > 0 else 2 * low
        guess = max(guess, low + 1)
        guess = min(guess, 1000 * max(low, 1) if high is None else high - 1)
        reached = size(guess)
        if reached > limit:
            high, at_high = guess, reached
        else:
            slope = (reached - at_low) / (guess - low) if low else None
            low, at_low = guess, reached
    return low


def _with(demand: Demand, section: str, **changes: Any) -> Demand:
    part = replace(getattr(demand.config, section), **changes)
    return replace(demand, config=replace(demand.config, **{section: part}))
