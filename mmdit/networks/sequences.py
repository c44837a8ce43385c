"""How a batch of sequences lies in memory within a stack: padded, `b n d`, or packed, `1 T d`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdit.layers.attention import join_masks
from mmdit.layers.masks import Masks, fill_masked
from mmdit.layers.modulation import BlockModulation, join_modulations
from mmdit.layers.registers import NoRegisterTokens, RegisterTokens
from mmdit.layers.rotary import fill_tables
from mmdit.layers.runs import each_token
from mmdit.packing import Packing

Registers = RegisterTokens | NoRegisterTokens


class OneStream(NamedTuple):
    """All modalities' tokens as one sequence: what a single-stream block is called with, and the parts' lengths."""

    tokens: Tensor
    table: Tensor | None
    masks: Masks | None
    packing: Packing | None
    lengths: list[int]


class Padded:
    """Every sample at the length of the longest; masks say what is valid. Register tokens stand in front."""

    packing = None

    def __init__(self, masks: Masks, registers: Sequence[Registers]) -> None:
        self.bare = masks.by_modality  # without register tokens
        self.to_fill = (None,) * len(registers) if masks.filled else masks.by_modality  # where that has yet to be done
        # registers are valid everywhere
        with_registers = (
            None if mask is None else F.pad(mask, (r.count, 0), value=True)
            for r, mask in zip(registers, masks.by_modality, strict=True)
        )
        self.masks = Masks(tuple(with_registers), filled=True)
        self.registers = registers

    def enter(self, x: Tensor, i: int) -> Tensor:
        """`x`: b n d -> b (r n) d."""
        return self.registers[i](fill_masked(x, self.to_fill[i]))

    def leave(self, x: Tensor, i: int) -> Tensor:
        """The reverse of `enter`."""
        return x[:, self.registers[i].count :]

    def valid(self, i: int) -> Tensor | None:
        """`b n`, without register tokens; None where all are."""
        return self.bare[i]

    def coordinates(self, place: Tensor | None, i: int) -> Tensor | None:
        """`place`: n a or b n a -> that of the registers, 0, and of the tokens."""
        if place is None:
            return None
        mask = self.to_fill[i]
        if mask is not None and place.ndim == 2:  # of all samples
            mask = mask.any(dim=0)
        return F.pad(fill_masked(place, mask), (0, 0, self.registers[i].count, 0))

    def only(self, indexes: Sequence[int]) -> Padded:
        """Those of some modalities, registers and all."""
        chosen = copy(self)
        chosen.masks, chosen.registers = self.masks.only(*indexes), [self.registers[i] for i in indexes]
        return chosen

    def spread(self, modulations: Sequence[BlockModulation]) -> Sequence[BlockModulation]:
        """By modality: `b 1 d`, as it is."""
        return modulations

    def join(self, tokens: Sequence[Tensor], tables: Sequence[Tensor | None] | None) -> OneStream:
        """All tokens as one sequence."""
        lengths = [x.shape[1] for x in tokens]
        mask = join_masks(list(self.masks.by_modality), lengths, tokens[0])
        filled = None if tables is None else fill_tables(tables, lengths)
        table = None if filled is None else torch.cat(filled, dim=-3)
        return OneStream(torch.cat(list(tokens), dim=1), table, Masks((mask,), filled=True), None, lengths)

    def split(self, x: Tensor, stream: OneStream) -> Sequence[Tensor]:
        """The reverse of `join`."""
        return x.split(stream.lengths, dim=1)

    def join_modulations(self, modulations: Sequence[BlockModulation], stream: OneStream) -> BlockModulation:
        """That of the joined sequence, from one for all tokens or one for each modality's."""
        return modulations[0] if len(modulations) == 1 else join_modulations(modulations, stream.lengths)


class Packed:
    """The valid tokens of all samples one behind the other, each sample's registers in front of its own."""

    masks = None

    def __init__(self, packing: Packing, registers: Sequence[Registers]) -> None:
        self.bare, self.registers = packing, registers  # without register tokens
        self.packing = packing.behind([r.count for r in registers])

    def enter(self, x: Tensor, i: int) -> Tensor:
        """`x`: b n d -> 1 T d."""
        return self.registers[i](self.bare.pack(x, i), self._in_front(i))

    def leave(self, x: Tensor, i: int) -> Tensor:
        """The reverse of `enter`, zeros at the padding."""
        if self.registers[i].count:
            _, x = self._in_front(i).split(x)
        return self.bare.unpack(x, i)

    def valid(self, i: int) -> Tensor | None:
        """`b n`, without register tokens; None where all are."""
        return self.bare.mask(i)

    def coordinates(self, place: Tensor | None, i: int) -> Tensor | None:
        """`place`: n a or b n a -> T a."""
        if place is None:
            return None
        packed = self.bare.pack(place.expand(self.bare.batch, -1, -1), i)
        still = packed.new_zeros(1, self.bare.batch * self.registers[i].count, packed.shape[-1])
        return self._in_front(i).join([still, packed]).squeeze(0)

    def only(self, indexes: Sequence[int]) -> Packed:
        """Those of some modalities, registers and all."""
        return Packed(self.bare.only(*indexes), [self.registers[i] for i in indexes])

    def spread(self, modulations: Sequence[BlockModulation]) -> Sequence[BlockModulation]:
        """By modality: `b 1 d` -> runs of each sample's tokens."""
        return [modulation.spread(self.packing, i) for i, modulation in enumerate(modulations)]

    def join(self, tokens: Sequence[Tensor], tables: Sequence[Tensor | None] | None) -> OneStream:
        """All tokens as one sequence, sample by sample."""
        lengths = [x.shape[1] for x in tokens]
        filled = None if tables is None else fill_tables(tables, lengths)
        table = None if filled is None else self.packing.join([table[None] for table in filled]).squeeze(0)
        return OneStream(self.packing.join(tokens), table, None, self.packing.joined(), lengths)

    def split(self, x: Tensor, stream: OneStream) -> Sequence[Tensor]:
        """The reverse of `join`."""
        return self.packing.split(x)

    def join_modulations(self, modulations: Sequence[BlockModulation], stream: OneStream) -> BlockModulation:
        """That of the joined sequence, from one for all tokens or one for each modality's."""
        if len(modulations) == 1:
            return modulations[0].spread(stream.packing, 0)

        def joined(parts: Sequence[Any]) -> Tensor:
            lengths = zip(parts, stream.lengths, strict=True)
            return self.packing.join([each_token(part).expand(-1, length, -1) for part, length in lengths])

        by_part = zip(*(m.spread(self.packing, i) for i, m in enumerate(modulations)), strict=True)
        return BlockModulation(*(None if parts[0] is None else joined(parts) for parts in by_part))

    def _in_front(self, i: int) -> Packing:
        registers = (self.registers[i].count,) * self.bare.batch
        return Packing((registers, self.bare.lengths[i]))
