"""The published families in diffusers: their classes, made small as the shipped configs are, and called as ours are.

The facts about the published sizes are those of the constructors of diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families.family import Family, pack, theirs, unpack
from benchmarks.families.one_stream import ONE_STREAM

# ----------------------------------------------------------------------------------------------- theirs, called as ours


def grids(image: Tensor, references: Sequence[Tensor]) -> Tensor:
    """The tokens of the image, and those of its references behind them."""
    return torch.cat([pack(x) for x in (image, *references)], 1)


def drawn(tokens: Tensor, image: Tensor) -> Tensor:
    """The image alone, of an output that may hold the references too."""
    return unpack(tokens[:, : image.shape[2] // 2 * (image.shape[3] // 2)], image)


def places(
    images: Sequence[Tensor], length: int, axes: int, *, text_axes: tuple[int, ...] = (), apart: Sequence[float] = ()
) -> tuple[Tensor, Tensor]:
    """The ids of image and text tokens, as the FLUX pipelines of diffusers make them; `apart`: axis 0 of each image."""
    grids = []
    for x, place in zip(images, apart or (0.0,) * len(images), strict=True):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        ids = torch.zeros(h, w, axes)
        ids[..., 0] = place
        ids[..., 1] += torch.arange(h)[:, None]
        ids[..., 2] += torch.arange(w)[None]
        grids.append(ids.flatten(0, 1))
    text = torch.zeros(length, axes)
    for axis in text_axes:
        text[:, axis] = torch.arange(length)
    return torch.cat(grids), text


def call_sd3(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, pooled: Tensor, **_: Any) -> Tensor:
    return net(image, text, pooled, timestep, return_dict=False)[0]


def call_qwen(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, references: Sequence[Tensor] = (), **_: Any
) -> Tensor:
    shapes = [[(1, x.shape[2] // 2, x.shape[3] // 2) for x in (image, *references)]] * len(image)
    return drawn(net(grids(image, references), text, None, timestep, shapes, return_dict=False)[0], image)


def call_layered(
    net: nn.Module, layers: Tensor, text: Tensor, timestep: Tensor, references: Sequence[Tensor], class_labels: Tensor
) -> Tensor:
    """`layers`: b c f h w; the one reference is the picture that they are of."""
    count, every = layers.shape[2], [*layers.unbind(2), *(x.squeeze(2) for x in references)]
    shapes = [[(1, x.shape[2] // 2, x.shape[3] // 2) for x in every]] * len(layers)
    given = dict(additional_t_cond=class_labels, return_dict=False)
    out = net(grids(every[0], every[1:]), text, None, timestep, shapes, **given)[0]
    tokens = out[:, : count * shapes[0][0][1] * shapes[0][0][2]].chunk(count, dim=1)
    return torch.stack([unpack(x, every[0]) for x in tokens], dim=2)


def layered(*, batch: int, steps: int, length: int, seed: int) -> dict[str, Any]:
    """What the layered network is called with: some with more layers than half of the picture's rows and columns of
    patches, so that text begins behind the one or the other."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return dict(
        inputs={"text": draw(batch, length, 40), "image": draw(batch, 4, 1 + steps, 4, 4 * steps**2)},
        timestep=torch.rand(batch, generator=generator),
        references={"image": [draw(batch, 4, 1, 6, 10)]},
        class_labels=torch.arange(batch) % 2,
    )


def call_flux1(
    net: nn.Module,
    image: Tensor,
    text: Tensor,
    timestep: Tensor,
    pooled: Tensor,
    guidance: Tensor | None = None,
    references: Sequence[Tensor] = (),
) -> Tensor:
    image_ids, text_ids = places([image, *references], text.shape[1], 3, apart=range(1 + len(references)))
    out = net(grids(image, references), text, pooled, timestep, image_ids, text_ids, guidance, return_dict=False)
    return drawn(out[0], image)


