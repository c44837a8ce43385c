"""The scenes' oracle: right on real pictures, at chance on noise, and worse little by little between."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch

from mmdit_cli.toy.scenes.captions import Wanted, check, choose_named
from mmdit_cli.toy.scenes.oracle import Reading, read
from mmdit_cli.toy.scenes.renderer import picture
from mmdit_cli.toy.scenes.scene import CATEGORIES, EMPTY, UNREAD, Scene, draw_scenes
from tests.support.marks import slow_but

SIZES = [16, 32]


@cache
def real(count: int, held_out: bool = False) -> tuple[Scene, Wanted]:
    generator = torch.Generator().manual_seed(11)
    category = torch.arange(count) % len(CATEGORIES)
    scene, quarter = draw_scenes(category, generator, held_out=held_out)
    return scene, choose_named(category, scene, quarter, generator)


def accuracy(wanted: Wanted, reading: Reading) -> list[float]:
    """By category."""
    right = (check(wanted, reading.values) != 0).all(dim=1).float()
    return [right[wanted.category == index].mean().item() for index in range(len(CATEGORIES))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("held_out", [False, True])
def test_real_pictures_of_every_category_are_read_back(size: int, held_out: bool) -> None:
    scene, wanted = real(360, held_out)
    reading = read(picture(scene, size))
    assert min(accuracy(wanted, reading)) >= 0.995
    there = reading.found
    assert torch.equal(there, scene.shape != EMPTY)
    assert (reading.place - scene.place)[there].abs().max() < 0.1  # in halves of a quarter: 0.4 pixels of 16
    assert (reading.radius - scene.radius)[there].abs().max() < 0.08
    assert (reading.brightness - scene.brightness)[there].abs().max() < 0.2
    assert (reading.background - scene.background[:, None]).abs().max() < 0.12
    assert reading.explained[there].min() > 0.9


@pytest.mark.parametrize("size", slow_but(SIZES, 16))
def test_noise_scores_no_better_than_chance(size: int) -> None:
    _, wanted = real(360)
    noise = torch.randn(360, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert max(accuracy(wanted, read(noise))) <= 0.01
    assert max(accuracy(wanted, read(torch.zeros(360, 3, size, size)))) == 0


def test_the_score_falls_smoothly_as_noise_is_added() -> None:
    curve = noise_curve(150, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0], 16)
    assert curve[1] >= 0.99 and curve[2] >= 0.97 and curve[-1] <= 0.02
    assert_smooth(curve, step=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_score_falls_smoothly_in_small_steps_of_noise(size: int) -> None:
    curve = noise_curve(1200, [0.05 * index for index in range(31)], size)
    assert min(curve[:4]) >= 0.99 and curve[-1] <= 0.01
    assert_smooth(curve, step=0.25)


def noise_curve(count: int, levels: list[float], size: int) -> list[float]:
    """The mean over the categories of what is read of real pictures plus noise of each standard deviation."""
    scene, wanted = real(count)
    pictures = picture(scene, size)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(2))
    return [sum(accuracy(wanted, read(pictures + level * noise))) / len(CATEGORIES) for level in levels]


def assert_smooth(curve: list[float], *, step: float) -> None:
    falls = [before - after for before, after in pairwise(curve)]
    assert min(falls) > -0.02, f"rises: {curve}"
    assert max(falls) < step, f"falls at once: {curve}"


def test_what_is_no_object_of_this_world_is_said_to_be_unread() -> None:
    scene, _ = real(60)
    pictures = picture(scene, 16)
    pictures[:, :, :8, :8], pictures[:, :, 8:, 8:] = -0.8, -0.8
    pictures[:, 0, 2:6, 2:4], pictures[:, 2, 2:6, 4:6] = 0.9, 0.9  # a square, half red and half blue
    pictures[:, :, 10:14, 10:14] = 0.9  # a white square
    values = read(pictures).values
    assert (values[:, [0, 3]] == UNREAD).all()
    assert torch.equal(values[:, 1:3], scene.values[:, 1:3])


def test_a_batch_reads_as_its_pictures_alone_do() -> None:
    scene, _ = real(300)
    pictures = picture(scene, 16)
    whole = read(pictures)
    assert torch.equal(whole.values[257:259], read(pictures[257:259]).values)
