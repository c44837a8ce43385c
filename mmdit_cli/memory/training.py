"""How a model is trained, as far as memory goes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from mmdit_cli.errors import UserError
from mmdit_cli.memory.low_rank import add_adapters

Precision = Literal["pure", "mixed"]
OptimizerName = Literal["adamw", "sgd", "muon"]
OPTIMIZER_WORDS = {"adamw": "AdamW", "sgd": "SGD with momentum", "muon": "Muon with AdamW"}
NAMED = 3


@dataclass(frozen=True)
class Training:
    """What a training step keeps.

    `pure`: weights, gradients and optimizer in the run's dtype; `mixed`: in float32, with the dtype that of autocast.
    `sgd` has a momentum; `muon` has one of the matrices within the blocks, and AdamW for the rest. `ema`: an average of
    the weights beside them. `trainable`: a pattern of the names of the weights that are trained (`*`: any characters),
    the others being frozen; None: all. `lora_rank`: low-rank adapters beside linear layers (those that `trainable`
    names; None: of attention and feedforward) are trained and averaged in the place of the weights, which are frozen in
    the run's dtype.
    """

    precision: Precision = "pure"
    optimizer: OptimizerName = "adamw"
    ema: bool = False
    trainable: str | None = None
    lora_rank: int | None = None

    def weights_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of what is trained."""
        return torch.float32 if self.precision == "mixed" else dtype

    def model_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of the model itself."""
        return dtype if self.lora_rank else self.weights_dtype(dtype)

    def prepare(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Add adapters, if any, and leave gradients to what is trained.

        Raises:
            UserError: no weight has such a name.
        """
        if self.lora_rank:
            return add_adapters(model, self.lora_rank, self.weights_dtype(dtype), self.trainable)
        names = dict(model.named_parameters())
        for name, parameter in names.items():
            parameter.requires_grad_(self.trainable is None or fnmatchcase(name, self.trainable))
        if not any(parameter.requires_grad for parameter in names.values()):
            some = ", ".join(list(names)[:NAMED])
            raise UserError(f"--trainable {self.trainable}: no weight has such a name; they are {some}, ...")

    def described(self, dtype: str) -> str:
        kept = "weights in float32, autocast" if self.precision == "mixed" else "all in"
        if self.lora_rank and self.precision == "mixed":
            kept = "adapters in float32, frozen weights and autocast in"
        parts = [f"{self.precision}: {kept} {dtype}" if dtype != "float32" else "float32"]
        parts += [f"LoRA of rank {self.lora_rank}"] if self.lora_rank else []
        parts += [OPTIMIZER_WORDS[self.optimizer]]
        parts += ["EMA"] if self.ema else []
        return ", ".join([*parts, f"only {self.trainable}"] if self.trainable else parts)


PROFILED = Training()  # the step that `profile` measures
TRAINED = Training("mixed", ema=True)  # as train-toy trains
