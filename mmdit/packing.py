"""Padding-free execution: the valid tokens of all samples in one sequence, without what a mask would throw away.

A batch of captions at 512 tokens with 60 real ones spends most of the text stream on padding, and its mask keeps the
attention from the fast kernels. Packed, a modality is `1 T d`: the valid tokens of sample 0, then those of 1, and so
on. Norms, projections and feedforwards work on each token alone and run as they are; modulations are spread over their
samples' tokens; attention stays within each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Segments:
    """Where the samples of packed queries and keys begin and end.

    `query_offsets` and `key_offsets` are `b + 1` int32 on the device, for kernels that take them.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    query_offsets: Tensor
    key_offsets: Tensor


@dataclass(frozen=True)
class Packing:
    """Which tokens of a padded batch are valid, as what packs and unpacks them.

    It can be passed wherever masks are, and serves every call with the same masks: the steps of a sampler, say.

    Attributes:
        lengths: valid tokens, by modality and sample.
        padded: length of each modality's padded sequence.
        index: by modality, the places of its valid tokens in the flattened `b * n` ones, `T`; None: all are valid.
    """

    lengths: tuple[tuple[int, ...], ...]
    padded: tuple[int, ...] = ()
    index: tuple[Tensor | None, ...] = ()
    _kept: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)  # what every block asks for again

    @classmethod
    def from_masks(cls, masks: Sequence[Tensor | None], lengths: Sequence[int], batch: int) -> Packing:
        """Read the masks; on a GPU this waits for it, once for all blocks.

        Args:
            masks: by modality, `b n` bool, True = valid, or None where every token is.
            lengths: of each modality's padded sequence.
        """
        valid = [
            (length,) * batch if m is None else tuple(m.sum(dim=1).tolist())
            for m, length in zip(masks, lengths, strict=True)
        ]
        index = tuple(
            None if mask is None or sum(counts) == batch * length else mask.flatten().nonzero().squeeze(1)
            for mask, counts, length in zip(masks, valid, lengths, strict=True)
        )
        return cls(tuple(valid), tuple(lengths), index)

    @property
    def batch(self) -> int:
        return len(self.lengths[0])

    @property
    def has_padding(self) -> bool:
        return any(index is not None for index in self.index)

    def check(self, lengths: Sequence[int], batch: int) -> None:
        """Raises ValueError where the tokens are not those that it was made for."""
        if self.padded != tuple(lengths) or self.batch != batch:
            raise ValueError(
                f"the packing is for {self.batch} samples of {self.padded} tokens, got {batch} of {tuple(lengths)}"
            )

    def map(self, change: Callable[[Tensor], Tensor]) -> Packing:
        """The same with other tensors: on another device, say."""
        return Packing(self.lengths, self.padded, tuple(None if i is None else change(i) for i in self.index))

    # ------------------------------------------------------------------------------------ between padded and packed

    def pack(self, x: Tensor, modality: int) -> Tensor:
        """`x`: b n ... -> 1 T ..."""
        index, flat = self.index[modality], x.flatten(0, 1)
        return (flat if index is None else flat.index_select(0, index)).unsqueeze(0)

    def unpack(self, x: Tensor, modality: int) -> Tensor:
        """`x`: 1 T ... -> b n ..., zeros at the padding."""
        index, batch = self.index[modality], self.batch
        if index is not None:
            padded = x.new_zeros(batch * self.padded[modality], *x.shape[2:])
            x = padded.index_copy(0, index, x.squeeze(0)).unsqueeze(0)
        return x.squeeze(0).unflatten(0, (batch, self.padded[modality]))

    # --------------------------------------------------------------------------------------------------- when packed

    def join(self, parts: Sequence[Tensor], modalities: Sequence[int] | None = None) -> Tensor:
        """Modalities `1 T_i ...` -> `1 T ...`: the tokens of all (or of some) modalities of sample 0, then of 1, ..."""
        if len(parts) == 1:
            return parts[0]
        of = range(len(self.lengths)) if modalities is None else modalities
        pieces = [part.split(self.lengths[i], dim=1) for part, i in zip(parts, of, strict=True)]
        return torch.cat([piece for sample in zip(*pieces, strict=True) for piece in sample], dim=1)

    def split(self, joined: Tensor, modalities: Sequence[int] | None = None) -> list[Tensor]:
        """What `join` put together, apart again."""
        of = range(len(self.lengths)) if modalities is None else modalities
        if len(of) == 1:
            return [joined]
        lengths = [self.lengths[i][sample] for sample in range(self.batch) for i in of]
        pieces = joined.split(lengths, dim=1)
        return [torch.cat(pieces[place :: len(of)], dim=1) for place in range(len(of))]

    def spread(self, x: Tensor, modality: int) -> Tensor:
        """What each sample has one of, `b 1 d`, for each of its tokens: `1 T d` (as it is where b is 1)."""
        if len(x) == 1:
            return x
        # a copy of each sample's row: its gradient is a sum over neighbours, not one scattered token by token
        return torch.cat([row.expand(n, -1) for row, n in zip(x, self.lengths[modality], strict=True)]).unsqueeze(0)

    def by_sample(self, module: nn.Module, x: Tensor, of_sample: Tensor, modality: int) -> Any:
        """Call a module on each sample's tokens, `1 n ...`, with its own row of `of_sample`, and join the results."""
        pieces = x.split(self.lengths[modality], dim=1)
        outs = [module(piece, row[None]) for piece, row in zip(pieces, of_sample, strict=True)]
        if isinstance(outs[0], Tensor):
            return torch.cat(outs, dim=1)
        return tuple(torch.cat(parts, dim=1) for parts in zip(*outs, strict=True))

    def only(self, modality: int) -> Packing:
        """That of one modality by itself, packed already."""
        return self._keep(modality, lambda: Packing((self.lengths[modality],)))

    def joined(self) -> Packing:
        """That of all modalities as one, packed already."""
        return self._keep("joined", lambda: Packing((_sums(self.lengths),)))

    def behind(self, registers: Sequence[int]) -> Packing:
        """That of the sequences with register tokens in front, packed already."""
        return Packing(
            tuple(tuple(count + r for count in counts) for counts, r in zip(self.lengths, registers, strict=True))
        )

    def segments(self, queried: Sequence[int], device: torch.device) -> Segments:
        """The samples' segments where only some modalities query; made once and kept."""

        def made() -> Segments:
            queries, keys = _sums([self.lengths[i] for i in queried]), _sums(self.lengths)
            offsets = (
                torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device) for counts in (queries, keys)
            )
            return Segments(queries, keys, *offsets)

        return self._keep((tuple(queried), device), made)

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _sums(lengths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """By sample, over modalities."""
    return tuple(sum(counts) for counts in zip(*lengths, strict=True))
