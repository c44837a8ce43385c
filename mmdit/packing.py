"""Padding-free execution: the valid tokens of all samples in one sequence, without what a mask would throw away.

A batch of captions at 512 tokens with 60 real ones spends most of the text stream on padding, and its mask keeps the
attention from the fast kernels. Packed, a modality is `1 T d`: the valid tokens of sample 0, then those of 1, and so
on. Norms, projections and feedforwards work on each token alone and run as they are (convolutions are given its
neighbours); modulations are spread over their samples' tokens; attention stays within each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Segments:
    """Where the samples of packed queries and keys begin and end.

    `query_offsets` and `key_offsets` are `b + 1` int32 on the device, for kernels that take them.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    query_offsets: Tensor
    key_offsets: Tensor


@dataclass(frozen=True, eq=False)
class Packing:
    """Which tokens of a padded batch are valid, as what packs and unpacks them.

    A whole stack or network takes it in place of masks, and it serves every call with the same masks: the steps of a
    sampler, say.

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
        """Read the masks; on a GPU this waits for it, before any block runs.

        Args:
            masks: in the modalities' order, `b n` bool, True = valid, or None where every token is.
            lengths: of each modality's padded sequence, in tokens (an image's patches), register tokens apart.

        Raises:
            ValueError: a count, a mask's dtype or its shape is wrong.
        """
        if len(masks) != len(lengths):
            raise ValueError(f"there must be one mask (or None) for each of {len(lengths)} lengths, got {len(masks)}")
        for i, (mask, length) in enumerate(zip(masks, lengths, strict=True)):
            if isinstance(mask, Tensor) and mask.is_meta:
                raise ValueError(f"mask {i} is on the meta device, where it has no values; pass Packing.from_lengths")
            is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (batch, length)
            if mask is not None and not is_mask:
                got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(
                    f"mask {i} must be of dtype torch.bool and shape {(batch, length)} (batch, length), got {got}"
                )
        hosted = [None if mask is None else _array(mask.cpu()) for mask in masks]
        valid = [
            (length,) * batch if mask is None else tuple(mask.sum(axis=1).tolist())
            for mask, length in zip(hosted, lengths, strict=True)
        ]
        index = tuple(
            None
            if mask is None or sum(counts) == batch * length
            else _sent(torch.tensor(mask.reshape(-1).nonzero()[0]), given.device)  # type: ignore[union-attr]
            for mask, given, counts, length in zip(hosted, masks, valid, lengths, strict=True)
        )
        return cls(tuple(valid), tuple(lengths), index)

    @property
    def batch(self) -> int:
        return len(self.lengths[0])

    @property
    def has_padding(self) -> bool:
        return any(index is not None for index in self.index)

    @classmethod
    def from_lengths(
        cls, lengths: Sequence[tuple[int, ...] | None], padded: Sequence[int], batch: int, device: torch.device
    ) -> Packing:
        """Where the lengths are known to the host and tokens come first: a GPU is not waited for, and nothing copied.

        Args:
            lengths: by modality, those of each sample, or None where all have the padded one.
        """
        index = tuple(
            None
            if counts is None or sum(counts) == batch * longest
            else torch.cat([i * longest + torch.arange(count, device=device) for i, count in enumerate(counts)])
            for counts, longest in zip(lengths, padded, strict=True)
        )
        every = tuple((n,) * batch if counts is None else counts for counts, n in zip(lengths, padded, strict=True))
        return cls(every, tuple(padded), index)

    def check(self, tokens: Sequence[Tensor]) -> None:
        """Raises ValueError where these padded tokens, `b n_i d_i`, are not those that it was made for."""
        lengths, batch, device = tuple(x.shape[1] for x in tokens), tokens[0].shape[0], tokens[0].device
        if self.padded != lengths or self.batch != batch:
            raise ValueError(
                f"the packing is for {self.batch} samples of {self.padded} tokens, got {batch} of {lengths}"
            )
        for index in self.index:
            if index is not None and index.device != device:
                raise ValueError(f"the packing is on {index.device}, but the tokens are on {device}; make it there")

    def check_packed(self, tokens: Sequence[Tensor], masks: Sequence[Tensor | None], names: Sequence[str]) -> None:
        """Raises ValueError where these are not packed tokens `1 T_i ...` of its lengths, or have masks as well."""
        if any(mask is not None for mask in masks):
            raise ValueError("packed tokens are all valid; pass either a packing or masks")
        for x, counts, name in zip(tokens, self.lengths, names, strict=True):
            if x.shape[:2] != (1, sum(counts)):
                raise ValueError(f"{name} tokens must be packed, (1, {sum(counts)}, ...), got {tuple(x.shape)}")

    def mask(self, modality: int) -> Tensor | None:
        """`b n` bool, True = valid; None where all are."""
        index, shape = self.index[modality], (self.batch, self.padded[modality])
        if index is None:
            return None

        def made() -> Tensor:
            nowhere = torch.zeros(shape, dtype=torch.bool, device=index.device)
            return nowhere.flatten().index_fill(0, index, True).view(shape)

        kept: Tensor = self._keep(("mask", modality), made)
        return kept

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

    def join(self, parts: Sequence[Tensor], modalities: Sequence[int] | None = None, *, dim: int = 1) -> Tensor:
        """Modalities `1 T_i ...` -> `1 T ...`: the tokens of all (or of some) modalities of sample 0, then of 1, ...

        `dim` is that of the tokens: 2 in `1 h T_i d`.
        """
        if len(parts) == 1:
            return parts[0]
        of = range(len(self.lengths)) if modalities is None else modalities
        pieces = [part.split(self.lengths[i], dim=dim) for part, i in zip(parts, of, strict=True)]
        return torch.cat([piece for sample in zip(*pieces, strict=True) for piece in sample], dim=dim)

    def split(self, joined: Tensor, modalities: Sequence[int] | None = None) -> list[Tensor]:
        """What `join` put together, apart again: `1 T ...` -> `1 T_i ...` each."""
        of = range(len(self.lengths)) if modalities is None else modalities
        if len(of) == 1:
            return [joined]
        lengths = [self.lengths[i][sample] for sample in range(self.batch) for i in of]
        pieces = joined.split(lengths, dim=1)
        return [torch.cat(pieces[place :: len(of)], dim=1) for place in range(len(of))]

    def by_sample(self, module: nn.Module, x: Tensor, of_sample: Tensor, modality: int) -> Any:
        """Call a module on each sample's tokens, `1 n ...`, with its own row of `of_sample`, and join the results."""
        pieces = x.split(self.lengths[modality], dim=1)
        outs = [module(piece, row[None]) for piece, row in zip(pieces, of_sample, strict=True)]
        if isinstance(outs[0], Tensor):
            return torch.cat(outs, dim=1)
        return tuple(torch.cat(parts, dim=1) for parts in zip(*outs, strict=True))

    def only(self, *modalities: int) -> Packing:
        """That of some modalities by themselves."""
        if modalities == (*range(len(self.lengths)),):
            return self

        def those(of_all: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(of_all[i] for i in modalities) if of_all else ()

        return self._keep(modalities, lambda: Packing(those(self.lengths), those(self.padded), those(self.index)))

    def joined(self) -> Packing:
        """That of all modalities as one, packed already."""
        if len(self.lengths) == 1:
            return self
        return self._keep("joined", lambda: Packing((_sums(self.lengths),)))

    def behind(self, registers: Sequence[int]) -> Packing:
        """That of the sequences with register tokens in front, all valid."""
        if not any(registers):
            return self

        def made() -> Packing:
            longer = [tuple(count + r for count in counts) for counts, r in zip(self.lengths, registers, strict=True)]
            padded = tuple(n + r for n, r in zip(self.padded, registers, strict=True))
            return Packing(tuple(longer), padded, tuple(map(self._index_behind, registers, range(len(registers)))))

        return self._keep(("behind", *registers), made)

    def _index_behind(self, count: int, modality: int) -> Tensor | None:
        index, padded = self.index[modality], self.padded[modality]
        if index is None or not count:
            return index
        pieces: list[Tensor] = []
        for i, own in enumerate(index.split(self.lengths[modality])):
            first = i * (padded + count)
            pieces += [torch.arange(first, first + count, device=index.device), own + (i + 1) * count]
        return torch.cat(pieces)

    def segments(self, queried: Sequence[int], device: torch.device) -> Segments:
        """The samples' segments where only some modalities query; made once and kept."""

        def made() -> Segments:
            queries, keys = _sums([self.lengths[i] for i in queried]), _sums(self.lengths)
            return Segments(queries, keys, _offsets(queries, device), _offsets(keys, device))

        return self._keep((tuple(queried), device), made)

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        if torch.compiler.is_compiling():  # a program can't leave them behind in what it was given
            return make()
        if key not in self._kept:
            with torch.inference_mode(False):  # a training step may come next
                self._kept[key] = make()
        return self._kept[key]


def _sums(lengths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """By sample, over modalities."""
    return tuple(sum(counts) for counts in zip(*lengths, strict=True))


def _offsets(counts: Sequence[int], device: torch.device) -> Tensor:
    """Where each begins, and the last ends: written by the device itself, for a copy would wait for it."""
    places = (torch.full((1,), place, dtype=torch.int32, device=device) for place in (0, *accumulate(counts)))
    return torch.cat([*places])


def _array(mask: Tensor) -> Any:
    """A tensor of the host as an array, also while all others are fake; `numpy()` is what torch.compile can trace."""
    return mask.numpy() if torch.compiler.is_compiling() else np.from_dlpack(mask)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """From the host to a device, which isn't waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
