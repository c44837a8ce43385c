"""Coverage is near 1 for true scenes, and shows a network that always draws the same, in whatever it is the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from mmdit_cli.toy.scenes.captions import Wanted, choose_named
from mmdit_cli.toy.scenes.oracle import Reading, read
from mmdit_cli.toy.scenes.renderer import picture
from mmdit_cli.toy.scenes.scene import CATEGORIES, COLOURS, EMPTY, HIDDEN_COLOUR, SINGLE, UNREAD, draw_scenes
from mmdit_cli.toy.scenes.spread import BINS, VALUES, coverage, coverage_of_one, really_repeated, repeated

FIELDS = Reading.__dataclass_fields__


@cache
def real(seed: int = 3, count: int = 1200, only: int | None = None) -> tuple[Wanted, Reading]:
    generator = torch.Generator().manual_seed(seed)
    category = torch.arange(count) % len(CATEGORIES) if only is None else torch.full((count,), only)
    scene, quarter = draw_scenes(category, generator)
    return choose_named(category, scene, quarter, generator), read(picture(scene, 16))


def test_real_scenes_cover_all() -> None:
    found = coverage(*real())
    assert list(found) == list(VALUES)
    assert min(found.values()) > 0.93 and max(found.values()) <= 1 + 1e-6


def test_one_scene_for_every_caption_covers_what_chance_says() -> None:
    wanted, reading = real()
    chance = coverage_of_one()
    single = int((reading.found.sum(dim=1) == 1).nonzero()[0])
    same = Reading(*(getattr(reading, name)[single : single + 1].expand_as(getattr(reading, name)) for name in FIELDS))
    found = coverage(wanted, same)
    for name in ("colour", "size", "quarter", "brightness"):  # one object where captions ask for more
        assert found[name] <= chance[name] + 0.01
    assert found["background"] <= 3 * chance["background"] + 0.01  # a value in each of three channels
    sizes = {"colour": len(COLOURS), "size": 2, "quarter": 4, "brightness": BINS, "background": BINS}
    for name, count in sizes.items():
        assert abs(chance[name] - 1 / count) < 0.05


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_one_colour_for_every_object_covers_as_much_as_is_truly_of_it(colour: int) -> None:
    wanted, reading = real()
    values = reading.values.clone()
    values[..., 1] = torch.where(reading.found, colour, values[..., 1])
    found = coverage(wanted, replace(reading, values=values))
    truly = 2 / 15 if colour in HIDDEN_COLOUR else 1 / 5  # one of three shapes never has it
    assert abs(found["colour"] - truly) < 0.03
    assert found["size"] == coverage(wanted, reading)["size"]


def test_what_is_not_read_covers_nothing() -> None:
    wanted, reading = real()
    values = reading.values.clone()
    every_other = torch.arange(len(values)) // len(CATEGORIES) % 2 == 0  # of each category
    values[every_other[:, None] & reading.found] = UNREAD
    whole, half = coverage(wanted, reading), coverage(wanted, replace(reading, values=values))
    for name in ("colour", "size", "quarter", "brightness"):
        assert abs(half[name] - whole[name] / 2) < 0.06
    nothing = replace(reading, values=torch.full_like(values, EMPTY))
    assert [coverage(wanted, nothing)[name] for name in ("colour", "size", "quarter", "brightness")] == [0, 0, 0, 0]


def test_more_objects_than_asked_for_cover_no_more() -> None:
    wanted, reading = real()
    values = reading.values.clone()
    values[values == EMPTY] = 0
    found = coverage(wanted, replace(reading, values=values))
    assert max(found.values()) <= 1 + 1e-6 and found["size"] < 0.9


def test_one_picture_for_each_caption_is_repeated_where_real_scenes_are_not() -> None:
    wanted, reading = real()
    assert repeated(wanted, reading, reading) == dict.fromkeys(VALUES, 1.0)
    truly = really_repeated()
    assert abs(truly["size"] - 1 / 2) < 0.05 and abs(truly["background"] - 1 / BINS) < 0.03
    assert abs(truly["brightness"] - 1 / BINS) < 0.03 and 0.15 < truly["colour"] < 0.3 and 0.3 < truly["quarter"] < 0.7


def test_real_scenes_of_one_meaning_repeat_as_often_as_is_said() -> None:
    wanted, reading = real(count=4000, only=SINGLE)  # of which every meaning has many
    meaning = wanted.objects[:, 0].unique(dim=0, return_inverse=True)[1]
    order = meaning.argsort(stable=True)
    pair = order[:-1][meaning[order[:-1]] == meaning[order[1:]]], order[1:][meaning[order[:-1]] == meaning[order[1:]]]
    chosen = Wanted(wanted.category[pair[0]], wanted.relation[pair[0]], wanted.objects[pair[0]])
    first, second = (Reading(*(getattr(reading, name)[rows] for name in FIELDS)) for rows in pair)
    found = repeated(chosen, first, second)
    assert abs(found["quarter"] - 1 / 4) < 0.05 and abs(found["size"] - 1 / 2) < 0.08
    assert abs(found["background"] - 1 / BINS) < 0.03 and abs(found["brightness"] - 1 / BINS) < 0.05


def test_what_is_not_read_in_both_repeats_nothing() -> None:
    wanted, reading = real()
    nothing = replace(reading, values=torch.full_like(reading.values, EMPTY))
    assert repeated(wanted, reading, nothing) == repeated(wanted, nothing, nothing) == dict.fromkeys(VALUES, 0.0)
