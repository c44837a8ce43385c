"""Training several runs: which, what came of each, and one after another in this process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from mmdit_cli.output.console import message, training_progress
from mmdit_cli.output.run_files import METRICS, read_metrics
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.run_folder import safe_name
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.trainer import Diverged
from mmdit_cli.toy.training import Interrupted, Progress

Records: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PlannedRun:
    """A config that is to be trained with a seed, in a folder of the run's own; `about`: what else tells it apart."""

    config: ToolConfig
    seed: int
    folder: Path
    about: str = ""

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.config.name, self.about, f"seed {self.seed}")))


@dataclass(frozen=True)
class Run:
    """A finished run with its metrics."""

    result: TrainResult
    records: Records

    def to_target(self, target: float) -> tuple[float, float] | None:
        """Steps and training seconds until every modality had the target; None where it never was seen to."""
        seconds = {record["step"]: record["seconds"] for record in self.records if "seconds" in record}
        before: tuple[float, float, float] | None = None
        for record in self.records:
            if "accuracy" not in record:
                continue
            now = (record["step"], seconds[record["step"]], min(record["accuracy"].values()))
            if now[2] >= target:
                if before is None:
                    return now[:2]
                share = (target - before[2]) / (now[2] - before[2])
                return before[0] + share * (now[0] - before[0]), before[1] + share * (now[1] - before[1])
            before = now
        return None


@dataclass(frozen=True)
class Failure:
    """A run that diverged or died, and the last step that it finished."""

    config: str
    seed: int
    step: int
    message: str
    run_dir: str


class Runner(Protocol):
    """Trains runs, `jobs` of them at a time on `threads` each, and says what came of each, in their order.

    Raises:
        UserError: a run can't be made as it was asked for.
        Interrupted: Ctrl-C; what was under way has been saved, and the message says which runs those were.
    """

    jobs: int
    threads: int

    def __call__(self, planned: Sequence[PlannedRun]) -> list[Run | Failure]: ...


# what trains a run, and what it tells its progress and messages
Train = Callable[[PlannedRun, Progress, Callable[[str], None]], TrainResult]


class InTurns:
    """Trains one run after another in this process."""

    jobs = 1

    def __init__(self, train: Train) -> None:
        self.train, self.done, self.threads = train, 0, torch.get_num_threads()

    def __call__(self, planned: Sequence[PlannedRun]) -> list[Run | Failure]:
        total = self.done + len(planned)
        return [self._one(each, total) for each in planned]

    def _one(self, planned: PlannedRun, total: int) -> Run | Failure:
        gc.collect()  # of the run before: torch's schedule and its optimizer hold each other, and the weights
        self.done += 1
        try:
            with training_progress(f"{planned.title} ({self.done}/{total})") as on_progress:
                return finished(self.train(planned, on_progress, message))
        except Diverged as problem:
            return failure(planned, str(problem))
        except Interrupted as stop:
            where = f"{planned.title}, run {self.done} of {total} in {planned.folder.parent}: {stop.where}"
            raise Interrupted(where, stop.command) from None


def run_folder(folder: Path, config: ToolConfig, seed: int) -> Path:
    """Where a comparison in a folder has the run of a config with a seed."""
    return folder / f"{safe_name(config.name)}-seed{seed}"


def finished(result: TrainResult) -> Run:
    """A run with what its folder says of the way."""
    return Run(result, read_metrics(Path(result.files["metrics"])))


def failure(planned: PlannedRun, message: str) -> Failure:
    """What is known of a run that did not finish."""
    metrics = planned.folder / METRICS
    steps = [record["step"] for record in read_metrics(metrics) if "loss" in record] if metrics.exists() else []
    return Failure(planned.config.name, planned.seed, max(steps, default=0), message, str(planned.folder))