def call_ovis(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    image_ids, text_ids = places([image], text.shape[1], 3, text_axes=(1, 2))
    return unpack(net(pack(image), text, timestep, image_ids, text_ids, return_dict=False)[0], image)


def call_bria(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    image_ids, text_ids = places([image], text.shape[1], 3)
    return unpack(net(pack(image), text, None, timestep, image_ids, text_ids, return_dict=False)[0], image)


def call_longcat(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    image_ids, text_ids = places([image], text.shape[1], 3, text_axes=(1, 2))
    ids = image_ids + torch.tensor([1.0, 512.0, 512.0])
    return unpack(net(pack(image), text, timestep, ids, text_ids, return_dict=False)[0], image)


def call_longcat_edit(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, references: Sequence[Tensor] = (), **_: Any
) -> Tensor:
    apart = range(1, 2 + len(references))
    image_ids, text_ids = places([image, *references], text.shape[1], 3, text_axes=(1, 2), apart=apart)
    ids = image_ids + torch.tensor([0.0, text.shape[1], text.shape[1]])
    return drawn(net(grids(image, references), text, timestep, ids, text_ids, return_dict=False)[0], image)


def call_flux2(
    net: nn.Module,
    image: Tensor,
    text: Tensor,
    timestep: Tensor,
    guidance: Tensor | None = None,
    references: Sequence[Tensor] = (),
    **_: Any,
) -> Tensor:
    apart = range(0, 10 * (1 + len(references)), 10)
    image_ids, text_ids = places([image, *references], text.shape[1], 4, text_axes=(3,), apart=apart)
    out = net(grids(image, references), text, timestep, image_ids, text_ids, guidance, return_dict=False)
    return drawn(out[0], image)


def call_auraflow(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    return net(image, text, timestep, return_dict=False)[0]


def call_hunyuan_video(
    net: nn.Module,
    video: Tensor,
    text: Tensor,
    timestep: Tensor,
    masks: Mapping[str, Tensor],
    pooled: Tensor,
    guidance: Tensor | None = None,
) -> Tensor:
    return net(video, timestep, text, masks["text"], pooled, guidance, return_dict=False)[0]


def call_hunyuan_text(
    net: nn.Module, drawn: Tensor, text: Tensor, timestep: Tensor, masks: Mapping[str, Tensor], **further: Tensor
) -> Tensor:
    """HunyuanImage-2.1, and HunyuanVideo-1.5, which has tokens of an image besides."""
    theirs = {"image": "image_embeds", "text_2": "encoder_hidden_states_2", "second_timestep": "timestep_r"}
    given = {theirs.get(name, name): x for name, x in further.items()}
    if "text_2" in masks:
        given["encoder_attention_mask_2"] = masks["text_2"]
    return net(drawn, timestep, text, masks["text"], **given, return_dict=False)[0]


def call_joyimage(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, references: Sequence[Tensor] = ()
) -> Tensor:
    """`image`, `references`: b c 1 h w, all of one size."""
    return net(torch.cat([image, *references], 2), timestep, text, return_dict=False)[0][:, :, :1]


def joyimage(*, batch: int, steps: int, length: int, seed: int) -> dict[str, Any]:
    """What JoyImage-Edit is called with: a picture, and others of its size to edit."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    image, *references = (draw(batch, 4, 1, 4 * steps, 6) for _ in range(steps))
    return dict(
        inputs={"text": draw(batch, length, 40), "image": image},
        timestep=torch.rand(batch, generator=generator) * 1000,
        references={"image": references},
    )


def call_prx(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    return net(image, timestep, text, return_dict=False)[0]


def prx_pixels(*, batch: int, steps: int, length: int, seed: int) -> dict[str, Any]:
    """What PRX-7B is called with: conditioned on the height and width of the picture, which diffusers reads off."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    height, width = 8 * steps, 12
    return dict(
        inputs={"text": draw(batch, length, 40), "image": draw(batch, 4, height, width)},
        timestep=torch.rand(batch, generator=generator),
        pooled=torch.tensor([[height, width]]).expand(batch, 2).float(),
    )


# --------------------------------------------------------------------------------------------------------- the families


TEXT, IMAGE, VIDEO = (f"model.modalities.{name}" for name in ("text", "image", "video"))
SD3_SMALL = {
    "model.depth": 3,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{IMAGE}.dim": 64,
    f"{IMAGE}.input.channels": 4,
    f"{IMAGE}.output.channels": 4,
    f"{IMAGE}.input.max_size": 24,
    f"{IMAGE}.input.base_size": 16,
    "model.pooled.dim": 24,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
}
SD3_OPTIONS: dict[str, Any] = dict(
    sample_size=32,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    num_attention_heads=4,
    attention_head_dim=16,
    joint_attention_dim=40,
    caption_projection_dim=64,
    pooled_projection_dim=24,
    pos_embed_max_size=24,
)
SD3_PUBLISHED: dict[str, Any] = dict(
    sample_size=128,
    patch_size=2,
    in_channels=16,
    out_channels=16,
    num_layers=24,
    num_attention_heads=24,
    attention_head_dim=64,
    joint_attention_dim=4096,
    caption_projection_dim=1536,
    pooled_projection_dim=2048,
    pos_embed_max_size=192,
)
# heads of 16 with 4, 6 and 6 features for frame, row and column
ROTARY_SMALL = {
    "model.depth": 2,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{IMAGE}.dim": 64,
    f"{IMAGE}.input.channels": 4,
    f"{IMAGE}.output.channels": 4,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
}
ROTARY_OPTIONS: dict[str, Any] = dict(
    in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=4, joint_attention_dim=40
)

FLUX1_SMALL = ROTARY_SMALL | {
    "model.rotary.axes": "[4, 6, 6]",
    "model.single_stream.depth": 3,
    "model.pooled.dim": 24,
}
UNPOOLED_SMALL = {key: value for key, value in FLUX1_SMALL.items() if key != "model.pooled.dim"}
UNPOOLED_OPTIONS = ROTARY_OPTIONS | dict(axes_dims_rope=(4, 6, 6), num_single_layers=3)
FLUX1_OPTIONS = UNPOOLED_OPTIONS | dict(pooled_projection_dim=24, guidance_embeds=True)
FLUX1_PUBLISHED: dict[str, Any] = dict(
    patch_size=1,
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
)
LONGCAT_PUBLISHED: dict[str, Any] = dict(num_layers=10, num_single_layers=20, joint_attention_dim=3584)
FLUX2_SMALL = ROTARY_SMALL | {"model.rotary.axes": "[4, 4, 4, 4]", "model.single_stream.depth": 3}
FLUX2_OPTIONS = ROTARY_OPTIONS | dict(axes_dims_rope=(4, 4, 4, 4), num_single_layers=3)

HUNYUAN_SMALL = {
    "model.depth": 2,
    "model.single_stream.depth": 3,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{VIDEO}.dim": 64,
    f"{VIDEO}.input.channels": 4,
    f"{VIDEO}.output.channels": 4,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
    "model.rotary.axes": "[4, 6, 6]",
}
HUNYUAN_OPTIONS: dict[str, Any] = dict(
    in_channels=4,
    out_channels=4,
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=2,
    text_embed_dim=40,
)
HUNYUAN_VIDEO_OPTIONS = HUNYUAN_OPTIONS | dict(
    num_single_layers=3, patch_size_t=2, pooled_projection_dim=24, rope_axes_dim=(4, 6, 6)
)

HUNYUAN_IMAGE_SMALL = {key.replace("video", "image"): value for key, value in HUNYUAN_SMALL.items()} | {
    f"{IMAGE}.input.patch": 2,
    f"{TEXT}.inputs.text_2.dim": 20,
    "model.rotary.axes": "[8, 8]",
}
HUNYUAN_IMAGE_OPTIONS = HUNYUAN_OPTIONS | dict(
    num_single_layers=3, patch_size=(2, 2), text_embed_2_dim=20, rope_axes_dim=(8, 8)
)
HUNYUAN_15_SMALL = {key: value for key, value in HUNYUAN_SMALL.items() if "single" not in key} | {
    f"{VIDEO}.input.patch": "[1, 2, 2]",
    f"{TEXT}.inputs.text_2.dim": 20,
    f"{TEXT}.inputs.image.dim": 12,
    f"{TEXT}.inputs.image.hidden": "[12]",
}
HUNYUAN_15_OPTIONS = HUNYUAN_OPTIONS | dict(
    patch_size=2, text_embed_2_dim=20, image_embed_dim=12, rope_axes_dim=(4, 6, 6)
)

HUNYUAN_IMAGE = theirs("HunyuanImageTransformer2DModel")
HUNYUAN_VIDEO_15 = theirs("HunyuanVideo15Transformer3DModel")
HUNYUAN_VIDEO = theirs("HunyuanVideoTransformer3DModel")
SD3 = theirs("SD3Transformer2DModel")
QWEN = theirs("QwenImageTransformer2DModel")
FLUX1 = theirs("FluxTransformer2DModel")
LONGCAT = theirs("LongCatImageTransformer2DModel")
FLUX2 = theirs("Flux2Transformer2DModel")
FAMILIES = (
    Family("sd3-medium", SD3_SMALL, SD3, SD3_OPTIONS, call_sd3, SD3_PUBLISHED, 2_028_328_000),
    Family(
        "sd3.5-medium",
        SD3_SMALL | {"model.attention.dual": "[0, 1]"},
        SD3,
        SD3_OPTIONS | dict(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
        call_sd3,
        SD3_PUBLISHED | dict(pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
        2_243_171_520,
    ),
    Family(
        "sd3.5-large",
        SD3_SMALL,
        SD3,
        SD3_OPTIONS | dict(qk_norm="rms_norm"),
        call_sd3,
        SD3_PUBLISHED | dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm"),
        8_056_627_520,
    ),
    Family(
        "qwen-image",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]"},
        QWEN,
        ROTARY_OPTIONS | dict(out_channels=4, axes_dims_rope=(4, 6, 6)),
        call_qwen,
        {},
        20_430_401_088,
    ),
    Family(
        "qwen-image-edit",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]"},
        QWEN,
        ROTARY_OPTIONS | dict(out_channels=4, axes_dims_rope=(4, 6, 6)),
        call_qwen,
        {},
        20_430_401_088,
    ),
    Family(
        "qwen-image-edit-2511",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]"},
        QWEN,
        ROTARY_OPTIONS | dict(out_channels=4, axes_dims_rope=(4, 6, 6), zero_cond_t=True),
        call_qwen,
        dict(zero_cond_t=True),
        20_430_401_088,
    ),
    Family(
        "qwen-image-layered",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]"},
        QWEN,
        ROTARY_OPTIONS
        | dict(out_channels=4, axes_dims_rope=(4, 6, 6), use_additional_t_cond=True, use_layer3d_rope=True),
        call_layered,
        dict(use_additional_t_cond=True, use_layer3d_rope=True),
        20_430_407_232,
        arguments=layered,
    ),
    Family("flux.1-dev", FLUX1_SMALL, FLUX1, FLUX1_OPTIONS, call_flux1, FLUX1_PUBLISHED, 11_901_408_320),
    Family("flux.1-kontext-dev", FLUX1_SMALL, FLUX1, FLUX1_OPTIONS, call_flux1, FLUX1_PUBLISHED, 11_901_408_320),
    Family(
        "flux.1-schnell",
        FLUX1_SMALL,
        FLUX1,
        FLUX1_OPTIONS | dict(guidance_embeds=False),
        call_flux1,
        FLUX1_PUBLISHED | dict(guidance_embeds=False),
        11_891_178_560,
    ),
    Family(
        "flux.1-fill-dev",
        FLUX1_SMALL | {f"{IMAGE}.input.channels": 24},
        FLUX1,
        FLUX1_OPTIONS | dict(in_channels=96, out_channels=16),
        call_flux1,
        FLUX1_PUBLISHED | dict(in_channels=384, out_channels=64),
        11_902_391_360,
    ),
    Family(
        "flux.1-canny-dev",
        FLUX1_SMALL | {f"{IMAGE}.input.channels": 8},
        FLUX1,
        FLUX1_OPTIONS | dict(in_channels=32, out_channels=16),
        call_flux1,
        FLUX1_PUBLISHED | dict(in_channels=128, out_channels=64),
        11_901_604_928,
    ),
    Family(
        "ovis-image",
        UNPOOLED_SMALL,
        theirs("OvisImageTransformer2DModel"),
        UNPOOLED_OPTIONS | dict(out_channels=16),
        call_ovis,
        {},
        7_370_449_728,
    ),
    Family(
        "bria-3.2",
        UNPOOLED_SMALL | {"model.rotary.axes": "[8, 8]"},
        theirs("BriaTransformer2DModel"),
        UNPOOLED_OPTIONS | dict(axes_dims_rope=(0, 8, 8)),
        call_bria,
        dict(
            in_channels=16,
            num_layers=8,
            num_single_layers=28,
            attention_head_dim=96,
            num_attention_heads=24,
            joint_attention_dim=4096,
            axes_dims_rope=(0, 48, 48),
        ),
        3_785_669_392,
    ),
    Family("longcat-image", UNPOOLED_SMALL, LONGCAT, UNPOOLED_OPTIONS, call_longcat, LONGCAT_PUBLISHED, 6_270_668_864),
    Family(
        "longcat-image-edit",
        UNPOOLED_SMALL,
        LONGCAT,
        UNPOOLED_OPTIONS,
        call_longcat_edit,
        LONGCAT_PUBLISHED,
        6_270_668_864,
    ),
    Family(
        "hunyuan-video",
        HUNYUAN_SMALL | {f"{VIDEO}.input.patch": "[2, 2, 2]", "model.pooled.dim": 24},
        HUNYUAN_VIDEO,
        HUNYUAN_VIDEO_OPTIONS,
        call_hunyuan_video,
        {},
        12_821_012_544,
    ),
    Family(
        "hunyuan-video-i2v",
        HUNYUAN_SMALL | {f"{VIDEO}.input.channels": 9, "model.pooled.dim": 24},
        HUNYUAN_VIDEO,
        HUNYUAN_VIDEO_OPTIONS | dict(in_channels=9, patch_size_t=1, guidance_embeds=False),
        call_hunyuan_video,
        dict(in_channels=33, guidance_embeds=False),
        12_810_991_680,
    ),
    Family(
        "hunyuan-video-i2v-16ch",
        HUNYUAN_SMALL | {f"{VIDEO}.input.patch": "[2, 2, 2]", "model.pooled.dim": 24},
        HUNYUAN_VIDEO,
        HUNYUAN_VIDEO_OPTIONS | dict(image_condition_type="token_replace"),
        call_hunyuan_video,
        dict(image_condition_type="token_replace"),
        12_821_012_544,
    ),
    Family(
        "hunyuan-image-2.1",
        HUNYUAN_IMAGE_SMALL,
        HUNYUAN_IMAGE,
        HUNYUAN_IMAGE_OPTIONS,
        call_hunyuan_text,
        dict(text_embed_2_dim=1472),
        17_425_795_520,
    ),
    Family(
        "hunyuan-image-2.1-distilled",
        HUNYUAN_IMAGE_SMALL,
        HUNYUAN_IMAGE,
        HUNYUAN_IMAGE_OPTIONS | dict(guidance_embeds=True, use_meanflow=True),
        call_hunyuan_text,
        dict(text_embed_2_dim=1472, guidance_embeds=True, use_meanflow=True),
        17_453_334_976,
    ),
    Family(
        "hunyuan-image-2.1-refiner",
        {key: value for key, value in HUNYUAN_IMAGE_SMALL.items() if "text_2" not in key}
        | {f"{IMAGE}.input.channels": 8, f"{IMAGE}.input.patch": "[2, 2, 2]", "model.rotary.axes": "[4, 6, 6]"},
        HUNYUAN_IMAGE,
        HUNYUAN_IMAGE_OPTIONS
        | dict(in_channels=8, patch_size=(2, 2, 2), text_embed_2_dim=None, rope_axes_dim=(4, 6, 6))
        | dict(guidance_embeds=True),
        call_hunyuan_text,
        dict(
            in_channels=128,
            num_attention_heads=26,
            patch_size=(1, 1, 1),
            rope_axes_dim=(16, 56, 56),
            guidance_embeds=True,
        ),
        15_027_012_160,
    ),
    Family(
        "hunyuan-video-1.5",
        HUNYUAN_15_SMALL,
        HUNYUAN_VIDEO_15,
        HUNYUAN_15_OPTIONS,
        call_hunyuan_text,
        {},
        8_326_608_160,
    ),
    Family(
        "hunyuan-video-1.5-distilled",
        HUNYUAN_15_SMALL,
        HUNYUAN_VIDEO_15,
        HUNYUAN_15_OPTIONS | dict(use_meanflow=True),
        call_hunyuan_text,
        dict(use_meanflow=True),
        8_331_330_848,
    ),
    Family(
        "joyimage-edit",
        ROTARY_SMALL | {f"{TEXT}.input.hidden": "[64]", "model.rotary.axes": "[4, 6, 6]"},
        theirs("JoyImageEditTransformer3DModel"),
        dict(in_channels=4, hidden_size=64, num_attention_heads=4, text_dim=40, num_layers=2, rope_dim_list=[4, 6, 6])
        | dict(theta=10000),
        call_joyimage,
        dict(hidden_size=4096, num_attention_heads=32, num_layers=40, theta=10000),
        16_263_675_968,
        arguments=joyimage,
    ),
    Family("flux.2-dev", FLUX2_SMALL, FLUX2, FLUX2_OPTIONS, call_flux2, {}, 32_223_281_152),
    Family(
        "flux.2-klein-4b",
        FLUX2_SMALL,
        FLUX2,
        FLUX2_OPTIONS | dict(guidance_embeds=False),
        call_flux2,
        dict(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ),
        3_875_544_576,
    ),
    Family(
        "flux.2-klein-9b",
        FLUX2_SMALL,
        FLUX2,
        FLUX2_OPTIONS | dict(guidance_embeds=False),
        call_flux2,
        dict(
            num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288, guidance_embeds=False
        ),
        9_078_581_248,
    ),
    Family(
        "auraflow",
        ROTARY_SMALL | {f"{IMAGE}.input.max_size": 11, "model.single_stream.depth": 2, "model.feedforward.dim": 256},
        theirs("AuraFlowTransformer2DModel"),
        dict(
            sample_size=22,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=40,
            caption_projection_dim=64,
            pos_embed_max_size=121,
        ),
        call_auraflow,
        {},
        6_833_439_744,
    ),
    Family(
        "prx",
        ROTARY_SMALL | {"model.rotary.axes": "[8, 8]"},
        theirs("PRXTransformer2DModel"),
        dict(in_channels=4, context_in_dim=40, hidden_size=64, num_heads=4, depth=2, axes_dim=[8, 8]),
        call_prx,
        {},
        1_170_691_648,
    ),
    Family(
        "prx-7b",
        ROTARY_SMALL
        | {
            "model.rotary.axes": "[8, 8]",
            f"{IMAGE}.input.patch": 2,
            f"{IMAGE}.input.bottleneck": 24,
            "model.pooled.frequencies": 128,
        },
        theirs("PRXTransformer2DModel"),
        dict(
            in_channels=4,
            patch_size=2,
            context_in_dim=40,
            hidden_size=64,
            num_heads=4,
            depth=2,
            axes_dim=[8, 8],
            bottleneck_size=24,
            resolution_embeds=True,
        ),
        call_prx,
        dict(
            in_channels=3,
            patch_size=16,
            context_in_dim=2048,
            hidden_size=3584,
            num_heads=28,
            depth=24,
            axes_dim=[64, 64],
            bottleneck_size=768,
            resolution_embeds=True,
        ),
        7_003_535_872,
        arguments=prx_pixels,
    ),
    *ONE_STREAM,
)
BY_NAME = {family.config: family for family in FAMILIES}
