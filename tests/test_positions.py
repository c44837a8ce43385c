from __future__ import annotations

import math

import pytest
import torch
from conftest import randn

from mmdit.positions import SinCos1D, SinCos2D, sinusoid


def wave(position: float, dim: int, *, cos_first: bool = False) -> list[float]:
    angles = [position * 10_000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    return cosines + sines if cos_first else sines + cosines


def near(got, wanted):
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cos_first", [False, True])
def test_a_sinusoid_has_frequencies_from_one_down(cos_first):
    positions = torch.tensor([0.0, 3.0, 777.0, 999.5])
    near(sinusoid(positions, 6, cos_first=cos_first), [wave(p, 6, cos_first=cos_first) for p in positions.tolist()])


def test_tokens_of_a_sequence_are_numbered_from_zero():
    x = randn(2, 5, 6)
    near(SinCos1D()(x)[1] - x[1], [wave(i, 6) for i in range(5)])


@pytest.mark.parametrize("base", [None, 3])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 4), (1, 6)])
def test_positions_of_an_image_are_a_central_crop_of_one_table(height, width, base):
    dim, size = 12, 7
    step = (base or size) / size
    table = [[wave(c * step, dim // 2) + wave(r * step, dim // 2) for c in range(size)] for r in range(size)]
    top, left = (size - height) // 2, (size - width) // 2
    wanted = [row[left : left + width] for row in table[top : top + height]]
    x = randn(2, height, width, dim)
    near(SinCos2D(dim, max_size=size, base_size=base)(x)[1] - x[1], wanted)


@pytest.mark.parametrize(("height", "width"), [(7, 4), (4, 7)])
def test_an_image_larger_than_the_table_is_refused(height, width):
    with pytest.raises(ValueError, match=f"reach 6 patches a side, got {height} x {width}"):
        SinCos2D(12, max_size=6)(torch.zeros(1, height, width, 12))
