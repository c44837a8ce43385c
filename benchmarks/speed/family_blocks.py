"""Rows of one block of later networks, at its own width, beside that of diffusers' class with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.families.comparison import blocks_of, call_theirs, image_of, ours_of, random_call, random_theirs
from benchmarks.families.diffusers_networks import BY_NAME
from benchmarks.families.family import Family
from benchmarks.speed.block_rows import BF16, FP32, NAMES
from benchmarks.speed.goals import Goal, Row
from benchmarks.speed.sides import Side, check_equal, step, timed

# what leaves one block of each kind: of ours, and of theirs
SINGLE, REFINED = "model.single_stream.depth", "model.modalities.{}.refiner.depth"
ONE_STREAM = {SINGLE: 1, REFINED.format("text"): 1, REFINED.format("image"): 1}
SHALLOW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "z-image": (ONE_STREAM, dict(n_layers=1, n_refiner_layers=1)),
    "lumina-image-2.0": (ONE_STREAM, dict(num_layers=1, num_refiner_layers=1)),
    "hunyuan-video": (
        {"model.depth": 1, SINGLE: 1, REFINED.format("text"): 1},
        dict(num_layers=1, num_single_layers=1, num_refiner_layers=1),
    ),
}
BLOCKS = {  # by a row's name: the network, and which of its blocks
    "Z-Image, 3840 wide": ("z-image", 0),
    "Lumina-Image-2.0, 2304 wide": ("lumina-image-2.0", 0),
    "HunyuanVideo, joint, 3072 wide": ("hunyuan-video", 0),
    "HunyuanVideo, single-stream, 3072 wide": ("hunyuan-video", 1),
}
TEXT, DRAWN = 64, 256  # tokens: of a picture 16 x 16, of a video 4 frames of 8 x 8


def at_its_width(name: str) -> Family:
    """The published network with one block of each kind."""
    family, (ours, theirs) = BY_NAME[name], SHALLOW[name]
    return replace(family, small=ours, options=family.published | theirs)


def family_runs(family: Family, index: int, dtype: torch.dtype, mode: str) -> dict[str, Callable[[], None]]:
    """That block of ours and of diffusers' network, on what it was given in a run of the whole; they gave the same.

    HunyuanVideo's class always has a mask, so ours is given one there; the others have none.
    """
    theirs = random_theirs(family)
    ours: Any = ours_of(theirs, family)
    joint, side = len(ours.transformer.blocks) > 0, 16 if family.drawn == "video" else 32
    arguments = random_call(replace(family, masked=joint), batch=1, height=side, width=side, length=TEXT, references=())
    own = _alone(blocks_of(ours)[index], lambda: ours(**arguments), dtype)
    other = _alone(blocks_of(theirs)[index], lambda: call_theirs(theirs, family, arguments), dtype)
    drawn, sizes = arguments["inputs"][family.drawn], ours.config.modalities[family.drawn].input.sizes
    tokens = drawn[0, 0].numel() // math.prod(sizes)
    with torch.no_grad():
        check_equal([image_of(own[0](), tokens)], [image_of(other[0](), tokens, family.image_first)], dtype)
    each = {"ours": own, "diffusers": other}
    return {name: step(lambda run=run: tree_leaves(run()), mode, leaves) for name, (run, leaves) in each.items()}  # type: ignore[misc]


def _alone(block: nn.Module, run: Callable[[], Any], dtype: torch.dtype) -> tuple[Callable[[], Any], list[Tensor]]:
    """A block's call as in a run of its network, but in a dtype; and what gradients are of. Rotary tables stay."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    handle = block.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
    with torch.no_grad():
        run()
    handle.remove()
    args, kwargs = calls[0]
    leaves: list[Tensor] = list(block.to(dtype).parameters())

    def entered(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        leaves.append(x.to(dtype))
        return leaves[-1]

    args = tuple(entered(x) for x in args)
    kwargs |= {name: tree_map(entered, kwargs[name]) for name in ("modality_tokens", "time_cond") if name in kwargs}
    kwargs.pop("modulations", None)  # the block's own, which a stream would make of what it was given
    return partial(block, *args, **kwargs), leaves


def family_block(what: str, dtype: torch.dtype, mode: str) -> Row:
    name, index = BLOCKS[what]

    def build() -> dict[str, Side]:
        runs = family_runs(at_its_width(name), index, dtype, mode)
        return {name: timed(run) for name, run in runs.items()}

    name_of_row = f"{what}, ({TEXT} + {DRAWN}) tokens, {NAMES[dtype]}, {mode}"
    return Row("later blocks", name_of_row, build, (Goal("diffusers", 1.0),), builds=1)


def family_rows() -> Iterator[Row]:
    for what in BLOCKS:
        for dtype in (FP32, BF16):
            for mode in ("forward", "train"):
                yield family_block(what, dtype, mode)
