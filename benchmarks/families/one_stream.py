"""The published networks whose blocks are all of one stream: how diffusers' classes of them are made and called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
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
) -> Tensor:
    def ids(x: Tensor, place: int) -> Tensor:
        rows, columns = torch.arange(x.shape[2] // 2) * 0.5, torch.arange(x.shape[3] // 2) * 0.5
        return torch.cartesian_prod(torch.zeros(1), rows, columns, torch.full((1,), float(place)))

    text_ids = torch.cartesian_prod(*[torch.zeros(1)] * 3, torch.arange(text.shape[1]).float())
    apart = {}
    if references:
        apart = dict(
            image_cond_hidden_states=torch.cat([pack(x) for x in references], 1),
            image_cond_ids=torch.cat([ids(x, -1 - i) for i, x in enumerate(references)]),
        )
    out = net(pack(image), text, timestep, ids(image, 0), text_ids, **apart, return_dict=False)
    return unpack(out[0], image)


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
        "flux.3-klein-base",
        SMALL
        | {
            f"{TEXT}.refiner.depth": 2,
            f"{IMAGE}.refiner.depth": 2,
            "model.rotary.axes": "[4, 4, 4, 4]",
        },
        theirs("Flux3Transformer2DModel"),
        dict(
            in_channels=16,
            cond_in_channels=16,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=40,
            axes_dims_rope=(4, 4, 4, 4),
        ),
        call_flux_3,
        {},
        5_538_458_368,
        masked=False,
    ),
)
