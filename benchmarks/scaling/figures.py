"""The tool's own figures of a model: FLOPs, parameters and activations."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.paths import CONFIGS
from benchmarks.scaling.formulas import Model
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.model_parts.flop_count import count_flops, meta_model
from mmdit_cli.request.tool_config import load_tool_config


def model_of(name: str) -> Model:
    """The tool's figures of one sample of 1024 x 1024 pixels, as the config's `run` has it."""
    config = load_tool_config(CONFIGS / f"{name}.yaml")
    counted = count_flops(config, dtype=torch.bfloat16)
    recomputed = replace(config, model=replace(config.model, checkpoint_activations=True))
    blocks = list(meta_model(config).transformer.blocks)  # type: ignore[union-attr,arg-type]
    cpu = torch.device("cpu")
    kept, less = (estimate(config, "train", torch.bfloat16, cpu, 1, checkpoint) for checkpoint in (False, True))
    return Model(
        name=name,
        parameters=counted.parameters,
        blocks=tuple(sum(p.numel() for p in block.parameters()) for block in blocks),
        step_flops=counted.executed_step_flops,
        recomputed_flops=count_flops(recomputed, dtype=torch.bfloat16).executed_step_flops,
        activations=kept.activations,
        activations_recomputed=less.activations,
        tokens=sum(counted.tokens.values()),
        width=next(iter(config.model.modalities.values())).dim,
        attentions=len(blocks) + len(config.model.attention.dual),
    )
