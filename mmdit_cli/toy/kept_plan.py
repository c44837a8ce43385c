"""What a comparison was begun with, in its folder, and whether it may go on otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdit.config.regular_file import read_regular
from mmdit.options import as_data
from mmdit.weights.atomic import write_atomic
from mmdit.weights.checkpoints import LONGEST
from mmdit_cli.errors import UserError
from mmdit_cli.output.run_files import PLAN
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import as_trained
from mmdit_cli.toy.seed_plan import SeedPlan


class KeptPlan:
    """`plan.json` in the folder of a comparison; one that is damaged counts for none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = _read(folder / PLAN)

    def keep_seeds(self, plan: SeedPlan) -> None:
        """Keep how many seeds there are to be. More of a fixed number may be added; those that are added until it is
        decided have shared out how often they may be wrong.

        Raises:
            UserError: the comparison was begun otherwise.
            OSError: it can't be written.
        """
        before = _seeds(self._data.get("seeds"))
        if before is not None and before != plan and (before.auto or plan.auto):
            raise UserError(
                f"--seeds: the comparison in {self.folder} was begun with {before.words}, and how often it may be "
                f"wrong is shared out over these; go on with {before.words}, or begin a new one"
            )
        if before != plan:
            self._write("seeds", asdict(plan))

    def keep_look(self, plan: SeedPlan) -> None:
        """Keep that the comparison is shown with so many seeds.

        Raises:
            OSError: it can't be written.
        """
        if plan not in self._looks:
            self._write("looks", [*(asdict(each) for each in self._looks), asdict(plan)])

    def looks(self, plan: SeedPlan) -> list[str]:
        """With which other seeds the comparison has been shown before, as they were asked for."""
        return list(dict.fromkeys(each.words for each in self._looks if each != plan))

    def kept_seconds(self, config: ToolConfig, measure: Callable[[ToolConfig], float]) -> float:
        """Seconds of a training step, measured once for all configs with one model, one batch and one kind of step, so
        that points of a tuning have as many steps as each other, and resumed runs as many as before.

        Raises:
            OSError: they can't be written.
        """
        asked = as_trained(config)
        of: dict[str, Any] = {"model": as_data(asked.model), "run": as_data(asked.run)}
        of |= {
            "optimizer": asked.train.optimizer.kind,
            "compile": asked.train.compile,
            "alignment": asked.train.alignment is not None,
            "parametrization": asked.train.parametrization,
        }
        found = self._data.get("step_seconds")
        kept = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        for each in kept:
            if each.get("of") == of and isinstance(each.get("seconds"), float):
                return float(each["seconds"])
        seconds = measure(config)
        self._write("step_seconds", [*kept, {"of": of, "seconds": seconds}])
        return seconds

    @property
    def _looks(self) -> list[SeedPlan]:
        found = self._data.get("looks")
        return [look for each in (found if isinstance(found, list) else []) if (look := _seeds(each))]

    def _write(self, key: str, value: Any) -> None:
        self._data[key] = value
        write_atomic(self.folder / PLAN, (json.dumps(self._data, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_regular(path, LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _seeds(data: Any) -> SeedPlan | None:
    try:
        return SeedPlan(**data)
    except TypeError:
        return None
