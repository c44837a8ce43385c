"""PRX, whose text gives keys and values alone: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import joint_lines, lines_of
from mmdit.options import ModelOptions, PatchInput

BLOCK = """
    .modulations.1.linear = .modulation.lin
    .joint_attn.to_qkv.0.linear = .attention.txt_kv_proj
    .joint_attn.to_qkv.1.linear = .attention.img_qkv_proj
    .joint_attn.to_out.1.linear = .attention.to_out.0
    .joint_attn.k_norms.0 = .attention.norm_added_k
    .joint_attn.q_norms.1 = .attention.norm_q
    .joint_attn.k_norms.1 = .attention.norm_k
    .feedforwards.1.proj_in = .up_proj + .gate_proj
    .feedforwards.1.proj_out = .down_proj
"""


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = img_in
        inputs.image.linear.0 = img_in.0
        inputs.image.linear.1 = img_in.1
        pooled_embed.linear_in = resolution_embedder.mlp.in_layer
        pooled_embed.linear_out = resolution_embedder.mlp.out_layer
        inputs.text.linear = txt_in
        time_embed.linear_in = time_in.in_layer
        time_embed.linear_out = time_in.out_layer
        outputs.image.modulation = final_layer.adaLN_modulation.1
        outputs.image.linear = patch(final_layer.linear)
    """)
    yield from joint_lines(config, "blocks", BLOCK)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of PRX: a text that is static."""
    return config.modalities["text"].static
