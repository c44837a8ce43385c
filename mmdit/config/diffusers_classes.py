"""The classes of diffusers that are networks of ours, and what their arguments are (constructors of diffusers 0.42)."""

from __future__ import annotations

import math
from typing import Any

from mmdit.config.diffusers_arguments import (
    Argument,
    Arguments,
    DiffusersClass,
    choice,
    fixed,
    key,
    out_channels,
    part,
    same,
    switch,
    unread,
    value_of,
)
from mmdit.config.diffusers_one_stream import ONE_STREAM
from mmdit.config.diffusers_sizes import (
    IMAGE,
    PICTURE,
    TEXT,
    VIDEO,
    heads_of,
    hidden,
    joint_width,
    streams,
    up_to,
    wide,
    width_of,
)
from mmdit.options import ModelOptions


def _video(arguments: Arguments) -> dict[str, Any]:
    size, width = arguments["patch_size"], joint_width(arguments)
    patch = [arguments["patch_size_t"], size, size]
    return streams(width, VIDEO) | {"dim_cond": width, f"{VIDEO}.input.patch": patch}


def _along(axis: int, default: int) -> Argument:
    """What `_video` reads."""
    return unread(default, lambda config: value_of(config, f"{VIDEO}.input.patch")[axis])


def _patch_2d_or_3d(default: Any) -> Argument:
    """Along each axis; ours of a picture is one number."""
    at = f"{IMAGE}.input.patch"
    return Argument(
        default,
        lambda value, _: {at: value[0] if len(value) == 2 else list(value)},
        lambda config: [patch] * 2 if isinstance(patch := value_of(config, at), int) else patch,
    )


def _second_text(value: int | None, _: Arguments) -> dict[str, Any]:
    return {f"{TEXT}.inputs": None} if value is None else {f"{TEXT}.inputs.text_2.dim": value}


def _bria_axes(value: Any, _: Arguments) -> dict[str, Any]:
    if value[0]:
        return {"rotary.axes": list(value), f"{IMAGE}.rotary.axes": [1, 2]}
    return {"rotary.axes": list(value[1:]), f"{IMAGE}.rotary.axes": [0, 1]}


def _bria_axes_of(config: ModelOptions) -> list[int]:
    axes: list[int] = value_of(config, "rotary.axes")
    return axes if len(axes) == 3 else [0, *axes]


