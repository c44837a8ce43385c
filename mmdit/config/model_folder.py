"""The folder that holds a network, in what a folder of weights may be: of a pipeline, or of the Hub's cache."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["model_folder"]

PIPELINE, TRANSFORMER = "model_index.json", "transformer"
SNAPSHOTS, MAIN = "snapshots", os.path.join("refs", "main")
LONGEST = 200  # characters of a revision


def model_folder(path: Path) -> Path:
    """Of the Hub's cache of a repository the snapshot that is its main one, or the only one; of a pipeline its
    transformer; else the folder itself."""
    if os.path.isdir(path / SNAPSHOTS):
        path = _snapshot(path)
    within = path / TRANSFORMER
    return within if os.path.isfile(path / PIPELINE) and os.path.isdir(within) else path


def _snapshot(path: Path) -> Path:
    try:
        with open(path / MAIN, encoding="utf-8") as file:
            name = file.read(LONGEST).strip()
    except (OSError, ValueError):
        held = sorted(os.listdir(path / SNAPSHOTS))
        name = held[0] if len(held) == 1 else ""
    found = path / SNAPSHOTS / name
    return found if name.isalnum() and os.path.isdir(found) else path
