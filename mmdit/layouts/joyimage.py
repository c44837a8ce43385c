"""JoyImage-Edit: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, joint_lines, lines_of
from mmdit.options import ModelOptions, PatchInput

BLOCK = """
    .modulations.0.table = batch(.txt_mod.modulate_table)
    .modulations.1.table = batch(.img_mod.modulate_table)
    .joint_attn.to_qkv.0.linear = .attn.txt_attn_qkv
    .joint_attn.to_qkv.1.linear = .attn.img_attn_qkv
    .joint_attn.to_out.0.linear = .attn.txt_attn_proj
    .joint_attn.to_out.1.linear = .attn.img_attn_proj
    .joint_attn.q_norms.0 = .attn.txt_attn_q_norm
    .joint_attn.k_norms.0 = .attn.txt_attn_k_norm
    .joint_attn.q_norms.1 = .attn.img_attn_q_norm
    .joint_attn.k_norms.1 = .attn.img_attn_k_norm
    .feedforwards.0.proj_in = .txt_mlp.net.0.proj
    .feedforwards.0.proj_out = .txt_mlp.net.2
    .feedforwards.1.proj_in = .img_mlp.net.0.proj
    .feedforwards.1.proj_out = .img_mlp.net.2
"""


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = conv(img_in)
        outputs.image.linear = proj_out
    """)
    yield from below(
        "",
        "condition_embedder",
        """
        inputs.text.linears.0 = .text_embedder.linear_1
        inputs.text.linears.1 = .text_embedder.linear_2
        time_embed.linear_in = .time_embedder.linear_1
        time_embed.linear_out = .time_embedder.linear_2
        transformer.whole_modulation.linear = .time_proj
        """,
    )
    yield from joint_lines(config, "double_blocks", BLOCK)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of JoyImage-Edit: joint ones, each with a table for the one modulation."""
    return config.single_stream is None and config.modulation.table
