"""`--lora FILE[:SCALE]`."""

from __future__ import annotations

import math
from pathlib import Path

from mmdit_cli.errors import UserError


def lora_file(text: str) -> tuple[Path, float]:
    """The file, and what its changes are multiplied with: 1 where nothing is said. A file may have a colon in its name.

    Raises:
        UserError: what stands behind the last colon is no number.
    """
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not path or not math.isfinite(value):
        raise UserError(f"--lora {text}: expected FILE or FILE:SCALE, such as style.safetensors:0.8")
    return Path(path), value
