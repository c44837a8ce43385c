"""Captions of scenes: which of their attributes are named, in which words, and whether a scene is what they ask for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from mmdit_cli.toy.data import word_ids
from mmdit_cli.toy.scenes.scene import (
    BINDING,
    CATEGORIES,
    COLOURED,
    COLOURS,
    COUNTING,
    EMPTY,
    POSITION,
    QUARTERS,
    RELATIONS,
    SINGLE,
    TWO,
    Scene,
    related,
)

FREE = -9  # in place of a value index: the caption does not say
ATTRIBUTES = ("number", "shape", "colour", "size", "place", "relation")
# how often a caption names what its category does not need
SIZE_NAMED = {SINGLE: 0.4, TWO: 0.2, COUNTING: 0.2, COLOURED: 0.4, POSITION: 0.2, BINDING: 0.2}
PLACE_NAMED = {SINGLE: 0.4, COLOURED: 0.2}

NOUNS = (("circle", "disc"), ("square", "box"), ("triangle",))
PLURALS = (("circles", "discs"), ("squares", "boxes"), ("triangles",))
SIZE_WORDS = (("small", "little"), ("large", "big"))
PLACE_WORDS = (
    ("top left", "upper left"),
    ("top right", "upper right"),
    ("bottom left", "lower left"),
    ("bottom right", "lower right"),
)
RELATION_WORDS = (("left of", "to the left of"), ("right of", "to the right of"), ("above", "over"), ("below", "under"))
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
OPENINGS = ("", "a picture of", "there is", "this shows")
PAIRS = ("{} and {}", "{} with {}", "{} , {}", "{} next to {}")
WORDS = word_ids(
    *(words for table in (NOUNS, PLURALS, SIZE_WORDS, PLACE_WORDS, RELATION_WORDS) for words in table),
    COLOURS,
    NUMBERS.values(),
    OPENINGS,
    PAIRS,
    ("in the", "are"),
)
VOCABULARY_SIZE = len(WORDS) + 1
MAX_WORDS = 24  # more than the longest caption has


@dataclass(frozen=True)
class Wanted:
    """What captions ask for. `category` is `b`; `relation` is `b`, of the first object to the second, FREE where not
    named; `objects` is `b 4 4`: shape, colour, size and quarter of each object, FREE where not named, and EMPTY after
    the last."""

    category: Tensor
    relation: Tensor
    objects: Tensor


def choose_named(category: Tensor, scene: Scene, quarter: Tensor, generator: Generator) -> Wanted:
    """What captions of their categories `b` name of scenes whose objects are in `quarter` `b 4`, in this order."""
    b = len(category)
    values = scene.values.gather(1, quarter[..., None].expand(-1, -1, 3))
    objects = torch.cat([values, quarter[..., None]], dim=2)
    there = objects[..., 0] != EMPTY
    one_colour = ((objects[..., 1] == objects[:, :1, 1]) | ~there).all(dim=1)
    colour_named = (category == COLOURED) | (category == BINDING) | ((category == COUNTING) & one_colour)
    one_size = ((objects[..., 2] == objects[:, :1, 2]) | ~there).all(dim=1)
    size_named = torch.rand(b, QUARTERS, generator=generator) < _rates(SIZE_NAMED)[category][:, None]
    counted = (category == COUNTING)[:, None]
    size_named = torch.where(counted, size_named[:, :1] & one_size[:, None], size_named)  # all or none
    place_named = torch.rand(b, generator=generator) < _rates(PLACE_NAMED)[category]
    always = torch.ones(b, QUARTERS, dtype=torch.bool)
    each = (always, colour_named[:, None] & always, size_named, place_named[:, None] & always)
    named = torch.stack(each, dim=2)
    objects = objects.masked_fill(~named, FREE).masked_fill(~there[..., None], EMPTY)
    holds = related(quarter[:, 0], quarter[:, 1])
    relation = (torch.rand(b, len(RELATIONS), generator=generator) * holds).argmax(dim=1)
    return Wanted(category, relation.masked_fill(category != POSITION, FREE), objects)


def colourless(wanted: Wanted) -> Wanted:
    """The same, with every colour free."""
    objects = wanted.objects.clone()
    objects[..., 1] = objects[..., 1].masked_fill(objects[..., 0] != EMPTY, FREE)
    return replace(wanted, objects=objects)


def write(wanted: Wanted, generator: Generator) -> list[str]:
    """A caption for each."""
    draws = torch.randint(1 << 16, (len(wanted.category), 12), generator=generator).tolist()
    rows = zip(wanted.category.tolist(), wanted.relation.tolist(), wanted.objects.tolist(), draws, strict=True)
    return [_caption(*row) for row in rows]


def _caption(category: int, relation: int, objects: list[list[int]], draws: list[int]) -> str:
    draw = iter(draws)

    def of(words: tuple[str, ...]) -> str:
        return words[next(draw) % len(words)]

    def phrase(what: list[int], number: int = 1) -> str:
        shape, colour, size, _ = what
        words = [NUMBERS[number]]
        words += [of(SIZE_WORDS[size])] if size != FREE else []
        words += [list(COLOURS)[colour]] if colour != FREE else []
        return " ".join([*words, of((NOUNS if number == 1 else PLURALS)[shape])])

    first, second, number = objects[0], objects[1], sum(each[0] != EMPTY for each in objects)
    if category == COUNTING:
        return f"{of(OPENINGS).replace('there is', 'there are')} {phrase(first, number)}".strip()
    if number == 1:
        place = first[3]
        text = phrase(first) + (f" in the {of(PLACE_WORDS[place])}" if place != FREE else "")
    else:
        joint = f"{{}} {of(RELATION_WORDS[relation])} {{}}" if category == POSITION else of(PAIRS)
        text = joint.format(phrase(first), phrase(second))
    return f"{of(OPENINGS)} {text}".strip()


def check(wanted: Wanted, values: Tensor) -> Tensor:
    """`b a`, whether each of ATTRIBUTES is as asked for in scenes that show `values` `b 4 3`: 1, 0, or NaN where the
    caption does not say.

    A scene's objects are taken for the caption's in the order in which most is right. All is right only where there is
    no object more or less.
    """
    orders = torch.tensor(list(itertools.permutations(range(QUARTERS))))  # 24 4: which quarter has each object
    quarters = orders[:, :, None].expand(len(values), -1, -1, -1)
    shown = torch.cat([values[:, orders], quarters], dim=3)  # b 24 4 4, as `wanted.objects`
    there = wanted.objects[..., 0] != EMPTY
    named = (wanted.objects != FREE) & there[..., None]
    counted = named | ~there[..., None]  # what is named, and that there is no more
    same = shown == wanted.objects[:, None]
    read = shown[..., 0] >= 0  # what is not there, or not read, is nowhere
    same[..., 3] = (same[..., 3] & read) | ~there[:, None]
    holds = related(orders[:, 0], orders[:, 1]).T[wanted.relation.clamp(min=0)] & read[..., :2].all(dim=2)  # b 24
    holds = holds | (wanted.relation == FREE)[:, None]
    best = ((same & counted[:, None]).sum(dim=(2, 3)) + holds).argmax(dim=1)
    rows = torch.arange(len(values))
    number = (values[..., 0] != EMPTY).sum(dim=1) == there.sum(dim=1)
    found = (same[rows, best] | ~named).all(dim=1).float().masked_fill(~named.any(dim=1), torch.nan)
    relation = holds[rows, best].float().masked_fill(wanted.relation == FREE, torch.nan)
    return torch.cat([number[:, None].float(), found, relation[:, None]], dim=1)


def _rates(by_category: dict[int, float]) -> Tensor:
    return torch.tensor([by_category.get(index, 0.0) for index in range(len(CATEGORIES))])
