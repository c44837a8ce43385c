"""A model as a LoRA is trained: frozen, with two narrow matrices beside its linear layers."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mmdit.networks.transformer import MMDiT
from mmdit_cli.errors import UserError

PARTS = ("attn", "feedforward")  # of a block, that are adapted where nothing else is said


class LowRankLinear(nn.Module):
    """`base(x) + scale * up(down(x))`, `... in -> ... out`, where base is frozen. It makes and holds the tensors that
    peft's does: the adapter's input in its own dtype stays until the sum is there, and the scale makes a tensor even
    where it is 1."""

    scale = 1.0

    def __init__(self, base: nn.Linear, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        device = base.weight.device
        self.base, self.dtype = base, dtype
        self.down = nn.Linear(base.in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        x = x.to(self.dtype)
        return out + self.up(self.down(x)) * self.scale


def add_adapters(model: nn.Module, rank: int, dtype: torch.dtype, names: str | None) -> None:
    """Freeze a model and put adapters beside its linear layers, in place.

    Args:
        dtype: of the adapters.
        names: a pattern of the weights that get one; None: those of attention and feedforward in every block.

    Raises:
        UserError: no linear layer has such a name.
    """
    model.requires_grad_(False)
    inside = {id(m) for owner in model.modules() if isinstance(owner, MMDiT) for m in _of_blocks(owner)}
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and (id(module) in inside if names is None else fnmatchcase(f"{name}.weight", names))
    ]
    if not found:
        raise UserError(
            f"--trainable {names}: no linear layer's weight has such a name, so a LoRA would have no target"
        )
    for name, module in found:
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, LowRankLinear(module, rank, dtype))


def _of_blocks(owner: MMDiT) -> list[nn.Module]:
    parts = [part for block in (*owner.blocks, *owner.single_blocks) for part in block.named_modules()]
    return [module for name, module in parts if any(part in name.partition(".")[0] for part in PARTS)]
