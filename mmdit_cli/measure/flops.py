"""FLOPs, counted by running the model on the meta device under torch's own counter.

2 FLOPs a multiply-add; matrix products and attention count, elementwise work does not. Only the meta device sees all of
attention: on the CPU the counter has no entry for the fused kernel, and misses more than half of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit.attention import FusedAttention
from mmdit.config import build
from mmdit_cli.inputs import example_inputs, outputs_by_name
from mmdit_cli.measure.components import OTHER, Component, find_components
from mmdit_cli.schema import ToolConfig

CONVENTION = "2 FLOPs a multiply-add; matrix products and attention"
ATTENTION_KINDS = ("attention", "second attention")


@dataclass(frozen=True)
class ComponentFlops:
    """One component's forward FLOPs, its share of them, and its parameters."""

    name: str
    kind: str
    modality: str | None
    flops: int
    share: float
    parameters: int


@dataclass(frozen=True)
class FlopsResult:
    """FLOPs of one forward pass over the whole batch, and of one backward.

    `backward_flops` are model FLOPs: attention's backward counts 2 x its forward. A fused kernel recomputes the scores
    and executes 2.5 x: `executed_backward_flops`.
    `arithmetic_intensity` is forward FLOPs over the bytes of weights, inputs and outputs, each moved once: a bound from
    above, which a real run with its activations stays under.
    """

    config: str
    parameters: int
    weight_bytes: int
    batch_size: int
    tokens: dict[str, int]
    forward_flops: int
    backward_flops: int
    executed_backward_flops: int
    step_flops: int
    attention_flops: int
    linear_flops: int
    flops_per_token: float
    arithmetic_intensity: float
    convention: str
    components: list[ComponentFlops]


def meta_model(config: ToolConfig) -> nn.Module:
    """The model without memory. Nothing is recomputed in it, so that its FLOPs are the model's own."""
    model_config = config.model.model_copy(update={"checkpoint_activations": False})
    with torch.device("meta"):
        return build(model_config)


def count_flops(config: ToolConfig, *, dtype: torch.dtype = torch.float32) -> FlopsResult:
    """FLOPs of a config's model on the batch that its `run` section describes."""
    model = meta_model(config).to(dtype)
    inputs = example_inputs(config, device="meta", dtype=dtype)
    with FlopCounterMode(display=False) as counter:
        outputs = outputs_by_name(config, model(**inputs.kwargs))
    forward = counter.get_flop_counts()
    total = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        outputs_sum(outputs).backward()
    backward = counter.get_total_flops()

    components = find_components(model)
    rows = component_flops(model, components, forward, total)
    attention = sum(row.flops for row in rows if row.kind in ATTENTION_KINDS)
    parameters = sum(p.numel() for p in model.parameters())
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    moved = weight_bytes + sum(t.numel() * t.element_size() for t in (*inputs.by_modality.values(), *outputs.values()))
    return FlopsResult(
        config=config.name,
        parameters=parameters,
        weight_bytes=weight_bytes,
        batch_size=inputs.batch_size,
        tokens=inputs.tokens,
        forward_flops=total,
        backward_flops=backward,
        executed_backward_flops=backward + (attention // 2 if _is_fused(model) else 0),
        step_flops=total + backward,
        attention_flops=attention,
        linear_flops=total - attention,
        flops_per_token=total / max(1, inputs.batch_size * sum(inputs.tokens.values())),
        arithmetic_intensity=total / moved,
        convention=CONVENTION,
        components=rows,
    )


def outputs_sum(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A scalar that every output influences."""
    return torch.stack([x.float().sum() for x in outputs.values()]).sum()


def component_flops(
    model: nn.Module, components: list[Component], counts: dict[str, dict[object, int]], total: int
) -> list[ComponentFlops]:
    """Rows that add up to the total exactly: what no component did is `other`."""
    names = {id(module): name for name, module in model.named_modules()}
    root = type(model).__name__
    rows, counted, parameters = [], 0, 0
    for component in components:
        flops = sum(sum(counts.get(f"{root}.{names[id(module)]}", {}).values()) for module in component.modules)
        rows.append(_row(component.name, component.kind, component.modality, flops, total, component.parameters))
        counted, parameters = counted + flops, parameters + component.parameters
    left = sum(p.numel() for p in model.parameters()) - parameters
    if total != counted or left:
        rows.append(_row(OTHER, OTHER, None, total - counted, total, left))
    return rows


def _row(name: str, kind: str, modality: str | None, flops: int, total: int, parameters: int) -> ComponentFlops:
    return ComponentFlops(name, kind, modality, flops, flops / total if total else 0.0, parameters)


def _is_fused(model: nn.Module) -> bool:
    return any(isinstance(module, FusedAttention) for module in model.modules())
