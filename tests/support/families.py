"""The published networks, of which the default run has one of each kind, and their calls with a packing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from mmdit import MMDiTModel
from mmdit.packing import Packing
from tests.support.marks import slow_but

KINDS = [
    BY_NAME[name]
    for name in (
        *("sd3.5-medium", "qwen-image-edit-2511", "flux.1-dev"),
        *("flux.2-dev", "hunyuan-video-1.5", "z-image"),
    )
]
each_kind = pytest.mark.parametrize("family", slow_but(FAMILIES, *KINDS), ids=str)


def packing_of(net: MMDiTModel, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor], **given: Any) -> Packing:
    """What these masks leave of a call: further inputs and references stand behind their modality's own."""
    joined: list[Tensor | None] = []
    lengths = []
    for name in net.modality_names:
        parts = [(each, inputs[each]) for each in net.streams[name]]
        parts += [("", x) for x in given.get("references", {}).get(name, ())]
        sizes = getattr(net.inputs[name], "sizes", None)
        counts = [x[0, 0].numel() // math.prod(sizes) if sizes else x.shape[1] for _, x in parts]
        rows = [
            masks.get(each, torch.ones(len(x), count, dtype=torch.bool, device=x.device))
            for (each, x), count in zip(parts, counts, strict=True)
        ]
        joined.append(torch.cat(rows, dim=1) if masks.keys() & net.streams[name] else None)
        lengths.append(sum(counts))
    return Packing.from_masks(joined, lengths, len(next(iter(inputs.values()))))
