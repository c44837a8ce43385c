"""How all runs of a comparison are trained; a finished one of a comparison that is resumed is not trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mmdit_cli.toy.run_folder import holds_run
from mmdit_cli.toy.runs import PlannedRun, Train
from mmdit_cli.toy.train_result import TrainResult, kept_result
from mmdit_cli.toy.trainer import Precision
from mmdit_cli.toy.training import Progress, train


@dataclass(frozen=True)
class RunSettings:
    """What `train` is told of every run alike."""

    device: torch.device
    dtype: torch.dtype
    resume: bool = False
    allow_changes: bool = False
    track: tuple[str, ...] = ()
    command_line: tuple[str, ...] = ()

    @property
    def precision(self) -> Precision:
        return "pure" if self.dtype == torch.float32 else "mixed"

    def train(self, planned: PlannedRun, on_progress: Progress, on_message: Callable[[str], None]) -> TrainResult:
        """Train a run, or go on with it; see `mmdit_cli.toy.training.train`."""
        resume = self.resume and holds_run(planned.folder)
        if resume and (result := kept_result(planned.folder, planned.config, planned.seed, self.dtype)):
            return result
        if self.device.type == "cuda" and self.device.index:
            torch.cuda.set_device(self.device)
        result = train(
            planned.config,
            device=self.device,
            dtype=self.dtype,
            seed=planned.seed,
            run_dir=planned.folder,
            resume=resume,
            allow_changes=self.allow_changes,
            track=self.track,
            on_progress=on_progress,
            on_message=on_message,
            command_line=self.command_line,
        )
        assert result is not None  # of one process
        return result

    def for_job(self, slot: int) -> Train:
        """How the runs of a job are trained: of several CUDA devices, where none is named, on its own."""
        device = self.device
        if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
            device = torch.device("cuda", slot % torch.cuda.device_count())
        return replace(self, device=device).train
