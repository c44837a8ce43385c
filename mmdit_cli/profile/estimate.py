"""`mmdit profile --estimate`: what the profile's call would hold, without building the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdit.weights.shards import parse_size
from mmdit_cli.errors import UserError

if TYPE_CHECKING:
    import torch

    from mmdit_cli.memory.estimate import Mode
    from mmdit_cli.request.request import Request
    from mmdit_cli.request.sweep import PointConfig


def estimate_command(request: Request, grid: Sequence[PointConfig], *, mode: Mode, memory: str | None) -> None:
    """Estimate each config at each point of the grid and show it.

    Args:
        memory: what it should fit into: bytes, or a text such as 80GB or 24GiB.

    Raises:
        UserError: the size or the device's name is none, or a model's sizes are beyond any machine.
    """
    limit = memory_limit(memory)
    device, dtype = estimate_device(request), request.torch_dtype

    from mmdit_cli.memory.tables import estimate_tables
    from mmdit_cli.memory.verdict import judge_memory
    from mmdit_cli.output.console import stage_progress

    results = []
    with stage_progress() as on_progress:
        for point in grid:
            on_progress(f"{point.config.name}: estimating", 0, None)
            results.append(judge_memory(point.config, mode, dtype, device, limit, point.point))
    request.show(results, lambda width: estimate_tables(results, width))


def memory_limit(text: str | None) -> int | None:
    """Bytes. Raises UserError where the text is no size."""
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise UserError(f"--memory: {error}") from None


def estimate_device(request: Request) -> torch.device:
    """The device, which need not be there: `cuda` can be asked about on a machine without it."""
    import torch

    if request.device == "cuda" and not torch.cuda.is_available():
        return torch.device("cuda")
    return request.torch_device
