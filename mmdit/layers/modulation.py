"""From the conditioning vector to the shifts, scales and gates of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmdit.layers.plain import unchanged
from mmdit.layers.runs import ConditioningRuns, each_token
from mmdit.options import BlockOptions, ModulationOptions
from mmdit.packing import Packing

ADALN_GATES = {"zero": 0.0, "identity": 1.0}  # what gates start at

ATTENTION_PARTS = ("attn_shift", "attn_scale", "attn_gate")
FEEDFORWARD_PARTS = ("ff_shift", "ff_scale", "ff_gate")
DUAL_PARTS = ("dual_shift", "dual_scale", "dual_gate")


Conditioning = Tensor | ConditioningRuns  # of one modality: b d, b n d (a vector for each token), or runs of them


Conditionings = Conditioning | Sequence[Conditioning] | None  # one for all modalities, or one for each

Part = Tensor | ConditioningRuns | None  # of a modulation: b 1 d, b n d where tokens differ, runs of them, or unused


class BlockModulation(NamedTuple):
    """What a block needs of one modality's modulation; None where the block does not use it."""

    attn_shift: Part = None
    attn_scale: Part = None
    attn_gate: Part = None
    ff_shift: Part = None
    ff_scale: Part = None
    ff_gate: Part = None
    dual_shift: Part = None
    dual_scale: Part = None
    dual_gate: Part = None

    def map(self, change: Callable[[Tensor | ConditioningRuns], Tensor | ConditioningRuns]) -> BlockModulation:
        """The same with other parts."""
        return BlockModulation(*(None if part is None else change(part) for part in self))

    def along(self, lengths: Sequence[int]) -> BlockModulation:
        """`b k d` -> runs of so many tokens."""
        return self.map(lambda x: ConditioningRuns(x, tuple(lengths)))  # type: ignore[arg-type]

    def spread(self, packing: Packing | None, modality: int) -> BlockModulation:
        """For packed tokens: each sample a run, or, where its tokens differ, `1 T d`."""
        if packing is None:
            return self
        lengths = packing.lengths[modality]

        def spread(x: Tensor | ConditioningRuns) -> Tensor | ConditioningRuns:
            every = each_token(x)
            if every.shape[1] == 1:
                rows = every.transpose(0, 1)
                return rows if rows.shape[1] < 2 else ConditioningRuns(rows, lengths)
            return packing.pack(every.expand(packing.batch, -1, -1), modality)

        return self.map(spread)


# a block's own modulation of conditioning vectors `b dim_cond`, and what makes of it that of the tokens
Modulate = Callable[[Sequence[Conditioning | None]], list[BlockModulation]]
OwnModulation = Callable[[Modulate], list[BlockModulation]]


