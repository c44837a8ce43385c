"""The command line that runs this once more."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mmdit_cli.output.console import is_one_of_several


def typed_command() -> list[str]:
    """What was typed."""
    return launched(sys.argv[1:])


def launched(words: Sequence[str]) -> list[str]:
    """`mmdit` with these words, or by torchrun where this is one of its processes: in as many of them."""
    every = os.environ.get("WORLD_SIZE", "")
    here = os.environ.get("LOCAL_WORLD_SIZE", every)
    if not is_one_of_several() or not (every.isdecimal() and here.isdecimal()):
        return ["mmdit", *words]
    machines = int(every) // max(1, int(here))
    several = ["--nnodes", str(machines)] if machines > 1 else []
    return ["torchrun", *several, "--nproc-per-node", here, "-m", "mmdit_cli", *words]
