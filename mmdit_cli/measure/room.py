"""Which models can be in memory at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SHARE = 0.4  # of the free memory that weights may take, to leave the rest to activations
TRAINING_COPIES = 4  # weights, gradients and two moments


def groups_that_fit(
    models: Sequence[tuple[str, int]], device: torch.device, *, train: bool, free: int | None = None
) -> list[list[int]]:
    """Indexes of the models in groups, in their order, whose weights fit together; one alone may be larger.

    Args:
        models: what tells a model from others, and the bytes of its weights; the same model counts once.
        free: bytes; None: what the device has free now.
    """
    room = SHARE * (free_bytes(device) if free is None else free)
    groups: list[list[int]] = []
    held: dict[str, int] = {}
    for index, (key, size) in enumerate(models):
        held[key] = size * (TRAINING_COPIES if train else 1)
        if not groups or sum(held.values()) > room:
            groups.append([])
            held = {key: held[key]}
        groups[-1].append(index)
    return groups


def free_bytes(device: torch.device) -> int:
    """Memory that can be had: the card's, or what the operating system says is available (where it says so)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 33
