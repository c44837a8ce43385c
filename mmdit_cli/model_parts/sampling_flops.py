"""FLOPs of a whole sampling run, by each way to make it, counted on the meta device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.flop_count import ATTENTION_KINDS, CONVENTION, meta_model
from mmdit_cli.model_parts.follower import Place
from mmdit_cli.model_parts.like_blocks import keep_blocks, like_blocks
from mmdit_cli.model_parts.operator_counter import OpRecorder
from mmdit_cli.model_parts.sampling_run import SETUP, Guidance, Modulation, SamplingRun, Way, sampling_ways
from mmdit_cli.request.tool_config import ToolConfig

MODULATION_KINDS = ("conditioning", "modulation")


@dataclass(frozen=True)
class WayFlops:
    """FLOPs of a run one way, of the whole batch: before the steps, in each of them, and in all.

    `modulation_share` is that of modulations and of what they are made of, `attention_share` that of attention.
    """

    guidance: Guidance
    modulation: Modulation
    calls_per_step: int
    setup_flops: int
    step_flops: int
    flops: int
    flops_per_sample: float
    modulation_share: float
    attention_share: float


@dataclass(frozen=True)
class SamplingFlops:
    """What drawing a batch takes, by each way; `tokens` are those of a sample as they come in."""

    config: str
    point: dict[str, Any]
    mode: Literal["sample"]
    parameters: int
    steps: int
    guidance: float
    batch_size: int
    tokens: dict[str, int]
    valid_tokens: dict[str, int]
    packed: bool
    ways: list[WayFlops]
    convention: str


def count_sampling(
    config: ToolConfig, *, dtype: torch.dtype = torch.float32, point: dict[str, Any] | None = None
) -> SamplingFlops:
    """Count a run of `run.steps` Euler steps.

    Raises:
        UserError: the network can't be sampled from.
    """
    ways = sampling_ways(config)
    model = meta_model(config, dtype)
    return SamplingFlops(
        config=config.name,
        point=point or {},
        mode="sample",
        parameters=sum(p.numel() for p in model.parameters()),
        steps=config.run.steps,
        guidance=float(config.run.guidance),
        batch_size=config.run.batch_size,
        tokens=config.all_tokens(),
        valid_tokens=config.valid_tokens(),
        packed=config.model.varlen,
        ways=[_way_flops(model, config, way, dtype) for way in ways],
        convention=CONVENTION,
    )


def _way_flops(model: nn.Module, config: ToolConfig, way: Way, dtype: torch.dtype) -> WayFlops:
    kinds = {component.name: component.kind for component in find_components(model)}
    flops = step_flops(model, config, way, dtype)
    step, steps = sum(flops.values()), config.run.steps
    setup = sum(count for (phase, _), count in flops.items() if phase == SETUP)

    def share(wanted: tuple[str, ...]) -> float:
        return sum(count for (_, name), count in flops.items() if kinds.get(name) in wanted) / max(1, step)

    return WayFlops(
        guidance=way.guidance,
        modulation=way.modulation,
        calls_per_step=way.calls,
        setup_flops=steps * setup,
        step_flops=step - setup,
        flops=steps * step,
        flops_per_sample=steps * step / config.run.batch_size,
        modulation_share=share(MODULATION_KINDS),
        attention_share=share(ATTENTION_KINDS),
    )


def step_flops(model: nn.Module, config: ToolConfig, way: Way, dtype: torch.dtype = torch.float32) -> Counter[Place]:
    """FLOPs by place of one of a run's steps, with what is done for it beforehand: of as many steps there are as many.
    The model is on the meta device; of blocks that are alike the first, the last and one more are run."""
    alone = replace(config, run=replace(config.run, steps=1))
    groups = like_blocks(model)
    ends = [group.blocks[:1] + group.blocks[1:][-1:] for group in groups]
    try:
        keep_blocks(groups, ends)
        base = _recorded(model, alone, way, dtype)
        total = Counter(base)
        for index, group in enumerate(groups):
            if missing := len(group.blocks) - len(ends[index]):
                keep_blocks(groups, [*ends[:index], [*group.blocks[:2], group.blocks[-1]], *ends[index + 1 :]])
                longer = _recorded(model, alone, way, dtype)
                for place in longer:
                    total[place] += missing * (longer[place] - base[place])
        return total
    finally:
        keep_blocks(groups, [group.blocks for group in groups])


def _recorded(model: Any, config: ToolConfig, way: Way, dtype: torch.dtype) -> Counter[Place]:
    run = SamplingRun(model, config, way, device="meta", dtype=dtype)
    with OpRecorder(find_components(model)) as recorder, FlopCounterMode(display=False):
        run(recorder.follower.start)
    return recorder.flops
