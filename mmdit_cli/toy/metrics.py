"""What a run writes down as it goes, step by step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmdit.weights.atomic import write_atomic
from mmdit_cli.output.run_files import METRICS, read_metrics
from mmdit_cli.toy.trackers import Trackers


class Metrics:
    """`metrics.jsonl`: a line for each step and each evaluation, `step` in all of them.

    A step's `seconds` are those spent in steps since the run began, without evaluations and checkpoints. `trackers` are
    told the same.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self.trackers = Trackers()
        self._file = self.path.open("a", encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.trackers.log(record)

    def sync(self) -> None:
        """Make sure the disk holds what a checkpoint is about to build on."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self.trackers.close()

    def read(self) -> list[dict[str, Any]]:
        """All records."""
        return read_metrics(self.path)

    def seconds(self) -> float:
        """What the steps so far took; 0 for a new run."""
        return max((float(record.get("seconds", 0.0)) for record in self.read()), default=0.0)

    def truncate(self, step: int) -> None:
        """Drop what was logged after the checkpoint of `step`, from which the run goes on."""
        kept = [record for record in self.read() if record["step"] <= step and not record.get("final")]
        self._file.close()
        write_atomic(self.path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self.path.open("a", encoding="utf-8")


class NoMetrics(Metrics):
    """Those of a process that writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.path, self.trackers = folder / METRICS, Trackers()

    def append(self, record: dict[str, Any]) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...

    def seconds(self) -> float:
        return 0.0

    def truncate(self, step: int) -> None: ...
