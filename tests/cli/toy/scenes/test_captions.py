"""Captions say what is so, and a scene is held against them as a plain search over all assignments would."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from mmdit_cli.toy.data import encode_words
from mmdit_cli.toy.scenes.captions import (
    ATTRIBUTES,
    FREE,
    MAX_WORDS,
    NOUNS,
    NUMBERS,
    PLACE_WORDS,
    PLURALS,
    RELATION_WORDS,
    SIZE_WORDS,
    WORDS,
    Wanted,
    check,
    choose_named,
    write,
)
from mmdit_cli.toy.scenes.scene import (
    BINDING,
    CATEGORIES,
    COLOURED,
    COLOURS,
    COUNTING,
    EMPTY,
    POSITION,
    UNREAD,
    Scene,
    draw_scenes,
)


def captioned(count: int, *, held_out: bool = False, seed: int = 5) -> tuple[Scene, Wanted, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    category = torch.arange(count) % len(CATEGORIES)
    scene, quarter = draw_scenes(category, generator, held_out=held_out)
    wanted = choose_named(category, scene, quarter, generator)
    return scene, wanted, write(wanted, generator)


def understood(caption: str) -> tuple[list[tuple[int, int, int]], int, int, int]:
    """What a caption says, by its words alone: (shape, colour, size) of each object, how many, a place, a relation."""
    colours, found, colour, size = list(COLOURS), [], FREE, FREE
    count = next((index for index, word in NUMBERS.items() if index > 1 and word in caption.split()), None)
    for word in caption.split():
        size = next((i for i, words in enumerate(SIZE_WORDS) if word in words), size)
        colour = colours.index(word) if word in colours else colour
        shape = next((i for i, words in enumerate(NOUNS) if word in (*words, *PLURALS[i])), None)
        if shape is not None:
            found.append((shape, colour, size))
            colour = size = FREE
    place, relation = (
        next((i for i, words in enumerate(table) if any(f" {each} " in f"{caption} " for each in words)), FREE)
        for table in (PLACE_WORDS, RELATION_WORDS)
    )
    return found, count or len(found), place, relation


@pytest.mark.parametrize("held_out", [False, True])
def test_a_captions_words_say_what_is_wanted_of_its_scene(held_out: bool) -> None:
    _, wanted, captions = captioned(1200, held_out=held_out)
    for index, caption in enumerate(captions):
        asked, count, place, relation = understood(caption)
        rows = [row for row in wanted.objects[index].tolist() if row[0] != EMPTY]
        assert count == len(rows), caption
        assert relation == wanted.relation[index], caption
        assert [tuple(row[:3]) for row in rows] == asked * (count if len(asked) == 1 else 1), caption
        assert {row[3] for row in rows} == {place}, caption


def test_each_category_names_what_it_is_of_and_some_leave_the_rest_free() -> None:
    _, wanted, _ = captioned(1200)
    colour_named = wanted.objects[:, 0, 1] != FREE
    for category in range(len(CATEGORIES)):
        named = colour_named[wanted.category == category].float().mean().item()
        low, high = {COLOURED: (1, 1), BINDING: (1, 1), COUNTING: (0.5, 0.65)}.get(category, (0, 0))
        assert low <= named <= high
        size_named = (wanted.objects[wanted.category == category, 0, 2] != FREE).float().mean().item()
        assert 0.05 < size_named < 0.6
    assert torch.equal(wanted.relation != FREE, wanted.category == POSITION)


@pytest.mark.parametrize("held_out", [False, True])
def test_every_scene_is_what_its_own_caption_asks_for(held_out: bool) -> None:
    scene, wanted, _ = captioned(1200, held_out=held_out)
    assert (check(wanted, scene.values) != 0).all()


def plainly_right(values: list[list[int]], objects: list[list[int]], relation: int) -> bool:
    """Whether some way to take a scene's objects for the caption's makes all right, by trying each."""
    there = [quarter for quarter, row in enumerate(values) if row[0] != EMPTY]
    asked = [row for row in objects if row[0] != EMPTY]
    for order in permutations(there, len(asked)):
        shown = [[*values[quarter], quarter] for quarter in order]
        pairs = [pair for row, sees in zip(asked, shown, strict=True) for pair in zip(row, sees, strict=True)]
        same = all(wants in (FREE, sees) for wants, sees in pairs)
        if same and relation != FREE:
            (r, c), (s, d) = divmod(order[0], 2), divmod(order[1], 2)
            same = (c < d, c > d, r < s, r > s)[relation]
        if same and len(there) == len(asked):
            return True
    return False


def test_scenes_are_held_against_captions_as_by_trying_every_assignment() -> None:
    scene, wanted, _ = captioned(600)
    generator = torch.Generator().manual_seed(6)
    changed = scene.values.clone()
    other = torch.rand(changed.shape, generator=generator) < 0.15
    changed = torch.where(other & (changed != EMPTY), torch.randint(2, changed.shape, generator=generator), changed)
    changed[torch.rand(changed.shape[:2], generator=generator) < 0.03] = UNREAD
    changed[torch.rand(changed.shape[:2], generator=generator) < 0.05] = EMPTY
    moved = changed[:, torch.randperm(4, generator=generator)]
    seen = set()
    for values in (scene.values, changed, moved, scene.values.roll(6, dims=0)):
        right = (check(wanted, values) != 0).all(dim=1).tolist()
        rows = zip(values.tolist(), wanted.objects.tolist(), wanted.relation.tolist(), strict=True)
        assert right == [plainly_right(*row) for row in rows]
        seen |= set(right)
    assert seen == {True, False}


def test_each_attribute_is_judged_by_itself() -> None:
    category = torch.tensor([BINDING])
    objects = torch.full((1, 4, 4), EMPTY)
    objects[0, 0], objects[0, 1] = torch.tensor([0, 1, FREE, FREE]), torch.tensor([2, 3, 1, FREE])
    wanted = Wanted(category, torch.tensor([FREE]), objects)
    shown = torch.full((1, 4, 3), EMPTY)
    shown[0, 3], shown[0, 1] = torch.tensor([0, 1, 0]), torch.tensor([2, 4, 1])  # the second's colour is another
    found = dict(zip(ATTRIBUTES, check(wanted, shown)[0].tolist(), strict=True))
    assert [found[name] for name in ("number", "shape", "colour", "size")] == [1, 1, 0, 1]
    assert found["place"] != found["place"] and found["relation"] != found["relation"]  # NaN: the caption is silent
    shown[0, 0] = torch.tensor([1, 0, 0])  # one object more
    assert dict(zip(ATTRIBUTES, check(wanted, shown)[0].tolist(), strict=True))["number"] == 0


def test_wordings_vary_and_every_word_is_known() -> None:
    _, _, captions = captioned(3000)
    assert len({len(caption.split()) for caption in captions}) > 6
    assert len(set(captions)) > 1500
    ids, mask = encode_words(captions, WORDS, MAX_WORDS)
    assert ids.shape == (3000, MAX_WORDS) and mask.sum(dim=1).max() < MAX_WORDS
    assert set(ids.unique().tolist()) == {0, *WORDS.values()} - {1}  # all but the null caption
