"""Which models can be in memory at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmdit_cli.request.free_memory import free_memory

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
