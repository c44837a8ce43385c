"""FLOPs, counted by running the model on the meta device under torch's own counter.

2 FLOPs a multiply-add; matrix products and attention count, elementwise work does not. Only the meta device sees all of
attention: on the CPU the counter has no entry for the fused kernel, and misses more than half of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.config import build
from mmdit.layers.attention import FusedAttention
from mmdit.networks.parallel_block import JOINED
from mmdit_cli.model_parts.components import OTHER, Component, find_components
from mmdit_cli.model_parts.counting import Counts, count_model, count_once
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD
from mmdit_cli.model_parts.operator_counter import WORK_CONVENTION, WORK_KINDS
from mmdit_cli.model_parts.tensor_bytes import total_bytes
from mmdit_cli.request.budget import Budget, TrainingPlan, plan_training
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig

CONVENTION = "2 FLOPs a multiply-add; matrix products and attention"
ATTENTION_KINDS = ("attention", "second attention")
SHARED = "shared"  # what serves every modality: conditioning, and what no component did


@dataclass(frozen=True)
class ComponentFlops:
    """One component's forward FLOPs, its share of them, its backward FLOPs, and its parameters.

    `elementwise` is its forward work beside the products, by the convention of `ElementwiseFlops`; None where it was
    not asked for.
    """

    name: str
    kind: str
    modality: str | None
    flops: int
    share: float
    parameters: int
    backward_flops: int = 0
    elementwise: int | None = None


@dataclass(frozen=True)
class ModalityFlops:
    """The components of one modality together; `joined` works on all tokens at once, `shared` on none.

    `tokens` are those of one sample as they come in; `flops_per_token` are forward FLOPs, None where there are none.
    """

    name: str
    tokens: int | None
    forward_flops: int
    backward_flops: int
    share: float
    flops_per_token: float | None
    parameters: int


@dataclass(frozen=True)
class ElementwiseWork:
    """FLOPs of one kind of work that is no matrix product, by the stated convention."""

    kind: str
    forward_flops: int
    backward_flops: int


@dataclass(frozen=True)
class ElementwiseFlops:
    """Softmax, norms, activations and arithmetic, in no total. Their convention is this tool's own: there is no other
    to agree with."""

    convention: str
    forward_flops: int
    backward_flops: int
    kinds: list[ElementwiseWork]


@dataclass(frozen=True)
class FlopsResult:
    """FLOPs of one forward pass over the whole batch, of one backward, and of both, which is a training step: where the
    network has `routing`, one of fewer tokens in some blocks.

    `backward_flops` are model FLOPs: attention's backward counts 2 x its forward. A fused kernel recomputes the scores
    and executes 2.5 x, and checkpointed activations are computed again: `executed_backward_flops`,
    `executed_step_flops`.
    `arithmetic_intensity` is forward FLOPs over the bytes of weights, inputs and outputs, each moved once: a bound from
    above, which a real run with its activations stays under.
    `tokens` are those of a sample as they come in, `flops_per_token` over all of them; `valid_tokens` are no padding.
    `packed`: the padding is left out of the work (`varlen`), and FLOPs are of valid tokens.
    `uncounted_operators` computed something, and are in no total; `point` is what a sweep set.
    """

    config: str
    parameters: int
    weight_bytes: int
    batch_size: int
    tokens: dict[str, int]
    valid_tokens: dict[str, int]
    packed: bool
    forward_flops: int
    backward_flops: int
    executed_backward_flops: int
    step_flops: int
    executed_step_flops: int
    attention_flops: int
    linear_flops: int
    backward_attention_flops: int
    backward_linear_flops: int
    flops_per_token: float
    step_flops_per_token: float
    arithmetic_intensity: float
    convention: str
    components: list[ComponentFlops]
    modalities: list[ModalityFlops]
    uncounted_operators: dict[str, int]
    elementwise: ElementwiseFlops | None = None
    training: TrainingPlan | None = None
    point: dict[str, Any] = field(default_factory=dict)


def meta_model(config: ToolConfig, dtype: torch.dtype = torch.float32, *, checkpoint: bool = False) -> nn.Module:
    """The model without memory. Nothing is recomputed in it, unless it checkpoints, so that its FLOPs are its own; and
    no token skips a block in it (`routing`), unless it is set to train."""
    with torch.device("meta"):
        model = build(replace(config.model, checkpoint_activations=checkpoint)).to(dtype)
    return model.train(config.model.routing is None)


def count_flops(
    config: ToolConfig,
    *,
    dtype: torch.dtype = torch.float32,
    elementwise: bool = False,
    budget: Budget | None = None,
    point: dict[str, Any] | None = None,
    whole: bool = False,
    routed: bool = False,
) -> FlopsResult:
    """FLOPs of a config's model on the batch that its `run` section describes.

    Args:
        whole: run every block, and not one of those that are alike for all of them.
        routed: count the network as it trains where it has `routing`, in all figures; else it is so in those of a
            training step alone.

    Raises:
        UncountedOperator: the model runs an operator that multiplies matrices, and torch's counter has no formula.
        ValueError: the budget does not reach for one step.
    """
    model = meta_model(config, dtype)
    model.train(model.training or routed)
    components = find_components(model)
    parameters, weight_bytes = sum(p.numel() for p in model.parameters()), total_bytes(model.parameters())
    is_fused = any(isinstance(module, FusedAttention) for module in model.modules())
    inputs = example_inputs(config, device="meta", dtype=dtype)
    counted = (count_once if whole else count_model)(model, config, inputs)
    forward, backward = counted.forward, counted.backward

    rows = component_flops(components, counted, parameters, elementwise=elementwise)
    attention = sum(row.flops for row in rows if row.kind in ATTENTION_KINDS)
    backward_attention = sum(row.backward_flops for row in rows if row.kind in ATTENTION_KINDS)
    moved = weight_bytes + total_bytes(inputs.by_modality.values()) + counted.output_bytes
    step = forward + backward
    executed_backward = backward + (attention // 2 if is_fused else 0)
    if config.model.checkpoint_activations:
        executed_backward += recomputed_flops(config, dtype, backward, routed=routed)
    tokens = max(1, inputs.batch_size * sum(inputs.tokens.values()))
    executed_step = forward + executed_backward
    if config.model.routing is not None and not routed:
        trained = count_flops(config, dtype=dtype, whole=whole, routed=True)
        step, executed_step = trained.step_flops, trained.executed_step_flops
    plan = None
    if budget is not None:
        plan = plan_training(budget, batch_size=inputs.batch_size, step_flops=step, executed_step_flops=executed_step)
    return FlopsResult(
        config=config.name,
        parameters=parameters,
        weight_bytes=weight_bytes,
        batch_size=inputs.batch_size,
        tokens=inputs.tokens,
        valid_tokens=config.valid_tokens(),
        packed=config.model.varlen,
        forward_flops=forward,
        backward_flops=backward,
        executed_backward_flops=executed_backward,
        step_flops=step,
        executed_step_flops=executed_step,
        attention_flops=attention,
        linear_flops=forward - attention,
        backward_attention_flops=backward_attention,
        backward_linear_flops=backward - backward_attention,
        flops_per_token=forward / tokens,
        step_flops_per_token=step / tokens,
        arithmetic_intensity=forward / moved,
        convention=CONVENTION,
        components=rows,
        modalities=modality_flops(rows, inputs.tokens, inputs.batch_size, config.owners()),
        uncounted_operators=dict(sorted(counted.operators.items())),
        elementwise=elementwise_flops(counted) if elementwise else None,
        training=plan,
        point=point or {},
    )


def outputs_sum(outputs: dict[str, Tensor]) -> Tensor:
    """A scalar that every output influences."""
    return torch.stack([x.float().sum() for x in outputs.values()]).sum()


def component_flops(
    components: list[Component], counted: Counts, parameters: int, *, elementwise: bool = False
) -> list[ComponentFlops]:
    """Rows that add up to the totals exactly: what no component did is `other`."""

    def row(component: Component, flops: int, backward: int, parameters: int) -> ComponentFlops:
        work = sum(counted.work[(FORWARD, component.name), kind] for kind in WORK_KINDS) if elementwise else None
        share = flops / counted.forward if counted.forward else 0.0
        name, kind, modality = component.name, component.kind, component.modality
        return ComponentFlops(name, kind, modality, flops, share, parameters, backward, work)

    rows = [row(c, counted.flops[FORWARD, c.name], counted.flops[BACKWARD, c.name], c.parameters) for c in components]
    other = row(
        Component(OTHER, None),
        counted.forward - sum(row.flops for row in rows),
        counted.backward - sum(row.backward_flops for row in rows),
        parameters - sum(row.parameters for row in rows),
    )
    return [*rows, other] if other.flops or other.backward_flops or other.parameters or other.elementwise else rows


def modality_flops(
    rows: list[ComponentFlops], tokens: dict[str, int], batch_size: int, owners: Mapping[str, str]
) -> list[ModalityFlops]:
    """The components by whose tokens they work on: each modality's, all of them joined, or none's.

    `owners`: by input, the modality that it is of.
    """
    found = []
    for name in (*tokens, JOINED, SHARED):
        own = [row for row in rows if _works_on(row, owners) == name]
        count = sum(tokens.values()) if name == JOINED else tokens.get(name)
        if not own:
            continue
        flops = sum(row.flops for row in own)
        found.append(
            ModalityFlops(
                name=name,
                tokens=count,
                forward_flops=flops,
                backward_flops=sum(row.backward_flops for row in own),
                share=sum(row.share for row in own),
                flops_per_token=flops / (batch_size * count) if count else None,
                parameters=sum(row.parameters for row in own),
            )
        )
    return found


def elementwise_flops(counted: Counts) -> ElementwiseFlops:
    """The recorded work beside the products, by kind."""
    totals: Counter[tuple[str, str]] = Counter()
    for ((phase, _), kind), flops in counted.work.items():
        totals[kind, phase] += flops
    kinds = [ElementwiseWork(kind, totals[kind, FORWARD], totals[kind, BACKWARD]) for kind in WORK_KINDS]
    forward, backward_ = sum(k.forward_flops for k in kinds), sum(k.backward_flops for k in kinds)
    return ElementwiseFlops(WORK_CONVENTION, forward, backward_, kinds)


def recomputed_flops(config: ToolConfig, dtype: torch.dtype, backward: int, *, routed: bool = False) -> int:
    """FLOPs that checkpointed activations cost again in the backward pass, counted with checkpointing on."""
    inputs, model = example_inputs(config, device="meta", dtype=dtype), meta_model(config, dtype, checkpoint=True)
    model.train(model.training or routed)
    return count_model(model, config, inputs, by_component=False).backward - backward


def _works_on(row: ComponentFlops, owners: Mapping[str, str]) -> str:
    if row.modality is not None:
        return owners.get(row.modality, row.modality)
    return JOINED if row.kind in ATTENTION_KINDS else SHARED
