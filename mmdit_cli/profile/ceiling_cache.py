"""Ceilings of earlier runs, kept in the user's cache folder; nothing that is read there is believed unchecked.

A file is of one machine, dtype, number of threads and version of torch, and says so itself. One that is damaged, of
another machine or from the future counts as none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from mmdit.weights.atomic import write_atomic
from mmdit_cli.output.document import device_name
from mmdit_cli.profile.ceilings import Candidate, Rates, uses_tf32

LONGEST = 1 << 16  # bytes of a file
MOST_PRODUCTS = 200  # kept, those of the best rates
MOST_SIDE = 1 << 40  # of a product or a stream
MOST_RATE = 1e18


@dataclass(frozen=True)
class KeptRates:
    """The rates of a machine, and when they were measured, in seconds since 1970."""

    rates: Rates
    measured: float


class CeilingCache:
    """The kept rates of this machine for a device and a dtype.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, clock: Callable[[], float] = time.time) -> None:
        cuda = device.type == "cuda"
        self.clock = clock
        self.of: dict[str, Any] = {
            "device": device_name(str(device)),
            "cores": None if cuda else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "threads": None if cuda else torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."),
            "tf32": uses_tf32() if cuda else None,
            "torch": str(torch.__version__),
        }
        name = hashlib.sha256(json.dumps(self.of, sort_keys=True).encode()).hexdigest()[:16]
        self.path = cache_folder() / "ceilings" / f"{name}.json"

    def load(self) -> KeptRates | None:
        """What is kept; None where nothing is, or nothing that can be believed."""
        try:
            with open(self.path, "rb") as file:
                content = file.read(LONGEST + 1)
            return None if len(content) > LONGEST else self._checked(json.loads(content))
        except (OSError, ValueError, ArithmeticError, RecursionError):
            return None

    def save(self, rates: Rates, measured: float | None = None) -> None:
        """Keep rates, measured now or then; where the folder can't be written, nothing is kept."""
        products = sorted((key for key in rates if not isinstance(key, int)), key=lambda key: -rates[key])
        streams = sorted(key for key in rates if isinstance(key, int))
        content = {
            "of": self.of,
            "measured": self.clock() if measured is None else measured,
            "products": [[*key, rates[key]] for key in products[:MOST_PRODUCTS]],
            "streams": [[key, rates[key]] for key in streams],
        }
        with suppress(OSError):
            cache_folder().parent.mkdir(mode=0o700, exist_ok=True)  # but no home that is missing
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps(content).encode())

    def _checked(self, content: Any) -> KeptRates | None:
        if not isinstance(content, dict) or content.get("of") != self.of:
            return None
        measured = content.get("measured")
        if not _is_number(measured) or not 0 < measured <= self.clock():
            return None
        rates: Rates = {}
        for key, sides in (("products", 3), ("streams", 1)):
            rows = content.get(key)
            if not isinstance(rows, list) or not rows or not all(_is_row(row, sides) for row in rows):
                return None
            for *shape, rate in rows:
                candidate: Candidate = shape[0] if sides == 1 else (shape[0], shape[1], shape[2])
                rates[candidate] = float(rate)
        return KeptRates(rates, measured)


def cache_folder() -> Path:
    """The tool's folder among the user's caches: $XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification).
    A path there that is not absolute does not count."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~")) / ".cache") / "mmdit"


def _is_row(row: Any, sides: int) -> bool:
    """Whether it is so many sizes, and a rate."""
    if not isinstance(row, list) or len(row) != sides + 1 or not _is_number(row[-1]) or not 0 < row[-1] < MOST_RATE:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < MOST_SIDE for side in row[:-1])


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
