"""The judge: reads a picture or a tone back by looking for the nearest rendering of the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdit_cli.toy.world import World, combinations, renderings


@dataclass(frozen=True)
class Score:
    """Shares of samples: `accuracy` has all attributes right, `per_attribute` each of them."""

    accuracy: float
    per_attribute: dict[str, float]


def read(modality: str, data: Tensor) -> Tensor:
    """The attributes `b a` of the rendering that is nearest to each sample by squared distance."""
    known = renderings(modality).flatten(1)
    return combinations(modality)[torch.cdist(data.float().flatten(1), known).argmin(dim=1)]


def right(modality: str, data: Tensor, attributes: Tensor) -> Tensor:
    """`b`, whether each sample shows all the attributes it was asked for. A sample with a NaN shows none."""
    finite = data.flatten(1).isfinite().all(dim=1)
    return (read(modality, data.nan_to_num()) == attributes).all(dim=1) & finite


def score(world: World, modality: str, data: Tensor, attributes: Tensor) -> Score:
    """How many samples show what they were asked for."""
    hits = read(modality, data.nan_to_num()) == attributes
    names = world.tables[modality]
    shares = hits.float().mean(dim=0).tolist()
    return Score(
        accuracy=right(modality, data, attributes).float().mean().item(),
        per_attribute=dict(zip(names, shares, strict=True)),
    )


def chance(modality: str) -> float:
    """The share of a guesser that draws each combination equally often."""
    return 1 / len(combinations(modality))
