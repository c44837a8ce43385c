"""What updates the weights: AdamW, or Muon for the matrices within the blocks and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.hidden_matrices import check_muon, hidden_matrices
from mmdit_cli.model_parts.processes import Group
from mmdit_cli.request.train_config import TrainConfig

BETAS = (0.9, 0.99)
SCALAR, MOMENTS, MOMENTUM = "step", ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


class MuonAndAdamW(Optimizer):
    """Muon (Jordan et al. 2024) for matrices and AdamW for other weights, as one optimizer.

    Muon replaces the momentum of a matrix by the nearest matrix whose singular values are all about 1. It is scaled by
    `0.2 sqrt(max(d_out, d_in))`, to the size of AdamW's steps, so that one learning rate and one weight decay serve
    both (Liu et al. 2025, arXiv 2502.16982, section 2.2). Queries, keys and values are one matrix here.
    """

    def __init__(
        self, matrices: Sequence[Tensor], others: Sequence[Tensor], *, momentum: float, **shared: float
    ) -> None:
        muon = torch.optim.Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **shared)  # type: ignore[arg-type]
        adamw = torch.optim.AdamW(others, betas=BETAS, fused=True, **shared)  # type: ignore[arg-type]
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self.parts, self.matrices = (muon, adamw), frozenset(matrices)
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part in self.parts:
            part.step()


def make_optimizer(model: nn.Module, settings: TrainConfig, groups: Iterable[Any] | None = None) -> Optimizer:
    """That of the settings, for all of a model's weights. `groups`: those of AdamW, where some have rates of their
    own."""
    shared = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if settings.optimizer.kind == "adamw":
        weights = model.parameters() if groups is None else groups
        return torch.optim.AdamW(weights, betas=BETAS, fused=True, **shared)  # type: ignore[arg-type]
    matrices = hidden_matrices(model)
    taken = frozenset(matrices)
    others = [p for p in model.parameters() if p not in taken]
    return MuonAndAdamW(matrices, others, momentum=settings.optimizer.momentum, **shared)


def kept_of(optimizer: Optimizer, p: Tensor) -> tuple[str, ...]:
    """What it keeps of a weight in the weight's own shape, by name."""
    return MOMENTUM if isinstance(optimizer, MuonAndAdamW) and p in optimizer.matrices else MOMENTS


def check_optimizer(settings: TrainConfig, group: Group) -> None:
    """Raises UserError where this torch, or these processes, can't have the optimizer."""
    if settings.optimizer.kind == "muon":
        check_muon("train.optimizer.kind=muon")
        if group.sharded:
            raise UserError(
                "train.optimizer.kind=muon: Muon takes whole matrices, and these processes hold parts of them; "
                "train with --parallel ddp, or with kind=adamw"
            )
