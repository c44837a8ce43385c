"""Samples of different sizes in one batch: a modality given as a list of tensors, each without a batch dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmdit.layers.masks import fill_masked

Given = Tensor | Sequence[Tensor]  # of one modality


def batch_of(inputs: Mapping[str, Given]) -> int:
    """The batch size of all modalities; raises ValueError where one has another."""
    for name, x in inputs.items():
        if not isinstance(x, Tensor) and not len(x):
            raise ValueError(f"{name} is an empty list; it must hold one tensor for each sample")
    # len() of a tensor is a constant to torch.export
    sizes = {name: x.shape[0] if isinstance(x, Tensor) else len(x) for name, x in inputs.items()}
    first, batch = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != batch:
            raise ValueError(f"{name} has a batch of {size}, but {first} has one of {batch}")
    return batch


def length_of(x: Given) -> int:
    """Tokens of a sequence, `b n d`, or of the longest in a list."""
    return x.shape[1] if isinstance(x, Tensor) else max(len(each) for each in x)


def embed(module: nn.Module, x: Given, name: str, mask: Tensor | None = None) -> tuple[Tensor, tuple[int, ...] | None]:
    """Tokens `b n d`, and each sample's own length where they differ; the shorter ones are padded at the end.

    What stands where a mask, `b n`, is False is not read. Samples of different sizes have none.
    """
    if isinstance(x, Tensor):
        return module(x, name, mask), None
    mask = mask if len({each.shape for each in x}) == 1 else None
    pieces = [
        module(each[None], f"{name}[{i}] (with a batch of 1)", None if mask is None else mask[i : i + 1]).squeeze(0)
        for i, each in enumerate(x)
    ]
    lengths = tuple(len(piece) for piece in pieces)
    differ = lengths if len({*lengths}) > 1 else None
    padded = pad_sequence(pieces, batch_first=True)
    return fill_masked(padded, mask_of(differ, padded.shape[1], padded.device)), differ


def head(
    module: nn.Module | None,
    x: Tensor,
    cond: Tensor | None,
    given: Given,
    lengths: tuple[int, ...] | None,
    modulation: tuple[Tensor | None, Tensor] | None = None,
    mask: Tensor | None = None,
) -> Any:
    """The output of tokens `b n d` in the form of what came in: a tensor, or a list of them. `mask`: b n."""
    if cond is not None and cond.ndim == 3:  # pad tokens have one too
        cond = cond[:, : x.shape[1]]
    if module is not None:  # packed, zeros stand at the padding, which a norm may divide by nothing
        x = fill_masked(x, mask)
    if isinstance(given, Tensor):
        return x if module is None else module(x, cond, given, modulation, mask)
    outs = []
    for i, each in enumerate(given):
        own = x[i : i + 1] if lengths is None else x[i : i + 1, : lengths[i]]
        if module is not None:
            mod = modulation and tuple(p if p is None or len(p) == 1 else p[i : i + 1] for p in modulation)
            vector = cond if cond is None else cond[i : i + 1, : own.shape[1]] if cond.ndim == 3 else cond[i : i + 1]
            valid = None if mask is None else mask[i : i + 1, : own.shape[1]]
            own = module(own, vector, each.unsqueeze(0), mod, valid)
        outs.append(own.squeeze(0))
    return outs


def mask_of(lengths: tuple[int, ...] | None, longest: int, device: torch.device) -> Tensor | None:
    """`b n`, True where a sample has a token."""
    return None if lengths is None else first_of(lengths, longest, device)


def first_of(lengths: tuple[int, ...], longest: int, device: torch.device) -> Tensor:
    """`b n`, True for the first so many tokens of each sample."""
    return torch.stack([torch.arange(longest, device=device) < length for length in lengths])  # no copy to the device


def sample(inputs: Mapping[str, Given], i: int) -> dict[str, Tensor]:
    """One sample, with a batch dimension."""
    return {name: x[i : i + 1] if isinstance(x, Tensor) else x[i].unsqueeze(0) for name, x in inputs.items()}


def join_places(by_sample: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """Coordinates `n a` or `1 n a` of each sample's modalities -> `b n a`, padded at the end."""
    return [
        None if places[0] is None else pad_sequence([x.flatten(0, -2) for x in places], batch_first=True)
        for places in zip(*by_sample, strict=True)
    ]
