"""SD3 and SD3.5: the names of diffusers 0.42, and the original ones (Stability-AI/sd3.5, `mmditx.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, joint_lines, lines_of
from mmdit.layouts.diffusers_names import ATTENTION, FEEDFORWARD, MODULATION, TIME
from mmdit.options import ModelOptions, PatchInput

DUAL_ATTENTION = """
    .dual_attns.1.to_qkv.0.linear = .attn2.to_q + .attn2.to_k + .attn2.to_v
    .dual_attns.1.to_out.0.linear = .attn2.to_out.0
    .dual_attns.1.q_norms.0 = .attn2.norm_q
    .dual_attns.1.k_norms.0 = .attn2.norm_k
"""
# its last norm is modulated by scale and shift, in this order
LAST = ".modulations.0.linear = swap(.norm1_context.linear)"


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = conv(pos_embed.proj)
        inputs.text.linear = context_embedder
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = proj_out
        sincos() = pos_embed.pos_embed
    """)
    yield from below("", "time_text_embed", TIME)
    block = ATTENTION + MODULATION + DUAL_ATTENTION + FEEDFORWARD
    yield from joint_lines(config, "transformer_blocks", block, LAST)


def stability(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = conv(x_embedder.proj)
        inputs.text.linear = context_embedder
        time_embed.linear_in = t_embedder.mlp.0
        time_embed.linear_out = t_embedder.mlp.2
        pooled_embed.linear_in = y_embedder.mlp.0
        pooled_embed.linear_out = y_embedder.mlp.2
        outputs.image.modulation = final_layer.adaLN_modulation.1
        outputs.image.linear = final_layer.linear
        sincos() = pos_embed
    """)
    sides = "".join(
        f"""
        .modulations.{i}.linear = .{side}.adaLN_modulation.1
        .joint_attn.to_qkv.{i}.linear = .{side}.attn.qkv
        .joint_attn.to_out.{i}.linear = .{side}.attn.proj
        .joint_attn.q_norms.{i} = .{side}.attn.ln_q
        .joint_attn.k_norms.{i} = .{side}.attn.ln_k
        .feedforwards.{i}.proj_in = .{side}.mlp.fc1
        .feedforwards.{i}.proj_out = .{side}.mlp.fc2
        .dual_attns.{i}.to_qkv.0.linear = .{side}.attn2.qkv
        .dual_attns.{i}.to_out.0.linear = .{side}.attn2.proj
        .dual_attns.{i}.q_norms.0 = .{side}.attn2.ln_q
        .dual_attns.{i}.k_norms.0 = .{side}.attn2.ln_k
        """
        for i, side in enumerate(("context_block", "x_block"))
    )
    yield from joint_lines(config, "joint_blocks", sides)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks and positions of SD3."""
    return config.single_stream is None and image.positions == "sincos"
