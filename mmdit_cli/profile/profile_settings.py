"""How to measure a profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mmdit_cli.model_parts.timed_call import Mode

Progress = Callable[[str, int, int | None], None]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """How to measure.

    `repeats`: rounds; None: until each median is known to 2 % or `max_seconds` a config are up. `cold`: with the caches
    flushed before each run. `fresh`: believe no ceilings of earlier runs. `trace`: where a Chrome trace of one call of
    the last config goes.
    """

    mode: Mode = "forward"
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    seed: int = 0
    compile: bool = False
    cold: bool = False
    repeats: int | None = None
    max_seconds: float = 6.0
    fresh: bool = False
    trace: Path | None = None
