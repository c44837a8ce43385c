"""Arguments of diffusers that several of its classes have: the sizes of heads and streams, and a picture's ends."""

from __future__ import annotations

import math
from typing import Any

from mmdit.config.diffusers_arguments import Argument, Arguments, fixed, key, out_channels
from mmdit.options import ModelOptions

TEXT, IMAGE, VIDEO = (f"modalities.{name}" for name in ("text", "image", "video"))


def joint_width(arguments: Arguments) -> int:
    width: int = arguments["num_attention_heads"] * arguments["attention_head_dim"]
    return width


def width_of(config: ModelOptions) -> int:
    return math.prod(config.head_sizes)


def streams(width: int, drawn: str = IMAGE) -> dict[str, Any]:
    return {f"{TEXT}.dim": width, f"{drawn}.dim": width}


def wide(arguments: Arguments) -> dict[str, Any]:
    """Streams and conditioning are as wide as all heads together."""
    return streams(joint_width(arguments)) | {"dim_cond": joint_width(arguments)}


def heads_of(heads: int, dim_head: int) -> dict[str, Argument]:
    return {"num_attention_heads": key(heads, "heads"), "attention_head_dim": key(dim_head, "dim_head")}


def hidden(default: int, heads: str) -> Argument:
    """The width, which the heads share."""

    def ours(width: int, arguments: Arguments) -> dict[str, Any]:
        if width % arguments[heads]:
            raise ValueError(f"expected a multiple of {heads}, got {width}")
        return streams(width) | {"dim_head": width // arguments[heads]}

    return Argument(default, ours, width_of)


def up_to(multiple: int, size: int) -> int:
    return -(-size // multiple) * multiple


PICTURE = {
    "patch_size": fixed(2),
    "in_channels": key(16, f"{IMAGE}.input.channels"),
    "out_channels": out_channels(f"{IMAGE}.output.channels"),
}
