"""What a file of weights holds beside a network, told by names as they are published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmdit.weights.header import TensorInfo

__all__ = ["Part", "kind_of", "parts_of"]

PARTS = {  # the first whose pattern a name begins with
    "EMA copy": r"(model_)?ema(_model)?\.",
    "text encoders": r"(text_encoders?(_\d)?|cond_stage_model|conditioner|text_model|clip_[lg]|t5xxl)\."
    r"|(encoder|decoder)\.block\.\d+\.layer\.|shared\.weight$|(model\.)?(embed_tokens|layers\.\d+\.self_attn)\.",
    "autoencoder": r"(first_stage_model|vae|encoder|decoder|(post_)?quant_conv)\.",
    "U-Net": r"(model\.diffusion_model\.)?(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\.",
    "ControlNet": r"(controlnet_|control_model\.|input_hint_block)",
    "optimizer": r"(optimizer|state)\.",
}
_PARTS = {what: re.compile(start) for what, start in PARTS.items()}


@dataclass(frozen=True)
class Part:
    """Some of a file's tensors, which are none of the network's; `what`: "unknown" where their names tell nothing."""

    what: str
    tensors: int
    bytes: int
    example: str


def kind_of(name: str) -> str | None:
    """What a tensor belongs to that is none of a network; None where its name tells nothing."""
    return next((what for what, start in _PARTS.items() if start.match(name)), None)


def parts_of(names: Iterable[str], held: Mapping[str, TensorInfo]) -> list[Part]:
    """What these tensors of a file are, each kind once."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(kind_of(name) or "unknown", []).append(name)
    return [
        Part(what, len(of), sum(held[name].stop - held[name].start for name in of), min(of))
        for what, of in found.items()
    ]