LIKE_FLUX = {
    "patch_size": fixed(1),
    "in_channels": key(64, f"{IMAGE}.input.channels", times=4),
    "num_layers": key(19, "depth"),
    "num_single_layers": key(38, "single_stream.depth"),
    **heads_of(24, 128),
    "joint_attention_dim": key(4096, f"{TEXT}.input.dim"),
    "axes_dims_rope": key((16, 56, 56), "rotary.axes"),
}
AS_MANY_DRAWN = {**LIKE_FLUX, "in_channels": key(64, f"{IMAGE}.input.channels", f"{IMAGE}.output.channels", times=4)}
HUNYUAN = {
    **heads_of(24, 128),
    "num_layers": key(20, "depth"),
    "num_refiner_layers": key(2, f"{TEXT}.refiner.depth"),
    "mlp_ratio": key(4.0, "feedforward.mult", f"{TEXT}.refiner.feedforward.mult"),
    "qk_norm": fixed("rms_norm"),
    "text_embed_dim": key(3584, f"{TEXT}.input.dim"),
    "rope_theta": key(256.0, "rotary.theta"),
    "rope_axes_dim": key((16, 56, 56), "rotary.axes"),
}
SINGLE = {"num_single_layers": key(40, "single_stream.depth")}
CLASSES: dict[str, DiffusersClass] = {
    "SD3Transformer2DModel": DiffusersClass(
        {"sd3-medium": {}},
        PICTURE
        | {
            "sample_size": key(128, f"{IMAGE}.input.base_size", times=2),
            "num_layers": key(18, "depth"),
            **heads_of(18, 64),
            "joint_attention_dim": key(4096, f"{TEXT}.input.dim"),
            "caption_projection_dim": same(1152, joint_width, width_of),
            "pooled_projection_dim": key(2048, "pooled.dim"),
            "out_channels": key(16, f"{IMAGE}.output.channels"),
            "pos_embed_max_size": key(96, f"{IMAGE}.input.max_size"),
            "dual_attention_layers": key((), "attention.dual"),
            "qk_norm": choice(None, "qk_rmsnorm", {None: False, "rms_norm": True}),
        },
        wide,
    ),
    "FluxTransformer2DModel": DiffusersClass(
        {"flux.1-dev": {}, "flux.1-kontext-dev": {}},
        LIKE_FLUX
        | {
            "out_channels": out_channels(f"{IMAGE}.output.channels", times=4),
            "pooled_projection_dim": key(768, "pooled.dim"),
            "guidance_embeds": part(False, "guidance", frequencies=256, scale=1000),
        },
        wide,
    ),
    "OvisImageTransformer2DModel": DiffusersClass(
        {"ovis-image": {}},
        LIKE_FLUX
        | {
            "out_channels": key(64, f"{IMAGE}.output.channels", times=4),
            "num_layers": key(6, "depth"),
            "num_single_layers": key(27, "single_stream.depth"),
            "joint_attention_dim": key(2048, f"{TEXT}.input.dim"),
        },
        wide,
    ),
    "BriaTransformer2DModel": DiffusersClass(
        {"bria-3.2": {}},
        AS_MANY_DRAWN
        | {
            "pooled_projection_dim": unread(None),
            "guidance_embeds": fixed(False),
            "axes_dims_rope": Argument((16, 56, 56), _bria_axes, _bria_axes_of),
            "rope_theta": key(10000, "rotary.theta"),
            "time_theta": fixed(10000),
        },
        wide,
    ),
    "LongCatImageTransformer2DModel": DiffusersClass(
        {"longcat-image": {}, "longcat-image-edit": {}},
        AS_MANY_DRAWN | {"joint_attention_dim": key(3584, f"{TEXT}.input.dim"), "pooled_projection_dim": unread(3584)},
        wide,
    ),
    "Flux2Transformer2DModel": DiffusersClass(
        {"flux.2-dev": {}},
        LIKE_FLUX
        | {
            "in_channels": key(128, f"{IMAGE}.input.channels", times=4),
            "out_channels": out_channels(f"{IMAGE}.output.channels", times=4),
            "num_layers": key(8, "depth"),
            "num_single_layers": key(48, "single_stream.depth"),
            **heads_of(48, 128),
            "joint_attention_dim": key(15360, f"{TEXT}.input.dim"),
            "timestep_guidance_channels": fixed(256),
            "mlp_ratio": key(3.0, "feedforward.mult"),
            "axes_dims_rope": key((32, 32, 32, 32), "rotary.axes"),
            "rope_theta": key(2000, "rotary.theta"),
            "eps": key(1e-6, "norm_eps"),
            "guidance_embeds": part(True, "guidance", frequencies=256, scale=1000, bias=False),
        },
        wide,
    ),
    "QwenImageTransformer2DModel": DiffusersClass(
        {
            "qwen-image": {},
            "qwen-image-edit": {},
            "qwen-image-edit-2511": {"zero_cond_t": True},
            "qwen-image-layered": {"use_additional_t_cond": True, "use_layer3d_rope": True},
        },
        {
            "patch_size": fixed(2),
            "in_channels": key(64, f"{IMAGE}.input.channels", times=4),
            "out_channels": key(16, f"{IMAGE}.output.channels"),
            "num_layers": key(60, "depth"),
            **heads_of(24, 128),
            "joint_attention_dim": key(3584, f"{TEXT}.input.dim"),
            "guidance_embeds": fixed(False),
            "axes_dims_rope": key((16, 56, 56), "rotary.axes"),
            "zero_cond_t": switch(False),
            "use_additional_t_cond": switch(False),
            "use_layer3d_rope": switch(False),
        },
        wide,
    ),
    "AuraFlowTransformer2DModel": DiffusersClass(
        {"auraflow": {}},
        PICTURE
        | {
            "sample_size": unread(64),
            "in_channels": key(4, f"{IMAGE}.input.channels"),
            "num_mmdit_layers": key(4, "depth"),
            "num_single_dit_layers": key(32, "single_stream.depth"),
            **heads_of(12, 256),
            "joint_attention_dim": key(2048, f"{TEXT}.input.dim"),
            "caption_projection_dim": same(3072, joint_width, width_of),
            "out_channels": key(4, f"{IMAGE}.output.channels"),
            "pos_embed_max_size": Argument(
                1024,
                lambda value, _: {f"{IMAGE}.input.max_size": math.isqrt(value)},
                lambda config: value_of(config, f"{IMAGE}.input.max_size") ** 2,
            ),
        },
        lambda a: wide(a) | {"feedforward.dim": up_to(256, int(2 * (4 * joint_width(a)) / 3))},
    ),
    "HunyuanVideoTransformer3DModel": DiffusersClass(
        {
            "hunyuan-video": {},
            "hunyuan-video-i2v": {"image_condition_type": "latent_concat"},
            "hunyuan-video-i2v-16ch": {"image_condition_type": "token_replace"},
        },
        HUNYUAN
        | SINGLE
        | {
            "in_channels": key(16, f"{VIDEO}.input.channels"),
            "out_channels": key(16, f"{VIDEO}.output.channels"),
            "patch_size": _along(1, 2),
            "patch_size_t": _along(0, 1),
            "guidance_embeds": part(True, "guidance", frequencies=256),
            "text_embed_dim": key(4096, f"{TEXT}.input.dim"),
            "pooled_projection_dim": key(768, "pooled.dim"),
            "image_condition_type": switch(None),
        },
        _video,
    ),
    "HunyuanVideo15Transformer3DModel": DiffusersClass(
        {"hunyuan-video-1.5": {"use_meanflow": False}, "hunyuan-video-1.5-distilled": {"use_meanflow": True}},
        HUNYUAN
        | {
            "in_channels": key(65, f"{VIDEO}.input.channels"),
            "out_channels": key(32, f"{VIDEO}.output.channels"),
            **heads_of(16, 128),
            "num_layers": key(54, "depth"),
            "patch_size": _along(1, 1),
            "patch_size_t": _along(0, 1),
            "text_embed_2_dim": key(1472, f"{TEXT}.inputs.text_2.dim"),
            "image_embed_dim": Argument(
                1152,
                lambda value, _: {f"{TEXT}.inputs.image.dim": value, f"{TEXT}.inputs.image.hidden": [value]},
                lambda config: value_of(config, f"{TEXT}.inputs.image.dim"),
            ),
            "target_size": unread(640),
            "task_type": unread("i2v"),
            "use_meanflow": switch(False),
        },
        _video,
    ),
    "HunyuanImageTransformer2DModel": DiffusersClass(
        {
            "hunyuan-image-2.1": {"use_meanflow": False},
            "hunyuan-image-2.1-distilled": {"use_meanflow": True},
            "hunyuan-image-2.1-refiner": {"use_meanflow": False},
        },
        HUNYUAN
        | SINGLE
        | {
            "in_channels": key(64, f"{IMAGE}.input.channels"),
            "out_channels": key(64, f"{IMAGE}.output.channels"),
            **heads_of(28, 128),
            "patch_size": _patch_2d_or_3d((1, 1)),
            "guidance_embeds": part(False, "guidance", frequencies=256),
            "text_embed_2_dim": Argument(
                None, _second_text, lambda config: value_of(config, f"{TEXT}.inputs.text_2.dim")
            ),
            "rope_axes_dim": key((64, 64), "rotary.axes"),
            "use_meanflow": switch(False),
        },
        lambda a: wide(a) | {f"{IMAGE}.rotary.axes": list(range(len(a["rope_axes_dim"])))},
    ),
    "JoyImageEditTransformer3DModel": DiffusersClass(
        {"joyimage-edit": {}},
        {
            "patch_size": key((1, 2, 2), f"{IMAGE}.input.patch"),
            "in_channels": key(16, f"{IMAGE}.input.channels"),
            "out_channels": out_channels(f"{IMAGE}.output.channels"),
            "hidden_size": hidden(3072, "num_attention_heads"),
            "num_attention_heads": key(24, "heads"),
            "text_dim": key(4096, f"{TEXT}.input.dim"),
            "mlp_width_ratio": key(4.0, "feedforward.mult"),
            "num_layers": key(20, "depth"),
            "rope_dim_list": key((16, 56, 56), "rotary.axes"),
            "rope_type": fixed("rope"),
            "theta": key(256, "rotary.theta"),
        },
        lambda a: {"dim_cond": a["hidden_size"], f"{TEXT}.input.hidden": [a["hidden_size"]]},
    ),
    "PRXTransformer2DModel": DiffusersClass(
        {"prx": {"resolution_embeds": False}, "prx-7b": {"resolution_embeds": True}},
        {
            "in_channels": key(16, f"{IMAGE}.input.channels", f"{IMAGE}.output.channels"),
            "patch_size": key(2, f"{IMAGE}.input.patch"),
            "context_in_dim": key(2304, f"{TEXT}.input.dim"),
            "hidden_size": hidden(1792, "num_heads"),
            "mlp_ratio": key(3.5, "feedforward.mult"),
            "num_heads": key(28, "heads"),
            "depth": key(16, "depth"),
            "axes_dim": Argument(
                None,
                lambda value, _: {"rotary.axes": list(value or (32, 32))},
                lambda config: value_of(config, "rotary.axes"),
            ),
            "theta": key(10000, "rotary.theta"),
            "time_factor": key(1000.0, "timestep.scale"),
            "time_max_period": fixed(10000),
            "bottleneck_size": key(None, f"{IMAGE}.input.bottleneck"),
            "resolution_embeds": switch(False),
        },
        lambda a: {"dim_cond": a["hidden_size"]},
    ),
    **ONE_STREAM,
}
# of other sizes of pictures in one call, which are ours in any case
CLASSES["JoyImageEditPlusTransformer3DModel"] = CLASSES["JoyImageEditTransformer3DModel"]
