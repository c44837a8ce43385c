"""CogView4, whose modalities share all weights but the modulation: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import lines_of, single_lines
from mmdit.options import ModelOptions, PatchInput

# shift of the image and of the text, scale of each, gate of each, for the attention, then for the feedforward
_PARTS = " + ".join(f".modulations.{i}.linear[{part}/6]" for part in range(6) for i in (1, 0))
BLOCK = f"""
    {_PARTS} = .norm1.linear
    .joint_attn.to_qkv.0.linear = halves(.attn1.to_q) + halves(.attn1.to_k) + .attn1.to_v
    .joint_attn.to_out.0.linear = .attn1.to_out.0
    .feedforwards.0.proj_in = .ff.net.0.proj
    .feedforwards.0.proj_out = .ff.net.2
"""


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = patch_embed.proj
        inputs.text.linear = patch_embed.text_proj
        time_embed.linear_in = time_condition_embed.timestep_embedder.linear_1
        time_embed.linear_out = time_condition_embed.timestep_embedder.linear_2
        pooled_embed.linear_in = time_condition_embed.condition_embedder.linear_1
        pooled_embed.linear_out = time_condition_embed.condition_embedder.linear_2
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
    """)
    yield from single_lines(config, "transformer_blocks", BLOCK)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of CogView4: one stream alone, with a modulation for each modality in a block."""
    single = config.single_stream
    own = single is not None and single.modulation == "by_modality" and not config.modulation.shared
    return config.depth == 0 and own and config.attention.qk_layernorm
