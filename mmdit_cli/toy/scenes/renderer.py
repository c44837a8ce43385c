"""Scenes as pictures, with edges that are smooth, so that where an object stands within a pixel shows."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from mmdit_cli.toy.scenes.scene import COLOURS, DARK, EMPTY, Scene

SQUARE = 0.85  # half the side of a square, in radii


def picture(scene: Scene, size: int) -> Tensor:
    """Pictures `b 3 size size` in [-1, 1]; `size` is even."""
    alpha = coverage(scene.shape.clamp(min=0), scene.radius, scene.place, size // 2)
    alpha = alpha * (scene.shape != EMPTY)[..., None, None]
    lit = torch.tensor(list(COLOURS.values()))[scene.colour.clamp(min=0)]  # b 4 3
    colour = torch.where(lit == 1, scene.brightness[..., None], DARK)
    background = scene.background[:, None, :, None, None]
    quarters = torch.lerp(background, colour[..., None, None], alpha[:, :, None])
    return rearrange(quarters, "b (r q) c h w -> b c (r h) (q w)", r=2).contiguous()


def coverage(shape: Tensor, radius: Tensor, place: Tensor, pixels: int) -> Tensor:
    """The share of each pixel of a quarter that an object covers, `... pixels pixels`, from its distance to the edge.

    Args:
        shape: `...`, indexes of SHAPES; radius: `...`; place: `... 2`, both in halves of a quarter.
        pixels: of a quarter's side.
    """
    axis = (torch.arange(pixels) + 0.5) * (2 / pixels) - 1
    y = axis[:, None] - place[..., 0, None, None]
    x = axis[None, :] - place[..., 1, None, None]
    r = radius[..., None, None]
    circle = (x.square() + y.square()).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - SQUARE * r
    sides = (2 * x.abs() - y - r) / 5**0.5  # from the apex (-r, 0) to the ends (r, +-r) of the base
    triangle = torch.maximum(sides, y.abs() - r)
    which = shape[..., None, None]
    distance = torch.where(which == 0, circle, torch.where(which == 1, square, triangle))
    return (0.5 - distance * (pixels / 2)).clamp(0, 1)
