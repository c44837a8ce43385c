"""The score: which samples a data set's judge reads back as what was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmdit_cli.toy.data import ToyData


@dataclass(frozen=True)
class Score:
    """Shares of samples: `accuracy` has all attributes right, `per_attribute` each of them."""

    accuracy: float
    per_attribute: dict[str, float]


def hits(judge: ToyData, modality: str, data: Tensor, attributes: Tensor) -> Tensor:
    """`b a` bool, which attributes each sample shows as asked for. A sample that is not finite shows none."""
    finite = data.flatten(1).isfinite().all(dim=1, keepdim=True)
    return (judge.read(modality, data.nan_to_num(posinf=0.0, neginf=0.0)) == attributes) & finite


def score(judge: ToyData, modality: str, data: Tensor, attributes: Tensor) -> Score:
    """How many samples show what they were asked for."""
    each = hits(judge, modality, data, attributes)
    return Score(
        accuracy=each.all(dim=1).float().mean().item(),
        per_attribute=dict(zip(judge.attributes(modality), each.float().mean(dim=0).tolist(), strict=True)),
    )
