"""Where the tokens stand on the rotary axes, from the sizes of what comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.networks import ragged
from mmdit.networks.pads import filled_up, lengthened
from mmdit.networks.ragged import Given
from mmdit.options import ModalityOptions, ModelOptions, PatchInput


class RotaryPlaces(nn.Module):
    """Where each modality's tokens stand on the rotary axes, from the sizes of the inputs."""

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        assert config.rotary is not None
        self.count = len(config.rotary.axes)
        self.modalities = config.modalities

    def forward(
        self,
        inputs: Mapping[str, Given],
        references: Mapping[str, Sequence[Tensor]] | None = None,
        valid: Mapping[str, Tensor | None] | None = None,
    ) -> list[Tensor | None]:
        """Coordinates `n_i a` for each modality, its references behind it, None for one without a place; `b n_i a`
        where samples differ: in their sizes, or in how many tokens of a modality are `valid` that another is behind, or
        that pad tokens are behind. Of an image, `valid` leaves its pad tokens out."""
        valid = valid or {}
        if all(isinstance(x, Tensor) for x in inputs.values()):
            return self._of_one(inputs, references or {}, valid)  # type: ignore[arg-type]
        samples = range(ragged.batch_of(inputs))
        own = [{name: None if mask is None else mask[i : i + 1] for name, mask in valid.items()} for i in samples]
        return ragged.join_places([self._of_one(ragged.sample(inputs, i), {}, own[i]) for i in samples])

    def _of_one(
        self,
        inputs: Mapping[str, Tensor],
        references: Mapping[str, Sequence[Tensor]],
        valid: Mapping[str, Tensor | None],
    ) -> list[Tensor | None]:
        places = {
            name: None if modality.rotary is None else self._place(modality, inputs[name], references.get(name, ()))
            for name, modality in self.modalities.items()
        }
        for name, modality in self.modalities.items():
            place, rotary = places[name], modality.rotary
            if place is None or rotary is None or rotary.after is None:
                continue
            other: Any = self.modalities[rotary.after].rotary
            first = behind(places[rotary.after], other.axes, valid.get(rotary.after))  # type: ignore[arg-type]
            places[name] = place = place.expand(*first.shape, -1, -1).clone()
            for axis in rotary.after_axes or rotary.axes:
                place[..., axis] += first.unsqueeze(-1)
        return [_with_pads(place, self.modalities[name], valid.get(name)) for name, place in places.items()]

    def _place(self, modality: ModalityOptions, x: Tensor, references: Sequence[Tensor]) -> Tensor:
        rotary, end, apart = modality.rotary, modality.input, modality.references
        assert rotary is not None
        options: dict[str, Any] = dict(count=self.count, axes=rotary.axes, scale=rotary.scale, device=x.device)
        if isinstance(end, PatchInput):
            grids = []
            for index, image in enumerate((x, *references)):
                sides = [length // size for length, size in zip(image.shape[2:], end.sizes, strict=True)]
                grids.append(grid_coordinates(*sides, centered=rotary.centered, span=rotary.span, **options))
                if index and apart is not None:
                    grids[-1][:, apart.axis] += apart.start + apart.step * (index - 1)
            coordinates = torch.cat(grids)
        else:
            length = x.shape[1] if modality.pad is None else filled_up(x.shape[1], modality.pad.multiple)
            coordinates = sequence_coordinates(length, **options)
        for axis, start in enumerate(rotary.start or ()):
            coordinates[:, axis] += start
        return coordinates


def behind(place: Tensor, axes: Sequence[int], mask: Tensor | None) -> Tensor:
    """Where on these axes there is no token any more of those at `n a`: one number, or `b` with a mask `b n`; 0 where
    no token is valid."""
    at = torch.stack([place[:, axis] for axis in axes], dim=-1)
    if mask is not None:  # of a sample that is shorter than others, its own tokens' alone
        at = at.masked_fill(~mask[:, : at.shape[0], None], -math.inf)  # `len` is a constant to export
    last = F.pad(at, (0, 0, 0, 1), value=-math.inf).amax((-2, -1))
    return (last + 1).masked_fill(last.isinf(), 0)


def _with_pads(places: Tensor | None, modality: ModalityOptions, mask: Tensor | None) -> Tensor | None:
    """`... n a -> ... m a`: an image's pad tokens stand at 0, also where a mask leaves out some of the n; a
    sequence's are counted already."""
    if places is None or modality.pad is None or not isinstance(modality.input, PatchInput):
        return places
    if mask is not None:
        places = places.masked_fill(~mask[:, : places.shape[-2], None], 0)
    longer = filled_up(places.shape[-2], modality.pad.multiple)
    every = places.view(-1, *places.shape[-2:])
    return lengthened(every, places.new_zeros(()), longer).view(*places.shape[:-2], longer, -1)


def grid_coordinates(
    *sides: int,
    count: int,
    axes: Sequence[int],
    scale: float = 1.0,
    centered: bool = False,
    span: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The place of each patch of an image: `(h w) count`, rows on `axes[0]`, columns on `axes[1]`, 0 elsewhere.

    Args:
        sides: patches along each: rows and columns, of a video frames before them, each on its axis of `axes`.
        count: number of axes.
        scale: distance of two rows or columns.
        centered: count from the middle: -ceil(h / 2) to floor(h / 2) - 1; frames are counted from the first.
        span: spread rows and columns over so many places: floor(i * span / h).
    """
    coordinates = torch.zeros(*sides, count, dtype=torch.float64, device=device)
    for side, (axis, length) in enumerate(zip(axes, sides, strict=True)):
        places, in_picture = torch.arange(length, dtype=torch.float64, device=device), side >= len(sides) - 2
        if centered and in_picture:
            places = places - (length - length // 2)
        if span is not None and in_picture:
            places = (places * span / length).floor()
        coordinates[..., axis] = (scale * places).view([-1 if i == side else 1 for i in range(len(sides))])
    return coordinates.flatten(0, -2)


def sequence_coordinates(
    length: int,
    *,
    count: int,
    axes: Sequence[int],
    scale: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """The place of each token of a sequence: `n count`, `scale * index` on each of `axes`, 0 elsewhere."""
    coordinates = torch.zeros(length, count, dtype=torch.float64, device=device)
    places = scale * torch.arange(length, dtype=torch.float64, device=device)
    for axis in axes:  # one at a time: a list of indexes is copied to the device
        coordinates[:, axis] = places
    return coordinates
