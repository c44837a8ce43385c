"""Which models can be in memory at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARE = 0.4  # of the free memory that weights may take, to leave the rest to activations
UNKNOWN = 1 << 33  # taken as free where the system does not say
TRAINING_COPIES = 4  # weights, gradients and two moments


def groups_that_fit(
    models: Sequence[tuple[str, int]], device: torch.device, *, train: bool, free: int | None = None
) -> list[list[int]]:
    """Indexes of the models in groups, in their order, whose weights fit together; one alone may be larger.

    Args:
        models: what tells a model from others, and the bytes of its weights; the same model counts once.
        free: bytes; None: what the device has free now.
    """
    room = SHARE * ((free_memory(device) if free is None else free) or UNKNOWN)
    groups: list[list[int]] = []
    held: dict[str, int] = {}
    for index, (key, size) in enumerate(models):
        held[key] = size * (TRAINING_COPIES if train else 1)
        if not groups or sum(held.values()) > room:
            groups.append([])
            held = {key: held[key]}
        groups[-1].append(index)
    return groups


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):  # not Linux
        pass
    try:  # a container may have less than its machine
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # no such limit
        pass
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            free.append(max(0, most - taken))
    return min(free, default=None)
