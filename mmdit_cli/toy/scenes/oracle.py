"""The scenes' judge: it fits the renderer to each quarter of a picture.

For every shape, radius and place on a grid, the background and the object's colour that fit best have a closed form,
and so does what they explain: the projection of the quarter's pixels on what the object covers, less its mean. One
matrix product tries them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

from mmdit_cli.toy.scenes.renderer import coverage
from mmdit_cli.toy.scenes.scene import (
    BRIGHTNESS,
    COLOURS,
    DARK,
    EMPTY,
    MARGIN,
    RADIUS,
    SHAPES,
    SIZES,
    UNREAD,
)

CONTRAST = 0.7  # between an object and its background, at least, as a distance of colours; real ones have 1.0 or more
EXPLAINED = 0.4  # of a quarter's variance, at least, for its object to be read
OFF_COLOUR = 0.5  # the farthest that an object's colour may be from one that has a name
PLACES = 0.0625  # the grid's step, in halves of a quarter
RADII = (0.5, 0.55, 0.6, 0.67, 0.74, 0.79, 0.84)
CHUNK = 256  # pictures read at a time
NO_OBJECT = "nothing"  # in words


@dataclass(frozen=True)
class Reading:
    """What the oracle sees, by quarter: as a `Scene`, with UNREAD where there is something that it can't read.

    `explained` `b 4` is the share of a quarter's variance that the fit explains; `background` is `b 4 3`, and `found`
    `b 4` whether there is an object that was read.
    """

    values: Tensor  # b 4 3: shape, colour and size
    radius: Tensor
    place: Tensor
    brightness: Tensor
    background: Tensor
    explained: Tensor

    @property
    def found(self) -> Tensor:
        return self.values[..., 0] >= 0


def read(pictures: Tensor) -> Reading:
    """The scenes that pictures `b 3 s s` show."""
    parts = [_read(part) for part in pictures.float().split(CHUNK)]
    return Reading(*(torch.cat([getattr(part, name) for part in parts]) for name in Reading.__dataclass_fields__))


def objects_in_words(values: Tensor) -> list[str]:
    """What was read in each quarter of a picture, `4 3`: `large red square`; a question mark for what could not be
    read, and nothing where nothing is."""
    return [
        f"{SIZES[size]} {[*COLOURS][colour]} {SHAPES[shape]}" if shape >= 0 else "?" * (shape != EMPTY)
        for shape, colour, size in values.tolist()
    ]


def _read(pictures: Tensor) -> Reading:
    pixels = pictures.shape[-1] // 2
    shapes, radii, places, centred, means, norms = _grid(pixels)
    quarters = rearrange(pictures, "b c (r h) (q w) -> b (r q) c (h w)", r=2, q=2)
    mean = quarters.mean(dim=-1)  # b 4 3
    rest = quarters - mean[..., None]
    projected = rest @ centred.T  # b 4 3 t: on templates of norm 1
    explained, best = projected.square().sum(dim=2).max(dim=-1)
    slope = projected.gather(3, best[:, :, None, None].expand(-1, -1, 3, 1))[..., 0] / norms[best][..., None]
    background = mean - slope * means[best][..., None]
    share = explained / rest.square().sum(dim=(2, 3)).clamp(min=1e-12)

    colour, brightness, distance = _name_colours(background + slope)
    size = (radii[best] > (RADIUS[0][1] + RADIUS[1][0]) / 2).long()
    values = torch.stack([shapes[best], colour, size], dim=-1)
    there = slope.norm(dim=-1) >= CONTRAST
    unread = there & ((share < EXPLAINED) | (distance > OFF_COLOUR))
    values = values.masked_fill(unread[..., None], UNREAD).masked_fill(~there[..., None], EMPTY)
    return Reading(values, radii[best], places[best], brightness, background, share)


def _name_colours(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest colour's index, how bright it is, and how far off it is, of colours `... 3`."""
    lit = torch.tensor(list(COLOURS.values()), dtype=rgb.dtype)  # k 3
    brightness = ((rgb @ lit.T) / lit.sum(dim=1)).clamp(*BRIGHTNESS)  # ... k
    named = torch.where(lit == 1, brightness[..., None], DARK)
    distance, nearest = (rgb[..., None, :] - named).norm(dim=-1).min(dim=-1)
    return nearest, brightness.gather(-1, nearest[..., None])[..., 0], distance


@cache
def _grid(pixels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Every object of the grid: shapes `t`, radii `t`, places `t 2`, and the pixels that it covers: `t n`, less their
    mean and of norm 1, the means `t` and the norms `t`."""
    rows = []
    for radius in RADII:
        reach = round((1 - MARGIN - radius) / PLACES + 0.5)
        steps = torch.arange(-reach, reach + 1) * PLACES
        rows.append(torch.cartesian_prod(torch.arange(len(SHAPES)).float(), torch.tensor([radius]), steps, steps))
    table = torch.cat(rows)
    shapes, radii, places = table[:, 0].long(), table[:, 1], table[:, 2:]
    covered = coverage(shapes, radii, places, pixels).flatten(1)
    means = covered.mean(dim=1)
    centred = covered - means[:, None]
    norms = centred.norm(dim=1)
    return shapes, radii, places, centred / norms[:, None], means, norms
