"""What a call has to do at least: FLOPs, and bytes through memory, by component, found without running it.

FLOPs: `count_flops`. Bytes: operators under fake tensors of the real device, where attention is the fused kernel that
will run; on meta it would keep its scores, which only a backward pass reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from mmdit_cli.memory.fake_tensors import FakeTensorMode, fake_inputs, fake_parameters
from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.flop_count import count_flops, meta_model, outputs_sum
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD
from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.model_parts.tensor_bytes import total_bytes
from mmdit_cli.profile.clock import Parts
from mmdit_cli.profile.traffic import Gemm, Traffic, TrafficCounter
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig

ADAMW_PASSES = 7  # over the weights: reads weight, gradient and two moments, writes weight and two moments


@dataclass(frozen=True)
class ModelWork:
    """One call: FLOPs by phase and component, traffic by component and of the whole, the products with most FLOPs."""

    parameters: int
    weight_bytes: int
    batch_size: int
    tokens: dict[str, int]
    flops: Parts
    traffic: dict[str, Traffic]
    whole: Traffic
    gemms: list[Gemm]

    @property
    def total_flops(self) -> int:
        return int(sum(self.flops.values()))

    def flops_of(self, component: str) -> int:
        return int(sum(flops for (_, name), flops in self.flops.items() if name == component))


def count_work(
    config: ToolConfig,
    *,
    train: bool,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    fake: bool | None = None,
) -> ModelWork:
    """FLOPs and bytes of one call: a forward pass, or with `train` forward, backward and AdamW's step.

    A component's bytes are those that cross its border, each tensor once a call: see `TrafficCounter`. Those of the
    whole are weights, inputs and outputs once; in training the weights a second time for the backward pass, their
    gradients once, and AdamW's 7 passes over them. What checkpointing recomputes is not counted.

    Args:
        fake: by fake tensors of the device, which imports torch's compiler, or else on the meta device; None: where
            these would differ.
    """
    fake = (train or device.type != "cpu") if fake is None else fake
    model = meta_model(config, dtype).requires_grad_(train)
    model.train(model.training or train)
    components = find_components(model)
    with without_compiler():
        rows = count_flops(config, dtype=dtype, routed=train).components
    flops: Parts = {(FORWARD, row.name): row.flops for row in rows if row.flops}
    if train:
        flops |= {(BACKWARD, row.name): row.backward_flops for row in rows if row.backward_flops}
    inputs = example_inputs(config, device="meta", dtype=dtype)  # there `varlen` knows its lengths
    with FakeTensorMode() if fake else without_compiler(), torch.device(device if fake else "meta"):
        if fake:
            fake_parameters(model, device)
        weights = list(model.parameters())
        arguments = fake_inputs(inputs.kwargs, device) if fake else inputs.kwargs
        with TrafficCounter(weights, components) as counter, torch.set_grad_enabled(train):
            outputs = outputs_by_name(config, model(**arguments))
            if train:
                loss = outputs_sum(outputs)
                counter.follower.start(BACKWARD)
                loss.backward()
        gradients = [p.grad for p in weights if p.grad is not None]
        traffic = counter.finish(list(outputs.values()), gradients)
        weight_bytes = total_bytes(weights)
        ends = total_bytes((*inputs.by_modality.values(), *outputs.values()))
    if train:
        traffic["optimizer"] = Traffic(Counter({(ADAMW_PASSES * weight_bytes, 0): 1}))
    passes = 3 + ADAMW_PASSES if train else 1
    return ModelWork(
        parameters=sum(p.numel() for p in model.parameters()),
        weight_bytes=weight_bytes,
        batch_size=inputs.batch_size,
        tokens=inputs.tokens,
        flops=flops,
        traffic=traffic,
        whole=Traffic(Counter({(passes * weight_bytes, ends): 1})),
        gemms=[gemm for gemm, _ in counter.gemms.most_common(3)],
    )
