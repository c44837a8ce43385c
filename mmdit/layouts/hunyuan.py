"""HunyuanVideo, HunyuanImage-2.1 and HunyuanVideo-1.5: the names of diffusers 0.42."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, joint_lines, lines_of, single_lines
from mmdit.layouts.diffusers_names import ATTENTION, FEEDFORWARD, MODULATION, TIME
from mmdit.layouts.flux import SINGLE_1
from mmdit.options import ModelOptions, PatchInput

REFINER = """
    .modulations.0.linear = .norm_out.linear
    .attn_norms.0.norm = .norm1
    .joint_attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .joint_attn.to_out.0.linear = .attn.to_out.0
    .ff_norms.0.norm = .norm2
    .feedforwards.0.proj_in = .ff.net.0.proj
    .feedforwards.0.proj_out = .ff.net.2
"""
SECOND_TIME = """
    second_time_embed.linear_in = .timestep_embedder_r.linear_1
    second_time_embed.linear_out = .timestep_embedder_r.linear_2
"""


def video(config: ModelOptions) -> Iterator[str]:
    return _diffusers(config, "time_text_embed")


def image(config: ModelOptions) -> Iterator[str]:
    return _diffusers(config, "time_guidance_embed")


def video_15(config: ModelOptions) -> Iterator[str]:
    return _diffusers(config, "time_embed")


def _diffusers(config: ModelOptions, time: str) -> Iterator[str]:
    """`time`: what holds the embedding of the timestep."""
    drawn = config.names[-1]
    yield from lines_of(f"""
        inputs.{drawn}.linear = conv(x_embedder.proj)
        inputs.text.linear = context_embedder.proj_in
        inputs.text_2.norm = context_embedder_2.norm
        inputs.text_2.linears.0 = context_embedder_2.linear_1
        inputs.text_2.linears.1 = context_embedder_2.linear_2
        inputs.text_2.linears.2 = context_embedder_2.linear_3
        inputs.image.norm = image_embedder.norm_in
        inputs.image.linears.0 = image_embedder.linear_1
        inputs.image.linears.1 = image_embedder.linear_2
        inputs.image.norm_out = image_embedder.norm_out
        type_embeds.text = cond_type_embed
        refiners.text.time_embed.linear_in = context_embedder.time_text_embed.timestep_embedder.linear_1
        refiners.text.time_embed.linear_out = context_embedder.time_text_embed.timestep_embedder.linear_2
        refiners.text.mean_embed.linear_in = context_embedder.time_text_embed.text_embedder.linear_1
        refiners.text.mean_embed.linear_out = context_embedder.time_text_embed.text_embedder.linear_2
        outputs.{drawn}.modulation = swap(norm_out.linear)
        outputs.{drawn}.linear = patch(proj_out)
    """)
    yield from below("", time, TIME + SECOND_TIME)
    refiner = config.modalities["text"].refiner
    for n in range(refiner.depth if refiner else 0):
        theirs = f"context_embedder.token_refiner.refiner_blocks.{n}"
        yield from below(f"refiners.text.transformer.blocks.{n}", theirs, REFINER)
    yield from joint_lines(config, "transformer_blocks", ATTENTION + MODULATION + FEEDFORWARD)
    yield from single_lines(config, "single_transformer_blocks", SINGLE_1)


def blocks_video(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of HunyuanVideo: a text that is refined, and a pooled one."""
    return config.modalities["text"].refiner is not None and config.pooled is not None


def blocks_image(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of HunyuanImage-2.1: HunyuanVideo's without a pooled text."""
    return config.modalities["text"].refiner is not None and config.single_stream is not None


def blocks_video_15(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of HunyuanVideo-1.5: HunyuanImage-2.1's without a single stream."""
    return config.modalities["text"].refiner is not None
