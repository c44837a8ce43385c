"""Context parallel of the Ulysses kind (Jacobs et al. 2023, arXiv 2309.14509): each process has some tokens of every
modality, and within the one attention call all tokens of some heads.

A stack of blocks is given its share of the tokens, of their masks, positions and conditioning, and what it gives is
gathered. Its blocks run as they are; around the attention call two all-to-alls exchange tokens for heads and back.
Attention does not ask in which order keys stand, so they stay in that of the processes, and nothing is sorted.

Gradients are the mean over the processes, of which FSDP takes that of the weights. What leaves a stack has the sum of
all processes' gradients: where all compute the same loss, so many times that of one. So each process's part of a
gradient within the stack, and of what goes into it, is so many times too large, and their mean is the sum of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.masks import Masks
from mmdit.layers.neighbours import Neighbours
from mmdit.layers.registers import RegisterTokens
from mmdit.layers.runs import ConditioningRuns
from mmdit.networks.parallel_block import ParallelBlock
from mmdit.networks.transformer import MMDiT
from mmdit.packing import Packing
from mmdit.parallel.exchanges import exchanged, gathered, spread


@dataclass
class Shares:
    """Which tokens of a stack each process has, in its last call.

    Attributes:
        place, size: this process, of how many.
        registers: learned tokens in front of each modality, which the first process has.
        lengths: tokens of each modality, registers apart.
        masks: `b n` of all of them, or None.
    """

    group: ProcessGroup
    place: int
    size: int
    registers: tuple[int, ...]
    lengths: tuple[int, ...] = ()
    masks: tuple[Tensor | None, ...] = ()
    _joined: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)

    def enter(self, lengths: Sequence[int], masks: Sequence[Tensor | None]) -> None:
        """A call begins."""
        self.lengths, self.masks, self._joined = tuple(lengths), tuple(masks), {}

    def bounds(self, length: int, place: int | None = None) -> tuple[int, int]:
        """From where to where a process's share of so many tokens reaches. They differ by one at most."""
        place = self.place if place is None else place
        return length * place // self.size, length * (place + 1) // self.size

    def share(self, x: Tensor, dim: int = 1) -> Tensor:
        """This process's share of tokens, which stand along `dim`."""
        start, stop = self.bounds(x.shape[dim])
        return x.narrow(dim, start, stop - start)

    def counts(self, modalities: Sequence[int]) -> list[int]:
        """How many tokens of these modalities each process has, registers with them."""
        return [sum(stop - start for start, stop in self._places(modalities, place)) for place in range(self.size)]

    def mask(self, modalities: Sequence[int]) -> Tensor | None:
        """`b j`, of the tokens of these modalities in the order of the processes; None where all are valid."""
        key = tuple(modalities)
        if key not in self._joined:
            self._joined[key] = self._mask(key)
        return self._joined[key]

    def _places(self, modalities: Sequence[int], place: int) -> list[tuple[int, int]]:
        """By modality, from where to where; registers stand in front, below 0."""
        every = [self.bounds(self.lengths[i], place) for i in modalities]
        first = [self.registers[i] if place == 0 else 0 for i in modalities]
        return [(start - r, stop) for (start, stop), r in zip(every, first, strict=True)]

    def _mask(self, modalities: tuple[int, ...]) -> Tensor | None:
        masks = [self.masks[i] for i in modalities]
        like = next((mask for mask in masks if mask is not None), None)
        if like is None:
            return None
        pieces = []
        for place in range(self.size):
            for mask, (start, stop) in zip(masks, self._places(modalities, place), strict=True):
                own = like.new_ones(len(like), stop - max(start, 0)) if mask is None else mask[:, max(start, 0) : stop]
                pieces.append(F.pad(own, (max(-start, 0), 0), value=True))
        return torch.cat(pieces, dim=1)


