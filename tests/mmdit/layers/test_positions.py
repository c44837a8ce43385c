from __future__ import annotations

import math

import pytest
import torch

from mmdit.layers.positions import Learned2D, SinCos1D, SinCos2D, ddpm_sinusoid, sinusoid, timestep_sinusoid
from tests.support.draws import randn


def wave(position: float, dim: int) -> list[float]:
    angles = [position * 10_000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def near(got, wanted, atol=1e-9):
    torch.testing.assert_close(got.double(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=atol)


def test_a_sinusoid_has_frequencies_from_one_down():
    positions = torch.tensor([0.0, 3.0, 777.0, 999.5])
    near(sinusoid(positions, 6), [wave(p, 6) for p in positions.tolist()])


def test_a_timesteps_sinusoid_has_the_cosines_first_and_the_rounding_of_float32():
    timesteps = torch.tensor([0.0, 3.0, 777.0, 999.5])
    wanted = [wave(t, 6)[3:] + wave(t, 6)[:3] for t in timesteps.tolist()]
    near(timestep_sinusoid(timesteps, 6), wanted, atol=2e-4)
    near(timestep_sinusoid(timesteps[:2], 6), wanted[:2], atol=1e-6)


def test_ddpms_sinusoid_has_the_sines_first_and_ends_at_the_longest_period():
    timesteps = torch.tensor([0.0, 3.0, 0.25])
    angles = [[t * 10_000 ** (-k / 3) for k in range(4)] for t in timesteps.tolist()]
    near(ddpm_sinusoid(timesteps, 8), [[*map(math.sin, a), *map(math.cos, a)] for a in angles], atol=1e-6)


def test_tokens_of_a_sequence_are_numbered_from_zero():
    x = randn(2, 5, 6)
    near(SinCos1D()(x)[1] - x[1], [wave(i, 6) for i in range(5)])


@pytest.mark.parametrize("base", [None, 3])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 4), (1, 6)])
def test_positions_of_an_image_are_a_central_crop_of_one_table(height, width, base):
    dim, size = 12, 7
    places = (torch.arange(size, dtype=torch.float32) / (size / (base or size))).tolist()
    table = [[wave(column, dim // 2) + wave(row, dim // 2) for column in places] for row in places]
    top, left = (size - height) // 2, (size - width) // 2
    wanted = [row[left : left + width] for row in table[top : top + height]]
    x = randn(2, height, width, dim)
    near(SinCos2D(dim, max_size=size, base_size=base)(x)[1] - x[1], wanted)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(6, 6, 0, 0), (3, 4, 2, 1), (1, 6, 3, 0)])
def test_a_learned_table_is_cropped_at_its_centre(height, width, top, left):
    positions = Learned2D(12, max_size=6).double()
    x = randn(2, height, width, 12)
    assert torch.equal(positions(x) - x, (positions.table[top : top + height, left : left + width] + x) - x)
    with pytest.raises(ValueError, match="reach 6 patches a side, got 7 x 2"):
        positions(torch.zeros(1, 7, 2, 12))


@pytest.mark.parametrize(("height", "width"), [(7, 4), (4, 7)])
def test_an_image_larger_than_the_table_is_refused(height, width):
    with pytest.raises(ValueError, match=f"reach 6 patches a side, got {height} x {width}"):
        SinCos2D(12, max_size=6)(torch.zeros(1, height, width, 12))
