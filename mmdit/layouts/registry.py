"""Which lines say what a model's weights are called in a layout."""

from __future__ import annotations

from mmdit.config.model import ModelConfig, PatchInput
from mmdit.layouts.auraflow import AURAFLOW
from mmdit.layouts.family import Family
from mmdit.layouts.flux import FLUX_1, FLUX_2
from mmdit.layouts.language import LayoutError
from mmdit.layouts.lucidrains import lucidrains
from mmdit.layouts.qwen import QWEN_IMAGE
from mmdit.layouts.sd3 import SD3

__all__ = ["FAMILIES", "LAYOUTS", "lines_for", "prefixes"]

FAMILIES = (AURAFLOW, SD3, FLUX_1, FLUX_2, QWEN_IMAGE)  # the first whose blocks a config has is meant
LAYOUTS = ("mmdit", *dict.fromkeys(layout for family in FAMILIES for layout in family.layouts), "lucidrains")


def lines_for(layout: str, config: ModelConfig) -> list[str]:
    """A model's lines, in the language that `language.py` explains.

    Raises:
        LayoutError: the layout has no place for the model; it says why.
    """
    if layout == "lucidrains":
        return list(lucidrains(config))
    family = _family_of(config)
    if layout not in family.layouts:
        held = [each.name for each in FAMILIES if layout in each.layouts]
        raise LayoutError(f"it holds the networks of {' and '.join(held)}, this is one of {family.name}")
    return list(family.layouts[layout](config))


def prefixes(layout: str) -> tuple[str, ...]:
    """What may stand before every name in a file; the first is written."""
    return next((family.prefixes[layout] for family in FAMILIES if layout in family.prefixes), ("",))


def _family_of(config: ModelConfig) -> Family:
    image = config.modalities.get("image")
    if tuple(config.modalities) != ("text", "image") or image is None or not isinstance(image.input, PatchInput):
        raise LayoutError(
            "the published networks have the modalities text and image, in this order, and an image input of patches"
        )
    family = next((family for family in FAMILIES if family.blocks(config)), None)
    if family is None:
        odd = "positions" if config.single_stream is None else "blocks"
        raise LayoutError(f"its {odd} are those of no published network")
    if missing := family.lacks(config):
        raise LayoutError(f"networks of the family {family.name} have {', '.join(missing)}")
    return family
