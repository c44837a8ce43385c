"""A model of many like blocks shortened to a few of them, whose figures tell those of the whole.

Of a run of many blocks that are alike only the first and the last few are run: those beside the gap tell what one more
block adds before, in and after its forward and its backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmdit.networks.transformer import MMDiT
from mmdit_cli.memory.fake_tensors import StorageTracker
from mmdit_cli.model_parts.components import OTHER, Component
from mmdit_cli.model_parts.flop_count import outputs_sum
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, Follower
from mmdit_cli.model_parts.like_blocks import keep_blocks, like_blocks
from mmdit_cli.request.inputs import outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig

BEFORE, BEHIND = 2, 2  # the gap, of a run of like blocks: its ends, and one of each side that is as those between
Curves = Mapping[tuple[str, int], Sequence[int]]  # bytes held after each allocation, by phase and block


@dataclass(frozen=True)
class ShortRun:
    """Like blocks of which some are missing. `gap`: the place, among all blocks kept, of the first one behind it;
    `block`: one of them."""

    gap: int
    missing: int
    block: nn.Module


@dataclass(frozen=True)
class Lengthened:
    """A run, and the bytes that one more block leaves after its forward pass, and after its backward pass."""

    run: ShortRun
    forward: int
    backward: int


def shorten(model: nn.Module, before: int = BEFORE) -> list[ShortRun]:
    """Take the repeated blocks out of the model, in place; so many of a run stay before the gap."""
    runs, kept, place = [], [], 0
    groups = like_blocks(model)
    for group in groups:
        blocks = group.blocks
        if (missing := len(blocks) - before - BEHIND) > 0:
            blocks = [*blocks[:before], *blocks[-BEHIND:]]
            runs.append(ShortRun(place + before, missing, blocks[1]))
        kept.append(blocks)
        place += len(blocks)
    keep_blocks(groups, kept)
    return runs


def lengthened(curves: Curves, runs: Sequence[ShortRun]) -> list[Lengthened] | None:
    """What the missing blocks of each run add; None: it depends on the block, so that the whole model has to be run."""
    added = [_added(curves, run) for run in runs]
    return None if None in added else [each for each in added if each is not None]


def _added(curves: Curves, run: ShortRun) -> Lengthened | None:
    steps = []
    for phase, one, next_ in ((FORWARD, run.gap - 1, run.gap), (BACKWARD, run.gap, run.gap - 1)):
        before, after = (curves.get((phase, place), []) for place in (one, next_))
        differences = {b - a for a, b in zip(before, after, strict=False)} or {0}
        if len(before) != len(after) or len(differences) > 1:
            return None
        steps.append(differences.pop())
    forward, freed = steps
    return Lengthened(run, forward, freed + forward)  # its backward pass lets its activations go


def peak_of(curves: Curves, phase: str, added: Sequence[Lengthened]) -> int:
    """The highest point of a phase with the missing blocks' bytes put in."""
    peak = 0
    for (name, place), curve in curves.items():
        if name == phase:
            more = sum(
                each.run.missing * (each.forward if place >= each.run.gap else 0 if phase == FORWARD else each.backward)
                for each in added
            )
            peak = max(peak, max(curve) + more)
    return peak


class BlockFollower(Follower):
    """Knows the block that ran last: what lies between two blocks is the earlier one's, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        owners = [module for module in model.modules() if isinstance(module, MMDiT)]
        blocks = [block for owner in owners for block in (*owner.blocks, *owner.single_blocks)]
        super().__init__([Component(str(index), None, [block]) for index, block in enumerate(blocks)])
        self.last = -1  # before the first

    def entered(self) -> None:
        if self.running.name != OTHER:
            index = int(self.running.name)
            self.last = index if self.phase == FORWARD else min(index, self.last)

    def here(self) -> tuple[str, int]:
        """The phase, and the block."""
        return self.phase, self.last


def followed_call(
    model: nn.Module,
    config: ToolConfig,
    kwargs: Mapping[str, Any],
    blocks: BlockFollower,
    tracker: StorageTracker,
    autocast: AbstractContextManager[Any],
) -> tuple[int, int]:
    """Call a model as `profile` does, forward and, where it trains, backward: bytes held after each."""
    with blocks, tracker:
        if not model.training:
            with torch.no_grad():
                model(**kwargs)
            return tracker.held, 0
        with autocast:
            outputs = outputs_by_name(config, model(**kwargs))
        loss = outputs_sum(outputs)
        del outputs
        forward = tracker.held
        blocks.start(BACKWARD)
        loss.backward()
        return forward, tracker.held
