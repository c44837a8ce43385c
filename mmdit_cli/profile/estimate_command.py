"""`mmdit profile --estimate`: what the profile's call would hold, without building the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmdit_cli.memory.demand import Demand
from mmdit_cli.memory.tables import estimate_tables
from mmdit_cli.memory.training import Training
from mmdit_cli.memory.verdict import MemoryVerdict, judge_memory
from mmdit_cli.output.console import stage_progress
from mmdit_cli.request.numbers import read_size
from mmdit_cli.request.sweep import PointConfig, over_grid

if TYPE_CHECKING:
    from mmdit_cli.memory.estimate import Mode
    from mmdit_cli.request.request import Request


def estimate_command(
    request: Request, grid: Sequence[PointConfig], *, mode: Mode, memory: str | None, training: Training
) -> None:
    """Estimate each config at each point of the grid and show it. A CUDA device need not be there.

    Args:
        training: what a training step keeps.
        memory: what it should fit into: bytes, or a text such as 80GB or 24GiB.

    Raises:
        UserError: the size or the device's name is none, or a model's sizes are beyond any machine.
    """
    limit = None if memory is None else read_size(memory, "--memory")
    device, dtype = request.named_device, request.torch_dtype
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        device = torch.device("cuda")  # it is not here: any other, or none
    with stage_progress() as on_progress:

        def judged(point: PointConfig) -> MemoryVerdict:
            on_progress(f"{point.config.name}: estimating", 0, None)
            return judge_memory(Demand(point.config, mode, dtype, device, training), limit, point.point)

        done = over_grid(request, grid, judged)
    results = [verdict for _, verdict in done]
    request.show(results, lambda width: estimate_tables(results, width), configs=[point.config for point, _ in done])
