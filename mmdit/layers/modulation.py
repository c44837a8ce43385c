"""From the conditioning vector to the shifts, scales and gates of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.options import BlockOptions
from mmdit.packing import Packing

ADALN_GATES = {"zero": 0.0, "identity": 1.0}  # what gates start at

ATTENTION_PARTS = ("attn_shift", "attn_scale", "attn_gate")
FEEDFORWARD_PARTS = ("ff_shift", "ff_scale", "ff_gate")
DUAL_PARTS = ("dual_shift", "dual_scale", "dual_gate")


class BlockModulation(NamedTuple):
    """What a block needs of one modality's modulation: `b 1 d` each, or None where the block does not use it."""

    attn_shift: Tensor | None = None
    attn_scale: Tensor | None = None
    attn_gate: Tensor | None = None
    ff_shift: Tensor | None = None
    ff_scale: Tensor | None = None
    ff_gate: Tensor | None = None
    dual_shift: Tensor | None = None
    dual_scale: Tensor | None = None
    dual_gate: Tensor | None = None

    def rows(self, start: int, stop: int) -> BlockModulation:
        """That of some samples of the batch."""
        return BlockModulation(*(None if part is None else part[start:stop] for part in self))

    def spread(self, packing: Packing | None, modality: int) -> BlockModulation:
        """For packed tokens, every one of them its own row: `1 T d`."""
        if packing is None:
            return self
        return BlockModulation(*(None if part is None else packing.spread(part, modality) for part in self))


class Modulation(nn.Module):
    """`silu -> linear`, split into the named `parts` of a `BlockModulation` (Esser et al. 2024, Figure 2b).

    The linear starts at zero, which leaves norms plain and closes the gates, as the adaLN-zero of DiT (Peebles & Xie
    2022, section 3.2) does; `adaln="identity"` starts the gates at 1, by their bias, as the published `mmdit` does.
    """

    def __init__(
        self, dim_cond: int, dim: int, parts: tuple[str, ...], *, adaln: str = "zero", bias: bool = True
    ) -> None:
        super().__init__()
        self.parts = parts
        self.gate_init = ADALN_GATES[adaln]
        self.linear = nn.Linear(dim_cond, dim * len(parts), bias=bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.linear.weight.zero_()
        if self.linear.bias is None:
            return
        for part, bias in zip(self.parts, self.linear.bias.chunk(len(self.parts)), strict=True):
            bias.fill_(self.gate_init if part.endswith("gate") else 0.0)

    def forward(self, cond: Tensor) -> BlockModulation:
        """`cond`: b dim_cond."""
        chunks = self.linear(F.silu(cond)).unsqueeze(1).chunk(len(self.parts), dim=-1)
        return BlockModulation(**dict(zip(self.parts, chunks, strict=True)))


def join_modulations(modulations: Sequence[BlockModulation], lengths: Sequence[int]) -> BlockModulation:
    """One modulation for the joined sequence, `b N d`, from those of the modalities in it."""
    parts = (
        torch.cat([part.expand(-1, length, -1) for part, length in zip(parts, lengths, strict=True)], dim=1)
        if parts[0] is not None
        else None
        for parts in zip(*modulations, strict=True)
    )
    return BlockModulation(*parts)


@dataclass(frozen=True)
class StackModulation:
    """What one conditioning decides in every block of a stack: by block, for each modality (or for all as one).

    What all blocks share is there once; what is not there, a block makes itself.
    """

    blocks: tuple[tuple[BlockModulation, ...], ...]
    single_blocks: tuple[tuple[BlockModulation, ...], ...] = ()

    def rows(self, start: int, stop: int) -> StackModulation:
        """That of some samples of the batch; views."""
        joint, single = (
            tuple(tuple(mod.rows(start, stop) for mod in block) for block in blocks)
            for blocks in (self.blocks, self.single_blocks)
        )
        return StackModulation(joint, single)


@dataclass(frozen=True)
class NetworkModulation:
    """What one timestep and pooled vector decide in a whole network (`MMDiTModel.precompute_modulation`).

    `conds` are the conditioning vectors themselves, `b dim_cond`, one for all modalities or one for each; `heads` the
    shift and scale of each output head, `b 1 d`; `timestep`, `b`, is for what depends on the inputs too (a refiner). A
    batch of 1 serves any batch.
    """

    conds: tuple[Tensor, ...]
    stack: StackModulation
    heads: dict[str, tuple[Tensor, Tensor]]
    timestep: Tensor

    def rows(self, start: int, stop: int) -> NetworkModulation:
        """That of some samples of the batch; views."""
        return NetworkModulation(
            tuple(cond[start:stop] for cond in self.conds),
            self.stack.rows(start, stop),
            {name: (shift[start:stop], scale[start:stop]) for name, (shift, scale) in self.heads.items()},
            self.timestep[start:stop],
        )


class NoModulation(nn.Module):
    """Nothing comes from the conditioning: plain norms with their own weights, and no gates."""

    def forward(self, cond: Tensor | None) -> BlockModulation:
        return BlockModulation()


def make_modulation(dim: int, parts: tuple[str, ...], options: BlockOptions, *, shared: bool = False) -> nn.Module:
    """The modulation of one modality: a block's own, or `shared` by several blocks, as the options say; else none.

    Of the parts that the block has use for it gives those that the options name.
    """
    named = options.modulation.parts.split("_")
    given = tuple(part for part in parts if part.rpartition("_")[2] in named)
    if options.dim_cond is None or options.modulation.shared != shared or not given:
        return NoModulation()
    return Modulation(options.dim_cond, dim, given, adaln=options.adaln, bias=options.modulation.bias)
