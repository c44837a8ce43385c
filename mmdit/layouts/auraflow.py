"""AuraFlow: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import joint_lines, lines_of, single_lines
from mmdit.layouts.diffusers_names import ATTENTION, MODULATION
from mmdit.options import ModelOptions, PatchInput

FEEDFORWARD = """
    .feedforwards.0.proj_in = .ff_context.linear_2 + .ff_context.linear_1
    .feedforwards.0.proj_out = .ff_context.out_projection
    .feedforwards.1.proj_in = .ff.linear_2 + .ff.linear_1
    .feedforwards.1.proj_out = .ff.out_projection
"""
SINGLE = """
    .modulations.0.linear = .norm1.linear
    .joint_attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .joint_attn.to_out.0.linear = .attn.to_out.0
    .feedforwards.0.proj_in = .ff.linear_2 + .ff.linear_1
    .feedforwards.0.proj_out = .ff.out_projection
"""


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = pos_embed.proj
        inputs.image.positions.table = batch(pos_embed.pos_embed)
        inputs.text.linear = context_embedder
        time_embed.linear_in = time_step_proj.linear_1
        time_embed.linear_out = time_step_proj.linear_2
        transformer.registers.0.tokens = batch(register_tokens)
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = proj_out
    """)
    joint = ATTENTION + MODULATION + FEEDFORWARD
    yield from joint_lines(config, "joint_transformer_blocks", joint)
    yield from single_lines(config, "single_transformer_blocks", SINGLE)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of AuraFlow."""
    return config.residual.kind == "nested"
