"""What differs between a file and a config is said as a person would say it."""

from __future__ import annotations

import torch

import mmdit
from mmdit.weights.matching import misfits


def shapes(**changes: object) -> dict[str, tuple[int, ...]]:
    model = {"depth": 2, "modalities": {"text": {"dim": 8}, "image": {"dim": 12}}, "heads": 1, "dim_head": 8} | changes
    with torch.device("meta"):
        return {name: tuple(x.shape) for name, x in mmdit.build(model).state_dict().items()}


def test_another_number_of_blocks_is_one_line():
    assert misfits(shapes(depth=38), shapes(depth=1)) == ["it has 1 block, the config 38"]
    assert misfits(shapes(depth=2), shapes(depth=3)) == ["it has 3 blocks, the config 2"]
    theirs = {f"x.single_transformer_blocks.{i}.norm": (4,) for i in range(3)}
    assert misfits(theirs | {"a": (1,)}, {"a": (1,)}) == ["it has 0 single transformer blocks, the config 3"]


def test_another_width_is_one_line():
    (line,) = misfits(shapes(), shapes(modalities={"text": {"dim": 16}, "image": {"dim": 12}}))
    assert "16 where the config gives 8" in line and "tensors have other sizes" in line


def test_what_is_missing_beside_it_is_still_named():
    held = shapes(depth=1)
    wanted = shapes(depth=2) | {"pooled.weight": (3,)}
    assert misfits(wanted, held) == ["it has 1 block, the config 2", "pooled.weight is missing"]