class ModulationProjection(nn.Module):
    """`activation -> linear`, to the `parts` of a `BlockModulation` side by side: `b dim_cond -> b (parts d)`.

    The linear starts at zero, which leaves norms plain and closes the gates, as the adaLN-zero of DiT (Peebles & Xie
    2022, section 3.2) does; `adaln="identity"` starts the gates at 1, by their bias, as the published `mmdit` does.
    """

    def __init__(
        self,
        dim_cond: int,
        dim: int,
        parts: tuple[str, ...],
        *,
        adaln: str = "zero",
        options: ModulationOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ModulationOptions()
        self.parts = parts
        self.gate_init = ADALN_GATES[adaln]
        self.activation = F.silu if options.activation == "silu" else unchanged
        self.ends = _ends(parts, options)
        self.linear = nn.Linear(dim_cond, dim * len(parts), bias=options.bias)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.linear.weight.zero_()
        if self.linear.bias is None:
            return
        for part, bias in zip(self.parts, self.linear.bias.chunk(len(self.parts)), strict=True):
            bias.fill_(self.gate_init if part.endswith("gate") else 0.0)

    def projected(self, cond: Tensor) -> Tensor:
        """`cond`: b dim_cond, or b n dim_cond."""
        parts: Tensor = self.linear(self.activation(cond))
        return parts


class Modulation(ModulationProjection):
    """The same apart, by the names of the parts (Esser et al. 2024, Figure 2b)."""

    def forward(self, cond: Conditioning) -> BlockModulation:
        """`cond`: b dim_cond, b n dim_cond, or runs."""
        if isinstance(cond, ConditioningRuns):
            return self(cond.vectors).along(cond.lengths)
        chunks = in_parts(self.projected(cond), len(self.parts))
        named = zip(self.parts, self.ends, chunks, strict=True)
        return BlockModulation(**{part: end(x) for part, end, x in named})


class ModulationTable(nn.Module):
    """A block's own table, added to what the one modulation of its network gives (`WholeModulation`)."""

    def __init__(self, dim: int, parts: tuple[str, ...], options: ModulationOptions) -> None:
        super().__init__()
        self.parts, self.ends, self.dim = parts, _ends(parts, options), dim
        every = _given(ATTENTION_PARTS + FEEDFORWARD_PARTS, options)
        self.places = [every.index(part) for part in parts]
        self.table = nn.Parameter(torch.zeros(len(parts), dim))

    def forward(self, cond: Conditioning) -> BlockModulation:
        """`cond`: b (parts d), b n (parts d), or runs: those of the network, of which the block may need some."""
        if isinstance(cond, ConditioningRuns):
            return self(cond.vectors).along(cond.lengths)
        chunks, table = in_parts(cond, cond.shape[-1] // self.dim), self.table.to(cond.dtype)
        named = zip(self.parts, self.ends, self.places, table, strict=True)
        return BlockModulation(**{part: end(chunks[place] + row) for part, end, place, row in named})


class WholeModulation(ModulationProjection):
    """The one modulation of a network, for all of its blocks: each of them adds a table (JoyImage-Edit)."""

    def forward(
        self, time_cond: Conditionings, conds: Sequence[Conditioning]
    ) -> tuple[Conditionings, Sequence[Conditioning]]:
        """`conds`: of each modality, b dim_cond, b n dim_cond, or runs -> the same with (parts d), twice."""
        distinct = {id(cond): cond for cond in conds}  # one for all modalities is the rule
        made = {key: self._of_one(cond) for key, cond in distinct.items()}
        projected = [made[id(cond)] for cond in conds]
        return projected, projected

    def _of_one(self, cond: Conditioning) -> Conditioning:
        if isinstance(cond, ConditioningRuns):
            return cond._replace(vectors=self.projected(cond.vectors))
        return self.projected(cond)


class OwnModulations(nn.Module):
    """Each block makes its own: their conditioning is that of the network."""

    def forward(
        self, time_cond: Conditionings, conds: Sequence[Conditioning | None]
    ) -> tuple[Conditionings, Sequence[Conditioning | None]]:
        return time_cond, conds


def _ends(parts: tuple[str, ...], options: ModulationOptions) -> list[Callable[[Tensor], Tensor]]:
    """What is done to each part at last."""
    gate = torch.tanh if options.gate == "tanh" else unchanged
    return [gate if part.endswith("gate") else unchanged for part in parts]


def in_parts(made: Tensor, count: int) -> tuple[Tensor, ...]:
    """`b (count d)` -> `count` of `b 1 d`, which hold for every token; `b n (count d)` -> of `b n d`."""
    return (made if made.ndim == 3 else made.unsqueeze(1)).chunk(count, dim=-1)


class ModulationOfKinds(nn.Module):
    """One modulation for each kind of a modality's tokens: its own, and its references (FLUX.3)."""

    def __init__(self, kinds: Iterable[nn.Module]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kinds)

    def forward(self, cond: Tensor) -> BlockModulation:
        """`cond`: b k dim_cond, a vector for each kind, or b dim_cond where there are no references -> b k d."""
        vectors = cond.unbind(1) if cond.ndim == 3 else [cond]
        each = [kind(vector) for kind, vector in zip(self.kinds, vectors, strict=False)]
        return BlockModulation(*(None if x[0] is None else torch.cat(x, dim=1) for x in zip(*each, strict=True)))


def join_modulations(modulations: Sequence[BlockModulation], lengths: Sequence[int]) -> BlockModulation:
    """One modulation for the joined sequence, from those of the modalities in it: runs of two modalities' tokens, or
    `b N d`."""

    def joined(parts: Sequence[Any]) -> Part:
        if parts[0] is None:
            return None
        # of more, their lengths would be compared, which may be unknown to torch.export
        if len(parts) == 2 and all(isinstance(part, Tensor) and part.shape[1] == 1 for part in parts):
            return ConditioningRuns(torch.cat([*parts], dim=1), tuple(lengths))
        every = [each_token(part).expand(-1, length, -1) for part, length in zip(parts, lengths, strict=True)]
        return torch.cat(every, dim=1)

    return BlockModulation(*map(joined, zip(*modulations, strict=True)))


class StackModulation(NamedTuple):
    """What one conditioning decides in every block of a stack: by block, for each modality (or for all as one).

    What all blocks share is there once; what is not there, a block makes itself.
    """

    blocks: tuple[tuple[BlockModulation, ...], ...]
    single_blocks: tuple[tuple[BlockModulation, ...], ...] = ()


class NetworkModulation(NamedTuple):
    """What one timestep and pooled vector decide in a whole network (`MMDiTModel.precompute_modulation`).

    `conds` are the conditioning vectors themselves, `b dim_cond`, one for all modalities or one for each (`b 2
    dim_cond` where references have their own); `heads` the shift (or None) and scale of each output head, `b 1 d`;
    `timestep`, `b`, is for what depends on the inputs too (a refiner). A batch of 1 serves any batch.
    """

    conds: tuple[Tensor, ...]
    stack: StackModulation
    heads: dict[str, tuple[Tensor | None, Tensor]]
    timestep: Tensor

    def rows(self, start: int, stop: int) -> NetworkModulation:
        """That of some samples of the batch; views."""
        chosen: NetworkModulation = tree_map_only(Tensor, lambda x: x[start:stop], self)
        return chosen


class NoModulation(nn.Module):
    """Nothing comes from the conditioning: plain norms with their own weights, and no gates."""

    def forward(self, cond: Conditioning | None) -> BlockModulation:
        return BlockModulation()


def make_modulation(dim: int, parts: tuple[str, ...], options: BlockOptions, *, shared: bool = False) -> nn.Module:
    """The modulation of one modality: a block's own, or `shared` by several blocks, as the options say; else none.

    Of the parts that the block has use for it gives those that the options name.
    """
    given = _given(parts, options.modulation)
    if options.dim_cond is None or options.modulation.shared != shared or not given:
        return NoModulation()
    if options.modulation.table:
        return ModulationTable(dim, given, options.modulation)
    return Modulation(options.dim_cond, dim, given, adaln=options.adaln, options=options.modulation)


def make_whole_modulation(dim: int, parts: tuple[str, ...], options: BlockOptions) -> WholeModulation | OwnModulations:
    """What a network makes of its conditioning for all of its blocks, of which one uses these `parts` at most."""
    if options.dim_cond is None or not options.modulation.table:
        return OwnModulations()
    given = _given(parts, options.modulation)
    return WholeModulation(options.dim_cond, dim, given, adaln=options.adaln, options=options.modulation)


def _given(parts: tuple[str, ...], options: ModulationOptions) -> tuple[str, ...]:
    """Those that the options name."""
    named = options.parts.split("_")
    return tuple(part for part in parts if part.rpartition("_")[2] in named)
