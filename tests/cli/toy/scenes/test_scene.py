"""Scenes drawn at random: what each category holds, what is held out, and the same from the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch

from mmdit_cli.toy.scenes.scene import (
    BACKGROUND,
    BINDING,
    BRIGHTNESS,
    CATEGORIES,
    COLOURED,
    COLOURS,
    COUNTING,
    EMPTY,
    HIDDEN_COLOUR,
    HIDDEN_RELATIONS,
    MARGIN,
    POSITION,
    QUARTERS,
    RADIUS,
    RELATIONS,
    SHAPES,
    SINGLE,
    TWO,
    Scene,
    draw_scenes,
    related,
)

COUNT = 6000


def drawn(
    category: int | None = None, *, held_out: bool = False, count: int = COUNT, seed: int = 0
) -> tuple[Scene, torch.Tensor]:
    """Scenes of one category, or of all in turn."""
    each = torch.arange(count) % len(CATEGORIES) if category is None else torch.full((count,), category)
    return draw_scenes(each, torch.Generator().manual_seed(seed), held_out=held_out)


def objects(scene: Scene, quarter: torch.Tensor) -> list[list[tuple[int, int, int, int]]]:
    """Each scene's objects as (quarter, shape, colour, size), in the caption's order."""
    rows = zip(scene.values.tolist(), quarter.tolist(), strict=True)
    return [[(q, *row[q]) for q in order if row[q][0] != EMPTY] for row, order in rows]


def shown_relations(scene: Scene) -> set[tuple[int, int, int]]:
    """Every (relation, shape, shape) that holds in a scene with two shapes, by comparing rows and columns."""
    found = set()
    for row in scene.values.tolist():
        there = [(q, shape) for q, (shape, _, _) in enumerate(row) if shape != EMPTY]
        for (q, a), (r, b) in product(there, there):
            if a != b:
                holds = (q % 2 < r % 2, q % 2 > r % 2, q // 2 < r // 2, q // 2 > r // 2)
                found |= {(relation, a, b) for relation, so in enumerate(holds) if so}
    return found


@pytest.mark.parametrize(
    ("category", "counts"),
    [(SINGLE, {1}), (TWO, {2}), (COUNTING, {2, 3, 4}), (COLOURED, {1}), (POSITION, {2}), (BINDING, {2})],
)
def test_each_category_has_its_number_of_objects_and_every_quarter_as_often(category: int, counts: set[int]) -> None:
    scene, quarter = drawn(category)
    numbers = Counter((scene.shape != EMPTY).sum(dim=1).tolist())
    assert set(numbers) == counts
    assert min(numbers.values()) > 0.9 * COUNT / len(counts)
    filled = (scene.shape != EMPTY).float().mean(dim=0)
    torch.testing.assert_close(filled, filled.mean().expand(QUARTERS), rtol=0.06, atol=0)
    assert torch.equal(quarter.sort(dim=1).values, torch.arange(QUARTERS).expand(COUNT, -1))
    empty = scene.shape.gather(1, quarter) == EMPTY
    assert torch.equal(empty, empty.sort(dim=1).values)


@pytest.mark.parametrize("category", [TWO, POSITION, BINDING])
def test_two_objects_have_two_shapes_and_where_both_are_bound_two_colours(category: int) -> None:
    scene, quarter = drawn(category)
    for first, second in objects(scene, quarter):
        assert first[1] != second[1]
        assert category != BINDING or first[2] != second[2]


def test_what_is_counted_has_one_shape_and_in_half_the_scenes_one_colour() -> None:
    scene, quarter = drawn(COUNTING)
    assert all(len({shape for _, shape, _, _ in each}) == 1 for each in objects(scene, quarter))
    alike = sum(len({colour for _, _, colour, _ in each}) == 1 for each in objects(scene, quarter))
    assert 0.5 < alike / COUNT < 0.65  # the others are alike by chance


@pytest.mark.parametrize("category", [None, TWO, POSITION, BINDING])
def test_training_shows_no_hidden_binding_and_no_hidden_relation_and_everything_else(category: int | None) -> None:
    scene, quarter = drawn(category)
    bindings = {(shape, colour) for each in objects(scene, quarter) for _, shape, colour, _ in each}
    every = set(product(range(len(SHAPES)), range(len(COLOURS))))
    assert bindings == every - set(enumerate(HIDDEN_COLOUR))
    hidden = {(r, a, b) for r, a, b in HIDDEN_RELATIONS} | {(r ^ 1, b, a) for r, a, b in HIDDEN_RELATIONS}
    pairs = {(r, a, b) for r, a, b in product(range(len(RELATIONS)), *[range(len(SHAPES))] * 2) if a != b}
    assert shown_relations(scene) == pairs - hidden


def test_held_out_scenes_show_what_training_does_not() -> None:
    scene, quarter = drawn(COLOURED, held_out=True)
    assert {each[0][1:3] for each in objects(scene, quarter)} == set(enumerate(HIDDEN_COLOUR))
    scene, quarter = drawn(BINDING, held_out=True)
    places = Counter()
    for pair in objects(scene, quarter):
        hidden = [index for index, (_, shape, colour, _) in enumerate(pair) if colour == HIDDEN_COLOUR[shape]]
        assert len(hidden) == 1 and pair[0][1] != pair[1][1] and pair[0][2] != pair[1][2]
        places[hidden[0]] += 1
    assert min(places.values()) > 0.45 * COUNT
    scene, quarter = drawn(POSITION, held_out=True)
    kinds = Counter()
    for (q, first, *_), (r, second, *_) in objects(scene, quarter):
        holds = related(torch.tensor(q), torch.tensor(r)).tolist()
        kinds.update(each for each in HIDDEN_RELATIONS if each[1:] == (first, second) and holds[each[0]])
    assert set(kinds) == set(HIDDEN_RELATIONS) and sum(kinds.values()) == COUNT


def test_no_hidden_relation_is_also_hidden_the_other_way_round() -> None:
    """Training swaps two objects that stand in one, which must not lead to another."""
    seen_from_both = {(r, a, b) for r, a, b in HIDDEN_RELATIONS} | {(r ^ 1, b, a) for r, a, b in HIDDEN_RELATIONS}
    assert len({frozenset((a, b)) for _, a, b in HIDDEN_RELATIONS}) == len(HIDDEN_RELATIONS)
    assert len(seen_from_both) == 2 * len(HIDDEN_RELATIONS)


def test_what_varies_continuously_fills_its_range_and_objects_stay_in_their_quarters() -> None:
    scene, _ = drawn()
    for size, (low, high) in enumerate(RADIUS):
        radius = scene.radius[scene.size == size]
        assert low <= radius.min() < low + 0.01 and high - 0.01 < radius.max() <= high
    there = scene.shape != EMPTY
    reach = scene.place.abs().amax(dim=-1) + scene.radius
    assert reach[there].max() <= 1 - MARGIN + 1e-6
    assert BRIGHTNESS[0] <= scene.brightness[there].min() and scene.brightness[there].max() <= BRIGHTNESS[1]
    assert BACKGROUND[0] <= scene.background.min() and scene.background.max() <= BACKGROUND[1]


def test_the_same_seed_draws_the_same_scenes() -> None:
    (first, order), (again, order_again), (other, _) = drawn(count=60), drawn(count=60), drawn(count=60, seed=1)
    assert torch.equal(order, order_again)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in Scene.__dataclass_fields__)
    assert not torch.equal(first.background, other.background)
