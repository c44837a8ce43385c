"""Qwen-Image: the names of diffusers 0.42, which are those of the original checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, joint_lines, lines_of
from mmdit.layouts.diffusers_names import ATTENTION, TIME
from mmdit.options import ModelOptions, PatchInput

MODULATION_AND_FEEDFORWARD = """
    .modulations.0.linear = .txt_mod.1
    .modulations.1.linear = .img_mod.1
    .feedforwards.0.proj_in = .txt_mlp.net.0.proj
    .feedforwards.0.proj_out = .txt_mlp.net.2
    .feedforwards.1.proj_in = .img_mlp.net.0.proj
    .feedforwards.1.proj_out = .img_mlp.net.2
"""


def diffusers(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = img_in
        inputs.text.norm = txt_norm
        inputs.text.linear = txt_in
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
        class_embed = time_text_embed.addition_t_embedding
    """)
    yield from below("", "time_text_embed", TIME)
    yield from joint_lines(config, "transformer_blocks", ATTENTION + MODULATION_AND_FEEDFORWARD)


def blocks(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks and positions of Qwen-Image."""
    return config.single_stream is None and config.rotary is not None and image.positions != "sincos"
