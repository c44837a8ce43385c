"""The published networks whose blocks are all of one stream: how diffusers' classes of them are made and called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from benchmarks.families.family import Family, pack, theirs, unpack


def call_lumina(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, masks: Mapping[str, Tensor] | None = None, **_: Any
) -> Tensor:
    mask = (masks or {}).get("text", torch.ones(text.shape[:2], dtype=torch.bool))
    return net(image, timestep, text, mask, return_dict=False)[0]


def call_z_image(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, masks: Mapping[str, Tensor] | None = None, **_: Any
) -> Tensor:
    lengths = masks["text"].sum(1).tolist() if masks else [text.shape[1]] * len(text)
    texts = [x[:length] for x, length in zip(text, lengths, strict=True)]
    return torch.stack(net([x[:, None] for x in image], timestep, texts, return_dict=False)[0]).squeeze(2)


def call_flux_3(
    net: nn.Module,
    image: Tensor,
    text: Tensor,
    timestep: Tensor,
    references: Sequence[Tensor] = (),
    second_timestep: Tensor | None = None,
) -> Tensor:
    def ids(x: Tensor, place: int) -> Tensor:
        rows, columns = torch.arange(x.shape[2] // 2) * 0.5, torch.arange(x.shape[3] // 2) * 0.5
        return torch.cartesian_prod(torch.zeros(1), rows, columns, torch.full((1,), float(place)))

    text_ids = torch.cartesian_prod(*[torch.zeros(1)] * 3, torch.arange(text.shape[1]).float())
    further = {} if second_timestep is None else dict(target_timestep=second_timestep)
    if references:
        further |= dict(
            image_cond_hidden_states=torch.cat([pack(x) for x in references], 1),
            image_cond_ids=torch.cat([ids(x, -1 - i) for i, x in enumerate(references)]),
        )
    out = net(pack(image), text, timestep, ids(image, 0), text_ids, **further, return_dict=False)
    return unpack(out[0], image)


def call_ideogram(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    patches = rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
    length, (rows, columns) = text.shape[1], (torch.arange(side // 2) for side in image.shape[2:])
    total = length + patches.shape[1]
    places = torch.cat(
        [
            torch.arange(length)[:, None].expand(-1, 3),
            torch.cartesian_prod(torch.zeros(1, dtype=torch.long), rows, columns) + 65536,
        ]
    )
    kinds = torch.tensor([3] * length + [2] * patches.shape[1]).expand(len(text), -1)
    out = net(
        F.pad(patches, (0, 0, length, 0)),
        timestep,
        F.pad(text, (0, 0, 0, patches.shape[1])),
        places.expand(len(text), -1, -1),
        torch.ones(len(text), total, dtype=torch.long),
        kinds,
        return_dict=False,
    )[0]
    height = image.shape[2] // 2
    return rearrange(out[:, length:], "b (h w) (p q c) -> b c (h p) (w q)", p=2, q=2, h=height)


def call_cogview(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, pooled: Tensor) -> Tensor:
    before, crop, wanted = pooled.split(2, dim=1)
    return net(image, text, timestep, before, wanted, crop, return_dict=False)[0]


TEXT, IMAGE = "model.modalities.text", "model.modalities.image"
SMALL = {
    "model.single_stream.depth": 3,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{IMAGE}.dim": 64,
    f"{IMAGE}.input.channels": 4,
    f"{IMAGE}.output.channels": 4,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
    "model.rotary.axes": "[4, 6, 6]",
}
FLUX_3 = theirs("Flux3Transformer2DModel")
FLUX_3_SMALL = SMALL | {
    f"{TEXT}.refiner.depth": 2,
    f"{IMAGE}.refiner.depth": 2,
    "model.rotary.axes": "[4, 4, 4, 4]",
}
FLUX_3_OPTIONS: dict[str, Any] = dict(
    in_channels=16,
    cond_in_channels=16,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=40,
    axes_dims_rope=(4, 4, 4, 4),
)
ONE_STREAM = (
    Family(
        "lumina-image-2.0",
        SMALL | {"model.attention.kv_heads": 2},
        theirs("Lumina2Transformer2DModel"),
        dict(
            in_channels=4,
            hidden_size=64,
            num_layers=3,
            num_attention_heads=4,
            num_kv_heads=2,
            axes_dim_rope=(4, 6, 6),
            cap_feat_dim=40,
        ),
        call_lumina,
        dict(cap_feat_dim=2304),
        2_609_769_152,
    ),
    Family(
        "z-image",
        SMALL | {"model.feedforward.dim": 170},
        theirs("ZImageTransformer2DModel"),
        dict(
            in_channels=4,
            dim=64,
            n_layers=3,
            n_heads=4,
            n_kv_heads=4,
            cap_feat_dim=40,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 64, 64],
        ),
        call_z_image,
        {},
        6_154_908_736,
        image_first=True,
    ),
    Family(
        "ideogram-4",
        SMALL
        | {
            f"{IMAGE}.input.channels": 4,
            "model.feedforward.dim": 96,
            "model.dim_cond": 24,
            "model.timestep.frequencies": 64,
            "model.timestep.dim": 64,
            "model.rotary.axes": "[8, 4, 4]",
        },
        theirs("Ideogram4Transformer2DModel"),
        dict(
            in_channels=16,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            intermediate_size=96,
            adaln_dim=24,
            llm_features_dim=40,
            mrope_section=(4, 2, 2),
        ),
        call_ideogram,
        {},
        9_279_288_448,
    ),
    Family(
        "flux.3-klein-base",
        FLUX_3_SMALL,
        FLUX_3,
        FLUX_3_OPTIONS,
        call_flux_3,
        {},
        5_538_458_368,
        masked=False,
    ),
    Family(
        "flux.3-klein",
        FLUX_3_SMALL,
        FLUX_3,
        FLUX_3_OPTIONS | dict(flow_map=True),
        call_flux_3,
        dict(flow_map=True),
        5_548_681_984,
        masked=False,
    ),
    Family(
        "cogview4",
        SMALL
        | {
            "model.dim_cond": 24,
            "model.timestep.frequencies": 64,
            "model.pooled.frequencies": 8,
            "model.rotary.axes": "[8, 8]",
        },
        theirs("CogView4Transformer2DModel"),
        dict(
            in_channels=4,
            out_channels=4,
            num_layers=3,
            num_attention_heads=4,
            attention_head_dim=16,
            text_embed_dim=40,
            time_embed_dim=24,
            condition_dim=8,
        ),
        call_cogview,
        dict(num_layers=28, attention_head_dim=128, num_attention_heads=32),
        6_369_118_272,
    ),
)
