"""Maximal update parametrization, muP (Yang et al. 2022, arXiv 2203.03466; of MMDiT: Zheng et al. 2025, arXiv
2505.15270), under which the best learning rate of a narrow network is that of a wide one.

As in table 3 of the former, with no multiplier in the network, so that its weights mean what they always do. At the
base width both parametrizations are one; a network r times as wide as it has, under AdamW:

| weights | initialization | learning rate | weight decay |
| --- | --- | --- | --- |
| from a width to a width (within blocks, modulations) | as it is, a deviation of 1 / sqrt(width) | 1 / r | r |
| from a width to a fixed size (output heads) | 1 / sqrt(r) of it | 1 / r | r |
| from a fixed size to a width; biases, norms, tables | that of the base width | 1 | 1 |

Weight decay takes a share of the learning rate times itself, which stays so. Logits of heads that widen are divided by
their width: `model.attention.scale`. Depth is not treated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from mmdit.config import build
from mmdit.layers.projections import AdaptiveWeights
from mmdit.options import ModelOptions, OptionError, RefinerOptions
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.request.train_config import TrainConfig

MATRICES = (nn.Linear, AdaptiveWeights)  # what multiplies its input by a weight `... out in`


@dataclass(frozen=True)
class Scaling:
    """What a weight's initialization, learning rate and weight decay are multiplied by."""

    init: float = 1.0
    rate: float = 1.0
    decay: float = 1.0


AS_IT_IS = Scaling()
Scalings = Mapping[str, Scaling]


def scalings(config: ToolConfig) -> Scalings:
    """By the name of each weight, how it departs from the standard parametrization; empty where that is asked for.

    Raises:
        UserError: the network has no twin of the base width, or its heads are wider and their logits not scaled.
    """
    if config.train.parametrization == "standard":
        return {}
    model = config.model
    base_head = config.train.mup.base_dim_head or model.head_sizes[1]
    base = at_width(model, config.train.mup.base_width, base_head)
    _check_logits(model, base_head, "model")
    for name in (name for name, modality in model.modalities.items() if modality.refiner):
        where, modality = f"model.modalities.{name}.refiner", model.modalities[name]
        inherits = modality.refiner is not None and modality.refiner.attention is None
        _check_logits(model.refiner(name), base.refiner(name).head_sizes[1], where, inherits=inherits)
    with torch.device("meta"):
        own, narrow = build(model), build(base)
    shapes = {name: p.shape for name, p in narrow.named_parameters()}
    found = {name: AS_IT_IS for name in shapes}
    for name, module in own.named_modules():
        if isinstance(module, MATRICES):
            (rows, columns), (base_rows, base_columns) = (
                module.weight.shape[-2:],
                shapes[f"{name}.weight"][-2:],
            )
            wider = columns / base_columns
            fixed = rows == base_rows and wider != 1
            found[f"{name}.weight"] = Scaling(wider**-0.5 if fixed else 1.0, 1 / wider, wider)
            if module.bias is not None:  # drawn as its weight is
                found[f"{name}.bias"] = Scaling(init=wider**0.5)
    return found


def initialize(model: nn.Module, of: Scalings) -> None:
    """Scale the weights as they were drawn."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if (scaling := of.get(name, AS_IT_IS)).init != 1:
                p.mul_(scaling.init)


def parameter_groups(model: nn.Module, settings: TrainConfig, of: Scalings) -> Iterable[Any]:
    """What an optimizer is given: the weights, in groups of neighbours that are alike, so that their order stays."""
    if not of:
        return model.parameters()

    def alike(named: tuple[str, nn.Parameter]) -> tuple[float, float]:
        return of[named[0]].rate, of[named[0]].decay

    return [
        {
            "params": [p for _, p in group],
            "lr": settings.learning_rate * rate,
            "weight_decay": settings.weight_decay * decay,
        }
        for (rate, decay), group in itertools.groupby(model.named_parameters(), alike)
    ]


def at_width(model: ModelOptions, width: int, dim_head: int | None = None) -> ModelOptions:
    """The same network with its widest stream so wide, and the widths of its blocks in proportion. Heads are of
    `dim_head` features, by default as many as before, and their number follows; refiners whose heads are of a size of
    their own keep it. Widths within the ends and within the timestep's MLP stay where they are named.

    Raises:
        UserError: a width would be no whole number, or the network can't be of these sizes.
    """
    ratio = Fraction(width, max(modality.dim for modality in model.modalities.values()))
    heads, own_head = model.head_sizes
    dim_head = dim_head or own_head
    head_ratio = ratio * own_head / dim_head

    def scaled(name: str, value: int | None, by: Fraction = ratio) -> Any:
        """None of what is unset."""
        if value is None:
            return None
        if (found := value * by).denominator != 1 or found < 1:
            raise UserError(f"a network of width {width} has no whole {name}: {value} × {by}; choose another width")
        return int(found)

    def blocks(part: Any, by: Fraction) -> dict[str, Any]:
        """Attention and feedforward of a model, or of a refiner, which may have none of its own."""
        attention, feedforward = part.attention, part.feedforward
        return {
            "attention": attention and replace(attention, kv_heads=scaled("kv_heads", attention.kv_heads, by)),
            "feedforward": feedforward and replace(feedforward, dim=scaled("feedforward.dim", feedforward.dim)),
        }

    def refined(refiner: RefinerOptions) -> RefinerOptions:
        by = ratio if refiner.dim_head else head_ratio
        if refiner.dim_head:  # what it takes over from the model is scaled as its own is
            refiner = replace(refiner, heads=refiner.heads or heads, attention=refiner.attention or model.attention)
        return replace(refiner, heads=scaled("number of heads", refiner.heads, by), **blocks(refiner, by))

    try:
        return replace(
            model,
            modalities={
                name: replace(
                    modality,
                    dim=scaled(f"modalities.{name}.dim", modality.dim),
                    refiner=modality.refiner and refined(modality.refiner),
                )
                for name, modality in model.modalities.items()
            },
            dim_cond=scaled("dim_cond", model.dim_cond),
            dim_joint_attn=None,
            heads=scaled("number of heads", heads, head_ratio),
            dim_head=dim_head,
            **blocks(model, head_ratio),
        )
    except OptionError as error:
        raise UserError(f"a network of width {width} can't be made: {'.'.join(map(str, error.at))}: {error}") from None


def logits_scale(dim_head: int, base: int) -> float:
    """What muP multiplies logits by: `1 / sqrt(base)` at the base, and falling as one over the features of a head."""
    return math.sqrt(base) / dim_head


def _check_logits(model: ModelOptions, base: int, where: str, *, inherits: bool = False) -> None:
    """Raises UserError where the heads of `where` are not those of the base, and logits are scaled as if they were."""
    dim_head = model.head_sizes[1]
    wanted, scale = logits_scale(dim_head, base), model.attention.scale or dim_head**-0.5
    if not math.isclose(wanted, scale, rel_tol=1e-3):
        repeat = ", and beside it all of model.attention that is to stay, for it takes nothing over then"
        raise UserError(
            f"train.parametrization mup: heads have {dim_head} features, and {base} at the base width, so that logits "
            f"are to be scaled by sqrt({base}) / {dim_head}: set {where}.attention.scale={wanted:.6g}"
            f"{repeat if inherits else ''}, got {scale:.6g}"
        )
