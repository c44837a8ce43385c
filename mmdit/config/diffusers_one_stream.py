"""The classes of diffusers whose blocks are all of one stream, as `diffusers_classes.py` has the others."""

from __future__ import annotations

from typing import Any

from mmdit.config.diffusers_arguments import (
    Argument,
    Arguments,
    DiffusersClass,
    fixed,
    key,
    same,
    switch,
    unread,
    value_of,
)
from mmdit.config.diffusers_sizes import IMAGE, PICTURE, TEXT, heads_of, hidden, joint_width, streams, up_to, wide


def _sections(value: Any, arguments: Arguments) -> dict[str, Any]:
    """The axes of Ideogram's heads: the first has what two of them leave."""
    _, rows, columns = value
    return {"rotary.axes": [arguments["attention_head_dim"] - 2 * (rows + columns), 2 * rows, 2 * columns]}


ONE_STREAM: dict[str, DiffusersClass] = {
    "Flux3Transformer2DModel": DiffusersClass(
        {"flux.3-klein-base": {"flow_map": False}, "flux.3-klein": {"flow_map": True}},
        {
            "in_channels": key(128, f"{IMAGE}.input.channels", f"{IMAGE}.output.channels", times=4),
            "cond_in_channels": same(
                128, lambda a: a["in_channels"], lambda config: 4 * value_of(config, f"{IMAGE}.input.channels")
            ),
            "num_layers": key(5, f"{TEXT}.refiner.depth", f"{IMAGE}.refiner.depth"),
            "num_single_layers": key(28, "single_stream.depth"),
            **heads_of(24, 128),
            "joint_attention_dim": key(20480, f"{TEXT}.input.dim"),
            "timestep_channels": fixed(256),
            "mlp_ratio": key(3.0, "feedforward.mult"),
            "axes_dims_rope": key((32, 32, 32, 32), "rotary.axes"),
            "rope_theta": key(10000, "rotary.theta"),
            "eps": key(1e-6, "norm_eps"),
            "flow_map": switch(False),
        },
        wide,
    ),
    "CogView4Transformer2DModel": DiffusersClass(
        {"cogview4": {}},
        PICTURE
        | {
            "out_channels": key(16, f"{IMAGE}.output.channels"),
            "num_layers": key(30, "single_stream.depth"),
            **heads_of(64, 40),
            "text_embed_dim": key(4096, f"{TEXT}.input.dim"),
            "time_embed_dim": key(512, "dim_cond"),
            "condition_dim": key(256, "pooled.frequencies"),
            "pos_embed_max_size": unread(128),
            "sample_size": unread(128),
            "rope_axes_dim": Argument(
                (256, 256),
                lambda value, _: {f"{IMAGE}.rotary.span": value[0]},
                lambda config: [value_of(config, f"{IMAGE}.rotary.span")] * 2,
            ),
        },
        lambda a: (
            streams(joint_width(a))
            | {"timestep.frequencies": joint_width(a), "rotary.axes": [a["attention_head_dim"] // 2] * 2}
        ),
    ),
    "Lumina2Transformer2DModel": DiffusersClass(
        {"lumina-image-2.0": {}},
        PICTURE
        | {
            "sample_size": unread(128),
            "hidden_size": hidden(2304, "num_attention_heads"),
            "num_layers": key(26, "single_stream.depth"),
            "num_refiner_layers": key(2, f"{TEXT}.refiner.depth", f"{IMAGE}.refiner.depth"),
            "num_attention_heads": key(24, "heads"),
            "num_kv_heads": key(8, "attention.kv_heads"),
            "multiple_of": unread(256, lambda config: 1),
            "ffn_dim_multiplier": fixed(None),
            "norm_eps": key(1e-5, "norm_eps"),
            "scaling_factor": fixed(1.0),
            "axes_dim_rope": key((32, 32, 32), "rotary.axes"),
            "axes_lens": unread((300, 512, 512)),
            "cap_feat_dim": key(1024, f"{TEXT}.input.dim"),
        },
        lambda a: {
            "dim_cond": min(a["hidden_size"], 1024),
            "feedforward.mult": up_to(a["multiple_of"], 4 * a["hidden_size"]) / a["hidden_size"],
        },
    ),
    "ZImageTransformer2DModel": DiffusersClass(
        {"z-image": {}},
        {
            "all_patch_size": fixed([2]),
            "all_f_patch_size": fixed([1]),
            "in_channels": key(16, f"{IMAGE}.input.channels", f"{IMAGE}.output.channels"),
            "dim": hidden(3840, "n_heads"),
            "n_layers": key(30, "single_stream.depth"),
            "n_refiner_layers": key(2, f"{TEXT}.refiner.depth", f"{IMAGE}.refiner.depth"),
            "n_heads": key(30, "heads"),
            "n_kv_heads": same(30, lambda a: a["n_heads"], lambda config: config.head_sizes[0]),
            "norm_eps": key(1e-5, "norm_eps"),
            "qk_norm": fixed(True),
            "cap_feat_dim": key(2560, f"{TEXT}.input.dim"),
            "siglip_feat_dim": fixed(None),
            "rope_theta": key(256.0, "rotary.theta"),
            "t_scale": key(1000.0, "timestep.scale"),
            "axes_dims": key((32, 48, 48), "rotary.axes"),
            "axes_lens": unread((1024, 512, 512)),
        },
        lambda a: {"dim_cond": min(a["dim"], 256), "feedforward.dim": int(a["dim"] / 3 * 8)},
    ),
    "Ideogram4Transformer2DModel": DiffusersClass(
        {"ideogram-4": {}},
        {
            "in_channels": key(128, f"{IMAGE}.input.channels", f"{IMAGE}.output.channels", times=4),
            "num_layers": key(34, "single_stream.depth"),
            **heads_of(18, 256),
            "intermediate_size": key(12288, "feedforward.dim"),
            "adaln_dim": key(512, "dim_cond"),
            "llm_features_dim": key(53248, f"{TEXT}.input.dim"),
            "rope_theta": key(5_000_000, "rotary.theta"),
            "mrope_section": Argument(
                (24, 20, 20), _sections, lambda config: [size // 2 for size in value_of(config, "rotary.axes")]
            ),
            "norm_eps": key(1e-5, "norm_eps"),
        },
        lambda a: streams(joint_width(a)) | {"timestep.frequencies": joint_width(a), "timestep.dim": joint_width(a)},
    ),
}
