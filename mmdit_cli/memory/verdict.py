"""Whether an estimate fits into a memory, with how large a batch, and what a setting would change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from mmdit_cli.memory.estimate import MemoryEstimate, Mode, estimate
from mmdit_cli.request.tool_config import ToolConfig


@dataclass(frozen=True)
class SettingEffect:
    """What a setting would make of the memory: the peak in bytes at the same batch, and whether that fits."""

    setting: str
    peak: int
    fits: bool | None


@dataclass(frozen=True)
class MemoryVerdict:
    """An estimate against a memory of `memory` bytes (None: none was named, and what follows from it is None).

    `spare` is negative by what is missing; `largest_batch` is 0 where not even one sample fits. `point` is what a sweep
    set.
    """

    config: str
    mode: Mode
    dtype: str
    batch_size: int
    tokens: dict[str, int]
    parameters: int
    memory_bytes: MemoryEstimate
    memory: int | None
    fits: bool | None
    spare: int | None
    largest_batch: int | None
    changes: list[SettingEffect]
    point: dict[str, Any] = field(default_factory=dict)


def judge_memory(
    config: ToolConfig,
    mode: Mode,
    dtype: torch.dtype,
    device: torch.device,
    memory: int | None,
    point: dict[str, Any] | None = None,
) -> MemoryVerdict:
    """Estimate a config's memory, the largest batch that fits into `memory` bytes, and what could be changed.

    Raises:
        UserError: the model's sizes are beyond any machine.
    """

    def peak(dtype: torch.dtype = dtype, batch: int | None = None, checkpoint: bool | None = None) -> int:
        return estimate(config, mode, dtype, device, batch, checkpoint).peak

    use = estimate(config, mode, dtype, device)
    changed = {
        text: peak(kind, None, checkpoint) for text, (kind, checkpoint) in _settings(config, mode, dtype).items()
    }
    return MemoryVerdict(
        config=config.name,
        mode=mode,
        dtype=use.dtype,
        batch_size=use.batch_size,
        tokens={name: config.tokens_of(name) for name in config.model.modalities},
        parameters=use.parameters,
        memory_bytes=use,
        memory=memory,
        fits=None if memory is None else use.peak <= memory,
        spare=None if memory is None else memory - use.peak,
        largest_batch=None if memory is None else largest(lambda batch: peak(batch=batch), memory),
        changes=[SettingEffect(text, p, None if memory is None else p <= memory) for text, p in changed.items()],
        point=point or {},
    )


def largest(size: Callable[[int], int], limit: int, *, most: int | None = None) -> int:
    """The largest n from 1 (to `most`) with `size(n) <= limit`, 0 where there is none; `size` must not fall.

    Sizes mostly lie on a line, so each guess lies on the line through two known ones; every second guess halves what is
    left. The answer and the one above it have been tried themselves.
    """
    low, at_low, high, at_high = 0, 0, None if most is None else most + 1, None
    slope: float | None = None
    halve = False
    while high is None or high - low > 1:
        if high is not None and at_high is not None:
            line = low + int((limit - at_low) * (high - low) / (at_high - at_low))
            guess, halve = (low + high) // 2 if halve else line, not halve
        elif slope is None:
            guess = low + 1
        else:
            guess = low + int((limit - at_low) / slope) if slope > 0 else 2 * low
        guess = max(guess, low + 1)
        guess = min(guess, 1000 * max(low, 1) if high is None else high - 1)
        reached = size(guess)
        if reached > limit:
            high, at_high = guess, reached
        else:
            slope = (reached - at_low) / (guess - low) if low else None
            low, at_low = guess, reached
    return low


def _settings(config: ToolConfig, mode: Mode, dtype: torch.dtype) -> dict[str, tuple[torch.dtype, bool | None]]:
    """What a user can change: the dtype, and whether activations are checkpointed (None: as the config says)."""
    found: dict[str, tuple[torch.dtype, bool | None]] = {}
    checkpoint = mode == "train" and not config.model.checkpoint_activations
    if checkpoint:
        found["--set model.checkpoint_activations=true"] = dtype, True
    if dtype.itemsize > 2:
        found["--dtype bf16"] = torch.bfloat16, None
        if checkpoint:
            found["--dtype bf16 --set model.checkpoint_activations=true"] = torch.bfloat16, True
    return found
