from __future__ import annotations

import cmath
import math

import pytest
import torch

from mmdit.layers.rotary import RotaryTable, fill_tables, make_rotary, rotate
from mmdit.networks.places import grid_coordinates, sequence_coordinates
from mmdit.options import OptionError, RotaryOptions
from tests.support.draws import randn


def test_pairs_of_features_turn_by_coordinate_times_frequency():
    coordinates = torch.tensor([[0.0, 2.0], [3.0, -1.5]])
    table, x = RotaryTable((4, 2), theta=100.0)(coordinates), randn(1, 2, 1, 6)
    got = rotate(x, table)
    for token in range(2):
        angles = [coordinates[token, 0], coordinates[token, 0] * 100.0**-0.5, coordinates[token, 1]]
        for pair, angle in enumerate(angles):
            number = complex(*x[0, token, 0, 2 * pair : 2 * pair + 2]) * cmath.exp(1j * float(angle))
            assert abs(number - complex(*got[0, token, 0, 2 * pair : 2 * pair + 2])) < 1e-6


def test_axes_take_turns_at_one_ladder_of_frequencies():
    coordinates = torch.tensor([[5.0, 2.0, 7.0], [3.0, 65_537.0, -1.5]])
    got = make_rotary(RotaryOptions(axes=(10, 4, 2), theta=100.0, ladder="shared"))(coordinates)
    of_pair = [0, 1, 2, 0, 1, 0, 0, 0]  # the third axis has one pair, and the first what the others leave
    for token in range(2):
        for pair, axis in enumerate(of_pair):
            angle = float(coordinates[token, axis]) * 100.0 ** (-pair / 8)
            atol = 1e-6 if abs(angle) < 10 else 1e-2  # rounded as float32 rounds it
            torch.testing.assert_close(
                got[token, pair], torch.tensor([math.cos(angle), math.sin(angle)]), rtol=0, atol=atol
            )


def test_an_axis_with_more_turns_than_there_are_is_refused():
    with pytest.raises(OptionError, match="axes.1: one in 2 of 4 .* 4 features at most, got 6"):
        RotaryOptions(axes=(2, 6), ladder="shared")


def test_the_product_of_a_query_and_a_key_depends_on_their_distance_alone():
    table = RotaryTable((4, 4))
    q, k = randn(1, 1, 2, 8), randn(1, 1, 2, 8)

    def product(at_q, at_k):
        places = [table(torch.tensor([at], dtype=torch.float64)) for at in (at_q, at_k)]
        return (rotate(q, places[0]) * rotate(k, places[1])).sum(-1)

    torch.testing.assert_close(product((5.0, 2.0), (3.0, 4.0)), product((12.0, -1.0), (10.0, 1.0)), rtol=0, atol=1e-5)
    assert (product((5.0, 2.0), (3.0, 4.0)) - product((5.0, 2.0), (3.0, 5.0))).abs().max() > 0.01


def test_every_sample_may_have_its_own_places_and_none_are_left_alone():
    table, x = RotaryTable((4,)), randn(2, 3, 2, 4)
    places = randn(2, 3, 1)
    got = rotate(x, table(places))
    for i in range(2):
        assert torch.equal(got[i], rotate(x[i : i + 1], table(places[i]))[0])
    assert rotate(x, None) is x


def test_bfloat16_is_turned_in_float32_and_rounded_once():
    table, x = RotaryTable((4,))(torch.tensor([[1001.0]])), torch.randn(1, 1, 1, 4).bfloat16()
    assert torch.equal(rotate(x, table), rotate(x.float(), table).bfloat16())


def test_tables_are_joined_and_a_modality_without_one_stays_still():
    table = RotaryTable((4,))(sequence_coordinates(3, count=1, axes=[0]))
    x = randn(1, 5, 1, 4)
    joined = torch.cat(fill_tables([None, table], [2, 3]))
    assert torch.equal(rotate(x, joined)[:, :2], x[:, :2])
    assert torch.equal(rotate(x, joined)[:, 2:], rotate(x[:, 2:], table))
    assert fill_tables([None, None], [2, 3]) is None


def test_coordinates_of_a_grid_are_rows_and_columns_and_may_be_counted_from_the_middle():
    got = grid_coordinates(2, 3, count=3, axes=(1, 2)).tolist()
    assert got == [[0, r, c] for r in range(2) for c in range(3)]
    got = grid_coordinates(2, 3, count=2, axes=(1, 0), centered=True).tolist()
    assert got == [[c, r] for r in (-1, 0) for c in (-2, -1, 0)]


def test_coordinates_of_a_sequence_have_a_scale():
    assert sequence_coordinates(3, count=3, axes=(0, 2), scale=0.5).tolist() == [[0, 0, 0], [0.5, 0, 0.5], [1, 0, 1]]


@pytest.mark.parametrize("axes", [(), (3,), (4, 0)])
def test_axes_that_can_not_be_paired_are_refused(axes):
    with pytest.raises(ValueError, match="rotary axes must be even numbers above 0"):
        RotaryTable(axes)
