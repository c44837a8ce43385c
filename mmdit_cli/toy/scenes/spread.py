"""How far pictures spread over what their captions leave free, so that a network that draws one scene for every
caption, or one for each, is told from one that draws all."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mmdit_cli.toy.data import hash_seed
from mmdit_cli.toy.scenes.captions import FREE, Wanted, choose_named
from mmdit_cli.toy.scenes.oracle import Reading
from mmdit_cli.toy.scenes.scene import (
    BACKGROUND,
    BRIGHTNESS,
    CATEGORIES,
    COLOURS,
    EMPTY,
    QUARTERS,
    SIZES,
    draw_scenes,
)

BINS = 4  # of what varies continuously
TRUE_SCENES, TRUE_SEED = 6000, 20231017  # how the true distribution is known
# attribute -> how many values it has, and its column of Wanted.objects, where a caption may name it
VALUES = {"colour": len(COLOURS), "size": len(SIZES), "quarter": QUARTERS, "brightness": BINS, "background": BINS}
COLUMNS = {"colour": 1, "size": 2, "quarter": 3}


def coverage(wanted: Wanted, reading: Reading) -> dict[str, float]:
    """By attribute, the overlap `sum(min(p, q))` of how often each value is drawn with how often it truly comes, 1 less
    their total variation; over the objects of captions that leave the attribute free. What is not read has no value."""
    shares = _shares(wanted, _values(reading.values, reading.brightness, reading.background.mean(dim=1)))
    return {name: torch.minimum(shares[name], true).sum().item() for name, true in _true_shares().items()}


@cache
def coverage_of_one() -> dict[str, float]:
    """The coverage of one scene for every caption: of each attribute's commonest value."""
    return {name: true.max().item() for name, true in _true_shares().items()}


def repeated(wanted: Wanted, first: Reading, second: Reading) -> dict[str, float]:
    """By attribute, how often two pictures of a caption have the same value where it leaves it free, an object in the
    same quarter, or channel; of quarters how often there is one in the second where the first has one."""
    pairs = [_values(each.values, each.brightness, each.background.mean(dim=1)) for each in (first, second)]
    return _alike(wanted, *pairs)


@cache
def really_repeated() -> dict[str, float]:
    """The same of true scenes, two and two of one caption but for its wording."""
    wanted, values = _true_scenes()
    meaning = torch.cat([wanted.category[:, None], wanted.relation[:, None], wanted.objects.flatten(1)], dim=1)
    group = meaning.unique(dim=0, return_inverse=True)[1]
    order = group.argsort(stable=True)
    first, second = order[:-1], order[1:]
    paired = group[first] == group[second]
    first, second = first[paired], second[paired]
    chosen = Wanted(wanted.category[first], wanted.relation[first], wanted.objects[first])
    return _alike(chosen, *({name: x[rows] for name, x in values.items()} for rows in (first, second)))


def _alike(wanted: Wanted, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    shares = {}
    for name in VALUES:
        free = _free(wanted, name)
        one, two = first[name][free], second[name][free]
        there = one >= 0 if name == "quarter" else (one >= 0) & (two >= 0)
        shares[name] = (one == two)[there].float().mean().item() if there.any() else 0.0
    return shares


@cache
def _true_shares() -> dict[str, Tensor]:
    return _shares(*_true_scenes())


@cache
def _true_scenes() -> tuple[Wanted, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(hash_seed(TRUE_SEED))
    category = torch.arange(TRUE_SCENES) % len(CATEGORIES)
    scene, quarter = draw_scenes(category, generator)
    wanted = choose_named(category, scene, quarter, generator)
    return wanted, _values(scene.values, scene.brightness, scene.background)


def _values(values: Tensor, brightness: Tensor, background: Tensor) -> dict[str, Tensor]:
    """Value indexes by attribute, `b 4` or of the background's channels `b 3`, below 0 where there is none: a picture
    without objects has no values."""
    there = values[..., 0] >= 0
    quarters = torch.arange(QUARTERS).expand(there.shape)
    return {
        "colour": values[..., 1],
        "size": values[..., 2],
        "quarter": quarters.masked_fill(~there, EMPTY),
        "brightness": _binned(brightness, *BRIGHTNESS).masked_fill(~there, EMPTY),
        "background": _binned(background, *BACKGROUND).masked_fill(~there.any(dim=1, keepdim=True), EMPTY),
    }


def _binned(x: Tensor, low: float, high: float) -> Tensor:
    return ((x - low) * (BINS / (high - low))).floor().long().clamp(0, BINS - 1)


def _shares(wanted: Wanted, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """How often each value comes, `v` by attribute, as shares of the objects, or channels, that captions leave free."""
    objects = (wanted.objects[..., 0] != EMPTY).sum(dim=1)
    shares = {}
    for name, found in values.items():
        free = _free(wanted, name)
        expected = objects[free].sum() if found.shape[1] == QUARTERS else found[free].numel()
        drawn = found[free]
        counts = torch.bincount(drawn[drawn >= 0], minlength=VALUES[name]).float()
        shares[name] = counts / max(int(expected), int(counts.sum()), 1)
    return shares


def _free(wanted: Wanted, name: str) -> Tensor:
    """`b` bool, whether captions leave an attribute free: they say it of no object."""
    objects = (wanted.objects[..., 0] != EMPTY).sum(dim=1)
    if name not in COLUMNS:
        return objects > 0
    return (wanted.objects[..., COLUMNS[name]] == FREE).sum(dim=1) == objects
