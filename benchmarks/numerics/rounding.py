"""How far a stack in a narrow dtype is from float64, and the bound of it.

Each network is run in float64 with the weights and inputs that the narrow dtype holds, so that only its arithmetic
differs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.numerics.variants import VARIANTS, arguments, build, cast

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


SEEDS = 5


DEEP = 48


# Float32 rounds every term of a product's sum; the narrow dtypes add up in float32 and round once.
SLOPES = {torch.float32: 3.0, torch.bfloat16: 1.0, torch.float16: 1.0}


def bound(variant: str, depth: int, dtype: torch.dtype) -> float:
    """Of the relative error of a stack's outputs: about twice what was measured, or more.

    A sublayer's result is rounded to within `eps` of its size, whatever that is. The residual adds up `depth` of them,
    as random as roundings are, so they grow as the root of the depth; what happens once does not grow: the inputs'
    first norm, the last norm. Streams mixed by unconstrained matrices amplify what the layers before have rounded,
    which is why manifold hyper-connections were made.
    """
    amplified = 1 + depth / 16 if VARIANTS[variant].get("residual") == "hyper_connections" else 1
    return SLOPES[dtype] * amplified * torch.finfo(dtype).eps * (1 + depth**0.5)


def valid_outputs(outs: Sequence[Tensor | None], given: dict[str, Any]) -> Tensor:
    masks = given.get("modality_masks") or [None] * len(outs)
    return torch.cat(
        [
            (x if mask is None else x[mask]).double().flatten()
            for x, mask in zip(outs, masks, strict=True)
            if x is not None
        ]
    )


@torch.no_grad()
def relative_error(variant: str, depth: int, dtype: torch.dtype, seed: int) -> float:
    """Norm of the difference from float64 over the norm of the output; nan where something overflowed."""
    torch.manual_seed(seed)
    narrow = build(variant, depth).to(dtype)
    exact = copy.deepcopy(narrow).double()
    given = arguments(variant, dtype)
    got, wanted = (
        valid_outputs(net(**cast(given, kind)), given) for net, kind in ((narrow, dtype), (exact, torch.float64))
    )
    return float((got - wanted).norm() / wanted.norm())


@dataclass(frozen=True)
class Row:
    """The largest relative error of several seeds, by dtype."""

    variant: str
    depth: int
    errors: dict[str, float]


def measure(variants: Sequence[str] = tuple(VARIANTS), seeds: int = SEEDS) -> list[Row]:
    """At two layers, and at 48."""
    return [
        Row(
            variant,
            depth,
            {
                name: max(relative_error(variant, depth, dtype, s) for s in range(seeds))
                for name, dtype in DTYPES.items()
            },
        )
        for depth in (2, DEEP)
        for variant in variants
    ]
