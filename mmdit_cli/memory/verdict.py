"""Whether an estimate fits into a memory, with how large a batch, and what a setting would change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mmdit_cli.memory.demand import Demand, changed, largest, shrunk
from mmdit_cli.memory.estimate import MemoryEstimate, Mode
from mmdit_cli.memory.training import Training


@dataclass(frozen=True)
class SettingEffect:
    """What a setting would make of the memory: the peak in bytes at the same batch, and whether that fits."""

    setting: str
    peak: int
    fits: bool | None


@dataclass(frozen=True)
class MemoryVerdict:
    """An estimate against a memory of `memory` bytes (None: none was named, and what follows from it is None).

    `spare` is negative by what is missing; `largest_batch` is 0 where not even one sample fits. `training` is what was
    estimated, None of a forward pass. `point` is what a sweep set.
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
    training: Training | None = None
    point: dict[str, Any] = field(default_factory=dict)


def judge_memory(demand: Demand, memory: int | None, point: dict[str, Any] | None = None) -> MemoryVerdict:
    """Estimate a demand, the largest batch that fits into `memory` bytes, and what could be changed: where it does not
    fit, the batch and the resolution as well.

    Raises:
        UserError: the model's sizes are beyond any machine.
    """
    use, training = demand.estimate(), demand.training
    fits = None if memory is None else use.peak <= memory
    ways = changed(demand)
    if use.training is not None and training.precision == "mixed" and demand.dtype.itemsize == 2:
        ways["--precision pure"] = replace(demand, training=replace(training, precision="pure"))
    if memory is not None and not fits:
        ways |= shrunk(demand, memory)
    peaks = {text: each.peak() for text, each in ways.items()}
    return MemoryVerdict(
        config=demand.config.name,
        mode=demand.mode,
        dtype=use.dtype,
        batch_size=use.batch_size,
        tokens=demand.config.all_tokens(),
        parameters=use.parameters,
        memory_bytes=use,
        memory=memory,
        fits=fits,
        spare=None if memory is None else memory - use.peak,
        largest_batch=None if memory is None else largest(lambda n: replace(demand, batch_size=n).peak(), memory),
        changes=[SettingEffect(text, peak, None if memory is None else peak <= memory) for text, peak in peaks.items()],
        training=use.training,
        point=point or {},
    )