class UlyssesAttention(nn.Module):
    """An attention call whose tokens are on several processes: it is made for all tokens and some heads."""

    def __init__(self, attend: nn.Module, shares: Shares, keys: Sequence[int], queries: Sequence[int]) -> None:
        super().__init__()
        self.attend, self.shares, self.keys, self.queries = attend, shares, tuple(keys), tuple(queries)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, segments: None = None) -> Tensor:
        """`q`: b h i d; `k`, `v`: b g j d, of this process's tokens -> b h i d. The mask is that of all tokens."""
        shares, group, size = self.shares, self.shares.group, self.shares.size
        queries, keys = shares.counts(self.queries), shares.counts(self.keys)
        if (q.shape[2], k.shape[2]) != (queries[shares.place], keys[shares.place]):
            raise RuntimeError("the stack was called again before its backward pass, with tokens of another number")

        # tokens of this process, all heads -> all tokens, this process's heads
        given, lengths = (q, k, v), (queries, keys, keys)
        by_heads = [[piece.reshape(-1) for piece in x.chunk(size, dim=1)] for x in given]
        sent = torch.cat([piece for to in zip(*by_heads, strict=True) for piece in to])
        per_token = [x.shape[0] * (x.shape[1] // size) * x.shape[3] for x in given]
        received = [sum(map(int.__mul__, per_token, each)) for each in zip(*lengths, strict=True)]
        pieces = exchanged(sent, group, [len(sent) // size] * size, received).split(received)
        parts: list[list[Tensor]] = [[], [], []]
        for piece, counts in zip(pieces, zip(*lengths, strict=True), strict=True):
            numbers = [a * b for a, b in zip(per_token, counts, strict=True)]
            for own, x, n, part in zip(piece.split(numbers), given, counts, parts, strict=True):
                part.append(own.view(x.shape[0], x.shape[1] // size, n, x.shape[3]))
        every = [torch.cat(part, dim=2) for part in parts]
        out: Tensor = self.attend(*every, shares.mask(self.keys))

        # and back
        back = torch.cat([piece.reshape(-1) for piece in out.split(queries, dim=2)])
        per_token_out = out.shape[0] * out.shape[1] * out.shape[3]
        sent_back, own = [per_token_out * n for n in queries], per_token_out * q.shape[2]
        heads = exchanged(back, group, sent_back, [own] * size).split(own)
        shape = (out.shape[0], out.shape[1], q.shape[2], out.shape[3])
        return torch.cat([piece.view(shape) for piece in heads], dim=1)


class NeighboursElsewhere:
    """A convolution's neighbours, of which some are on other processes: the modality's tokens are gathered."""

    def __init__(self, beside: Neighbours, shares: Shares, modality: int) -> None:
        self.beside, self.shares, self.modality = beside, shares, modality

    def __call__(self, x: Tensor, valid: Any = None) -> Tensor:
        """See `Neighbours`."""
        shares, modality = self.shares, (self.modality,)
        counts = shares.counts(modality)
        whole = spread(gathered(x, shares.group, 1, counts), shares.group)
        start = sum(counts[: shares.place])
        return self.beside(whole, shares.mask(modality)).narrow(1, start, counts[shares.place])


def share_tokens(model: nn.Module, group: ProcessGroup) -> None:
    """Give each process of a group a share of the tokens in every stack of a model."""
    for stack in model.modules():
        if isinstance(stack, MMDiT):
            _share_tokens(stack, group)


def _share_tokens(stack: MMDiT, group: ProcessGroup) -> None:
    counts = tuple(registers.count for registers in stack.registers)
    shares = Shares(group, group.rank(), group.size(), counts)  # type: ignore[arg-type]
    stack.varlen = False  # masks in its place: a packing is of whole samples
    for registers in stack.registers:
        if isinstance(registers, RegisterTokens) and shares.place:
            registers.count = 0
            registers.forward = partial(_without_registers, registers)  # type: ignore[method-assign]
    every = range(len(stack.modality_names))
    blocks: Any = stack.blocks
    for block in blocks:
        _exchange(block.joint_attn, shares, every)
        for i in every:
            if isinstance(block.dual_attns[i], JointAttention):
                _exchange(block.dual_attns[i], shares, [i])
            _look_beside(block.feedforwards[i], shares, i)
    single_blocks: Any = stack.single_blocks
    for block in single_blocks:
        parallel = isinstance(block, ParallelBlock)
        _exchange(block.attn if parallel else block.joint_attn, shares, stack.streamed)
        _look_beside(block.feedforward if parallel else block.feedforwards[0], shares, stack.streamed[0])
    stack.register_forward_pre_hook(partial(_enter, shares), with_kwargs=True)
    stack.register_forward_hook(partial(_leave, shares))


def _exchange(attention: JointAttention, shares: Shares, modalities: Sequence[int]) -> None:
    queries = [i for place, i in enumerate(modalities) if place not in attention.discard]
    queries = list(modalities) if len(modalities) > len(attention.names) else queries  # of one stream
    attention.attend = UlyssesAttention(attention.attend, shares, modalities, queries)
    attention.beside = [
        NeighboursElsewhere(beside, shares, i) if isinstance(beside, Neighbours) else beside
        for beside, i in zip(attention.beside, modalities, strict=False)
    ]


def _look_beside(feedforward: Any, shares: Shares, modality: int) -> None:
    if isinstance(getattr(feedforward, "beside", None), Neighbours):
        feedforward.beside = NeighboursElsewhere(feedforward.beside, shares, modality)


def _without_registers(registers: RegisterTokens, x: Tensor, packed: None = None) -> Tensor:
    """Another process has them; this one's gradient of them is 0."""
    return x + registers.tokens.sum().to(x.dtype) * 0


def _enter(shares: Shares, stack: MMDiT, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The arguments of a stack's call, of which each process keeps its share of the tokens."""
    names = stack.modality_names
    by_name = "modality_tokens" not in named  # two modalities are called by their names
    tokens = [named[f"{name}_tokens"] for name in names] if by_name else named["modality_tokens"]
    positions = [named.get(f"{name}_positions") for name in names] if by_name else named.get("modality_positions")
    masks = named.get("masks") if by_name else named.get("modality_masks")
    if by_name and masks is None:
        masks = [named.get(f"{name}_mask") for name in names]
    if isinstance(masks, Packing):
        masks = [masks.mask(i) for i in range(len(names))]
    every = (None,) * len(names) if masks is None else masks.by_modality if isinstance(masks, Masks) else masks
    lengths = [x.shape[1] for x in tokens]
    shares.enter(lengths, every)

    own_tokens = [shares.share(x) for x in tokens]
    own_masks = tuple(None if mask is None else shares.share(mask) for mask in every)
    own_positions = positions and [None if x is None else shares.share(x, x.ndim - 2) for x in positions]
    named = {**named, "time_cond": _conditioning(shares, named.get("time_cond"), lengths)}
    if by_name:
        for i, name in enumerate(names):
            named |= {f"{name}_tokens": own_tokens[i], f"{name}_mask": own_masks[i]}
            if own_positions is not None and own_positions[i] is not None:
                named[f"{name}_positions"] = own_positions[i]
        return given, {**named, "masks": None}
    named["modality_masks"] = masks._replace(by_modality=own_masks) if isinstance(masks, Masks) else own_masks
    return given, {**named, "modality_tokens": own_tokens, "modality_positions": own_positions}


def _conditioning(shares: Shares, cond: Any, lengths: Sequence[int]) -> Any:
    """That of each modality; what is one vector for all tokens is left as it is."""
    if isinstance(cond, Tensor) and cond.ndim == 2:
        return cond
    every = [cond] * len(lengths) if isinstance(cond, Tensor | ConditioningRuns) else cond
    return every and [_of_share(shares, each, n) for each, n in zip(every, lengths, strict=True)]


def _of_share(shares: Shares, cond: Any, length: int) -> Any:
    if isinstance(cond, ConditioningRuns):
        start, stop = shares.bounds(length)
        ends = [min(max(end, start), stop) for end in accumulate(cond.lengths)]
        return cond._replace(lengths=tuple(b - a for a, b in zip([start, *ends], ends, strict=False)))
    return cond if cond.ndim == 2 else shares.share(cond)


def _leave(shares: Shares, stack: MMDiT, given: Any, outs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """All tokens of all processes."""
    whole: list[Tensor | None] = []
    for x, length in zip(outs, shares.lengths, strict=True):
        counts = [stop - start for start, stop in (shares.bounds(length, place) for place in range(shares.size))]
        whole.append(None if x is None else spread(gathered(x, shares.group, 1, counts), shares.group))
    return tuple(whole)
