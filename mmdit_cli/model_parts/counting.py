"""What a model's operators cost, by running it on the meta device under torch's counter and ours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.follower import BACKWARD, Place
from mmdit_cli.model_parts.like_blocks import keep_blocks, like_blocks
from mmdit_cli.model_parts.operator_counter import OpRecorder
from mmdit_cli.model_parts.tensor_bytes import total_bytes
from mmdit_cli.request.inputs import ModelInputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig


@dataclass
class Counts:
    """What was counted: FLOPs of products in all and by place, other work, operators; all of it adds up over blocks."""

    forward: int
    backward: int
    output_bytes: int
    flops: Counter[Place]
    work: Counter[tuple[Place, str]]
    operators: Counter[str]

    def add(self, other: Counts, base: Counts, times: int) -> None:
        """Add `times` what `other` has more than `base`."""
        self.forward += times * (other.forward - base.forward)
        self.backward += times * (other.backward - base.backward)
        for mine, theirs, before in zip(self._counters(), other._counters(), base._counters(), strict=True):
            for key in theirs:
                mine[key] += times * (theirs[key] - before[key])

    def _counters(self) -> tuple[Counter[Any], ...]:
        return self.flops, self.work, self.operators


def count_once(model: nn.Module, config: ToolConfig, inputs: ModelInputs, *, by_component: bool = True) -> Counts:
    """Run the model as it is. What is run again in the backward pass can't be told apart `by_component`."""
    model.zero_grad()  # adding to a gradient that is there would be work of its own
    with OpRecorder(find_components(model) if by_component else ()) as recorder:
        with FlopCounterMode(display=False) as counter:
            outputs = outputs_by_name(config, model(**inputs.kwargs))
        forward = counter.get_total_flops()
        recorder.follower.start(BACKWARD)
        with FlopCounterMode(display=False) as counter:
            run_backward(outputs)
    return Counts(
        forward,
        counter.get_total_flops(),
        total_bytes(outputs.values()),
        recorder.flops,
        recorder.work,
        recorder.operators,
    )


def count_model(model: nn.Module, config: ToolConfig, inputs: ModelInputs, *, by_component: bool = True) -> Counts:
    """As `count_once`, faster for deep models: of blocks that are alike only the first and the last are run, and then
    one more, which tells what every other one adds. The model is left without them."""
    groups = like_blocks(model)
    ends = [group.blocks[:1] + group.blocks[1:][-1:] for group in groups]
    keep_blocks(groups, ends)
    base = count_once(model, config, inputs, by_component=by_component)
    total = replace(base, flops=base.flops.copy(), work=base.work.copy(), operators=base.operators.copy())
    for index, group in enumerate(groups):
        if missing := len(group.blocks) - len(ends[index]):
            longer = [group.blocks[0], group.blocks[1], group.blocks[-1]]
            keep_blocks(groups, [*ends[:index], longer, *ends[index + 1 :]])
            total.add(count_once(model, config, inputs, by_component=by_component), base, missing)
    return total


def run_backward(outputs: dict[str, Tensor]) -> None:
    """A backward pass from gradients of all outputs, so that no loss adds work of its own."""
    reached = [x for x in outputs.values() if x.requires_grad]
    torch.autograd.backward(reached, [torch.empty_like(x) for x in reached])


def count_forward(model: nn.Module, inputs: ModelInputs) -> int:
    """FLOPs of the forward pass alone, sooner: of blocks that are alike the first one is run. The model is left so."""
    groups = like_blocks(model)
    keep_blocks(groups, [group.blocks[:1] for group in groups])
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs.kwargs)
    counts, total = counter.get_flop_counts(), counter.get_total_flops()
    for group in groups:
        of_first = counts.get(f"{type(model).__name__}.{names[group.blocks[0]]}", {})
        total += (len(group.blocks) - 1) * sum(of_first.values())
    return total
