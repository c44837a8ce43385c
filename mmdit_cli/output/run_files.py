"""What lies in the folder of a training run, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG, ABOUT, METRICS, COMPARISON = "config.yaml", "run.json", "metrics.jsonl", "comparison.json"
SAMPLES, PICTURE, PROGRESS = "samples.json", "samples.png", "progress"
RESULT, PLAN = "result.json", "plan.json"  # of a finished run, and of a comparison


@dataclass(frozen=True)
class RunFiles:
    """A run: its config, what it was made with, its metrics, its pictures of samples by step, and the last
    ones one by one (`samples.json`)."""

    folder: Path
    config: dict[str, Any]
    about: dict[str, Any]
    records: list[dict[str, Any]]
    pictures: dict[int, Path]
    samples: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.folder.name))

    @property
    def seed(self) -> Any:
        return self.about.get("seed")

    @property
    def steps(self) -> int:
        return max((record["step"] for record in self.records), default=0)


def read_run(folder: Path) -> RunFiles:
    """Everything that is there; what is missing or damaged is empty.

    Raises:
        OSError: a file can't be read.
    """
    metrics = folder / METRICS
    records = read_metrics(metrics) if metrics.is_file() else []
    on_the_way = {path: path.stem.rpartition("-")[2] for path in sorted((folder / PROGRESS).glob("step-*.png"))}
    pictures = {int(step): path for path, step in on_the_way.items() if step.isdecimal()}
    if (folder / PICTURE).is_file():
        pictures[max((record["step"] for record in records), default=0)] = folder / PICTURE
    return RunFiles(
        folder,
        _yaml(folder / CONFIG),
        _json(folder / ABOUT),
        records,
        dict(sorted(pictures.items())),
        _json(folder / SAMPLES),
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """A run's records; a line cut short by a kill is passed over."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    from mmdit.config.regular_file import read_regular
    from mmdit.config.yaml_document import MAX_BYTES, ConfigError, parse

    try:
        data = parse(read_regular(path, MAX_BYTES + 1), path.name).data
    except (OSError, ValueError, ConfigError):
        return {}
    return dict(data) if isinstance(data, Mapping) else {}
