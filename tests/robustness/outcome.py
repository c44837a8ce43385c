"""What came of one thing that the robustness suite tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """`well`: it was answered as it should be; `lost`: something that was there, or was promised, is gone or partial;
    `why`: what was wrong, empty where nothing was."""

    group: str
    name: str
    well: bool
    lost: bool
    why: str
