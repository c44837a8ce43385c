"""Which weights are matrices within a network's blocks: those that Muon updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdit.config.construct import build_on_meta
from mmdit.layers.residuals import ShiftLinear
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions
from mmdit_cli.errors import UserError


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of the linears in the stacks of blocks: of attention, feedforward and modulation. The network's ends
    and conditioning lie outside of these; biases, norms, tables and tokens are vectors, though some are stored as
    matrices; hyper-connections have a few columns alone; and torch's Muon takes no stack of matrices, which adaptive
    attention keeps. `d_out d_in` each, the trained ones."""
    linears = [m for stack in _stacks(model) for m in stack.modules() if isinstance(m, nn.Linear)]
    weights = [m.weight for m in linears if not isinstance(m, ShiftLinear)]
    return [weight for weight in dict.fromkeys(weights) if weight.requires_grad]


def share_of_muon(options: ModelOptions) -> float:
    """Of the weights in the stacks of blocks that are matrices, or stacks of these, the share that Muon updates."""
    model = build_on_meta(options)
    weights = dict.fromkeys(p for stack in _stacks(model) for p in stack.parameters() if p.ndim > 1)
    return sum(p.numel() for p in hidden_matrices(model)) / max(1, sum(p.numel() for p in weights))


def check_muon(asked: str) -> None:
    """Raises UserError where torch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise UserError(f"{asked}: torch has Muon from version 2.9 on, and this is {torch.__version__}")


def _stacks(model: nn.Module) -> list[MMDiT]:
    return [module for module in model.modules() if isinstance(module, MMDiT)]
