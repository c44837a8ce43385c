"""What a scene holds, and how scenes are drawn at random for each category of caption.

A picture has four quarters, numbered 0 top left, 1 top right, 2 bottom left, 3 bottom right, each with one object or
none. Held out are bindings, a colour of each shape (`HIDDEN_COLOUR`), and relations between shapes
(`HIDDEN_RELATIONS`): no scene that training draws shows one, whether its caption names it or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

# The tasks of GenEval (Ghosh et al. 2023, arXiv 2310.11513), which are the categories of captions.
CATEGORIES = ("single", "two", "counting", "colours", "position", "binding")
SINGLE, TWO, COUNTING, COLOURED, POSITION, BINDING = range(len(CATEGORIES))
SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "green": (0, 1, 0),
    "cyan": (0, 1, 1),
    "blue": (0, 0, 1),
    "magenta": (1, 0, 1),
}
SIZES = ("small", "large")
RELATIONS = ("left", "right", "above", "below")
QUARTERS = 4
EMPTY, UNREAD = -1, -2  # in place of a value index: no object, and one that the oracle could not read

RADIUS = ((0.5, 0.6), (0.74, 0.84))  # of small and of large objects, in halves of a quarter
MARGIN = 0.04  # between an object and the quarter's edge, at least
BRIGHTNESS = (0.5, 1.0)  # of a channel that an object's colour has; the others are at DARK
DARK = -0.9
BACKGROUND = (-0.9, -0.5)  # of each channel

HIDDEN_COLOUR = (0, 2, 4)  # by shape: red circles, green squares and blue triangles
HIDDEN_RELATIONS = ((0, 0, 1), (2, 2, 0))  # relation, shape, shape: circles left of squares, triangles above circles


@dataclass(frozen=True)
class Scene:
    """Pictures as what they show, by quarter. Lengths are in halves of a quarter.

    `shape`, `colour` and `size` are value indexes `b 4`, EMPTY where a quarter has no object; `radius` and `brightness`
    are `b 4`, `place` is `b 4 2` (down and right of the quarter's centre), `background` is `b 3`.
    """

    shape: Tensor
    colour: Tensor
    size: Tensor
    radius: Tensor
    place: Tensor
    brightness: Tensor
    background: Tensor

    @property
    def values(self) -> Tensor:
        """`b 4 3`: shape, colour and size."""
        return torch.stack([self.shape, self.colour, self.size], dim=-1)


def draw_scenes(category: Tensor, generator: Generator, *, held_out: bool = False) -> tuple[Scene, Tensor]:
    """A scene for each caption's category `b`, and the quarters `b 4` of its objects, in the caption's order.

    Args:
        held_out: colours, position and binding show what training never does; the other categories are as they are.
    """
    b = len(category)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape or (b,), generator=generator)

    def uniform(low: Tensor | float, high: Tensor | float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    count = torch.ones(b, dtype=torch.long)
    count[(category == TWO) | (category == POSITION) | (category == BINDING)] = 2
    count = torch.where(category == COUNTING, 2 + whole(3), count)
    quarter = torch.rand(b, QUARTERS, generator=generator).argsort(dim=1)
    shape = whole(len(SHAPES))[:, None].repeat(1, QUARTERS)
    other = (shape[:, 1] + 1 + whole(len(SHAPES) - 1)) % len(SHAPES)
    shape[:, 1] = torch.where(category == COUNTING, shape[:, 1], other)
    if held_out:
        _show_hidden_relation(shape, quarter, category == POSITION, whole(len(HIDDEN_RELATIONS)))
    else:
        _swap_where_hidden(shape, quarter, count == 2)
    colour = _colours(shape, category, generator, held_out=held_out)
    size = whole(len(SIZES), b, QUARTERS)
    low, high = (torch.tensor([each[end] for each in RADIUS])[size] for end in (0, 1))
    radius = uniform(low, high, b, QUARTERS)
    reach = (1 - MARGIN - radius)[..., None]
    place = uniform(-reach, reach, b, QUARTERS, 2)
    brightness = uniform(*BRIGHTNESS, b, QUARTERS)
    background = uniform(*BACKGROUND, b, 3)

    absent = torch.arange(QUARTERS) >= count[:, None]
    shape, colour, size = (x.masked_fill(absent, EMPTY) for x in (shape, colour, size))
    slot = quarter.argsort(dim=1)  # which object each quarter has
    shape, colour, size, radius, brightness = (x.gather(1, slot) for x in (shape, colour, size, radius, brightness))
    place = place.gather(1, slot[..., None].expand(-1, -1, 2))
    return Scene(shape, colour, size, radius, place, brightness, background), quarter


def related(first: Tensor, second: Tensor) -> Tensor:
    """`... 4` bool: which of RELATIONS hold from one quarter to another."""
    rows, columns = ((first // 2, second // 2), (first % 2, second % 2))
    left, above = columns[0] < columns[1], rows[0] < rows[1]
    return torch.stack([left, columns[0] > columns[1], above, rows[0] > rows[1]], dim=-1)


def _colours(shape: Tensor, category: Tensor, generator: Generator, *, held_out: bool) -> Tensor:
    """Colours `b 4`, uniform among those that each shape may have. Of two that are named, no two are the same; of
    several that are counted, all are alike in half the scenes."""
    b = len(shape)
    hidden = torch.tensor(HIDDEN_COLOUR)[shape]
    allowed = torch.rand(b, QUARTERS, len(COLOURS), generator=generator)
    allowed.scatter_(2, hidden[..., None], -1.0)
    colour = allowed.argmax(dim=2)
    if held_out:  # one object has its shape's hidden colour
        which = torch.randint(2, (b,), generator=generator).masked_fill(category != BINDING, 0)
        shown = (torch.arange(QUARTERS) == which[:, None]) & ((category == COLOURED) | (category == BINDING))[:, None]
        colour = torch.where(shown, hidden, colour)
        keep = which
    else:
        keep = torch.zeros(b, dtype=torch.long)
    again = 1 - keep  # of the first two, the one that gives way where both have one colour
    kept = colour.gather(1, keep[:, None])
    allowed.scatter_(2, kept[:, None].expand(-1, QUARTERS, -1), -1.0)
    other = allowed.argmax(dim=2)
    gives_way = (torch.arange(QUARTERS) == again[:, None]) & (category == BINDING)[:, None]
    colour = torch.where(gives_way, other, colour)
    alike = (category == COUNTING) & (torch.rand(b, generator=generator) < 0.5)
    return torch.where(alike[:, None], colour[:, :1], colour)


def _swap_where_hidden(shape: Tensor, quarter: Tensor, pair: Tensor) -> None:
    """Two objects in a hidden relation change places. None is hidden both ways, so that none is left."""
    holds = related(quarter[:, 0], quarter[:, 1])
    for relation, first, second in HIDDEN_RELATIONS:
        for a, b, sense in ((0, 1, relation), (1, 0, relation ^ 1)):  # right is left seen from the other
            found = pair & holds[:, sense] & (shape[:, a] == first) & (shape[:, b] == second)
            quarter[found, :2] = quarter[found, :2].flip(1)


def _show_hidden_relation(shape: Tensor, quarter: Tensor, where: Tensor, which: Tensor) -> None:
    """In the scenes `where`, the first object stands in a hidden relation to the second."""
    for index, (relation, first, second) in enumerate(HIDDEN_RELATIONS):
        chosen = where & (which == index)
        shape[chosen, 0], shape[chosen, 1] = first, second
        step = 1 if relation < 2 else 2  # from a quarter to the one beside or below it
        a, b = quarter[chosen, 0], quarter[chosen, 1]  # each stays in its row, or column
        a, b = a - (a // step) % 2 * step, b + (1 - (b // step) % 2) * step
        key = torch.arange(2, 2 + QUARTERS).repeat(len(a), 1)
        quarter[chosen] = key.scatter(1, a[:, None], 0).scatter(1, b[:, None], 1).argsort(dim=1)
