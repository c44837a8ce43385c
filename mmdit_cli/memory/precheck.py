"""Does it fit? Asked before anything of a model's size is allocated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from mmdit_cli.errors import UserError
from mmdit_cli.memory.allocations import forward_allocations
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.free_memory import free_memory

if TYPE_CHECKING:
    from mmdit_cli.model_parts.timed_call import Mode
    from mmdit_cli.request.tool_config import ToolConfig


def check_fits(
    config: ToolConfig,
    mode: Mode,
    dtype: torch.dtype,
    device: torch.device,
    what: Literal["profile", "train-toy"] = "profile",
) -> None:
    """Refuse what would not fit into the memory that is free on the device, called as the config's `run` says.

    Raises:
        UserError: it says what is needed, what there is, and which changes would make it fit, each one tried.
    """
    from mmdit_cli.memory.demand import Demand, changed, shrunk
    from mmdit_cli.memory.training import PROFILED, TRAINED

    free = free_memory(device)
    if free is None:
        return
    if mode == "forward" and forward_allocations(config, dtype) <= free:
        return
    toy = what == "train-toy"
    trained = replace(TRAINED, optimizer=config.train.optimizer.kind)
    demand = Demand(config, mode, dtype, device, trained if toy else PROFILED)
    section = "train" if toy else "run"
    total = demand.peak()
    if total <= free:
        return
    others = changed(demand)
    ways = shrunk(demand, free, section=section) | others
    fitting = [f"{way} ({bytes_(size)})" for way, each in ways.items() if (size := each.peak()) <= free]
    if not fitting and others:  # all of it, and then smaller
        text, least = list(others.items())[-1]
        ways = shrunk(least, free, section=section)
        fitting = [f"{text} {way} ({bytes_(each.peak())})" for way, each in ways.items()]
    hint = f"it would fit with {', or '.join(fitting)}" if fitting else "no smaller batch or resolution would do"
    raise UserError(
        f"{what} of {config.name} ({mode}) needs {bytes_(total)} of memory and {bytes_(free)} are free; {hint}"
    )
