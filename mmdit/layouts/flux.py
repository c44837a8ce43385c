"""FLUX.1, FLUX.2 and what has their blocks: the names of diffusers 0.42, and those of the original checkpoints
(black-forest-labs/flux and flux2, `model.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, joint_lines, lines_of, single_lines
from mmdit.layouts.diffusers_names import ATTENTION, FEEDFORWARD, MODULATION, TIME
from mmdit.options import ModelOptions, PatchInput

ENDS = """
    inputs.image.linear = x_embedder
    inputs.text.linear = context_embedder
    outputs.image.modulation = swap(norm_out.linear)
    outputs.image.linear = patch(proj_out)
"""
SINGLE_1 = """
    .modulation.linear = .norm.linear
    .attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .attn.q_norms.0 = .attn.norm_q
    .attn.k_norms.0 = .attn.norm_k
    .feedforward.proj_in = .proj_mlp
    .attn.to_out.0.linear.weight | .feedforward.proj_out.weight = .proj_out.weight
    .feedforward.proj_out.bias = .proj_out.bias
"""
# FLUX.2's feedforwards have the gate's rows first
FEEDFORWARD_2 = """
    .feedforwards.0.proj_in = swap(.ff_context.linear_in)
    .feedforwards.0.proj_out = .ff_context.linear_out
    .feedforwards.1.proj_in = swap(.ff.linear_in)
    .feedforwards.1.proj_out = .ff.linear_out
"""
SINGLE_2 = """
    .attn.to_qkv.0.linear + swap(.feedforward.proj_in) = .attn.to_qkv_mlp_proj
    .attn.to_out.0.linear | .feedforward.proj_out = .attn.to_out
    .attn.q_norms.0 = .attn.norm_q
    .attn.k_norms.0 = .attn.norm_k
"""


def diffusers_1(config: ModelOptions) -> Iterator[str]:
    return _diffusers_1(config, "time_text_embed")


def ovis(config: ModelOptions) -> Iterator[str]:
    yield "inputs.text.norm = context_embedder_norm"
    yield from _diffusers_1(config, "")


def bria(config: ModelOptions) -> Iterator[str]:
    return _diffusers_1(config, "time_embed")


def _diffusers_1(config: ModelOptions, time: str) -> Iterator[str]:
    """`time`: what holds the embedding of the timestep."""
    yield from lines_of(ENDS)
    yield from below("", time, TIME)
    block = ATTENTION + MODULATION + FEEDFORWARD
    yield from joint_lines(config, "transformer_blocks", block)
    yield from single_lines(config, "single_transformer_blocks", SINGLE_1)


def diffusers_2(config: ModelOptions) -> Iterator[str]:
    yield from lines_of(ENDS)
    yield from _shared_modulation("linear")
    yield from below("", "time_guidance_embed", TIME)
    yield from joint_lines(config, "transformer_blocks", ATTENTION + FEEDFORWARD_2)
    yield from single_lines(config, "single_transformer_blocks", SINGLE_2)


def _shared_modulation(linear: str) -> list[str]:
    return lines_of(f"""
        transformer.shared_modulations.0.linear = double_stream_modulation_txt.{linear}
        transformer.shared_modulations.1.linear = double_stream_modulation_img.{linear}
        transformer.shared_single_modulation.linear = single_stream_modulation.{linear}
    """)


def original_1(config: ModelOptions) -> Iterator[str]:
    return _original(config, "{}")


def original_2(config: ModelOptions) -> Iterator[str]:
    return _original(config, "swap({})")


def _original(config: ModelOptions, mlp: str) -> Iterator[str]:
    """`mlp`: what is done to the first rows of a feedforward."""
    yield from lines_of("""
        inputs.image.linear = img_in
        inputs.text.linear = txt_in
        time_embed.linear_in = time_in.in_layer
        time_embed.linear_out = time_in.out_layer
        guidance_embed.linear_in = guidance_in.in_layer
        guidance_embed.linear_out = guidance_in.out_layer
        pooled_embed.linear_in = vector_in.in_layer
        pooled_embed.linear_out = vector_in.out_layer
        outputs.image.modulation = final_layer.adaLN_modulation.1
        outputs.image.linear = patch(final_layer.linear)
    """)
    yield from _shared_modulation("lin")
    sides = "".join(
        f"""
        .modulations.{i}.linear = .{side}_mod.lin
        .joint_attn.to_qkv.{i}.linear = .{side}_attn.qkv
        .joint_attn.to_out.{i}.linear = .{side}_attn.proj
        .joint_attn.q_norms.{i}.weight = .{side}_attn.norm.query_norm.scale
        .joint_attn.k_norms.{i}.weight = .{side}_attn.norm.key_norm.scale
        .feedforwards.{i}.proj_in = {mlp.format(f".{side}_mlp.0")}
        .feedforwards.{i}.proj_out = .{side}_mlp.2
        """
        for i, side in enumerate(("txt", "img"))
    )
    yield from joint_lines(config, "double_blocks", sides)
    single = f"""
        .modulation.linear = .modulation.lin
        .attn.to_qkv.0.linear + {mlp.format(".feedforward.proj_in")} = .linear1
        .attn.to_out.0.linear.weight | .feedforward.proj_out.weight = .linear2.weight
        .feedforward.proj_out.bias = .linear2.bias
        .attn.q_norms.0.weight = .norm.query_norm.scale
        .attn.k_norms.0.weight = .norm.key_norm.scale
    """
    yield from single_lines(config, "single_blocks", single)


def blocks_1(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of FLUX.1."""
    return _unshared(config) and config.pooled is not None


def blocks_ovis(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of Ovis-Image: FLUX.1's without a pooled text, with SwiGLU."""
    return _unshared(config) and config.pooled is None and config.feedforward.kind == "swiglu"


def blocks_bria(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of Bria 3.2 and LongCat-Image: FLUX.1's without a pooled text."""
    return _unshared(config) and config.pooled is None


def blocks_2(config: ModelOptions, image: PatchInput) -> bool:
    """Whether a config has the blocks of FLUX.2."""
    return _parallel(config) and config.modulation.shared


def _unshared(config: ModelOptions) -> bool:
    return _parallel(config) and not config.modulation.shared


def _parallel(config: ModelOptions) -> bool:
    return config.single_stream is not None and config.single_stream.kind == "parallel"
