"""Which weights are matrices within a network's blocks: those that Muon updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdit.layers.residuals import ShiftLinear
from mmdit.networks.transformer import MMDiT
from mmdit_cli.errors import UserError


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of the linears in the stacks of blocks: of attention, feedforward and modulation. The network's ends
    and conditioning lie outside of these; biases, norms, tables and tokens are vectors, though some are stored as
    matrices; and hyper-connections have a few columns alone. `d_out d_in` each, the trained ones."""
    stacks = [module for module in model.modules() if isinstance(module, MMDiT)]
    linears = [m for stack in stacks for m in stack.modules() if isinstance(m, nn.Linear)]
    weights = [m.weight for m in linears if not isinstance(m, ShiftLinear)]
    return [weight for weight in dict.fromkeys(weights) if weight.requires_grad]


def check_muon(asked: str) -> None:
    """Raises UserError where torch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise UserError(f"{asked}: torch has Muon from version 2.9 on, and this is {torch.__version__}")
