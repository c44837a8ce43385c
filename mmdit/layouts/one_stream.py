"""Lumina-Image-2.0, Z-Image, Ideogram 4 and FLUX.3, whose blocks are all of one stream: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, lines_of, single_lines
from mmdit.layouts.diffusers_names import TIME
from mmdit.options import ModelOptions, PatchInput

LUMINA = """
    .modulations.0.linear = .norm1.linear
    .attn_norms_behind.0 = .norm2
    .ff_norms.0.norm = .ffn_norm1
    .ff_norms_behind.0 = .ffn_norm2
    .joint_attn.to_out.0.linear = .attn.to_out.0
    .joint_attn.q_norms.0 = .attn.norm_q
    .joint_attn.k_norms.0 = .attn.norm_k
    .feedforwards.0.proj_in = .feed_forward.linear_3 + .feed_forward.linear_1
    .feedforwards.0.proj_out = .feed_forward.linear_2
"""
Z_IMAGE = """
    .modulations.0.linear = .adaLN_modulation.0
    .attn_norms.0.norm = .attention_norm1
    .attn_norms_behind.0 = .attention_norm2
    .ff_norms.0.norm = .ffn_norm1
    .ff_norms_behind.0 = .ffn_norm2
    .joint_attn.to_qkv.0.linear = .attention.to_q + .attention.to_k + .attention.to_v
    .joint_attn.to_out.0.linear = .attention.to_out.0
    .joint_attn.q_norms.0 = .attention.norm_q
    .joint_attn.k_norms.0 = .attention.norm_k
    .feedforwards.0.proj_in = .feed_forward.w3 + .feed_forward.w1
    .feedforwards.0.proj_out = .feed_forward.w2
"""

FLUX_3 = """
    .attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .attn.to_out.0.linear = .attn.to_out.0
    .attn.q_norms.0 = .attn.norm_q
    .attn.k_norms.0 = .attn.norm_k
    .feedforward.proj_in = swap(.ff.linear_in)
    .feedforward.proj_out = .ff.linear_out
"""

# the shapes of Z-Image's, but for the names of the modulation and of the features that turn together
IDEOGRAM = (
    Z_IMAGE.replace("adaLN_modulation.0", "adaln_modulation")
    .replace(".attention.to_q + .attention.to_k +", "halves(.attention.to_q) + halves(.attention.to_k) +")
    .replace("= .attention.norm_q", "= halves(.attention.norm_q)")
    .replace("= .attention.norm_k", "= halves(.attention.norm_k)")
)


def lumina(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = channels_last(x_embedder)
        inputs.text.norm = time_caption_embed.caption_embedder.0
        inputs.text.linear = time_caption_embed.caption_embedder.1
        time_embed.linear_in = time_caption_embed.timestep_embedder.linear_1
        time_embed.linear_out = time_caption_embed.timestep_embedder.linear_2
        outputs.image.modulation = norm_out.linear_1
        outputs.image.linear = norm_out.linear_2
    """)
    (heads, dim_head), kv_heads = config.head_sizes, config.attention.kv_heads
    queries = heads * dim_head
    values = queries + (kv_heads or heads) * dim_head
    block = f"""{LUMINA}
        .joint_attn.to_qkv.0.linear[:{queries}] = .attn.to_q
        .joint_attn.to_qkv.0.linear[{queries}:{values}] = .attn.to_k
        .joint_attn.to_qkv.0.linear[{values}:] = .attn.to_v
    """
    modulated = f"{block}    .attn_norms.0.norm = .norm1.norm"
    yield from _refiner(config, "text", "context_refiner", f"{block}    .attn_norms.0.norm = .norm1")
    yield from _refiner(config, "image", "noise_refiner", modulated)
    yield from single_lines(config, "layers", modulated)


def z_image(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = channels_last(all_x_embedder.2-1)
        inputs.text.norm = cap_embedder.0
        inputs.text.linear = cap_embedder.1
        pads.image.token = x_pad_token
        pads.text.token = cap_pad_token
        time_embed.linear_in = t_embedder.mlp.0
        time_embed.linear_out = t_embedder.mlp.2
        outputs.image.modulation = all_final_layer.2-1.adaLN_modulation.1
        outputs.image.linear = all_final_layer.2-1.linear
    """)
    yield from _refiner(config, "text", "context_refiner", Z_IMAGE)
    yield from _refiner(config, "image", "noise_refiner", Z_IMAGE)
    yield from single_lines(config, "layers", Z_IMAGE)


def ideogram(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = channels_last(input_proj)
        inputs.text.norm = llm_cond_norm
        inputs.text.linear = llm_cond_proj
        type_embeds.text.weight + type_embeds.image.weight = embed_image_indicator.weight
        time_embed.linear_in = t_embedding.mlp_in
        time_embed.linear_out = t_embedding.mlp_out
        time_embed.narrowed.0 = adaln_proj
        outputs.image.modulation = final_layer.adaln_modulation
        outputs.image.linear = final_layer.linear
    """)
    yield from single_lines(config, "layers", IDEOGRAM)


def flux_3(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = x_embedders.image
        reference_inputs.image.linear = x_embedders.image_cond
        inputs.text.linear = context_embedder
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
        second_time_embed.linear_in = target_timestep_embedder.linear_1
        second_time_embed.linear_out = target_timestep_embedder.linear_2
        transformer.shared_single_modulations.0.linear = single_stream_modulations.txt.linear
        transformer.shared_single_modulations.1.kinds.0.linear = single_stream_modulations.image.linear
        transformer.shared_single_modulations.1.kinds.1.linear = single_stream_modulations.image_cond.linear
    """)
    yield from below("", "", TIME)
    for ours, mode, blocks in (
        ("refiners.text", "txt", "txt_mode_blocks"),
        ("refiners.image", "image", "mode_blocks.image"),
        ("reference_refiners.image", "image_cond", "mode_blocks.image_cond"),
    ):
        modulation = f"{ours}.transformer.shared_single_modulation"
        yield f"{modulation}.linear = early_stream_modulations.{mode}.linear"
        refiner = config.modalities["text" if mode == "txt" else "image"].refiner
        for n in range(refiner.depth if refiner else 0):
            yield from below(f"{ours}.transformer.single_blocks.{n}", f"{blocks}.{n}", FLUX_3)
    yield from single_lines(config, "single_transformer_blocks", FLUX_3)


def _refiner(config: ModelOptions, name: str, theirs: str, lines: str) -> Iterator[str]:
    refiner = config.modalities[name].refiner
    for n in range(refiner.depth if refiner else 0):
        yield from below(f"refiners.{name}.transformer.blocks.{n}", f"{theirs}.{n}", lines)


def blocks_lumina(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of Lumina-Image-2.0: one stream alone, with norms around the branches."""
    return config.depth == 0 and config.norm.place == "around"


def blocks_flux_3(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of FLUX.3: one stream alone, of parallel blocks."""
    return config.depth == 0 and config.single_stream is not None and config.single_stream.kind == "parallel"


def blocks_ideogram(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of Ideogram 4: Z-Image's, whose axes take turns at one ladder of frequencies."""
    return blocks_lumina(config, image) and config.rotary is not None and config.rotary.ladder == "shared"


def blocks_z_image(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of Z-Image: Lumina-Image's, with pad tokens."""
    return blocks_lumina(config, image) and config.modalities["image"].pad is not None
