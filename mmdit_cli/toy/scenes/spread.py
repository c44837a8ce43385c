"""How far pictures spread over what their captions leave free, so that a network that draws one scene for every caption
is told from one that draws all."""

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


@cache
def _true_shares() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(hash_seed(TRUE_SEED))
    category = torch.arange(TRUE_SCENES) % len(CATEGORIES)
    scene, quarter = draw_scenes(category, generator)
    wanted = choose_named(category, scene, quarter, generator)
    return _shares(wanted, _values(scene.values, scene.brightness, scene.background))


def _values(values: Tensor, brightness: Tensor, background: Tensor) -> dict[str, Tensor]:
    """Value indexes by attribute, `b 4` or of the background's channels `b 3`, below 0 where there is none."""
    there = values[..., 0] >= 0
    quarters = torch.arange(QUARTERS).expand(there.shape)
    return {
        "colour": values[..., 1],
        "size": values[..., 2],
        "quarter": quarters.masked_fill(~there, EMPTY),
        "brightness": _binned(brightness, *BRIGHTNESS).masked_fill(~there, EMPTY),
        "background": _binned(background, *BACKGROUND),
    }


def _binned(x: Tensor, low: float, high: float) -> Tensor:
    return ((x - low) * (BINS / (high - low))).floor().long().clamp(0, BINS - 1)


def _shares(wanted: Wanted, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """How often each value comes, `v` by attribute, as shares of the objects, or channels, that captions leave free."""
    objects = (wanted.objects[..., 0] != EMPTY).sum(dim=1)
    shares = {}
    for name, found in values.items():
        free = objects > 0
        if name in COLUMNS:  # of no object does the caption say it
            free = (wanted.objects[..., COLUMNS[name]] == FREE).sum(dim=1) == objects
        expected = objects[free].sum() if found.shape[1] == QUARTERS else found[free].numel()
        drawn = found[free]
        counts = torch.bincount(drawn[drawn >= 0], minlength=VALUES[name]).float()
        shares[name] = counts / max(int(expected), int(counts.sum()), 1)
    return shares
