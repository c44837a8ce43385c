"""The published networks, and which lines say what a model's weights are called in a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from mmdit.layouts import auraflow, cogview, flux, hunyuan, joyimage, mmaudio, one_stream, prx, qwen, sd3
from mmdit.layouts.language import LayoutError
from mmdit.layouts.lucidrains import lucidrains
from mmdit.options import ModelOptions, PatchInput


class Family(NamedTuple):
    """Networks of one design: how a config is known to be one, what all of them have, the lines of each layout."""

    name: str
    blocks: Callable[[ModelOptions, PatchInput], bool]
    feedforward: str
    rotary: bool
    lines: Mapping[str, Callable[[ModelOptions], Iterable[str]]]


FAMILIES = (  # the first whose blocks a config has is meant
    Family("prx", prx.blocks, "geglu_tanh", True, {"diffusers": prx.diffusers}),
    Family("cogview4", cogview.blocks, "gelu_tanh", True, {"diffusers": cogview.diffusers}),
    Family("z-image", one_stream.blocks_z_image, "swiglu", True, {"diffusers": one_stream.z_image}),
    Family("ideogram-4", one_stream.blocks_ideogram, "swiglu", True, {"diffusers": one_stream.ideogram}),
    Family("flux.3", one_stream.blocks_flux_3, "swiglu", True, {"diffusers": one_stream.flux_3}),
    Family("lumina-image-2.0", one_stream.blocks_lumina, "swiglu", True, {"diffusers": one_stream.lumina}),
    Family("hunyuan-video", hunyuan.blocks_video, "gelu_tanh", True, {"diffusers": hunyuan.video}),
    Family("hunyuan-image-2.1", hunyuan.blocks_image, "gelu_tanh", True, {"diffusers": hunyuan.image}),
    Family("hunyuan-video-1.5", hunyuan.blocks_video_15, "gelu_tanh", True, {"diffusers": hunyuan.video_15}),
    Family("joyimage-edit", joyimage.blocks, "gelu_tanh", True, {"diffusers": joyimage.diffusers}),
    Family("auraflow", auraflow.blocks, "swiglu", False, {"diffusers": auraflow.diffusers}),
    Family("sd3", sd3.blocks, "gelu_tanh", False, {"diffusers": sd3.diffusers, "stability": sd3.stability}),
    Family("flux.1", flux.blocks_1, "gelu_tanh", True, {"diffusers": flux.diffusers_1, "flux": flux.original_1}),
    Family("ovis-image", flux.blocks_ovis, "swiglu", True, {"diffusers": flux.ovis}),
    Family("bria-3.2", flux.blocks_bria, "gelu_tanh", True, {"diffusers": flux.bria}),
    Family("flux.2", flux.blocks_2, "swiglu", True, {"diffusers": flux.diffusers_2, "flux": flux.original_2}),
    Family("qwen-image", qwen.blocks, "gelu_tanh", True, {"diffusers": qwen.diffusers}),
)
SOUND = {"mmaudio": mmaudio.authors}
LAYOUTS = ("mmdit", *dict.fromkeys(layout for family in FAMILIES for layout in family.lines), *SOUND, "lucidrains")
PREFIXES = {"stability": "model.diffusion_model."}  # what is written before every name


def lines_for(layout: str, config: ModelOptions) -> list[str]:
    """A model's lines, in the language that `language.py` explains.

    Raises:
        LayoutError: the layout has no place for the model; it says why.
    """
    if layout == "lucidrains":
        return list(lucidrains(config))
    if layout in SOUND:
        return list(SOUND[layout](config))
    family = _family_of(config)
    if layout not in family.lines:
        held = [each.name for each in FAMILIES if layout in each.lines]
        raise LayoutError(f"it holds the networks of {' and '.join(held)}, this is one of {family.name}")
    return list(family.lines[layout](config))


def family_name(layout: str, config: ModelOptions) -> str:
    """Of which networks a config is, in a layout.

    Raises:
        LayoutError: it is none of the published ones.
    """
    if layout == "lucidrains":
        return layout
    try:
        return _family_of(config).name
    except LayoutError as error:
        for name, lines in SOUND.items():
            with suppress(LayoutError):
                return name if list(lines(config)) else ""
        raise error


def _family_of(config: ModelOptions) -> Family:
    drawn = config.names[1] if config.names in (("text", "image"), ("text", "video")) else None
    image = None if drawn is None else config.modalities[drawn].input
    if not isinstance(image, PatchInput):
        raise LayoutError(
            "the published networks have the modalities text and image (or video), in this order, and an input of "
            "patches for the second"
        )
    family = next((family for family in FAMILIES if family.blocks(config, image)), None)
    if family is None:
        odd = "positions" if config.single_stream is None else "blocks"
        raise LayoutError(f"its {odd} are those of no published network")
    has = {
        f"feedforward.kind: {family.feedforward}": config.feedforward.kind == family.feedforward,
        "discard: [text]": tuple(config.discard) == ("text",),
        "attention.qk_norm_scale: shared": not config.qk_rmsnorm or config.attention.qk_norm_scale == "shared",
        "rotary" if family.rotary else "rotary: null": (config.rotary is not None) == family.rotary,
        "single_stream.modalities: null": config.single_stream is None or config.streamed == config.names,
        "feedforward.kernel: 1": config.feedforward.kernel == 1,
        "attention.out_kernel: 1": config.attention.out_kernel == 1,
    }
    if not all(has.values()):
        lacking = ", ".join(key for key, there in has.items() if not there)
        raise LayoutError(f"networks of the family {family.name} have {lacking}")
    return family
