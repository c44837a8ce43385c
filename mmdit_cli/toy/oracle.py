"""The judge: reads a picture or a tone back by looking for the nearest rendering of the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdit_cli.toy.world import TABLES, combinations, renderings


@dataclass(frozen=True)
class Score:
    """Shares of samples: `accuracy` has all attributes right, `per_attribute` each of them."""

    accuracy: float
    per_attribute: dict[str, float]


def read(modality: str, data: Tensor) -> Tensor:
    """The attributes `b a` of the rendering that is nearest to each sample by squared distance."""
    known = renderings(modality).flatten(1)
    return combinations(modality)[torch.cdist(data.float().flatten(1), known).argmin(dim=1)]


def hits(modality: str, data: Tensor, attributes: Tensor) -> Tensor:
    """`b a` bool, which attributes each sample shows as asked for. A sample that is not finite shows none."""
    finite = data.flatten(1).isfinite().all(dim=1, keepdim=True)
    return (read(modality, data.nan_to_num(posinf=0.0, neginf=0.0)) == attributes) & finite


def score(modality: str, data: Tensor, attributes: Tensor) -> Score:
    """How many samples show what they were asked for."""
    each = hits(modality, data, attributes)
    return Score(
        accuracy=each.all(dim=1).float().mean().item(),
        per_attribute=dict(zip(TABLES[modality], each.float().mean(dim=0).tolist(), strict=True)),
    )


def chance(modality: str) -> float:
    """The share of a guesser that draws each combination equally often."""
    return 1 / len(combinations(modality))
