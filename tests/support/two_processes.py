"""Two processes as torchrun would start them, one of which dies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.ports import free_ports


def run_two(command: Sequence[str], folder: Path, *, patience: float) -> tuple[list[int], str]:
    """Their exit codes, and what the first says on standard error."""
    meeting = dict(MASTER_ADDR="localhost", MASTER_PORT=free_ports(1)[0], WORLD_SIZE="2", PYTHONPATH=str(ROOT))
    both = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        (_, said), _ = (each.communicate(timeout=patience) for each in both)
    finally:
        for each in both:
            each.kill()
    return [each.returncode for each in both], said
