"""Token routing (TREAD, Krause et al. 2025, arXiv 2501.04765): in training some of the tokens skip blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from mmdit.layers.masks import Masks
from mmdit.layers.modulation import Conditioning
from mmdit.networks.sequences import Packed, Padded
from mmdit.options import ModelOptions

Tables = Sequence[Tensor | None]


class TokenRouting:
    """Draws which tokens stay.

    Attributes:
        share: how many of a modality's tokens leave; register tokens stay.
        modalities: of which tokens leave, by index.
    """

    def __init__(self, share: float, modalities: Collection[int]) -> None:
        self.share, self.modalities = share, modalities

    def leave(self, tokens: Sequence[Tensor], sequences: Padded | Packed, tables: Tables | None) -> Route:
        """Other tokens in each sample leave; `tokens`: b (r n) d, or of streams b (r n) s d.

        Raises:
            ValueError: the tokens are packed.
        """
        if isinstance(sequences, Packed):
            raise ValueError("routing takes tokens out of padded sequences in training; pass masks, not a Packing")
        kept = {i: self._draw(tokens[i], sequences.registers[i].count) for i in self.modalities}
        return Route(tokens, sequences.masks, tables, kept)

    def _draw(self, x: Tensor, registers: int) -> Tensor:
        """The places that stay, in their order: `b k`."""
        batch, length = x.shape[0], x.shape[1] - registers
        count = min(length, max(1, length - round(self.share * length)))
        drawn = torch.rand(batch, length, device=x.device).argsort(dim=1)[:, :count].sort(dim=1).values
        first = torch.arange(registers, device=x.device).expand(batch, -1)
        return torch.cat([first, drawn + registers], dim=1)

    def check(self, conds: Sequence[Conditioning | None], names: Sequence[str]) -> None:
        """Raises ValueError where tokens that may leave have a conditioning of their own."""
        for i in self.modalities:
            cond = conds[i]
            if cond is not None and not (isinstance(cond, Tensor) and cond.ndim == 2):
                raise ValueError(
                    f"time_cond for {names[i]}: routing goes with one vector for each sample in training, and here "
                    "tokens have vectors of their own; route other modalities"
                )


class Route:
    """What goes through the blocks in the place of all tokens: `tokens`, `masks`, `tables` of rotary places."""

    def __init__(
        self, tokens: Sequence[Tensor], masks: Masks, tables: Tables | None, kept: Mapping[int, Tensor]
    ) -> None:
        self.whole, self.kept = tokens, kept
        self.tokens = [_taken(x, kept.get(i)) for i, x in enumerate(tokens)]
        by_modality = tuple(None if m is None else _taken(m, kept.get(i)) for i, m in enumerate(masks.by_modality))
        self.masks = masks._replace(by_modality=by_modality)
        self.tables = None if tables is None else [self._turns(table, i) for i, table in enumerate(tables)]

    def rejoin(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """All tokens: those that left are as they were."""
        return [
            x if i not in self.kept else self.whole[i].to(x.dtype).scatter(1, _along(self.kept[i], x), x)
            for i, x in enumerate(tokens)
        ]

    def _turns(self, table: Tensor | None, i: int) -> Tensor | None:
        """`table`: n d/2 2, or b n d/2 2."""
        if table is None or i not in self.kept:
            return table
        return table[self.kept[i]] if table.ndim == 3 else _taken(table, self.kept[i])


def _taken(x: Tensor, places: Tensor | None) -> Tensor:
    """`x`: b n ..., `places`: b k -> b k ..."""
    return x if places is None else x.gather(1, _along(places, x))


def _along(places: Tensor, x: Tensor) -> Tensor:
    """`places`: b k -> b k ..., as `gather` and `scatter` want them."""
    return places.view(*places.shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])


def make_routing(options: ModelOptions) -> TokenRouting | None:
    """That of a network, if it has one."""
    routing = options.routing
    return None if routing is None else TokenRouting(routing.share, options.indexes(options.routed))
