"""What a comparison was begun with, in its folder, and whether it may go on otherwise."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mmdit.config.regular_file import read_regular
from mmdit.weights.atomic import write_atomic
from mmdit.weights.checkpoints import LONGEST
from mmdit_cli.errors import UserError
from mmdit_cli.output.run_files import PLAN
from mmdit_cli.toy.seed_plan import SeedPlan


def keep_plan(folder: Path, plan: SeedPlan) -> None:
    """Keep how many seeds a comparison is trained with, for when it is resumed. More of a fixed number may be added;
    those that are added until it is decided have shared out how often they may be wrong.

    Raises:
        UserError: the comparison was begun otherwise.
        OSError: it can't be written.
    """
    path, before = folder / PLAN, _kept(folder / PLAN)
    if before is not None and before != plan and (before.auto or plan.auto):
        raise UserError(
            f"--seeds: the comparison in {folder} was begun with {before.words}, and how often it may be wrong is "
            f"shared out over these; go on with {before.words}, or begin a new one"
        )
    if before != plan:
        write_atomic(path, (json.dumps({"seeds": asdict(plan)}, indent=2) + "\n").encode())


def _kept(path: Path) -> SeedPlan | None:
    """None where it was not written, or is damaged."""
    try:
        return SeedPlan(**json.loads(read_regular(path, LONGEST))["seeds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
