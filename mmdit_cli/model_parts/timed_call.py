"""A model with its inputs as something to time: a forward pass, or a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from mmdit_cli.model_parts.compiling import compiled
from mmdit_cli.model_parts.flop_count import outputs_sum
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, OPTIMIZER
from mmdit_cli.request.inputs import ModelInputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig

Mode = Literal["forward", "train"]


class Call:
    """A forward pass under `inference_mode`, or a training step with AdamW at learning rate 0.

    Args:
        optimizer: that of another call of the same model; None: one of its own in training.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: ModelInputs,
        config: ToolConfig,
        mode: Mode,
        *,
        compile: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model, self.inputs, self.config, self.mode = model, inputs, config, mode
        self.run_model: Callable[..., Any] = model
        if compile:
            self.run_model = compiled(model)
        if mode == "train" and optimizer is None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
        self.optimizer = optimizer
        model.train(mode == "train")
        model.requires_grad_(mode == "train")

    def uncompiled(self) -> Call:
        """The same call of the same model, as it is."""
        return Call(self.model, self.inputs, self.config, self.mode, optimizer=self.optimizer)

    def __call__(self, phase: Callable[[str], None] = lambda name: None) -> None:
        """One call; `phase` is told when forward, backward and the optimizer's step begin."""
        phase(FORWARD)
        if self.optimizer is None:
            with torch.inference_mode():
                self.run_model(**self.inputs.kwargs)
            return
        loss = outputs_sum(outputs_by_name(self.config, self.run_model(**self.inputs.kwargs)))
        phase(BACKWARD)
        loss.backward()
        phase(OPTIMIZER)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
