"""Where the tokens stand on the rotary axes, from the sizes of what comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.networks import ragged
from mmdit.networks.ragged import Given
from mmdit.options import ModelOptions, PatchInput


class RotaryPlaces(nn.Module):
    """Where each modality's tokens stand on the rotary axes, from the sizes of the inputs."""

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        assert config.rotary is not None
        self.count = len(config.rotary.axes)
        self.modalities = config.modalities

    def forward(self, inputs: Mapping[str, Given]) -> list[Tensor | None]:
        """Coordinates `n_i a` for each modality, None for one without a place; `b n_i a` where samples have sizes of
        their own."""
        if all(isinstance(x, Tensor) for x in inputs.values()):
            return self._of_one(inputs)  # type: ignore[arg-type]
        return ragged.join_places([self._of_one(ragged.sample(inputs, i)) for i in range(ragged.batch_of(inputs))])

    def _of_one(self, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
        own = {name: self._place(name, inputs[name], 0.0) for name in self.modalities}
        for name, modality in self.modalities.items():
            after = None if modality.rotary is None else own.get(modality.rotary.after or "")
            if after is not None:
                other = self.modalities[modality.rotary.after].rotary  # type: ignore[index,union-attr]
                last = torch.stack([after[:, axis] for axis in other.axes]).amax((0, 1))  # type: ignore[union-attr]
                own[name] = self._place(name, inputs[name], last + 1)
        return list(own.values())

    def _place(self, name: str, x: Tensor, start: float | Tensor) -> Tensor | None:
        modality = self.modalities[name]
        place, end = modality.rotary, modality.input
        if place is None:
            return None
        if isinstance(end, PatchInput):
            height, width = x.shape[2] // end.patch, x.shape[3] // end.patch
            options: dict[str, Any] = dict(count=self.count, axes=place.axes, device=x.device)
            return grid_coordinates(height, width, centered=place.centered, **options)
        options = dict(count=self.count, axes=place.axes, scale=place.scale, device=x.device)
        return sequence_coordinates(x.shape[1], start=start, **options)


def grid_coordinates(
    height: int,
    width: int,
    *,
    count: int,
    axes: Sequence[int],
    centered: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """The place of each patch of an image: `(h w) count`, rows on `axes[0]`, columns on `axes[1]`, 0 elsewhere.

    Args:
        count: number of axes.
        centered: count from the middle: -ceil(h / 2) to floor(h / 2) - 1.
    """
    coordinates = torch.zeros(height, width, count, dtype=torch.float64, device=device)
    for axis, length, shape in ((axes[0], height, (-1, 1)), (axes[1], width, (1, -1))):
        places = torch.arange(length, dtype=torch.float64, device=device) - (length - length // 2 if centered else 0)
        coordinates[:, :, axis] = places.view(shape)
    return coordinates.flatten(0, 1)


def sequence_coordinates(
    length: int,
    *,
    count: int,
    axes: Sequence[int],
    start: float | Tensor = 0.0,
    scale: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """The place of each token of a sequence: `n count`, `start + scale * index` on each of `axes`, 0 elsewhere."""
    coordinates = torch.zeros(length, count, dtype=torch.float64, device=device)
    places = start + scale * torch.arange(length, dtype=torch.float64, device=device)
    for axis in axes:  # one at a time: a list of indexes is copied to the device
        coordinates[:, axis] = places
    return coordinates
