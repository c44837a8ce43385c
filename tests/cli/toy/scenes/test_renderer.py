"""Pictures of scenes: areas and centres as geometry has them, colours as asked for, and nothing outside a quarter."""

from __future__ import annotations

import math

import pytest
import torch

from mmdit_cli.toy.scenes.renderer import SQUARE, coverage, picture
from mmdit_cli.toy.scenes.scene import COLOURS, DARK, EMPTY, draw_scenes

AREA = {0: math.pi, 1: 4 * SQUARE**2, 2: 2.0}  # of radius 1: circle, square, triangle of base 2 and height 2
CENTROID = {0: 0.0, 1: 0.0, 2: 1 / 3}  # down from the middle; a triangle's is at a third of its height


@pytest.mark.parametrize("shape", AREA)
@pytest.mark.parametrize(("pixels", "tolerance"), [(8, 0.08), (16, 0.04), (128, 0.005)])
def test_a_shape_covers_its_area_around_its_centre(shape: int, pixels: int, tolerance: float) -> None:
    radius, place = torch.tensor([0.5, 0.6, 0.84]), torch.tensor([[0.1, -0.2], [-0.31, 0.22], [0.03, 0.07]])
    covered = coverage(torch.full((3,), shape), radius, place, pixels).double()
    area = covered.sum(dim=(1, 2)) * (2 / pixels) ** 2
    torch.testing.assert_close(area, AREA[shape] * radius.double() ** 2, rtol=tolerance, atol=0)
    axis = (torch.arange(pixels) + 0.5) * (2 / pixels) - 1
    mass = covered / covered.sum(dim=(1, 2), keepdim=True)
    found = torch.stack([(mass.sum(dim=2) * axis).sum(dim=1), (mass.sum(dim=1) * axis).sum(dim=1)], dim=1)
    wanted = place.double() + torch.stack([CENTROID[shape] * radius, torch.zeros(3)], dim=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance / 2)


def test_a_move_by_less_than_a_pixel_shows() -> None:
    shapes, radius = torch.arange(3), torch.full((3,), 0.6)
    still, moved = (coverage(shapes, radius, torch.full((3, 2), by), 8) for by in (0.0, 0.05))
    assert ((still - moved).abs().sum(dim=(1, 2)) > 0.5).all()


@pytest.mark.parametrize("size", [32, 64])
def test_pictures_show_their_colours_over_their_background(size: int) -> None:
    scene, _ = draw_scenes(torch.arange(120) % 6, torch.Generator().manual_seed(3))
    pictures = picture(scene, size)
    assert pictures.shape == (120, 3, size, size) and pictures.min() >= -1 and pictures.max() <= 1
    half = size // 2
    for index in range(120):
        for quarter in range(4):
            top, left = quarter // 2 * half, quarter % 2 * half
            part = pictures[index, :, top : top + half, left : left + half]
            torch.testing.assert_close(part[:, 0, 0], scene.background[index])  # no shape reaches a corner
            if scene.shape[index, quarter] == EMPTY:
                assert torch.equal(part, scene.background[index][:, None, None].expand_as(part))
                continue
            middle = scene.place[index, quarter].clone()
            middle[0] += CENTROID[int(scene.shape[index, quarter])] * scene.radius[index, quarter]
            row, column = ((1 + middle) * half / 2).long().tolist()
            lit = torch.tensor(list(COLOURS.values())[scene.colour[index, quarter]])
            wanted = torch.where(lit == 1, scene.brightness[index, quarter], DARK)
            torch.testing.assert_close(part[:, row, column], wanted)
